//! What a collector is given while it is made.

use std::any::Any;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use bpf::Kept;
use model::standing::{Note, Party};
use model::{Census, Learner, Peers, Standing};
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use crate::bus::Bus;
use crate::collector::MakeError;
use crate::governor::Budget;

/// How events leave the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Buffer {
    /// By a ring where the kernel has such, else by perf buffers.
    Auto,
    /// By one ring for all CPUs.
    Ring,
    /// By one buffer for each CPU.
    Perf,
}

/// Holds elections among the agents of a cluster.
pub trait Elections: Send + Sync {
    /// Stands in the election of a name, for as long as somebody keeps what is given.
    fn stand(&self, name: &str, party: Party, note: Note) -> watch::Receiver<Standing>;
}

/// What all collectors share: the host as it was found at start-up and the limits of the configuration.
pub struct Platform {
    /// The facts that [`bpf::probe`] found, the primary cgroup hierarchy among them.
    pub facts: bpf::probe::Facts,
    /// Who knows which cgroups exist.
    pub census: Arc<dyn Census>,
    /// The kernel's type information when it is not at the usual place.
    pub btf_path: Option<PathBuf>,
    /// The kernel's types while collectors attach; the manager forgets them afterwards.
    pub types: Mutex<Option<bpf::Types>>,
    /// The hooks that several collectors share.
    pub gates: bpf::Gates,
    /// Where maps and programs are pinned that outlive the agent; nothing where none do.
    pub pins: Option<bpf::Pins>,
    /// What collectors multiply the entries of their maps with, at most 1, so that all maps together keep within
    /// `limits.map_memory`.
    pub map_scale: f64,
    /// The size of each ring buffer in bytes.
    pub ring_bytes: u32,
    /// The size of each perf buffer in bytes, for each CPU.
    pub perf_bytes: u64,
    /// How events leave the kernel.
    pub buffer: Buffer,
    /// Where events go.
    pub bus: Arc<Bus>,
    /// The commands that collectors must count only for these processes (empty: all).
    pub process_filter: Vec<String>,
    /// The commands that collectors must not count.
    pub exclude_processes: Vec<String>,
    /// Which cgroups the kernel counts; nothing where all are, or where user space alone decides.
    pub cgroup_rules: Option<Arc<crate::CgroupRules>>,
    /// The kernel's table of executables; nothing where they are not told apart.
    pub executables: Option<Arc<crate::Executables>>,
    /// The process that is not counted: the agent's own, as the kernel's programs see it.
    pub excluded_process: Option<u32>,
    /// Of operations that are timed and of events one in so many is taken.
    pub sample_every: u32,
    /// Why nothing can be attached any more, once that is so. Collectors that need nothing of the kernel can be made all the same.
    pub sealed: Arc<OnceLock<&'static str>>,
    /// What collectors may cost.
    pub budget: Budget,
    /// Who holds elections; nothing where the agent is alone.
    pub elections: Option<Arc<dyn Elections>>,
    /// Who keeps what collectors come to know of addresses; nothing where nobody asks for that.
    pub learner: Option<Arc<dyn Learner>>,
    /// Who knows whose address it is.
    pub peers: Arc<dyn Peers>,
    /// The sections of all collectors that are to run, by name: two that need the same hook may share a program.
    pub sections: HashMap<&'static str, serde_json::Value>,
    /// What collectors share with each other, by name, as long as one of them holds it.
    pub shared: Mutex<HashMap<&'static str, Weak<dyn Any + Send + Sync>>>,
    /// What is counted with OpenTelemetry instruments made here becomes part of every snapshot.
    pub meters: opentelemetry_sdk::metrics::SdkMeterProvider,
}

impl Platform {
    /// Gives how many entries a map may have that the configuration gives `entries`.
    pub fn scaled(&self, entries: u32) -> u32 {
        ((f64::from(entries) * self.map_scale) as u32).clamp(1, entries.max(1))
    }

    /// Gives where a collector's maps and programs are pinned; nothing where executables are told apart: the table of
    /// these is this process' own.
    pub fn lasting(&self) -> Option<&bpf::Pins> {
        self.pins.as_ref().filter(|_| self.executables.is_none())
    }

    /// Gives a platform of the same host with the same parties, to be tuned otherwise.
    #[must_use]
    pub fn again(&self) -> Self {
        Self {
            facts: self.facts.clone(),
            census: Arc::clone(&self.census),
            btf_path: self.btf_path.clone(),
            types: Mutex::default(),
            gates: self.gates.clone(),
            pins: self.pins.clone(),
            map_scale: self.map_scale,
            ring_bytes: self.ring_bytes,
            perf_bytes: self.perf_bytes,
            buffer: self.buffer,
            bus: Arc::clone(&self.bus),
            process_filter: self.process_filter.clone(),
            exclude_processes: self.exclude_processes.clone(),
            cgroup_rules: self.cgroup_rules.clone(),
            executables: self.executables.clone(),
            excluded_process: self.excluded_process,
            sample_every: self.sample_every,
            sealed: Arc::clone(&self.sealed),
            budget: self.budget.clone(),
            elections: self.elections.clone(),
            learner: self.learner.clone(),
            peers: Arc::clone(&self.peers),
            sections: self.sections.clone(),
            shared: Mutex::default(),
            meters: self.meters.clone(),
        }
    }

    /// Says whether what was made on the one need not be made anew on the other, the sizes of maps aside.
    pub fn is_tuned_as(&self, other: &Self) -> bool {
        let tuning = |platform: &Self| {
            let sizes = (platform.ring_bytes, platform.perf_bytes, platform.sample_every);
            (sizes, platform.buffer, platform.excluded_process)
        };
        let names = |platform: &'_ Self| (platform.process_filter.clone(), platform.exclude_processes.clone());
        tuning(self) == tuning(other) && names(self) == names(other) && self.btf_path == other.btf_path
    }

    /// Frees the kernel's types, some 20 MB, once everything is attached.
    pub(crate) fn forget_types(&self) {
        *self.types.lock().unwrap_or_else(PoisonError::into_inner) = None;
        bpf::memory::trim();
    }
}

/// One collector's share of the platform.
pub struct Setup {
    name: &'static str,
    section: serde_json::Value,
    platform: Arc<Platform>,
    runtime: tokio::runtime::Handle,
    pub(crate) watches: Vec<bpf::Watch>,
    pub(crate) reins: Vec<bpf::Reins>,
    pub(crate) degraded: Option<String>,
    pins: Option<&'static str>,
}

impl Setup {
    /// Gives the share of the collector `name` with its configuration section.
    pub fn new(
        name: &'static str,
        section: serde_json::Value,
        platform: Arc<Platform>,
        runtime: tokio::runtime::Handle,
    ) -> Self {
        let (watches, reins) = (Vec::new(), Vec::new());
        Self { name, section, platform, runtime, watches, reins, degraded: None, pins: Some(name) }
    }

    /// Gives the collector's configuration section.
    ///
    /// # Errors
    /// Fails when the section does not have the shape of `T`, which the configuration's check rules out.
    pub fn section<T: DeserializeOwned>(&self) -> Result<T, MakeError> {
        serde_json::from_value(self.section.clone())
            .map_err(|error| MakeError::Failed(format!("integrations.ebpf.collectors.{}: {error}", self.name)))
    }

    /// Gives the kernel's types, parsed once for all collectors that attach at the same time.
    ///
    /// # Errors
    /// Fails where the kernel's types cannot be had.
    pub fn types(&self) -> Result<bpf::Types, MakeError> {
        let mut known = self.platform.types.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(types) = &*known {
            return Ok(types.clone());
        }
        let types = bpf::Types::load(self.platform.btf_path.as_deref());
        let types = types.map_err(|error| MakeError::Unsupported(error.to_string()))?;
        *known = Some(types.clone());
        Ok(types)
    }

    /// Gives what all collectors share.
    pub fn platform(&self) -> &Arc<Platform> {
        &self.platform
    }

    /// Gives a meter of the collector's own: its instruments' values are part of every snapshot.
    pub fn meter(&self) -> opentelemetry::metrics::Meter {
        use opentelemetry::metrics::MeterProvider;
        self.platform.meters.meter(self.name)
    }

    /// Lets self-telemetry follow the maps and programs of an object.
    pub fn watch(&mut self, watch: bpf::Watch) {
        self.watches.push(watch);
    }

    /// Gives the reins of an object's programs, where there is a budget: the governor leads them.
    pub fn lead(&mut self, reins: Option<bpf::Reins>) {
        self.reins.extend(reins);
    }

    /// Says under which name the collector's maps and programs are pinned, if not under its own: nothing where they are not.
    pub fn pinned_as(&mut self, name: Option<&'static str>) {
        self.pins = name;
    }

    /// Says what became of the collector's pins, once all its programs are on their hooks; nothing where it has none.
    pub(crate) fn kept(&self) -> Option<Kept> {
        let (pins, name) = (self.platform.lasting()?, self.pins?);
        pins.settle(name);
        pins.kept(name)
    }

    /// Gives what the collector knew besides its maps in the agent before ([`Scrape::bequeath`](crate::Scrape::bequeath)),
    /// where the object that was loaded has taken these over.
    pub fn inherited<T: DeserializeOwned>(&self) -> Option<T> {
        let bytes = self.platform.lasting()?.inherited(self.pins?, self.name)?;
        let known = postcard::from_bytes(&bytes);
        known.inspect_err(|error| tracing::warn!(collector = self.name, "what the agent before knew: {error}")).ok()
    }

    /// Says that the collector works, but gives less than it could.
    pub fn degrade(&mut self, why: impl Into<String>) {
        self.degraded = Some(why.into());
    }

    /// Gives what was said with [`Setup::degrade`].
    pub fn degraded(&self) -> Option<&str> {
        self.degraded.as_deref()
    }

    /// Gives the runtime for background work of the collector.
    pub fn runtime(&self) -> &tokio::runtime::Handle {
        &self.runtime
    }
}
