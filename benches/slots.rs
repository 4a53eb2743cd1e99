//! What the table of connections takes by how many there are: its maps, the collector's own memory, and a gather.

use std::collections::HashMap;
use std::error::Error;
use std::time::Instant;

use crate::descriptors;
use crate::load::Load;
use crate::measure::{self, Estimate, pairs};
use crate::workshop::{self, What, Workshop};

/// Datagrams, and slots of the table; a datagram is two connections, and half of the table is for such.
const SIZES: [(u64, u32); 3] = [(2_048, 8_192), (32_768, 139_264), (524_288, 2_105_344)];
/// How many connections the goal is for, and the milliseconds that a gather may take then.
const GOAL: (u64, f64) = (65_536, 10.0);

/// Gives the bytes that the kernel says the maps of the table take, by name.
fn maps() -> Result<HashMap<String, u64>, Box<dyn Error>> {
    let name = |map: aya::maps::MapInfo| (u64::from(map.id()), map.name_as_str().unwrap_or_default().to_owned());
    let names: HashMap<u64, String> = aya::maps::loaded_maps().flatten().map(name).collect();
    let all = descriptors::read("map_id", &names, ["memlock"])?;
    Ok(all.into_iter().map(|(name, [bytes])| (name, bytes)).collect())
}

fn own_memory() -> Result<u64, Box<dyn Error>> {
    // The table is mapped, but it is the kernel's.
    Ok(measure::memory(std::process::id(), "RssAnon").ok_or("/proc has no RssAnon")?)
}

/// Prints a line for each size.
pub fn table(workshop: &Workshop, cpu: usize) -> Result<(), Box<dyn Error>> {
    const MEBIBYTE: f64 = 1_048_576.0;
    println!(
        "Gathers of the collector connection alone, ms of real time, {} of each; what it keeps by connection.\n",
        pairs()
    );
    println!(
        "{:>11} {:>9} {:>9} {:>10} {:>7}  {:<22} {:<22} goal",
        "connections", "slots", "maps MiB", "agent MiB", "B each", "gather, no packets", "a packet of each"
    );
    for (datagrams, slots) in SIZES {
        let descriptor = workshop::collector("connection").ok_or("no connection collector")?;
        let mut section = workshop::default(descriptor).1;
        section["max_connections"] = slots.into();
        section["idle_timeout"] = "1h".into();
        let planned = (descriptor.plan)(&section, 1).maps;
        let before = own_memory()?;
        let mut attached = workshop.attach(&What::Collectors(vec![(descriptor, section)]))?;
        let mut load = Load::start(cpu)?;
        load.sample("scatter", datagrams, 1)?;
        workshop.gather(&mut attached)?;
        let memory = own_memory()?.saturating_sub(before);
        let found = maps()?;
        let table: u64 = planned.iter().filter_map(|(map, _)| found.get(*map)).sum();
        let (mut idle, mut busy) = (Vec::new(), Vec::new());
        for _ in 0..pairs() {
            for (samples, is_busy) in [(&mut idle, false), (&mut busy, true)] {
                if is_busy {
                    load.sample("scatter", datagrams, 1)?;
                }
                let begun = Instant::now();
                workshop.gather(&mut attached)?;
                samples.push(begun.elapsed().as_secs_f64() * 1e3);
            }
        }
        let (idle, busy) = (Estimate::of(&idle), Estimate::of(&busy));
        let connections = 2 * datagrams;
        let verdict =
            if connections == GOAL.0 { format!("{} {}", GOAL.1, busy.verdict(GOAL.1)) } else { String::new() };
        println!(
            "{connections:>11} {slots:>9} {:>9.1} {:>10.1} {:>7.0}  {idle:<22.2} {busy:<22.2} {verdict}",
            table as f64 / MEBIBYTE,
            memory as f64 / MEBIBYTE,
            memory as f64 / connections as f64,
        );
    }
    Ok(())
}
