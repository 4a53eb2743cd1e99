//! Which connections of the table are the two ends of one.

use std::collections::HashMap;
use std::net::IpAddr;

use bpf::abi::connection::{Connection, Tuple};

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

/// All ends, by what they know and by their slots.
#[derive(Default)]
pub(super) struct Ends {
    latest: HashMap<Key, u32>,
    all: HashMap<u32, End>,
}

impl Ends {
    /// Notes which connection a slot has.
    pub(super) fn note(&mut self, slot: u32, connection: &Connection) {
        self.forget(slot);
        let key = key(connection);
        let older = self.latest.insert(key, slot);
        self.all.insert(slot, End { key, cgroup: connection.tuple.cgroup, first: connection.first, older });
    }

    /// Forgets which connection a slot had.
    pub(super) fn forget(&mut self, slot: u32) {
        let Some(End { key, older, .. }) = self.all.remove(&slot) else { return };
        let Some(&latest) = self.latest.get(&key) else { return };
        if latest != slot {
            let newer = self.alike(latest).find(|at| self.all.get(at).is_some_and(|end| end.older == Some(slot)));
            if let Some(end) = newer.and_then(|newer| self.all.get_mut(&newer)) {
                end.older = older;
            }
        } else if let Some(older) = older.filter(|older| self.all.contains_key(older)) {
            self.latest.insert(key, older);
        } else {
            self.latest.remove(&key);
        }
    }

    /// Gives the slot and cgroup of a connection's other end: of several with the same addresses and ports the one that
    /// began at the same time.
    pub(super) fn other(&self, connection: &Connection) -> Option<(u32, u64)> {
        let own = key(connection);
        let other = Key { here: own.there, there: own.here, ..own };
        let ends = self.alike(*self.latest.get(&other)?).filter_map(|slot| Some((slot, self.all.get(&slot)?)));
        let nearest = ends.min_by_key(|(_, end)| end.first.abs_diff(connection.first));
        nearest.map(|(slot, end)| (slot, end.cgroup))
    }

    /// Gives the slot of the end of the latest connection between two addresses and ports, whichever port is a server's.
    pub(super) fn find(&self, from: (IpAddr, u16), to: (IpAddr, u16), transport: u8) -> Option<u32> {
        let wide = |(address, port): (IpAddr, u16)| match address {
            IpAddr::V4(address) => (address.to_ipv6_mapped().octets(), port),
            IpAddr::V6(address) => (address.octets(), port),
        };
        self.latest.get(&Key { here: wide(from), there: wide(to), transport }).copied()
    }

    /// Gives slots that have the same ends, the latest first.
    fn alike(&self, latest: u32) -> impl Iterator<Item = u32> {
        std::iter::successors(Some(latest), |slot| self.all.get(slot)?.older).take(ALIKE)
    }
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
        assert!(ends.latest.len() == 1 && ends.all.len() == 2);
    }
}
