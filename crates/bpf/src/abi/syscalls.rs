//! Mirrors of `bpf/syscalls.h`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The number of a call that no table has.
pub const NR_UNKNOWN: u32 = 0xffff_fffe;
/// All calls of a workload that are not timed apart.
pub const NR_ALL: u32 = u32::MAX;
/// Numbers from here on are unknown. A cell of `listed` is at `abi * NR_LIMIT + nr`.
pub const NR_LIMIT: u32 = 1024;

/// `call.abi` of the machine's own table.
pub const ABI_NATIVE: u32 = 0;
/// `call.abi` of the 32-bit table: i386 or arm.
pub const ABI_COMPAT: u32 = 1;
/// `call.abi` of the x32 table; the number is without the x32 bit.
pub const ABI_X32: u32 = 2;

/// A cell of `listed`: count this call.
pub const LISTED_COUNT: u32 = 1;
/// A cell of `listed`: time this call apart.
pub const LISTED_TIME: u32 = 2;

/// The key of `calls` and `latency`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Call {
    /// The cgroup's id in the primary hierarchy.
    pub cgroup: u64,
    /// The call's number, [`NR_UNKNOWN`] or [`NR_ALL`].
    pub nr: u32,
    /// The table that the number is from.
    pub abi: u32,
}

/// The key of `errors`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Failure {
    /// The cgroup's id in the primary hierarchy.
    pub cgroup: u64,
    /// The call's number or [`NR_UNKNOWN`].
    pub nr: u32,
    /// The table that the number is from.
    pub abi: u16,
    /// The errno, above 0.
    pub number: u16,
}

/// The cell of `losses` on one CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Loss {
    /// Calls counted here because `calls` was full.
    pub calls: u64,
    /// Errors counted here because `errors` was full.
    pub errors: u64,
    /// Calls that were not timed: another thread's call held the place of their start.
    pub busy: u64,
    /// Starts without an end, overwritten or thrown away.
    pub stale: u64,
}
