//! All cgroups that are known, with their answers ready: a look-up takes one read lock and one hash.
//!
//! Every change is numbered, so that a walk through the file system, which takes a while, never undoes what was
//! reported after it began. What sources tell later of a pod or a container changes the answers of its cgroups.

mod names;
mod spread;

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::BuildHasherDefault;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use model::Answer;

use crate::Settings;
use crate::cgroup::Walk;
use crate::container::{self, Place};
use crate::identity::Identities;
use crate::members::Members;
use crate::stats::{Counters, Reason};
use spread::Spread;

const SHARDS: usize = 16;

/// How long a cgroup that no walk finds is waited for: the report of its making may still be on its way.
pub(crate) const GRACE: Duration = Duration::from_secs(1);

/// What is known of a cgroup's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    /// It exists.
    Alive,
    /// Somebody asked for it; the next walk will tell.
    Asked,
    /// It was removed, or no walk found it.
    Gone,
}

struct Entry {
    life: Life,
    /// Since when, that is at which report or walk.
    since: Instant,
    /// The number of the last change.
    changed: u64,
    path: Option<Box<str>>,
    answer: Answer,
    /// Whether a better answer is expected, and until when it is waited for.
    expected: bool,
    deadline: Instant,
}

/// What a look-up finds.
#[derive(Debug)]
pub(crate) enum Lookup {
    /// This is the answer.
    Found(Answer),
    /// A better one is expected; until then this is the best.
    Expected(Answer),
    /// The cgroup itself is looked for, since then.
    Sought(Instant),
}

/// A cgroup that exists.
pub(crate) struct Alive {
    pub(crate) id: u64,
    pub(crate) path: Box<str>,
    pub(crate) since: Instant,
    pub(crate) answer: Answer,
}

/// When what went, and by which change; the oldest stand first.
type Gone = (Instant, u64, u64);

/// What only writers need.
#[derive(Default)]
struct Journal {
    /// The number of the last change.
    number: u64,
    /// What is gone of pods and containers, and all else that is.
    gone: [VecDeque<Gone>; 2],
    /// How many entries are gone or asked for; `gone` may also hold some that came back.
    absent: usize,
    /// Nameless cgroups by the cgroup above them.
    orphans: HashMap<u64, Vec<u64>>,
    members: Members,
}

type Shard = HashMap<u64, Entry, BuildHasherDefault<Spread>>;

/// The table of all cgroups.
pub(crate) struct Cache {
    shards: [RwLock<Shard>; SHARDS],
    journal: Mutex<Journal>,
    generation: AtomicU64,
    /// Changes whenever the cgroups that exist, or their paths, do.
    roster: AtomicU64,
    /// How long names are waited for that a source is expected to give.
    patience: Duration,
    /// How long what is gone keeps its names, as in `Journal::gone`.
    retention: [Duration; 2],
    limit: usize,
}

impl Cache {
    pub(crate) fn new(settings: &Settings) -> Self {
        Self {
            shards: Default::default(),
            journal: Mutex::default(),
            generation: AtomicU64::new(1),
            roster: AtomicU64::new(1),
            patience: settings.patience,
            retention: [settings.retention, settings.brief_retention],
            limit: settings.removed_limit,
        }
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Relaxed)
    }

    pub(crate) fn roster(&self) -> u64 {
        self.roster.load(Relaxed)
    }

    /// Gives all cgroups that exist and have a path.
    pub(crate) fn alive(&self) -> Vec<Alive> {
        let mut all = Vec::new();
        for shard in &self.shards {
            let shard = shard.read().unwrap_or_else(PoisonError::into_inner);
            let alive = shard.iter().filter(|(_, entry)| entry.life == Life::Alive);
            all.extend(alive.filter_map(|(&id, entry)| {
                let (path, answer) = (entry.path.clone()?, entry.answer.clone());
                Some(Alive { id, path, since: entry.since, answer })
            }));
        }
        all
    }

    /// Gives the paths of all cgroups that exist, or did a while ago, and whether they still do.
    pub(crate) fn lately(&self, while_ago: Duration) -> Vec<(Box<str>, bool)> {
        let mut all = Vec::new();
        for shard in &self.shards {
            let shard = shard.read().unwrap_or_else(PoisonError::into_inner);
            let seen = shard.values().filter(|entry| match entry.life {
                Life::Alive => true,
                Life::Gone => entry.since.elapsed() < while_ago,
                Life::Asked => false,
            });
            all.extend(seen.filter_map(|entry| Some((entry.path.clone()?, entry.life == Life::Alive))));
        }
        all
    }

    /// Gives what is known of a cgroup's names, or nothing when it is not known at all.
    pub(crate) fn look_up(&self, id: u64) -> Option<Lookup> {
        self.read(id).get(&id).map(|entry| match &entry.answer {
            Answer::Pending => Lookup::Sought(entry.since),
            answer if entry.expected && Instant::now() < entry.deadline => Lookup::Expected(answer.clone()),
            answer => Lookup::Found(answer.clone()),
        })
    }

    /// Gives the life of a cgroup and since when it is so.
    pub(crate) fn life(&self, id: u64) -> Option<(Life, Instant)> {
        self.read(id).get(&id).map(|entry| (entry.life, entry.since))
    }

    /// Gives the path of a cgroup, if it is known.
    pub(crate) fn path(&self, id: u64) -> Option<Box<str>> {
        self.read(id).get(&id).and_then(|entry| entry.path.clone())
    }

    /// Notes that somebody wants to know a cgroup. Says no when too many are being looked for already.
    pub(crate) fn ask(&self, id: u64, now: Instant) -> bool {
        let mut journal = self.journal();
        let mut shard = self.write(id);
        if shard.contains_key(&id) {
            return true;
        }
        if journal.absent >= self.limit.saturating_mul(2) {
            return false;
        }
        journal.absent += 1;
        let changed = journal.next();
        shard.insert(id, self.nameless(Life::Asked, now, changed, Answer::Pending));
        true
    }

    /// Notes a new cgroup with its path.
    pub(crate) fn made(&self, id: u64, path: &str, identities: &Identities, now: Instant) {
        let mut journal = self.journal();
        self.put(&mut journal, id, path, identities, now);
    }

    /// Notes a new cgroup whose path has yet to be found.
    pub(crate) fn made_nameless(&self, id: u64, parent: u64, now: Instant) {
        let mut journal = self.journal();
        let mut shard = self.write(id);
        let before = shard.get(&id);
        if before.is_some_and(|entry| entry.life == Life::Alive) {
            return;
        }
        if before.is_some() {
            journal.absent = journal.absent.saturating_sub(1);
            self.generation.fetch_add(1, Relaxed);
        }
        let changed = journal.next();
        shard.insert(id, self.nameless(Life::Alive, now, changed, Answer::Pending));
        journal.orphans.entry(parent).or_default().push(id);
    }

    /// Notes that a cgroup was removed: it keeps its names for a while.
    pub(crate) fn removed(&self, id: u64, identities: &Identities, now: Instant) {
        let mut journal = self.journal();
        let mut shard = self.write(id);
        let changed = journal.next();
        match shard.get_mut(&id) {
            Some(entry) if entry.life == Life::Gone => {}
            Some(entry) => {
                if entry.life == Life::Asked {
                    entry.answer = identities.unknown(id, Reason::Unnamed);
                    self.generation.fetch_add(1, Relaxed);
                } else {
                    journal.absent += 1;
                }
                (entry.life, entry.since, entry.changed) = (Life::Gone, now, changed);
                journal.bury(entry, id);
                self.roster.fetch_add(1, Relaxed);
            }
            None => {
                let entry = self.nameless(Life::Gone, now, changed, identities.unknown(id, Reason::Unnamed));
                journal.bury(&entry, id);
                shard.insert(id, entry);
                journal.absent += 1;
            }
        }
    }

    /// Forgets what is gone for too long or beyond the limit.
    pub(crate) fn evict(&self, counters: &Counters, now: Instant) {
        self.forget(Duration::MAX, counters, now);
    }

    /// Forgets what is gone for longer than that, for too long, or beyond the limit.
    pub(crate) fn forget(&self, longest: Duration, counters: &Counters, now: Instant) {
        let mut journal = self.journal();
        while let Some((id, changed)) = journal.exhume(|of, since, all| {
            all > self.limit || now.saturating_duration_since(since) >= self.retention[of].min(longest)
        }) {
            let mut shard = self.write(id);
            if shard.get(&id).is_some_and(|entry| entry.changed == changed) {
                if let Some(path) = shard.remove(&id).and_then(|entry| entry.path) {
                    journal.members.remove(id, &path);
                }
                journal.absent = journal.absent.saturating_sub(1);
                counters.evictions.fetch_add(1, Relaxed);
            }
        }
    }

    /// Gives the number of the last change, for [`Cache::compare`] after a walk that begins now.
    pub(crate) fn mark(&self) -> u64 {
        self.journal().number
    }

    /// Takes over what a walk found. What a complete walk did not find is gone, unless it was reported since `mark`.
    /// Gives when to walk again for the sake of cgroups that were asked for just now and not found.
    pub(crate) fn compare(&self, walk: &Walk, mark: u64, identities: &Identities, now: Instant) -> Option<Instant> {
        for (id, path) in &walk.found {
            let mut journal = self.journal();
            let before = self.read(*id).get(id).map(|entry| (entry.life, entry.changed > mark, entry.path.is_some()));
            match before {
                Some((Life::Gone, true, false)) => self.christen(&mut journal, *id, path, identities),
                Some((_, true, true)) => {}
                _ => self.put(&mut journal, *id, path, identities, now),
            }
        }
        if walk.complete { self.bury(walk, mark, identities, now) } else { None }
    }

    /// Takes the nameless cgroups, by the cgroup above them.
    pub(crate) fn take_orphans(&self) -> HashMap<u64, Vec<u64>> {
        std::mem::take(&mut self.journal().orphans)
    }

    /// Gives the number of entries, and of those that are gone or asked for.
    pub(crate) fn len(&self) -> (usize, usize) {
        let absent = self.journal().absent;
        (self.shards.iter().map(|shard| shard.read().unwrap_or_else(PoisonError::into_inner).len()).sum(), absent)
    }

    fn put(&self, journal: &mut Journal, id: u64, path: &str, identities: &Identities, now: Instant) {
        let changed = journal.next();
        let mut shard = self.write(id);
        if let Some(entry) = shard.get_mut(&id) {
            if entry.life == Life::Alive && entry.path.as_deref() == Some(path) {
                entry.changed = changed;
                return;
            }
            if entry.life != Life::Alive {
                journal.absent = journal.absent.saturating_sub(1);
            }
            self.generation.fetch_add(1, Relaxed);
        }
        let mut entry = self.nameless(Life::Alive, now, changed, Answer::Pending);
        entry.path = Some(path.into());
        if let Some(path) = shard.insert(id, entry).and_then(|before| before.path) {
            journal.members.remove(id, &path);
        }
        drop(shard);
        if self.rename(journal, id, identities) {
            self.generation.fetch_add(1, Relaxed);
        }
        self.roster.fetch_add(1, Relaxed);
    }

    fn bury(&self, walk: &Walk, mark: u64, identities: &Identities, now: Instant) -> Option<Instant> {
        let found: HashSet<u64, BuildHasherDefault<Spread>> = walk.found.iter().map(|(id, _)| *id).collect();
        let mut again: Option<Instant> = None;
        for shard in &self.shards {
            let mut journal = self.journal();
            let mut shard = shard.write().unwrap_or_else(PoisonError::into_inner);
            for (&id, entry) in shard.iter_mut() {
                if found.contains(&id) || entry.life == Life::Gone {
                    continue;
                }
                if entry.life == Life::Asked {
                    let patience = entry.since + GRACE;
                    if entry.changed > mark || now < patience {
                        again = Some(again.map_or(patience, |again| again.min(patience)));
                        continue;
                    }
                    entry.answer = identities.unknown(id, Reason::NotFound);
                    self.generation.fetch_add(1, Relaxed);
                } else if entry.changed > mark {
                    continue;
                } else {
                    journal.absent += 1;
                }
                (entry.life, entry.since, entry.changed) = (Life::Gone, now, journal.next());
                journal.bury(entry, id);
                self.roster.fetch_add(1, Relaxed);
            }
        }
        again
    }

    fn nameless(&self, life: Life, since: Instant, changed: u64, answer: Answer) -> Entry {
        Entry { life, since, changed, path: None, answer, expected: false, deadline: since + self.patience }
    }

    fn journal(&self) -> MutexGuard<'_, Journal> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self, id: u64) -> RwLockReadGuard<'_, Shard> {
        self.shards[id as usize % SHARDS].read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, id: u64) -> RwLockWriteGuard<'_, Shard> {
        self.shards[id as usize % SHARDS].write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn is_nameless(&self) -> bool {
        self.path.is_none() && self.life != Life::Asked
    }
}

impl Journal {
    fn next(&mut self) -> u64 {
        self.number += 1;
        self.number
    }

    /// Notes that a cgroup is gone.
    fn bury(&mut self, entry: &Entry, id: u64) {
        let place = entry.path.as_deref().map(container::locate).unwrap_or_default();
        let of = usize::from(place == Place::default());
        self.gone[of].push_back((entry.since, id, entry.changed));
    }

    /// Takes the oldest of what is gone of one kind that is due. `is_due` is told the kind, since when, and how many are gone.
    fn exhume(&mut self, is_due: impl Fn(usize, Instant, usize) -> bool) -> Option<(u64, u64)> {
        let all = self.gone.iter().map(VecDeque::len).sum();
        let oldest = self.gone.iter().enumerate().filter_map(|(of, gone)| Some((gone.front()?.0, of)));
        let (_, of) = oldest.filter(|&(since, of)| is_due(of, since, all)).min()?;
        self.gone[of].pop_front().map(|(_, id, changed)| (id, changed))
    }
}

#[cfg(test)]
mod tests;
