//! Rare things that happened, one by one: in kernel terms first, then with the workload's names, as sinks get them.

use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::attributes::Attributes;
use crate::subject::Subject;

/// Something that happened, in kernel terms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// When, in Unix nanoseconds.
    pub time: u64,
    /// Whose it is.
    pub subject: Subject,
    /// The process in the first pid namespace; 0 where it is nobody's.
    pub pid: u32,
    /// The process's command, filled up with NUL.
    pub command: [u8; 16],
    /// What happened.
    pub detail: Detail,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Detail {
    /// A process began to run a program.
    Exec {
        /// The process's parent.
        parent: u32,
        /// The program's path as it was asked for, where the kernel may tell.
        path: Option<Box<str>>,
    },
    /// A process ended.
    Exit(Ending),
    /// A process ended that the kernel had killed for want of memory.
    OomKill,
    /// A connection was established, could not be, or ended.
    Connection {
        /// How.
        change: Change,
        /// What carried it: `tcp` or `udp`.
        transport: &'static str,
        /// Our end.
        local: Address,
        /// The other end.
        peer: Address,
    },
    /// A DNS query was answered.
    DnsResponse(Box<DnsResponse>),
    /// Hubble reported a flow that did not come through.
    Flow(Box<RefusedFlow>),
    /// A collector does less, or more again, to keep within its budget.
    Throttle(Box<Throttle>),
}

/// Where a collector went on its ladder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Throttle {
    /// The collector.
    pub collector: &'static str,
    /// The step on which it is now: `full` is the uppermost.
    pub step: &'static str,
    /// What it took and what it may take.
    pub reason: Box<str>,
}

/// A flow that did not come through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedFlow {
    /// What became of it.
    pub refusal: Refusal,
    /// Why: the reason of the drop, what the policy said, or the status.
    pub reason: Box<str>,
    /// Where it came from, where that was told.
    pub source: Option<Address>,
    /// Where it was to go.
    pub destination: Option<Address>,
    /// The name of the end that is not the workload's.
    pub peer: Box<str>,
    /// `ingress` or `egress`, as the policy sees it.
    pub direction: &'static str,
    /// The transport protocol; empty where it is none of the usual ones.
    pub transport: &'static str,
    /// The node that reported it.
    pub node: Box<str>,
}

/// What became of a flow that did not come through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The data path dropped it.
    Dropped,
    /// A policy denied it, or would have.
    Denied,
    /// The server answered with an error.
    Failed,
}

/// What a DNS client asked and got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsResponse {
    /// The name asked for, where the answer repeats it and can be read.
    pub name: Option<Box<str>>,
    /// The question's type.
    pub question: &'static str,
    /// The code in the answer's header.
    pub code: &'static str,
    /// Nanoseconds from the query to the answer.
    pub latency: u64,
    /// The server's address.
    pub server: IpAddr,
    /// What carried both: `udp` or `tcp`.
    pub transport: &'static str,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// By itself, with this exit code.
    Code(u8),
    /// By this signal.
    Signal(u8),
}

/// How a connection changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The process connected to a peer.
    Opened,
    /// A peer connected to the process.
    Accepted,
    /// The process could not connect, for this reason.
    Failed(&'static str),
    /// It ended, after it had carried this.
    Closed(Carried),
}

/// What a connection has carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Carried {
    /// Whether the peer had connected to us.
    pub accepted: bool,
    /// Bytes that we sent, from the IP header on.
    pub sent: u64,
    /// Bytes that we received.
    pub received: u64,
    /// Nanoseconds from its first packet to its end, as far as that was seen.
    pub duration: u64,
}

/// One end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// The address.
    pub ip: IpAddr,
    /// The port; 0 where there is none any more.
    pub port: u16,
}

/// The kinds of events: what has a name, a severity and a rate limit of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EventKind {
    /// `process.exec`.
    Exec,
    /// `process.exit`.
    Exit,
    /// `oom_kill`.
    OomKill,
    /// `connection`.
    Connection,
    /// `dns.response`.
    DnsResponse,
    /// `hubble.drop`.
    FlowDrop,
    /// `hubble.policy`.
    FlowPolicy,
    /// `hubble.l7_error`.
    FlowError,
    /// `collector.step`.
    Throttle,
}

impl EventKind {
    /// All kinds.
    pub const ALL: [Self; 9] = [
        Self::Exec,
        Self::Exit,
        Self::OomKill,
        Self::Connection,
        Self::DnsResponse,
        Self::FlowDrop,
        Self::FlowPolicy,
        Self::FlowError,
        Self::Throttle,
    ];

    /// Gives the name that sinks write.
    pub fn name(self) -> &'static str {
        match self {
            Self::Exec => "process.exec",
            Self::Exit => "process.exit",
            Self::OomKill => "oom_kill",
            Self::Connection => "connection",
            Self::DnsResponse => "dns.response",
            Self::FlowDrop => "hubble.drop",
            Self::FlowPolicy => "hubble.policy",
            Self::FlowError => "hubble.l7_error",
            Self::Throttle => "collector.step",
        }
    }
}

/// How much an event matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Severity {
    /// What happens all the time.
    Info,
    /// What may be a symptom.
    Warn,
    /// What somebody lost work by.
    Error,
}

impl Severity {
    /// Gives the name that sinks write.
    pub fn name(self) -> &'static str {
        match self {
            Self::Info => "INFO",
            Self::Warn => "WARN",
            Self::Error => "ERROR",
        }
    }
}

impl Event {
    /// Gives the event's kind.
    pub fn kind(&self) -> EventKind {
        match self.detail {
            Detail::Exec { .. } => EventKind::Exec,
            Detail::Exit(_) => EventKind::Exit,
            Detail::OomKill => EventKind::OomKill,
            Detail::Connection { .. } => EventKind::Connection,
            Detail::DnsResponse(_) => EventKind::DnsResponse,
            Detail::Throttle(_) => EventKind::Throttle,
            Detail::Flow(ref flow) => match flow.refusal {
                Refusal::Dropped => EventKind::FlowDrop,
                Refusal::Denied => EventKind::FlowPolicy,
                Refusal::Failed => EventKind::FlowError,
            },
        }
    }

    /// Says how much the event matters.
    pub fn severity(&self) -> Severity {
        match &self.detail {
            Detail::Exit(Ending::Signal(_))
            | Detail::Connection { change: Change::Failed(_), .. }
            | Detail::Flow(_) => Severity::Warn,
            Detail::OomKill => Severity::Error,
            Detail::Throttle(throttle) if throttle.step != "full" => Severity::Warn,
            // A name that does not exist is an answer, too.
            Detail::DnsResponse(response) if !matches!(response.code, "NOERROR" | "NXDOMAIN") => Severity::Warn,
            Detail::Exec { .. }
            | Detail::Exit(Ending::Code(_))
            | Detail::Connection { .. }
            | Detail::Throttle(_)
            | Detail::DnsResponse(_) => Severity::Info,
        }
    }

    /// Gives the command as text; bytes that are none become `�`.
    pub fn command(&self) -> std::borrow::Cow<'_, str> {
        let end = self.command.iter().position(|&byte| byte == 0).unwrap_or(self.command.len());
        String::from_utf8_lossy(&self.command[..end])
    }
}

impl Change {
    /// Gives the name that sinks write.
    pub fn name(self) -> &'static str {
        match self {
            Self::Opened => "opened",
            Self::Accepted => "accepted",
            Self::Failed(_) => "failed",
            Self::Closed(_) => "closed",
        }
    }
}

/// An event with its workload's names, as all sinks share it.
#[derive(Clone, Debug)]
pub struct Record {
    /// Unlike that of any other event of this run.
    pub id: u64,
    /// The collector that it is from.
    pub collector: &'static str,
    /// What happened.
    pub event: Event,
    /// The workload's attributes.
    pub workload: Arc<Attributes>,
}

/// Events that are still to come.
pub type Coming<'a> = Pin<Box<dyn Future<Output = Vec<Arc<Record>>> + Send + 'a>>;

/// Where a sink gets its events from.
pub trait Feed: Send + Sync + fmt::Debug {
    /// Waits for an event, then until there are `most` of them or `linger` has passed, and gives them, the oldest first.
    /// It gives none when there are none left and none will come.
    fn take(&self, most: usize, linger: Duration) -> Coming<'_>;

    /// Gives how many events found no room, since the start.
    fn overflowed(&self) -> u64;

    /// Gives how many events were dropped because the agent's memory limit was close, since the start.
    fn cut(&self) -> u64;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_ends_at_its_nul() {
        let mut event = Event { time: 0, subject: Subject::Node, pid: 1, command: [b'x'; 16], detail: Detail::OomKill };
        assert_eq!(event.command(), "x".repeat(16));
        event.command[4] = 0;
        assert_eq!(event.command(), "xxxx");
        event.command[0] = 0xff;
        assert_eq!(event.command(), "\u{fffd}xxx");
    }
}
