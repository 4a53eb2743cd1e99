//! What our programs add to a system call: a pinned child calls getppid, with and without them, in interleaved pairs.
//! Then what the idle agent takes, and how steady `rate()` is over scrapes of a constant load.

mod agent;
mod load;
mod measure;

use std::error::Error;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bpf::{Loader, Object, Types};
use load::Load;
use measure::{Estimate, PAIRS};
use model::{Census, CgroupChange};
use runtime::{Collector, Descriptor, Own, Platform, Setup};
use serde_json::{Value, json};

/// Calls of one slice, and the slices of one sample, about 50 ms; a sample is its median slice, so that an interrupt
/// or a migration of the virtual CPU in one of them does not count.
const CALLS: u64 = 25_000;
const SLICES: u64 = 21;
/// A control that differs by more than this means that the machine was not quiet.
const NOISE: f64 = 5.0;

/// Nothing dies here.
struct NoCgroups;

impl Census for NoCgroups {
    fn changed(&self, _: CgroupChange) {}

    fn removed_for(&self, _: u64) -> Option<Duration> {
        None
    }
}

/// What is attached in the «on» half of a pair; dropping it detaches it.
enum Attached {
    Nothing,
    Floor { _object: Object },
    Collector { _collector: Box<dyn Collector> },
}

/// A line of the table.
struct Row {
    name: &'static str,
    /// The line with empty programs on the same hooks.
    floor: usize,
    goal: Option<f64>,
    what: What,
}

enum What {
    Nothing,
    /// These programs of floor.bpf.c.
    Floor(&'static [&'static str]),
    Syscalls(Value),
}

/// The lines of the empty programs.
const PAIR: usize = 1;
const EXIT: usize = 2;

/// Attaches what a line is about.
struct Workshop {
    platform: Arc<Platform>,
    types: Types,
    runtime: tokio::runtime::Runtime,
    syscalls: &'static Descriptor,
}

impl Workshop {
    fn new() -> Result<Self, Box<dyn Error>> {
        let types = Types::load(None)?;
        let platform = Platform {
            facts: bpf::probe::Facts::gather(),
            census: Arc::new(NoCgroups),
            btf_path: None,
            types: Mutex::new(Some(types.clone())),
            map_scale: 1.0,
            ring_bytes: 256 * 1024,
            process_filter: Vec::new(),
            exclude_processes: Vec::new(),
            cgroup_rules: None,
            excluded_process: None,
            sample_every: 1,
            meters: Own::new().provider(),
        };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let syscalls = collectors::ALL.iter().find(|descriptor| descriptor.name == "syscalls");
        Ok(Self { platform: Arc::new(platform), types, runtime, syscalls: syscalls.ok_or("no syscalls collector")? })
    }

    fn attach(&self, what: &What) -> Result<Attached, Box<dyn Error>> {
        Ok(match what {
            What::Nothing => Attached::Nothing,
            What::Floor(hooks) => {
                let mut object = Loader::new("floor").load(&self.types)?;
                for hook in *hooks {
                    object.attach(hook, &self.types)?;
                }
                Attached::Floor { _object: object }
            }
            What::Syscalls(section) => {
                let (platform, handle) = (Arc::clone(&self.platform), self.runtime.handle().clone());
                let mut setup = Setup::new(self.syscalls.name, section.clone(), platform, handle);
                Attached::Collector { _collector: (self.syscalls.make)(&mut setup)? }
            }
        })
    }

    /// The collector's section with another choice of what is timed.
    fn section(&self, latency: Value) -> What {
        let mut section = (self.syscalls.section.defaults)();
        section["latency"] = latency;
        What::Syscalls(section)
    }

    fn rows(&self) -> Vec<Row> {
        let row = |name, floor, goal, what| Row { name, floor, goal, what };
        let default = What::Syscalls((self.syscalls.section.defaults)());
        vec![
            row("control: off and off", PAIR, None, What::Nothing),
            row("floor: empty pair", PAIR, None, What::Floor(&["sys_exit", "sys_enter"])),
            row("floor: empty sys_exit", EXIT, None, What::Floor(&["sys_exit"])),
            row("  finds the owner", EXIT, None, What::Floor(&["sys_exit__owner"])),
            row("  finds the owner, counts", EXIT, None, What::Floor(&["sys_exit__count"])),
            row("  reads the clock", EXIT, None, What::Floor(&["sys_exit__clock"])),
            row("counting only (sys_exit)", EXIT, Some(26.0), self.section(json!("off"))),
            row("timing one in 16 (default)", PAIR, Some(45.0), default),
            row("timing every call", PAIR, Some(85.0), self.section(json!("all"))),
        ]
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    if load::is_child() {
        return Ok(load::work()?);
    }
    // Another target's filter asks for a list or a test run: there is nothing to do then.
    if std::env::args().any(|argument| argument == "--list" || argument == "--test") {
        return Ok(());
    }
    let (measured, other) = measure::cpus();
    measure::pin(other)?;
    let others = aya::programs::loaded_programs().flatten().count();
    if others > 0 {
        println!("note: {others} BPF programs of others are loaded; the figures hold with them in place\n");
    }
    overhead(measured)?;
    println!();
    agent::idle()?;
    println!();
    agent::rate(measured)
}

/// Prints the table of added nanoseconds.
fn overhead(cpu: usize) -> Result<(), Box<dyn Error>> {
    let workshop = Workshop::new()?;
    let rows = workshop.rows();
    let mut load = Load::start(cpu)?;
    let mut off: Vec<Vec<f64>> = vec![Vec::new(); rows.len()];
    let mut added = off.clone();
    load.sample(CALLS, SLICES)?;
    // All lines take turns, so that a slow minute of the machine is nobody's in particular.
    for _ in 0..PAIRS {
        for (at, row) in rows.iter().enumerate() {
            let without = load.sample(CALLS, SLICES)?;
            let attached = workshop.attach(&row.what)?;
            let with = load.sample(CALLS, SLICES)?;
            drop(attached);
            off[at].push(without);
            added[at].push(with - without);
        }
    }
    println!(
        "getppid on CPU {cpu}: ns of thread CPU time per call, {PAIRS} interleaved pairs, each sample the median of"
    );
    println!("{SLICES} slices of {CALLS} calls; median and its 95 % interval.\n");
    let control = Estimate::of(&added[0]);
    let quiet = control.low > -NOISE && control.high < NOISE;
    println!("{:<28} {control}", rows[0].name);
    if !quiet {
        println!("The machine was not quiet: what is not met below is not resolved.");
    }
    println!("{:<28} {}", "no programs", Estimate::of(&off.concat()));
    println!("\n{:<28} {:<24} {:>8} {:>12} {:>6}", "added by", "ns", "x pair", "above empty", "goal");
    let floor = |at: usize| Estimate::of(&added[at]).median;
    for (row, samples) in rows.iter().zip(&added).skip(1) {
        let estimate = Estimate::of(samples);
        let ratio = estimate.median / floor(PAIR);
        let above = estimate.median - floor(row.floor);
        let verdict = |goal: f64| match estimate.verdict(goal) {
            "missed" if !quiet => "not resolved",
            verdict => verdict,
        };
        let goal = row.goal.map_or_else(String::new, |goal| format!("{goal:>6} {}", verdict(goal)));
        println!("{:<28} {:<24} {ratio:>8.1} {above:>12.1} {goal}", row.name, estimate);
    }
    println!(
        "\n«x pair» is the ratio to the empty pair, «above empty» what is added beyond empty programs on the same hooks."
    );
    Ok(())
}
