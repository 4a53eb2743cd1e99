//! What the tests need: a cgroup, a program that makes exact numbers of calls in it, an agent, and readers of its output.

pub mod agent;
pub mod apiserver;
pub mod bpffs;
pub mod cgroup;
pub mod disk;
pub mod leases;
pub mod line;
pub mod netns;
pub mod otlp;
pub mod peer;
pub mod recorded;
pub mod scrape;
pub mod stimulus;
pub mod tasks;
pub mod traffic;

use std::error::Error;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Ends a wait that would not end; no test depends on how long something takes.
pub const DEADLINE: Duration = Duration::from_mins(1);

/// One agent and one load at a time: the tests share two cores and the kernel's hooks.
static KERNEL: Mutex<()> = Mutex::new(());

/// Takes the kernel for one test, or says why this machine cannot run it.
pub fn kernel() -> Result<MutexGuard<'static, ()>, String> {
    let guard = KERNEL.lock().unwrap_or_else(PoisonError::into_inner);
    if !std::path::Path::new("/sys/kernel/btf/vmlinux").exists() {
        return Err("the kernel has no BTF".to_owned());
    }
    // A program may go between being listed and being opened.
    let is_gone = |error: &dyn Error| error.source().is_some_and(|source| source.to_string().contains("os error 2)"));
    if let Some(Err(error)) =
        aya::programs::loaded_programs().find(|program| !matches!(program, Err(error) if is_gone(error)))
    {
        return Err(format!("BPF is refused: {}", error.source().map_or(error.to_string(), ToString::to_string)));
    }
    cgroup::permitted()?;
    Ok(guard)
}

/// Gives the path of a program: a shell of busybox would take its own of that name, which may do less.
pub fn path_of(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|directory| directory.join(name)).find(|path| path.is_file());
    found.unwrap_or_else(|| name.into())
}

/// Says that the present test cannot run here; `cargo xtask test` counts these lines.
pub fn skipped(reason: &str) {
    println!("SKIPPED {}: {reason}", std::thread::current().name().unwrap_or("a test"));
}

/// Begins a test on the live kernel; where that is impossible it prints why and returns from the test.
macro_rules! live {
    () => {
        match crate::harness::kernel() {
            Ok(guard) => guard,
            Err(reason) => {
                crate::harness::skipped(&reason);
                return;
            }
        }
    };
}
pub(crate) use live;

/// Makes a directory of its own below the build's directory for temporary files.
pub fn directory(name: &str) -> PathBuf {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}-{number}", std::process::id()));
    std::fs::create_dir_all(&path).unwrap();
    path
}

/// Tries until there is something, and fails the test when there is nothing after a long time.
pub fn eventually<T>(what: &str, attempt: impl FnMut() -> Option<T>) -> T {
    patiently(what, DEADLINE, attempt)
}

/// The same for what takes longer.
pub fn patiently<T>(what: &str, patience: Duration, mut attempt: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = attempt() {
            return found;
        }
        assert!(begin.elapsed() < patience, "still not after {patience:?}: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
