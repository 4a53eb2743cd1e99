//! What all benches measure with: thread CPU time, pairs, medians with bootstrap intervals, and honest verdicts.

use std::fmt;
use std::time::Duration;

use rustix::thread::{CpuSet, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};

/// Gives the measured pairs for each figure: enough for a 95 % interval of a median, or with `--quick` just enough to
/// see that all works.
pub fn pairs() -> usize {
    if std::env::args().any(|argument| argument == "--quick") { 3 } else { 21 }
}

const RESAMPLES: usize = 10_000;

/// Gives the CPU time that some work takes by the clock of its thread or process, and what it gives.
pub fn timed<T>(clock: ClockId, work: impl FnOnce() -> T) -> (Duration, T) {
    let now = || {
        let now = clock_gettime(clock);
        Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
    };
    let begun = now();
    let result = work();
    (now().saturating_sub(begun), result)
}

/// Keeps the calling thread on one CPU.
pub fn pin(cpu: usize) -> std::io::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu);
    Ok(sched_setaffinity(None, &set)?)
}

/// Gives two CPUs: one for what is measured, one for all else; the same where there is only one.
pub fn cpus() -> (usize, usize) {
    let allowed = rustix::thread::sched_getaffinity(None).unwrap_or_default();
    let mut all = (0..CpuSet::MAX_CPU).filter(|&cpu| allowed.is_set(cpu));
    let first = all.next().unwrap_or(0);
    (all.next_back().unwrap_or(first), first)
}

/// A median and the 95 % interval that resampling gives it.
#[derive(Clone, Copy, Debug)]
pub struct Estimate {
    pub median: f64,
    pub low: f64,
    pub high: f64,
}

impl Estimate {
    /// Estimates the median that samples are drawn from; the same samples always give the same interval.
    pub fn of(samples: &[f64]) -> Self {
        let mut random = Random(0x7e1e_50de);
        let mut resample = vec![0.0; samples.len()];
        let mut medians: Vec<f64> = (0..RESAMPLES)
            .map(|_| {
                resample.fill_with(|| samples[random.below(samples.len())]);
                median(&mut resample)
            })
            .collect();
        medians.sort_unstable_by(f64::total_cmp);
        let at = |share: f64| medians[((RESAMPLES - 1) as f64 * share).round() as usize];
        Self { median: median(&mut samples.to_vec()), low: at(0.025), high: at(0.975) }
    }

    /// Compares with a goal that must not be passed.
    pub fn verdict(&self, goal: f64) -> &'static str {
        if self.high <= goal {
            "met"
        } else if self.low > goal {
            "missed"
        } else {
            "not resolved"
        }
    }
}

impl fmt::Display for Estimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = f.precision().unwrap_or(2);
        let text = format!("{:.digits$} [{:.digits$}, {:.digits$}]", self.median, self.low, self.high);
        write!(f, "{text:<width$}", width = f.width().unwrap_or(0))
    }
}

/// Gives the median; sorts the samples.
pub fn median(samples: &mut [f64]) -> f64 {
    samples.sort_unstable_by(f64::total_cmp);
    let middle = samples.len() / 2;
    if samples.len().is_multiple_of(2) { f64::midpoint(samples[middle - 1], samples[middle]) } else { samples[middle] }
}

/// A `SplitMix64` generator: resampling needs no more, and is the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % limit as u64) as usize
    }
}

/// Gives a field of `/proc/PID/status` in bytes.
pub fn memory(pid: u32, field: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
}
