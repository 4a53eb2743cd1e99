//! Mirrors of `bpf/cost.h`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Runs of an object's programs on one CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Cost {
    /// How many there were.
    pub runs: u64,
    /// The run that reads the clock next.
    pub next: u64,
    /// Runs that have read it.
    pub samples: u64,
    /// Nanoseconds that these took.
    pub time: u64,
}

/// How far the programs go.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Stage {
    /// Since when, in nanoseconds of the monotonic clock.
    pub since: u64,
    /// Of what would be timed one in so many is; 0: nothing.
    pub every: u32,
    /// The same until then.
    pub before: u32,
}
