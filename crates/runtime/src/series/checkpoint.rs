//! What the next agent has to know to go on with the series of this one: totals, start times and names, and what each
//! cell saw last.
//!
//! A cell's growth is what its kernel entry has gained since. So it does not matter how old a checkpoint is, and an entry
//! that was freed since then has nothing to add: its total is here, and it was not freed before reads agreed.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use model::{Answer, Attributes, Base, Held, Kept, Kind, Metric, Resolver, Series, Subject, Text, Value, Who};
use serde::{Deserialize, Serialize};

use super::family::Entry;
use super::total::{Last, Total};
use super::{Cell, Place, Store};
use crate::own::SHARED;

/// A whole checkpoint. Texts stand for themselves once, everything else refers to them.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Checkpoint {
    /// When the gather began after which it was written, in Unix nanoseconds.
    pub time: u64,
    texts: Vec<String>,
    /// Pairs of keys and values.
    entities: Vec<Vec<(u32, u32)>>,
    pub parts: Vec<Part>,
}

/// What one collector left.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Part {
    pub collector: String,
    /// When its maps were made: what cells saw last was in these.
    pub since: u64,
    /// What it knows besides its maps.
    pub bequest: Vec<u8>,
    series: Vec<SavedSeries>,
    cells: Vec<SavedCell>,
    /// Whose the cgroups are between which there was traffic.
    parties: Vec<(u64, u32)>,
    /// What still waited for a name, under that which it had by then.
    unnamed: Vec<SavedSeries>,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedSeries {
    metric: u32,
    entity: u32,
    values: Vec<u32>,
    overflow: bool,
    start: u64,
    total: SavedTotal,
}

#[derive(Debug, Serialize, Deserialize)]
enum SavedTotal {
    Whole(u64),
    Real(f64),
    Distribution { sum: f64, zero: u64, count: u64, scale: i8, first: i32, counts: Vec<u64> },
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedCell {
    metric: u32,
    subject: SavedSubject,
    values: Vec<u32>,
    /// Whose it was.
    entity: Option<u32>,
    last: SavedLast,
}

#[derive(Debug, Serialize, Deserialize)]
enum SavedLast {
    Whole(u64),
    Real(f64),
    Distribution { sum: u64, zero: u32, counts: Vec<u32> },
}

#[derive(Debug, Serialize, Deserialize)]
enum SavedSubject {
    Node,
    Cgroup(u64),
    Kernel,
    Overflow,
}

/// A collector whose part is to be saved.
pub(crate) struct Saving<'a> {
    pub collector: u16,
    pub name: &'static str,
    pub since: u64,
    pub metrics: &'a [&'static Metric],
    pub bequest: &'a [u8],
}

/// What cells saw last in the time of the agent before, by metric, subject and values.
pub(super) type Resumed = HashMap<(usize, Subject, Box<[Text]>), Last>;

#[derive(Default)]
struct Writer {
    checkpoint: Checkpoint,
    texts: HashMap<Text, u32>,
    entities: HashMap<usize, u32>,
    /// So that no other entity comes to an address of those.
    held: Vec<Arc<Attributes>>,
}

impl Writer {
    fn text(&mut self, text: &str) -> u32 {
        // Texts compare by what they say.
        if let Some(&at) = self.texts.get(&Text::from(text.to_owned())) {
            return at;
        }
        let at = self.checkpoint.texts.len() as u32;
        self.checkpoint.texts.push(text.to_owned());
        self.texts.insert(Text::from(text.to_owned()), at);
        at
    }

    fn entity(&mut self, entity: &Arc<Attributes>) -> u32 {
        let key = Arc::as_ptr(entity) as usize;
        if let Some(&at) = self.entities.get(&key) {
            return at;
        }
        let pairs = entity.pairs().iter().map(|pair| (self.text(pair.key.as_str()), self.text(pair.value.as_str())));
        let pairs = pairs.collect();
        let at = self.checkpoint.entities.len() as u32;
        self.checkpoint.entities.push(pairs);
        self.entities.insert(key, at);
        at
    }

    fn series(&mut self, metric: &Metric, entry: &Entry, overflow: bool) -> Option<SavedSeries> {
        let Series { entity, dimensions, start, .. } = &*entry.series;
        let total = match &entry.total {
            Total::Number(Value::U64(value)) => SavedTotal::Whole(*value),
            Total::Number(Value::F64(value)) => SavedTotal::Real(*value),
            Total::Mean { .. } => return None,
            &Total::Distribution { sum, zero, count, scale, first, ref counts } => {
                SavedTotal::Distribution { sum, zero, count, scale, first, counts: counts.clone() }
            }
        };
        let values = metric.attributes.iter().map(|key| self.text(dimensions.get(key).unwrap_or_default())).collect();
        Some(SavedSeries {
            metric: self.text(&metric.name),
            entity: self.entity(entity),
            values,
            overflow,
            start: *start,
            total,
        })
    }

    fn cell(&mut self, cell: &Cell, entity: Option<&Arc<Attributes>>) -> Option<SavedCell> {
        let subject = match cell.subject {
            Subject::Node => SavedSubject::Node,
            Subject::Cgroup(id) => SavedSubject::Cgroup(id),
            Subject::Kernel => SavedSubject::Kernel,
            Subject::Overflow => SavedSubject::Overflow,
            // Their numbers mean something else in the next process.
            Subject::Executable(_) | Subject::Pair { .. } | Subject::Facing { .. } => return None,
        };
        let last = match &cell.last {
            Last::Nothing => return None,
            Last::Number(Value::U64(value)) => SavedLast::Whole(*value),
            Last::Number(Value::F64(value)) => SavedLast::Real(*value),
            Last::Distribution { sum, zero, counts } => {
                SavedLast::Distribution { sum: *sum, zero: *zero, counts: counts.to_vec() }
            }
        };
        Some(SavedCell {
            metric: self.text(&cell.metric.name),
            subject,
            values: cell.dimension.values.iter().map(|value| self.text(value.as_str())).collect(),
            entity: entity.map(|entity| self.entity(entity)),
            last,
        })
    }

    /// Gives whose these cgroups are, as far as that is known.
    fn parties(&mut self, cgroups: HashSet<u64>, resolver: &dyn Resolver) -> Vec<(u64, u32)> {
        let known = |id| match resolver.resolve(Subject::Cgroup(id)) {
            Answer::Known(attributes) => Some((id, attributes)),
            _ => None,
        };
        let party = |(id, attributes): (u64, Arc<Attributes>)| {
            let at = self.entity(&attributes);
            self.held.push(attributes);
            (id, at)
        };
        cgroups.into_iter().filter_map(known).map(party).collect()
    }
}

impl Checkpoint {
    fn texts(&self, at: &[u32]) -> Option<Vec<Text>> {
        at.iter().map(|&at| Some(Text::from(self.texts.get(at as usize)?.clone()))).collect()
    }

    fn entity(&self, at: u32) -> Option<Attributes> {
        let pairs: Option<Vec<(Text, Text)>> = self
            .entities
            .get(at as usize)?
            .iter()
            .map(|&(key, value)| {
                let text = |at: u32| Some(Text::from(self.texts.get(at as usize)?.clone()));
                Some((text(key)?, text(value)?))
            })
            .collect();
        Some(Attributes::new(pairs?))
    }

    fn metric(&self, at: u32, known: &[&'static Metric]) -> Option<&'static Metric> {
        let name = self.texts.get(at as usize)?;
        known.iter().copied().find(|metric| metric.name == name.as_str() && metric.kind != Kind::Gauge)
    }

    fn resume_cell(
        &self,
        cell: &SavedCell,
        metrics: &[&'static Metric],
        cells: &mut Resumed,
        resolver: &dyn Resolver,
    ) -> Option<()> {
        let metric = self.metric(cell.metric, metrics)?;
        let subject = match cell.subject {
            SavedSubject::Node => Subject::Node,
            SavedSubject::Cgroup(id) => Subject::Cgroup(id),
            SavedSubject::Kernel => Subject::Kernel,
            SavedSubject::Overflow => Subject::Overflow,
        };
        let last = match &cell.last {
            SavedLast::Whole(value) => Last::Number(Value::U64(*value)),
            SavedLast::Real(value) => Last::Number(Value::F64(*value)),
            SavedLast::Distribution { sum, zero, counts } => {
                Last::Distribution { sum: *sum, zero: *zero, counts: counts.clone().into() }
            }
        };
        if let (Subject::Cgroup(id), Some(entity)) = (subject, cell.entity) {
            resolver.remember(id, Arc::new(self.entity(entity)?));
        }
        let values = self.texts(&cell.values)?;
        cells.insert((std::ptr::from_ref(metric) as usize, subject, values.into()), last);
        Some(())
    }
}

/// Gives the cgroups between which there is traffic.
fn cgroups(subject: Subject) -> [Option<u64>; 2] {
    let id = |who| if let Who::Cgroup(id) = who { Some(id) } else { None };
    match subject {
        Subject::Pair { source, destination } => [id(source.who), id(destination.who)],
        Subject::Facing { local, peer } => [id(local.who), id(peer.who)],
        _ => [None, None],
    }
}

impl Store {
    /// Gives what the next agent has to know of collectors whose maps outlive this one.
    pub(crate) fn save(&self, time: u64, saving: &[Saving<'_>], resolver: &dyn Resolver) -> Checkpoint {
        let mut writer = Writer::default();
        for &Saving { collector, name, since, metrics, bequest } in saving {
            let mut series = Vec::new();
            let mut keep = |writer: &mut Writer, group: u32, at: usize| {
                let group = &self.groups[group as usize];
                let entry = group.entries.get(at).and_then(Option::as_ref);
                let model::MetricRef::Static(metric) = group.metric else { return };
                let overflow = group.overflow == Some(at as u32);
                series.extend(entry.and_then(|entry| writer.series(metric, entry, overflow)));
            };
            let is_shared = |metric: &Metric| SHARED.iter().any(|shared| std::ptr::eq(*shared, metric));
            for metric in metrics.iter().filter(|metric| metric.kind != Kind::Gauge && !is_shared(metric)) {
                let Some(&group) = self.group_of.get(&(std::ptr::from_ref(*metric) as usize)) else { continue };
                for at in 0..self.groups[group as usize].entries.len() {
                    keep(&mut writer, group, at);
                }
            }
            let (mut cells, mut parties) = (Vec::new(), HashSet::new());
            let own = |cell: &&Cell| cell.collector == collector && cell.metric.kind != Kind::Gauge;
            for cell in self.cells.iter().flatten().filter(own) {
                // What several collectors count together each saves as far as it adds to it.
                if is_shared(cell.metric)
                    && let Place::Series(series) = cell.place
                {
                    keep(&mut writer, cell.group, series as usize);
                }
                let entity = match cell.place {
                    Place::Series(series) => {
                        let entry = self.groups[cell.group as usize].entries.get(series as usize);
                        entry.and_then(Option::as_ref).map(|entry| &entry.series.entity)
                    }
                    _ => None,
                };
                cells.extend(writer.cell(cell, entity));
                parties.extend(cgroups(cell.subject).into_iter().flatten());
            }
            let parties = writer.parties(parties, resolver);
            let unnamed = self.unnamed(&mut writer, collector, since, resolver);
            let (collector, bequest) = (name.to_owned(), bequest.to_owned());
            writer.checkpoint.parts.push(Part { collector, since, bequest, series, cells, parties, unnamed });
        }
        Checkpoint { time, ..writer.checkpoint }
    }

    /// Gives what the cells of a collector have that wait for a name.
    fn unnamed(&self, writer: &mut Writer, collector: u16, start: u64, resolver: &dyn Resolver) -> Vec<SavedSeries> {
        let mut all = Vec::new();
        for (&at, &value) in &self.waiting {
            let Some(cell) = self.cells[at as usize].as_ref().filter(|cell| cell.collector == collector) else {
                continue;
            };
            let (Answer::Known(entity) | Answer::Unknown(entity, _)) = resolver.resolve_now(cell.subject) else {
                continue;
            };
            let known = if let Last::Number(Value::U64(last)) = cell.last { last } else { 0 };
            let (metric, total) = (writer.text(&cell.metric.name), SavedTotal::Whole(value.saturating_sub(known)));
            let values = cell.dimension.values.iter().map(|value| writer.text(value.as_str())).collect();
            all.push(SavedSeries { metric, entity: writer.entity(&entity), values, overflow: false, start, total });
            writer.held.push(entity);
        }
        all
    }

    /// Goes on with the series of a collector from the agent before; with its cells, too, where they are of the maps
    /// that it reads (`since`).
    pub(crate) fn resume(&mut self, saved: &Checkpoint, saving: &Saving<'_>, steady: u64, resolver: &dyn Resolver) {
        let Some(part) = saved.parts.iter().find(|part| part.collector == saving.name) else { return };
        for (all, more) in [(&part.series, false), (&part.unnamed, true)] {
            for series in all {
                let _ = self.resume_series(saved, (series, more), saving.metrics, steady);
            }
        }
        if part.since != saving.since {
            return;
        }
        let mut cells = Resumed::new();
        for cell in &part.cells {
            let _ = saved.resume_cell(cell, saving.metrics, &mut cells, resolver);
        }
        for &(cgroup, entity) in &part.parties {
            if let Some(entity) = saved.entity(entity) {
                resolver.remember(cgroup, Arc::new(entity));
            }
        }
        self.resumed.insert(saving.collector, cells);
    }

    /// Ends it once all that the collector's maps hold has been read: what comes later is new.
    pub(crate) fn end_resuming(&mut self, collector: u16) {
        self.resumed.remove(&collector);
    }

    /// Takes what a cell saw last in the time of the agent before.
    pub(super) fn last_of(
        &mut self,
        collector: u16,
        metric: &'static Metric,
        subject: Subject,
        values: &[Text],
    ) -> Last {
        let Some(cells) = self.resumed.get_mut(&collector) else { return Last::Nothing };
        cells.remove(&(std::ptr::from_ref(metric) as usize, subject, values.into())).unwrap_or(Last::Nothing)
    }

    /// Goes on with a series; one that is there has been saved by another collector, or by this one `more` of it.
    fn resume_series(
        &mut self,
        saved: &Checkpoint,
        (series, more): (&SavedSeries, bool),
        metrics: &[&'static Metric],
        steady: u64,
    ) -> Option<()> {
        let metric = saved.metric(series.metric, metrics)?;
        let group = *self.group_of.get(&(std::ptr::from_ref(metric) as usize))?;
        let values = saved.texts(&series.values)?;
        if values.len() != metric.attributes.len() {
            return None;
        }
        let (total, held) = match &series.total {
            SavedTotal::Whole(value) => (Total::Number(Value::U64(*value)), Held::Number(Value::U64(*value))),
            SavedTotal::Real(value) => (Total::Number(Value::F64(*value)), Held::Number(Value::F64(*value))),
            &SavedTotal::Distribution { sum, zero, count, scale, first, ref counts } => (
                Total::Distribution { sum, zero, count, scale, first, counts: counts.clone() },
                Held::Histogram(Box::new(Kept { sum, count, zero, scale, first, counts: counts.clone() })),
            ),
        };
        let base = Some(Box::new(Base { time: saved.time, held }));
        let (entity, dimensions) = if series.overflow {
            (Arc::clone(&self.overflow), Arc::clone(&self.empty))
        } else {
            let entity = self.subjects.intern(Arc::new(saved.entity(series.entity)?));
            (entity, Arc::clone(&self.dimension(metric, &values).attributes))
        };
        let of = &self.groups[group as usize];
        let there = if series.overflow { of.overflow } else { of.find(&entity, &dimensions) };
        if let Some(at) = there {
            let entry = self.groups[group as usize].entry(at).filter(|_| more)?;
            if let (Total::Number(Value::U64(total)), SavedTotal::Whole(more)) = (&mut entry.total, &series.total) {
                *total += more;
            }
            return Some(());
        }
        let id = self.next_series;
        self.next_series += 1;
        let new = Arc::new(Series { id, entity: Arc::clone(&entity), dimensions, start: series.start, base });
        if series.overflow {
            self.groups[group as usize].insert_overflow(new, total);
            return Some(());
        }
        let of = &mut self.groups[group as usize];
        let at = of.insert(new, total);
        // Nobody adds to it before a cell says so.
        if let Some(entry) = of.entry(at) {
            entry.died = Some(steady);
        }
        self.shares.add(&entity, of.weight);
        self.total += 1;
        Some(())
    }
}

#[cfg(test)]
mod tests;
