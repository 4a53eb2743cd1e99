//! Mirrors of `bpf/tcp.h`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// How many states there are room for; the kernel numbers them from 1.
pub const STATES: usize = 16;

/// A connection that its own side opened.
pub const OUTBOUND: usize = 0;
/// A connection that its own side accepted, or a socket that listens.
pub const INBOUND: usize = 1;

/// `owner.network`: not told apart.
pub const NETWORK_ANY: u32 = 0;
/// `owner.network`: IPv4 on the wire.
pub const NETWORK_IPV4: u32 = 1;
/// `owner.network`: IPv6 on the wire.
pub const NETWORK_IPV6: u32 = 2;

/// The reasons of failed connects: places of `connections.failed`.
pub const CAUSES: usize = 6;

/// The key of all maps but `peers`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Owner {
    /// The cgroup's id in the primary hierarchy, or 0.
    pub cgroup: u64,
    /// [`NETWORK_IPV4`], [`NETWORK_IPV6`], or [`NETWORK_ANY`] for failed connects and `round_trips`.
    pub network: u32,
    /// Nothing.
    pub padding: u32,
}

/// What a walk over all sockets has found.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Visit {
    /// The sum of the round trips of the connections that it has met, in microseconds.
    pub rtt: u64,
    /// The number of those connections.
    pub count: u32,
    /// The number of the walk.
    pub round: u32,
}

/// The key of `peers`: an owner, and whom its connections are with.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Peer {
    /// The cgroup's id in the primary hierarchy, or 0.
    pub cgroup: u64,
    /// The peer's address, as IPv6 has it.
    pub address: [u8; 16],
    /// As in [`Owner`].
    pub network: u32,
    /// The peer's, where it is the server; else 0.
    pub port: u16,
    /// Nothing.
    pub padding: u16,
}

/// What has ever become of connections.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Lifecycle {
    /// Outbound connections that were established.
    pub connects: u64,
    /// Inbound connections that were established.
    pub accepts: u64,
    /// Established connections that ended.
    pub closes: u64,
    /// Established connections that were reset.
    pub resets: u64,
    /// Segments that were sent again.
    pub retransmits: u64,
    /// Connects that failed, by cause.
    pub failed: [u64; CAUSES],
}

impl Lifecycle {
    /// Gives the number of things that were counted.
    pub fn events(&self) -> u64 {
        let ends = self.closes + self.resets + self.failed.iter().sum::<u64>();
        self.connects + self.accepts + ends + self.retransmits
    }

    /// Adds another share.
    pub fn add(&mut self, other: &Self) {
        self.connects += other.connects;
        self.accepts += other.accepts;
        self.closes += other.closes;
        self.resets += other.resets;
        self.retransmits += other.retransmits;
        for (mine, theirs) in self.failed.iter_mut().zip(&other.failed) {
            *mine += theirs;
        }
    }

    /// Gives what has been counted since another reading.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        Self {
            connects: self.connects.saturating_sub(before.connects),
            accepts: self.accepts.saturating_sub(before.accepts),
            closes: self.closes.saturating_sub(before.closes),
            resets: self.resets.saturating_sub(before.resets),
            retransmits: self.retransmits.saturating_sub(before.retransmits),
            failed: std::array::from_fn(|cause| self.failed[cause].saturating_sub(before.failed[cause])),
        }
    }
}

/// The connections of an owner on one network, on one CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Connections {
    /// What has become of them; by peer it is in `peers`.
    pub past: Lifecycle,
    /// Sockets at direction * [`STATES`] + state: what came less what went, wrapping.
    pub open: [u32; 2 * STATES],
    /// What the last two walks have found: at 0 the one with the even number.
    pub visits: [Visit; 2],
}

impl Connections {
    /// Adds another CPU's share; of the round trips those of the later walks stay.
    pub fn add(&mut self, other: &Self) {
        self.past.add(&other.past);
        for (mine, theirs) in self.open.iter_mut().zip(&other.open) {
            *mine = mine.wrapping_add(*theirs);
        }
        for (mine, theirs) in self.visits.iter_mut().zip(&other.visits) {
            if theirs.round.wrapping_sub(mine.round).cast_signed() > 0 {
                *mine = Visit { round: theirs.round, ..Visit::default() };
            }
            if theirs.round == mine.round {
                mine.rtt += theirs.rtt;
                mine.count += theirs.count;
            }
        }
    }
}

/// The cell of `losses` on one CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct TcpLoss {
    /// Counted here because `owners` was full.
    pub connections: Connections,
    /// Sockets for which there was no memory.
    pub unfollowed: u64,
    /// Counted without their peer because `peers` was full.
    pub strangers: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_of_an_older_walk_do_not_count() {
        let cell = |round, rtt, count| {
            let mut cell = Connections::default();
            cell.visits[1] = Visit { rtt, count, round };
            cell
        };
        let mut sum = Connections::default();
        for share in [cell(3, 70, 1), cell(5, 20, 2), cell(3, 90, 1), cell(5, 10, 1), cell(0, 0, 0)] {
            sum.add(&share);
        }
        assert_eq!(sum, cell(5, 30, 3));
    }

    #[test]
    fn what_came_on_one_cpu_may_go_on_another() {
        let cell = |count| Connections { open: [count; 2 * STATES], ..Connections::default() };
        let mut sum = cell(5);
        sum.add(&cell(3_u32.wrapping_neg()));
        assert_eq!(sum, cell(2));
    }
}
