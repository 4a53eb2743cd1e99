//! Mirrors of `bpf/block.h`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `transfer.direction`: from the disk.
pub const BLOCK_READ: u32 = 0;
/// `transfer.direction`: to the disk.
pub const BLOCK_WRITE: u32 = 1;

/// The key of `block_bytes` and `block_latency`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Transfer {
    /// The cgroup's id in the hierarchy of the I/O controller; 0 where there is none, or for its root.
    pub cgroup: u64,
    /// The disk's name, zero-filled.
    pub device: [u8; 32],
    /// From or to the disk.
    pub direction: u32,
    /// Nothing.
    pub padding: u32,
}

/// The cell of `losses` on one CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Loss {
    /// Bytes read that were counted here because `block_bytes` was full.
    pub read: u64,
    /// Bytes written that were counted here because `block_bytes` was full.
    pub written: u64,
    /// Completions whose bytes were counted here.
    pub transfers: u64,
    /// Requests whose start the kernel did not note.
    pub untimed: u64,
}
