//! Sums of traffic by who talks to whom, over which transport and to which server port.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use bpf::abi::connection::{Connection, ROLE_CLIENT, ROLE_SERVER, Stray, Tuple};
use bpf::abi::network::{DIRECTION_TRANSMIT, Traffic};
use model::{Metric, Party, Peers, Subject, Text, Value, Who};
use runtime::Scrape;

use super::by_peer::{self, Exchanges, family};
use super::config::{Config, Directions};
use super::ends::{Ends, far};
use super::{ACTIVE, BYTES, PACKETS};
use crate::carried::{Bytes, Carried};
use crate::table::party;

/// After so many rounds without a connection a pair is forgotten; its series stay.
const ROUNDS: u32 = 2;
/// The class of server ports that are not shown.
const OTHER: u16 = u16::MAX;

/// What traffic is told apart by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    local: Party,
    remote: Party,
    /// A name stands for several protocols.
    transport: &'static str,
    /// The server's; 0: nobody knows who that is, or there are no ports.
    port: u16,
    /// The peer's, where addresses are shown.
    address: Option<IpAddr>,
}

#[derive(Debug)]
struct Pair {
    key: Key,
    /// Transport, server port and the peer's address as they are shown.
    values: [Text; 3],
    sent: Traffic,
    received: Traffic,
    /// Slots that add to it, and those of them whose connection is alive.
    slots: u32,
    open: u32,
    /// Rounds without a slot.
    idle: u32,
    /// Whether its series go on from the agent before: what was sent, what was received.
    goes_on: [bool; 2],
}

/// Where a connection's traffic is added.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Place {
    pair: u32,
    exchange: u32,
}

/// All pairs.
pub(super) struct Pairs {
    index: HashMap<Key, u32>,
    all: Vec<Option<Pair>>,
    free: Vec<u32>,
    ends: Ends,
    /// Where somebody wants them.
    exchanges: Option<Exchanges>,
    peers: Arc<dyn Peers>,
    generation: u64,
    directions: Directions,
    ports: HashSet<u16>,
    /// Addresses that are shown.
    addresses: HashSet<IpAddr>,
    max_addresses: usize,
    /// Who wants to know what is carried between addresses.
    told: Option<Arc<Carried>>,
}

impl Pairs {
    /// Begins without any.
    pub(super) fn new(config: &Config, peers: Arc<dyn Peers>, tells_peers: bool) -> Self {
        Self {
            index: HashMap::new(),
            all: Vec::new(),
            free: Vec::new(),
            ends: Ends::default(),
            exchanges: tells_peers.then(Exchanges::default),
            generation: peers.generation(),
            peers,
            directions: config.directions,
            ports: config.ports.iter().copied().collect(),
            addresses: HashSet::new(),
            max_addresses: config.max_addresses as usize,
            told: None,
        }
    }

    /// Sets who wants to know what is carried between addresses.
    pub(super) fn tell(&mut self, told: Option<Arc<Carried>>) {
        self.told = told;
    }

    /// Says whether anybody wants to know.
    pub(super) fn tells(&self) -> bool {
        self.told.is_some()
    }

    /// Tells what a connection has carried more.
    pub(super) fn carry(&self, connection: &Connection, sent: Traffic, received: Traffic) {
        if let Some(told) = &self.told {
            let address = |bytes| Ipv6Addr::from(bytes).to_canonical();
            let bytes = Bytes { sent: sent.bytes, received: received.bytes };
            told.add(address(connection.tuple.local), address(far(connection).0), bytes);
        }
    }

    /// Gives the slot of one end of a connection.
    pub(super) fn slot(&self, from: (IpAddr, u16), to: (IpAddr, u16), transport: u8) -> Option<u32> {
        self.ends.find(from, to, transport)
    }

    /// Says, once, whether an address may have another owner now.
    pub(super) fn is_renamed(&mut self) -> bool {
        let generation = self.peers.generation();
        std::mem::replace(&mut self.generation, generation) != generation
    }

    /// Notes which connection a slot has, so that its other end finds it.
    pub(super) fn note(&mut self, slot: u32, connection: &Connection) {
        self.ends.note(slot, connection);
    }

    /// Forgets which connection a slot had.
    pub(super) fn forget(&mut self, slot: u32) {
        self.ends.forget(slot);
    }

    /// Adds a slot to the pair of its connection, whose other end was `known` to be of this node; gives the pair, and the
    /// slot of the other end where that is of this node.
    pub(super) fn enter(&mut self, connection: &Connection, known: Option<u64>) -> (Place, Option<u32>) {
        let other = self.ends.other(connection);
        let owner = other.map(|(_, cgroup)| cgroup).or(known);
        let key = self.key(&connection.tuple, connection.role, far(connection), owner);
        let place = self.place(key, &connection.tuple);
        if let Some(pair) = self.pair(place) {
            pair.slots += 1;
            pair.open += 1;
        }
        if let Some(exchanges) = &mut self.exchanges {
            exchanges.hold(place.exchange, true);
        }
        (place, other.map(|(slot, _)| slot))
    }

    /// Gives the owner of the other end of a pair, where that is of this node.
    pub(super) fn other(&self, place: Place) -> Option<u64> {
        match self.all.get(place.pair as usize)?.as_ref()?.key.remote.who {
            Who::Cgroup(id) | Who::Executable(id) => Some(id),
            Who::Kernel => Some(0),
            Who::Peer(_) => None,
        }
    }

    /// Notes that a pair has series of the agent before, which are shown though nothing was added to them since.
    pub(super) fn go_on(&mut self, place: Place, ways: [bool; 2]) {
        if let Some(pair) = self.pair(place) {
            for (goes_on, way) in pair.goes_on.iter_mut().zip(ways) {
                *goes_on |= way;
            }
        }
    }

    /// Gives the addresses that are shown.
    pub(super) fn addresses(&self) -> Vec<IpAddr> {
        self.addresses.iter().copied().collect()
    }

    /// Shows addresses as the agent before did.
    pub(super) fn show(&mut self, addresses: Vec<IpAddr>) {
        self.addresses.extend(addresses.into_iter().take(self.max_addresses));
    }

    /// Takes a slot from a pair.
    pub(super) fn leave(&mut self, place: Place) {
        self.close(place);
        self.release(place);
    }

    /// Notes that the connection of one of its slots is over.
    pub(super) fn close(&mut self, place: Place) {
        if let Some(pair) = self.pair(place) {
            pair.open -= 1;
        }
    }

    /// Takes a slot from a pair whose connection was over.
    pub(super) fn release(&mut self, place: Place) {
        if let Some(pair) = self.pair(place) {
            pair.slots -= 1;
        }
        if let Some(exchanges) = &mut self.exchanges {
            exchanges.hold(place.exchange, false);
        }
    }

    /// Adds what its local end sent.
    pub(super) fn add_sent(&mut self, place: Place, traffic: Traffic) {
        if let Some(pair) = self.pair(place) {
            add(&mut pair.sent, traffic);
        }
        if let Some(exchanges) = &mut self.exchanges {
            exchanges.add(place.exchange, |amounts| add(&mut amounts.sent, traffic));
        }
    }

    /// Adds what its local end received.
    pub(super) fn add_received(&mut self, place: Place, traffic: Traffic) {
        if let Some(pair) = self.pair(place) {
            add(&mut pair.received, traffic);
        }
        if let Some(exchanges) = &mut self.exchanges {
            exchanges.add(place.exchange, |amounts| add(&mut amounts.received, traffic));
        }
    }

    /// Adds a packet that found no slot.
    pub(super) fn add_stray(&mut self, stray: &Stray) {
        let key = self.key(&stray.tuple, stray.role, (stray.tuple.remote, stray.tuple.remote_port), None);
        let place = self.place(key, &stray.tuple);
        let connection = Connection { tuple: stray.tuple, ..Connection::default() };
        if stray.direction == DIRECTION_TRANSMIT {
            self.carry(&connection, stray.traffic, Traffic::default());
            self.add_sent(place, stray.traffic);
        } else {
            self.carry(&connection, Traffic::default(), stray.traffic);
            self.add_received(place, stray.traffic);
        }
    }

    /// Gives the sums by peer; nothing where nobody wanted them.
    pub(super) fn exchanges(&mut self) -> Option<&mut Exchanges> {
        self.exchanges.as_mut()
    }

    /// Records all sums, and forgets pairs that nothing is added to any more.
    pub(super) fn record(&mut self, scrape: &mut Scrape) {
        let mut active: HashMap<(Who, &'static str), u64> = HashMap::new();
        for at in 0..self.all.len() {
            let Some(pair) = &mut self.all[at] else { continue };
            pair.idle = if pair.slots > 0 { 0 } else { pair.idle + 1 };
            let last = pair.idle > ROUNDS;
            pair.record(scrape, self.directions, last);
            if pair.open > 0 && pair.key.local.who != Who::Kernel {
                *active.entry((pair.key.local.who, pair.key.transport)).or_default() += u64::from(pair.open);
            }
            if last {
                self.index.remove(&pair.key);
                self.all[at] = None;
                self.free.push(at as u32);
            }
        }
        for ((local, transport), count) in active {
            let subject = match local {
                Who::Cgroup(id) => Subject::Cgroup(id),
                Who::Executable(id) => Subject::Executable(id),
                Who::Kernel | Who::Peer(_) => Subject::Kernel,
            };
            scrape.record(&ACTIVE, subject, [transport.into()], count);
        }
    }

    fn pair(&mut self, place: Place) -> Option<&mut Pair> {
        self.all.get_mut(place.pair as usize)?.as_mut()
    }

    fn place(&mut self, key: Key, tuple: &Tuple) -> Place {
        let Key { local, remote, .. } = key;
        let address = Ipv6Addr::from(tuple.remote).to_canonical();
        let transport = tuple.transport;
        let key_of = || by_peer::Key { local: local.who.into(), remote, transport, family: family(address, transport) };
        let exchange = self.exchanges.as_mut().map_or(0, |exchanges| exchanges.find(key_of()));
        Place { pair: self.find(key), exchange }
    }

    fn key(&mut self, tuple: &Tuple, role: u8, (far, far_port): ([u8; 16], u16), other: Option<u64>) -> Key {
        let address = Ipv6Addr::from(far).to_canonical();
        let service = |address: [u8; 16], port| self.peers.service(Ipv6Addr::from(address).to_canonical(), port);
        let mut local = party(tuple.cgroup);
        let who = match other {
            Some(owner) => party(owner).who,
            None => Who::Peer(self.peers.find(address, if role == ROLE_CLIENT { far_port } else { 0 })),
        };
        let mut remote = Party::from(who);
        match role {
            // By the address that was asked for, where that is a service's own; else its backends have it.
            ROLE_CLIENT => {
                remote.service = service(tuple.remote, tuple.remote_port).or_else(|| service(far, far_port));
            }
            ROLE_SERVER => local.service = service(tuple.local, tuple.local_port),
            _ => {}
        }
        let port = match role {
            ROLE_CLIENT => tuple.remote_port,
            ROLE_SERVER => tuple.local_port,
            _ => 0,
        };
        Key {
            local,
            remote,
            transport: transport(tuple.transport),
            port: if port < 1024 || self.ports.contains(&port) { port } else { OTHER },
            address: self.is_shown(address).then_some(address),
        }
    }

    fn is_shown(&mut self, address: IpAddr) -> bool {
        if self.max_addresses == 0 || address.is_unspecified() {
            return false;
        }
        let room = self.addresses.len() < self.max_addresses;
        self.addresses.contains(&address) || room && self.addresses.insert(address)
    }

    fn find(&mut self, key: Key) -> u32 {
        if let Some(&at) = self.index.get(&key) {
            return at;
        }
        let pair = Some(Pair {
            values: [
                key.transport.into(),
                match key.port {
                    0 => "".into(),
                    OTHER => "other".into(),
                    port => port.to_string().into(),
                },
                key.address.map_or_else(|| "".into(), |address| address.to_string().into()),
            ],
            key,
            sent: Traffic::default(),
            received: Traffic::default(),
            slots: 0,
            open: 0,
            idle: 0,
            goes_on: [false; 2],
        });
        let at = if let Some(at) = self.free.pop() {
            self.all[at as usize] = pair;
            at
        } else {
            self.all.push(pair);
            (self.all.len() - 1) as u32
        };
        self.index.insert(key, at);
        at
    }
}

impl Pair {
    fn record(&self, scrape: &mut Scrape, directions: Directions, last: bool) {
        let Key { local, remote, .. } = self.key;
        let (names, shown) = match directions {
            Directions::Egress => ([""; 2], 1),
            Directions::Both => (["transmit", "receive"], 2),
        };
        let ways = [(self.sent, local, remote), (self.received, remote, local)];
        for (at, (traffic, source, destination)) in ways.into_iter().enumerate().take(shown) {
            let direction = names[at];
            if traffic.packets == 0 && !self.goes_on[at] {
                continue;
            }
            let subject = Subject::Pair { source, destination };
            for (metric, value) in [(&BYTES, traffic.bytes), (&PACKETS, traffic.packets)] {
                self.write(scrape, metric, subject, direction, value.into(), last);
            }
        }
    }

    fn write(
        &self,
        scrape: &mut Scrape,
        metric: &'static Metric,
        subject: Subject,
        direction: &'static str,
        value: Value,
        last: bool,
    ) {
        let [transport, port, address] = self.values.clone();
        let values = [direction.into(), transport, port, address];
        if last {
            scrape.close(metric, subject, values, value);
        } else {
            scrape.record(metric, subject, values, value);
        }
    }
}

fn add(to: &mut Traffic, more: Traffic) {
    to.bytes += more.bytes;
    to.packets += more.packets;
}

/// Names a transport; the kernel's many others are one.
pub(super) fn transport(protocol: u8) -> &'static str {
    match protocol {
        1 | 58 => "icmp",
        6 => "tcp",
        17 => "udp",
        132 => "sctp",
        _ => "other",
    }
}
