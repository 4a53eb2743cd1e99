//! Tables of histograms: how fine they are, how they are read, and what they had no room for.

use std::sync::Arc;

use bpf::abi::histogram::{FINEST_SCALE, HistShape, Histogram};
use bpf::{Object, PerCpuCells, PerCpuTable};
use model::{Census, Metric, Subject, Text};
use runtime::own::{MAP_OVERFLOW, SAMPLE_INTERVAL};
use runtime::{Distribution, MakeError, Platform, Scrape};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize};

use crate::retire::Retirement;
use crate::table::{Entry, Key};

/// How finely a histogram divides each doubling: into 2^scale parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Scale(pub u8);

impl Scale {
    /// Gives a histogram's shape that tells values from 2^low to 2^high apart.
    pub const fn shape(self, low: u32, high: u32) -> HistShape {
        HistShape::new(self.0, low, high)
    }

    /// Gives the shape for what may take next to no time, in nanoseconds: from 16 ns to 18 minutes.
    pub const fn brief(self) -> HistShape {
        self.shape(4, 40)
    }
}

impl<'de> Deserialize<'de> for Scale {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let scale = u64::deserialize(deserializer)?;
        match u8::try_from(scale) {
            Ok(scale) if u32::from(scale) <= FINEST_SCALE => Ok(Self(scale)),
            _ => Err(serde::de::Error::custom(format!("a scale must be 0 to {FINEST_SCALE}, not {scale}"))),
        }
    }
}

impl JsonSchema for Scale {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Scale".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "integer", "minimum": 0, "maximum": FINEST_SCALE})
    }
}

/// One map of histograms (`HISTOGRAM` in `bpf/lib/histogram.bpf.h`).
pub struct Histograms<K> {
    map: &'static str,
    shape: HistShape,
    table: PerCpuTable<K, u64>,
    lost: PerCpuCells<u64>,
    dead: Retirement<K>,
    sum: Histogram,
    weight: u32,
}

impl<K: Key> Histograms<K> {
    /// Opens a map of an object that was loaded with this shape.
    ///
    /// # Errors
    /// Fails when there is no such map or when it has another shape.
    pub fn open(object: &Object, map: &'static str, shape: HistShape, platform: &Platform) -> Result<Self, MakeError> {
        Self::of(object, map, shape, platform.census.clone())
    }

    /// Opens a map whose keys are of the hierarchy that a census knows.
    ///
    /// # Errors
    /// Fails when there is no such map or when it has another shape.
    pub fn of(
        object: &Object,
        map: &'static str,
        shape: HistShape,
        census: Arc<dyn Census>,
    ) -> Result<Self, MakeError> {
        let table = object.histograms(map, shape).map_err(crate::refused)?;
        let lost = object.lost_histogram(map, shape).map_err(crate::refused)?;
        let dead = Retirement::new(census);
        Ok(Self { map, shape, table, lost, dead, sum: Histogram::default(), weight: object.sample_every() })
    }

    /// Says that one operation in so many is measured, on average: each value counts as often, and the interval is
    /// recorded beside the histogram.
    #[must_use]
    pub fn sampled(self, weight: u32) -> Self {
        Self { weight, ..self }
    }

    /// Records every histogram, summed over all CPUs: `name` gives the attribute values that belong to a key. What the
    /// map had no room for is the overflow series.
    ///
    /// # Errors
    /// Fails when the kernel refuses to read the map.
    pub fn record<const N: usize>(
        &mut self,
        scrape: &mut Scrape,
        metric: &'static Metric,
        mut name: impl FnMut(&K) -> [Text; N],
    ) -> Result<(), bpf::Error> {
        let (shape, weight) = (self.shape, self.weight);
        self.read(|key, sum, last| {
            Entry::new(scrape, key.subject(), last).distribution(metric, name(key), distribution(shape, sum, weight));
        })?;
        self.record_lost::<N>(scrape, metric)
    }

    /// Shows every histogram, summed over all CPUs, and whether the kernel's has just been freed.
    ///
    /// # Errors
    /// Fails when the kernel refuses to read the map.
    pub fn read(&mut self, mut show: impl FnMut(&K, &Histogram, bool)) -> Result<(), bpf::Error> {
        let Self { shape, table, dead, sum, .. } = self;
        table.for_each(|key, cells| {
            sum.read(*shape, cells);
            // What is about to be freed is shown then, once.
            if !dead.note(*key, key.cgroup(), sum.count()) {
                show(key, sum, false);
            }
        })?;
        for key in dead.finish() {
            if let Some(cells) = table.take(&key)? {
                sum.read(*shape, &cells);
                show(&key, sum, true);
            }
        }
        Ok(())
    }

    /// Gives a histogram as it is recorded.
    pub fn distribution<'h>(&self, histogram: &'h Histogram) -> Distribution<'h> {
        distribution(self.shape, histogram, self.weight)
    }

    /// Records what the map had no room for as the overflow series.
    ///
    /// # Errors
    /// Fails when the kernel refuses to read the map.
    pub fn record_lost<const N: usize>(
        &mut self,
        scrape: &mut Scrape,
        metric: &'static Metric,
    ) -> Result<(), bpf::Error> {
        let Self { map, shape, lost, sum, weight, .. } = self;
        let (shape, weight) = (*shape, *weight);
        sum.read(shape, &lost.get(0)?);
        if sum.count() > 0 {
            let values = std::array::from_fn::<Text, N, _>(|_| "".into());
            scrape.record_histogram(metric, Subject::Overflow, values, distribution(shape, sum, weight));
        }
        if weight > 1 {
            scrape.record(&SAMPLE_INTERVAL, Subject::Node, [(*metric.name).into()], u64::from(weight));
        }
        scrape.record(&MAP_OVERFLOW, Subject::Node, [(*map).into()], sum.count());
        Ok(())
    }
}

fn distribution(shape: HistShape, sum: &Histogram, weight: u32) -> Distribution<'_> {
    let (scale, first) = (shape.scale as i8, shape.first());
    Distribution { sum: sum.sum, unit: 1.0, zero: sum.zero, scale, first, counts: &sum.slots, weight }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_is_0_to_3() {
        for good in 0..=3 {
            assert_eq!(serde_json::from_str::<Scale>(&good.to_string()).unwrap(), Scale(good));
        }
        for wrong in ["4", "256", "-1", "\"fine\"", "1.5"] {
            assert!(serde_json::from_str::<Scale>(wrong).is_err(), "{wrong}");
        }
    }
}
