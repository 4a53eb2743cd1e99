//! Rate limits: a bucket of events for each kind and workload, refilled as time passes.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;
use model::Attributes;
use model::event::EventKind;

const SECOND: u64 = 1_000_000_000;
/// The number of buckets at which full ones, which limit nothing, are first thrown away.
const SWEEP_AT: usize = 1024;

/// How many events of one kind a workload may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Events per second in the long run.
    pub rate: u32,
    /// Events at once after a quiet time.
    pub burst: u32,
}

/// What is left of a burst, in events times nanoseconds of a second, so that nothing is rounded away.
#[derive(Debug)]
struct Bucket {
    /// Keeps the set alive, so that its address is no other workload's.
    _workload: Arc<Attributes>,
    level: u64,
    time: u64,
}

/// The buckets of one collector.
#[derive(Debug)]
pub(super) struct Limiter {
    limits: HashMap<EventKind, Limit>,
    /// By the address of the workload's attribute set: enrichment gives equal sets as one.
    buckets: HashMap<(EventKind, usize), Bucket, RandomState>,
    sweep_at: usize,
}

impl Limiter {
    pub fn new(limits: HashMap<EventKind, Limit>) -> Self {
        Self { limits, buckets: HashMap::default(), sweep_at: SWEEP_AT }
    }

    /// Takes one event out of a bucket; says whether it had one.
    pub fn admits(&mut self, kind: EventKind, workload: &Arc<Attributes>, time: u64) -> bool {
        let Some(&limit) = self.limits.get(&kind) else { return true };
        let full = u64::from(limit.burst.max(1)) * SECOND;
        if self.buckets.len() >= self.sweep_at {
            self.sweep(time);
        }
        let new = || Bucket { _workload: Arc::clone(workload), level: full, time };
        let bucket = self.buckets.entry((kind, Arc::as_ptr(workload) as usize)).or_insert_with(new);
        let refill = time.saturating_sub(bucket.time).saturating_mul(u64::from(limit.rate));
        bucket.level = bucket.level.saturating_add(refill).min(full);
        // CPUs report a little out of order: time never goes back.
        bucket.time = bucket.time.max(time);
        let admitted = bucket.level >= SECOND;
        if admitted {
            bucket.level -= SECOND;
        }
        admitted
    }

    /// Forgets buckets that are full again.
    fn sweep(&mut self, now: u64) {
        let limits = &self.limits;
        self.buckets.retain(|(kind, _), bucket| {
            let Some(limit) = limits.get(kind) else { return false };
            let refill = now.saturating_sub(bucket.time).saturating_mul(u64::from(limit.rate));
            bucket.level.saturating_add(refill) < u64::from(limit.burst.max(1)) * SECOND
        });
        self.sweep_at = (2 * self.buckets.len()).max(SWEEP_AT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limiter(rate: u32, burst: u32) -> Limiter {
        Limiter::new(HashMap::from([(EventKind::Exec, Limit { rate, burst })]))
    }

    #[test]
    fn a_burst_then_the_rate() {
        let (mut limiter, workload) = (limiter(10, 5), Arc::default());
        let mut admitted = |time| (0..100).filter(|_| limiter.admits(EventKind::Exec, &workload, time)).count();
        assert_eq!(admitted(SECOND), 5);
        assert_eq!(admitted(SECOND + SECOND / 10), 1);
        assert_eq!(admitted(SECOND + SECOND / 10), 0);
        assert_eq!(admitted(SECOND), 0, "time does not go back");
        assert_eq!(admitted(9 * SECOND), 5, "no more than a burst is saved");
    }

    #[test]
    fn workloads_and_kinds_have_their_own() {
        let mut limiter = limiter(1, 1);
        let (one, two) = (Arc::default(), Arc::default());
        assert!(limiter.admits(EventKind::Exec, &one, 0) && !limiter.admits(EventKind::Exec, &one, 0));
        assert!(limiter.admits(EventKind::Exec, &two, 0));
        assert!((0..100).all(|_| limiter.admits(EventKind::OomKill, &one, 0)), "without a limit");
    }

    #[test]
    fn full_buckets_are_forgotten() {
        let mut limiter = limiter(1, 1);
        for time in 0..10 * SWEEP_AT as u64 {
            assert!(limiter.admits(EventKind::Exec, &Arc::default(), time * SECOND));
        }
        assert!(limiter.buckets.len() <= 2 * SWEEP_AT);
    }
}
