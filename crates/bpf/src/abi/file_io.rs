//! Mirrors of `bpf/file_io.h`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `amount.kind`: bytes read, or the latency of calls that read.
pub const FILE_READ: u32 = 1;
/// `amount.kind`: bytes written, or the latency of calls that write.
pub const FILE_WRITE: u32 = 2;
/// `amount.kind`: the latency of calls that flush.
pub const FILE_SYNC: u32 = 3;
/// `amount.kind`: the latency of calls that copy from one descriptor to another.
pub const FILE_COPY: u32 = 4;
/// `amount.kind`: files opened.
pub const FILE_OPEN: u32 = 5;

/// The key of `file_amounts` and `file_latency`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Amount {
    /// The cgroup's id in the primary hierarchy.
    pub cgroup: u64,
    /// The magic number of the superblock; 0 for files opened and latencies, which are not told apart by it.
    pub magic: u32,
    /// What is counted.
    pub kind: u32,
}

/// The cell of `losses` on one CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Loss {
    /// Bytes read that were counted here because `file_amounts` was full.
    pub read: u64,
    /// Bytes written that were counted here because `file_amounts` was full.
    pub written: u64,
    /// Files opened that were counted here because `file_amounts` was full.
    pub opens: u64,
    /// Calls with an amount that was counted here.
    pub amounts: u64,
    /// Calls that were not timed: another thread's call held the place of their start.
    pub busy: u64,
    /// Starts without an end, overwritten or thrown away.
    pub stale: u64,
    /// Descriptors that could not be looked up: the process has a larger table.
    pub far: u64,
}
