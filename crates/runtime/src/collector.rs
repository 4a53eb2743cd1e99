//! The contract of a collector: what it declares before it touches the kernel, and how it answers
//! «what are your readings now?».

use async_trait::async_trait;
use model::{Metric, Subject, Text, Value};
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::sync::oneshot;

use crate::governor::Step;
use crate::setup::Setup;

/// A noun that is watched. Made means attached, dropped means detached.
#[async_trait]
pub trait Collector: Send {
    /// Records the readings of this moment. Each collector has a thread of its own, so blocking calls are fine.
    ///
    /// # Errors
    /// An error costs this collector the round and makes it Degraded; three in a row make it Failed, and it is made
    /// anew after a pause.
    async fn collect(&mut self, scrape: &mut Scrape) -> Result<(), CollectError>;

    /// Ends what dropping alone would not end, such as a connection.
    async fn shutdown(&mut self) {}
}

/// Why a round gave nothing.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct CollectError(pub String);

/// Why a collector could not be made.
#[derive(Debug, Error)]
pub enum MakeError {
    /// This kernel or host cannot do it, now or later: no retry.
    #[error("{0}")]
    Unsupported(String),
    /// Nobody would get what it sees, so it must not cost anything: no retry.
    #[error("{0}")]
    Idle(String),
    /// It should have worked: it is tried again with growing pauses.
    #[error("{0}")]
    Failed(String),
}

/// Something that a collector cannot work without, or without which it gives less.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// The kernel's own type information (`/sys/kernel/btf/vmlinux` or `btf_path`).
    Btf,
    /// A raw tracepoint with BTF arguments, by name.
    Tracepoint(&'static str),
    /// A Linux capability, by name.
    Capability(&'static str),
    /// The host's pid namespace: of others the kernel shows no tasks and no sockets that are older than the collector.
    HostPid,
}

/// The configuration section of a collector: its defaults, its JSON Schema and its check, all of one type.
#[derive(Clone, Copy, Debug)]
pub struct Section {
    /// Gives the default section.
    pub defaults: fn() -> serde_json::Value,
    /// Gives the section's JSON Schema.
    pub schema: fn() -> serde_json::Value,
    /// Says what is wrong with a section, or nothing.
    pub check: fn(&serde_json::Value) -> Result<(), String>,
}

impl Section {
    /// Describes the section that deserializes to `T`.
    pub const fn of<T: Default + Serialize + DeserializeOwned + schemars::JsonSchema>() -> Self {
        Self {
            defaults: || serde_json::to_value(T::default()).unwrap_or_default(),
            schema: || schemars::schema_for!(T).to_value(),
            check: |section| serde_json::from_value::<T>(section.clone()).map(drop).map_err(|error| error.to_string()),
        }
    }
}

/// A section without keys of its own.
#[derive(Clone, Copy, Debug, Default, Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Empty {}

/// What a collector will cost.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Each kernel map and the bytes that it takes when it is full.
    pub maps: Vec<(&'static str, u64)>,
    /// How many series of counters and gauges a workload has that does most of what the collector watches.
    pub numbers: usize,
    /// How many histograms it has.
    pub histograms: usize,
}

/// What is known of a collector before it touches the kernel. It feeds `list`, `check`, documents, the reference
/// configuration and tests.
#[derive(Clone, Copy, Debug)]
pub struct Descriptor {
    /// The noun: file stem, configuration key and documentation anchor.
    pub name: &'static str,
    /// One sentence on what it measures.
    pub summary: &'static str,
    /// What it cannot see, one sentence each.
    pub limits: &'static [&'static str],
    /// Every metric that it may record.
    pub metrics: &'static [&'static Metric],
    /// What it needs from the kernel.
    pub needs: &'static [Need],
    /// How it goes down when it costs more than it may (`budget`), step by step; empty for what nobody can do without.
    pub ladder: &'static [Step],
    /// Its configuration section.
    pub section: Section,
    /// Says what it will cost with a section, on a host with so many possible CPUs.
    pub plan: fn(&serde_json::Value, usize) -> Plan,
    /// Attaches it.
    pub make: fn(&mut Setup) -> Result<Box<dyn Collector>, MakeError>,
}

/// The buckets of one histogram as the kernel keeps them: wrapping 32-bit counts, cumulative since attach.
#[derive(Clone, Copy, Debug)]
pub struct Distribution<'a> {
    /// The wrapping sum of all values.
    pub sum: u64,
    /// What one of `sum` is in the metric's unit.
    pub unit: f64,
    /// How often the value was 0, wrapping.
    pub zero: u32,
    /// The resolution: 2^scale buckets a doubling.
    pub scale: i8,
    /// The slot of the first count.
    pub first: i32,
    /// Wrapping counts, slot by slot; always the same number for one metric.
    pub counts: &'a [u32],
    /// How many operations each value stands for: 1 where all are measured.
    pub weight: u32,
}

/// What a reading holds.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Content {
    Number(Value),
    /// A gauge that is the mean of `count` values.
    Mean {
        sum: u64,
        count: u64,
    },
    /// Where the counts lie in [`Scrape::counts`].
    Distribution {
        sum: u64,
        unit: f64,
        zero: u32,
        scale: i8,
        first: i32,
        at: u32,
        len: u32,
        weight: u32,
    },
}

#[derive(Debug)]
pub(crate) struct Reading {
    pub metric: &'static Metric,
    pub subject: Subject,
    /// Where the attribute values begin in [`Scrape::values`]; the metric's arity says how many.
    pub values: u32,
    pub content: Content,
    pub last: bool,
}

/// The buffer that a collector fills in one round.
///
/// Counters and histograms are cumulative per (metric, subject, values) since the collector was made. The series
/// store takes differences, so many subjects may share a series and a subject may change its name.
#[derive(Debug, Default)]
pub struct Scrape {
    pub(crate) readings: Vec<Reading>,
    pub(crate) values: Vec<Text>,
    pub(crate) counts: Vec<u32>,
    pub(crate) fault: Option<String>,
    pub(crate) degraded: Option<String>,
    pub(crate) of_cluster: Vec<&'static Metric>,
    pub(crate) bequest: Option<Vec<u8>>,
    pub(crate) waiting: Option<oneshot::Sender<()>>,
}

impl Scrape {
    /// Records a counter's cumulative value or a gauge's present one. An empty attribute value means «without».
    pub fn record(
        &mut self,
        metric: &'static Metric,
        subject: Subject,
        values: impl IntoIterator<Item = Text>,
        value: impl Into<Value>,
    ) {
        self.push(metric, subject, values, Content::Number(value.into()), false);
    }

    /// Records a gauge that is the mean of `count` values; where series come together, so do the sums and the counts.
    pub fn record_mean(
        &mut self,
        metric: &'static Metric,
        subject: Subject,
        values: impl IntoIterator<Item = Text>,
        sum: u64,
        count: u64,
    ) {
        self.push(metric, subject, values, Content::Mean { sum, count }, false);
    }

    /// Records the final value of something whose kernel entry is gone. Should it come back, it begins at 0.
    pub fn close(
        &mut self,
        metric: &'static Metric,
        subject: Subject,
        values: impl IntoIterator<Item = Text>,
        value: impl Into<Value>,
    ) {
        self.push(metric, subject, values, Content::Number(value.into()), true);
    }

    /// Records a histogram, cumulative since attach.
    pub fn record_histogram(
        &mut self,
        metric: &'static Metric,
        subject: Subject,
        values: impl IntoIterator<Item = Text>,
        distribution: Distribution<'_>,
    ) {
        let content = self.copy(distribution);
        self.push(metric, subject, values, content, false);
    }

    /// Records the final state of a histogram whose kernel entry is gone.
    pub fn close_histogram(
        &mut self,
        metric: &'static Metric,
        subject: Subject,
        values: impl IntoIterator<Item = Text>,
        distribution: Distribution<'_>,
    ) {
        let content = self.copy(distribution);
        self.push(metric, subject, values, content, true);
    }

    /// Says that the collector gives less than it should for now, and why: it is Degraded until a round does not say so.
    pub fn degrade(&mut self, why: impl Into<String>) {
        self.degraded = Some(why.into());
    }

    /// Says that metrics speak of the cluster from now on, not of the agent's node: nothing of that node is said of them.
    pub fn of_cluster(&mut self, metrics: impl IntoIterator<Item = &'static Metric>) {
        self.of_cluster.extend(metrics);
    }

    /// Leaves to the next agent, where maps outlive this one, what the collector knows besides them as of these readings:
    /// [`Setup::inherited`] gives it.
    pub fn bequeath(&mut self, known: &impl Serialize) {
        match postcard::to_allocvec(known) {
            Ok(bytes) => self.bequest = Some(bytes),
            Err(error) => self.fault = Some(error.to_string()),
        }
    }

    /// Lets the collector wait until what it bequeaths lies where the next agent finds it.
    pub fn wait(&mut self) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        self.waiting = Some(sender);
        receiver
    }

    /// Gives the number of readings so far.
    pub fn len(&self) -> usize {
        self.readings.len()
    }

    /// Says whether nothing was recorded.
    pub fn is_empty(&self) -> bool {
        self.readings.is_empty()
    }

    fn copy(&mut self, distribution: Distribution<'_>) -> Content {
        let at = self.counts.len() as u32;
        self.counts.extend_from_slice(distribution.counts);
        Content::Distribution {
            sum: distribution.sum,
            unit: distribution.unit,
            zero: distribution.zero,
            scale: distribution.scale,
            first: distribution.first,
            at,
            len: distribution.counts.len() as u32,
            weight: distribution.weight,
        }
    }

    fn push(
        &mut self,
        metric: &'static Metric,
        subject: Subject,
        values: impl IntoIterator<Item = Text>,
        content: Content,
        last: bool,
    ) {
        let (at, wanted) = (self.values.len(), metric.attributes.len());
        self.values.extend(values);
        let given = self.values.len() - at;
        if given != wanted {
            self.values.truncate(at);
            self.fault = Some(format!("{} takes {wanted} attribute values, not {given}", metric.name));
            return;
        }
        let at = at as u32;
        self.readings.push(Reading { metric, subject, values: at, content, last });
    }

    pub(crate) fn clear(&mut self) {
        self.readings.clear();
        self.values.clear();
        self.counts.clear();
        self.fault = None;
        self.degraded = None;
        self.of_cluster.clear();
        (self.bequest, self.waiting) = (None, None);
    }
}
