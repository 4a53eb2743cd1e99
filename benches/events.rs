//! How many events a second one core carries from the kernel's program through ring, decoder, names, limits and bus to
//! a sink. Everything runs on one thread that is pinned, the program included: it is the thread's own system calls.

#[expect(dead_code, reason = "shared with the other benches")]
mod measure;

use std::collections::HashMap;
use std::error::Error;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::Duration;

use bpf::probe::Facts;
use bpf::{Loader, Types};
use collectors::EventDecoder;
use enrich::{Hierarchy, Settings, Workloads};
use model::event::EventKind;
use runtime::{Bus, Limit};
use rustix::thread::ClockId::ThreadCPUTime as CLOCK;

/// Events of one system call, as in flood.bpf.c.
const FLOOD: u64 = 64;
/// System calls of one round, and the events that they make.
const CALLS: u64 = 512;
const EVENTS: u64 = CALLS * FLOOD;
/// The number of getppid.
const GETPPID: u32 = if cfg!(target_arch = "x86_64") { 110 } else { 173 };

/// A figure of a round.
type Figure = fn(&Round) -> f64;

/// Nanoseconds for each event of one round.
#[derive(Clone, Copy)]
struct Round {
    emit: f64,
    carry: f64,
    take: f64,
}

fn main() -> Result<(), Box<dyn Error>> {
    measure::pin(measure::cpus().0)?;
    let facts = Facts::gather();
    let mount = facts.cgroups.mount.clone().ok_or("no cgroup hierarchy is mounted")?;
    let root = std::fs::metadata(&mount)?.ino();
    let workloads = Arc::new(Workloads::start(Hierarchy { mount, whole: true }, &Settings::default())?);
    let types = Types::load(None)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let _inside = runtime.enter();
    let mut object = Loader::new("flood")
        .constant("flooder", &std::process::id())
        .constant("trigger", &GETPPID)
        .constant("cgroup", &root)
        .max_entries("floods", 4 << 20)
        .load(&types)?;
    let mut events = object.events("floods", 0)?;
    object.attach("sys_exit", &types)?;
    let drops = object.per_cpu_cells::<u64>("drops")?;

    let bus = Arc::new(Bus::new(workloads, 1, EVENTS as usize));
    let feed = bus.feeds().pop().ok_or("no sink")?;
    let limit = Limit { rate: u32::MAX, burst: u32::MAX };
    let mut entrance = bus.entrance("bench", HashMap::from([(EventKind::Exit, limit)]));
    let mut decoder = EventDecoder::default();
    let mut rounds = Vec::new();
    for _ in 0..measure::pairs() {
        let (emit, ()) = measure::timed(CLOCK, || {
            for _ in 0..CALLS {
                let _ = std::os::unix::process::parent_id();
            }
        });
        let (carry, read) = measure::timed(CLOCK, || {
            runtime.block_on(async {
                let mut read = 0;
                while read < EVENTS {
                    read += events.batch(|record| decoder.pass_on(record, &mut entrance)).await? as u64;
                    entrance.flush();
                }
                std::io::Result::Ok(read)
            })
        });
        let (take, taken) = measure::timed(CLOCK, || {
            runtime.block_on(async {
                let mut taken = 0;
                while taken < EVENTS {
                    taken += feed.take(8192, Duration::ZERO).await.len() as u64;
                }
                taken
            })
        });
        if read? != EVENTS || taken != EVENTS {
            return Err("events came from elsewhere".into());
        }
        let each = |time: Duration| time.as_nanos() as f64 / EVENTS as f64;
        rounds.push(Round { emit: each(emit), carry: each(carry), take: each(take) });
    }
    let lost = drops.get(0)?.into_iter().sum::<u64>() + entrance.ledger().limited() + feed.overflowed();
    if lost > 0 {
        return Err(format!("{lost} events were lost").into());
    }
    report(&rounds);
    Ok(())
}

fn report(rounds: &[Round]) {
    let median = |of: Figure| {
        let mut all: Vec<f64> = rounds.iter().map(of).collect();
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    println!("One thread on one CPU, {} rounds of {EVENTS} events of 56 bytes, medians of its CPU time", rounds.len());
    println!("{:<48} {:>8} {:>12}", "", "ns/event", "events/s");
    let lines: [(&str, Figure); 5] = [
        ("the program writes to the ring", |round| round.emit),
        ("ring, decoder, names, limit, queue of a sink", |round| round.carry),
        ("the sink takes and drops", |round| round.take),
        ("from the ring to the sink (goal: 1,000,000/s)", |round| round.carry + round.take),
        ("all of it, the program included", |round| round.emit + round.carry + round.take),
    ];
    for (what, of) in lines {
        println!("{what:<48} {:>8.1} {:>12.0}", median(of), 1e9 / median(of));
    }
}
