//! Sums of entries that the kernel tells apart and a series does not.
//!
//! A scrape takes one reading for each subject and dimension, so what coincides is added up here first. An entry that
//! the kernel has freed stays in its sum for as long as another one is part of it.

use std::collections::HashMap;
use std::hash::Hash;

use bpf::abi::histogram::Histogram;
use model::Subject;
use runtime::Scrape;

use crate::table::Entry;

/// What can be added up.
pub trait Addend: Default {
    /// Adds another one.
    fn add(&mut self, other: &Self);
}

impl Addend for u64 {
    fn add(&mut self, other: &Self) {
        *self += other;
    }
}

impl Addend for Histogram {
    fn add(&mut self, other: &Self) {
        Histogram::add(self, other);
    }
}

/// The sums of one metric by subject and dimension.
pub struct Sums<D, V> {
    all: HashMap<(Subject, D), Sum<V>>,
}

#[derive(Default)]
struct Sum<V> {
    /// What freed entries left.
    freed: V,
    /// What entries hold in this round.
    held: V,
    /// The entries of this round.
    entries: u32,
}

impl<D: Eq + Hash, V: Addend> Sums<D, V> {
    /// Begins without any.
    pub fn new() -> Self {
        Self { all: HashMap::new() }
    }

    /// Adds what an entry holds, or held when it was freed.
    pub fn add(&mut self, subject: Subject, dimension: D, value: &V, last: bool) {
        let sum = self.all.entry((subject, dimension)).or_default();
        if last {
            sum.freed.add(value);
        } else {
            sum.held.add(value);
            sum.entries += 1;
        }
    }

    /// Ends a round: shows every sum, for the last time those that no entry is part of any more.
    pub fn finish(&mut self, scrape: &mut Scrape, mut show: impl FnMut(&D, &V, &mut Entry<'_>)) {
        self.all.retain(|(subject, dimension), sum| {
            let live = sum.entries > 0;
            let mut total = std::mem::take(&mut sum.held);
            total.add(&sum.freed);
            sum.entries = 0;
            show(dimension, &total, &mut Entry::new(scrape, *subject, !live));
            live
        });
    }
}
