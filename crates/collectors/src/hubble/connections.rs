//! TCP connections between their beginning and their end, as many as there is room for.
//!
//! Two generations: what is seen moves to the young one, and what is still in the old one when they change is idle.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;

use super::series::Ends;

/// Which connection: a node, the end that began it and the end that it leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key(u128);

impl Key {
    fn new(hasher: &RandomState, node: &[u8], client: (IpAddr, u16), server: (IpAddr, u16)) -> Self {
        let half = |salt: u8| {
            let mut state = hasher.build_hasher();
            state.write_u8(salt);
            state.write(node);
            for (address, port) in [client, server] {
                match address {
                    IpAddr::V4(address) => state.write_u32(address.to_bits()),
                    IpAddr::V6(address) => state.write_u128(address.to_bits()),
                }
                state.write_u16(port);
            }
            state.finish()
        };
        Self(u128::from(half(0)) << 64 | u128::from(half(1)))
    }
}

/// A connection that has begun.
#[derive(Clone, Copy, Debug)]
pub struct Open {
    /// When, in Unix nanoseconds by the node's clock.
    pub since: u64,
    /// Who speaks to whom.
    pub ends: Ends,
}

/// What was forgotten before its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Evicted {
    /// Nothing was seen of it for too long.
    pub idle: u64,
    /// There was no room.
    pub full: u64,
}

/// All connections that have begun.
#[derive(Debug)]
pub struct Connections {
    hasher: RandomState,
    young: HashMap<Key, Open, RandomState>,
    old: HashMap<Key, Open, RandomState>,
    most: usize,
    idle: Duration,
    turned: Instant,
    pub evicted: Evicted,
}

impl Connections {
    /// Makes room for so many, each forgotten when nothing was seen of it for `idle` to twice that.
    pub fn new(most: usize, idle: Duration) -> Self {
        Self {
            hasher: RandomState::default(),
            young: HashMap::default(),
            old: HashMap::default(),
            most,
            idle,
            turned: Instant::now(),
            evicted: Evicted::default(),
        }
    }

    pub fn key(&self, node: &[u8], client: (IpAddr, u16), server: (IpAddr, u16)) -> Key {
        Key::new(&self.hasher, node, client, server)
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }

    /// Notes the beginning of a connection; says whether it is a new one, not another sight of one that began at most
    /// `window` nanoseconds earlier.
    pub fn begin(&mut self, key: Key, open: Open, window: u64) -> bool {
        let before = self.seen(key);
        if before.is_some_and(|before| open.since.abs_diff(before.since) <= window) {
            return false;
        }
        if before.is_none() && self.young.len() >= self.most.div_ceil(2) {
            self.evicted.full += self.old.len() as u64;
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, open);
        true
    }

    /// Notes that something was seen of a connection.
    pub fn seen(&mut self, key: Key) -> Option<Open> {
        if let Some(open) = self.young.get(&key) {
            return Some(*open);
        }
        let open = self.old.remove(&key)?;
        self.young.insert(key, open);
        Some(open)
    }

    /// Ends a connection.
    pub fn end(&mut self, key: Key) -> Option<Open> {
        self.young.remove(&key).or_else(|| self.old.remove(&key))
    }

    /// Forgets what is idle.
    pub fn turn(&mut self, now: Instant) {
        if now.duration_since(self.turned) >= self.idle {
            self.evicted.idle += self.old.len() as u64;
            self.old = std::mem::take(&mut self.young);
            self.turned = now;
        }
    }

    /// Forgets those whose labels are no more; gives the others their new numbers.
    pub fn renumber(&mut self, numbers: &[u32]) {
        for open in self.young.values_mut().chain(self.old.values_mut()) {
            open.ends = open.ends.renumbered(numbers);
        }
    }

    /// Gives who speaks to whom.
    pub fn ends(&self) -> impl Iterator<Item = Ends> {
        self.young.values().chain(self.old.values()).map(|open| open.ends)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(connections: &Connections, port: u16) -> Key {
        let end = |port| (IpAddr::from([10, 0, 0, 1]), port);
        connections.key(b"node", end(port), end(80))
    }

    #[test]
    fn a_connection_begins_once() {
        let mut connections = Connections::new(10, Duration::from_secs(1));
        let one = key(&connections, 1);
        let open = |since| Open { since, ends: Ends::default() };
        assert!(connections.begin(one, open(100), 10));
        assert!(!connections.begin(one, open(105), 10));
        assert!(connections.begin(one, open(500), 10), "the port is used again");
        assert_eq!(connections.end(one).map(|open| open.since), Some(500));
        assert!(connections.end(one).is_none());
    }

    #[test]
    fn what_is_idle_or_too_much_is_forgotten_and_counted() {
        let idle = Duration::from_secs(1);
        let mut connections = Connections::new(4, idle);
        let open = Open { since: 1, ends: Ends::default() };
        for port in 0..4 {
            assert!(connections.begin(key(&connections, port), open, 0));
        }
        let now = Instant::now();
        connections.turn(now + idle);
        assert!(connections.seen(key(&connections, 3)).is_some());
        connections.turn(now + idle * 3);
        assert_eq!((connections.evicted, connections.len()), (Evicted { idle: 3, full: 0 }, 1));
        for port in 10..30 {
            connections.begin(key(&connections, port), open, 0);
            assert!(connections.len() <= 4);
        }
        assert_eq!(connections.evicted.full as usize + connections.len(), 21);
    }
}
