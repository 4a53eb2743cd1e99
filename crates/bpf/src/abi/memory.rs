//! Mirrors of `bpf/memory.h` and `bpf/account.h`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A value of `faults`, on one CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Work {
    /// Page faults without I/O.
    pub minor: u64,
    /// Page faults with I/O.
    pub major: u64,
    /// Processes that were killed for want of memory.
    pub kills: u64,
}

/// The cell of `losses` on one CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Loss {
    /// What befell cgroups that `faults` had no room for.
    pub work: Work,
    /// How many times something was added to that.
    pub works: u64,
}
