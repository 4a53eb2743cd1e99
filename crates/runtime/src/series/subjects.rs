//! The workloads of the subjects that have readings, asked again whenever an answer may have changed.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::{Arc, Weak};

use foldhash::fast::RandomState;
use hashbrown::HashTable;
use model::{Answer, Attributes, Resolver, Subject};

/// Where a subject's readings go.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Owner {
    Workload(Arc<Attributes>),
    Waiting,
    Excluded,
    Overflow,
}

#[derive(Debug)]
pub(super) struct Known {
    subject: Subject,
    pub owner: Owner,
    /// Grows when the owner changes, so that cells notice.
    pub version: u32,
    pub cells: u32,
}

#[derive(Debug, Default)]
pub(super) struct Subjects {
    all: Vec<Known>,
    index: HashMap<Subject, u32>,
    entities: Entities,
    generation: u64,
}

impl Subjects {
    pub fn get(&self, at: u32) -> &Known {
        &self.all[at as usize]
    }

    pub fn get_mut(&mut self, at: u32) -> &mut Known {
        &mut self.all[at as usize]
    }

    /// Finds a subject, asking the resolver the first time.
    pub fn find(&mut self, subject: Subject, resolver: &dyn Resolver) -> u32 {
        if let Some(&at) = self.index.get(&subject) {
            return at;
        }
        let owner = self.ask(subject, resolver);
        let at = self.all.len() as u32;
        self.all.push(Known { subject, owner, version: 0, cells: 0 });
        self.index.insert(subject, at);
        at
    }

    /// Asks again about every subject when the resolver has news, and about those that wait in any case.
    pub fn refresh(&mut self, resolver: &dyn Resolver) {
        let generation = resolver.generation();
        let news = generation != self.generation;
        self.generation = generation;
        for at in 0..self.all.len() {
            // What the kernel could not tell apart is nobody's, whatever the resolver knows.
            let fixed = self.all[at].owner == Owner::Overflow;
            if !fixed && (news || self.all[at].owner == Owner::Waiting) {
                let answer = resolver.resolve(self.all[at].subject);
                // A workload that is known stays known, even when the resolver has forgotten it: a removed cgroup
                // keeps its names for what arrives late.
                if matches!((&answer, &self.all[at].owner), (Answer::Unknown(..), Owner::Workload(_))) {
                    continue;
                }
                let owner = self.owner(answer);
                if owner != Owner::Waiting && owner != self.all[at].owner {
                    self.all[at].owner = owner;
                    self.all[at].version += 1;
                }
            }
        }
    }

    /// Forgets subjects that no cell refers to once they are more than twice as many as those in use.
    /// Gives the new place of each old one.
    pub fn compact(&mut self) -> Option<Vec<Option<u32>>> {
        let used = self.all.iter().filter(|known| known.cells > 0).count();
        if self.all.len() < 256 || self.all.len() < used * 2 {
            return None;
        }
        let mut places = vec![None; self.all.len()];
        let mut kept = Vec::with_capacity(used);
        self.index.clear();
        for (old, known) in self.all.drain(..).enumerate() {
            if known.cells > 0 {
                let new = kept.len() as u32;
                places[old] = Some(new);
                self.index.insert(known.subject, new);
                kept.push(known);
            }
        }
        self.all = kept;
        Some(places)
    }

    fn ask(&mut self, subject: Subject, resolver: &dyn Resolver) -> Owner {
        if subject == Subject::Overflow {
            return Owner::Overflow;
        }
        self.owner(resolver.resolve(subject))
    }

    fn owner(&mut self, answer: Answer) -> Owner {
        match answer {
            Answer::Known(attributes) | Answer::Unknown(attributes, _) => Owner::Workload(self.intern(attributes)),
            Answer::Pending => Owner::Waiting,
            Answer::Excluded => Owner::Excluded,
        }
    }

    /// Gives the one set that has these attributes.
    pub fn intern(&mut self, attributes: Arc<Attributes>) -> Arc<Attributes> {
        self.entities.intern(attributes)
    }
}

/// The sets in use, with their hashes. It keeps none alive: the resolver has such a table, too, and of two that each keep
/// what the other does neither would ever forget.
#[derive(Debug, Default)]
struct Entities {
    all: HashTable<(u64, Weak<Attributes>)>,
    hasher: RandomState,
    sweep_at: usize,
}

impl Entities {
    fn intern(&mut self, attributes: Arc<Attributes>) -> Arc<Attributes> {
        let hash = self.hasher.hash_one(&attributes);
        let is_same = |(_, known): &(u64, Weak<Attributes>)| known.upgrade().is_some_and(|known| known == attributes);
        if let Some(known) = self.all.find(hash, is_same).and_then(|(_, known)| known.upgrade()) {
            return known;
        }
        if self.all.len() >= self.sweep_at {
            self.all.retain(|(_, known)| known.strong_count() > 0);
            self.sweep_at = (2 * self.all.len()).max(256);
        }
        self.all.insert_unique(hash, (hash, Arc::downgrade(&attributes)), |(hash, _)| *hash);
        attributes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> Arc<Attributes> {
        Arc::new(Attributes::new([("name".into(), name.to_owned().into())]))
    }

    #[test]
    fn equal_sets_are_one_as_long_as_anybody_has_it() {
        let mut entities = Entities::default();
        let one = entities.intern(named("one"));
        assert!(Arc::ptr_eq(&one, &entities.intern(named("one"))));
        assert_eq!(Arc::strong_count(&one), 1, "the table keeps none alive");
        let forgotten = Arc::downgrade(&one);
        drop(one);
        assert!(forgotten.upgrade().is_none());
        let lasting = entities.intern(named("one"));
        for number in 0..10_000 {
            entities.intern(named(&number.to_string()));
        }
        assert!(entities.all.len() <= 256, "{} of one in use", entities.all.len());
        assert!(Arc::ptr_eq(&lasting, &entities.intern(named("one"))));
    }
}
