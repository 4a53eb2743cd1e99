//! What Hubble says, read where it lies in the message. Only the fields that somebody asks for are decoded.
//!
//! Text is bytes here: what a peer sends need not be UTF-8, nor printable, nor short. Enumerators are numbers, so that
//! those of newer servers survive.

mod decode;

pub use decode::is_flow;

use crate::wire::{Fields, Repeated};

/// One message of the stream.
#[derive(Clone, Copy, Debug, Default)]
pub struct Response<'a> {
    /// What it is about.
    pub content: Content<'a>,
    /// The node that it was observed on.
    pub node_name: &'a [u8],
    /// When, in Unix nanoseconds; nothing where no clock could say so.
    pub time: Option<u64>,
}

/// What a message is about.
#[derive(Clone, Copy, Debug, Default)]
#[expect(clippy::large_enum_variant, reason = "nearly all are flows, and a box would be an allocation for each")]
pub enum Content<'a> {
    /// Nothing that we know.
    #[default]
    Unknown,
    /// A flow.
    Flow(Flow<'a>),
    /// Nodes whose state has changed, as the relay sees them.
    NodeStatus(NodeStatus<'a>),
    /// Events that were lost before anybody could see them.
    Lost(Lost),
}

/// One event of the data path or of a proxy.
#[derive(Clone, Copy, Debug, Default)]
pub struct Flow<'a> {
    /// When, in Unix nanoseconds; nothing where no clock could say so.
    pub time: Option<u64>,
    /// What became of it.
    pub verdict: i32,
    /// Why it was dropped.
    pub drop_reason: u32,
    /// The addresses, as text.
    pub source_ip: &'a [u8],
    /// The addresses, as text.
    pub destination_ip: &'a [u8],
    /// Protocol and ports.
    pub l4: L4,
    /// Who sent it: see [`Endpoint::read`].
    pub source: &'a [u8],
    /// Whom it was sent to.
    pub destination: &'a [u8],
    /// Which layer it is of.
    pub kind: i32,
    /// The node that it was captured on.
    pub node_name: &'a [u8],
    /// The names that the destination's address is known by.
    pub destination_names: Repeated<'a>,
    /// The names that the source's address is known by.
    pub source_names: Repeated<'a>,
    /// What a proxy saw.
    pub l7: Option<L7<'a>>,
    /// The kind of event it originates from.
    pub event: i32,
    /// The service that the sender's address belongs to.
    pub source_service: Service<'a>,
    /// The service that the receiver's address belongs to.
    pub destination_service: Service<'a>,
    /// The direction of the connection as the policy sees it.
    pub direction: i32,
    /// How a policy matched.
    pub policy_match: u32,
    /// Where on its way the packet was seen.
    pub point: i32,
    /// Whether it goes in the direction of the answers, where that is known.
    pub is_reply: Option<bool>,
    /// How the packet relates to its connection.
    pub trace_reason: i32,
    /// For how many flows it stands.
    pub count: u64,
}

/// One end of a flow.
#[derive(Clone, Copy, Debug, Default)]
pub struct Endpoint<'a> {
    /// The local endpoint's number; 0 for remote ones.
    pub id: u32,
    /// The security identity.
    pub identity: u32,
    /// The namespace; empty outside of Kubernetes.
    pub namespace: &'a [u8],
    /// The labels of the identity.
    pub labels: Repeated<'a>,
    /// The pod.
    pub pod: &'a [u8],
    /// The first workload.
    pub workload: &'a [u8],
}

/// Protocol and ports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct L4 {
    /// The protocol.
    pub protocol: Protocol,
    /// The sender's port.
    pub source: u16,
    /// The receiver's port.
    pub destination: u16,
    /// The flags of TCP: bit n is the field n + 1 of `TCPFlags`.
    pub flags: u16,
    /// Type and code of a message of ICMP.
    pub message: (u8, u8),
}

impl L4 {
    /// A flag of TCP.
    pub const FIN: u16 = 1;
    /// A flag of TCP.
    pub const SYN: u16 = 1 << 1;
    /// A flag of TCP.
    pub const RST: u16 = 1 << 2;
    /// A flag of TCP.
    pub const ACK: u16 = 1 << 4;
}

/// A protocol of the transport layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// None that was told.
    #[default]
    Unknown,
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP of IPv4.
    Icmp4,
    /// ICMP of IPv6.
    Icmp6,
    /// SCTP.
    Sctp,
    /// VRRP.
    Vrrp,
    /// IGMP.
    Igmp,
}

/// A service.
#[derive(Clone, Copy, Debug, Default)]
pub struct Service<'a> {
    /// Its name.
    pub name: &'a [u8],
    /// Its namespace.
    pub namespace: &'a [u8],
}

/// What a proxy saw.
#[derive(Clone, Copy, Debug, Default)]
pub struct L7<'a> {
    /// 1 request, 2 response, 3 sample.
    pub kind: i32,
    /// How long the answer took; 0 where that is not known.
    pub latency: u64,
    /// What it was about.
    pub record: Record<'a>,
}

/// A request or response of an application protocol.
#[derive(Clone, Copy, Debug, Default)]
pub enum Record<'a> {
    /// None that we know.
    #[default]
    Unknown,
    /// DNS.
    Dns {
        /// The response code.
        rcode: u32,
        /// The types asked for, as text.
        types: Repeated<'a>,
        /// The name asked for.
        query: &'a [u8],
        /// The addresses answered, as text.
        ips: Repeated<'a>,
        /// The types of what was answered, as text.
        answers: Repeated<'a>,
    },
    /// HTTP.
    Http(Http<'a>),
    /// Kafka.
    Kafka {
        /// The operation, as text.
        key: &'a [u8],
        /// The topic.
        topic: &'a [u8],
        /// The error's number.
        error: i32,
    },
}

/// A request or response of HTTP.
#[derive(Clone, Copy, Debug, Default)]
pub struct Http<'a> {
    /// The status.
    pub code: u32,
    /// The method.
    pub method: &'a [u8],
    /// The URL.
    pub url: &'a [u8],
    /// The version, such as `HTTP/1.1`.
    pub protocol: &'a [u8],
    headers: Repeated<'a>,
}

impl<'a> Http<'a> {
    /// Gives the value of a header, if it was logged.
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        self.headers.iter().find_map(|header| {
            let (mut key, mut value): (&[u8], &[u8]) = (&[], &[]);
            for (number, field) in Fields(header).map_while(Result::ok) {
                match number {
                    1 => key = field.bytes(),
                    2 => value = field.bytes(),
                    _ => {}
                }
            }
            key.eq_ignore_ascii_case(name.as_bytes()).then_some(value)
        })
    }
}

/// Events that were lost before anybody could see them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// Where.
    pub source: i32,
    /// How many.
    pub events: u64,
}

/// Nodes whose state has changed.
#[derive(Clone, Copy, Debug, Default)]
pub struct NodeStatus<'a> {
    /// 1 connected, 2 unavailable, 3 gone, 4 error.
    pub state: i32,
    /// The nodes.
    pub nodes: Repeated<'a>,
    /// What the relay says about it.
    pub message: &'a [u8],
}
