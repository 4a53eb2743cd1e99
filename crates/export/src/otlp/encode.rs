//! From a snapshot to `ExportMetricsServiceRequest` bodies, written in one pass and cut at a limit.
//!
//! The messages that contain points get four-byte lengths, filled in when they end, so nothing is copied or measured
//! before. Fields that could follow the points are written ahead of them: order is free in protobuf. A point that
//! crosses the limit is taken back, with the headers that were written for it, and begins the next body.

use std::collections::HashMap;
use std::ops::Range;
use std::ptr;
use std::sync::Arc;

use model::{Attribute, Attributes, Family, Kind, MetricRef, Points, Series, Snapshot};

use super::delta::Baselines;
use super::point::{self, Distribution, Identity, Span};
use super::{Histogram, REQUEST_LIMIT, Temporality, Workload};
use crate::wire;

/// What the bodies look like.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// How histograms are sent.
    pub histogram: Histogram,
    /// Where a workload's attributes stand.
    pub workload: Workload,
    /// The bytes that a body may have; only a body of a single point may have more.
    pub limit: usize,
}

impl Default for Layout {
    fn default() -> Self {
        Self { histogram: Histogram::Exponential, workload: Workload::DataPoint, limit: REQUEST_LIMIT }
    }
}

/// One request body and what it holds.
#[derive(Clone, Debug, Default)]
pub struct Part {
    /// An `ExportMetricsServiceRequest`; empty without points.
    pub body: Vec<u8>,
    /// The number of data points in it. With delta temporality a part of unchanged series has none.
    pub points: u64,
    /// Which points of which families of the snapshot it covers, unchanged ones included (delta temporality only).
    pub covered: Vec<(u32, Range<u32>)>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    group: u32,
    family: u32,
    point: u32,
}

/// How far a snapshot has been encoded.
#[derive(Default)]
pub struct Cursor {
    family: usize,
    point: usize,
    /// With `Workload::Resource`, the points by entity; `point` is then an index of it.
    order: Option<Vec<Place>>,
}

impl Cursor {
    fn place(&mut self, snapshot: &Snapshot) -> Option<Place> {
        if let Some(order) = &self.order {
            return order.get(self.point).copied();
        }
        loop {
            if self.point < len(&snapshot.families.get(self.family)?.points) {
                let group = u32::from(snapshot.families[self.family].of_cluster);
                return Some(Place { group, family: self.family as u32, point: self.point as u32 });
            }
            self.family += 1;
            self.point = 0;
        }
    }
}

/// Encodes snapshots; keeps its buffers from one to the next.
#[derive(Default)]
pub struct Encoder {
    layout: Layout,
    size: usize,
    merged: Vec<u64>,
    difference: Vec<u64>,
}

impl Encoder {
    /// Makes an encoder of a layout.
    pub fn new(layout: Layout) -> Self {
        Self { layout, ..Self::default() }
    }

    /// Begins with a snapshot: the cursor goes to [`Encoder::part`] with that same snapshot.
    pub fn begin(&self, snapshot: &Snapshot) -> Cursor {
        let order = (self.layout.workload == Workload::Resource).then(|| by_entity(snapshot));
        Cursor { order, ..Cursor::default() }
    }

    /// Encodes all of a snapshot's cumulative values.
    pub fn parts(&mut self, snapshot: &Snapshot) -> Vec<Part> {
        let mut cursor = self.begin(snapshot);
        std::iter::from_fn(|| self.part(snapshot, &mut cursor, None)).collect()
    }

    /// Encodes the next body; nothing when the snapshot is done.
    ///
    /// With `baselines`, counters and histograms are the differences from what was acknowledged, and series without
    /// a difference are covered but not sent.
    pub fn part(&mut self, snapshot: &Snapshot, cursor: &mut Cursor, baselines: Option<&Baselines>) -> Option<Part> {
        let temporality = if baselines.is_some() { Temporality::Delta } else { Temporality::Cumulative };
        let frame = Frame { snapshot, layout: self.layout, temporality };
        let mut writer = Writer { out: Vec::with_capacity(self.size), open: Open::default() };
        let mut part = Part::default();
        let mut covers = false;
        while let Some(place) = cursor.place(snapshot) {
            let family = &snapshot.families[place.family as usize];
            let mark = (writer.out.len(), writer.open);
            writer.enter(&frame, place, family);
            let written = self.point(&mut writer.out, snapshot, family, place.point as usize, baselines);
            if !written {
                writer.take_back(mark);
            } else if writer.out.len() > self.layout.limit && part.points > 0 {
                writer.take_back(mark);
                break;
            }
            part.points += u64::from(written);
            covers = true;
            if baselines.is_some() {
                cover(&mut part.covered, place);
            }
            cursor.point += 1;
        }
        writer.leave_resource();
        self.size = self.size.max(writer.out.len() + 256);
        part.body = writer.out;
        covers.then_some(part)
    }

    fn point(
        &mut self,
        out: &mut Vec<u8>,
        snapshot: &Snapshot,
        family: &Family,
        index: usize,
        baselines: Option<&Baselines>,
    ) -> bool {
        let entity = self.layout.workload == Workload::DataPoint;
        match &family.points {
            Points::Numbers(points) => {
                let at = &points[index];
                let mut span = Span { start: at.series.start, time: snapshot.time };
                let mut value = at.value;
                if let (Some(baselines), Kind::Counter) = (baselines, family.metric.kind) {
                    let Some((start, difference)) = baselines.number(&at.series, value) else { return false };
                    span.start = start;
                    value = difference;
                }
                point::number(out, Identity { series: &at.series, entity }, span, value);
            }
            Points::Histogram { points, counts } => {
                let at = &points[index];
                let mut span = Span { start: at.series.start, time: snapshot.time };
                let mut data = Distribution::of(at, counts);
                if let Some(baselines) = baselines {
                    let Some((start, difference)) = baselines.distribution(&at.series, &data, &mut self.difference)
                    else {
                        return false;
                    };
                    span.start = start;
                    data = difference;
                }
                let identity = Identity { series: &at.series, entity };
                match self.layout.histogram {
                    Histogram::Exponential => point::exponential(out, identity, span, &data),
                    Histogram::Explicit => {
                        point::explicit(out, identity, span, &data, family.metric.bounds, &mut self.merged);
                    }
                }
            }
        }
        true
    }
}

fn cover(covered: &mut Vec<(u32, Range<u32>)>, place: Place) {
    match covered.last_mut() {
        Some((family, range)) if *family == place.family && range.end == place.point => range.end += 1,
        _ => covered.push((place.family, place.point..place.point + 1)),
    }
}

fn len(points: &Points) -> usize {
    match points {
        Points::Numbers(points) => points.len(),
        Points::Histogram { points, .. } => points.len(),
    }
}

fn series(family: &Family, index: usize) -> &Series {
    match &family.points {
        Points::Numbers(points) => &points[index].series,
        Points::Histogram { points, .. } => &points[index].series,
    }
}

/// Gives all points, those of one entity together, entities in the order in which they come first.
fn by_entity(snapshot: &Snapshot) -> Vec<Place> {
    let mut by_address: HashMap<(bool, *const Attributes), u32> = HashMap::new();
    let mut by_value: HashMap<(bool, &[Attribute]), u32> = HashMap::new();
    let mut order = Vec::with_capacity(snapshot.families.iter().map(|family| len(&family.points)).sum());
    for (at, family) in snapshot.families.iter().enumerate() {
        for index in 0..len(&family.points) {
            let entity = &*series(family, index).entity;
            let group = *by_address.entry((family.of_cluster, ptr::from_ref(entity))).or_insert_with(|| {
                let next = by_value.len() as u32;
                *by_value.entry((family.of_cluster, entity.pairs())).or_insert(next)
            });
            order.push(Place { group, family: at as u32, point: index as u32 });
        }
    }
    order.sort_unstable();
    order
}

struct Frame<'a> {
    snapshot: &'a Snapshot,
    layout: Layout,
    temporality: Temporality,
}

/// The messages that are open: what they stand for and where their lengths are.
#[derive(Clone, Copy, Default)]
struct Open {
    resource: Option<(u32, usize)>,
    /// The first family of the open scope.
    scope: Option<(u32, usize)>,
    /// The family, its metric's length and its data's length.
    metric: Option<(u32, usize, usize)>,
}

struct Writer {
    out: Vec<u8>,
    open: Open,
}

impl Writer {
    fn begin(&mut self, field: u8) -> usize {
        self.out.push(field << 3 | 2);
        self.out.extend_from_slice(&[0; 4]);
        self.out.len()
    }

    fn end(&mut self, at: usize) {
        let len = self.out.len() - at;
        for (index, byte) in self.out[at - 4..at].iter_mut().enumerate() {
            let more = if index < 3 { 0x80 } else { 0 };
            *byte = (len >> (7 * index)) as u8 & 0x7f | more;
        }
    }

    /// Returns to an earlier state. Lengths that were filled in since are filled in again later.
    fn take_back(&mut self, (len, open): (usize, Open)) {
        self.out.truncate(len);
        self.open = open;
    }

    /// Makes the metric of a place the open one.
    #[inline]
    fn enter(&mut self, frame: &Frame<'_>, place: Place, family: &Family) {
        if self.open.resource.is_none_or(|(group, _)| group != place.group) {
            self.leave_resource();
            self.resource(frame, place, family);
        }
        if self.open.metric.is_some_and(|(open, ..)| open == place.family) {
            return;
        }
        self.leave_metric();
        let scope = self.open.scope.map(|(open, _)| &frame.snapshot.families[open as usize].scope);
        if scope.is_none_or(|open| !Arc::ptr_eq(open, &family.scope) && *open != family.scope) {
            self.leave_scope();
            self.scope(place, family);
        }
        self.metric(frame, place, &family.metric);
    }

    fn resource(&mut self, frame: &Frame<'_>, place: Place, family: &Family) {
        let at = self.begin(1);
        self.open.resource = Some((place.group, at));
        let resource = &*frame.snapshot.resource;
        let by_entity = frame.layout.workload == Workload::Resource;
        if !by_entity && !family.of_cluster {
            wire::bytes(&mut self.out, 1, point::exponential_attributes(resource));
            return;
        }
        let entity = by_entity.then(|| &*series(family, place.point as usize).entity);
        wire::message(&mut self.out, 1, |out| {
            for pair in resource.pairs() {
                let key = pair.key.as_str();
                // A resource has each key once; the workload's own value says more.
                let said = entity.is_some_and(|entity| entity.get(key).is_some());
                if !(said || family.of_cluster && is_of_node(key)) {
                    point::key_value(out, 1, pair);
                }
            }
            if let Some(entity) = entity {
                out.extend_from_slice(point::exponential_attributes(entity));
            }
        });
    }

    fn scope(&mut self, place: Place, family: &Family) {
        let at = self.begin(2);
        self.open.scope = Some((place.family, at));
        let scope = &*family.scope;
        wire::message(&mut self.out, 1, |out| {
            text(out, 1, &scope.name);
            text(out, 2, &scope.version);
        });
        text(&mut self.out, 3, &scope.schema_url);
    }

    fn metric(&mut self, frame: &Frame<'_>, place: Place, metric: &MetricRef) {
        let metric_at = self.begin(2);
        text(&mut self.out, 1, &metric.name);
        text(&mut self.out, 2, &metric.help);
        text(&mut self.out, 3, &metric.unit);
        let field = match (metric.kind, frame.layout.histogram) {
            (Kind::Gauge, _) => 5,
            (Kind::Counter, _) => 7,
            (Kind::Histogram, Histogram::Explicit) => 9,
            (Kind::Histogram, Histogram::Exponential) => 10,
        };
        let data_at = self.begin(field);
        if metric.kind != Kind::Gauge {
            wire::uint(&mut self.out, 2, if frame.temporality == Temporality::Delta { 1 } else { 2 });
        }
        if metric.kind == Kind::Counter {
            wire::uint(&mut self.out, 3, 1);
        }
        self.open.metric = Some((place.family, metric_at, data_at));
    }

    fn leave_metric(&mut self) {
        if let Some((_, metric, data)) = self.open.metric.take() {
            self.end(data);
            self.end(metric);
        }
    }

    fn leave_scope(&mut self) {
        self.leave_metric();
        if let Some((_, at)) = self.open.scope.take() {
            self.end(at);
        }
    }

    fn leave_resource(&mut self) {
        self.leave_scope();
        if let Some((_, at)) = self.open.resource.take() {
            self.end(at);
        }
    }
}

/// Says whether an attribute of the resource tells of the agent's node.
fn is_of_node(key: &str) -> bool {
    ["host.", "os.", "k8s.node."].iter().any(|prefix| key.starts_with(prefix))
}

fn text(out: &mut Vec<u8>, field: u32, text: &str) {
    if !text.is_empty() {
        wire::bytes(out, field, text.as_bytes());
    }
}
