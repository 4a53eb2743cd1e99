//! How many samples of an exposition each workload takes, and what gives way where it is more than its share.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use model::metric::spaced;
use model::{Attributes, Kind, Metric};

use super::{IDLE_GATHERS, Limits, Moment, Place, Store};

/// How many workloads may always have their whole share: fewer may have what those leave.
pub const WORKLOADS: usize = 60;

/// Samples by workload; what belongs to none (the node's own series) has no bound here.
#[derive(Debug, Default)]
pub(super) struct Shares {
    /// By the address of the workload's attributes.
    of: HashMap<usize, usize>,
    all: usize,
}

/// Gives how many samples a series of a metric has in the Prometheus text.
pub(super) fn weight(metric: &Metric, bucket_doublings: u8) -> usize {
    // Beside the bounds there are `+Inf`, the sum and the count.
    if metric.kind == Kind::Histogram { spaced(metric.bounds, bucket_doublings).count() + 3 } else { 1 }
}

/// When it last changed, its samples, its metric and its place there.
type Candidate = (Reverse<u64>, usize, u32, u32);

/// Series that may make room, by workload, and those that have.
#[derive(Debug, Default)]
pub(super) struct Idle {
    /// The one that has been idle for longest stands last.
    by_entity: HashMap<usize, Vec<Candidate>>,
    pub given: HashSet<(u32, u32)>,
}

impl Shares {
    pub fn add(&mut self, entity: &Arc<Attributes>, samples: usize) {
        if !entity.is_empty() {
            *self.of.entry(Arc::as_ptr(entity) as usize).or_default() += samples;
            self.all += samples;
        }
    }

    pub fn remove(&mut self, entity: &Arc<Attributes>, samples: usize) {
        let key = Arc::as_ptr(entity) as usize;
        let Some(of) = self.of.get_mut(&key) else { return };
        *of -= samples;
        self.all -= samples;
        if *of == 0 {
            self.of.remove(&key);
        }
    }

    /// Says whether a workload may have so many samples more.
    pub fn has_room(&self, entity: &Arc<Attributes>, samples: usize, limits: &Limits) -> bool {
        entity.is_empty()
            || self.all + samples <= WORKLOADS * limits.samples_per_workload
            || self.of(entity) + samples <= limits.samples_per_workload
    }

    fn of(&self, entity: &Arc<Attributes>) -> usize {
        self.of.get(&(Arc::as_ptr(entity) as usize)).copied().unwrap_or_default()
    }
}

impl Store {
    /// Folds series of those who have more than their share while all together have more than theirs: what has not
    /// changed for longest goes first, then what came last. Gauges stay, they are few.
    pub(super) fn trim(&mut self, moment: Moment) {
        let share = self.limits.samples_per_workload;
        if self.shares.all <= WORKLOADS * share || self.shares.of.values().all(|&of| of <= share) {
            return;
        }
        let mut candidates = Vec::new();
        for (group, of) in self.groups.iter().enumerate().filter(|(_, of)| of.metric.kind != Kind::Gauge) {
            for (at, entry) in of.entries.iter().enumerate() {
                let Some(entry) = entry.as_ref().filter(|entry| self.shares.of(&entry.series.entity) > share) else {
                    continue;
                };
                candidates.push((entry.changed, Reverse(entry.series.id), group as u32, at as u32));
            }
        }
        candidates.sort_unstable();
        let mut victims = HashSet::new();
        for (_, _, group, at) in candidates {
            if self.shares.all <= WORKLOADS * share {
                break;
            }
            let of = &self.groups[group as usize];
            let Some(entity) = of.entries[at as usize].as_ref().map(|entry| Arc::clone(&entry.series.entity)) else {
                continue;
            };
            if self.shares.of(&entity) > share {
                self.shares.remove(&entity, of.weight);
                victims.insert((group, at));
            }
        }
        self.fold(&victims, moment);
    }

    /// Gives what has been idle for a while of those of these workloads that have no room for a sample more.
    pub(super) fn idle(&self, wanting: &[Arc<Attributes>], moment: Moment) -> Idle {
        let lacks_room = |entity: &&Arc<Attributes>| !self.shares.has_room(entity, 1, &self.limits);
        let mut idle: HashMap<usize, Vec<_>> =
            wanting.iter().filter(lacks_room).map(|entity| (Arc::as_ptr(entity) as usize, Vec::new())).collect();
        if idle.is_empty() {
            return Idle::default();
        }
        for (group, of) in self.groups.iter().enumerate().filter(|(_, of)| of.metric.kind != Kind::Gauge) {
            for (at, entry) in of.entries.iter().enumerate() {
                let Some(entry) = entry.as_ref().filter(|entry| entry.changed + IDLE_GATHERS <= moment.number) else {
                    continue;
                };
                if let Some(list) = idle.get_mut(&(Arc::as_ptr(&entry.series.entity) as usize)) {
                    list.push((Reverse(entry.changed), of.weight, group as u32, at as u32));
                }
            }
        }
        for list in idle.values_mut() {
            list.sort_unstable();
        }
        Idle { by_entity: idle, given: HashSet::new() }
    }

    /// Makes room within a workload's share from what has been idle for longest; says whether there is enough now.
    pub(super) fn make_share(&mut self, entity: &Arc<Attributes>, samples: usize, idle: &mut Idle) -> bool {
        while !self.shares.has_room(entity, samples, &self.limits) {
            let next = idle.by_entity.get_mut(&(Arc::as_ptr(entity) as usize)).and_then(Vec::pop);
            let Some((_, weight, group, at)) = next else { return false };
            self.shares.remove(entity, weight);
            idle.given.insert((group, at));
        }
        true
    }

    /// Removes series whose samples are given up already; what still grows does so in the overflow series.
    pub(super) fn fold(&mut self, victims: &HashSet<(u32, u32)>, moment: Moment) {
        if victims.is_empty() {
            return;
        }
        for at in 0..self.cells.len() as u32 {
            let Some(cell) = &self.cells[at as usize] else { continue };
            let group = cell.group;
            if let Place::Series(series) = cell.place
                && victims.contains(&(group, series))
            {
                self.overflow_like(group, series, moment);
                self.leave(at, moment.steady);
                self.enter(at, Place::Folded);
            }
        }
        for &(group, at) in victims {
            self.groups[group as usize].remove(at);
            self.total -= 1;
        }
    }

    /// Makes the overflow series of a metric, if there is none, in the shape of another series.
    fn overflow_like(&mut self, group: u32, series: u32, moment: Moment) {
        let of = &mut self.groups[group as usize];
        let total = of.entry(series).map(|entry| entry.total.cleared());
        if let (None, Some(total)) = (of.overflow, total) {
            let (entity, dimensions) = (Arc::clone(&self.overflow), Arc::clone(&self.empty));
            let series = self.new_series(&entity, &dimensions, moment.before, moment);
            self.groups[group as usize].insert_overflow(series, total);
        }
    }
}
