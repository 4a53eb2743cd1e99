//! Mirrors of `bpf/starts.h`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The constant `timing`: count only; `sys_enter` need not be attached.
pub const TIME_NONE: u32 = 0;
/// The constant `timing`: time every call.
pub const TIME_EVERY: u32 = 1;
/// The constant `timing`: time one call in N on average, where the constant `sample_span` is 2 N - 1.
pub const TIME_SAMPLE: u32 = 2;

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
