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
    /// No source knows the pod that the path names.
    PodUnknown,
    /// The pod is known, but no source has told which of its containers this is; or nobody knows the container.
    ContainerUnknown,
}

impl Reason {
    /// All reasons, in the order of [`Stats::misses`].
    pub const ALL: [Self; 5] = [Self::Pending, Self::NotFound, Self::Unnamed, Self::PodUnknown, Self::ContainerUnknown];

    /// Gives the reason as an attribute value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::NotFound => "cgroup_not_found",
            Self::Unnamed => "cgroup_unnamed",
            Self::PodUnknown => "pod_unknown",
            Self::ContainerUnknown => "container_unknown",
        }
    }
}

impl Reason {
    /// Gives the reason that an answer tells.
    pub(crate) fn of(text: &str) -> Self {
        Self::ALL.into_iter().find(|reason| reason.as_str() == text).unwrap_or(Self::NotFound)
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
    /// Pods that sources know now, those included that are gone but remembered.
    pub pods: u64,
    /// Containers that sources know now, likewise.
    pub containers: u64,
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

    /// Gives the counts so far.
    pub(crate) fn snapshot(&self) -> Stats {
        Stats {
            hits: self.hits.load(Relaxed),
            excluded: self.excluded.load(Relaxed),
            misses: std::array::from_fn(|at| self.misses[at].load(Relaxed)),
            evictions: self.evictions.load(Relaxed),
            scans: self.scans.load(Relaxed),
            incomplete_scans: self.incomplete_scans.load(Relaxed),
            ..Stats::default()
        }
    }
}

pub(crate) fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}
