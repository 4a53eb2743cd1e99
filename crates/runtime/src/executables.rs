//! The kernel's table of executables, with `granularity: process`: all objects share it, programs fill it, and here
//! what an id stands for is looked up and what is long gone is removed.

use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bpf::abi::executable::{EXECUTABLE, Executable, OWNERS_EXECUTABLES};
use model::{Census, Executable as Named};

/// The names of the maps in every object.
const EXECUTABLES: &str = "executables";
const CACHE: &str = "executable_cache";
const LOST: &str = "executables_lost";
/// The slots of the ids that are known to be in the map.
const SLOTS: u32 = 4096;
/// How long a removed cgroup's executables stay: sockets and dying tasks may still count.
const AGE: Duration = Duration::from_mins(1);
/// The least time between two looks through the whole table.
const PAUSE: Duration = Duration::from_secs(10);

/// The executables as the kernel has them.
pub struct Executables {
    seed: u64,
    maps: Mutex<Maps>,
}

struct Maps {
    table: bpf::Table<u64, Executable>,
    cache: bpf::Cells<u64>,
    lost: bpf::Cells<u64>,
    looked: Instant,
}

impl Executables {
    /// Makes the table.
    ///
    /// # Errors
    /// Fails when the kernel refuses to make it.
    pub fn new(max_entries: u32) -> Result<Self, bpf::Error> {
        let maps = Maps {
            table: bpf::Table::create(EXECUTABLES, max_entries)?,
            cache: bpf::Cells::create(CACHE, SLOTS)?,
            lost: bpf::Cells::create(LOST, 1)?,
            looked: Instant::now(),
        };
        // The hasher of the standard library is the one thing there that begins at random.
        Ok(Self { seed: RandomState::new().hash_one(SLOTS), maps: Mutex::new(maps) })
    }

    /// Lets an object use the table; without it the object's programs tell no executables apart.
    #[must_use]
    pub fn share(&self, loader: bpf::Loader) -> bpf::Loader {
        let maps = self.maps();
        loader
            .constant("owners_by", &OWNERS_EXECUTABLES)
            .constant("executable_seed", &self.seed)
            .constant("executable_cache_mask", &(SLOTS - 1))
            .shared(EXECUTABLES, &maps.table)
            .shared_cells(CACHE, &maps.cache)
            .shared_cells(LOST, &maps.lost)
    }

    /// Removes, from time to time, the executables of cgroups that were removed long ago; gives how often programs
    /// have found no room so far.
    ///
    /// # Errors
    /// Fails when the kernel refuses to read or change the table.
    pub fn tidy(&self, census: &dyn Census) -> Result<u64, bpf::Error> {
        let gone = |(_, executable): &(u64, Executable)| {
            census.removed_for(executable.cgroup).is_some_and(|since| since >= AGE)
        };
        // The census may ask what an id stands for: it must not wait for us.
        let gone: Vec<_> = self.due()?.into_iter().filter(gone).collect();
        let mut maps = self.maps();
        for (id, _) in gone {
            maps.table.remove(&id)?;
            // Nobody runs there any more, so nobody puts it back.
            maps.cache.set(id as u32 & (SLOTS - 1), &0)?;
        }
        Ok(maps.lost.get(0)?.unwrap_or_default())
    }

    /// Gives the whole table when it is time to look through it.
    fn due(&self) -> Result<Vec<(u64, Executable)>, bpf::Error> {
        let mut maps = self.maps();
        if maps.looked.elapsed() < PAUSE {
            return Ok(Vec::new());
        }
        maps.looked = Instant::now();
        maps.table.entries()
    }

    fn maps(&self) -> MutexGuard<'_, Maps> {
        self.maps.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl model::Executables for Executables {
    fn find(&self, id: u64) -> Option<Named> {
        if id & EXECUTABLE == 0 {
            return None;
        }
        let found = self.maps().table.get(&id).ok()??;
        Some(Named { cgroup: found.cgroup, name: found.name().into() })
    }
}
