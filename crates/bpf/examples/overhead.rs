//! Prints what each mode of the syscalls programs adds to a getppid call: thread CPU time, pinned to one CPU, medians
//! over interleaved pairs with and without programs. A quick look for work on the programs.

use std::os::unix::process::parent_id;

use bpf::abi::syscalls::{TIME_EVERY, TIME_NONE, TIME_SAMPLE};
use bpf::probe::Facts;
use bpf::{Loader, Object, Types};
use rustix::thread::{CpuSet, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};

const CALLS: u32 = 300_000;
const PAIRS: usize = 21;

fn cpu_ns() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
}

fn per_call() -> f64 {
    let start = cpu_ns();
    for _ in 0..CALLS {
        std::hint::black_box(parent_id());
    }
    (cpu_ns() - start) / f64::from(CALLS)
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() -> Result<(), bpf::Error> {
    let mut cpus = CpuSet::new();
    cpus.set(1);
    let _ = sched_setaffinity(None, &cpus);
    let types = Types::load(None)?;
    let hierarchy = Facts::gather().cgroups.primary as u32;
    let wanted = std::env::args().nth(1);
    let attach = |object: &'static str, timing: Option<u32>, exit: bool| -> Result<Object, bpf::Error> {
        let mut loader = Loader::new(object);
        if let Some(timing) = timing {
            loader = loader.constant("timing", &timing).constant("hierarchy", &hierarchy);
        }
        let mut object = loader.load(&types)?;
        if exit {
            object.attach("sys_exit", &types)?;
        }
        if timing != Some(TIME_NONE) && timing != Some(99) {
            object.attach("sys_enter", &types)?;
        }
        Ok(object)
    };
    let modes: [(&str, &'static str, Option<u32>, bool); 10] = [
        ("control", "", None, false),
        ("empty exit", "floor", Some(99), true),
        ("floor", "floor", None, true),
        ("counting", "syscalls", Some(TIME_NONE), true),
        ("sample 16", "syscalls", Some(TIME_SAMPLE), true),
        ("every", "syscalls", Some(TIME_EVERY), true),
        ("legacy counting", "syscalls_legacy", Some(TIME_NONE), true),
        ("legacy sample 16", "syscalls_legacy", Some(TIME_SAMPLE), true),
        ("legacy every", "syscalls_legacy", Some(TIME_EVERY), true),
        ("sample enter", "syscalls", Some(TIME_SAMPLE), false),
    ];
    per_call();
    for (name, object, timing, exit) in modes {
        if wanted.as_ref().is_some_and(|wanted| !name.contains(wanted.as_str())) {
            continue;
        }
        let (mut added, mut bases) = (Vec::new(), Vec::new());
        for _ in 0..PAIRS {
            let base = per_call();
            let attached = match (object, timing) {
                ("", _) => None,
                ("floor", Some(_)) => {
                    let mut object = Loader::new("floor").load(&types)?;
                    object.attach("sys_exit", &types)?;
                    Some(object)
                }
                _ => Some(attach(object, timing, exit)?),
            };
            per_call();
            let with = per_call();
            drop(attached);
            bases.push(base);
            added.push(with - base);
        }
        let base = median(&mut bases);
        println!(
            "{name:18} base {base:6.1}  added {:6.1} ns  ({:.1} .. {:.1})",
            median(&mut added),
            added[PAIRS / 4],
            added[PAIRS * 3 / 4]
        );
    }
    Ok(())
}
