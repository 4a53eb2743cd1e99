//! The series store: cumulative readings of kernel things in, monotone series of workloads out.
//!
//! A *cell* is one thing that is read: (metric, subject, values). It remembers what it saw last, and its growth is
//! added to the *series* of its workload. Many cells may share a series, a cell may change its series, and a cell
//! that goes leaves what it added. So totals never fall and nothing is counted twice.

mod family;
mod subjects;
mod total;

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::HashTable;
use model::{Attributes, Family, Kind, Metric, MetricRef, Resolver, Scope, Series, Subject, Text};

use crate::collector::{Content, Reading, Scrape};
use family::Group;
use subjects::{Owner, Subjects};
use total::{Last, Total};

/// How many series there may be, and how long a dead one stays.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Series of one metric; what is past it folds into the metric's overflow series.
    pub series_per_metric: usize,
    /// Series of all collectors together.
    pub series_total: usize,
    /// Nanoseconds that a series stays after its workload has ended.
    pub series_ttl: u64,
}

/// When a gather takes place, in Unix nanoseconds, and what came before it.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// The gather's number, from 1.
    pub number: u64,
    /// When it began.
    pub now: u64,
    /// When the one before it began; 0 before the first.
    pub before: u64,
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
    subjects: Subjects,
    sources: Vec<Source>,
    remainders: Vec<Remainder>,
    active: Vec<(f64, u32)>,
    empty: Arc<Attributes>,
    overflow: Arc<Attributes>,
    next_series: u64,
    total: usize,
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
            subjects: Subjects::default(),
            sources: Vec::new(),
            remainders: Vec::new(),
            active: Vec::new(),
            empty: Arc::default(),
            overflow: Arc::new(overflow),
            next_series: 1,
            total: 0,
        }
    }

    /// Declares the metrics of a collector, in the order in which families are to appear.
    pub fn declare(&mut self, metrics: &[&'static Metric], scope: &Arc<Scope>) {
        for &metric in metrics {
            self.group_of.entry(std::ptr::from_ref(metric) as usize).or_insert_with(|| {
                self.groups.push(Group::new(MetricRef::Static(metric), Arc::clone(scope)));
                (self.groups.len() - 1) as u32
            });
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
    pub fn forget(&mut self, collector: u16, now: u64) {
        for at in 0..self.cells.len() as u32 {
            if self.cells[at as usize].as_ref().is_some_and(|cell| cell.collector == collector) {
                self.drop_cell(at, now);
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
            group.expire(moment.now, self.limits.series_ttl, acknowledged);
            self.total -= before - group.len();
        }
        self.compact();
        self.groups.iter().filter_map(|group| group.family(moment.number)).collect()
    }

    /// Gives, for each metric, its name, its number of series and how many cells were folded since the last time.
    pub fn sizes(&mut self) -> impl Iterator<Item = (&str, usize, u64)> {
        self.groups.iter_mut().map(|group| (group.metric.name.as_ref(), group.len(), std::mem::take(&mut group.folds)))
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
        let cell = Cell {
            metric: reading.metric,
            subject: reading.subject,
            dimension: self.dimension(reading.metric, values),
            collector,
            group,
            known,
            version: u32::MAX,
            place: Place::Nowhere,
            last: Last::Nothing,
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
            }
            return;
        };
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

    /// Finds the series of a cell whose owner has changed.
    fn relocate(&mut self, at: u32, content: &Content, attached: u64, moment: Moment) {
        let Some(cell) = &self.cells[at as usize] else { return };
        let known = self.subjects.get(cell.known);
        if cell.version == known.version && cell.place != Place::Waiting {
            return;
        }
        let (version, owner) = (known.version, known.owner.clone());
        let (group, dimensions) = (cell.group, Arc::clone(&cell.dimension.attributes));
        let place = match owner {
            Owner::Workload(entity) => self.place(group, &entity, &dimensions, content, attached, moment),
            Owner::Overflow => {
                self.overflow_series(group, content, attached, moment);
                Place::Overflow
            }
            Owner::Waiting => Place::Waiting,
            Owner::Excluded => Place::Nowhere,
        };
        self.leave(at, moment.now);
        self.enter(at, place);
        if let Some(cell) = &mut self.cells[at as usize] {
            cell.version = version;
        }
    }

    fn enter(&mut self, at: u32, place: Place) {
        let Some(cell) = &mut self.cells[at as usize] else { return };
        cell.place = place;
        let group = &mut self.groups[cell.group as usize];
        if place == Place::Folded {
            group.folds += 1;
        }
        if let Place::Series(series) = place
            && let Some(entry) = group.entry(series)
        {
            entry.cells += 1;
            entry.died = None;
        }
    }

    fn leave(&mut self, at: u32, now: u64) {
        let Some(cell) = &mut self.cells[at as usize] else { return };
        let group = &mut self.groups[cell.group as usize];
        match cell.place {
            Place::Series(series) => {
                if let Some(entry) = group.entry(series) {
                    entry.cells -= 1;
                    if entry.cells == 0 {
                        entry.died = Some(now);
                    }
                }
            }
            Place::Nowhere | Place::Folded | Place::Overflow | Place::Waiting => {}
        }
        cell.place = Place::Nowhere;
    }

    /// Finds or makes the series of a workload; the overflow series when there is no room.
    fn place(
        &mut self,
        group: u32,
        entity: &Arc<Attributes>,
        dimensions: &Arc<Attributes>,
        content: &Content,
        attached: u64,
        moment: Moment,
    ) -> Place {
        let found = self.groups[group as usize].find(entity, dimensions);
        if let Some(series) = found {
            return Place::Series(series);
        }
        if self.groups[group as usize].len() >= self.limits.series_per_metric || self.total >= self.limits.series_total
        {
            self.overflow_series(group, content, attached, moment);
            return Place::Folded;
        }
        let series = self.new_series(entity, dimensions, attached, moment);
        self.total += 1;
        Place::Series(self.groups[group as usize].insert(series, Total::zero(content)))
    }

    fn overflow_series(&mut self, group: u32, content: &Content, attached: u64, moment: Moment) {
        if self.groups[group as usize].overflow.is_none() {
            let (entity, dimensions) = (Arc::clone(&self.overflow), Arc::clone(&self.empty));
            let series = self.new_series(&entity, &dimensions, attached, moment);
            self.groups[group as usize].insert_overflow(series, Total::zero(content));
        }
    }

    fn new_series(
        &mut self,
        entity: &Arc<Attributes>,
        dimensions: &Arc<Attributes>,
        attached: u64,
        moment: Moment,
    ) -> Arc<Series> {
        let id = self.next_series;
        self.next_series += 1;
        let (entity, dimensions) = (Arc::clone(entity), Arc::clone(dimensions));
        Arc::new(Series { id, entity, dimensions, start: attached.max(moment.before) })
    }

    /// Ends a cell; what has no owner yet is kept until it has one.
    fn close(&mut self, at: u32, reading: &Reading, counts: &[u32], attached: u64, moment: Moment) {
        let waits = self.cells[at as usize].as_ref().is_some_and(|cell| cell.place == Place::Waiting);
        if !waits {
            self.drop_cell(at, moment.now);
            return;
        }
        self.unlist(at);
        let (mut content, mut kept) = (reading.content, Box::default());
        if let Content::Distribution { at: from, len, .. } = &mut content {
            kept = counts[*from as usize..(*from + *len) as usize].into();
            *from = 0;
        }
        self.remainders.push(Remainder { cell: at, content, counts: kept, attached });
    }

    fn settle(&mut self, remainder: Remainder, moment: Moment) {
        self.apply(remainder.cell, &remainder.content, &remainder.counts, remainder.attached, moment);
        if self.cells[remainder.cell as usize].as_ref().is_some_and(|cell| cell.place == Place::Waiting) {
            self.remainders.push(remainder);
        } else {
            self.leave(remainder.cell, moment.now);
            self.release(remainder.cell);
        }
    }

    fn drop_cell(&mut self, at: u32, now: u64) {
        self.leave(at, now);
        self.unlist(at);
        self.release(at);
    }

    /// Takes a cell out of the index, so that a new one may have its key.
    fn unlist(&mut self, at: u32) {
        let Some(cell) = &self.cells[at as usize] else { return };
        let key = (std::ptr::from_ref(cell.metric) as usize, cell.subject, &*cell.dimension.values);
        let hash = self.hasher.hash_one(key);
        if let Ok(found) = self.index.find_entry(hash, |&other| other == at) {
            found.remove();
            self.sources[usize::from(cell.collector)].cells -= 1;
        }
    }

    fn release(&mut self, at: u32) {
        if let Some(cell) = self.cells[at as usize].take() {
            self.subjects.get_mut(cell.known).cells -= 1;
            self.free.push(at);
        }
    }

    /// Drops the cells of gauges that a collector no longer shows.
    fn sweep(&mut self, collector: u16, moment: Moment) {
        for at in 0..self.cells.len() as u32 {
            let Some(cell) = &self.cells[at as usize] else { continue };
            let waits = cell.place == Place::Waiting;
            if cell.collector == collector
                && !waits
                && cell.seen + 2 <= moment.number
                && cell.metric.kind == Kind::Gauge
            {
                self.drop_cell(at, moment.now);
            }
        }
    }

    /// Gives the busiest folded cells the room of series that have not changed for a while.
    fn admit(&mut self, moment: Moment, acknowledged: u64) {
        const AT_ONCE: usize = 64;
        let mut active = std::mem::take(&mut self.active);
        active.sort_unstable_by(|a, b| b.0.total_cmp(&a.0));
        for (_, at) in active.drain(..).take(AT_ONCE) {
            let Some(cell) = &self.cells[at as usize] else { continue };
            let (group, known) = (cell.group, self.subjects.get(cell.known));
            let Owner::Workload(entity) = known.owner.clone() else { continue };
            let dimensions = Arc::clone(&cell.dimension.attributes);
            let Some(shape) = self.shape(at) else { continue };
            let found = self.groups[group as usize].find(&entity, &dimensions);
            if found.is_none() && !self.make_room(group, moment, acknowledged) {
                continue;
            }
            // It counts on from here: the growth of this gather is in the overflow series already.
            let attached = moment.now;
            let place = self.place(group, &entity, &dimensions, &shape, attached, moment);
            self.leave(at, moment.now);
            self.enter(at, place);
        }
        self.active = active;
    }

    fn shape(&self, at: u32) -> Option<Content> {
        let cell = self.cells[at as usize].as_ref()?;
        match &cell.last {
            Last::Number(value) => Some(Content::Number(*value)),
            Last::Distribution { counts, .. } => {
                let overflow = self.groups[cell.group as usize].overflow?;
                let entry = self.groups[cell.group as usize].entries[overflow as usize].as_ref()?;
                let Total::Distribution { scale, first, .. } = entry.total else { return None };
                Some(Content::Distribution {
                    sum: 0,
                    zero: 0,
                    scale,
                    first,
                    at: 0,
                    len: counts.len() as u32,
                    weight: 1,
                })
            }
            Last::Nothing => None,
        }
    }

    /// Removes the series of a full metric that has been idle longest, those first whose value every receiver has;
    /// says whether there is room now.
    fn make_room(&mut self, group: u32, moment: Moment, acknowledged: u64) -> bool {
        const IDLE_GATHERS: u64 = 4;
        let full = self.groups[group as usize].len() >= self.limits.series_per_metric;
        if !full && self.total < self.limits.series_total {
            return true;
        }
        let overflow = self.groups[group as usize].overflow;
        let entries = self.groups[group as usize].entries.iter().enumerate();
        let victim = entries
            .filter_map(|(at, entry)| entry.as_ref().map(|entry| (entry.changed, at as u32)))
            .filter(|&(changed, at)| overflow != Some(at) && changed + IDLE_GATHERS <= moment.number)
            .min_by_key(|&(changed, at)| (changed > acknowledged, changed, at));
        let Some((_, victim)) = victim else { return false };
        for at in 0..self.cells.len() as u32 {
            let place = self.cells[at as usize].as_ref().filter(|cell| cell.group == group).map(|cell| cell.place);
            if place == Some(Place::Series(victim)) {
                self.leave(at, moment.now);
                self.enter(at, Place::Folded);
            }
        }
        self.groups[group as usize].remove(victim);
        self.total -= 1;
        true
    }

    fn compact(&mut self) {
        let Some(places) = self.subjects.compact() else { return };
        for cell in self.cells.iter_mut().flatten() {
            if let Some(new) = places[cell.known as usize] {
                cell.known = new;
            }
        }
        self.dimensions.retain(|_, dimension| Arc::strong_count(dimension) > 1);
    }
}

#[cfg(test)]
mod tests;
