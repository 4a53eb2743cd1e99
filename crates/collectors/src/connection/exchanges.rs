//! Sums of traffic by workload and peer: what the collector network exports where peers are wanted. They come from the
//! table of connections, which has the same packets, so that the kernel counts none of them twice.

use std::collections::HashMap;
use std::net::IpAddr;

use bpf::abi::network::Traffic;
use model::{Party, Subject, Text};

/// After so many rounds without a connection an exchange is forgotten; its series stay.
const ROUNDS: u32 = 2;

/// What traffic is told apart by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) local: Party,
    pub(super) remote: Party,
    pub(super) transport: u8,
    /// The version of IP, as it is shown.
    pub(super) family: &'static str,
}

#[derive(Debug)]
struct Exchange {
    key: Key,
    sent: Traffic,
    received: Traffic,
    /// Slots that add to it.
    slots: u32,
    /// Rounds without a slot.
    idle: u32,
}

/// All exchanges.
#[derive(Debug, Default)]
pub(super) struct Exchanges {
    index: HashMap<Key, u32>,
    all: Vec<Option<Exchange>>,
    free: Vec<u32>,
}

impl Exchanges {
    /// Gives the place of an exchange.
    pub(super) fn find(&mut self, key: Key) -> u32 {
        if let Some(&at) = self.index.get(&key) {
            return at;
        }
        let new = Some(Exchange { key, sent: Traffic::default(), received: Traffic::default(), slots: 0, idle: 0 });
        let at = if let Some(at) = self.free.pop() {
            self.all[at as usize] = new;
            at
        } else {
            self.all.push(new);
            (self.all.len() - 1) as u32
        };
        self.index.insert(key, at);
        at
    }

    /// Notes that a slot adds to it, or no longer does.
    pub(super) fn hold(&mut self, at: u32, more: bool) {
        if let Some(exchange) = self.get(at) {
            exchange.slots = if more { exchange.slots + 1 } else { exchange.slots.saturating_sub(1) };
        }
    }

    /// Adds what its local end sent, or received.
    pub(super) fn add(&mut self, at: u32, sent: bool, traffic: Traffic) {
        if let Some(exchange) = self.get(at) {
            super::pairs::add(if sent { &mut exchange.sent } else { &mut exchange.received }, traffic);
        }
    }

    /// Gives all sums with their subject, what they are told apart by, and whether it is their last time; forgets those
    /// that nothing is added to any more.
    pub(super) fn read(&mut self, mut each: impl FnMut(Subject, [Text; 3], Traffic, bool)) {
        for at in 0..self.all.len() {
            let Some(exchange) = &mut self.all[at] else { continue };
            exchange.idle = if exchange.slots > 0 { 0 } else { exchange.idle + 1 };
            let last = exchange.idle > ROUNDS;
            let Key { local, remote, transport, family } = exchange.key;
            let subject = Subject::Facing { local, peer: remote };
            for (direction, traffic) in [("transmit", exchange.sent), ("receive", exchange.received)] {
                let values = [direction.into(), crate::network::transport(transport.into()), family.into()];
                if traffic.packets > 0 {
                    each(subject, values, traffic, last);
                }
            }
            if last {
                self.index.remove(&exchange.key);
                self.all[at] = None;
                self.free.push(at as u32);
            }
        }
    }

    fn get(&mut self, at: u32) -> Option<&mut Exchange> {
        self.all.get_mut(at as usize)?.as_mut()
    }
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
