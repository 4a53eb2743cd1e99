//! What the live tests stand on: cgroups of their own and children that do exactly what they are told.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::parent_id;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::thread;
use std::time::{Duration, Instant};

use bpf::cost::MapCost;
use bpf::probe::Facts;
use bpf::{Loader, Types};

/// Gives the host's facts.
pub fn facts() -> &'static Facts {
    static FACTS: LazyLock<Facts> = LazyLock::new(Facts::gather);
    &FACTS
}

/// Gives the builds of the syscalls object that this kernel can run, the best one first.
pub fn builds() -> &'static [&'static str] {
    if facts().is_legacy() { &["syscalls_legacy"] } else { &["syscalls", "syscalls_legacy"] }
}

/// Says whether programs may not read kernel memory.
pub fn is_locked() -> bool {
    facts().lockdown.as_deref() == Some("confidentiality")
}

/// Gives the kernel's types, or nothing, with the reason printed, where eBPF is refused.
pub fn ready() -> Option<Types> {
    let attempt = Types::load(None).and_then(|types| {
        let mut floor = Loader::new("floor").load(&types)?;
        floor.attach("sys_exit", &types)?;
        Ok(types)
    });
    match attempt {
        Ok(types) => Some(types),
        Err(error) => {
            assert!(std::env::var_os("TELESONDE_REQUIRE_BPF").is_none(), "{error}");
            skip(&error);
            None
        }
    }
}

/// Says that this test did not run, as `cargo xtask test` counts it.
pub fn skip(reason: &impl std::fmt::Display) {
    println!("SKIPPED {}: {reason}", thread::current().name().unwrap_or("a test"));
}

/// A cgroup of the primary hierarchy, removed in the end.
pub struct Cgroup(PathBuf);

impl Cgroup {
    /// Makes a cgroup at the hierarchy's root.
    pub fn make(name: &str) -> Self {
        let mount = facts().cgroups.mount.as_ref().expect("the primary hierarchy is mounted");
        let path = mount.join(format!("telesonde-{}-{:?}-{name}", std::process::id(), thread::current().id()));
        fs::create_dir(&path).expect("a cgroup can be made");
        Self(path)
    }

    /// Makes a cgroup below this one.
    pub fn nest(&self, name: &str) -> Self {
        let path = self.0.join(name);
        fs::create_dir(&path).expect("a cgroup can be made");
        Self(path)
    }

    /// Gives its id.
    pub fn id(&self) -> u64 {
        fs::metadata(&self.0).expect("it exists").ino()
    }

    /// Gives its path from the hierarchy's root.
    pub fn path(&self) -> String {
        format!("/{}", self.0.file_name().expect("a name").to_string_lossy())
    }

    /// Gives the id of the hierarchy's root.
    pub fn root_id() -> u64 {
        fs::metadata(facts().cgroups.mount.as_ref().expect("mounted")).expect("it exists").ino()
    }

    /// Has a child do its work inside and waits for its end.
    pub fn run(&self, work: Work) -> Report {
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", "bench::child", "--nocapture", "--test-threads=1"])
            .env("TELESONDE_WORK", work.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a child");
        let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
        let mut wait = |word: &str| {
            let line = lines.by_ref().map_while(Result::ok).find(|line| line.contains(word));
            line.expect("the child speaks").split(word).nth(1).unwrap_or_default().to_owned()
        };
        wait("waiting");
        fs::write(self.0.join("cgroup.procs"), child.id().to_string()).expect("the child moves in");
        let mut input = child.stdin.take().expect("its input");
        input.write_all(b"go\n").expect("the child listens");
        let nap_ns = wait("napped").trim().parse().expect("a number");
        assert!(child.wait().expect("the child ends").success());
        Report { nap_ns }
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // A child that has just ended may still be leaving.
        for _ in 0..100 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

/// What a child does, each so many times.
#[derive(Clone, Copy, Debug, Default)]
pub struct Work {
    /// `getppid` calls of each thread.
    pub getppid: u64,
    /// Threads beside the first that call `getppid`.
    pub threads: u64,
    /// `openat` calls of a file that is not there.
    pub missing: u64,
    /// Sleeps of a millisecond.
    pub naps: u64,
    /// The name that it gives itself.
    pub comm: Option<&'static str>,
}

impl std::fmt::Display for Work {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let comm = self.comm.unwrap_or_default();
        write!(f, "{} {} {} {} {comm}", self.getppid, self.threads, self.missing, self.naps)
    }
}

/// What a child saw.
pub struct Report {
    /// How long its naps took by its own clock.
    pub nap_ns: u64,
}

/// The work of the child of another test, which is this program once more; by itself it has nothing to do.
#[test]
fn child() {
    let Ok(work) = std::env::var("TELESONDE_WORK") else { return };
    let mut words = work.split(' ');
    let mut number = || words.next().and_then(|word| word.parse::<u64>().ok()).expect("a number");
    let (getppid, threads, missing, naps) = (number(), number(), number(), number());
    if let Some(comm) = words.next().filter(|comm| !comm.is_empty()) {
        fs::write("/proc/self/comm", comm).expect("a name");
    }
    println!("waiting");
    std::io::stdin().read_line(&mut String::new()).expect("a word");
    let call = || {
        for _ in 0..getppid {
            std::hint::black_box(parent_id());
        }
    };
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(call);
        }
        call();
    });
    for _ in 0..missing {
        assert!(fs::File::open("/nonexistent/file").is_err());
    }
    let mut napped = Duration::ZERO;
    for _ in 0..naps {
        let start = Instant::now();
        thread::sleep(Duration::from_millis(1));
        napped += start.elapsed();
    }
    println!("napped {}", napped.as_nanos());
}

/// Finds what the kernel says that maps take: by kind, size and preallocation among this process's descriptors.
pub fn memlock(maps: &[MapCost]) -> Vec<(&MapCost, u64)> {
    let descriptions: Vec<String> = fs::read_dir("/proc/self/fdinfo")
        .expect("descriptors")
        .filter_map(|entry| fs::read_to_string(entry.ok()?.path()).ok())
        .filter(|info| info.contains("map_type") && info.contains("map_flags:\t0x0\n"))
        .collect();
    let field = |info: &str, name: &str| {
        let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"));
        line.and_then(|value| value.trim().parse::<u64>().ok())
    };
    let number =
        |kind: &str| ["", "hash", "array", "", "", "percpu_hash", "percpu_array"].iter().position(|k| *k == kind);
    maps.iter()
        .filter_map(|map| {
            let kind = number(map.kind)? as u64;
            let fits = |info: &&String| {
                field(info, "map_type") == Some(kind) && field(info, "max_entries") == Some(u64::from(map.capacity))
            };
            Some((map, field(descriptions.iter().find(fits)?, "memlock")?))
        })
        .collect()
}
