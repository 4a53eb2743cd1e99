//! The series store: cumulative readings of kernel things in, monotone series of workloads out.
//!
//! A *cell* is one thing that is read: (metric, subject, values). It remembers what it saw last, and its growth is
//! added to the *series* of its workload. Many cells may share a series, a cell may change its series, and a cell
//! that goes leaves what it added. So totals never fall and nothing is counted twice.

mod checkpoint;
mod family;
mod places;
mod shares;
mod subjects;
mod total;

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::HashTable;
use model::{Attributes, Family, Kind, Metric, MetricRef, Resolver, Scope, Subject, Text, Value};

use crate::collector::{Content, Reading, Scrape};
use checkpoint::Resumed;
pub(crate) use checkpoint::{Checkpoint, Saving};
use family::Group;
use shares::Shares;
pub use shares::WORKLOADS;
use subjects::Subjects;
use total::{Last, Total};

/// How many series there may be, and how long a dead one stays.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Series of one metric; what is past it folds into the metric's overflow series.
    pub series_per_metric: usize,
    /// Series of all collectors together.
    pub series_total: usize,
    /// Samples in the Prometheus text that each workload may have in any case, where a histogram counts with all its
    /// lines. As long as all together have fewer than [`WORKLOADS`] times as many, each may have more.
    pub samples_per_workload: usize,
    /// How many doublings lie between the bounds of a histogram in that text at least.
    pub bucket_doublings: u8,
    /// Nanoseconds that a series stays after its workload has ended.
    pub series_ttl: u64,
}

/// When a gather takes place, and what came before it.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// The gather's number, from 1.
    pub number: u64,
    /// When it began, in Unix nanoseconds.
    pub now: u64,
    /// When the one before it began; 0 before the first.
    pub before: u64,
    /// When it began, in nanoseconds of a clock that nobody sets.
    pub steady: u64,
}

/// Where a scrape comes from.
#[derive(Clone, Copy, Debug)]
pub struct Origin {
    /// The collector's number.
    pub collector: u16,
    /// When it was attached, in Unix nanoseconds.
    pub attached: u64,
    /// Whether this gather has a later scrape of the same collector: then only what is cumulative counts.
    pub superseded: bool,
}

/// After how many gathers without growth a series may make room for another.
const IDLE_GATHERS: u64 = 4;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    Nowhere,
    Series(u32),
    /// The overflow series, for want of room.
    Folded,
    /// The overflow series, because the kernel could not tell more.
    Overflow,
    Waiting,
}

#[derive(Debug)]
struct Cell {
    metric: &'static Metric,
    subject: Subject,
    dimension: Arc<Dimension>,
    collector: u16,
    group: u32,
    known: u32,
    version: u32,
    place: Place,
    last: Last,
    seen: u64,
    /// Its position in the last scrape of its collector.
    position: u32,
}

#[derive(Debug)]
struct Dimension {
    values: Box<[Text]>,
    attributes: Arc<Attributes>,
}

/// What one collector left in its last scrape.
#[derive(Debug, Default)]
struct Source {
    order: Vec<u32>,
    cells: usize,
}

/// A final reading whose workload is not known yet.
#[derive(Debug)]
struct Remainder {
    cell: u32,
    content: Content,
    counts: Box<[u32]>,
    attached: u64,
}

/// All series of all collectors.
pub struct Store {
    limits: Limits,
    cells: Vec<Option<Cell>>,
    free: Vec<u32>,
    index: HashTable<u32>,
    hasher: RandomState,
    groups: Vec<Group>,
    group_of: HashMap<usize, u32>,
    dimensions: HashMap<(usize, Box<[Text]>), Arc<Dimension>>,
    /// How many of them were in use when that was last looked at.
    kept: usize,
    subjects: Subjects,
    sources: Vec<Source>,
    remainders: Vec<Remainder>,
    active: Vec<(f64, u32)>,
    empty: Arc<Attributes>,
    overflow: Arc<Attributes>,
    next_series: u64,
    total: usize,
    shares: Shares,
    /// What cells of traffic between two have that wait for a name: who counts it may take it for counted.
    waiting: HashMap<u32, u64>,
    /// By collector, until all that its maps hold has been read.
    resumed: HashMap<u16, Resumed>,
    /// Whether there may be no new series, for want of memory.
    scarce: bool,
}

impl Store {
    /// Makes an empty store.
    pub fn new(limits: Limits) -> Self {
        let overflow = Attributes::new([("otel.metric.overflow".into(), "true".into())]);
        Self {
            limits,
            cells: Vec::new(),
            free: Vec::new(),
            index: HashTable::new(),
            hasher: RandomState::default(),
            groups: Vec::new(),
            group_of: HashMap::new(),
            dimensions: HashMap::new(),
            kept: 0,
            subjects: Subjects::default(),
            sources: Vec::new(),
            remainders: Vec::new(),
            active: Vec::new(),
            empty: Arc::default(),
            overflow: Arc::new(overflow),
            next_series: 1,
            total: 0,
            shares: Shares::default(),
            waiting: HashMap::new(),
            resumed: HashMap::new(),
            scarce: false,
        }
    }

    /// Says whether memory is scarce: then what has no series yet goes to the overflow series.
    pub fn spare(&mut self, scarce: bool) {
        self.scarce = scarce;
    }

    /// Declares the metrics of a collector, in the order in which families are to appear.
    pub fn declare(&mut self, metrics: &[&'static Metric], scope: &Arc<Scope>) {
        for &metric in metrics {
            self.group_of.entry(std::ptr::from_ref(metric) as usize).or_insert_with(|| {
                self.groups.push(Group::new(
                    MetricRef::Static(metric),
                    Arc::clone(scope),
                    shares::weight(metric, self.limits.bucket_doublings),
                ));
                (self.groups.len() - 1) as u32
            });
        }
    }

    /// Takes other limits. Series past a smaller budget stay until their workloads end.
    pub fn limit(&mut self, limits: Limits) {
        self.limits = limits;
        self.shares = Shares::default();
        for group in &mut self.groups {
            let MetricRef::Static(metric) = group.metric else { continue };
            group.weight = shares::weight(metric, limits.bucket_doublings);
            let overflow = group.overflow;
            let entries = group.entries.iter().enumerate().filter(|(at, _)| overflow != Some(*at as u32));
            for entry in entries.filter_map(|(_, entry)| entry.as_ref()) {
                self.shares.add(&entry.series.entity, group.weight);
            }
        }
    }

    /// Begins a gather: asks again who owns what, and places what waited.
    pub fn begin(&mut self, moment: Moment, resolver: &dyn Resolver) {
        self.subjects.refresh(resolver);
        self.active.clear();
        for remainder in std::mem::take(&mut self.remainders) {
            self.settle(remainder, moment);
        }
    }

    /// Takes over one round of a collector.
    ///
    /// # Errors
    /// Names a metric that the collector did not declare; its readings are left out.
    pub fn merge(
        &mut self,
        origin: Origin,
        scrape: &Scrape,
        moment: Moment,
        resolver: &dyn Resolver,
    ) -> Result<(), String> {
        let Origin { collector, attached, superseded } = origin;
        while self.sources.len() <= usize::from(collector) {
            self.sources.push(Source::default());
        }
        for metric in &scrape.of_cluster {
            let group = self.group_of.get(&(std::ptr::from_ref(*metric) as usize));
            if let Some(group) = group.and_then(|&group| self.groups.get_mut(group as usize)) {
                group.of_cluster = true;
            }
        }
        let mut order = std::mem::take(&mut self.sources[usize::from(collector)].order);
        let mut undeclared = None;
        let (mut expected, mut position) = (0_usize, 0_u32);
        let mut next = Vec::with_capacity(scrape.readings.len());
        for reading in &scrape.readings {
            let at = reading.values as usize;
            let values = &scrape.values[at..at + reading.metric.attributes.len()];
            if superseded && reading.metric.kind == Kind::Gauge {
                continue;
            }
            let guess = order.get(expected).copied().filter(|&cell| self.is(cell, collector, reading, values));
            let known = guess.or_else(|| self.find(collector, reading, values));
            let Some(cell) = known.or_else(|| self.insert(collector, reading, values, resolver)) else {
                undeclared = Some(reading.metric.name.clone());
                continue;
            };
            if let Some(cell) = &mut self.cells[cell as usize] {
                expected = if guess.is_some() { expected + 1 } else { cell.position as usize + 1 };
                cell.position = position;
                cell.seen = moment.number;
            }
            position += 1;
            next.push(cell);
            self.apply(cell, &reading.content, &scrape.counts, attached, moment);
            if reading.last {
                self.close(cell, reading, &scrape.counts, attached, moment);
            }
        }
        order.clear();
        self.sources[usize::from(collector)].order = next;
        if self.sources[usize::from(collector)].cells > scrape.readings.len() {
            self.sweep(collector, moment);
        }
        undeclared.map_or(Ok(()), |name| Err(format!("recorded {name}, which it does not declare")))
    }

    /// Forgets what a collector's cells saw last: it is made anew and counts from 0. Its series keep their totals.
    pub fn forget(&mut self, collector: u16, steady: u64) {
        for at in 0..self.cells.len() as u32 {
            if self.cells[at as usize].as_ref().is_some_and(|cell| cell.collector == collector) {
                self.drop_cell(at, steady);
            }
        }
        if let Some(source) = self.sources.get_mut(usize::from(collector)) {
            source.order.clear();
        }
    }

    /// Ends a gather: admits by activity, removes old series, and gives all families.
    /// `acknowledged` is the last gather that every confirming receiver has.
    pub fn finish(&mut self, moment: Moment, acknowledged: u64) -> Vec<Family> {
        self.admit(moment, acknowledged);
        for group in &mut self.groups {
            let before = group.len();
            group.expire(moment.steady, self.limits.series_ttl, acknowledged, &mut self.shares);
            self.total -= before - group.len();
        }
        self.trim(moment);
        self.compact();
        self.groups.iter().filter_map(|group| group.family(moment.number)).collect()
    }

    /// Gives, for each metric that has had a series, its name, its number of series and how many cells were folded since the last time.
    pub fn sizes(&mut self) -> impl Iterator<Item = (&str, usize, u64)> {
        let used = self.groups.iter_mut().filter(|group| !group.entries.is_empty());
        used.map(|group| (group.metric.name.as_ref(), group.len(), std::mem::take(&mut group.folds)))
    }

    fn hash(&self, reading: &Reading, values: &[Text]) -> u64 {
        self.hasher.hash_one((std::ptr::from_ref(reading.metric) as usize, reading.subject, values))
    }

    fn is(&self, cell: u32, collector: u16, reading: &Reading, values: &[Text]) -> bool {
        self.cells[cell as usize].as_ref().is_some_and(|cell| {
            std::ptr::eq(cell.metric, reading.metric)
                && cell.subject == reading.subject
                && cell.collector == collector
                && *cell.dimension.values == *values
        })
    }

    fn find(&self, collector: u16, reading: &Reading, values: &[Text]) -> Option<u32> {
        self.index.find(self.hash(reading, values), |&cell| self.is(cell, collector, reading, values)).copied()
    }

    fn insert(&mut self, collector: u16, reading: &Reading, values: &[Text], resolver: &dyn Resolver) -> Option<u32> {
        let group = *self.group_of.get(&(std::ptr::from_ref(reading.metric) as usize))?;
        let known = self.subjects.find(reading.subject, resolver);
        self.subjects.get_mut(known).cells += 1;
        let last = self.last_of(collector, reading.metric, reading.subject, values);
        let cell = Cell {
            metric: reading.metric,
            subject: reading.subject,
            dimension: self.dimension(reading.metric, values),
            collector,
            group,
            known,
            version: u32::MAX,
            place: Place::Nowhere,
            last,
            seen: 0,
            position: 0,
        };
        let hash = self.hash(reading, values);
        let at = if let Some(at) = self.free.pop() {
            self.cells[at as usize] = Some(cell);
            at
        } else {
            self.cells.push(Some(cell));
            (self.cells.len() - 1) as u32
        };
        let (cells, hasher) = (&self.cells, &self.hasher);
        let rehash = |&at: &u32| {
            cells[at as usize].as_ref().map_or(0, |cell| {
                hasher.hash_one((std::ptr::from_ref(cell.metric) as usize, cell.subject, &*cell.dimension.values))
            })
        };
        self.index.insert_unique(hash, at, rehash);
        self.sources[usize::from(collector)].cells += 1;
        Some(at)
    }

    fn dimension(&mut self, metric: &'static Metric, values: &[Text]) -> Arc<Dimension> {
        let key = (metric.attributes.as_ptr() as usize, Box::from(values));
        let empty = &self.empty;
        let make = || {
            let pairs = metric.attributes.iter().map(|&key| Text::Static(key)).zip(values.iter().cloned());
            let attributes = Attributes::new(pairs);
            let attributes = if attributes.is_empty() { Arc::clone(empty) } else { Arc::new(attributes) };
            Arc::new(Dimension { values: values.into(), attributes })
        };
        Arc::clone(self.dimensions.entry(key).or_insert_with(make))
    }

    /// Adds a reading's growth to the series of its cell.
    fn apply(&mut self, at: u32, content: &Content, counts: &[u32], attached: u64, moment: Moment) {
        self.relocate(at, content, attached, moment);
        let Some(cell) = &mut self.cells[at as usize] else { return };
        let group = &mut self.groups[cell.group as usize];
        let target = match cell.place {
            Place::Series(series) => Some(series),
            Place::Folded | Place::Overflow => group.overflow,
            Place::Waiting | Place::Nowhere => None,
        };
        let Some(entry) = target.and_then(|series| group.entry(series)) else {
            if cell.place == Place::Nowhere {
                // Excluded: what it counts now is not to appear at once should the filter be lifted.
                Total::zero(content).grow(&mut cell.last, content, counts);
            } else if let (Subject::Pair { .. } | Subject::Facing { .. }, Content::Number(Value::U64(value))) =
                (cell.subject, content)
            {
                self.waiting.insert(at, *value);
            }
            return;
        };
        self.waiting.remove(&at);
        let first = entry.seen != moment.number;
        entry.seen = moment.number;
        if cell.metric.kind == Kind::Gauge {
            entry.total.set(content, first);
            return;
        }
        let growth = entry.total.grow(&mut cell.last, content, counts);
        if growth > 0.0 {
            entry.changed = moment.number;
            if cell.place == Place::Folded {
                self.active.push((growth, at));
            }
        }
    }
}

#[cfg(test)]
mod tests;
