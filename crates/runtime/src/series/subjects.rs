//! The workloads of the subjects that have readings, asked again whenever an answer may have changed.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

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
    entities: HashSet<Arc<Attributes>>,
    generation: u64,
    /// What the agent before knew.
    remembered: HashMap<Subject, Arc<Attributes>>,
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
        self.entities.retain(|entity| Arc::strong_count(entity) > 1);
        Some(places)
    }

    fn ask(&mut self, subject: Subject, resolver: &dyn Resolver) -> Owner {
        if subject == Subject::Overflow {
            return Owner::Overflow;
        }
        match (resolver.resolve(subject), self.remembered.get(&subject)) {
            // It may have ended before anybody here could ask.
            (Answer::Unknown(..) | Answer::Pending, Some(known)) => Owner::Workload(Arc::clone(known)),
            (answer, _) => self.owner(answer),
        }
    }

    /// Says whose a subject was in the time of the agent before, where the resolver does not know.
    pub fn remember(&mut self, subject: Subject, entity: Arc<Attributes>) {
        let entity = self.intern(entity);
        self.remembered.insert(subject, entity);
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
        if let Some(known) = self.entities.get(&attributes) {
            return Arc::clone(known);
        }
        self.entities.insert(Arc::clone(&attributes));
        attributes
    }
}
