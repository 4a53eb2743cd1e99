//! The resolver and census: hears of changes, looks at the file system in the background, answers from memory.

mod sources;

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use model::{Answer, Attributes, Census, CgroupChange, Resolver, Root, Rule, Subject};
pub use sources::Seen;
use tracing::{debug, warn};

use crate::cache::{Cache, Life, Lookup};
use crate::executables::Executables;
use crate::identity::{Identities, Named};
use crate::peers::Whereabouts;
use crate::roots;
use crate::source::Sources;
use crate::stats::{Counters, Reason, add};
use crate::{Error, Hierarchy, Settings, Stats};

/// How long a cgroup may be looked for before it counts as unknown.
const PATIENCE: Duration = Duration::from_secs(2);

/// The least time between the end of one walk and the beginning of the next.
const PAUSE: Duration = Duration::from_millis(100);

/// How long removed cgroups keep their names when memory is scarce: longer than their entries stay in kernel maps.
const RELIEVED: Duration = Duration::from_mins(1);

/// Names the workloads of one cgroup hierarchy.
///
/// Dropping it ends its background thread.
pub struct Workloads {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    hierarchy: Hierarchy,
    identities: Identities,
    executables: Executables,
    cache: Cache,
    counters: Counters,
    sources: Sources,
    rescan: Duration,
    wanted: Mutex<Wanted>,
    wake: Condvar,
    stop: AtomicBool,
}

/// What the background thread shall do next; many wishes are one.
#[derive(Clone, Copy, Default)]
struct Wanted {
    walk: bool,
    orphans: bool,
}

impl Workloads {
    /// Reads the hierarchy once and then keeps what it knows current in the background.
    ///
    /// # Errors
    /// Fails when the hierarchy's mount point cannot be read or no thread can be started.
    pub fn start(hierarchy: Hierarchy, settings: &Settings) -> Result<Self, Error> {
        let shared = Arc::new(Shared {
            identities: Identities::new(settings),
            executables: Executables::new(settings.executables.clone()),
            cache: Cache::new(settings),
            counters: Counters::default(),
            sources: Sources::default(),
            rescan: settings.rescan,
            wanted: Mutex::default(),
            wake: Condvar::new(),
            stop: AtomicBool::new(false),
            hierarchy,
        });
        let again =
            shared.walk().map_err(|source| Error::Unreadable { path: shared.hierarchy.mount.clone(), source })?;
        let worker = Arc::clone(&shared);
        let thread = thread::Builder::new().name("enrich-cgroups".into());
        let thread = thread.spawn(move || worker.work(again)).map_err(|source| Error::Thread { source })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Gives what has been counted so far.
    pub fn stats(&self) -> Stats {
        let (entries, removed) = self.shared.cache.len();
        let (pods, containers) = self.shared.identities.directory.len();
        let (entries, removed, pods, containers) = (entries as u64, removed as u64, pods as u64, containers as u64);
        Stats { entries, removed, pods, containers, ..self.shared.counters.snapshot() }
    }

    /// Forgets the names of cgroups that were removed a while ago, for want of memory.
    pub fn relieve(&self) {
        self.shared.cache.forget(RELIEVED, &self.shared.counters, Instant::now());
    }

    /// Gives the path of a cgroup from the hierarchy's root, if it is known.
    pub fn path(&self, cgroup: u64) -> Option<Box<str>> {
        self.shared.cache.path(cgroup)
    }
}

impl Drop for Workloads {
    fn drop(&mut self) {
        self.shared.stop.store(true, Relaxed);
        self.shared.want(Wanted::default());
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been reported by its own hook already.
            let _ = thread.join();
        }
    }
}

impl Resolver for Workloads {
    fn generation(&self) -> u64 {
        self.shared.cache.generation()
    }

    fn resolve(&self, subject: Subject) -> Answer {
        self.answer(subject, true)
    }

    fn resolve_now(&self, subject: Subject) -> Answer {
        self.answer(subject, false)
    }
}

impl Workloads {
    fn answer(&self, subject: Subject, wait: bool) -> Answer {
        let identities = &self.shared.identities;
        let answer = match subject {
            // A pair is two: `Pairs` asks for each.
            Subject::Node | Subject::Pair { .. } | Subject::Facing { .. } => {
                Answer::Known(Arc::clone(&identities.empty))
            }
            Subject::Kernel => Answer::Known(Arc::clone(&identities.kernel)),
            Subject::Overflow => Answer::Known(Arc::clone(&identities.overflow)),
            Subject::Cgroup(_) if !identities.tells_apart() => Answer::Known(Arc::clone(&identities.empty)),
            Subject::Cgroup(id) => self.shared.cgroup(id, wait),
            Subject::Executable(id) => self.shared.executable(id, wait),
        };
        let counters = &self.shared.counters;
        match answer {
            Answer::Known(_) => add(&counters.hits),
            Answer::Excluded => add(&counters.excluded),
            Answer::Pending => counters.miss(Reason::Pending),
            Answer::Unknown(_, reason) => counters.miss(Reason::of(reason)),
        }
        answer
    }
}

impl crate::peers::Addresses for Workloads {
    fn generation(&self) -> u64 {
        self.shared.identities.directory.addresses()
    }

    fn owner(&self, address: IpAddr, _: u16) -> Option<Arc<Attributes>> {
        self.shared.identities.owner(address)
    }

    fn whereabouts(&self, address: IpAddr) -> Option<Whereabouts> {
        self.shared.identities.directory.is_here(address).then_some(Whereabouts::Here)
    }
}

impl Census for Workloads {
    fn changed(&self, change: CgroupChange) {
        let Shared { cache, identities, counters, .. } = &*self.shared;
        let now = Instant::now();
        match change {
            CgroupChange::Made { id, path: Some(path), .. } => cache.made(id, &path, identities, now),
            CgroupChange::Made { id, parent, path: None } => {
                cache.made_nameless(id, parent, now);
                self.shared.want(Wanted { orphans: true, walk: false });
            }
            CgroupChange::Removed { id } => {
                cache.removed(id, identities, now);
                cache.evict(counters, now);
            }
            CgroupChange::Lost => self.shared.want(Wanted { walk: true, orphans: false }),
        }
    }

    fn removed_for(&self, owner: u64) -> Option<Duration> {
        let cgroup = self.shared.cgroup_of(owner).unwrap_or(owner);
        match self.shared.cache.life(cgroup) {
            Some((Life::Gone, since)) => Some(since.elapsed()),
            Some(_) => None,
            None => {
                self.shared.ask(cgroup);
                None
            }
        }
    }

    fn roots(&self, known: u64) -> Option<(u64, Vec<Root>)> {
        let cache = &self.shared.cache;
        let number = cache.roster();
        (self.shared.hierarchy.whole && number != known).then(|| (number, roots::roots(cache.alive())))
    }

    fn rules(&self, known: u64) -> Option<(u64, Vec<(u64, Rule)>)> {
        let Shared { cache, identities, .. } = &*self.shared;
        let number = cache.roster();
        let rules = || cache.alive().into_iter().map(|one| (one.id, identities.rule(&one.path))).collect();
        (identities.filters() && number != known).then(|| (number, rules()))
    }

    fn rule(&self, cgroup: u64) -> Option<Rule> {
        let Shared { cache, identities, .. } = &*self.shared;
        if identities.filters() { cache.path(cgroup).map(|path| identities.rule(&path)) } else { None }
    }
}

impl Shared {
    fn cgroup(&self, id: u64, wait: bool) -> Answer {
        match self.cache.look_up(id) {
            Some(Lookup::Found(answer)) => answer,
            Some(Lookup::Expected(answer)) => {
                if wait {
                    Answer::Pending
                } else {
                    answer
                }
            }
            Some(Lookup::Sought(since)) if wait && since.elapsed() <= PATIENCE => Answer::Pending,
            None if self.ask(id) && wait => Answer::Pending,
            Some(Lookup::Sought(_)) | None => self.identities.unknown(id, Reason::NotFound),
        }
    }

    fn executable(&self, id: u64, wait: bool) -> Answer {
        match self.cgroup_of(id) {
            Some(cgroup) => self.executables.name(id, self.cgroup(cgroup, wait), &self.identities),
            None => self.identities.unknown(id, Reason::NotFound),
        }
    }

    /// Gives the cgroup of an executable; nothing where the id is a cgroup's own.
    fn cgroup_of(&self, owner: u64) -> Option<u64> {
        self.executables.cgroup(owner, |cgroup| self.cache.life(cgroup).is_some())
    }

    fn ask(&self, id: u64) -> bool {
        let room = self.cache.ask(id, Instant::now());
        if room {
            self.want(Wanted { walk: true, orphans: false });
        }
        room
    }

    fn want(&self, more: Wanted) {
        let mut wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        wanted.walk |= more.walk;
        wanted.orphans |= more.orphans;
        drop(wanted);
        self.wake.notify_one();
    }

    /// Does what is wanted until it is told to stop; `again` is when the next walk is due at the latest.
    fn work(&self, mut again: Instant) {
        let mut walked = Instant::now();
        while let Some(wanted) = self.wait(walked, again) {
            if wanted.walk {
                again = self.walk().unwrap_or_else(|error| {
                    add(&self.counters.incomplete_scans);
                    warn!(mount = %self.hierarchy.mount.display(), %error, "cannot read the cgroup hierarchy");
                    Instant::now() + self.rescan
                });
                walked = Instant::now();
            }
            self.name_orphans();
            self.cache.evict(&self.counters, Instant::now());
        }
    }

    /// Waits until there is something to do; nothing means stop.
    fn wait(&self, walked: Instant, again: Instant) -> Option<Wanted> {
        let mut wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if self.stop.load(Relaxed) {
                return None;
            }
            let now = Instant::now();
            let due = if wanted.walk { again.min(walked + PAUSE) } else { again }.max(walked + PAUSE);
            let walk = now >= due;
            if walk || wanted.orphans {
                let next = Wanted { walk, orphans: wanted.orphans };
                *wanted = Wanted { walk: wanted.walk && !walk, orphans: false };
                return Some(next);
            }
            wanted = self.wake.wait_timeout(wanted, due - now).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Compares the file system with the cache; gives when to do so again at the latest.
    fn walk(&self) -> std::io::Result<Instant> {
        let mark = self.cache.mark();
        let walk = self.hierarchy.walk(|| !self.stop.load(Relaxed))?;
        add(&self.counters.scans);
        if !walk.complete {
            add(&self.counters.incomplete_scans);
        }
        debug!(cgroups = walk.found.len(), complete = walk.complete, "looked through the cgroup hierarchy");
        let now = Instant::now();
        let again = self.cache.compare(&walk, mark, &self.identities, now);
        Ok(again.unwrap_or(now + self.rescan).min(now + self.rescan))
    }

    /// Finds the names of cgroups that were reported without one, each directory above them read once.
    fn name_orphans(&self) {
        for (parent, ids) in self.cache.take_orphans() {
            let Some(above) = self.cache.path(parent) else {
                for id in ids {
                    self.cache.give_up(id, Named::for_good(self.identities.unknown(id, Reason::Unnamed)));
                }
                // The walk finds those that still exist, wherever they are.
                self.want(Wanted { walk: true, orphans: false });
                continue;
            };
            let children = self.hierarchy.children(&above).unwrap_or_default();
            for id in ids {
                match children.iter().find(|(child, _)| *child == id) {
                    Some((_, name)) => {
                        let path = format!("{}/{name}", above.trim_end_matches('/'));
                        self.cache.adopt(id, &path, &self.identities);
                    }
                    None => self.cache.give_up(id, self.identities.inherited(&above, id)),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
