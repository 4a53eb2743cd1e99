//! From the kernel's records to events.

use std::collections::VecDeque;

use bpf::abi::event::EventHead;
use bpf::abi::process::{
    ConnectionEvent, ERROR_UNSENT, EVENT_ACCEPTED, EVENT_EXEC, EVENT_EXIT, EVENT_FAILED, EVENT_OOM_KILL, EVENT_OPENED,
    ExecEvent, ExitEvent,
};
use model::Subject;
use model::event::{Address, Change, Detail, Ending, Event};
use zerocopy::FromBytes;

use crate::reader::{Decode, Left, ip};

/// So many endings are remembered: a second report of one comes at once or not at all.
const ENDINGS: usize = 64;

/// `include/uapi/asm-generic/errno.h`, which x86 and arm64 share.
const ENETDOWN: u16 = 100;
const ENETUNREACH: u16 = 101;
const ECONNABORTED: u16 = 103;
const ETIMEDOUT: u16 = 110;
const ECONNREFUSED: u16 = 111;
const EHOSTDOWN: u16 = 112;
const EHOSTUNREACH: u16 = 113;

/// Turns records into events.
#[derive(Debug)]
pub struct Decoder {
    /// Kind, process and start time of what ended last.
    endings: VecDeque<(u32, u32, u64)>,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { endings: VecDeque::with_capacity(ENDINGS) }
    }
}

impl Decode for Decoder {
    fn decode(&mut self, record: &[u8], offset: i64) -> Result<Event, Left> {
        let head: EventHead = read(record)?;
        let detail = match head.kind {
            EVENT_EXEC => {
                let (exec, rest) = ExecEvent::read_from_prefix(record).map_err(|_| Left::Broken)?;
                let path = rest.get(..exec.length as usize).ok_or(Left::Broken)?;
                let path = (!path.is_empty()).then(|| String::from_utf8_lossy(path).into());
                Detail::Exec { parent: exec.parent, path }
            }
            EVENT_EXIT | EVENT_OOM_KILL => {
                let exit: ExitEvent = read(record)?;
                if self.is_repeated((head.kind, head.pid, exit.started)) {
                    return Err(Left::Repeated);
                }
                if head.kind == EVENT_OOM_KILL { Detail::OomKill } else { Detail::Exit(ending(exit.status)) }
            }
            EVENT_OPENED | EVENT_ACCEPTED | EVENT_FAILED => {
                connection(head.kind, &read(record)?).ok_or(Left::Broken)?
            }
            _ => return Err(Left::Broken),
        };
        let subject = if head.cgroup == 0 { Subject::Kernel } else { Subject::Cgroup(head.cgroup) };
        let time = head.time.saturating_add_signed(offset);
        Ok(Event { time, subject, pid: head.pid, command: head.comm, detail })
    }
}

impl Decoder {
    /// Says whether two threads that ended at once both reported the end of their process.
    fn is_repeated(&mut self, ending: (u32, u32, u64)) -> bool {
        if self.endings.contains(&ending) {
            return true;
        }
        if self.endings.len() == ENDINGS {
            self.endings.pop_front();
        }
        self.endings.push_back(ending);
        false
    }
}

fn read<T: FromBytes>(record: &[u8]) -> Result<T, Left> {
    T::read_from_prefix(record).map(|(value, _)| value).map_err(|_| Left::Broken)
}

fn ending(status: u32) -> Ending {
    match status & 0x7f {
        0 => Ending::Code((status >> 8) as u8),
        signal => Ending::Signal(signal as u8),
    }
}

/// Names the errno that a socket failed with, as `ebpf_tcp_connect_errors` does.
fn reason(errno: u16) -> &'static str {
    match errno {
        0 | ECONNABORTED => "aborted",
        ERROR_UNSENT => "unsent",
        ENETDOWN | ENETUNREACH | EHOSTDOWN | EHOSTUNREACH => "unreachable",
        ETIMEDOUT => "timeout",
        ECONNREFUSED => "refused",
        _ => "_OTHER",
    }
}

fn connection(kind: u32, event: &ConnectionEvent) -> Option<Detail> {
    let change = match kind {
        EVENT_OPENED => Change::Opened,
        EVENT_ACCEPTED => Change::Accepted,
        _ => Change::Failed(reason(event.error)),
    };
    let local = Address { ip: ip(event.family, event.local)?, port: event.local_port };
    let peer = Address { ip: ip(event.family, event.peer)?, port: event.peer_port };
    Some(Detail::Connection { change, transport: "tcp", local, peer })
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use bpf::abi::event::{FAMILY_INET, FAMILY_INET6};
    use zerocopy::IntoBytes;

    use super::*;

    fn head(kind: u32) -> EventHead {
        EventHead { time: 5, cgroup: 9, comm: *b"worker\0\0\0\0\0\0\0\0\0\0", pid: 42, kind }
    }

    fn detail(decoder: &mut Decoder, record: &[u8]) -> Result<Detail, Left> {
        decoder.decode(record, 0).map(|event| event.detail)
    }

    #[test]
    fn an_exec_has_its_path() {
        let mut decoder = Decoder::default();
        let exec = ExecEvent { head: head(EVENT_EXEC), parent: 7, length: 4 };
        let record = [exec.as_bytes(), b"/bin\0pad"].concat();
        let event = decoder.decode(&record, 100).expect("an event");
        assert_eq!((event.time, event.pid, event.subject), (105, 42, Subject::Cgroup(9)));
        assert_eq!(event.command(), "worker");
        assert_eq!(event.detail, Detail::Exec { parent: 7, path: Some("/bin".into()) });
        let bare = ExecEvent { length: 0, ..exec };
        assert_eq!(detail(&mut decoder, bare.as_bytes()), Ok(Detail::Exec { parent: 7, path: None }));
        assert_eq!(decoder.decode(&record[..record.len() - 9], 0), Err(Left::Broken), "shorter than its path");
    }

    #[test]
    fn an_ending_counts_once() {
        let mut decoder = Decoder::default();
        let exit = |status, started| ExitEvent { head: head(EVENT_EXIT), started, status, padding: 0 };
        let mut seen = |status, started| detail(&mut decoder, exit(status, started).as_bytes());
        assert_eq!(seen(3 << 8, 1), Ok(Detail::Exit(Ending::Code(3))));
        assert_eq!(seen(3 << 8, 1), Err(Left::Repeated), "the same process");
        assert_eq!(seen(0x8b, 2), Ok(Detail::Exit(Ending::Signal(11))), "with a core dump");
        let killed = ExitEvent { head: head(EVENT_OOM_KILL), ..exit(9, 2) };
        assert_eq!(detail(&mut decoder, killed.as_bytes()), Ok(Detail::OomKill));
    }

    #[test]
    fn a_connection_has_two_ends() {
        let mut decoder = Decoder::default();
        let (mut local, mut peer) = ([0; 16], [0; 16]);
        local[..4].copy_from_slice(&[10, 0, 0, 1]);
        peer[..4].copy_from_slice(&[10, 0, 0, 2]);
        let event = ConnectionEvent {
            head: EventHead { cgroup: 0, ..head(EVENT_FAILED) },
            local,
            peer,
            local_port: 0,
            peer_port: 80,
            family: FAMILY_INET,
            error: 111,
        };
        let address = |ip: &str, port| Address { ip: ip.parse().expect("an address"), port };
        let expected = Detail::Connection {
            change: Change::Failed("refused"),
            transport: "tcp",
            local: address("10.0.0.1", 0),
            peer: address("10.0.0.2", 80),
        };
        let found = decoder.decode(event.as_bytes(), 0).expect("an event");
        assert_eq!((found.subject, found.detail), (Subject::Kernel, expected));

        let mapped = "::ffff:10.0.0.2".parse::<Ipv6Addr>().expect("an address").octets();
        let event = ConnectionEvent { head: head(EVENT_ACCEPTED), family: FAMILY_INET6, peer: mapped, ..event };
        let Ok(Detail::Connection { peer, local, .. }) = detail(&mut decoder, event.as_bytes()) else {
            panic!("no connection")
        };
        assert_eq!((peer, local.ip.is_ipv6()), (address("10.0.0.2", 80), true));
        assert_eq!(decoder.decode(ConnectionEvent { family: 1, ..event }.as_bytes(), 0), Err(Left::Broken));
        assert_eq!(decoder.decode(head(99).as_bytes(), 0), Err(Left::Broken));
        assert_eq!(decoder.decode(&[1, 2, 3], 0), Err(Left::Broken));
    }
}
