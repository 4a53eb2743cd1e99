//! Mirrors of `bpf/network.h`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `flow.direction` of what a socket sent.
pub const DIRECTION_TRANSMIT: u8 = 0;
/// `flow.direction` of what a socket received.
pub const DIRECTION_RECEIVE: u8 = 1;

/// `flow.family` of IP version 4.
pub const FAMILY_IPV4: u8 = 4;
/// `flow.family` of IP version 6.
pub const FAMILY_IPV6: u8 = 6;

/// The key of `flows`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Flow {
    /// The id of the socket's owner in the primary hierarchy; 0 is the kernel's.
    pub cgroup: u64,
    /// Sent or received.
    pub direction: u8,
    /// The version of IP.
    pub family: u8,
    /// The socket's IP protocol.
    pub transport: u16,
    /// Nothing.
    pub padding: u32,
}

/// A cell of `flows` on one CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Traffic {
    /// Bytes from the IP header on, as on the wire.
    pub bytes: u64,
    /// Packets, as on the wire.
    pub packets: u64,
}

/// The key of `drops`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Dropped {
    /// The id of the socket's owner in the primary hierarchy; 0 is the kernel's.
    pub cgroup: u64,
    /// A value of the kernel's `enum skb_drop_reason`.
    pub reason: u32,
    /// Nothing.
    pub padding: u32,
}

/// The cell of `losses` on one CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct NetworkLoss {
    /// Traffic counted here because `flows` was full.
    pub traffic: Traffic,
    /// Drops counted here because `drops` was full.
    pub drops: u64,
    /// Overflows of accept queues counted here because `overflows` was full.
    pub overflows: u64,
    /// Sockets without a place for their owner.
    pub owners: u64,
}
