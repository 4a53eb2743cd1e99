//! Whose the cgroups of the I/O controller are, where its hierarchy is not the primary one: those of the same path.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bpf::probe::Cgroups;
use model::{Census, CgroupChange, Subject};
use serde::{Deserialize, Serialize};

/// The most directories that one walk looks at.
const LIMIT: usize = 1 << 20;
/// How long a removed cgroup is remembered: longer than any of its entries stay in the kernel.
const MEMORY: Duration = Duration::from_hours(1);

/// Turns ids of the I/O controller's hierarchy into subjects, and knows which of its cgroups exist.
pub(super) struct Owners {
    census: Arc<dyn Census>,
    /// Where both hierarchies are mounted; nothing where they are one.
    mounts: Option<Mounts>,
    state: Mutex<State>,
}

struct Mounts {
    io: PathBuf,
    primary: PathBuf,
}

#[derive(Default)]
struct State {
    known: HashMap<u64, Owner>,
    /// The present round has looked through the hierarchy.
    walked: bool,
}

struct Owner {
    subject: Subject,
    /// From the hierarchy's root.
    path: PathBuf,
    removed: Option<Instant>,
}

/// An owner as the next agent gets it.
#[derive(Serialize, Deserialize)]
pub(super) struct Known {
    id: u64,
    /// The cgroup of the primary hierarchy; the kernel where there is none.
    cgroup: Option<u64>,
    path: PathBuf,
    removed: bool,
}

impl Owners {
    /// Begins without any, or says why ids cannot be turned into subjects.
    pub fn new(cgroups: &Cgroups, census: Arc<dyn Census>) -> Result<Self, &'static str> {
        let mounts = match (&cgroups.io, &cgroups.mount) {
            (io, primary) if io == primary => None,
            _ if !cgroups.whole => {
                return Err("only a part of the cgroup hierarchies is to be seen, so that nobody owns block I/O; \
                            mount the host's and name it in host.cgroup");
            }
            (Some(io), Some(primary)) => Some(Mounts { io: io.clone(), primary: primary.clone() }),
            _ => return Err("the hierarchy of the I/O controller is not mounted, so that nobody owns block I/O"),
        };
        Ok(Self { census, mounts, state: Mutex::default() })
    }

    /// Takes over whom the agent before knew: whose they are cannot be told of those that are gone.
    pub fn remember(&self, known: Vec<Known>) {
        self.state().known = known
            .into_iter()
            .map(|Known { id, cgroup, path, removed }| {
                let subject = cgroup.map_or(Subject::Kernel, Subject::Cgroup);
                (id, Owner { subject, path, removed: removed.then(Instant::now) })
            })
            .collect();
    }

    /// Gives all that are known, for the next agent.
    pub fn known(&self) -> Vec<Known> {
        let known = |(&id, Owner { subject, path, removed }): (&u64, &Owner)| {
            let cgroup = if let Subject::Cgroup(id) = subject { Some(*id) } else { None };
            Known { id, cgroup, path: path.clone(), removed: removed.is_some() }
        };
        self.state().known.iter().map(known).collect()
    }

    /// Begins a round, in which the hierarchy is looked through once at most.
    pub fn begin(&self) {
        let mut state = self.state();
        state.walked = false;
        state.known.retain(|_, owner| owner.removed.is_none_or(|since| since.elapsed() < MEMORY));
    }

    /// Says whose a cgroup is; 0 is nobody's. One that was gone before it was looked for is nobody's either.
    pub fn subject(&self, id: u64) -> Subject {
        if id == 0 {
            return Subject::Kernel;
        }
        let Some(mounts) = &self.mounts else { return Subject::Cgroup(id) };
        let mut state = self.state();
        if !state.known.contains_key(&id) && !state.walked {
            state.walked = true;
            mounts.walk(|id, path| {
                let subject = || Owner { subject: mounts.owner(path), path: path.to_owned(), removed: None };
                state.known.entry(id).or_insert_with(subject);
            });
        }
        let unknown = || Owner { subject: Subject::Kernel, path: PathBuf::new(), removed: Some(Instant::now()) };
        state.known.entry(id).or_insert_with(unknown).subject
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Mounts {
    /// Shows every cgroup of the I/O controller's hierarchy but the root: its id and path.
    fn walk(&self, mut show: impl FnMut(u64, &Path)) {
        let mut left = vec![PathBuf::new()];
        for _ in 0..LIMIT {
            let Some(path) = left.pop() else { return };
            // What vanishes meanwhile is left out.
            let Ok(entries) = fs::read_dir(self.io.join(&path)) else { continue };
            for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
                let path = path.join(entry.file_name());
                show(entry.ino(), &path);
                left.push(path);
            }
        }
    }

    /// Gives the cgroup of the primary hierarchy that has the same path, or is the closest above it.
    fn owner(&self, path: &Path) -> Subject {
        let id = |path: &Path| fs::metadata(self.primary.join(path)).ok().map(|directory| directory.ino());
        path.ancestors().find_map(id).map_or(Subject::Kernel, Subject::Cgroup)
    }

    /// Says whether a cgroup of the I/O controller's hierarchy exists.
    fn exists(&self, id: u64, path: &Path) -> bool {
        fs::metadata(self.io.join(path)).is_ok_and(|directory| directory.ino() == id)
    }
}

impl Census for Owners {
    fn changed(&self, _: CgroupChange) {}

    fn removed_for(&self, id: u64) -> Option<Duration> {
        let Some(mounts) = &self.mounts else { return self.census.removed_for(id) };
        let mut state = self.state();
        let owner = state.known.get_mut(&id)?;
        if owner.removed.is_none() && !mounts.exists(id, &owner.path) {
            owner.removed = Some(Instant::now());
        }
        owner.removed.map(|since| since.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use model::Nobody;

    use super::*;

    #[test]
    fn paths_join_two_hierarchies() {
        let base = std::env::temp_dir().join(format!("telesonde-owners-{}", std::process::id()));
        let (io, primary) = (base.join("io"), base.join("memory"));
        for directory in [io.join("a/b"), io.join("c"), primary.join("a")] {
            fs::create_dir_all(directory).unwrap();
        }
        let id = |path: &Path| fs::metadata(path).unwrap().ino();
        let mounts = Mounts { io: io.clone(), primary: primary.clone() };
        let owners = Owners { census: Arc::new(Nobody), mounts: Some(mounts), state: Mutex::default() };
        let (a, below, other) = (id(&io.join("a")), id(&io.join("a/b")), id(&io.join("c")));
        assert_eq!(owners.subject(a), Subject::Cgroup(id(&primary.join("a"))));
        assert_eq!(owners.subject(below), Subject::Cgroup(id(&primary.join("a"))), "the closest above");
        assert_eq!(owners.subject(other), Subject::Cgroup(id(&primary)));
        assert_eq!((owners.subject(0), owners.subject(u64::MAX)), (Subject::Kernel, Subject::Kernel));
        assert_eq!(owners.removed_for(other), None);
        fs::remove_dir(io.join("c")).unwrap();
        assert!(owners.removed_for(other).is_some() && owners.removed_for(u64::MAX).is_some());
        owners.begin();
        assert_eq!(owners.subject(other), Subject::Cgroup(id(&primary)), "it stays whose it was");
        fs::remove_dir_all(base).unwrap();
    }
}
