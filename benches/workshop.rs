//! Attaches what is measured: nothing, empty programs, steps of ours, or collectors.

use std::any::Any;
use std::error::Error;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bpf::abi::histogram::HistShape;
use bpf::{Loader, Types};
use model::{Answer, Census, CgroupChange, Resolver, Subject};
use runtime::{Descriptor, Own, Platform, Setup};
use serde_json::Value;

/// Nothing dies here.
struct NoCgroups;

impl Census for NoCgroups {
    fn changed(&self, _: CgroupChange) {}

    fn removed_for(&self, _: u64) -> Option<Duration> {
        None
    }
}

/// Nobody is named here.
struct Nobody;

impl Resolver for Nobody {
    fn generation(&self) -> u64 {
        0
    }

    fn resolve(&self, _: Subject) -> Answer {
        Answer::Known(Arc::default())
    }
}

/// What is attached; dropping it detaches it.
pub type Attached = Vec<Box<dyn Any>>;

/// What is to be attached.
#[derive(Clone)]
pub enum What {
    Nothing,
    /// These programs of floor.bpf.c.
    Floor(Vec<&'static str>),
    /// A sample for each call: by which program of scales.bpf.c, and at which scale.
    Sample(&'static str, u8),
    /// Collectors with their sections.
    Collectors(Vec<(&'static Descriptor, Value)>),
}

/// The shape of all histograms of nanoseconds at a scale.
pub const fn shape(scale: u8) -> HistShape {
    HistShape::new(scale, 4, 40)
}

pub struct Workshop {
    platform: Arc<Platform>,
    types: Types,
    runtime: tokio::runtime::Runtime,
}

impl Workshop {
    pub fn new() -> Result<Self, Box<dyn Error>> {
        let types = Types::load(None)?;
        let platform = Platform {
            facts: bpf::probe::Facts::gather(),
            census: Arc::new(NoCgroups),
            btf_path: None,
            types: Mutex::new(Some(types.clone())),
            map_scale: 1.0,
            ring_bytes: 256 * 1024,
            perf_bytes: 8192,
            buffer: runtime::Buffer::Auto,
            // A sink that nobody empties: events cost what they cost up to it.
            bus: Arc::new(runtime::Bus::new(Arc::new(Nobody), 1, 1)),
            process_filter: Vec::new(),
            exclude_processes: Vec::new(),
            cgroup_rules: None,
            excluded_process: Some(std::process::id()),
            sample_every: 1,
            meters: Own::new().provider(),
        };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        Ok(Self { platform: Arc::new(platform), types, runtime })
    }

    pub fn attach(&self, what: &What) -> Result<Attached, Box<dyn Error>> {
        let mut attached = Attached::new();
        match what {
            What::Nothing => {}
            What::Floor(programs) => {
                let mut object = Loader::new("floor").load(&self.types)?;
                for program in programs {
                    if program.starts_with("floor_") {
                        object.attach_cgroup(program, &self.platform.facts.cgroups.open_root()?)?;
                    } else {
                        object.attach(program, &self.types)?;
                    }
                }
                attached.push(Box::new(object));
            }
            What::Sample(program, scale) => {
                let shape = shape(*scale);
                let loader = Loader::new("scales").histogram("samples", shape).histogram("shared", shape);
                let mut object = loader.load(&self.types)?;
                object.attach(program, &self.types)?;
                attached.push(Box::new(object));
            }
            What::Collectors(sections) => {
                let _inside = self.runtime.enter();
                for (descriptor, section) in sections {
                    let (platform, handle) = (Arc::clone(&self.platform), self.runtime.handle().clone());
                    let mut setup = Setup::new(descriptor.name, section.clone(), platform, handle);
                    attached.push(Box::new((descriptor.make)(&mut setup)?));
                }
            }
        }
        Ok(attached)
    }
}

/// Gives a collector with its defaults.
pub fn default(descriptor: &'static Descriptor) -> (&'static Descriptor, Value) {
    (descriptor, (descriptor.section.defaults)())
}

/// Gives a collector with its defaults, but for which calls are timed.
pub fn timing(descriptor: &'static Descriptor, latency: &str) -> (&'static Descriptor, Value) {
    let mut section = (descriptor.section.defaults)();
    if let Some(timed) = section.get_mut("latency") {
        *timed = latency.into();
    }
    (descriptor, section)
}

/// Finds a built-in collector.
pub fn collector(name: &str) -> Option<&'static Descriptor> {
    collectors::ALL.iter().copied().find(|descriptor| descriptor.name == name)
}
