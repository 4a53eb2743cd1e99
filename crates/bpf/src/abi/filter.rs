//! Mirrors of `bpf/filter.h`.

/// A value of `comms` and of the constant `comm_filter`: only these processes.
pub const COMM_INCLUDE: u32 = 1;
/// A value of `comms` and of the constant `comm_filter`: all but these processes.
pub const COMM_EXCLUDE: u32 = 2;
