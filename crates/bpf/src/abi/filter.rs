//! Mirrors of `bpf/filter.h`.

/// A value of `comms` and of the constant `comm_filter`: only these processes.
pub const COMM_INCLUDE: u32 = 1;
/// A value of `comms` and of the constant `comm_filter`: all but these processes.
pub const COMM_EXCLUDE: u32 = 2;
/// A value of `cgroup_rules`: counted, as those below it.
pub const CGROUP_ALLOW: u32 = 1;
/// A value of `cgroup_rules`: not counted, nor those below it.
pub const CGROUP_DENY: u32 = 2;
/// A value of `cgroup_rules`: not counted; says nothing of those below it.
pub const CGROUP_SKIP: u32 = 3;
