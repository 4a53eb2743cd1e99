//! Delta temporality: differences from what the receiver has acknowledged, series by series.
//!
//! Each series has its own baseline, which advances only when the request that carried the series is acknowledged.
//! When some requests of a snapshot fail, the next snapshot's differences of just their series reach further back:
//! nothing is lost and nothing that was acknowledged is sent again. The one ambiguity left is the protocol's: a
//! request whose answer is lost may have been taken.

use std::collections::HashMap;
use std::ops::Range;

use foldhash::fast::RandomState;
use model::{Held, Kept, Kind, Points, Series, Snapshot, Value};

use super::point::Distribution;

/// What the receiver has acknowledged.
#[derive(Default)]
pub struct Baselines {
    series: HashMap<u64, Baseline, RandomState>,
}

struct Baseline {
    /// The number of the last snapshot in which the series was acknowledged.
    seen: u64,
    /// That snapshot's time.
    time: u64,
    held: Held,
}

impl Baselines {
    /// Gives the start and the difference of a counter; nothing when an acknowledged one has not changed.
    pub(super) fn number(&self, series: &Series, value: Value) -> Option<(u64, Value)> {
        let Some((time, &Held::Number(held))) = self.before(series) else { return Some((series.start, value)) };
        let difference = match (value, held) {
            (Value::U64(now), Value::U64(then)) => Value::U64(now.checked_sub(then).unwrap_or(now)),
            (now, then) if now.as_f64() >= then.as_f64() => Value::F64(now.as_f64() - then.as_f64()),
            (now, _) => now,
        };
        (difference.as_f64() != 0.0).then_some((time, difference))
    }

    /// Gives the start and the difference of a histogram; nothing when an acknowledged one has not changed.
    pub(super) fn distribution<'a>(
        &self,
        series: &Series,
        now: &Distribution<'a>,
        difference: &'a mut Vec<u64>,
    ) -> Option<(u64, Distribution<'a>)> {
        let Some((time, Held::Histogram(then))) = self.before(series) else { return Some((series.start, *now)) };
        if now.count == then.count {
            return None;
        }
        Some((time, subtract(now, then, difference).unwrap_or(*now)))
    }

    /// Gives what the receiver has of a series, and since when: what an agent before has gathered, it had sent.
    fn before<'s>(&'s self, series: &'s Series) -> Option<(u64, &'s Held)> {
        let own = self.series.get(&series.id).map(|baseline| (baseline.time, &baseline.held));
        own.or_else(|| series.base.as_ref().map(|base| (base.time, &base.held)))
    }

    /// Takes note that the receiver has these points of a snapshot.
    pub fn acknowledge(&mut self, snapshot: &Snapshot, covered: &[(u32, Range<u32>)]) {
        for (family, range) in covered {
            let family = &snapshot.families[*family as usize];
            let range = range.start as usize..range.end as usize;
            match &family.points {
                Points::Numbers(_) if family.metric.kind == Kind::Gauge => {}
                Points::Numbers(points) => {
                    for point in &points[range] {
                        self.put(snapshot, &point.series, |held| *held = Held::Number(point.value));
                    }
                }
                Points::Histogram { points, counts } => {
                    for point in &points[range] {
                        let data = Distribution::of(point, counts);
                        self.put(snapshot, &point.series, |held| keep(held, &data));
                    }
                }
            }
        }
    }

    /// Forgets the series that were not in a snapshot of which everything was acknowledged.
    pub fn sweep(&mut self, snapshot: &Snapshot) {
        self.series.retain(|_, baseline| baseline.seen == snapshot.number);
    }

    fn put(&mut self, snapshot: &Snapshot, series: &Series, set: impl FnOnce(&mut Held)) {
        let baseline =
            self.series.entry(series.id).or_insert(Baseline { seen: 0, time: 0, held: Held::Number(Value::U64(0)) });
        baseline.seen = snapshot.number;
        baseline.time = snapshot.time;
        set(&mut baseline.held);
    }
}

fn keep(held: &mut Held, data: &Distribution<'_>) {
    let mut counts = match held {
        Held::Histogram(kept) => std::mem::take(&mut kept.counts),
        Held::Number(_) => Vec::new(),
    };
    counts.clear();
    counts.extend_from_slice(data.counts);
    let kept = Kept { sum: data.sum, count: data.count, zero: data.zero, scale: data.scale, first: data.first, counts };
    match held {
        Held::Histogram(place) => **place = kept,
        Held::Number(_) => *held = Held::Histogram(Box::new(kept)),
    }
}

/// Subtracts bucket by bucket; nothing when `now` cannot have grown out of `then`.
///
/// A histogram whose resolution was halved since is compared at the new one: each new bucket is two old ones.
fn subtract<'a>(now: &Distribution<'_>, then: &Kept, out: &'a mut Vec<u64>) -> Option<Distribution<'a>> {
    let coarser = u32::try_from(i16::from(then.scale) - i16::from(now.scale)).ok()?.min(31);
    out.clear();
    out.extend_from_slice(now.counts);
    for (slot, &count) in (then.first..).zip(&then.counts).filter(|(_, count)| **count != 0) {
        let slot = ((slot - 1) >> coarser) + 1;
        let bucket = out.get_mut(usize::try_from(i64::from(slot) - i64::from(now.first)).ok()?)?;
        *bucket = bucket.checked_sub(count)?;
    }
    let low = out.iter().position(|&count| count != 0).unwrap_or(0);
    let high = out.iter().rposition(|&count| count != 0).map_or(0, |at| at + 1);
    Some(Distribution {
        sum: now.sum - then.sum,
        count: now.count.checked_sub(then.count)?,
        zero: now.zero.checked_sub(then.zero)?,
        scale: now.scale,
        first: now.first + low as i32,
        counts: &out[low..high.max(low)],
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn what_an_agent_before_had_sent_is_not_sent_again() {
        let base = |held| Some(Box::new(model::Base { time: 70, held }));
        let series = |base| Series { id: 1, entity: Arc::default(), dimensions: Arc::default(), start: 10, base };
        let baselines = Baselines::default();
        assert_eq!(baselines.number(&series(None), Value::U64(5)), Some((10, Value::U64(5))));
        let resumed = series(base(Held::Number(Value::U64(3))));
        assert_eq!(baselines.number(&resumed, Value::U64(5)), Some((70, Value::U64(2))));
        assert_eq!(baselines.number(&resumed, Value::U64(3)), None);
        let now = Distribution { sum: 9.0, count: 6, zero: 0, scale: 0, first: 0, counts: &[2, 4] };
        let resumed = series(base(Held::Histogram(Box::new(kept(0, 0, &[2, 1])))));
        let mut room = Vec::new();
        let (since, difference) = baselines.distribution(&resumed, &now, &mut room).unwrap();
        assert_eq!((since, difference.count), (70, 3));
    }

    fn kept(scale: i8, first: i32, counts: &[u64]) -> Kept {
        Kept { sum: 1.0, count: counts.iter().sum(), zero: 0, scale, first, counts: counts.to_vec() }
    }

    fn now(scale: i8, first: i32, counts: &[u64]) -> Distribution<'_> {
        Distribution { sum: 5.0, count: counts.iter().sum(), zero: 0, scale, first, counts }
    }

    #[test]
    fn buckets_are_subtracted_and_trimmed() {
        let mut out = Vec::new();
        let found = subtract(&now(0, 3, &[1, 2, 5, 1]), &kept(0, 4, &[2, 1]), &mut out).unwrap();
        assert_eq!((found.first, found.counts, found.count), (3, &[1, 0, 4, 1][..], 6));
        let found = subtract(&now(0, 3, &[1, 2, 5]), &kept(0, 3, &[1, 2]), &mut out).unwrap();
        assert_eq!((found.first, found.counts, found.count), (5, &[5][..], 5));
    }

    #[test]
    fn a_halved_resolution_is_followed() {
        let mut out = Vec::new();
        // At scale 1 the slots 1 and 2 are (1, 1.41] and (1.41, 2]: slot 1 of scale 0.
        let found = subtract(&now(0, 0, &[3, 4]), &kept(1, 0, &[1, 1, 1]), &mut out).unwrap();
        assert_eq!((found.first, found.counts, found.count), (0, &[2, 2][..], 4));
    }

    #[test]
    fn a_histogram_that_fell_is_a_new_one() {
        let mut out = Vec::new();
        assert!(subtract(&now(0, 3, &[1]), &kept(0, 3, &[2]), &mut out).is_none());
        assert!(subtract(&now(0, 3, &[9]), &kept(0, 2, &[2]), &mut out).is_none());
        assert!(subtract(&now(1, 3, &[9]), &kept(0, 3, &[2]), &mut out).is_none());
    }
}
