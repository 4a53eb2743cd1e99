//! Mirrors of `bpf/executable.h`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Set in the id of an executable, and in no cgroup's.
pub const EXECUTABLE: u64 = 1 << 63;

/// A value of the constant `owners_by`: cgroups of version 2.
pub const OWNERS_UNIFIED: u32 = 1;
/// A value of the constant `owners_by`: cgroups of the v1 memory controller.
pub const OWNERS_MEMORY: u32 = 2;
/// A value of the constant `owners_by`: executables within cgroups.
pub const OWNERS_EXECUTABLES: u32 = 3;

/// What an id of `executables` stands for.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Executable {
    /// The cgroup's id in the primary hierarchy.
    pub cgroup: u64,
    /// The name of the first thread of its processes, filled up with zeros.
    pub comm: [u64; 2],
}

impl Executable {
    /// Gives the name as text.
    pub fn name(&self) -> String {
        let bytes = self.comm.as_bytes();
        let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
        String::from_utf8_lossy(&bytes[..end]).into_owned()
    }
}
