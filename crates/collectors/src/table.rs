//! Tables whose entries belong to workloads: summed over CPUs, recorded, and freed once their cgroup is gone.

use std::hash::Hash;
use std::sync::Arc;

use bpf::abi::executable::EXECUTABLE;
use bpf::{Object, PerCpuTable, Plain};
use model::{Census, Metric, Party, Subject, Text, Value, Who};
use runtime::{Distribution, MakeError, Platform, Scrape};

use crate::retire::Retirement;

/// A key with the workload that its entry belongs to.
pub trait Key: Plain + Copy + Eq + Hash {
    /// Gives the id of the cgroup in the primary hierarchy, or of an executable within it; 0 is work that no task owns.
    fn cgroup(&self) -> u64;

    /// Gives whose entry it is.
    fn subject(&self) -> Subject {
        subject(self.cgroup())
    }
}

/// Says what an owner's id stands for, as programs write it.
pub fn subject(owner: u64) -> Subject {
    match owner {
        0 => Subject::Kernel,
        executable if executable & EXECUTABLE != 0 => Subject::Executable(executable),
        cgroup => Subject::Cgroup(cgroup),
    }
}

/// Says the same of an end of traffic.
pub fn party(owner: u64) -> Party {
    let who = match owner {
        0 => Who::Kernel,
        executable if executable & EXECUTABLE != 0 => Who::Executable(executable),
        cgroup => Who::Cgroup(cgroup),
    };
    who.into()
}

impl Key for u64 {
    fn cgroup(&self) -> u64 {
        *self
    }
}

/// What an entry holds on each CPU.
pub trait Cell: Plain + Copy + Default {
    /// Adds another CPU's share.
    fn add(&mut self, other: &Self);

    /// Gives a number that changes whenever the entry does.
    fn reading(&self) -> u64;

    /// Says whether nothing is left in it that a later event takes back.
    fn is_settled(&self) -> bool {
        true
    }
}

impl Cell for u64 {
    fn add(&mut self, other: &Self) {
        *self += other;
    }

    fn reading(&self) -> u64 {
        *self
    }
}

/// Makes a struct of sums a [`Cell`]: each of its fields is one.
macro_rules! cell {
    ($type:ty: $($field:ident),+) => {
        impl $crate::table::Cell for $type {
            fn add(&mut self, other: &Self) {
                $($crate::table::Cell::add(&mut self.$field, &other.$field);)+
            }

            fn reading(&self) -> u64 {
                0 $(+ $crate::table::Cell::reading(&self.$field))+
            }
        }
    };
}
pub(crate) use cell;

/// One per-CPU hash map.
pub struct Entries<K, V> {
    table: PerCpuTable<K, V>,
    dead: Retirement<K>,
}

impl<K: Key, V: Cell> Entries<K, V> {
    /// Opens a map of an object.
    ///
    /// # Errors
    /// Fails when there is no such map or when it has another shape.
    pub fn open(object: &Object, map: &str, platform: &Platform) -> Result<Self, MakeError> {
        Self::of(object, map, platform.census.clone())
    }

    /// Opens a map whose keys are of the hierarchy that a census knows.
    ///
    /// # Errors
    /// Fails when there is no such map or when it has another shape.
    pub fn of(object: &Object, map: &str, census: Arc<dyn Census>) -> Result<Self, MakeError> {
        let table = object.table(map).map_err(crate::refused)?;
        Ok(Self { table, dead: Retirement::new(census) })
    }

    /// Shows every entry's key and its sum over all CPUs; what is to be recorded of it goes through the [`Entry`].
    ///
    /// # Errors
    /// Fails when the kernel refuses to read the map.
    pub fn read(
        &mut self,
        scrape: &mut Scrape,
        mut show: impl FnMut(&K, &V, &mut Entry<'_>),
    ) -> Result<(), bpf::Error> {
        let dead = &mut self.dead;
        self.table.for_each(|key, cells| {
            let total = sum(cells);
            // What is about to be freed is shown then, once.
            if !total.is_settled() || !dead.note(*key, key.cgroup(), total.reading()) {
                show(key, &total, &mut Entry { scrape, subject: key.subject(), last: false });
            }
        })?;
        for key in dead.finish() {
            if let Some(cells) = self.table.take(&key)? {
                let mut entry = Entry { scrape, subject: key.subject(), last: true };
                show(&key, &sum(&cells), &mut entry);
            }
        }
        Ok(())
    }
}

/// Adds up all CPUs' shares.
pub fn sum<V: Cell>(cells: &[V]) -> V {
    let mut total = V::default();
    for cell in cells {
        total.add(cell);
    }
    total
}

/// Where the readings of one entry go.
pub struct Entry<'s> {
    scrape: &'s mut Scrape,
    subject: Subject,
    /// Whether the kernel's entry has just been freed.
    last: bool,
}

impl<'s> Entry<'s> {
    /// Opens what is recorded of a subject, `last` where the kernel holds nothing of it any more.
    pub fn new(scrape: &'s mut Scrape, subject: Subject, last: bool) -> Self {
        Self { scrape, subject, last }
    }

    /// Gives whose entry it is.
    pub fn subject(&self) -> Subject {
        self.subject
    }

    /// Says whether the kernel's entry has just been freed.
    pub fn is_last(&self) -> bool {
        self.last
    }

    /// Records a counter.
    pub fn count<const N: usize>(&mut self, metric: &'static Metric, values: [Text; N], value: impl Into<Value>) {
        if self.last {
            self.scrape.close(metric, self.subject, values, value);
        } else {
            self.scrape.record(metric, self.subject, values, value);
        }
    }

    /// Records a histogram.
    pub fn distribution<const N: usize>(
        &mut self,
        metric: &'static Metric,
        values: [Text; N],
        distribution: Distribution<'_>,
    ) {
        if self.last {
            self.scrape.close_histogram(metric, self.subject, values, distribution);
        } else {
            self.scrape.record_histogram(metric, self.subject, values, distribution);
        }
    }
}
