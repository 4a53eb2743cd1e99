//! What Hubble says, read where it lies in the message. Only the fields that somebody asks for are decoded.
//!
//! Text is bytes here: what a peer sends need not be UTF-8, nor printable, nor short. Enumerators are numbers, so that
//! those of newer servers survive.

use crate::wire::{Fields, Malformed, Repeated, Value};

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

/// Says whether a message carries a flow, without reading it. What is malformed counts as one.
pub fn is_flow(message: &[u8]) -> bool {
    !matches!(Fields(message).map_while(Result::ok).find(|(number, _)| *number <= 3), Some((2 | 3, _)))
}

impl<'a> Response<'a> {
    /// Reads a message.
    ///
    /// # Errors
    /// Fails when the bytes are no protobuf message.
    pub fn read(message: &'a [u8]) -> Result<Self, Malformed> {
        let mut response = Self::default();
        for field in Fields(message) {
            match field? {
                (1, Value::Bytes(bytes)) => response.content = Content::Flow(Flow::read(bytes)?),
                (2, Value::Bytes(bytes)) => response.content = Content::NodeStatus(NodeStatus::read(bytes)?),
                (3, Value::Bytes(bytes)) => response.content = Content::Lost(Lost::read(bytes)?),
                (1000, value) => response.node_name = value.bytes(),
                (1001, value) => response.time = timestamp(value.bytes())?,
                _ => {}
            }
        }
        Ok(response)
    }
}

impl<'a> Flow<'a> {
    fn read(message: &'a [u8]) -> Result<Self, Malformed> {
        let names = |number| Repeated { message, number };
        let mut flow = Self { count: 1, destination_names: names(14), source_names: names(13), ..Self::default() };
        let mut old_reason = 0;
        for field in Fields(message) {
            let (number, value) = field?;
            match number {
                1 => flow.time = timestamp(value.bytes())?,
                2 => flow.verdict = value.number() as i32,
                3 => old_reason = value.number() as u32,
                5 => (flow.source_ip, flow.destination_ip) = pair(value.bytes())?,
                6 => flow.l4 = L4::read(value.bytes())?,
                8 => flow.source = value.bytes(),
                9 => flow.destination = value.bytes(),
                10 => flow.kind = value.number() as i32,
                11 => flow.node_name = value.bytes(),
                15 => flow.l7 = Some(L7::read(value.bytes())?),
                19 => flow.event = first_number(value.bytes())? as i32,
                20 => flow.source_service = Service::read(value.bytes())?,
                21 => flow.destination_service = Service::read(value.bytes())?,
                22 => flow.direction = value.number() as i32,
                23 => flow.policy_match = value.number() as u32,
                24 => flow.point = value.number() as i32,
                25 => flow.drop_reason = value.number() as u32,
                26 => flow.is_reply = Some(first_number(value.bytes())? != 0),
                36 => flow.trace_reason = value.number() as i32,
                21007 => flow.count = aggregated(value.bytes())?,
                _ => {}
            }
        }
        if flow.drop_reason == 0 {
            flow.drop_reason = old_reason;
        }
        Ok(flow)
    }
}

/// Gives for how many flows one stands that Hubble has put together: the sum of its counts by direction.
fn aggregated(message: &[u8]) -> Result<u64, Malformed> {
    let mut count: u64 = 0;
    for field in Fields(message) {
        if let (1..=3, Value::Varint(number)) = field? {
            // More than any window could hold is no count.
            count = count.saturating_add(number.min(u32::MAX.into()));
        }
    }
    Ok(count.max(1))
}

/// Gives the text of the fields 1 and 2.
fn pair(message: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
    let (mut first, mut second): (&[u8], &[u8]) = (&[], &[]);
    for field in Fields(message) {
        match field? {
            (1, value) => first = value.bytes(),
            (2, value) => second = value.bytes(),
            _ => {}
        }
    }
    Ok((first, second))
}

fn first_number(message: &[u8]) -> Result<u64, Malformed> {
    let mut number = 0;
    for field in Fields(message) {
        if let (1, value) = field? {
            number = value.number();
        }
    }
    Ok(number)
}

/// Gives Unix nanoseconds, where the timestamp is one between 1970 and 2554.
fn timestamp(message: &[u8]) -> Result<Option<u64>, Malformed> {
    let (mut seconds, mut nanos) = (0, 0);
    for field in Fields(message) {
        match field? {
            (1, value) => seconds = value.number() as i64,
            (2, value) => nanos = value.number() as i64,
            _ => {}
        }
    }
    let legal = seconds > 0 && (0..1_000_000_000).contains(&nanos);
    let whole = u64::try_from(seconds).ok().and_then(|seconds| seconds.checked_mul(1_000_000_000));
    Ok(whole.and_then(|whole| whole.checked_add(nanos as u64)).filter(|_| legal))
}

impl<'a> Endpoint<'a> {
    /// Reads an end of a flow. Those of one pod are the same bytes again and again.
    ///
    /// # Errors
    /// Fails when the bytes are no protobuf message.
    pub fn read(message: &'a [u8]) -> Result<Self, Malformed> {
        let mut endpoint = Self { labels: Repeated { message, number: 4 }, ..Self::default() };
        for field in Fields(message) {
            match field? {
                (1, value) => endpoint.id = value.number() as u32,
                (2, value) => endpoint.identity = value.number() as u32,
                (3, value) => endpoint.namespace = value.bytes(),
                (5, value) => endpoint.pod = value.bytes(),
                (6, value) if endpoint.workload.is_empty() => endpoint.workload = pair(value.bytes())?.0,
                _ => {}
            }
        }
        Ok(endpoint)
    }
}

impl<'a> Service<'a> {
    fn read(message: &'a [u8]) -> Result<Self, Malformed> {
        let (name, namespace) = pair(message)?;
        Ok(Self { name, namespace })
    }
}

impl L4 {
    fn read(message: &[u8]) -> Result<Self, Malformed> {
        let mut l4 = Self::default();
        for field in Fields(message) {
            let (number, value) = field?;
            l4.protocol = match number {
                1 => Protocol::Tcp,
                2 => Protocol::Udp,
                3 => Protocol::Icmp4,
                4 => Protocol::Icmp6,
                5 => Protocol::Sctp,
                6 => Protocol::Vrrp,
                7 => Protocol::Igmp,
                _ => continue,
            };
            if matches!(l4.protocol, Protocol::Tcp | Protocol::Udp | Protocol::Sctp) {
                l4.ports(value.bytes())?;
            }
        }
        Ok(l4)
    }

    fn ports(&mut self, message: &[u8]) -> Result<(), Malformed> {
        for field in Fields(message) {
            match field? {
                (1, value) => self.source = value.number() as u16,
                (2, value) => self.destination = value.number() as u16,
                (3, value) if self.protocol == Protocol::Tcp => {
                    for flag in Fields(value.bytes()) {
                        if let (number @ 1..=9, Value::Varint(1)) = flag? {
                            self.flags |= 1 << (number - 1);
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }
}

impl<'a> L7<'a> {
    fn read(message: &'a [u8]) -> Result<Self, Malformed> {
        let mut l7 = Self::default();
        for field in Fields(message) {
            let (number, value) = field?;
            match number {
                1 => l7.kind = value.number() as i32,
                2 => l7.latency = value.number(),
                100 => l7.record = dns(value.bytes())?,
                101 => l7.record = http(value.bytes())?,
                102 => l7.record = kafka(value.bytes())?,
                _ => {}
            }
        }
        Ok(l7)
    }
}

fn dns(message: &[u8]) -> Result<Record<'_>, Malformed> {
    let (mut rcode, mut query): (u32, &[u8]) = (0, &[]);
    for field in Fields(message) {
        match field? {
            (1, value) => query = value.bytes(),
            (6, value) => rcode = value.number() as u32,
            _ => {}
        }
    }
    Ok(Record::Dns { rcode, types: Repeated { message, number: 7 }, query })
}

fn http(message: &[u8]) -> Result<Record<'_>, Malformed> {
    let mut http = Http { headers: Repeated { message, number: 5 }, ..Http::default() };
    for field in Fields(message) {
        match field? {
            (1, value) => http.code = value.number() as u32,
            (2, value) => http.method = value.bytes(),
            (3, value) => http.url = value.bytes(),
            (4, value) => http.protocol = value.bytes(),
            _ => {}
        }
    }
    Ok(Record::Http(http))
}

fn kafka(message: &[u8]) -> Result<Record<'_>, Malformed> {
    let (mut key, mut topic, mut error): (&[u8], &[u8], i32) = (&[], &[], 0);
    for field in Fields(message) {
        match field? {
            (1, value) => error = value.number() as i32,
            (3, value) => key = value.bytes(),
            (5, value) => topic = value.bytes(),
            _ => {}
        }
    }
    Ok(Record::Kafka { key, topic, error })
}

impl Lost {
    fn read(message: &[u8]) -> Result<Self, Malformed> {
        let mut lost = Self::default();
        for field in Fields(message) {
            match field? {
                (1, value) => lost.source = value.number() as i32,
                (2, value) => lost.events = value.number(),
                _ => {}
            }
        }
        Ok(lost)
    }
}

impl<'a> NodeStatus<'a> {
    fn read(message: &'a [u8]) -> Result<Self, Malformed> {
        let mut status = Self { nodes: Repeated { message, number: 2 }, ..Self::default() };
        for field in Fields(message) {
            match field? {
                (1, value) => status.state = value.number() as i32,
                (3, value) => status.message = value.bytes(),
                _ => {}
            }
        }
        Ok(status)
    }
}
