//! What enrichment counts about itself.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Why a subject got no names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The cgroup is being looked for.
    Pending,
    /// No directory of the hierarchy has that id.
    NotFound,
    /// The cgroup was seen to be made, but it was gone before its name could be read.
    Unnamed,
}

impl Reason {
    /// All reasons, in the order of [`Stats::misses`].
    pub const ALL: [Self; 3] = [Self::Pending, Self::NotFound, Self::Unnamed];

    /// Gives the reason as an attribute value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::NotFound => "cgroup_not_found",
            Self::Unnamed => "cgroup_unnamed",
        }
    }
}

/// What enrichment has done so far and what it holds now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Subjects that were given their names.
    pub hits: u64,
    /// Subjects that a filter left out.
    pub excluded: u64,
    /// Subjects without names, by [`Reason::ALL`].
    pub misses: [u64; Reason::ALL.len()],
    /// Cgroups known now, removed ones included.
    pub entries: u64,
    /// Removed or missing cgroups among them.
    pub removed: u64,
    /// Removed cgroups that were forgotten.
    pub evictions: u64,
    /// Walks through the whole hierarchy.
    pub scans: u64,
    /// Walks that could not read some directory, so nothing was concluded from what they did not see.
    pub incomplete_scans: u64,
}

/// The counters behind [`Stats`].
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) hits: AtomicU64,
    pub(crate) excluded: AtomicU64,
    misses: [AtomicU64; Reason::ALL.len()],
    pub(crate) evictions: AtomicU64,
    pub(crate) scans: AtomicU64,
    pub(crate) incomplete_scans: AtomicU64,
}

impl Counters {
    pub(crate) fn miss(&self, reason: Reason) {
        add(&self.misses[reason as usize]);
    }

    pub(crate) fn snapshot(&self, entries: u64, removed: u64) -> Stats {
        Stats {
            hits: self.hits.load(Relaxed),
            excluded: self.excluded.load(Relaxed),
            misses: std::array::from_fn(|at| self.misses[at].load(Relaxed)),
            entries,
            removed,
            evictions: self.evictions.load(Relaxed),
            scans: self.scans.load(Relaxed),
            incomplete_scans: self.incomplete_scans.load(Relaxed),
        }
    }
}

pub(crate) fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}
