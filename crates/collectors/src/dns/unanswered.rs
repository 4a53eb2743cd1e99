//! Queries that got no answer in time: swept out of the kernel's map of what is pending, and counted here.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use bpf::abi::dns::{Asked, Pending, QUERY, ROLE_CLIENT, ROLE_SERVER, Tally};
use bpf::{Object, Table};
use model::{Metric, Subject};
use runtime::{MakeError, Platform, Scrape};
use rustix::time::{ClockId, clock_gettime};

use super::config::Config;
use super::names;
use crate::retire::Retirement;
use crate::table::{Entry, subject};

/// The least pause between two sweeps that nobody asked for.
const PAUSE: Duration = Duration::from_secs(1);

/// Nobody's cgroup: whose unanswered queries had no room of their own.
const BEYOND: u64 = u64::MAX;
const ROLES: [u16; 2] = [ROLE_CLIENT, ROLE_SERVER];

/// Gives the entries of the map that keeps the counts for the next agent: of as many workloads as have latencies.
pub(super) fn entries(config: &Config, platform: &Platform) -> u32 {
    platform.scaled(config.max_latencies) + ROLES.len() as u32
}

/// The unanswered queries of every workload so far.
pub(super) struct Unanswered {
    pending: Table<Asked, Pending>,
    /// The counts as the next agent gets them, where there may be one that goes on.
    kept: Option<Table<Tally, u64>>,
    /// How long answers are awaited, in nanoseconds.
    window: u64,
    /// By cgroup and role.
    counts: HashMap<(u64, u32), u64>,
    dead: Retirement<(u64, u32)>,
}

impl Unanswered {
    pub(super) fn open(object: &Object, window: u64, platform: &Platform) -> Result<Self, MakeError> {
        let pending = object.hash("dns_pending").map_err(crate::refused)?;
        let dead = Retirement::new(platform.census.clone());
        let mut unanswered = Self { pending, kept: None, window, counts: HashMap::new(), dead };
        if platform.lasting().is_some() {
            let mut kept = object.hash("dns_timeouts").map_err(crate::refused)?;
            let entries = kept.entries().map_err(crate::refused)?;
            let counts = entries.into_iter().map(|(key, count): (Tally, u64)| ((key.cgroup, key.role.into()), count));
            unanswered.counts = counts.collect();
            // What finds the map full has its place before.
            for role in ROLES {
                let count = unanswered.counts.entry((BEYOND, role.into())).or_default();
                kept.insert(&tally((BEYOND, role.into())), count).map_err(crate::refused)?;
            }
            unanswered.kept = Some(kept);
        }
        Ok(unanswered)
    }

    /// Gives how many had no room in the map that is kept, where there is one.
    pub(super) fn beyond(&self) -> Option<u64> {
        let of = |role: u16| self.counts.get(&(BEYOND, role.into())).copied().unwrap_or_default();
        self.kept.is_some().then(|| ROLES.into_iter().map(of).sum())
    }

    /// Counts unanswered queries of a workload in a role.
    fn count(&mut self, of: (u64, u32), queries: u32) -> Result<(), bpf::Error> {
        let mut of = of;
        if let Some(kept) = &mut self.kept {
            let total = |of| self.counts.get(&of).copied().unwrap_or_default() + u64::from(queries);
            if kept.insert(&tally(of), &total(of)).is_err() {
                of.0 = BEYOND;
                kept.insert(&tally(of), &total(of))?;
            }
        }
        *self.counts.entry(of).or_default() += u64::from(queries);
        Ok(())
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
            self.count((query.cgroup, key.role), unanswered)?;
        }
        Ok(())
    }

    /// Says whether nothing can be added to an entry any more: it was answered, or no answer counts from now on.
    fn is_over(&self, query: &Pending, now: u64) -> bool {
        query.time == 0 || now.saturating_sub(query.time) > self.window
    }

    /// Records the count of every workload.
    ///
    /// # Errors
    /// Fails when the kernel refuses to change the map that is kept.
    pub(super) fn record(&mut self, scrape: &mut Scrape, metric: &'static Metric) -> Result<(), bpf::Error> {
        let Self { counts, kept, dead, .. } = self;
        for (&(cgroup, role), &count) in counts.iter().filter(|(_, count)| **count > 0) {
            if cgroup == BEYOND {
                Entry::new(scrape, Subject::Overflow, false).count(metric, ["".into()], count);
            } else if !dead.note((cgroup, role), cgroup, count) {
                Entry::new(scrape, subject(cgroup), false).count(metric, [names::role(role).into()], count);
            }
        }
        for (cgroup, role) in dead.finish() {
            if let Some(kept) = kept {
                kept.take(&tally((cgroup, role)))?;
            }
            if let Some(count) = counts.remove(&(cgroup, role)) {
                Entry::new(scrape, subject(cgroup), true).count(metric, [names::role(role).into()], count);
            }
        }
        Ok(())
    }
}

fn tally((cgroup, role): (u64, u32)) -> Tally {
    Tally { cgroup, code: 0, role: role as u16, what: QUERY }
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
