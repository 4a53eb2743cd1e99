//! Mirrors of `bpf/scheduler.h` and `bpf/account.h`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A value of `ran`, on one CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Work {
    /// Nanoseconds on a CPU.
    pub runtime: u64,
    /// Switches that tasks asked for.
    pub voluntary: u64,
    /// Switches that were forced on tasks.
    pub involuntary: u64,
}

/// The cell of `losses` on one CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Loss {
    /// Done by cgroups that `ran` had no room for.
    pub work: Work,
    /// How many times something was added to that.
    pub works: u64,
}
