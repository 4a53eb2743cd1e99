//! Mirrors of `bpf/event.h`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The family of an address of IPv4.
pub const FAMILY_INET: u16 = 2;
/// The family of an address of IPv6.
pub const FAMILY_INET6: u16 = 10;

/// What every record begins with.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct EventHead {
    /// Nanoseconds of the monotonic clock.
    pub time: u64,
    /// The cgroup's id in the primary hierarchy, or 0.
    pub cgroup: u64,
    /// The process's command, NUL-terminated.
    pub comm: [u8; 16],
    /// The process in the first pid namespace, or 0.
    pub pid: u32,
    /// What happened.
    pub kind: u32,
}
