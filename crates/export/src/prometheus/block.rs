//! Groups a snapshot's families into the blocks of an exposition: one per Prometheus name, in name order.

use std::borrow::Cow;
use std::collections::HashSet;

use model::{Family, HistogramPoint, Kind, Metric, NumberPoint, Points, Series, Snapshot, name};

use super::labels::{Joiner, Syntax};

/// How much an encoding wrote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Points written; a histogram counts once.
    pub points: u64,
    /// Points left out, because another family has their name with another kind, or another point their labels.
    pub conflicts: u64,
}

/// A family under its Prometheus name.
pub(super) struct Named<'a> {
    pub(super) name: Cow<'a, str>,
    index: usize,
    family: &'a Family,
}

/// Gives the families by name; those of one name stand in the snapshot's order.
pub(super) fn named(snapshot: &Snapshot) -> Vec<Named<'_>> {
    let families = snapshot.families.iter().enumerate();
    let mut all: Vec<_> =
        families.map(|(index, family)| Named { name: name::prometheus(&family.metric), index, family }).collect();
    all.retain(|named| !named.name.is_empty());
    all.sort_unstable_by(|a, b| a.name.cmp(&b.name).then(a.index.cmp(&b.index)));
    all
}

/// What one exposition writes for one block.
pub(super) trait Writer {
    /// The syntax of its labels.
    const SYNTAX: Syntax;
    /// Writes a counter's or gauge's point.
    fn number(&mut self, labels: [&[u8]; 2], kind: Kind, point: &NumberPoint);
    /// Writes a histogram's point.
    fn histogram(&mut self, labels: [&[u8]; 2], metric: &Metric, point: &HistogramPoint, counts: &[u64]);
}

/// All families of one name; the first one says what kind they have.
pub(super) struct Block<'a>(pub(super) &'a [Named<'a>]);

impl Block<'_> {
    /// Gives the metric that stands for the block.
    pub(super) fn metric(&self) -> &Metric {
        &self.0[0].family.metric
    }

    /// Writes every point of the block that is not in conflict.
    pub(super) fn write<W: Writer>(&self, joiner: &mut Joiner, counts: &mut Counts, writer: &mut W) {
        let kind = self.metric().kind;
        // One scope's series never repeat; only those of several have to be compared.
        let mut seen = (self.0.len() > 1).then(HashSet::new);
        let mut admit = |labels: [&[u8]; 2]| {
            let admitted = seen.as_mut().is_none_or(|seen| seen.insert(W::SYNTAX.join(labels)));
            *(if admitted { &mut counts.points } else { &mut counts.conflicts }) += 1;
            admitted
        };
        let mut left_out = 0;
        for named in self.0 {
            match &named.family.points {
                Points::Numbers(points) if named.family.metric.kind == kind && kind != Kind::Histogram => {
                    for point in points {
                        let labels = joiner.of(&point.series, W::SYNTAX);
                        if admit(labels) {
                            writer.number(labels, kind, point);
                        }
                    }
                }
                Points::Histogram { points, counts: buckets } if kind == Kind::Histogram => {
                    // Boundaries are the block's, so that its `le` values are the same for every series.
                    for point in points {
                        let labels = joiner.of(&point.series, W::SYNTAX);
                        if admit(labels) {
                            writer.histogram(labels, self.metric(), point, buckets);
                        }
                    }
                }
                Points::Numbers(points) => left_out += points.len(),
                Points::Histogram { points, .. } => left_out += points.len(),
            }
        }
        counts.conflicts += left_out as u64;
    }
}

/// Calls `each` with every classic boundary's number and how many values are at or below it.
///
/// Slots of a scale of 0 or more end at every power of two, so the counts are exact.
pub(super) fn cumulative(
    bounds: impl Iterator<Item = i8>,
    point: &HistogramPoint,
    counts: &[u64],
    mut each: impl FnMut(usize, i8, u64),
) {
    let buckets = point.buckets(counts);
    let mut rest = buckets.counts.iter();
    let mut slot = i64::from(buckets.first);
    let mut below = point.zero;
    for (index, exponent) in bounds.enumerate() {
        let last = match point.scale {
            scale @ 0.. => i64::from(exponent) << u32::from(scale.unsigned_abs()).min(32),
            scale => i64::from(exponent) >> u32::from(scale.unsigned_abs()).min(32),
        };
        while slot <= last {
            let Some(count) = rest.next() else { break };
            below += count;
            slot += 1;
        }
        each(index, exponent, below);
    }
}

/// Gives the unit's word where the name carries it, as OpenMetrics demands of `# UNIT`.
pub(super) fn unit<'a>(metric: &'a Metric, family: &str) -> Option<&'a str> {
    let word = match &*metric.unit {
        "s" => "seconds",
        "By" => "bytes",
        "%" => "percent",
        "1" => "ratio",
        "Cel" => "celsius",
        "Hz" => "hertz",
        unit => unit.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).unwrap_or(unit),
    };
    let carried = family.strip_suffix(word).is_some_and(|rest| rest.ends_with('_'));
    (carried && !word.is_empty()).then_some(word)
}

/// Says when a series began, where that is known.
pub(super) fn start(series: &Series) -> Option<u64> {
    (series.start != 0).then_some(series.start)
}
