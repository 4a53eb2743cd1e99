//! Which connections of the table are the two ends of one.

use std::hash::BuildHasher;
use std::net::IpAddr;

use bpf::abi::connection::{Connection, Tuple};
use foldhash::fast::RandomState;
use hashbrown::HashTable;

/// So many connections with the same ends, one after the other, are told apart; ports are seldom used again so soon.
const ALIKE: usize = 16;

/// What one end knows of both: the same for the other end, exchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    here: ([u8; 16], u16),
    there: ([u8; 16], u16),
    transport: u8,
}

/// A connection in a slot.
struct End {
    key: Key,
    cgroup: u64,
    first: u64,
    /// The slot of the one before it that has the same ends.
    older: Option<u32>,
}

/// All ends.
#[derive(Default)]
pub(super) struct Ends {
    /// The latest slot of those with the same ends, by their hash.
    latest: HashTable<u32>,
    /// By slot.
    all: Vec<Option<End>>,
    hasher: RandomState,
}

impl Ends {
    /// Notes which connection a slot has.
    pub(super) fn note(&mut self, slot: u32, connection: &Connection) {
        self.forget(slot);
        let key = key(connection);
        if self.all.len() <= slot as usize {
            self.all.resize_with(slot as usize + 1, || None);
        }
        let older = self.latest(&key).map(|latest| std::mem::replace(latest, slot));
        self.all[slot as usize] = Some(End { key, cgroup: connection.tuple.cgroup, first: connection.first, older });
        if older.is_none() {
            let (all, hasher) = (&self.all, &self.hasher);
            let hash = |slot: &u32| get(all, *slot).map_or(0, |end| hasher.hash_one(end.key));
            self.latest.insert_unique(hasher.hash_one(key), slot, hash);
        }
    }

    /// Forgets which connection a slot had.
    pub(super) fn forget(&mut self, slot: u32) {
        let Some(&End { key, older, .. }) = get(&self.all, slot) else { return };
        // What is gone is nobody's older one any more.
        let older = older.filter(|&older| get(&self.all, older).is_some_and(|end| end.key == key));
        let latest = self.latest(&key).map(|latest| match older {
            Some(older) if *latest == slot => std::mem::replace(latest, older),
            _ => *latest,
        });
        if latest == Some(slot) && older.is_none() {
            let hash = self.hasher.hash_one(key);
            if let Ok(entry) = self.latest.find_entry(hash, |&at| at == slot) {
                entry.remove();
            }
        } else if let Some(latest) = latest.filter(|&latest| latest != slot) {
            let newer = self.alike(latest).find(|&at| get(&self.all, at).is_some_and(|end| end.older == Some(slot)));
            if let Some(Some(end)) = newer.and_then(|newer| self.all.get_mut(newer as usize)) {
                end.older = older;
            }
        }
        self.all[slot as usize] = None;
    }

    /// Gives the place of the latest slot that has these ends.
    fn latest(&mut self, key: &Key) -> Option<&mut u32> {
        let all = &self.all;
        self.latest.find_mut(self.hasher.hash_one(key), |&slot| get(all, slot).is_some_and(|end| end.key == *key))
    }

    /// Gives the slot and cgroup of a connection's other end: of several with the same addresses and ports the one that
    /// began at the same time.
    pub(super) fn other(&self, connection: &Connection) -> Option<(u32, u64)> {
        let own = key(connection);
        let other = Key { here: own.there, there: own.here, ..own };
        let ends = self.alike(self.find_latest(&other)?).filter_map(|slot| Some((slot, get(&self.all, slot)?)));
        let nearest = ends.min_by_key(|(_, end)| end.first.abs_diff(connection.first));
        nearest.map(|(slot, end)| (slot, end.cgroup))
    }

    /// Gives the slot of the end of the latest connection between two addresses and ports, whichever port is a server's.
    pub(super) fn find(&self, from: (IpAddr, u16), to: (IpAddr, u16), transport: u8) -> Option<u32> {
        let wide = |(address, port): (IpAddr, u16)| match address {
            IpAddr::V4(address) => (address.to_ipv6_mapped().octets(), port),
            IpAddr::V6(address) => (address.octets(), port),
        };
        self.find_latest(&Key { here: wide(from), there: wide(to), transport })
    }

    fn find_latest(&self, key: &Key) -> Option<u32> {
        let is_same = |slot: &u32| get(&self.all, *slot).is_some_and(|end| end.key == *key);
        self.latest.find(self.hasher.hash_one(key), is_same).copied()
    }

    /// Gives slots that have the same ends, the latest first.
    fn alike(&self, latest: u32) -> impl Iterator<Item = u32> {
        std::iter::successors(Some(latest), |&slot| get(&self.all, slot)?.older).take(ALIKE)
    }
}

fn get(all: &[Option<End>], slot: u32) -> Option<&End> {
    all.get(slot as usize)?.as_ref()
}

fn key(connection: &Connection) -> Key {
    let Tuple { local, local_port, transport, .. } = connection.tuple;
    Key { here: (local, local_port), there: far(connection), transport }
}

/// Gives where packets really go.
pub(super) fn far(connection: &Connection) -> ([u8; 16], u16) {
    if connection.backend == [0; 16] {
        (connection.tuple.remote, connection.tuple.remote_port)
    } else {
        (connection.backend, connection.backend_port)
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::FromZeros;

    use super::*;

    /// The client's or the server's end of a connection that began at a time.
    fn end(client: bool, cgroup: u64, first: u64) -> Connection {
        let mut connection = Connection::new_zeroed();
        let (near, far) = (([1; 16], 5555), ([2; 16], 7000));
        let (local, remote) = if client { (near, far) } else { (far, near) };
        (connection.tuple.local, connection.tuple.local_port) = local;
        (connection.tuple.remote, connection.tuple.remote_port) = remote;
        (connection.tuple.cgroup, connection.first) = (cgroup, first);
        connection
    }

    #[test]
    fn ends_find_each_other_though_ports_are_used_again() {
        let mut ends = Ends::default();
        for (slot, client, cgroup, first) in
            [(0, true, 10, 100), (1, false, 20, 101), (2, true, 30, 500), (3, false, 20, 500)]
        {
            ends.note(slot, &end(client, cgroup, first));
        }
        assert_eq!(ends.other(&end(false, 20, 101)), Some((0, 10)));
        assert_eq!(ends.other(&end(false, 20, 500)), Some((2, 30)));
        assert_eq!(ends.other(&end(true, 30, 500)), Some((3, 20)));
        ends.forget(0);
        assert_eq!(ends.other(&end(false, 20, 101)), Some((2, 30)), "the only one");
        ends.note(0, &end(true, 10, 900));
        ends.forget(2);
        assert_eq!(ends.other(&end(false, 20, 500)), Some((0, 10)));
        ends.forget(0);
        assert_eq!(ends.other(&end(false, 20, 500)), None);
        assert!(ends.latest.len() == 1 && ends.all.iter().flatten().count() == 2);
    }
}
