//! Queries that got no answer in time: swept out of the kernel's map of what is pending, and counted here.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use bpf::abi::dns::{Asked, Pending};
use bpf::{Object, Table};
use model::Metric;
use runtime::{MakeError, Platform, Scrape};
use rustix::time::{ClockId, clock_gettime};

use super::names;
use crate::retire::Retirement;
use crate::table::{Entry, subject};

/// The least pause between two sweeps that nobody asked for.
const PAUSE: Duration = Duration::from_secs(1);

/// The unanswered queries of every workload so far.
pub(super) struct Unanswered {
    pending: Table<Asked, Pending>,
    /// How long answers are awaited, in nanoseconds.
    window: u64,
    /// By cgroup and role.
    counts: HashMap<(u64, u32), u64>,
    dead: Retirement<(u64, u32)>,
}

impl Unanswered {
    pub(super) fn open(object: &Object, window: u64, platform: &Platform) -> Result<Self, MakeError> {
        let pending = object.hash("dns_pending").map_err(crate::refused)?;
        Ok(Self { pending, window, counts: HashMap::new(), dead: Retirement::new(platform.census.clone()) })
    }

    /// Counts what is overdue, and frees its entries.
    pub(super) fn sweep(&mut self) -> Result<(), bpf::Error> {
        let now = now();
        for (key, query) in self.pending.entries()? {
            if !self.is_over(&query, now) {
                continue;
            }
            // Its answer may have just come.
            let Some(query) = self.pending.take(&key)? else { continue };
            let mut unanswered = query.before;
            if self.is_over(&query, now) {
                unanswered += u32::from(query.time != 0);
            } else {
                // It was asked again meanwhile.
                self.pending.insert(&key, &Pending { before: 0, ..query })?;
            }
            *self.counts.entry((query.cgroup, key.role)).or_default() += u64::from(unanswered);
        }
        Ok(())
    }

    /// Says whether nothing can be added to an entry any more: it was answered, or no answer counts from now on.
    fn is_over(&self, query: &Pending, now: u64) -> bool {
        query.time == 0 || now.saturating_sub(query.time) > self.window
    }

    /// Records the count of every workload.
    pub(super) fn record(&mut self, scrape: &mut Scrape, metric: &'static Metric) {
        let Self { counts, dead, .. } = self;
        for (&(cgroup, role), &count) in counts.iter().filter(|(_, count)| **count > 0) {
            if !dead.note((cgroup, role), cgroup, count) {
                Entry::new(scrape, subject(cgroup), false).count(metric, [names::role(role).into()], count);
            }
        }
        for (cgroup, role) in dead.finish() {
            if let Some(count) = counts.remove(&(cgroup, role)) {
                Entry::new(scrape, subject(cgroup), true).count(metric, [names::role(role).into()], count);
            }
        }
    }
}

/// Sweeps from time to time until the collector is dropped, so that the kernel's map has room when nobody scrapes.
pub(super) async fn keep_sweeping(unanswered: Weak<Mutex<Unanswered>>, window: u64) {
    let pause = Duration::from_nanos(window).max(PAUSE);
    loop {
        tokio::time::sleep(pause).await;
        let Some(unanswered) = unanswered.upgrade() else { return };
        if let Err(error) = lock(&unanswered).sweep() {
            tracing::debug!("unanswered queries: {error}");
        }
    }
}

pub(super) fn lock(unanswered: &Arc<Mutex<Unanswered>>) -> std::sync::MutexGuard<'_, Unanswered> {
    unanswered.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Gives the time as programs see it.
fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
