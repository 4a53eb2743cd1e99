//! Attaches what is measured: nothing, empty programs, steps of ours, or collectors.

use std::any::Any;
use std::collections::HashMap;
use std::error::Error;
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bpf::abi::histogram::HistShape;
use bpf::{Loader, Types};
use model::{Census, CgroupChange, Nobody, Rule};
use runtime::{CgroupRules, Collector, Descriptor, Own, Platform, Scrape, Setup};
use serde_json::Value;

/// What is attached; dropping it detaches it.
pub type Attached = Vec<Box<dyn Any>>;

/// What is to be attached.
#[derive(Clone)]
pub enum What {
    Nothing,
    /// These programs of floor.bpf.c.
    Floor(Vec<&'static str>),
    /// The gates of these hooks, with nobody behind them.
    Gates(Vec<&'static str>),
    /// A sample for each call: by which program of scales.bpf.c, and at which scale.
    Sample(&'static str, u8),
    /// Collectors with their sections.
    Collectors(Vec<(&'static Descriptor, Value)>),
    /// A collector that leaves out the work that is measured.
    Filtered(&'static Descriptor, Filter),
}

/// By what work is left out.
#[derive(Clone, Copy)]
pub enum Filter {
    /// Its process, as the agent leaves out itself.
    Process(u32),
    /// The name of its process, which is ours, too.
    Name,
    /// Its cgroup, which is ours, too.
    Cgroup,
}

/// A census that wants one cgroup left out.
struct Denied(u64);

impl Census for Denied {
    fn changed(&self, _: CgroupChange) {}

    fn removed_for(&self, _: u64) -> Option<Duration> {
        None
    }

    fn rules(&self, known: u64) -> Option<(u64, Vec<(u64, Rule)>)> {
        (known == 0).then(|| (1, vec![(self.0, Rule::Deny)]))
    }
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
        let platform = platform(&types);
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
                        object.attach_cgroup(program, &self.platform.facts.cgroups.open_root()?, &self.types)?;
                    } else {
                        object.attach(program, &self.types)?;
                    }
                }
                attached.push(Box::new(object));
            }
            What::Gates(hooks) => {
                let mut object = Loader::new("gate").load(&self.types)?;
                for hook in hooks {
                    object.attach(hook, &self.types)?;
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
                let mut platform = platform(&self.types);
                platform.sections =
                    sections.iter().map(|(descriptor, section)| (descriptor.name, section.clone())).collect();
                let platform = Arc::new(platform);
                for (descriptor, section) in sections {
                    attached.push(self.make(descriptor, section.clone(), &platform)?);
                }
            }
            What::Filtered(descriptor, filter) => {
                let mut platform = platform(&self.types);
                match *filter {
                    Filter::Process(process) => platform.excluded_process = Some(process),
                    Filter::Name => {
                        let name = std::fs::read_to_string("/proc/self/comm")?;
                        platform.exclude_processes = vec![name.trim_end().to_owned()];
                    }
                    Filter::Cgroup => {
                        platform.cgroup_rules = Some(Arc::new(CgroupRules::new(&Denied(own_cgroup()?), 1024)?));
                    }
                }
                let section = (descriptor.section.defaults)();
                attached.push(self.make(descriptor, section, &Arc::new(platform))?);
            }
        }
        Ok(attached)
    }

    /// Asks collectors for their readings.
    pub fn gather(&self, attached: &mut Attached) -> Result<(), Box<dyn Error>> {
        for collector in attached.iter_mut().filter_map(|one| one.downcast_mut::<Box<dyn Collector>>()) {
            self.runtime.block_on(collector.collect(&mut Scrape::default()))?;
        }
        Ok(())
    }

    fn make(
        &self,
        descriptor: &'static Descriptor,
        section: Value,
        platform: &Arc<Platform>,
    ) -> Result<Box<dyn Any>, Box<dyn Error>> {
        let _inside = self.runtime.enter();
        let mut setup = Setup::new(descriptor.name, section, Arc::clone(platform), self.runtime.handle().clone());
        Ok(Box::new((descriptor.make)(&mut setup)?))
    }
}

fn platform(types: &Types) -> Platform {
    Platform {
        pins: None,
        facts: bpf::probe::Facts::gather(),
        census: Arc::new(Nobody),
        peers: Arc::new(Nobody),
        elections: None,
        learner: None,
        sections: HashMap::new(),
        shared: Mutex::default(),
        btf_path: None,
        types: Mutex::new(Some(types.clone())),
        gates: bpf::Gates::default(),
        map_scale: 1.0,
        ring_bytes: 256 * 1024,
        perf_bytes: 8192,
        buffer: runtime::Buffer::Auto,
        // A sink that nobody empties: events cost what they cost up to it.
        bus: Arc::new(runtime::Bus::new(Arc::new(Nobody), 1, 1)),
        process_filter: Vec::new(),
        exclude_processes: Vec::new(),
        cgroup_rules: None,
        executables: None,
        budget: runtime::Budget::default(),
        sealed: Arc::default(),
        excluded_process: Some(std::process::id()),
        sample_every: 1,
        meters: Own::new().provider(),
    }
}

/// Gives the id of the cgroup that this process and its children are in.
fn own_cgroup() -> Result<u64, Box<dyn Error>> {
    let mount = bpf::probe::Facts::gather().cgroups.mount.ok_or("no cgroup hierarchy")?;
    let memberships = std::fs::read_to_string("/proc/self/cgroup")?;
    let line = memberships.lines().find(|line| line.contains(":memory:")).or(memberships.lines().last());
    let path = line.and_then(|line| line.splitn(3, ':').nth(2)).ok_or("no cgroup")?;
    Ok(std::fs::metadata(mount.join(path.trim_start_matches('/')))?.ino())
}

/// Gives a collector with its defaults.
pub fn default(descriptor: &'static Descriptor) -> (&'static Descriptor, Value) {
    (descriptor, (descriptor.section.defaults)())
}

/// Gives a collector with its defaults, but for which calls are timed.
pub fn timing(descriptor: &'static Descriptor, latency: &str) -> (&'static Descriptor, Value) {
    let mut section = (descriptor.section.defaults)();
    if let Some(timed) = section.get_mut("latency").filter(|timed| !timed.is_boolean()) {
        *timed = latency.into();
    }
    (descriptor, section)
}

/// Finds a built-in collector.
pub fn collector(name: &str) -> Option<&'static Descriptor> {
    collectors::ALL.iter().copied().find(|descriptor| descriptor.name == name)
}
