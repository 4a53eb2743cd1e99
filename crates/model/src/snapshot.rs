//! The immutable result of one gather, which every reader sees alike.

use std::sync::Arc;

use crate::attributes::Attributes;
use crate::metric::MetricRef;

/// The instrumentation scope of a family: a collector, the agent's own telemetry or a plug-in's meter.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Scope {
    /// The scope's name, such as `telesonde.syscalls`.
    pub name: String,
    /// The scope's version.
    pub version: String,
    /// The schema URL of its attributes.
    pub schema_url: String,
}

/// One series: who and which, and since when it counts.
#[derive(Debug)]
pub struct Series {
    /// A number that no other series of this process ever has.
    pub id: u64,
    /// The workload's attributes, shared by all its series.
    pub entity: Arc<Attributes>,
    /// The metric's own attributes, shared by all series with these values.
    pub dimensions: Arc<Attributes>,
    /// Unix nanoseconds at which the value was 0.
    pub start: u64,
    /// What it had when an agent before wrote it down, where this one goes on with it.
    pub base: Option<Box<Base>>,
}

/// What a series had at some time.
#[derive(Debug)]
pub struct Base {
    /// Unix nanoseconds.
    pub time: u64,
    /// What it had then.
    pub held: Held,
}

/// What a counter or a histogram has.
#[derive(Debug)]
pub enum Held {
    /// A counter.
    Number(Value),
    /// A histogram.
    Histogram(Box<Kept>),
}

/// A histogram by itself; its fields are those of [`HistogramPoint`].
#[derive(Debug)]
#[expect(missing_docs, reason = "as of the point")]
pub struct Kept {
    pub sum: f64,
    pub count: u64,
    pub zero: u64,
    pub scale: i8,
    pub first: i32,
    pub counts: Vec<u64>,
}

/// A number as it was counted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value {
    /// An unsigned integer. Above `i64::MAX` it is sent as a double.
    U64(u64),
    /// A floating-point number.
    F64(f64),
}

impl Value {
    /// Gives the value as a double.
    pub fn as_f64(self) -> f64 {
        match self {
            Self::U64(value) => value as f64,
            Self::F64(value) => value,
        }
    }
}

/// A counter's or gauge's point.
#[derive(Clone, Debug)]
pub struct NumberPoint {
    /// The series that the point belongs to.
    pub series: Arc<Series>,
    /// The cumulative sum or the current value.
    pub value: Value,
}

/// A histogram's point; its buckets lie in [`Points::Histogram`]'s `counts`.
#[derive(Clone, Debug)]
pub struct HistogramPoint {
    /// The series that the point belongs to.
    pub series: Arc<Series>,
    /// The sum of all values, in the metric's unit.
    pub sum: f64,
    /// The number of all values, zeros included.
    pub count: u64,
    /// The number of values that were 0.
    pub zero: u64,
    /// The resolution: 2^scale buckets a doubling.
    pub scale: i8,
    /// The slot of the first bucket: slot `i` holds (2^((i-1)/2^scale), 2^(i/2^scale)].
    pub first: i32,
    /// Where the point's buckets begin in `counts`.
    pub at: u32,
    /// How many buckets the point has.
    pub len: u32,
}

/// All points of one family.
#[derive(Clone, Debug)]
pub enum Points {
    /// A counter's or a gauge's.
    Numbers(Vec<NumberPoint>),
    /// A histogram's.
    Histogram {
        /// The points.
        points: Vec<HistogramPoint>,
        /// The buckets of all points, one after the other, each a plain (not cumulative) count.
        counts: Vec<u64>,
    },
}

/// The buckets of one histogram point: plain counts from slot `first` on.
#[derive(Clone, Copy, Debug)]
pub struct Buckets<'a> {
    /// The slot of the first count.
    pub first: i32,
    /// The counts, slot by slot.
    pub counts: &'a [u64],
}

impl HistogramPoint {
    /// Gives the point's buckets out of its family's `counts`, without empty ones at either end.
    pub fn buckets<'a>(&self, counts: &'a [u64]) -> Buckets<'a> {
        let all = &counts[self.at as usize..(self.at + self.len) as usize];
        let Some(low) = all.iter().position(|&count| count != 0) else {
            return Buckets { first: self.first, counts: &[] };
        };
        let high = all.iter().rposition(|&count| count != 0).unwrap_or(low);
        Buckets { first: self.first + low as i32, counts: &all[low..=high] }
    }
}

/// All series of one metric.
#[derive(Clone, Debug)]
pub struct Family {
    /// The metric.
    pub metric: MetricRef,
    /// Who measured it.
    pub scope: Arc<Scope>,
    /// Whether it speaks of the cluster, not of the agent's node.
    pub of_cluster: bool,
    /// Its points; never empty.
    pub points: Points,
}

/// All series of the agent at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// A number that grows with every gather, from 1.
    pub number: u64,
    /// Unix nanoseconds at which the gather ended: the time of every point.
    pub time: u64,
    /// The identity of the agent and its node.
    pub resource: Arc<Attributes>,
    /// The families, grouped by scope: those of one scope stand together.
    pub families: Vec<Family>,
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Self::U64(value)
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::F64(value)
    }
}
