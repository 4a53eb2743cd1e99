//! Mirrors of `bpf/starts.h`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A slot of `starts`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Start {
    /// The thread, or 0.
    pub pid: u32,
    /// The call's number as it was entered.
    pub nr: u32,
    /// Nanoseconds of the monotonic clock.
    pub time: u64,
}
