//! Embedded objects: tuned before loading, attached program by program, detached by dropping.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use aya::Ebpf;
use aya::maps::{Map, MapData};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::abi::histogram::HistShape;
use crate::btf::Declaration;
use crate::cost::{Tally, Watch};
use crate::error::{Error, chain, hint, os_error};
use crate::events::Events;
use crate::gate::{NEXT, Passage};
use crate::image::{Image, map_sizes, types};
use crate::mapped::Mapped;
use crate::perf::Perf;
use crate::pins::{Identity, Pinned, Pins, digest};
use crate::probe;
use crate::reins::Reins;
use crate::ring::Ring;
use crate::stack::Stack;
use crate::sys::{MapInfo, RawMap, map_info, put_in_place};
use crate::table::{Cells, PerCpuCells, PerCpuTable, Plain, Table};
use crate::types::Types;

include!(concat!(env!("OUT_DIR"), "/objects.rs"));

/// The maps of `bpf/lib/cost.bpf.h`.
const MEASURES: [&str; 2] = ["costs", "stages"];

/// Gives the embedded objects: name and ELF bytes.
pub fn objects() -> impl Iterator<Item = (&'static str, &'static [u8])> {
    OBJECTS.iter().copied()
}

/// Tunes an object before it is loaded.
pub struct Loader {
    object: &'static str,
    constants: Vec<(String, Vec<u8>)>,
    entries: Vec<(&'static str, u32)>,
    /// The bytes of a value, by map.
    values: Vec<(String, u32)>,
    shared: Vec<(&'static str, Result<OwnedFd, Error>)>,
    sample_every: u32,
    governed: bool,
    /// Where its maps and hooks are pinned, and under which name.
    pins: Option<(Pins, &'static str)>,
    /// Constants that are other ones in each process.
    passing: Vec<&'static str>,
    /// Maps that each process fills anew.
    filled: &'static [&'static str],
    /// Rings whose records wait for the next process.
    waiting: &'static [&'static str],
    /// Stacks that begin with a number for each place.
    stacks: &'static [&'static str],
}

impl Loader {
    /// Begins with an embedded object, by the name of its file.
    pub fn new(object: &'static str) -> Self {
        Self {
            object,
            constants: Vec::new(),
            entries: Vec::new(),
            values: Vec::new(),
            shared: Vec::new(),
            sample_every: 1,
            governed: false,
            pins: None,
            passing: Vec::new(),
            filled: &[],
            waiting: &[],
            stacks: &[],
        }
    }

    /// Sets a `const volatile` global of the programs.
    #[must_use]
    pub fn constant<T: IntoBytes + Immutable>(mut self, name: &'static str, value: &T) -> Self {
        self.constants.push((name.to_owned(), value.as_bytes().to_vec()));
        self
    }

    /// Sets a map's size: entries, or bytes for a ring.
    #[must_use]
    pub fn max_entries(mut self, map: &'static str, entries: u32) -> Self {
        self.entries.push((map, entries));
        self
    }

    /// Sets what the histograms of a map hold, which is how large its values are (`HISTOGRAM` in
    /// `bpf/lib/histogram.bpf.h`).
    #[must_use]
    pub fn histogram(mut self, map: &str, shape: HistShape) -> Self {
        self.constants.push((format!("{map}_shape"), shape.as_bytes().to_vec()));
        self.values.push((map.to_owned(), shape.bytes()));
        self.values.push((format!("{map}_lost"), shape.bytes()));
        self
    }

    /// Lets the object's histograms take one value in so many.
    #[must_use]
    pub fn sample_histograms(mut self, every: u32) -> Self {
        self.sample_every = every.max(1);
        self
    }

    /// Has what the object's programs cost be measured, and [`Object::reins`] lead them. Without it nothing of that is left
    /// in them.
    #[must_use]
    pub fn governed(mut self, governed: bool) -> Self {
        self.governed = governed;
        self
    }

    /// Pins the object's maps and hooks under a name, and takes over what is pinned there already; all but those maps
    /// that each process fills anew.
    #[must_use]
    pub fn pinned(mut self, pins: Option<&Pins>, name: &'static str, filled: &'static [&'static str]) -> Self {
        self.pins = pins.map(|pins| (pins.clone(), name));
        self.filled = filled;
        self
    }

    /// Lets what waits in rings outlive the process, too.
    #[must_use]
    pub fn waiting(mut self, rings: &'static [&'static str]) -> Self {
        self.waiting = rings;
        self
    }

    /// Begins with full stacks: each has a `u32` for each place of its own, the lowest on top.
    #[must_use]
    pub fn full(mut self, stacks: &'static [&'static str]) -> Self {
        self.stacks = stacks;
        self
    }

    /// Sets a `const volatile` global of the programs that says something of this process: what is pinned is taken over
    /// whatever it was before.
    #[must_use]
    pub fn passing<T: IntoBytes + Immutable>(mut self, name: &'static str, value: &T) -> Self {
        self.passing.push(name);
        self.constant(name, value)
    }

    /// Lets the object use a map that others use, too, in place of its own of that name.
    #[must_use]
    pub fn shared<K: Plain, V: Plain>(mut self, map: &'static str, table: &Table<K, V>) -> Self {
        self.shared.push((map, table.descriptor()));
        self
    }

    /// Lets the object use an array that others use, too, in place of its own of that name.
    #[must_use]
    pub fn shared_cells<V: Plain>(mut self, map: &'static str, cells: &Cells<V>) -> Self {
        self.shared.push((map, cells.descriptor()));
        self
    }

    /// Makes the object's maps and prepares its programs; nothing is attached yet.
    ///
    /// # Errors
    /// Fails when there is no such object, when a map cannot be made, or when a constant does not exist.
    pub fn load(self, kernel: &Types) -> Result<Object, Error> {
        let Some((_, file)) = objects().find(|(name, _)| *name == self.object) else {
            let known = objects().map(|(name, _)| name).collect::<Vec<_>>().join(", ");
            return Err(Error::UnknownObject { name: self.object.to_owned(), known });
        };
        probe::lift_memlock();
        let fail = |reason, hint| Error::Load { object: self.object.to_owned(), reason, hint };
        let broken = |reason| fail(reason, "");
        let mut image = Image::new(file);
        for (name, value) in &self.constants {
            if !image.set_constant(name, value).map_err(broken)? {
                return Err(broken(format!("it has no constant {name}")));
            }
        }
        // Absent where the object has no histograms.
        image.set_constant("histogram_every", self.sample_every.as_bytes()).map_err(broken)?;
        image.set_constant("governed", u32::from(self.governed).as_bytes()).map_err(broken)?;
        image.set_value_sizes(&self.values).map_err(broken)?;
        let mut sizes = map_sizes(file).map_err(broken)?;
        for (map, entries) in &mut sizes {
            *entries = self.entries.iter().rfind(|(name, _)| name == map).map_or(*entries, |(_, given)| *given);
        }
        let ebpf =
            kernel.prepare(image.bytes(), &sizes).map_err(|error| fail(chain(&error), hint(os_error(&error))))?;
        // Before they are pinned: whoever finds them can go on with them.
        for name in self.stacks {
            let fail = |error: Error| fail(error.to_string(), "");
            let map = ebpf.map(name).and_then(data).ok_or_else(|| broken(format!("it has no stack {name}")))?;
            let raw = duplicate(map).and_then(RawMap::new).map_err(|error| broken(error.to_string()))?;
            let mut stack = Stack::<u32>::new(raw, name).map_err(fail)?;
            let places = sizes.iter().find(|(map, _)| map == name).map_or(0, |(_, entries)| *entries);
            (0..places).rev().try_for_each(|place| stack.push(&place)).map_err(fail)?;
        }
        let mut pinned = None;
        if let Some((pins, name)) = &self.pins {
            let constants = self.constants.iter().filter(|(name, _)| !self.passing.contains(&name.as_str()));
            let constants = constants.flat_map(|(name, value)| [name.as_bytes(), value.as_slice()]);
            let constants = constants.chain([self.sample_every.as_bytes()]);
            let maps = self.lasting(&ebpf);
            let layout = layout(self.object, &image, (&maps, &ebpf)).map_err(broken)?;
            pinned = Some(pins.take(name, &Identity { layout, constants: digest(constants) }, &maps)?);
        }
        for (name, shared) in self.shared {
            let shared = shared?;
            // Programs are loaded later, with the maps that their descriptors stand for by then.
            let own = ebpf.map(name).and_then(data).ok_or_else(|| fail(format!("it has no map {name}"), ""))?;
            put_in_place(&shared, own.fd().as_fd()).map_err(|error| fail(error.to_string(), ""))?;
        }
        let mut tally = Tally::of(self.object);
        // What holds no measurements is not shown.
        let shown = |name: &str| !name.starts_with('.') && !name.starts_with(NEXT) && !MEASURES.contains(&name);
        for (name, map) in ebpf.maps().filter(|(name, _)| shown(name)) {
            if let Some(data) = data(map) {
                let fd = duplicate(data).map_err(|error| fail(error.to_string(), ""))?;
                tally.add_map(name, fd).map_err(|error| fail(error.to_string(), ""))?;
            }
        }
        let (tally, passages) = (Arc::new(tally), Vec::new());
        let (sample_every, governed) = (self.sample_every, self.governed);
        let object = Object { name: self.object, pinned, passages, ebpf, tally, sample_every, governed };
        // Whoever leads the programs comes later; until then they do everything.
        object.reins()?;
        Ok(object)
    }

    /// Gives the maps that outlive the process, in the order of their names.
    fn lasting<'e>(&self, ebpf: &'e Ebpf) -> Vec<(String, BorrowedFd<'e>)> {
        let passes = |name: &str| {
            let shared = self.shared.iter().any(|(map, _)| *map == name);
            // What programs cost, and how far they go, concerns those of this process.
            let own = name.starts_with('.') || name.starts_with(NEXT) || MEASURES.contains(&name);
            shared || own || self.filled.contains(&name)
        };
        let lasting = ebpf.maps().filter(|(name, map)| {
            let waits = self.waiting.contains(name);
            !passes(name) && (waits || !matches!(map, Map::RingBuf(_) | Map::PerfEventArray(_) | Map::ProgramArray(_)))
        });
        let lasting = lasting.filter_map(|(name, map)| Some((name.to_owned(), data(map)?.fd().as_fd())));
        let mut maps: Vec<_> = lasting.collect();
        maps.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        maps
    }
}

/// Gives a number that differs where maps of an object are laid out otherwise, or where it has other programs: they would
/// count beside those of the agent before.
fn layout(object: &str, image: &Image, (maps, ebpf): (&[(String, BorrowedFd<'_>)], &Ebpf)) -> Result<u64, String> {
    let types = types(image.bytes())?;
    let describe = |(name, map): &(String, BorrowedFd<'_>)| {
        let info = map.try_clone_to_owned().and_then(|map| map_info(&map)).map_err(|error| error.to_string())?;
        let MapInfo { kind, key_size, value_size, max_entries, flags, .. } = info;
        let fields = Declaration::find(types, name).map(|declared| declared.layout()).unwrap_or_default();
        Ok(format!("{object} {name} {kind} {key_size} {value_size} {max_entries} {flags} {fields}"))
    };
    let mut all: Vec<String> = maps.iter().map(describe).collect::<Result<_, String>>()?;
    let mut programs: Vec<&str> = ebpf.programs().map(|(name, _)| name).collect();
    programs.sort_unstable();
    all.extend(programs.into_iter().map(str::to_owned));
    Ok(digest(all.iter().map(String::as_bytes)))
}

/// A loaded object: its maps, and its programs as far as they are attached. Dropping it detaches everything.
pub struct Object {
    pub(crate) name: &'static str,
    /// What keeps it in the kernel beyond this process; detached first where it is not to.
    pub(crate) pinned: Option<Pinned>,
    /// Given up before the programs are, so that nobody is handed over to them any more.
    pub(crate) passages: Vec<Passage>,
    pub(crate) ebpf: Ebpf,
    pub(crate) tally: Arc<Tally>,
    sample_every: u32,
    governed: bool,
}

impl Object {
    /// Opens a hash map for reading it as a whole: a per-CPU one, or one that all CPUs share.
    ///
    /// # Errors
    /// Fails when there is no such map or when it has another shape.
    pub fn table<K, V>(&self, map: &str) -> Result<PerCpuTable<K, V>, Error>
    where
        K: FromBytes + IntoBytes + Immutable + KnownLayout,
        V: FromBytes + IntoBytes + Immutable + KnownLayout,
    {
        let used = self.tally.used(map);
        PerCpuTable::new(self.raw(map)?, map, used)
    }

    /// Maps an array with `BPF_F_MMAPABLE`.
    ///
    /// # Errors
    /// Fails when there is no such map, when it has another shape or another flag.
    pub fn mapped<V: Plain>(&self, map: &str) -> Result<Mapped<V>, Error> {
        Mapped::new(&self.raw(map)?, map, self.tally.used(map))
    }

    /// Opens a stack.
    ///
    /// # Errors
    /// Fails when there is no such map or when it has another shape.
    pub fn stack<V: Plain>(&self, map: &str) -> Result<Stack<V>, Error> {
        Stack::new(self.raw(map)?, map)
    }

    /// Opens a per-CPU hash map of histograms for reading.
    ///
    /// # Errors
    /// Fails when there is no such map or when it has another shape.
    pub fn histograms<K>(&self, map: &str, shape: HistShape) -> Result<PerCpuTable<K, u64>, Error>
    where
        K: FromBytes + IntoBytes + Immutable + KnownLayout,
    {
        let used = self.tally.used(map);
        PerCpuTable::of_words(self.raw(map)?, map, shape.bytes(), used)
    }

    /// Opens the histogram of what a map of histograms had no room for.
    ///
    /// # Errors
    /// Fails when there is no such map or when it has another shape.
    pub fn lost_histogram(&self, map: &str, shape: HistShape) -> Result<PerCpuCells<u64>, Error> {
        let lost = format!("{map}_lost");
        PerCpuCells::of_words(self.raw(&lost)?, &lost, shape.bytes())
    }

    /// Opens a plain hash map for reading and writing.
    ///
    /// # Errors
    /// Fails when there is no such map or when it has another shape.
    pub fn hash<K, V>(&self, map: &str) -> Result<Table<K, V>, Error>
    where
        K: FromBytes + IntoBytes + Immutable + KnownLayout,
        V: FromBytes + IntoBytes + Immutable + KnownLayout,
    {
        Table::new(self.raw(map)?, map)
    }

    /// Opens a per-CPU array for reading.
    ///
    /// # Errors
    /// Fails when there is no such map or when it has another shape.
    pub fn per_cpu_cells<V>(&self, map: &str) -> Result<PerCpuCells<V>, Error>
    where
        V: FromBytes + IntoBytes + Immutable + KnownLayout,
    {
        PerCpuCells::new(self.raw(map)?, map)
    }

    /// Opens an array for reading and writing.
    ///
    /// # Errors
    /// Fails when there is no such map or when it has another shape.
    pub fn cells<V>(&self, map: &str) -> Result<Cells<V>, Error>
    where
        V: FromBytes + IntoBytes + Immutable + KnownLayout,
    {
        Cells::new(self.raw(map)?, map)
    }

    /// Takes a ring buffer, once. It must be called inside a Tokio runtime.
    ///
    /// # Errors
    /// Fails when there is no such map, when it is no ring or when it was taken before.
    pub fn ring(&mut self, map: &str) -> Result<Ring, Error> {
        Ring::new(self.ebpf.take_map(map).ok_or_else(|| self.unknown(map))?, map)
    }

    /// Takes a map that `EVENTS` of `bpf/lib/ring.bpf.h` made, once; perf buffers get so many bytes for each CPU. It
    /// must be called inside a Tokio runtime.
    ///
    /// # Errors
    /// Fails when there is no such map, when it was taken before, and when the kernel gives no perf buffers.
    pub fn events(&mut self, map: &str, perf_bytes: u64) -> Result<Events, Error> {
        match self.ebpf.take_map(map).ok_or_else(|| self.unknown(map))? {
            array @ Map::PerfEventArray(_) => Perf::new(array, map, perf_bytes).map(Events::Perf),
            ring => Ring::new(ring, map).map(Events::Ring),
        }
    }

    /// Gives how many values each one that its histograms take stands for.
    pub fn sample_every(&self) -> u32 {
        self.sample_every
    }

    /// Gives the reins of the programs, where they were loaded with such.
    ///
    /// # Errors
    /// Fails when the object has none, and when the kernel refuses to write their map.
    pub fn reins(&self) -> Result<Option<Reins>, Error> {
        if !self.governed {
            return Ok(None);
        }
        let [costs, stages] = MEASURES;
        Reins::new(self.per_cpu_cells(costs)?, self.cells(stages)?).map(Some)
    }

    /// Gives a handle for self-telemetry: it reads from any thread and does not keep the object alive.
    pub fn watch(&self) -> Watch {
        Watch::new(&self.tally)
    }

    pub(crate) fn raw(&self, map: &str) -> Result<RawMap, Error> {
        let data = self.ebpf.map(map).and_then(data).ok_or_else(|| self.unknown(map))?;
        let fail = |source| Error::Map { map: map.to_owned(), action: "open", source };
        RawMap::new(duplicate(data).map_err(fail)?).map_err(fail)
    }

    fn unknown(&self, map: &str) -> Error {
        Error::UnknownMap { object: self.name.to_owned(), map: map.to_owned() }
    }
}

fn duplicate(data: &MapData) -> std::io::Result<OwnedFd> {
    data.fd().as_fd().try_clone_to_owned()
}

fn data(map: &Map) -> Option<&MapData> {
    match map {
        Map::Array(data)
        | Map::HashMap(data)
        | Map::PerCpuArray(data)
        | Map::PerCpuHashMap(data)
        | Map::LruHashMap(data)
        | Map::PerCpuLruHashMap(data)
        | Map::PerfEventArray(data)
        | Map::ProgramArray(data)
        | Map::RingBuf(data)
        | Map::SkStorage(data)
        | Map::Stack(data)
        | Map::Unsupported(data) => Some(data),
        _ => None,
    }
}
