//! How cgroups get their names, and better ones when sources tell of their pod or container.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use model::Answer;

use super::{Cache, Entry, Journal};
use crate::identity::{Identities, Named};

impl Cache {
    /// Gives a nameless cgroup its path; leaves all others alone.
    pub(crate) fn adopt(&self, id: u64, path: &str, identities: &Identities) {
        self.christen(&mut self.journal(), id, path, identities);
    }

    /// Gives a nameless cgroup an answer without a path; leaves all others alone.
    pub(crate) fn give_up(&self, id: u64, named: Named) {
        let mut shard = self.write(id);
        if let Some(entry) = shard.get_mut(&id).filter(|entry| entry.is_nameless()) {
            entry.name(named);
            self.announce();
        }
    }

    /// Answers anew for the cgroups of pods and containers, by UID and id, of which there is news.
    pub(crate) fn renew<'k>(&self, keys: impl IntoIterator<Item = &'k str>, identities: &Identities) {
        let mut journal = self.journal();
        let cgroups: Vec<u64> = keys.into_iter().flat_map(|key| journal.members.of(key)).collect();
        let mut news = false;
        for id in cgroups {
            news |= self.rename(&mut journal, id, identities);
        }
        if news {
            self.announce();
        }
    }

    /// Answers anew for the cgroups of all pods and containers.
    pub(crate) fn renew_all(&self, identities: &Identities) {
        let keys: Vec<Box<str>> = self.journal().members.keys().map(Into::into).collect();
        self.renew(keys.iter().map(|key| &**key), identities);
    }

    pub(super) fn christen(&self, journal: &mut Journal, id: u64, path: &str, identities: &Identities) {
        if let Some(entry) = self.write(id).get_mut(&id).filter(|entry| entry.is_nameless()) {
            entry.path = Some(path.into());
        } else {
            return;
        }
        self.rename(journal, id, identities);
        self.announce();
    }

    /// Answers anew for a cgroup with a path, and for its pod's sandbox where that is now known; says whether an answer
    /// that was given before has changed.
    pub(super) fn rename(&self, journal: &mut Journal, id: u64, identities: &Identities) -> bool {
        let mut shard = self.write(id);
        let Some(entry) = shard.get_mut(&id) else { return false };
        let Some(path) = entry.path.clone() else { return false };
        let (answer, expected) = (entry.answer.clone(), entry.expected);
        let published = entry.name(identities.named(&path));
        let sandbox = journal.members.put(id, &path, published);
        if sandbox.contains(&id) {
            entry.is_sandbox();
        }
        let given = !matches!(answer, Answer::Pending);
        let mut news = given && (expected != entry.expected || !alike(&answer, &entry.answer));
        drop(shard);
        for id in sandbox.into_iter().filter(|&other| other != id) {
            news |= self.write(id).get_mut(&id).is_some_and(Entry::is_sandbox);
        }
        news
    }

    /// Tells that answers have changed.
    fn announce(&self) {
        self.generation.fetch_add(1, Relaxed);
        self.roster.fetch_add(1, Relaxed);
    }
}

impl Entry {
    /// Takes over names; says whether the container is published, where its pod is known.
    fn name(&mut self, named: Named) -> Option<bool> {
        let Named { answer, expected, published } = named;
        // Who had its names keeps them when a source has forgotten them: it is the same cgroup.
        if !matches!((&answer, &self.answer), (Answer::Unknown(..), Answer::Known(_))) {
            (self.answer, self.expected) = (answer, expected);
        }
        published
    }

    /// Of a pod's sandbox nothing but the pod's names will ever be known; says whether that is news.
    fn is_sandbox(&mut self) -> bool {
        let news = self.expected || matches!(self.answer, Answer::Unknown(..));
        if let Answer::Unknown(set, _) = &self.answer {
            self.answer = Answer::Known(Arc::clone(set));
        }
        self.expected = false;
        news
    }
}

/// Equal sets are shared, so comparing pointers is enough.
fn alike(a: &Answer, b: &Answer) -> bool {
    match (a, b) {
        (Answer::Known(a), Answer::Known(b)) => Arc::ptr_eq(a, b),
        (Answer::Unknown(a, x), Answer::Unknown(b, y)) => x == y && Arc::ptr_eq(a, b),
        (Answer::Pending, Answer::Pending) | (Answer::Excluded, Answer::Excluded) => true,
        _ => false,
    }
}
