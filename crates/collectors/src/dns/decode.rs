//! From the kernel's records of answers to events.

use bpf::abi::dns::{EVENT_RESPONSE, ResponseEvent, TYPE_OTHER};
use model::event::{Detail, DnsResponse, Event};
use zerocopy::FromBytes;

use super::{names, wire};
use crate::reader::{Decode, Left, ip};
use crate::table::subject;

const TCP: u16 = 6;

/// Turns records into events.
#[derive(Debug)]
pub(super) struct Decoder;

impl Decode for Decoder {
    fn decode(&mut self, record: &[u8], offset: i64) -> Result<Event, Left> {
        let (event, rest) = ResponseEvent::read_from_prefix(record).map_err(|_| Left::Broken)?;
        let question = rest.get(..event.length.into()).ok_or(Left::Broken)?;
        if event.head.kind != EVENT_RESPONSE {
            return Err(Left::Broken);
        }
        let name = wire::name(question);
        let kind = name.as_ref().and_then(|(_, rest)| rest.first_chunk()).map(|&bytes| u16::from_be_bytes(bytes));
        let detail = Detail::DnsResponse(Box::new(DnsResponse {
            name: name.map(|(name, _)| name.into()),
            question: names::question(kind.map_or(TYPE_OTHER, u32::from)),
            code: names::response(event.code.into()),
            latency: event.latency,
            server: ip(event.family, event.server).ok_or(Left::Broken)?,
            transport: if event.protocol == TCP { "tcp" } else { "udp" },
        }));
        let head = event.head;
        let subject = subject(head.cgroup);
        let time = head.time.saturating_add_signed(offset);
        Ok(Event { time, subject, pid: head.pid, command: head.comm, detail })
    }
}

#[cfg(test)]
mod tests {
    use bpf::abi::event::{EventHead, FAMILY_INET};
    use zerocopy::IntoBytes;

    use model::Subject;

    use super::*;

    #[test]
    fn an_answer_has_the_name_that_it_can_be_read_of() {
        let head = EventHead { time: 7, cgroup: 9, pid: 3, kind: EVENT_RESPONSE, ..EventHead::default() };
        let mut server = [0; 16];
        server[..4].copy_from_slice(&[192, 0, 2, 1]);
        let decode = |question: &[u8]| {
            let length = question.len() as u16;
            let event = ResponseEvent { head, latency: 5, server, family: FAMILY_INET, code: 3, protocol: 17, length };
            let event = Decoder.decode(&[event.as_bytes(), question].concat(), 100).expect("an event");
            assert_eq!((event.time, event.subject, event.pid), (107, Subject::Cgroup(9), 3));
            let Detail::DnsResponse(response) = event.detail else { panic!("{:?}", event.detail) };
            assert_eq!((response.code, response.latency, response.transport), ("NXDOMAIN", 5, "udp"));
            assert_eq!(response.server.to_string(), "192.0.2.1");
            (response.name.map(String::from), response.question)
        };
        let named = |name: &str, kind| (Some(name.to_owned()), kind);
        assert_eq!(decode(b"\x03www\x04test\0\0\x1c\0\x01rest"), named("www.test", "AAAA"));
        assert_eq!(decode(b"\x04test\0\x12\x34"), named("test", "TYPE-other"));
        assert_eq!(decode(b"\x04test\0\0"), named("test", "TYPE-other"), "cut in its type");
        for broken in [&b""[..], b"\x04tes", b"\xc0\x0c\0\x01"] {
            assert_eq!(decode(broken), (None, "TYPE-other"), "{broken:?}");
        }
        let whole = ResponseEvent { head, length: 9, family: FAMILY_INET, ..ResponseEvent::default() };
        assert_eq!(Decoder.decode(whole.as_bytes(), 0), Err(Left::Broken), "shorter than it says");
        let other = ResponseEvent { head, family: 1, ..ResponseEvent::default() };
        assert_eq!(Decoder.decode(other.as_bytes(), 0), Err(Left::Broken));
        assert_eq!(Decoder.decode(&[1; 20], 0), Err(Left::Broken));
    }
}
