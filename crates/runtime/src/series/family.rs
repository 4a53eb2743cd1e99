//! The series of one metric: found by attributes, bounded by the budget, removed when they are old.

use std::hash::BuildHasher;
use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::HashTable;
use model::{Attributes, Family, HistogramPoint, Kind, MetricRef, NumberPoint, Points, Scope, Series};

use super::shares::Shares;
use super::total::Total;

#[derive(Debug)]
pub(super) struct Entry {
    pub series: Arc<Series>,
    pub total: Total,
    /// The gather that last changed the total.
    pub changed: u64,
    /// The gather that last had a reading for it.
    pub seen: u64,
    /// How many cells add to it.
    pub cells: u32,
    /// When its last cell went, in steady nanoseconds.
    pub died: Option<u64>,
}

/// All series of one metric.
#[derive(Debug)]
pub(super) struct Group {
    pub metric: MetricRef,
    pub scope: Arc<Scope>,
    /// Whether what is read speaks of the cluster.
    pub of_cluster: bool,
    /// Samples of one series in the Prometheus text.
    pub weight: usize,
    pub entries: Vec<Option<Entry>>,
    free: Vec<u32>,
    index: HashTable<u32>,
    hasher: RandomState,
    pub overflow: Option<u32>,
    /// How many cells went into the overflow series for want of room since that was last asked.
    pub folds: u64,
}

impl Group {
    pub fn new(metric: MetricRef, scope: Arc<Scope>, weight: usize) -> Self {
        Self {
            metric,
            scope,
            of_cluster: false,
            weight,
            entries: Vec::new(),
            free: Vec::new(),
            index: HashTable::new(),
            hasher: RandomState::default(),
            overflow: None,
            folds: 0,
        }
    }

    /// Gives the number of series, the overflow series aside.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    fn hash(&self, entity: &Arc<Attributes>, dimensions: &Arc<Attributes>) -> u64 {
        self.hasher.hash_one((Arc::as_ptr(entity) as usize, Arc::as_ptr(dimensions) as usize))
    }

    /// Finds the series with these very sets (both are interned, so their addresses tell).
    pub fn find(&self, entity: &Arc<Attributes>, dimensions: &Arc<Attributes>) -> Option<u32> {
        let same = |&at: &u32| {
            self.entries[at as usize].as_ref().is_some_and(|entry| {
                Arc::ptr_eq(&entry.series.entity, entity) && Arc::ptr_eq(&entry.series.dimensions, dimensions)
            })
        };
        self.index.find(self.hash(entity, dimensions), same).copied()
    }

    /// Adds a series that is not there yet.
    pub fn insert(&mut self, series: Arc<Series>, total: Total) -> u32 {
        let hash = self.hash(&series.entity, &series.dimensions);
        let at = self.place(series, total);
        let (entries, hasher) = (&self.entries, &self.hasher);
        let rehash = |&at: &u32| {
            entries[at as usize].as_ref().map_or(0, |entry| {
                let series = &entry.series;
                hasher.hash_one((Arc::as_ptr(&series.entity) as usize, Arc::as_ptr(&series.dimensions) as usize))
            })
        };
        self.index.insert_unique(hash, at, rehash);
        at
    }

    /// Adds the overflow series.
    pub fn insert_overflow(&mut self, series: Arc<Series>, total: Total) -> u32 {
        let at = self.place(series, total);
        self.overflow = Some(at);
        at
    }

    fn place(&mut self, series: Arc<Series>, total: Total) -> u32 {
        let entry = Some(Entry { series, total, changed: 0, seen: 0, cells: 0, died: None });
        if let Some(at) = self.free.pop() {
            self.entries[at as usize] = entry;
            at
        } else {
            self.entries.push(entry);
            (self.entries.len() - 1) as u32
        }
    }

    pub fn remove(&mut self, at: u32) {
        let Some(entry) = self.entries[at as usize].take() else { return };
        let hash = self.hash(&entry.series.entity, &entry.series.dimensions);
        if let Ok(found) = self.index.find_entry(hash, |&other| other == at) {
            found.remove();
        }
        self.free.push(at);
    }

    pub fn entry(&mut self, at: u32) -> Option<&mut Entry> {
        self.entries.get_mut(at as usize).and_then(Option::as_mut)
    }

    /// Removes the series whose workload ended `ttl` nanoseconds ago, but before this gather, so that its final value
    /// was seen, and whose final value every receiver has.
    pub fn expire(&mut self, now: u64, ttl: u64, acknowledged: u64, shares: &mut Shares) {
        for at in 0..self.entries.len() as u32 {
            if self.overflow == Some(at) {
                continue;
            }
            let over = self.entries[at as usize].as_ref().is_some_and(|entry| {
                entry.cells == 0
                    && entry.died.is_some_and(|died| died < now && now - died >= ttl)
                    && entry.changed <= acknowledged
            });
            if over {
                if let Some(entry) = &self.entries[at as usize] {
                    shares.remove(&entry.series.entity, self.weight);
                }
                self.remove(at);
            }
        }
    }

    /// Gives the family as readers see it after gather `number`, or nothing when it has no points.
    pub fn family(&self, number: u64) -> Option<Family> {
        let shown = |entry: &&Entry| self.metric.kind != Kind::Gauge || entry.seen == number;
        let entries = || self.entries.iter().flatten().filter(shown);
        let points = if self.metric.kind == Kind::Histogram {
            let mut points = Vec::with_capacity(self.entries.len());
            let mut all = Vec::new();
            for entry in entries() {
                let Total::Distribution { sum, zero, count, scale, first, counts } = &entry.total else { continue };
                let series = Arc::clone(&entry.series);
                let (at, len) = (all.len() as u32, counts.len() as u32);
                if all.capacity() == 0 {
                    all.reserve(counts.len() * self.entries.len());
                }
                all.extend_from_slice(counts);
                let (sum, zero, count, scale, first) = (*sum, *zero, *count, *scale, *first);
                points.push(HistogramPoint { series, sum, count, zero, scale, first, at, len });
            }
            if points.is_empty() {
                return None;
            }
            Points::Histogram { points, counts: all }
        } else {
            let mut points = Vec::with_capacity(self.entries.len());
            for entry in entries() {
                if let Some(value) = entry.total.number() {
                    points.push(NumberPoint { series: Arc::clone(&entry.series), value });
                }
            }
            if points.is_empty() {
                return None;
            }
            Points::Numbers(points)
        };
        let (metric, scope) = (self.metric.clone(), Arc::clone(&self.scope));
        Some(Family { metric, scope, of_cluster: self.of_cluster, points })
    }
}
