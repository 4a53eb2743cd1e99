//! Mirrors of `bpf/sample.h`.

/// The constant `timing`: nothing is timed.
pub const TIME_NONE: u32 = 0;
/// The constant `timing`: time every operation.
pub const TIME_EVERY: u32 = 1;
/// The constant `timing`: time one operation in N on average, where the constant `sample_span` is 2 N - 1.
pub const TIME_SAMPLE: u32 = 2;
