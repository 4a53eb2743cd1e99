//! Sums of entries that the kernel tells apart and a series does not.
//!
//! A scrape takes one reading for each subject and dimension, so what coincides is added up here first. An entry that
//! the kernel has freed stays in its sum for as long as another one is part of it. The next agent, where there may be
//! one that goes on, gets all sums with what each entry had in them, so that it need not know which were freed since.

use std::collections::HashMap;
use std::hash::Hash;

use bpf::abi::histogram::Histogram;
use model::Subject;
use runtime::Scrape;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::table::Entry;

/// What can be added up, and written down.
pub trait Addend: Default {
    /// How it is written down.
    type Written: Serialize + DeserializeOwned;

    /// Adds another one.
    fn add(&mut self, other: &Self);

    /// Gives what it has grown by since; all of a number that fell.
    fn since(&self, before: &Self) -> Self;

    /// Writes it down.
    fn write(&self) -> Self::Written;

    /// Reads what was written down.
    fn read(written: Self::Written) -> Self;
}

impl Addend for u64 {
    type Written = u64;

    fn add(&mut self, other: &Self) {
        *self += other;
    }

    fn since(&self, before: &Self) -> Self {
        self.checked_sub(*before).unwrap_or(*self)
    }

    fn write(&self) -> u64 {
        *self
    }

    fn read(written: u64) -> Self {
        written
    }
}

impl Addend for Histogram {
    type Written = (u64, u32, Vec<u32>);

    fn add(&mut self, other: &Self) {
        Histogram::add(self, other);
    }

    fn since(&self, before: &Self) -> Self {
        Histogram::since(self, before)
    }

    fn write(&self) -> Self::Written {
        (self.sum, self.zero, self.slots.clone())
    }

    fn read((sum, zero, slots): Self::Written) -> Self {
        Self { sum, zero, slots }
    }
}

/// All sums as the next agent gets them.
#[derive(Serialize, Deserialize)]
pub struct Written<K, D, W> {
    /// By cgroup, or of the kernel, and dimension.
    sums: Vec<(Option<u64>, D, W)>,
    entries: Vec<(K, W)>,
}

/// The sums of one metric by subject and dimension, of entries with keys of the kind `K`.
pub struct Sums<K, D, V: Addend> {
    all: HashMap<(Subject, D), Sum<V>>,
    /// What entries had in the sums that the agent before left, and whether they are still there.
    before: HashMap<K, (V, bool)>,
    /// The sums and entries of this round, where there may be a next agent that goes on.
    written: Option<Written<K, D, V::Written>>,
}

#[derive(Default)]
struct Sum<V> {
    /// What freed entries left, and what the agent before did.
    freed: V,
    /// What entries hold in this round.
    held: V,
    /// The entries of this round.
    entries: u32,
}

impl<K: Clone + Eq + Hash, D: Clone + Eq + Hash, V: Addend> Sums<K, D, V> {
    /// Begins without any, or with those of the agent before; `lasts` where there may be a next one that goes on.
    pub fn new(lasts: bool, before: Option<Written<K, D, V::Written>>) -> Self {
        let Written { sums, entries } = before.unwrap_or_else(Written::default);
        let sum = |(cgroup, dimension, freed)| {
            let subject = Option::map_or(cgroup, Subject::Kernel, Subject::Cgroup);
            ((subject, dimension), Sum { freed: V::read(freed), ..Sum::default() })
        };
        Self {
            all: sums.into_iter().map(sum).collect(),
            before: entries.into_iter().map(|(key, had)| (key, (V::read(had), false))).collect(),
            written: lasts.then(Written::default),
        }
    }

    /// Adds what an entry holds, or held when it was freed.
    pub fn add(&mut self, subject: Subject, dimension: D, key: K, value: &V, last: bool) {
        let sum = self.all.entry((subject, dimension)).or_default();
        let to = if last { &mut sum.freed } else { &mut sum.held };
        match self.before.get_mut(&key) {
            Some((had, there)) => {
                to.add(&value.since(had));
                *there = !last;
            }
            None => to.add(value),
        }
        if !last {
            sum.entries += 1;
            if let Some(written) = &mut self.written {
                written.entries.push((key, value.write()));
            }
        }
    }

    /// Ends a round: shows every sum, for the last time those that no entry is part of any more.
    pub fn finish(&mut self, scrape: &mut Scrape, mut show: impl FnMut(&D, &V, &mut Entry<'_>)) {
        self.before.retain(|_, (_, there)| std::mem::take(there));
        let written = &mut self.written;
        self.all.retain(|(subject, dimension), sum| {
            let live = sum.entries > 0;
            let mut total = std::mem::take(&mut sum.held);
            total.add(&sum.freed);
            sum.entries = 0;
            show(dimension, &total, &mut Entry::new(scrape, *subject, !live));
            if let Some(written) = written.as_mut().filter(|_| live) {
                let cgroup = if let Subject::Cgroup(id) = subject { Some(*id) } else { None };
                written.sums.push((cgroup, dimension.clone(), total.write()));
            }
            live
        });
    }

    /// Gives all sums of the round that has ended, for the next agent; nothing where there is none that goes on.
    pub fn write(&mut self) -> Option<Written<K, D, V::Written>> {
        self.written.as_mut().map(std::mem::take)
    }
}

impl<K, D, W> Default for Written<K, D, W> {
    fn default() -> Self {
        Self { sums: Vec::new(), entries: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Bytes = Sums<u32, char, u64>;

    /// Lets a round pass with these entries; gives what is shown, and whether for the last time.
    fn round(sums: &mut Bytes, entries: &[(u32, u64, bool)]) -> Vec<(u64, bool)> {
        for &(key, value, last) in entries {
            sums.add(Subject::Kernel, 'd', key, &value, last);
        }
        let mut shown = Vec::new();
        sums.finish(&mut Scrape::default(), |_, total, entry| shown.push((*total, entry.is_last())));
        shown
    }

    #[test]
    fn a_sum_keeps_what_freed_entries_left() {
        let mut sums = Bytes::new(false, None);
        assert_eq!(round(&mut sums, &[(1, 10, false), (2, 5, false)]), [(15, false)]);
        assert_eq!(round(&mut sums, &[(1, 10, true), (2, 6, false)]), [(16, false)]);
        assert_eq!(round(&mut sums, &[(2, 6, true)]), [(16, true)]);
        assert!(round(&mut sums, &[]).is_empty() && sums.write().is_none());
    }

    #[test]
    fn the_next_agent_goes_on_whatever_was_freed_since() {
        let left = || {
            let mut sums = Bytes::new(true, None);
            round(&mut sums, &[(1, 10, false), (2, 5, false), (3, 1, true)]);
            sums.write()
        };
        let mut next = Bytes::new(true, left());
        assert_eq!(round(&mut next, &[(1, 12, false), (2, 5, false), (4, 3, false)]), [(21, false)]);
        let mut third = Bytes::new(true, next.write());
        assert_eq!(round(&mut third, &[(1, 12, true), (2, 6, false), (4, 3, false)]), [(22, false)]);
        let mut freed = Bytes::new(true, left());
        assert_eq!(round(&mut freed, &[(2, 7, false)]), [(18, false)]);
        assert_eq!(round(&mut freed, &[(1, 4, false), (2, 7, false)]), [(22, false)], "it has begun anew");
        assert_eq!(round(&mut Bytes::new(true, left()), &[]), [(16, true)]);
    }
}
