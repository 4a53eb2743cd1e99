//! Where cells add what they saw: they enter and leave series, wait for names, fold past the budget, and go.

use std::collections::HashSet;
use std::hash::BuildHasher;
use std::sync::Arc;

use model::{Attributes, Kind, Series};

use super::subjects::Owner;
use super::total::{Last, Total};
use super::{Dimension, IDLE_GATHERS, Moment, Place, Remainder, Store};
use crate::collector::{Content, Reading};

impl Store {
    /// Finds the series of a cell whose owner has changed.
    pub(super) fn relocate(&mut self, at: u32, content: &Content, attached: u64, moment: Moment) {
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
        self.leave(at, moment.steady);
        self.enter(at, place);
        if let Some(cell) = &mut self.cells[at as usize] {
            cell.version = version;
        }
    }

    pub(super) fn enter(&mut self, at: u32, place: Place) {
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

    pub(super) fn leave(&mut self, at: u32, steady: u64) {
        let Some(cell) = &mut self.cells[at as usize] else { return };
        let group = &mut self.groups[cell.group as usize];
        match cell.place {
            Place::Series(series) => {
                if let Some(entry) = group.entry(series) {
                    entry.cells -= 1;
                    if entry.cells == 0 {
                        entry.died = Some(steady);
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
        let of = &self.groups[group as usize];
        let weight = of.weight;
        let is_full =
            self.scarce || of.len() >= self.limits.series_per_metric || self.total >= self.limits.series_total;
        let has_share = of.metric.kind == Kind::Gauge || self.shares.has_room(entity, weight, &self.limits);
        if is_full || !has_share {
            self.overflow_series(group, content, attached, moment);
            return Place::Folded;
        }
        let series = self.new_series(entity, dimensions, attached, moment);
        self.total += 1;
        self.shares.add(entity, weight);
        Place::Series(self.groups[group as usize].insert(series, Total::zero(content)))
    }

    fn overflow_series(&mut self, group: u32, content: &Content, attached: u64, moment: Moment) {
        if self.groups[group as usize].overflow.is_none() {
            let (entity, dimensions) = (Arc::clone(&self.overflow), Arc::clone(&self.empty));
            let series = self.new_series(&entity, &dimensions, attached, moment);
            self.groups[group as usize].insert_overflow(series, Total::zero(content));
        }
    }

    pub(super) fn new_series(
        &mut self,
        entity: &Arc<Attributes>,
        dimensions: &Arc<Attributes>,
        attached: u64,
        moment: Moment,
    ) -> Arc<Series> {
        let id = self.next_series;
        self.next_series += 1;
        let (entity, dimensions) = (Arc::clone(entity), Arc::clone(dimensions));
        Arc::new(Series { id, entity, dimensions, start: attached.max(moment.before).min(moment.now), base: None })
    }

    /// Ends a cell; what has no owner yet is kept until it has one.
    pub(super) fn close(&mut self, at: u32, reading: &Reading, counts: &[u32], attached: u64, moment: Moment) {
        let waits = self.cells[at as usize].as_ref().is_some_and(|cell| cell.place == Place::Waiting);
        if !waits {
            self.drop_cell(at, moment.steady);
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

    pub(super) fn settle(&mut self, remainder: Remainder, moment: Moment) {
        self.apply(remainder.cell, &remainder.content, &remainder.counts, remainder.attached, moment);
        if self.cells[remainder.cell as usize].as_ref().is_some_and(|cell| cell.place == Place::Waiting) {
            self.remainders.push(remainder);
        } else {
            self.leave(remainder.cell, moment.steady);
            self.release(remainder.cell);
        }
    }

    pub(super) fn drop_cell(&mut self, at: u32, steady: u64) {
        self.leave(at, steady);
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
            self.waiting.remove(&at);
            self.free.push(at);
        }
    }

    /// Drops the cells of gauges that a collector no longer shows.
    pub(super) fn sweep(&mut self, collector: u16, moment: Moment) {
        for at in 0..self.cells.len() as u32 {
            let Some(cell) = &self.cells[at as usize] else { continue };
            let waits = cell.place == Place::Waiting;
            if cell.collector == collector
                && !waits
                && cell.seen + 2 <= moment.number
                && cell.metric.kind == Kind::Gauge
            {
                self.drop_cell(at, moment.steady);
            }
        }
    }

    /// Gives the busiest folded cells the room of series that have not changed for a while.
    pub(super) fn admit(&mut self, moment: Moment, acknowledged: u64) {
        const AT_ONCE: usize = 64;
        if self.scarce {
            self.active = Vec::new();
            return;
        }
        let mut active = std::mem::take(&mut self.active);
        active.sort_unstable_by(|a, b| b.0.total_cmp(&a.0));
        let wanting: Vec<_> = active.iter().take(AT_ONCE).filter_map(|&(_, at)| self.owner(at)).collect();
        let mut idle = self.idle(&wanting, moment);
        for (_, at) in active.drain(..).take(AT_ONCE) {
            let Some(cell) = &self.cells[at as usize] else { continue };
            let group = cell.group;
            let Some(entity) = self.owner(at) else { continue };
            let dimensions = Arc::clone(&cell.dimension.attributes);
            let Some(shape) = self.shape(at) else { continue };
            let found = self.groups[group as usize].find(&entity, &dimensions);
            let weight = self.groups[group as usize].weight;
            if found.is_none()
                && !(self.make_share(&entity, weight, &mut idle)
                    && self.make_room(group, &idle.given, moment, acknowledged))
            {
                continue;
            }
            // It counts on from here: the growth of this gather is in the overflow series already.
            let attached = moment.now;
            let place = self.place(group, &entity, &dimensions, &shape, attached, moment);
            self.leave(at, moment.steady);
            self.enter(at, place);
        }
        self.active = active;
        self.fold(&idle.given, moment);
    }

    fn owner(&self, cell: u32) -> Option<Arc<Attributes>> {
        match &self.subjects.get(self.cells[cell as usize].as_ref()?.known).owner {
            Owner::Workload(entity) => Some(Arc::clone(entity)),
            Owner::Waiting | Owner::Excluded | Owner::Overflow => None,
        }
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
                    unit: 1.0,
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
    fn make_room(&mut self, group: u32, gone: &HashSet<(u32, u32)>, moment: Moment, acknowledged: u64) -> bool {
        let full = self.groups[group as usize].len() >= self.limits.series_per_metric;
        if !full && self.total < self.limits.series_total {
            return true;
        }
        let overflow = self.groups[group as usize].overflow;
        let entries = self.groups[group as usize].entries.iter().enumerate();
        let victim = entries
            .filter_map(|(at, entry)| entry.as_ref().map(|entry| (entry.changed, at as u32)))
            .filter(|&(changed, at)| overflow != Some(at) && changed + IDLE_GATHERS <= moment.number)
            .filter(|&(_, at)| !gone.contains(&(group, at)))
            .min_by_key(|&(changed, at)| (changed > acknowledged, changed, at));
        let Some((_, victim)) = victim else { return false };
        for at in 0..self.cells.len() as u32 {
            let place = self.cells[at as usize].as_ref().filter(|cell| cell.group == group).map(|cell| cell.place);
            if place == Some(Place::Series(victim)) {
                self.leave(at, moment.steady);
                self.enter(at, Place::Folded);
            }
        }
        let of = &mut self.groups[group as usize];
        if let Some(entry) = &of.entries[victim as usize] {
            self.shares.remove(&entry.series.entity, of.weight);
        }
        of.remove(victim);
        self.total -= 1;
        true
    }

    /// Forgets what nothing refers to any more: attributes without cells and series, subjects without cells.
    pub(super) fn compact(&mut self) {
        const FEW: usize = 256;
        if self.dimensions.len() > 2 * self.kept.max(FEW) {
            // A series is found by the address of its attributes, so those stay as long as it does.
            let is_used = |it: &Arc<Dimension>| Arc::strong_count(it) > 1 || Arc::strong_count(&it.attributes) > 1;
            self.dimensions.retain(|_, dimension| is_used(dimension));
            self.kept = self.dimensions.len();
        }
        let Some(places) = self.subjects.compact() else { return };
        for cell in self.cells.iter_mut().flatten() {
            if let Some(new) = places[cell.known as usize] {
                cell.known = new;
            }
        }
    }
}
