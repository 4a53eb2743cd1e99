//! The kernel stamps events with its monotonic clock; the world uses Unix time.

use std::time::Duration;

use rustix::time::{ClockId, clock_getres, clock_gettime};

/// Gives what has to be added to `bpf_ktime_get_ns()` for Unix nanoseconds, as the clocks stand now.
pub fn unix_offset() -> i64 {
    let nanos = |clock| {
        let time = clock_gettime(clock);
        time.tv_sec * 1_000_000_000 + time.tv_nsec
    };
    nanos(ClockId::Realtime) - nanos(ClockId::Monotonic)
}

/// Gives what `bpf_ktime_get_ns()` gives now.
pub fn monotonic() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Gives the time that this thread has spent on a CPU.
pub fn of_thread() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Gives the nanoseconds of a tick, which `bpf_jiffies64()` counts.
pub fn tick() -> u64 {
    let tick = clock_getres(ClockId::MonotonicCoarse);
    tick.tv_sec as u64 * 1_000_000_000 + tick.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_offset_is_that_of_the_boot() {
        let since = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH).expect("after 1970");
        assert!(unix_offset() > 0 && (unix_offset() as u128) < since.as_nanos());
    }
}
