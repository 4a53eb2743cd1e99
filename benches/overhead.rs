//! What our programs add to a system call: a pinned child calls getppid, with and without them, in interleaved pairs.
//! Then what every collector adds to other work, what the idle agent takes, and how steady `rate()` is over scrapes of
//! a constant load.

mod agent;
mod hooks;
mod iperf3;
mod load;
mod measure;
mod nginx;
mod work;
#[expect(dead_code, reason = "shared with the other benches")]
mod workshop;

use std::error::Error;

use load::Load;
use measure::{Estimate, pairs};
use workshop::{Filter, What, Workshop, shape};

/// Calls of one slice, and the slices of one sample, about 50 ms; a sample is its median slice, so that an interrupt
/// or a migration of the virtual CPU in one of them does not count.
const CALLS: u64 = 25_000;
const SLICES: u64 = 11;
/// A control that differs by more than this means that the machine was not quiet.
const NOISE: f64 = 5.0;

/// A line of the table.
struct Row {
    name: &'static str,
    /// The line with empty programs on the same hooks.
    floor: usize,
    goal: Option<f64>,
    what: What,
}

/// The lines of what others are compared with.
const PAIR: usize = 1;
const EXIT: usize = 2;
const CLOCK: usize = 7;

fn rows(child: u32) -> Result<Vec<Row>, Box<dyn Error>> {
    let row = |name, floor, goal, what| Row { name, floor, goal, what };
    let syscalls = workshop::collector("syscalls").ok_or("no syscalls collector")?;
    let timing = |latency| What::Collectors(vec![workshop::timing(syscalls, latency)]);
    let empty = |hooks: &[&'static str]| What::Floor(hooks.to_vec());
    Ok(vec![
        row("control: off and off", PAIR, None, What::Nothing),
        row("floor: empty pair", PAIR, None, empty(&["sys_exit", "sys_enter"])),
        row("floor: empty sys_exit", EXIT, None, empty(&["sys_exit"])),
        row("floor: two empty", EXIT, None, empty(&["sys_exit", "sys_exit__second"])),
        row("  asks for the task", EXIT, None, empty(&["sys_exit__task"])),
        row("  finds the owner", EXIT, None, empty(&["sys_exit__owner"])),
        row("  finds the owner, counts", EXIT, None, empty(&["sys_exit__count"])),
        row("  reads the clock", EXIT, None, empty(&["sys_exit__clock"])),
        row("  and adds it at scale 0", CLOCK, None, What::Sample("sys_exit", 0)),
        row("  and adds it at scale 1", CLOCK, None, What::Sample("sys_exit", 1)),
        row("  and adds it at scale 2", CLOCK, None, What::Sample("sys_exit", 2)),
        row("  and adds it at scale 3", CLOCK, None, What::Sample("sys_exit", 3)),
        row("  at scale 2, shared by CPUs", CLOCK, None, What::Sample("sys_exit__shared", 2)),
        row("counting only (sys_exit)", EXIT, Some(26.0), timing("off")),
        row("timing one in 16 (default)", PAIR, Some(45.0), What::Collectors(vec![workshop::default(syscalls)])),
        row("timing every call", PAIR, Some(85.0), timing("all")),
        row("gates with nobody behind", PAIR, None, What::Gates(vec!["sys_exit", "sys_enter"])),
        row("default, left out: agent", PAIR, None, What::Filtered(syscalls, Filter::Process(child))),
        row("default, left out: by name", PAIR, None, What::Filtered(syscalls, Filter::Name)),
        row("default, left out: by cgroup", PAIR, None, What::Filtered(syscalls, Filter::Cgroup)),
    ])
}

fn main() -> Result<(), Box<dyn Error>> {
    if load::is_child() {
        return Ok(load::obey()?);
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
    if cfg!(debug_assertions) {
        println!(
            "note: built without optimisation: the kernel's part is the same, the loads' and the agent's are larger\n"
        );
    }
    let workshop = Workshop::new()?;
    let arguments: Vec<String> = std::env::args().collect();
    // `--only PART`: calls, hooks or agent.
    let only = arguments.windows(2).find(|pair| pair[0] == "--only").map(|pair| pair[1].as_str());
    let wanted = |part| only.is_none_or(|only| only == part);
    if wanted("calls") {
        overhead(&workshop, measured)?;
        println!();
    }
    if wanted("hooks") {
        hooks::table(&workshop, measured)?;
        println!();
    }
    if wanted("agent") {
        agent::idle()?;
        println!();
        agent::rate(measured)?;
    }
    Ok(())
}

/// Prints the table of added nanoseconds.
fn overhead(workshop: &Workshop, cpu: usize) -> Result<(), Box<dyn Error>> {
    let mut load = Load::start(cpu)?;
    let rows = rows(load.id())?;
    let mut off: Vec<Vec<f64>> = vec![Vec::new(); rows.len()];
    let mut added = off.clone();
    load.sample("syscall", CALLS, SLICES)?;
    // All lines take turns, so that a slow minute of the machine is nobody's in particular.
    for _ in 0..pairs() {
        for (at, row) in rows.iter().enumerate() {
            let without = load.sample("syscall", CALLS, SLICES)?;
            let attached = workshop.attach(&row.what)?;
            let with = load.sample("syscall", CALLS, SLICES)?;
            drop(attached);
            off[at].push(without);
            added[at].push(with - without);
        }
    }
    println!(
        "getppid on CPU {cpu}: ns of thread CPU time per call, {} interleaved pairs, each sample the median of",
        pairs()
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
        "\n«x pair» is the ratio to the empty pair, «above empty» what is added beyond empty programs on the same hooks;"
    );
    println!("of samples, beyond reading the clock. A histogram from 16 ns to 18 minutes takes for each CPU:");
    let bytes = |scale| format!("{} B at scale {scale}", shape(scale).bytes());
    println!("{}.", (0..=3).map(bytes).collect::<Vec<_>>().join(", "));
    Ok(())
}
