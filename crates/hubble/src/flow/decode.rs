//! Reads the messages field by field.

use super::{Content, Endpoint, Flow, Http, L4, L7, Lost, NodeStatus, Protocol, Record, Response, Service};
use crate::wire::{Fields, Malformed, Repeated, Value};

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
            match l4.protocol {
                Protocol::Tcp | Protocol::Udp | Protocol::Sctp => l4.ports(value.bytes())?,
                Protocol::Icmp4 | Protocol::Icmp6 => l4.message(value.bytes())?,
                Protocol::Unknown | Protocol::Vrrp | Protocol::Igmp => {}
            }
        }
        Ok(l4)
    }

    fn message(&mut self, message: &[u8]) -> Result<(), Malformed> {
        for field in Fields(message) {
            match field? {
                (1, value) => self.message.0 = value.number() as u8,
                (2, value) => self.message.1 = value.number() as u8,
                _ => {}
            }
        }
        Ok(())
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
    let texts = |number| Repeated { message, number };
    Ok(Record::Dns { rcode, types: texts(7), query, ips: texts(2), answers: texts(8) })
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
