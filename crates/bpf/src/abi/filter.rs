//! Mirrors of `bpf/filter.h`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A rule of `comms` and a value of the constant `comm_filter`: only these processes.
pub const COMM_INCLUDE: u32 = 1;
/// A rule of `comms` and a value of the constant `comm_filter`: all but these processes.
pub const COMM_EXCLUDE: u32 = 2;
/// A value of `cgroup_rules`: counted, as those below it.
pub const CGROUP_ALLOW: u32 = 1;
/// A value of `cgroup_rules`: not counted, nor those below it.
pub const CGROUP_DENY: u32 = 2;
/// A value of `cgroup_rules`: not counted; says nothing of those below it.
pub const CGROUP_SKIP: u32 = 3;

/// A slot of `comms`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct CommRule {
    /// The name, filled up with zeros.
    pub comm: [u64; 2],
    /// What it says of processes of that name; 0: the slot is free.
    pub rule: u64,
}

/// Gives the name of a process as the kernel keeps it: its first 15 bytes, filled up with zeros.
pub fn comm(name: &str) -> [u64; 2] {
    let mut comm = [0_u8; 16];
    for (to, from) in comm.iter_mut().take(15).zip(name.bytes()) {
        *to = from;
    }
    let half = |at: usize| u64::from_ne_bytes(std::array::from_fn(|byte| comm[at + byte]));
    [half(0), half(8)]
}

/// Gives the slot of `comms` that a name belongs to, of `mask` + 1, as `bpf/lib/filter.bpf.h` does.
pub fn comm_slot(comm: [u64; 2], seed: u64, mask: u32) -> u32 {
    let hash = (comm[0] ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let hash = (hash ^ hash >> 32 ^ comm[1]).wrapping_mul(0xd6e8_feb8_6659_fd93);
    (hash >> 32) as u32 & mask
}
