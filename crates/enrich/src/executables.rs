//! Executables within cgroups: the name of the cgroup's workload and, beside it, that of the executable.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use model::{Answer, Attributes, Executable, Executables as Source};

use crate::identity::Identities;

/// What is known of executables; where they are not told apart, nothing.
#[derive(Default)]
pub(crate) struct Executables {
    source: Option<Arc<dyn Source>>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    all: HashMap<u64, Entry>,
    sweep_at: usize,
}

struct Entry {
    executable: Executable,
    /// The workload's attributes, and the same with the executable's name.
    named: Option<(Arc<Attributes>, Arc<Attributes>)>,
}

impl Executables {
    pub(crate) fn new(source: Option<Arc<dyn Source>>) -> Self {
        Self { source, known: Mutex::default() }
    }

    /// Gives the cgroup of an executable. `alive` says whether a cgroup is still known: the executables of others go.
    pub(crate) fn cgroup(&self, id: u64, alive: impl Fn(u64) -> bool) -> Option<u64> {
        let source = self.source.as_ref()?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = known.all.get(&id) {
            return Some(entry.executable.cgroup);
        }
        let executable = source.find(id)?;
        if known.all.len() >= known.sweep_at {
            known.all.retain(|_, entry| alive(entry.executable.cgroup));
            known.sweep_at = (2 * known.all.len()).max(256);
        }
        let cgroup = executable.cgroup;
        known.all.insert(id, Entry { executable, named: None });
        Some(cgroup)
    }

    /// Adds the name of an executable to the answer for its cgroup.
    pub(crate) fn name(&self, id: u64, cgroup: Answer, identities: &Identities) -> Answer {
        match cgroup {
            Answer::Known(workload) => Answer::Known(self.within(id, workload, identities)),
            Answer::Unknown(workload, reason) => Answer::Unknown(self.within(id, workload, identities), reason),
            other => other,
        }
    }

    fn within(&self, id: u64, workload: Arc<Attributes>, identities: &Identities) -> Arc<Attributes> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(Entry { executable, named }) = known.all.get_mut(&id) else { return workload };
        match named {
            Some((of, set)) if Arc::ptr_eq(of, &workload) => Arc::clone(set),
            _ => {
                let set = identities.within(&workload, &executable.name);
                *named = Some((workload, Arc::clone(&set)));
                set
            }
        }
    }
}
