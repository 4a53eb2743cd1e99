//! Programs that take each other's places on their pinned hooks.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bpf::abi::sample::TIME_NONE;
use bpf::{Object, Pins, Types};

use crate::bench::{Cgroup, Work, builds, ready};
use crate::{call, loader, total};

const FILLED: &[&str] = &["comms", "listed"];

/// A BPF file system of the test's own.
struct BpfFs(PathBuf);

impl BpfFs {
    fn mount(name: &str) -> Self {
        let directory = std::env::temp_dir().join(format!("telesonde-pins-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("a directory");
        let status = Command::new("mount").args(["-t", "bpf", "bpf"]).arg(&directory).status().expect("mount runs");
        assert!(status.success(), "mount -t bpf: {status}");
        Self(directory)
    }
}

impl Drop for BpfFs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// Takes the directory. A child of this process that has not begun its program yet still has the file that locks it.
fn open(root: &Path) -> Pins {
    for _ in 0..500 {
        if let Ok(pins) = Pins::open(root) {
            return pins;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Pins::open(root).expect("it can be pinned")
}

/// Does what a process does that begins: takes over what is pinned.
fn begin(name: &'static str, pins: &Pins, own: u32, types: &Types) -> Object {
    // What it is told of itself differs, and so does its program.
    let loader = loader(name, TIME_NONE).passing("own_tgid", &own).pinned(Some(pins), "calls", FILLED);
    let mut object = loader.load(types).expect("the object loads");
    object.attach("sys_exit", types).expect("sys_exit attaches");
    object
}

#[test]
fn no_event_is_counted_by_both_programs_or_by_neither() {
    let Some(types) = ready() else { return };
    for &name in builds() {
        let bpffs = BpfFs::mount(name);
        let root = bpffs.0.join("pins");
        let cgroup = Cgroup::make("pins");
        let first = open(&root);
        let object = begin(name, &first, 0, &types);
        assert_eq!(object.adopted_since(), None);
        first.leave();
        drop((object, first));
        let done = AtomicBool::new(false);
        let (mut times, mut last) = (0_u32, None);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                cgroup.run(Work { getppid: 150_000, threads: 2, ..Work::default() });
                done.store(true, Ordering::Relaxed);
            });
            while !done.load(Ordering::Relaxed) || times < 3 {
                // As long as an object lives, so does the lock of its pins.
                drop(last.take());
                let pins = open(&root);
                let object = begin(name, &pins, 1 << 30 | times, &types);
                assert!(object.adopted_since().is_some(), "{:?}", pins.kept("calls"));
                pins.leave();
                times += 1;
                last = Some(object);
            }
        });
        let object = last.expect("the last one");
        let skipped: u64 = object.watch().programs().iter().map(|program| program.misses.unwrap_or(0)).sum();
        assert_eq!(total(&object, call(cgroup.id(), libc::SYS_getppid)) + skipped, 450_000, "{name}, {times} times");
        drop(object);
        // Another shape is not taken over.
        let pins = open(&root);
        let loader = loader(name, TIME_NONE).max_entries("calls", 99).pinned(Some(&pins), "calls", FILLED);
        let other = loader.load(&types).expect("the object loads");
        assert!(other.adopted_since().is_none() && pins.kept("calls").is_some_and(|kept| kept.refused.is_some()));
        drop(other);
        assert_eq!(std::fs::read_dir(&root).expect("it is there").count(), 0, "what is not left is gone");
    }
}

#[test]
fn a_checkpoint_survives_whoever_wrote_it() {
    if ready().is_none() {
        return;
    }
    let bpffs = BpfFs::mount("checkpoint");
    let pins = open(&bpffs.0.join("pins"));
    assert_eq!(pins.checkpoint().read(), None);
    let mut writer = pins.checkpoint();
    for length in [0, 1, 7, 4096, 100_000, 300_000, 5, 299_999] {
        let bytes: Vec<u8> = (0..length).map(|at| (at * 31 % 251) as u8).collect();
        writer.write(&bytes).expect("it is written");
        assert_eq!(pins.checkpoint().read().as_ref(), Some(&bytes), "{length} bytes");
    }
    // Who reads goes on writing where it was.
    let mut next = pins.checkpoint();
    next.read().expect("it is there");
    next.write(b"newer").expect("it is written");
    assert_eq!(pins.checkpoint().read().as_deref(), Some(&b"newer"[..]));
}
