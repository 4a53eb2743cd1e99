//! What each collector and all of them add to work of every kind, beside empty programs on the same hooks.

use std::collections::HashMap;
use std::error::Error;
use std::time::{Duration, Instant};

use runtime::Descriptor;
use serde_json::Value;

use crate::iperf3::Iperf3;
use crate::load::Load;
use crate::measure::{Estimate, median, pairs};
use crate::nginx::Nginx;
use crate::work::{KINDS, Kind};
use crate::workshop::{self, What, Workshop};

/// Slices of one sample, some 15 ms.
const SLICES: u64 = 3;
/// On a busy machine rounds end after this time, once there are so many.
const PATIENCE: Duration = Duration::from_mins(5);
const FEWEST: usize = 5;
/// How far the ratio of two equal halves may lie from 1 on a quiet machine.
const NOISE: f64 = 0.02;

/// CPU time per operation against none that all collectors together may take: sampled, and with every call timed.
const GOALS: &[(&str, f64, f64, Option<f64>)] = &[
    ("pipe", 1.25, 1.15, Some(1.40)),
    ("tcp-rr", 1.08, 1.05, None),
    ("iperf3", 1.02, 1.02, None),
    ("nginx", 1.12, 1.08, Some(1.22)),
];

/// Hooks that floor.bpf.c has an empty program for.
const EMPTY: &[&str] = &[
    "sys_exit",
    "sys_enter",
    "cgroup_mkdir",
    "cgroup_rmdir",
    "cgroup_attach_task",
    "sched_switch",
    "sched_wakeup",
    "sched_wakeup_new",
    "sched_process_exec",
    "sched_process_exit",
    "sched_process_free",
    "inet_sock_set_state",
    "tcp_destroy_sock",
    "tcp_receive_reset",
    "tcp_retransmit_skb",
    "tcp_retransmit_synack",
    "tcp_send_reset",
    "kfree_skb",
    "sock_send_length",
    "sock_recv_length",
    "block_rq_issue",
    "block_rq_complete",
    "mm_page_alloc",
    "mark_victim",
    "floor_egress",
    "floor_ingress",
    "floor_create",
];

/// Collectors whose programs do the work of another's, too, where both run.
const INCLUDES: &[(&str, &str)] = &[("connection", "network")];

/// Programs of others that are measured in their own way, by one line in four.
const OTHERS: &[&str] = &["nginx", "iperf3"];

/// The kernel keeps so much of a program's name.
const NAME: usize = 15;

/// What is measured: a name, what is attached, and the samples of each kind of work.
struct Line {
    name: String,
    what: What,
    /// By kind of work: nanoseconds without and with.
    samples: HashMap<&'static str, Vec<(f64, f64)>>,
}

impl Line {
    fn new(name: impl Into<String>, what: What) -> Self {
        Self { name: name.into(), what, samples: HashMap::new() }
    }

    fn added(&self, kind: &str) -> Option<Estimate> {
        let added: Vec<f64> = self.samples.get(kind)?.iter().map(|(off, on)| on - off).collect();
        Some(Estimate::of(&added))
    }

    fn ratio(&self, kind: &str) -> Option<Estimate> {
        let ratios: Vec<f64> = self.samples.get(kind)?.iter().map(|(off, on)| on / off).collect();
        Some(Estimate::of(&ratios))
    }
}

/// Those of [`OTHERS`] that are installed.
#[derive(Default)]
struct Others {
    nginx: Option<Nginx>,
    iperf3: Option<Iperf3>,
}

/// Prints both tables.
pub fn table(workshop: &Workshop, cpu: usize) -> Result<(), Box<dyn Error>> {
    let (mut lines, all) = lines(workshop);
    let mut load = Load::start(cpu)?;
    let mut others = Others {
        nginx: Nginx::start(cpu).map_err(|why| println!("nginx was not measured: {why}\n")).ok(),
        iperf3: Iperf3::start(cpu).map_err(|why| println!("iperf3 was not measured: {why}\n")).ok(),
    };
    for kind in KINDS {
        load.sample(kind.name, kind.slice, SLICES)?;
    }
    let begun = Instant::now();
    for round in 0..pairs() {
        if round >= FEWEST && begun.elapsed() > PATIENCE {
            println!("Stopped after {PATIENCE:?}: the machine is slow, and the intervals are wide.\n");
            break;
        }
        for (at, line) in lines.iter_mut().enumerate() {
            let mut none = Others::default();
            let others = if at == 0 || at >= all { &mut others } else { &mut none };
            let off = sample(&mut load, others)?;
            let attached = workshop.attach(&line.what)?;
            let on = sample(&mut load, others)?;
            drop(attached);
            for ((kind, off), (_, on)) in off.into_iter().zip(on) {
                line.samples.entry(kind).or_default().push((off, on));
            }
        }
    }
    print_added(&lines, all);
    println!();
    print_ratios(&lines, all);
    Ok(())
}

/// Gives the control, then for each collector empty programs on its hooks and itself; and where those of all begin.
fn lines(workshop: &Workshop) -> (Vec<Line>, usize) {
    let mut lines = vec![Line::new("control: off and off", What::Nothing)];
    let (mut every, mut running): (Vec<&'static str>, Vec<&'static Descriptor>) = (Vec::new(), Vec::new());
    for &descriptor in collectors::ALL {
        let what = What::Collectors(vec![workshop::default(descriptor)]);
        let hooks = match hooks(workshop, &what) {
            Ok(hooks) => hooks,
            Err(why) => {
                println!("{} was not measured: {why}\n", descriptor.name);
                continue;
            }
        };
        running.push(descriptor);
        every.extend(hooks.iter().filter(|hook| !every.contains(hook)).copied().collect::<Vec<_>>());
        if !hooks.is_empty() {
            lines.push(Line::new("  empty programs", What::Floor(hooks)));
            lines.push(Line::new(descriptor.name, what));
        }
    }
    let all = lines.len();
    let sections = |of: fn(&'static Descriptor) -> (&'static Descriptor, Value)| {
        What::Collectors(running.iter().copied().map(of).collect())
    };
    lines.push(Line::new("  empty programs", What::Floor(every)));
    lines.push(Line::new("all, sampled (default)", sections(workshop::default)));
    lines.push(Line::new("all, every call timed", sections(|descriptor| workshop::timing(descriptor, "all"))));
    (lines, all)
}

/// Finds out at which hooks programs are attached that have an empty one, by their names.
fn hooks(workshop: &Workshop, what: &What) -> Result<Vec<&'static str>, Box<dyn Error>> {
    let attached = workshop.attach(what)?;
    // What others load meanwhile is not ours.
    let ours: Vec<u32> = std::fs::read_dir("/proc/self/fdinfo")?
        .filter_map(|entry| std::fs::read_to_string(entry.ok()?.path()).ok())
        .filter_map(|info| info.lines().find_map(|line| line.strip_prefix("prog_id:")?.trim().parse().ok()))
        .collect();
    let loaded = aya::programs::loaded_programs().flatten().filter(|program| ours.contains(&program.id()));
    let names: Vec<String> = loaded.map(|program| program.name_as_str().unwrap_or_default().to_owned()).collect();
    drop(attached);
    let sits = |hook: &&&str| {
        // Programs of cgroup hooks are named after their collector and the hook.
        if let Some(hook) = hook.strip_prefix("floor") {
            return names.iter().any(|name| name.ends_with(hook));
        }
        let hook = hook[..hook.len().min(NAME)].trim_end_matches('_');
        names.iter().filter_map(|name| name.split("__").next()).any(|name| name.trim_end_matches('_') == hook)
    };
    Ok(EMPTY.iter().filter(sits).copied().collect())
}

/// Measures every kind of work once.
fn sample(load: &mut Load, others: &mut Others) -> Result<Vec<(&'static str, f64)>, Box<dyn Error>> {
    let one = |kind: &Kind| Ok((kind.name, load.sample(kind.name, kind.slice, SLICES)?));
    let mut samples = KINDS.iter().map(one).collect::<Result<Vec<_>, std::io::Error>>()?;
    if let Some(nginx) = &mut others.nginx {
        samples.push(("nginx", nginx.sample()?));
    }
    if let Some(iperf3) = &mut others.iperf3 {
        samples.push(("iperf3", iperf3.sample()?));
    }
    Ok(samples)
}

fn print_added(lines: &[Line], all: usize) {
    let pairs = lines.first().and_then(|line| line.samples.values().next()).map_or(0, Vec::len);
    println!("Added ns of CPU time per operation on one CPU, {pairs} interleaved pairs, each sample the median of");
    println!("{SLICES} slices; median, and half the width of its 95 % interval.\n");
    for kind in KINDS {
        println!("{:<12} {}", kind.name, kind.operation);
    }
    print!("\n{:<24}", "");
    for kind in KINDS {
        print!(" {:>15}", kind.name);
    }
    println!();
    let mut off: HashMap<&str, Vec<f64>> = HashMap::new();
    for (kind, pairs) in lines.iter().flat_map(|line| &line.samples) {
        off.entry(kind).or_default().extend(pairs.iter().map(|(off, _)| off));
    }
    print!("{:<24}", "no programs: ns");
    for kind in KINDS {
        print!(" {:>15.0}", median(off.get_mut(kind.name).unwrap_or(&mut vec![f64::NAN])));
    }
    println!();
    let parts = parts(lines, all);
    for (at, line) in lines.iter().enumerate() {
        if at == all + 1 {
            print!("{:<24}", "  and the parts above");
            for part in &parts {
                print!(" {part:>15.0}");
            }
            println!();
        }
        print!("{:<24}", line.name);
        for kind in KINDS {
            let Some(added) = line.added(kind.name) else { continue };
            let cell = format!("{:.0} ±{:.0}", added.median, (added.high - added.low) / 2.0);
            print!(" {cell:>15}");
        }
        println!();
    }
    println!(
        "\n«empty programs» sit on the same hooks as the line below them. «and the parts above» adds to the empty programs"
    );
    println!(
        "of all what each collector takes beyond its own empty programs: where the table adds up, that is what all"
    );
    println!("together take. A collector that another one includes (network: connection) is not added twice.\n");
    print!("{:<24}", "all together / parts");
    for (kind, part) in KINDS.iter().zip(&parts) {
        let ratio = lines.get(all + 1).and_then(|line| line.added(kind.name)).map_or(f64::NAN, |all| all.median / part);
        print!(" {ratio:>15.2}");
    }
    println!();
}

/// Gives, for each kind of work, what the empty programs of all take and what each collector adds to its own.
fn parts(lines: &[Line], all: usize) -> Vec<f64> {
    let runs = |name: &str| lines.iter().any(|line| line.name == name);
    let included = |name: &str| INCLUDES.iter().any(|(whole, part)| *part == name && runs(whole));
    let one = |kind: &Kind| {
        let of = |line: &Line| line.added(kind.name).map_or(0.0, |added| added.median);
        let own = lines[1..all].chunks_exact(2).filter(|pair| !included(&pair[1].name));
        lines.get(all).map_or(0.0, of) + own.map(|pair| of(&pair[1]) - of(&pair[0])).sum::<f64>()
    };
    KINDS.iter().map(one).collect()
}

fn print_ratios(lines: &[Line], all: usize) {
    println!("CPU time per operation with all collectors against none: median ratio and its 95 % interval.\n");
    let (Some(control), Some([floor, sampled, timed])) = (lines.first(), lines.get(all..)) else { return };
    println!(
        "{:<12} {:<22} {:<22} {:<22} {:<26} {:<22}",
        "", "control", "empty programs", "sampled (default)", "goal (beyond)", "every call timed"
    );
    for kind in KINDS.iter().map(|kind| kind.name).chain(OTHERS.iter().copied()) {
        let ratio = |line: &Line| line.ratio(kind);
        let (Some(quiet), Some(floor), Some(sampled), Some(timed)) =
            (ratio(control), ratio(floor), ratio(sampled), ratio(timed))
        else {
            continue;
        };
        let is_quiet = quiet.low > 1.0 - NOISE && quiet.high < 1.0 + NOISE;
        let verdict = |ratio: &Estimate, goal: f64| match ratio.verdict(goal) {
            "missed" if !is_quiet => "not resolved",
            verdict => verdict,
        };
        let goals = GOALS.iter().find(|(name, ..)| *name == kind);
        let first = goals.map_or_else(String::new, |&(_, goal, beyond, _)| {
            format!("{goal} {} ({beyond} {})", verdict(&sampled, goal), verdict(&sampled, beyond))
        });
        let second = goals
            .and_then(|goals| goals.3)
            .map_or_else(String::new, |goal| format!("goal {goal} {}", verdict(&timed, goal)));
        println!("{kind:<12} {quiet:<22.3} {floor:<22.3} {sampled:<22.3} {first:<26} {timed:<22.3} {second}");
    }
}
