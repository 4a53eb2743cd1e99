//! What the kernel side costs and misses: map memory, fill levels, skipped program runs. It feeds self-telemetry.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::btf::Declaration;
use crate::sys::{self, MapInfo, RawMap, kind};

/// Entries of a map that are made when they are first used (`BPF_F_NO_PREALLOC`).
const ON_DEMAND: u32 = 1;

/// A map of a loaded object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapCost {
    /// Its name.
    pub name: String,
    /// Its kind, such as `percpu_hash`.
    pub kind: &'static str,
    /// The entries that the last whole read found; nothing for maps that are never read as a whole.
    pub used: Option<u64>,
    /// The entries it can hold; for rings its bytes.
    pub capacity: u32,
    /// The bytes that it takes when it is full.
    pub memory: u64,
}

/// An attached program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramCost {
    /// Its name.
    pub name: String,
    /// Its type, such as `tracing`.
    pub kind: &'static str,
    /// The hash of its instructions, as `bpftool prog` shows it.
    pub tag: String,
    /// Runs that the kernel skipped because the program was running on that CPU already; nothing before Linux 5.12.
    pub misses: Option<u64>,
    /// The instructions that the verifier walked through; nothing before Linux 5.16.
    pub verified: Option<u32>,
}

/// A handle on an object's maps and programs that reads from any thread. It does not keep the object alive.
#[derive(Clone, Debug)]
pub struct Watch {
    tally: Weak<Tally>,
    share: Share,
}

/// Whose part of an object is watched, where several collectors share it.
#[derive(Clone, Copy, Debug)]
enum Share {
    All,
    /// These maps.
    Maps(&'static [&'static str]),
    /// All but these maps.
    Rest(&'static [&'static str]),
}

impl Watch {
    pub(crate) fn new(tally: &Arc<Tally>) -> Self {
        Self { tally: Arc::downgrade(tally), share: Share::All }
    }

    /// Leaves only these maps to watch, and no programs.
    #[must_use]
    pub fn only(self, maps: &'static [&'static str]) -> Self {
        Self { share: Share::Maps(maps), ..self }
    }

    /// Leaves these maps to another watch.
    #[must_use]
    pub fn without(self, maps: &'static [&'static str]) -> Self {
        Self { share: Share::Rest(maps), ..self }
    }

    /// Says whether the object is still loaded.
    pub fn is_alive(&self) -> bool {
        self.tally.strong_count() > 0
    }

    fn has(&self, map: &str) -> bool {
        match self.share {
            Share::All => true,
            Share::Maps(maps) => maps.contains(&map),
            Share::Rest(maps) => !maps.contains(&map),
        }
    }

    /// Describes the maps; none once the object is gone.
    pub fn maps(&self) -> Vec<MapCost> {
        let Some(tally) = self.tally.upgrade() else { return Vec::new() };
        let describe = |map: &MapTally| MapCost {
            name: map.name.clone(),
            kind: map_kind(map.map.info.kind),
            used: Some(map.used.load(Ordering::Relaxed)).filter(|&used| used != UNKNOWN),
            capacity: map.map.info.max_entries,
            memory: map.memory,
        };
        tally.maps.iter().filter(|map| self.has(&map.name)).map(describe).collect()
    }

    /// Writes the entries of a map, a line each and no more than `limit`, decoded by the object's types; nothing where
    /// there is no such map.
    ///
    /// # Errors
    /// Fails when the kernel refuses to read it.
    pub fn dump(&self, map: &str, limit: usize) -> Option<std::io::Result<String>> {
        let tally = self.tally.upgrade()?;
        let found = tally.maps.iter().find(|tally| tally.name == map && self.has(map))?;
        let file = crate::objects().find(|(name, _)| *name == tally.object).map(|(_, file)| file);
        let types = file.and_then(|file| crate::image::types(file).ok());
        let declaration = types.and_then(|types| Declaration::find(types, map));
        Some(crate::dump::entries(&found.map, declaration.as_ref(), limit))
    }

    /// Describes the attached programs; none once the object is gone.
    pub fn programs(&self) -> Vec<ProgramCost> {
        let Some(tally) = self.tally.upgrade().filter(|_| !matches!(self.share, Share::Maps(_))) else {
            return Vec::new();
        };
        let programs = tally.programs.lock().unwrap_or_else(PoisonError::into_inner);
        programs.iter().filter_map(describe_program).collect()
    }
}

/// No whole read has happened.
pub(crate) const UNKNOWN: u64 = u64::MAX;

#[derive(Debug)]
struct MapTally {
    name: String,
    map: RawMap,
    memory: u64,
    used: Arc<AtomicU64>,
}

/// What self-telemetry may know of an object; the object owns it.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    object: &'static str,
    maps: Vec<MapTally>,
    programs: Mutex<Vec<ProgramTally>>,
}

#[derive(Debug)]
struct ProgramTally {
    name: String,
    fd: OwnedFd,
    /// The program that hands over to it: the kernel skips both or none.
    gate: Option<OwnedFd>,
}

impl Tally {
    /// Begins with the name of an embedded object.
    pub(crate) fn of(object: &'static str) -> Self {
        Self { object, ..Self::default() }
    }

    pub(crate) fn add_map(&mut self, name: &str, fd: OwnedFd) -> std::io::Result<()> {
        let map = RawMap::new(fd)?;
        let cpus = aya::util::nr_cpus().map_err(|(_, error)| error)?;
        let memory = memory(&map.info, cpus);
        self.maps.push(MapTally { name: name.to_owned(), map, memory, used: Arc::new(AtomicU64::new(UNKNOWN)) });
        Ok(())
    }

    pub(crate) fn add_program(&self, name: &str, fd: OwnedFd) {
        self.push(ProgramTally { name: name.to_owned(), fd, gate: None });
    }

    pub(crate) fn add_guest(&self, name: &str, fd: OwnedFd, gate: OwnedFd) {
        self.push(ProgramTally { name: name.to_owned(), fd, gate: Some(gate) });
    }

    fn push(&self, program: ProgramTally) {
        self.programs.lock().unwrap_or_else(PoisonError::into_inner).push(program);
    }

    /// Gives the counter that whole reads of a map keep.
    pub(crate) fn used(&self, map: &str) -> Arc<AtomicU64> {
        let known = self.maps.iter().find(|tally| tally.name == map);
        known.map_or_else(Arc::default, |tally| Arc::clone(&tally.used))
    }
}

/// The kernel's own part of an element of a hash, `struct htab_elem`, and what finds it and links it.
const ELEMENT: u64 = 48;
const BUCKET: u64 = 16;
const LIST: u64 = 8;
const POINTER: u64 = 8;
/// The kernel's own part of what lies beside a task or a socket, with a share of what holds all such parts together.
const STORED: u64 = 192;
/// What lies beside tasks or sockets comes and goes with them; a host is taken to have so many of each for a CPU.
const FOR_EACH_CPU: u64 = 128;

/// Gives the bytes of a hash that is full and whose entries are made when they are first used.
pub fn hash(entries: u32, key: usize, value: usize) -> u64 {
    buckets(entries) + u64::from(entries) * (ELEMENT + words(key) + words(value) + LIST)
}

/// Gives the same of one of which each CPU has values of its own.
pub fn per_cpu_hash(entries: u32, key: usize, value: usize, cpus: usize) -> u64 {
    hash(entries, key, POINTER as usize) + u64::from(entries) * (LIST + POINTER + words(value) * cpus as u64)
}

/// Gives the bytes of an array.
pub fn array(entries: u32, value: usize) -> u64 {
    u64::from(entries) * words(value)
}

/// Gives the bytes of what lies beside each task, or each socket, of a host with so many CPUs. The map does not bound
/// them.
pub fn storage(value: usize, cpus: usize) -> u64 {
    FOR_EACH_CPU * cpus as u64 * (STORED + words(value))
}

fn buckets(entries: u32) -> u64 {
    u64::from(entries).next_power_of_two() * BUCKET
}

fn words(bytes: usize) -> u64 {
    bytes.next_multiple_of(8) as u64
}

/// Gives the bytes that a full map takes: what the kernel reports since Linux 6.4 as `memlock` in fdinfo.
fn memory(map: &MapInfo, cpus: usize) -> u64 {
    const MAP: u64 = 512; // struct bpf_htab and its like, rounded
    let (entries, key, value) = (map.max_entries, map.key_size as usize, map.value_size as usize);
    let all = u64::from(entries);
    let on_demand = map.flags & ON_DEMAND != 0;
    MAP + match map.kind {
        kind::HASH if on_demand => hash(entries, key, value),
        kind::HASH => buckets(entries) + (all + cpus as u64) * (ELEMENT + words(key) + words(value)),
        kind::PERCPU_HASH if on_demand => per_cpu_hash(entries, key, value, cpus),
        kind::PERCPU_HASH => buckets(entries) + all * (ELEMENT + words(key) + POINTER + words(value) * cpus as u64),
        kind::STACK => (all + 1) * words(value),
        kind::ARRAY => array(entries, value),
        kind::PERCPU_ARRAY => all * (POINTER + words(value) * cpus as u64),
        // The data is mapped twice, but held once; two pages of positions and one of administration.
        kind::RINGBUF => all + 3 * 4096,
        // One element for each thread that was seen: freed with the thread, not bounded by the map.
        kind::TASK_STORAGE => cpus.next_power_of_two() as u64 * 24,
        _ => all * (words(key) + words(value)),
    }
}

fn map_kind(kind: u32) -> &'static str {
    match kind {
        kind::HASH => "hash",
        kind::ARRAY => "array",
        kind::PERCPU_HASH => "percpu_hash",
        kind::PERCPU_ARRAY => "percpu_array",
        kind::RINGBUF => "ringbuf",
        kind::TASK_STORAGE => "task_storage",
        _ => "other",
    }
}

fn program_kind(kind: u32) -> &'static str {
    match kind {
        8 => "cgroup_skb",
        9 => "cgroup_sock",
        13 => "sock_ops",
        26 => "tracing",
        _ => "other",
    }
}

fn describe_program(program: &ProgramTally) -> Option<ProgramCost> {
    const MISSES_END: usize = 216;
    const VERIFIED_END: usize = 220;
    let (info, known) = sys::program_info(&program.fd).ok()?;
    let skipped = match &program.gate {
        Some(gate) => sys::program_info(gate).ok()?.0.misses,
        None => info.misses,
    };
    Some(ProgramCost {
        name: program.name.clone(),
        kind: program_kind(info.kind),
        tag: format!("{:016x}", u64::from_be_bytes(info.tag)),
        misses: (known >= MISSES_END).then_some(skipped),
        verified: (known >= VERIFIED_END).then_some(info.verified),
    })
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;
    use crate::sys::ProgramInfo;

    #[test]
    fn the_description_of_a_program_is_laid_out_as_in_the_kernel() {
        assert_eq!(offset_of!(ProgramInfo, load_time), 40);
        assert_eq!(offset_of!(ProgramInfo, name), 64);
        assert_eq!(offset_of!(ProgramInfo, misses), 208);
        assert_eq!(offset_of!(ProgramInfo, verified), 216);
        assert_eq!(size_of::<ProgramInfo>(), 232);
    }

    #[test]
    fn a_full_map_costs_its_entries_on_each_cpu() {
        let map =
            MapInfo { kind: kind::PERCPU_HASH, key_size: 16, value_size: 160, max_entries: 1024, ..MapInfo::default() };
        let two = memory(&map, 2);
        let four = memory(&map, 4);
        assert_eq!(four - two, 1024 * 160 * 2);
    }
}
