//! Reading and writing maps by type. Whole tables are read in batches, ten times faster than key by key.

use std::io;
use std::marker::PhantomData;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::cost::UNKNOWN;
use crate::error::Error;
use crate::sys::{Progress, RawMap, create_map, kind};

/// Entries read in one call: at 160 bytes and 64 CPUs a buffer of 5 MB.
const BATCH: usize = 512;

/// What a key or a value must be: plain bytes.
pub trait Plain: FromBytes + IntoBytes + Immutable + KnownLayout {}
impl<T: FromBytes + IntoBytes + Immutable + KnownLayout> Plain for T {}

/// A map with its name for errors.
#[derive(Debug)]
struct Named {
    raw: RawMap,
    name: String,
}

impl Named {
    fn new<K, V>(raw: RawMap, name: &str, kind: u32, expected: &'static str) -> Result<Self, Error> {
        Self::sized(raw, name, kind, expected, [size_of::<K>(), size_of::<V>()])
    }

    fn sized(raw: RawMap, name: &str, kind: u32, expected: &'static str, sizes: [usize; 2]) -> Result<Self, Error> {
        if raw.info.kind != kind {
            return Err(Error::Kind { map: name.to_owned(), expected });
        }
        let sizes = [("key", sizes[0], raw.info.key_size), ("value", sizes[1], raw.info.value_size)];
        for (part, expected, actual) in sizes {
            let actual = actual as usize;
            if expected != actual {
                return Err(Error::Shape { map: name.to_owned(), part, expected, actual });
            }
        }
        Ok(Self { raw, name: name.to_owned() })
    }

    fn failed(&self, action: &'static str) -> impl FnOnce(io::Error) -> Error {
        move |source| Error::Map { map: self.name.clone(), action, source }
    }

    /// Allocates a value as the kernel copies it, aligned for any kernel type.
    fn buffer(&self) -> Vec<u64> {
        vec![0; self.raw.value_bytes.div_ceil(8)]
    }
}

/// A hash map that is read as a whole. Values come with one cell for each possible CPU, or with one that all share.
#[derive(Debug)]
pub struct PerCpuTable<K, V> {
    map: Named,
    keys: Vec<u64>,
    values: Vec<u64>,
    /// The entries that the last whole read found, for self-telemetry.
    used: Arc<AtomicU64>,
    batches: bool,
    shape: PhantomData<fn() -> (K, V)>,
}

impl<K: Plain, V: Plain> PerCpuTable<K, V> {
    pub(crate) fn new(raw: RawMap, name: &str, used: Arc<AtomicU64>) -> Result<Self, Error> {
        let kind = if raw.info.kind == kind::HASH { kind::HASH } else { kind::PERCPU_HASH };
        let map = Named::new::<K, V>(raw, name, kind, "a hash map")?;
        // Cells lie 8 bytes apart: only then is a slice of values a slice of what the kernel wrote.
        if !size_of::<V>().is_multiple_of(8) || align_of::<V>() > 8 || align_of::<K>() > 8 {
            let expected = size_of::<V>().next_multiple_of(8);
            return Err(Error::Shape { map: name.to_owned(), part: "value", expected, actual: size_of::<V>() });
        }
        Ok(Self { map, keys: Vec::new(), values: Vec::new(), used, batches: true, shape: PhantomData })
    }
}

impl<K: Plain> PerCpuTable<K, u64> {
    /// Opens a map whose values have a size that only running programs know, as words: each CPU's follow the others',
    /// or there is one that all CPUs share.
    pub(crate) fn of_words(raw: RawMap, name: &str, bytes: u32, used: Arc<AtomicU64>) -> Result<Self, Error> {
        let sizes = [size_of::<K>(), bytes as usize];
        let kind = if raw.info.kind == kind::HASH { kind::HASH } else { kind::PERCPU_HASH };
        let map = Named::sized(raw, name, kind, "a hash map", sizes)?;
        Ok(Self { map, keys: Vec::new(), values: Vec::new(), used, batches: true, shape: PhantomData })
    }
}

impl<K: Plain, V: Plain> PerCpuTable<K, V> {
    /// Shows every entry: its key and its value on each possible CPU. Entries that are made meanwhile may be left out;
    /// without batches (before Linux 5.6) one that is removed meanwhile may show others twice.
    ///
    /// # Errors
    /// Fails when the kernel refuses to read the map.
    pub fn for_each(&mut self, mut show: impl FnMut(&K, &[V])) -> Result<(), Error> {
        let count = if self.batches {
            match self.read_batches(&mut show) {
                Err(error) if unsupported(&error) => {
                    self.batches = false;
                    self.read_singly(&mut show)
                }
                result => result,
            }
        } else {
            self.read_singly(&mut show)
        };
        let count = count.map_err(self.map.failed("read"))?;
        self.used.store(count, Ordering::Relaxed);
        Ok(())
    }

    /// Removes an entry and gives its last value on each possible CPU. From Linux 5.14 on that is one step; before,
    /// what is added between reading and removing is lost.
    ///
    /// # Errors
    /// Fails when the kernel refuses to change the map.
    pub fn take(&mut self, key: &K) -> Result<Option<Vec<V>>, Error> {
        let mut buffer = self.map.buffer();
        let raw = &self.map.raw;
        let found = match raw.take(key.as_bytes(), buffer.as_mut_bytes()) {
            Err(error) if unsupported(&error) => raw
                .lookup(key.as_bytes(), buffer.as_mut_bytes())
                .and_then(|found| if found { raw.delete(key.as_bytes()) } else { Ok(false) }),
            result => result,
        };
        let found = found.map_err(self.map.failed("take an entry from"))?;
        Ok(found.then(|| cells(&buffer)))
    }

    /// Reads one entry: its value on each possible CPU.
    ///
    /// # Errors
    /// Fails when the kernel refuses to read the map.
    pub fn get(&self, key: &K) -> Result<Option<Vec<V>>, Error> {
        let mut buffer = self.map.buffer();
        let found = self.map.raw.lookup(key.as_bytes(), buffer.as_mut_bytes()).map_err(self.map.failed("read"))?;
        Ok(found.then(|| cells(&buffer)))
    }

    /// Writes an entry: one value for each possible CPU.
    ///
    /// # Errors
    /// Fails when the map is full or `values` has another length than there are CPUs.
    pub fn insert(&mut self, key: &K, values: &[V]) -> Result<(), Error> {
        self.map.raw.update(key.as_bytes(), values.as_bytes()).map_err(self.map.failed("write"))
    }

    /// Gives the number of entries that the last [`for_each`](Self::for_each) found; 0 before the first.
    pub fn len(&self) -> u64 {
        match self.used.load(Ordering::Relaxed) {
            UNKNOWN => 0,
            used => used,
        }
    }

    /// Says whether the last [`for_each`](Self::for_each) found nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Gives the number of entries that the map can hold.
    pub fn capacity(&self) -> u32 {
        self.map.raw.info.max_entries
    }

    /// Gives the number of possible CPUs, the length of each value.
    pub fn cpus(&self) -> usize {
        self.map.raw.cpus
    }

    fn read_batches(&mut self, show: &mut impl FnMut(&K, &[V])) -> io::Result<u64> {
        read_batches(&self.map.raw, &mut self.keys, &mut self.values, |key, value| view(key, value, show))
    }

    fn read_singly(&mut self, show: &mut impl FnMut(&K, &[V])) -> io::Result<u64> {
        let mut key = vec![0_u64; size_of::<K>().div_ceil(8)];
        let mut next = key.clone();
        let mut buffer = self.map.buffer();
        let raw = &self.map.raw;
        let size = size_of::<K>();
        let mut total = 0;
        // A key that was removed sends the walk back to the beginning, so it needs a bound.
        for step in 0..u64::from(raw.info.max_entries) * 2 {
            let from = (step > 0).then(|| &key.as_bytes()[..size]);
            if !raw.next_key(from, &mut next.as_mut_bytes()[..size])? {
                break;
            }
            if raw.lookup(&next.as_bytes()[..size], buffer.as_mut_bytes())? {
                view(&next.as_bytes()[..size], buffer.as_bytes(), show);
                total += 1;
            }
            std::mem::swap(&mut key, &mut next);
        }
        Ok(total)
    }
}

/// Shows the bytes of every key and value, batch by batch through these buffers; gives the number of entries.
fn read_batches(
    raw: &RawMap,
    keys: &mut Vec<u64>,
    values: &mut Vec<u64>,
    mut show: impl FnMut(&[u8], &[u8]),
) -> io::Result<u64> {
    let (key_size, value_size) = (raw.info.key_size as usize, raw.value_bytes);
    let mut cursor = vec![0_u64; key_size.div_ceil(8).max(1)];
    let mut capacity = BATCH.min(raw.info.max_entries as usize).max(1);
    let (mut total, mut first) = (0, true);
    loop {
        capacity = capacity.max(keys.len() * 8 / key_size.max(1));
        keys.resize((capacity * key_size).div_ceil(8), 0);
        values.resize((capacity * value_size).div_ceil(8), 0);
        let buffer = &mut keys.as_mut_bytes()[..capacity * key_size];
        match raw.batch(first, cursor.as_mut_bytes(), buffer, values.as_mut_bytes()) {
            Ok(Progress { count, more }) => {
                let keys = keys.as_bytes()[..count * key_size].chunks_exact(key_size);
                let values = values.as_bytes()[..count * value_size].chunks_exact(value_size);
                for (key, value) in keys.zip(values) {
                    show(key, value);
                }
                total += count as u64;
                first = false;
                if !more {
                    return Ok(total);
                }
            }
            // One bucket holds more entries than the buffers: rare, with a bucket for each entry.
            Err(error) if error.raw_os_error() == Some(libc::ENOSPC) && capacity < 1 << 20 => capacity *= 2,
            Err(error) => return Err(error),
        }
    }
}

/// Shows bytes that the kernel wrote as what they are. Sizes and alignment were checked when the table was opened.
fn view<K: Plain, V: Plain>(key: &[u8], value: &[u8], show: &mut impl FnMut(&K, &[V])) {
    if let (Ok(key), Ok(values)) = (K::ref_from_bytes(key), <[V]>::ref_from_bytes(value)) {
        show(key, values);
    }
}

fn cells<V: Plain>(buffer: &[u64]) -> Vec<V> {
    let stride = size_of::<V>().next_multiple_of(8).max(8);
    let cells = buffer.as_bytes().chunks_exact(stride);
    cells.filter_map(|cell| V::read_from_bytes(&cell[..size_of::<V>()]).ok()).collect()
}

/// Says whether the kernel does not know the operation (524 is its internal ENOTSUPP).
fn unsupported(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP | 524))
}

/// A plain hash map, read and written entry by entry.
#[derive(Debug)]
pub struct Table<K, V> {
    map: Named,
    shape: PhantomData<fn() -> (K, V)>,
}

impl<K: Plain, V: Plain> Table<K, V> {
    pub(crate) fn new(raw: RawMap, name: &str) -> Result<Self, Error> {
        Ok(Self { map: Named::new::<K, V>(raw, name, kind::HASH, "a hash map")?, shape: PhantomData })
    }

    /// Makes a map that belongs to no object; [`Loader::shared`](crate::Loader::shared) gives it to objects.
    ///
    /// # Errors
    /// Fails when the kernel refuses to make it.
    pub fn create(name: &str, max_entries: u32) -> Result<Self, Error> {
        crate::probe::lift_memlock();
        let fail = |source| Error::Map { map: name.to_owned(), action: "make", source };
        let fd = create_map(kind::HASH, name, size_of::<K>(), size_of::<V>(), max_entries, 0).map_err(fail)?;
        Self::new(RawMap::new(fd).map_err(fail)?, name)
    }

    /// Gives another descriptor of the map.
    pub(crate) fn descriptor(&self) -> Result<OwnedFd, Error> {
        self.map.raw.fd.try_clone().map_err(self.map.failed("share"))
    }

    /// Writes an entry.
    ///
    /// # Errors
    /// Fails when the map is full.
    pub fn insert(&mut self, key: &K, value: &V) -> Result<(), Error> {
        self.map.raw.update(key.as_bytes(), value.as_bytes()).map_err(self.map.failed("write"))
    }

    /// Reads an entry.
    ///
    /// # Errors
    /// Fails when the kernel refuses to read the map.
    pub fn get(&self, key: &K) -> Result<Option<V>, Error> {
        let mut value = V::new_zeroed();
        let found = self.map.raw.lookup(key.as_bytes(), value.as_mut_bytes()).map_err(self.map.failed("read"))?;
        Ok(found.then_some(value))
    }

    /// Gives every entry. Those that are made meanwhile may be left out.
    ///
    /// # Errors
    /// Fails when the kernel refuses to read the map, and before Linux 5.6.
    pub fn entries(&self) -> Result<Vec<(K, V)>, Error> {
        let mut found = Vec::new();
        let collect = |key: &[u8], value: &[u8]| {
            if let (Ok(key), Ok(value)) = (K::read_from_bytes(key), V::read_from_bytes(value)) {
                found.push((key, value));
            }
        };
        read_batches(&self.map.raw, &mut Vec::new(), &mut Vec::new(), collect).map_err(self.map.failed("read"))?;
        Ok(found)
    }

    /// Removes an entry and gives its last value. From Linux 5.14 on that is one step; before, what is written between
    /// reading and removing is lost.
    ///
    /// # Errors
    /// Fails when the kernel refuses to change the map.
    pub fn take(&mut self, key: &K) -> Result<Option<V>, Error> {
        let mut value = V::new_zeroed();
        let raw = &self.map.raw;
        let found = match raw.take(key.as_bytes(), value.as_mut_bytes()) {
            Err(error) if unsupported(&error) => raw
                .lookup(key.as_bytes(), value.as_mut_bytes())
                .and_then(|found| if found { raw.delete(key.as_bytes()) } else { Ok(false) }),
            result => result,
        };
        Ok(found.map_err(self.map.failed("take an entry from"))?.then_some(value))
    }

    /// Removes an entry and says whether it was there.
    ///
    /// # Errors
    /// Fails when the kernel refuses to change the map.
    pub fn remove(&mut self, key: &K) -> Result<bool, Error> {
        self.map.raw.delete(key.as_bytes()).map_err(self.map.failed("remove an entry from"))
    }
}

/// A per-CPU array.
#[derive(Debug)]
pub struct PerCpuCells<V> {
    map: Named,
    shape: PhantomData<fn() -> V>,
}

impl<V: Plain> PerCpuCells<V> {
    pub(crate) fn new(raw: RawMap, name: &str) -> Result<Self, Error> {
        Ok(Self { map: Named::new::<u32, V>(raw, name, kind::PERCPU_ARRAY, "a per-CPU array")?, shape: PhantomData })
    }
}

impl PerCpuCells<u64> {
    /// Opens an array whose values have a size that only running programs know, as words: for each CPU, or shared.
    pub(crate) fn of_words(raw: RawMap, name: &str, bytes: u32) -> Result<Self, Error> {
        let sizes = [size_of::<u32>(), bytes as usize];
        let kind = if raw.info.kind == kind::ARRAY { kind::ARRAY } else { kind::PERCPU_ARRAY };
        let map = Named::sized(raw, name, kind, "an array", sizes)?;
        Ok(Self { map, shape: PhantomData })
    }
}

impl<V: Plain> PerCpuCells<V> {
    /// Reads a cell on each possible CPU.
    ///
    /// # Errors
    /// Fails when there is no such cell.
    pub fn get(&self, index: u32) -> Result<Vec<V>, Error> {
        let mut buffer = self.map.buffer();
        let found = self.map.raw.lookup(index.as_bytes(), buffer.as_mut_bytes()).map_err(self.map.failed("read"))?;
        Ok(if found { cells(&buffer) } else { Vec::new() })
    }
}

/// A plain array.
#[derive(Debug)]
pub struct Cells<V> {
    map: Named,
    shape: PhantomData<fn() -> V>,
}

impl<V: Plain> Cells<V> {
    pub(crate) fn new(raw: RawMap, name: &str) -> Result<Self, Error> {
        Ok(Self { map: Named::new::<u32, V>(raw, name, kind::ARRAY, "an array")?, shape: PhantomData })
    }

    /// Makes an array that belongs to no object; [`Loader::shared_cells`](crate::Loader::shared_cells) gives it to objects.
    ///
    /// # Errors
    /// Fails when the kernel refuses to make it.
    pub fn create(name: &str, max_entries: u32) -> Result<Self, Error> {
        crate::probe::lift_memlock();
        let fail = |source| Error::Map { map: name.to_owned(), action: "make", source };
        let fd = create_map(kind::ARRAY, name, size_of::<u32>(), size_of::<V>(), max_entries, 0).map_err(fail)?;
        Self::new(RawMap::new(fd).map_err(fail)?, name)
    }

    /// Gives another descriptor of the map.
    pub(crate) fn descriptor(&self) -> Result<OwnedFd, Error> {
        self.map.raw.fd.try_clone().map_err(self.map.failed("share"))
    }

    /// Writes a cell.
    ///
    /// # Errors
    /// Fails when there is no such cell.
    pub fn set(&mut self, index: u32, value: &V) -> Result<(), Error> {
        self.map.raw.update(index.as_bytes(), value.as_bytes()).map_err(self.map.failed("write"))
    }

    /// Reads a cell; nothing beyond the end.
    ///
    /// # Errors
    /// Fails when the kernel refuses to read the map.
    pub fn get(&self, index: u32) -> Result<Option<V>, Error> {
        let mut value = V::new_zeroed();
        let found = self.map.raw.lookup(index.as_bytes(), value.as_mut_bytes()).map_err(self.map.failed("read"))?;
        Ok(found.then_some(value))
    }

    /// Gives the number of cells.
    pub fn capacity(&self) -> u32 {
        self.map.raw.info.max_entries
    }
}
