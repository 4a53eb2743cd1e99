//! What programs take for a packet, by the kernel's own statistics: all of them see the same packets, so that an empty
//! one beside them takes off what reading the clock costs. Then what they add to work, in interleaved pairs.

use std::collections::HashMap;
use std::error::Error;

use aya::Ebpf;
use aya::programs::tc::{self, SchedClassifier, TcAttachType};
use aya::sys::Stats;
use runtime::Descriptor;
use serde_json::Value;

use crate::descriptors;
use crate::iperf3::Iperf3;
use crate::load::Load;
use crate::measure::{Estimate, median, pairs};
use crate::work::{KINDS, Kind, PACKETS};
use crate::workshop::{self, What, Workshop};

/// Slices of one sample, some 15 ms.
const SLICES: u64 = 3;
/// The goal for what a packet costs above an empty program on an interface, in nanoseconds.
const GOAL: f64 = 60.0;
/// The kinds of work that are packets.
const WORK: [&str; 3] = ["udp", "tcp-rr", "tcp-stream"];
/// Lines beside which iperf3 is measured, which takes a second each time.
const IPERF3: [&str; 3] = ["control: off and off", EMPTY, "connection"];

const EMPTY: &str = "empty, on the interface";
const TABLE: &str = "table, on the interface";
const SOCKET: &str = "empty, at the socket";
const BOTH: &str = "connection and network";

/// Programs by line: those of the gates are called after their hooks.
const PROGRAMS: [(&str, &[&str]); 5] = [
    (EMPTY, &["tc_empty"]),
    (TABLE, &["tc_table"]),
    (SOCKET, &["floor_egress", "floor_ingress"]),
    ("connection", &["egress", "ingress"]),
    (BOTH, &["egress", "ingress"]),
];

type Section = (&'static Descriptor, Value);

/// Runs of programs, and the nanoseconds that they took.
#[derive(Clone, Copy, Default)]
struct Runs {
    nanoseconds: f64,
    count: f64,
}

/// Puts a program of classifier.bpf.c on both ways of the loopback interface.
fn classify(program: &str) -> Result<Ebpf, Box<dyn Error>> {
    let (_, file) = bpf::objects().find(|(name, _)| *name == "classifier").ok_or("no classifier")?;
    let mut ebpf = Ebpf::load(file)?;
    // Needed before Linux 6.6; a second one is refused.
    let _ = tc::qdisc_add_clsact("lo");
    let found = ebpf.program_mut(program).ok_or_else(|| format!("no program {program}"))?;
    let classifier: &mut SchedClassifier = found.try_into()?;
    classifier.load()?;
    classifier.attach("lo", TcAttachType::Egress)?;
    classifier.attach("lo", TcAttachType::Ingress)?;
    Ok(ebpf)
}

fn kinds() -> Vec<&'static Kind> {
    KINDS.iter().chain(PACKETS).filter(|kind| WORK.contains(&kind.name)).collect()
}

fn section(name: &str) -> Result<Section, Box<dyn Error>> {
    Ok(workshop::collector(name).map(workshop::default).ok_or_else(|| format!("no {name}"))?)
}

/// Reads what the kernel says of this process's programs, by name.
fn statistics() -> Result<HashMap<String, Runs>, Box<dyn Error>> {
    let name = |program: aya::programs::ProgramInfo| {
        (u64::from(program.id()), program.name_as_str().unwrap_or_default().to_owned())
    };
    let names: HashMap<u64, String> = aya::programs::loaded_programs().flatten().map(name).collect();
    let runs = |[taken, count]: [u64; 2]| Runs { nanoseconds: taken as f64, count: count as f64 };
    let all = descriptors::read("prog_id", &names, ["run_time_ns", "run_cnt"])?;
    Ok(all.into_iter().map(|(name, found)| (name, runs(found))).collect())
}

/// Gives the nanoseconds of a run of some programs between two readings.
fn between(before: &HashMap<String, Runs>, after: &HashMap<String, Runs>, programs: &[&str]) -> f64 {
    let sum = |of: fn(&Runs) -> f64| {
        let at =
            |all: &HashMap<String, Runs>| -> f64 { programs.iter().filter_map(|name| all.get(*name)).map(of).sum() };
        at(after) - at(before)
    };
    sum(|runs| runs.nanoseconds) / sum(|runs| runs.count)
}

/// Prints what each program takes for a packet.
pub fn each(workshop: &Workshop, cpu: usize) -> Result<(), Box<dyn Error>> {
    let _statistics = aya::sys::enable_stats(Stats::RunTime)?;
    let _classifiers = [classify("tc_empty")?, classify("tc_table")?];
    let _floor = workshop.attach(&What::Floor(vec!["floor_egress", "floor_ingress"]))?;
    let mut load = Load::start(cpu)?;
    let alone = ("connection", vec![section("connection")?]);
    let both = (BOTH, vec![section("connection")?, section("network")?]);
    // By line and kind: what it takes above the empty program on the interface; and of that one, all.
    let mut samples: HashMap<(&str, &str), Vec<f64>> = HashMap::new();
    for _ in 0..pairs() {
        for (name, collectors) in [&alone, &both] {
            let attached = workshop.attach(&What::Collectors(collectors.clone()))?;
            for kind in kinds() {
                // Whose connections are new is not measured here.
                load.sample(kind.name, kind.slice / 10, 1)?;
                let before = statistics()?;
                load.sample(kind.name, kind.slice, SLICES)?;
                let after = statistics()?;
                let empty = between(&before, &after, PROGRAMS[0].1);
                for (line, programs) in PROGRAMS {
                    let taken = between(&before, &after, programs);
                    let is_there = line == *name || !["connection", BOTH].contains(&line);
                    if is_there && taken.is_finite() {
                        let above = if line == EMPTY { taken } else { taken - empty };
                        samples.entry((line, kind.name)).or_default().push(above);
                    }
                }
            }
            drop(attached);
        }
    }
    println!(
        "ns of a program for a packet, each way, above an empty one on the interface (TC) that sees the same packets;"
    );
    println!(
        "{} rounds, median and its 95 % interval. «table» looks up the five-tuple in a hash and counts, no more: a",
        pairs()
    );
    println!("packet between two pods of a node passes four such hooks, and two sockets.\n");
    print!("{:<26}", "");
    for kind in kinds() {
        print!(" {:<23}", kind.name);
    }
    println!(" goal {GOAL}");
    for (line, _) in PROGRAMS {
        print!("{line:<26}");
        let mut verdicts = Vec::new();
        for kind in kinds() {
            let estimate = samples.get(&(line, kind.name)).map(|samples| Estimate::of(samples));
            print!(" {:<23}", estimate.map_or_else(|| "-".to_owned(), |estimate| format!("{estimate:.1}")));
            verdicts.extend(estimate.map(|estimate| estimate.verdict(GOAL)));
        }
        println!(" {}", if line == "connection" { verdicts.join(", ") } else { String::new() });
    }
    println!("\nThe first line is all that the kernel says of the empty program, most of it reading the clock twice.");
    Ok(())
}

/// Prints what the programs add to work.
pub fn work(workshop: &Workshop, cpu: usize) -> Result<(), Box<dyn Error>> {
    let mut load = Load::start(cpu)?;
    let mut iperf3 = Iperf3::start(cpu).map_err(|why| println!("iperf3 was not measured: {why}\n")).ok();
    let lines = ["control: off and off", EMPTY, TABLE, SOCKET, "connection", BOTH];
    let mut samples: HashMap<(&str, &str), Vec<(f64, f64)>> = HashMap::new();
    let mut sample = |line: &str, load: &mut Load| -> Result<Vec<(&'static str, f64)>, Box<dyn Error>> {
        let one = |kind: &Kind| Ok((kind.name, load.sample(kind.name, kind.slice, SLICES)?));
        let mut all = kinds().into_iter().map(one).collect::<Result<Vec<_>, std::io::Error>>()?;
        if let Some(iperf3) = iperf3.as_mut().filter(|_| IPERF3.contains(&line)) {
            all.push(("iperf3", iperf3.sample()?));
        }
        Ok(all)
    };
    for _ in 0..pairs() {
        for line in lines {
            let off = sample(line, &mut load)?;
            let (classifier, attached) = match line {
                EMPTY => (Some(classify("tc_empty")?), Vec::new()),
                TABLE => (Some(classify("tc_table")?), Vec::new()),
                SOCKET => (None, workshop.attach(&What::Floor(vec!["floor_egress", "floor_ingress"]))?),
                "connection" => (None, workshop.attach(&What::Collectors(vec![section("connection")?]))?),
                BOTH => {
                    let both = vec![section("connection")?, section("network")?];
                    (None, workshop.attach(&What::Collectors(both))?)
                }
                _ => (None, Vec::new()),
            };
            let on = sample(line, &mut load)?;
            drop((classifier, attached));
            for ((kind, off), (_, on)) in off.into_iter().zip(on) {
                samples.entry((line, kind)).or_default().push((off, on));
            }
        }
    }
    println!(
        "CPU time of work with only these programs: added ns per operation and the ratio to none, {} pairs.\n",
        pairs()
    );
    for kind in kinds() {
        println!("{:<12} {}", kind.name, kind.operation);
    }
    println!("{:<12} 64 KiB of iperf3 over loopback, both ends\n", "iperf3");
    for kind in kinds().iter().map(|kind| kind.name).chain(["iperf3"]) {
        let mut off: Vec<f64> =
            lines.iter().filter_map(|line| samples.get(&(*line, kind))).flatten().map(|pair| pair.0).collect();
        println!("{kind}: {:.0} ns", median(&mut off));
        for line in lines {
            let Some(pairs) = samples.get(&(line, kind)) else { continue };
            let of = |figure: fn(&(f64, f64)) -> f64| Estimate::of(&pairs.iter().map(figure).collect::<Vec<_>>());
            println!("  {line:<26} {:<26.0} {:.3}", of(|(off, on)| on - off), of(|(off, on)| on / off));
        }
    }
    Ok(())
}
