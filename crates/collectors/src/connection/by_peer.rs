//! Traffic by workload and peer: what the collector network exports where peers are wanted. It comes from the table of
//! connections, which has the same packets, so that the kernel counts none of them twice.

use std::net::IpAddr;

use bpf::abi::network::Traffic;
use model::{Party, Subject, Text};

/// What traffic is told apart by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) local: Party,
    pub(super) remote: Party,
    pub(super) transport: u8,
    /// The version of IP, as it is shown.
    pub(super) family: &'static str,
}

/// What the local end sent and received.
#[derive(Debug, Default)]
pub(super) struct Amounts {
    pub(super) sent: Traffic,
    pub(super) received: Traffic,
}

/// Traffic by peer.
pub(super) type Exchanges = crate::exchanges::Exchanges<Key, Amounts>;

/// Ends a round: gives all sums with their subject, what they are told apart by, and whether it is their last time.
pub(super) fn show(exchanges: &mut Exchanges, mut each: impl FnMut(Subject, [Text; 3], Traffic, bool)) {
    exchanges.finish(|&Key { local, remote, transport, family }, amounts, last| {
        let subject = Subject::Facing { local, peer: remote };
        for (direction, traffic) in [("transmit", amounts.sent), ("receive", amounts.received)] {
            let values = [direction.into(), crate::network::transport(transport.into()), family.into()];
            if traffic.packets > 0 {
                each(subject, values, traffic, last);
            }
        }
    });
}

/// Says which version of IP packets are of. What the kernel sends and receives itself has no addresses here: its protocol
/// may tell.
pub(super) fn family(address: IpAddr, transport: u8) -> &'static str {
    const ICMP: u8 = 1;
    const ICMPV6: u8 = 58;
    match (address, transport) {
        (address, ICMPV6) if address.is_unspecified() => "ipv6",
        (address, ICMP) if address.is_unspecified() => "ipv4",
        (address, _) if address.is_unspecified() => "",
        (IpAddr::V4(_), _) => "ipv4",
        (IpAddr::V6(_), _) => "ipv6",
    }
}
