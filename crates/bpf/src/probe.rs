//! What this kernel and this host can do, as facts without judgement: the doctor and the collectors judge.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use aya::maps::MapType;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::sys;

/// Which cgroup hierarchies are mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CgroupMode {
    /// Only v1 hierarchies.
    V1,
    /// v1 controllers beside an empty v2 hierarchy.
    Hybrid,
    /// Only the v2 hierarchy.
    V2,
    /// None at all.
    None,
}

/// The hierarchy whose cgroups stand for workloads. The number is the programs' constant `hierarchy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Hierarchy {
    /// The v2 hierarchy.
    Unified = 0,
    /// The v1 memory controller's.
    Memory = 1,
}

/// The number of the root's directory in every hierarchy; a cgroup namespace shows another directory as its root.
const ROOT: u64 = 1;

/// How this host arranges its cgroups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroups {
    /// What is mounted.
    pub mode: CgroupMode,
    /// Which hierarchy is primary.
    pub primary: Hierarchy,
    /// The primary hierarchy's number, as in `/proc/cgroups`; 0 for v2.
    pub hierarchy_id: i32,
    /// Where the primary hierarchy is mounted.
    pub mount: Option<PathBuf>,
    /// Whether the whole of it is to be seen there, not what is below the root of some cgroup namespace.
    pub whole: bool,
    /// Where the v2 hierarchy is mounted, whatever is primary: programs of cgroup hooks attach there.
    pub unified: Option<PathBuf>,
    /// Where the v1 cpu controller is mounted.
    pub cpu: Option<PathBuf>,
    /// Where the hierarchy of the I/O controller is mounted; the same as `mount` where it is the primary one.
    pub io: Option<PathBuf>,
}

impl Cgroups {
    /// Opens the root of the v2 hierarchy. Where it is mounted nowhere it is mounted for this handle alone.
    ///
    /// # Errors
    /// Fails where the kernel has no such hierarchy and where only a part of it is to be seen.
    pub fn open_root(&self) -> io::Result<File> {
        let root = if let Some(path) = &self.unified {
            File::open(path)?
        } else {
            let context = fsopen("cgroup2", FsOpenFlags::FSOPEN_CLOEXEC)?;
            fsconfig_create(context.as_fd())?;
            fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?.into()
        };
        if root.metadata()?.ino() != ROOT {
            let why = "only a part of the v2 cgroup hierarchy is to be seen; mount the host's and name it in host.cgroup, or \
                       run in the host's cgroup namespace";
            return Err(io::Error::other(why));
        }
        Ok(root)
    }
}

/// How the kernel accounts for the memory of maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memlock {
    /// By the cgroup's memory limit (from Linux 5.11 on).
    Cgroup,
    /// By `RLIMIT_MEMLOCK`: its soft limit in bytes, or none.
    Limit(Option<u64>),
}

/// What was found at start-up.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The kernel's release, such as `6.1.0-28-amd64`.
    pub release: String,
    /// Its version: major, minor.
    pub version: (u32, u32),
    /// The machine, such as `x86_64`.
    pub arch: String,
    /// Whether the kernel shows its types.
    pub btf: bool,
    /// Where bpffs is mounted.
    pub bpffs: Option<PathBuf>,
    /// Where tracefs is mounted.
    pub tracefs: Option<PathBuf>,
    /// The lockdown mode (`none`, `integrity`, `confidentiality`); nothing where the kernel has no lockdown.
    pub lockdown: Option<String>,
    /// The effective capabilities that matter to us, by name.
    pub capabilities: Vec<&'static str>,
    /// The cgroup hierarchies.
    pub cgroups: Cgroups,
    /// How map memory is accounted for.
    pub memlock: Memlock,
    /// This process' id as the kernel's programs see it; nothing where it cannot be had.
    pub process: Option<u32>,
    /// Whether this process is in the first pid namespace, where it sees all tasks.
    pub sees_all_tasks: bool,
    /// The inode of the host's network namespace: that of its first process or, where that may not be looked at, our own.
    pub network_namespace: Option<u32>,
    /// How many files this process may have open.
    pub open_files: u64,
    /// Whether the kernel tells how long tasks wait for resources (`/proc/pressure`).
    pub pressure: bool,
    /// The CPUs that may ever come online: the cells of a per-CPU value.
    pub possible_cpus: usize,
    /// The map types that the product uses, and whether this kernel has them (false also where `bpf` is refused).
    pub maps: Vec<(&'static str, bool)>,
    /// `kernel.unprivileged_bpf_disabled`.
    pub unprivileged_bpf_disabled: Option<u8>,
}

/// The capabilities that we look for: name and number.
const CAPABILITIES: [(&str, u32); 6] = [
    ("CAP_DAC_READ_SEARCH", 2),
    ("CAP_NET_ADMIN", 12),
    ("CAP_SYS_PTRACE", 19),
    ("CAP_SYS_ADMIN", 21),
    ("CAP_PERFMON", 38),
    ("CAP_BPF", 39),
];

const MAPS: [(&str, MapType); 6] = [
    ("percpu_hash", MapType::PerCpuHash),
    ("percpu_array", MapType::PerCpuArray),
    ("ringbuf", MapType::RingBuf),
    ("task_storage", MapType::TaskStorage),
    ("sk_storage", MapType::SkStorage),
    ("cgrp_storage", MapType::CgrpStorage),
];

/// The first kernel that needs no `NAME_legacy`.
const LEGACY_BEFORE: (u32, u32) = (5, 12);

impl Facts {
    /// Looks at the host. What cannot be read counts as absent.
    pub fn gather() -> Self {
        Self::gather_with(None)
    }

    /// Looks at the host, at its cgroups only as far as they are mounted at a path or below it.
    pub fn gather_with(cgroups_below: Option<&Path>) -> Self {
        let uname = rustix::system::uname();
        let release = uname.release().to_string_lossy().into_owned();
        let mounts = Mounts::parse(&read("/proc/self/mountinfo"));
        let version = version(&release);
        Self {
            version,
            arch: uname.machine().to_string_lossy().into_owned(),
            btf: Path::new("/sys/kernel/btf/vmlinux").exists(),
            bpffs: mounts.find("bpf", None),
            tracefs: mounts.find("tracefs", None),
            lockdown: lockdown(&read("/sys/kernel/security/lockdown")),
            capabilities: capabilities(&read("/proc/self/status")),
            cgroups: cgroups(&mounts.below(cgroups_below), &read("/proc/cgroups")),
            memlock: memlock(version),
            process: sys::own_process().ok().or_else(|| in_first_pid_namespace().then(std::process::id)),
            sees_all_tasks: in_first_pid_namespace(),
            network_namespace: ["1", "self"].into_iter().find_map(network_namespace),
            open_files: getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX),
            // A kernel that was booted with psi=0 has the files and refuses to read them.
            pressure: !read("/proc/pressure/cpu").is_empty(),
            possible_cpus: aya::util::nr_cpus().unwrap_or(1),
            maps: MAPS.map(|(name, kind)| (name, aya::sys::is_map_supported(kind).unwrap_or(false))).to_vec(),
            unprivileged_bpf_disabled: read("/proc/sys/kernel/unprivileged_bpf_disabled").trim().parse().ok(),
            release,
        }
    }

    /// Says whether this kernel needs the `NAME_legacy` build of an object: before 5.12 tracing programs have no task
    /// storage, no `bpf_get_current_task_btf` and no atomic operation but addition.
    pub fn is_legacy(&self) -> bool {
        self.version < LEGACY_BEFORE || !self.has_map("task_storage")
    }

    /// Says whether the kernel has a map type of [`Facts::maps`].
    pub fn has_map(&self, name: &str) -> bool {
        self.maps.iter().any(|&(known, supported)| known == name && supported)
    }
}

/// Says the same as [`Facts::is_legacy`] of every kernel that nobody has cut down, by its version alone.
pub fn is_legacy_version() -> bool {
    version(&rustix::system::uname().release().to_string_lossy()) < LEGACY_BEFORE
}

/// Lets kernels before 5.11, which charge map memory to `RLIMIT_MEMLOCK`, make maps of any size.
pub(crate) fn lift_memlock() {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    if version(&release) < (5, 11) {
        // Refused without CAP_SYS_RESOURCE: then making a map fails, and the error names the limit.
        let _ = setrlimit(Resource::Memlock, Rlimit { current: None, maximum: None });
    }
}

fn network_namespace(process: &str) -> Option<u32> {
    fs::metadata(format!("/proc/{process}/ns/net")).map(|namespace| namespace.ino() as u32).ok()
}

/// Says whether this process is in the first pid namespace: there its id is the one that the kernel's programs see.
fn in_first_pid_namespace() -> bool {
    /// `PROC_PID_INIT_INO` of the kernel.
    const FIRST: u64 = 0xefff_fffc;
    fs::metadata("/proc/self/ns/pid").is_ok_and(|namespace| namespace.ino() == FIRST)
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn version(release: &str) -> (u32, u32) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

fn memlock(version: (u32, u32)) -> Memlock {
    if version >= (5, 11) { Memlock::Cgroup } else { Memlock::Limit(getrlimit(Resource::Memlock).current) }
}

/// The mode in force stands in brackets.
fn lockdown(text: &str) -> Option<String> {
    let (_, rest) = text.split_once('[')?;
    Some(rest.split_once(']')?.0.to_owned())
}

fn capabilities(status: &str) -> Vec<&'static str> {
    let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    CAPABILITIES.iter().filter(|(_, number)| mask & (1 << number) != 0).map(|(name, _)| *name).collect()
}

/// The mounts that this process sees: path, file system, its options.
struct Mounts(Vec<(PathBuf, String, String)>);

impl Mounts {
    fn parse(mountinfo: &str) -> Self {
        let parse = |line: &str| {
            let (left, right) = line.split_once(" - ")?;
            let path = left.split(' ').nth(4)?;
            let mut right = right.split(' ');
            Some((PathBuf::from(path), right.next()?.to_owned(), right.nth(1)?.to_owned()))
        };
        Self(mountinfo.lines().filter_map(parse).collect())
    }

    /// Leaves out what is mounted elsewhere.
    fn below(&self, path: Option<&Path>) -> Self {
        let below = |(at, ..): &&(PathBuf, String, String)| path.is_none_or(|path| at.starts_with(path));
        Self(self.0.iter().filter(below).cloned().collect())
    }

    /// Finds the first mount of a cgroup hierarchy that shows it from its root; else the first one.
    fn hierarchy(&self, kind: &str, option: Option<&str>) -> Option<PathBuf> {
        let all = || self.0.iter().filter(|mount| Self::fits(mount, kind, option)).map(|(path, ..)| path);
        all().find(|path| is_root(path)).or_else(|| all().next()).cloned()
    }

    /// Finds the first mount of a file system, with an option where one is given.
    fn find(&self, kind: &str, option: Option<&str>) -> Option<PathBuf> {
        self.0.iter().find(|mount| Self::fits(mount, kind, option)).map(|(path, ..)| path.clone())
    }

    fn fits((_, found, options): &(PathBuf, String, String), kind: &str, option: Option<&str>) -> bool {
        found == kind && option.is_none_or(|option| options.split(',').any(|other| other == option))
    }
}

fn is_root(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|directory| directory.ino() == ROOT)
}

fn cgroups(mounts: &Mounts, controllers: &str) -> Cgroups {
    // "memory <hierarchy> <cgroups> <enabled>"; hierarchy 0 is v2.
    let memory = controllers.lines().find_map(|line| line.strip_prefix("memory\t"));
    let memory = memory.and_then(|line| line.split('\t').next()?.parse().ok()).unwrap_or(0);
    let (v1, v2) = (mounts.find("cgroup", None).is_some(), mounts.hierarchy("cgroup2", None));
    let mode = match (v1, &v2) {
        (true, Some(_)) => CgroupMode::Hybrid,
        (true, None) => CgroupMode::V1,
        (false, Some(_)) => CgroupMode::V2,
        (false, None) => CgroupMode::None,
    };
    let cpu = mounts.hierarchy("cgroup", Some("cpu"));
    // "blkio <hierarchy> ..."
    let blkio = controllers.lines().find_map(|line| line.strip_prefix("blkio\t"));
    let blkio = blkio.and_then(|line| line.split('\t').next()?.parse::<i32>().ok()).unwrap_or(0);
    let io = if blkio == 0 { v2.clone() } else { mounts.hierarchy("cgroup", Some("blkio")) };
    let (primary, hierarchy_id, mount) = if memory > 0 {
        (Hierarchy::Memory, memory, mounts.hierarchy("cgroup", Some("memory")))
    } else {
        (Hierarchy::Unified, 0, v2.clone())
    };
    let whole = mount.as_deref().is_some_and(is_root);
    Cgroups { mode, primary, hierarchy_id, mount, whole, unified: v2, cpu, io }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
25 30 0:22 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory
26 30 0:23 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate
27 30 0:24 / /sys/fs/bpf rw - bpf bpf rw,mode=700
";

    #[test]
    fn memory_on_v1_makes_its_hierarchy_primary() {
        let controllers = "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpu\t1\t1\t1\nmemory\t4\t15\t1\n";
        let found = cgroups(&Mounts::parse(HYBRID), controllers);
        assert_eq!(found.mode, CgroupMode::Hybrid);
        assert_eq!(found.primary, Hierarchy::Memory);
        assert_eq!(found.hierarchy_id, 4);
        assert_eq!(found.mount.as_deref(), Some(Path::new("/sys/fs/cgroup/memory")));
        assert_eq!(found.unified.as_deref(), Some(Path::new("/sys/fs/cgroup/unified")));
        assert_eq!(found.cpu, None);
    }

    #[test]
    fn without_v1_memory_v2_is_primary() {
        let mounts = Mounts::parse("30 1 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
        for controllers in ["memory\t0\t120\t1\n", ""] {
            let found = cgroups(&mounts, controllers);
            assert_eq!(found.mode, CgroupMode::V2);
            assert_eq!(found.primary, Hierarchy::Unified);
            assert_eq!(found.mount.as_deref(), Some(Path::new("/sys/fs/cgroup")));
        }
    }

    #[test]
    fn files_of_the_kernel_are_understood() {
        assert_eq!(version("6.1.0-28-amd64"), (6, 1));
        assert_eq!(lockdown("none [integrity] confidentiality\n").as_deref(), Some("integrity"));
        assert_eq!(lockdown(""), None);
        assert_eq!(capabilities("Name:\tx\nCapEff:\t000000c000000000\n"), ["CAP_PERFMON", "CAP_BPF"]);
        assert_eq!(Mounts::parse(HYBRID).find("bpf", None), Some(PathBuf::from("/sys/fs/bpf")));
    }
}
