//! What is collected: the keys of the kernel integration.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is collected.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Integrations {
    /// The kernel, by eBPF.
    pub ebpf: Ebpf,
}

/// The kernel, by eBPF.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Ebpf {
    /// Whether anything is collected from the kernel.
    pub enabled: bool,
    /// A directory of programs that replace the built-in ones; empty for the built-in ones.
    #[schemars(extend("x-kind" = "file"))]
    pub programs_path: PathBuf,
    /// A directory on a BPF file system where maps and programs stay over restarts: counting goes on while no agent runs,
    /// and the next one continues the series; empty for none. What is left in it is removed with `rm -r`.
    #[schemars(extend("x-kind" = "file"))]
    pub pin_path: PathBuf,
    /// The OTLP interval where an endpoint gives none, and the period of the collectors' own housekeeping.
    #[serde(with = "crate::duration")]
    #[schemars(schema_with = "crate::duration::second")]
    pub scrape_interval: Duration,
    /// What one set of series stands for. process adds process.executable.name: what ps calls the command of a process'
    /// first thread, of 15 bytes at most. What ends stays in the sum of its executable. Where the kernel itself counts by
    /// cgroup (block I/O, files of cgroups) the name is absent.
    pub granularity: Granularity,
    /// The collectors, by name; `collect_NAME` is the short form of NAME.enabled.
    pub collectors: BTreeMap<String, serde_json::Value>,
    /// Only processes with these commands (their first 15 bytes) are observed; empty for all.
    pub process_filter: Vec<String>,
    /// Only containers whose id begins with one of these, or whose name is one, are observed; empty for all.
    pub container_filter: Vec<String>,
    /// Only pods of these namespaces are observed; empty for all.
    pub namespace_filter: Vec<String>,
    /// Only pods with such labels are observed, as `kubectl -l` has it: app=web,tier in (front,back); empty for all.
    pub pod_selector: String,
    /// Processes with these commands (their first 15 bytes) are not observed.
    pub exclude_processes: Vec<String>,
    /// Whether the agent's own process is observed, too.
    pub include_self: bool,
    /// The percentage of events that are taken and of operations that are timed, rounded to one in a whole number: 50 is
    /// every other, 10 one in ten. Counters always count everything. It multiplies with a collector's own sampling.
    #[schemars(range(min = 1, max = 100))]
    pub sample_rate: u8,
    /// The bytes of each ring buffer.
    #[serde(with = "crate::size")]
    #[schemars(schema_with = "crate::size::buffer")]
    pub ring_buffer_size: u64,
    /// The bytes of each perf buffer, per CPU.
    #[serde(with = "crate::size")]
    #[schemars(schema_with = "crate::size::buffer")]
    pub perf_buffer_size: u64,
    /// How the kernel hands over events.
    pub events: EventTransport,
    /// The most frames of a stack trace.
    #[schemars(range(min = 1, max = 127))]
    pub max_stack_depth: u32,
    /// A copy of the running kernel's /sys/kernel/btf/vmlinux, for where that is hidden; empty for the kernel's own.
    /// Types of another kernel, or a part of them, are refused: programs attach by the numbers of the kernel's own.
    #[schemars(extend("x-kind" = "file"))]
    pub btf_path: PathBuf,
    /// Network flows of Cilium, from Hubble: the section of the collector hubble.
    pub cilium: BTreeMap<String, serde_json::Value>,
}

impl Default for Ebpf {
    fn default() -> Self {
        Self {
            enabled: true,
            programs_path: PathBuf::new(),
            pin_path: PathBuf::new(),
            scrape_interval: Duration::from_secs(15),
            granularity: Granularity::default(),
            collectors: BTreeMap::new(),
            process_filter: Vec::new(),
            container_filter: Vec::new(),
            namespace_filter: Vec::new(),
            pod_selector: String::new(),
            exclude_processes: Vec::new(),
            include_self: false,
            sample_rate: 100,
            ring_buffer_size: 65_536,
            perf_buffer_size: 8_192,
            events: EventTransport::default(),
            max_stack_depth: 20,
            btf_path: PathBuf::new(),
            cilium: BTreeMap::new(),
        }
    }
}

/// What one set of series stands for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Granularity {
    /// The whole node.
    Node,
    /// A workload: a container, a systemd unit or a cgroup.
    #[default]
    Container,
    /// An executable within a workload.
    Process,
}

/// How the kernel hands over events.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct EventTransport {
    /// auto: a ring buffer where the kernel has one, else perf buffers.
    pub buffer: Buffer,
}

/// A kind of buffer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Buffer {
    /// The best that the kernel has.
    #[default]
    Auto,
    /// One ring for all CPUs.
    Ring,
    /// One buffer per CPU.
    Perf,
}
