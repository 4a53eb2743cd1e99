//! A collector of your own, in a program of your own.
//!
//! Telesonde is a library too: `telesonde::main` is the whole agent, and it takes further collectors. They live by the
//! same contract as the built-in ones: the same configuration, the same states, the same readers, the same failures
//! that harm nobody else. Build and run this one with
//!
//! ```text
//! cargo build --release --example custom_collector
//! sudo target/release/examples/custom_collector run
//! ```
//!
//! and scrape <http://127.0.0.1:9464/metrics>: `host_pressure_seconds_total` and `host_load` are there beside all else.

use std::fs;
use std::process::ExitCode;

use model::{Metric, Subject};
use opentelemetry::KeyValue;
use opentelemetry::metrics::Gauge;
use runtime::{CollectError, Collector, Descriptor, Empty, MakeError, Plan, Scrape, Section, Setup};
use serde::{Deserialize, Serialize};

/// The program: the agent with two more collectors. Its command line is that of `telesonde`; `list`, `metrics`,
/// `check` and `config print` know the new ones, too.
fn main() -> ExitCode {
    telesonde::main(&[&PRESSURE, &LOAD])
}

// # First collector: pressure stall information
//
// A metric is a static. Its name is used as it stands here, in OTLP and in Prometheus (where a counter gets `_total`).
// The attribute keys are those whose values each point brings, in this order; a workload's attributes are added by
// enrichment and are not listed.

static STALLED: Metric = Metric::counter(
    "host_pressure_seconds",
    "s",
    "Time in which tasks of the host waited for a resource.",
    &["resource", "share"],
);

// The configuration section is a struct with defaults. It is checked when the configuration is loaded, shown by
// `config print`, and part of `config schema`; here it is
//
//     integrations:
//       ebpf:
//         collectors:
//           pressure:
//             enabled: true
//             resources: [cpu, memory]

/// The section `integrations.ebpf.collectors.pressure`.
#[derive(Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct PressureConfig {
    /// The resources to watch: cpu, memory, io.
    resources: Vec<Resource>,
}

#[derive(Clone, Copy, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Resource {
    Cpu,
    Memory,
    Io,
}

impl Resource {
    fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Io => "io",
        }
    }
}

impl Default for PressureConfig {
    fn default() -> Self {
        Self { resources: vec![Resource::Cpu, Resource::Memory, Resource::Io] }
    }
}

// The descriptor says everything that is known before the kernel is touched. Its name is the configuration key.

static PRESSURE: Descriptor = Descriptor {
    name: "pressure",
    summary: "Time in which tasks of the host waited for CPU, memory or I/O",
    limits: &["It is the kernel's own figure for the whole host, not per workload."],
    metrics: &[&STALLED],
    needs: &[],
    ladder: &[],
    section: Section::of::<PressureConfig>(),
    plan: |_, _| Plan { maps: Vec::new(), numbers: 0, histograms: 0 },
    make: make_pressure,
};

/// A collector that exists is attached; dropping it detaches it. This one holds nothing of the kernel.
struct Pressure {
    resources: Vec<Resource>,
}

// `make` has two ways to fail. `Unsupported` is final: this host cannot do it, and the state says why.
// `Failed` is tried again with growing pauses.

fn make_pressure(setup: &mut Setup) -> Result<Box<dyn Collector>, MakeError> {
    let config: PressureConfig = setup.section()?;
    fs::metadata("/proc/pressure/cpu")
        .map_err(|error| MakeError::Unsupported(format!("the kernel has no pressure stall information: {error}")))?;
    Ok(Box::new(Pressure { resources: config.resources }))
}

// `collect` is asked for the readings of this moment, on a thread of the collector's own: it may block. An error costs
// this round; three in a row, or a panic, and the collector is made anew. Counters are cumulative: the agent takes the
// differences, gives the series their start time, and keeps them monotone whatever happens.

#[async_trait::async_trait]
impl Collector for Pressure {
    async fn collect(&mut self, scrape: &mut Scrape) -> Result<(), CollectError> {
        for resource in &self.resources {
            let path = format!("/proc/pressure/{}", resource.name());
            let text = fs::read_to_string(&path).map_err(|error| CollectError(format!("{path}: {error}")))?;
            for line in text.lines() {
                // some avg10=0.00 avg60=0.00 avg300=0.00 total=1234
                let Some((share, total)) = stalled(line) else {
                    return Err(CollectError(format!("{path}: «{line}» is not understood")));
                };
                // `Subject::Node`: this is nobody's in particular. A reading of a cgroup would say
                // `Subject::Cgroup(id)` and get the names of its workload.
                let values = [resource.name().into(), share.to_owned().into()];
                scrape.record(&STALLED, Subject::Node, values, total as f64 / 1e6);
            }
        }
        Ok(())
    }
}

/// Gives the share (some, full) and the microseconds of a line.
fn stalled(line: &str) -> Option<(&str, u64)> {
    let (share, rest) = line.split_once(' ')?;
    let (_, total) = rest.rsplit_once("total=")?;
    Some((share, total.parse().ok()?))
}

// # Second collector: plain OpenTelemetry
//
// Code that already speaks OpenTelemetry needs no new words: `Setup::meter` gives a meter, and whatever is recorded
// with it becomes part of every snapshot, under a scope with the collector's name. Use it for what is application-
// shaped and small; thousands of kernel series belong in a `Scrape`.

static LOAD: Descriptor = Descriptor {
    name: "load",
    summary: "The host's load averages, by way of an OpenTelemetry gauge",
    limits: &[],
    // Instruments declare themselves.
    metrics: &[],
    needs: &[],
    ladder: &[],
    section: Section::of::<Empty>(),
    plan: |_, _| Plan::default(),
    make: |setup| {
        let meter = setup.meter();
        let gauge = meter.f64_gauge("host_load").with_unit("{task}").with_description("Load average.").build();
        Ok(Box::new(Load { gauge }))
    },
};

struct Load {
    gauge: Gauge<f64>,
}

#[async_trait::async_trait]
impl Collector for Load {
    async fn collect(&mut self, _: &mut Scrape) -> Result<(), CollectError> {
        let text = fs::read_to_string("/proc/loadavg").map_err(|error| CollectError(error.to_string()))?;
        for (window, value) in ["1m", "5m", "15m"].into_iter().zip(text.split(' ')) {
            let value = value.parse().map_err(|error| CollectError(format!("/proc/loadavg: {error}")))?;
            self.gauge.record(value, &[KeyValue::new("window", window)]);
        }
        Ok(())
    }
}
