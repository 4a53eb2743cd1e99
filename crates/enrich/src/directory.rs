//! What is known of containers and pods beyond the paths of their cgroups.
//!
//! Sources in the background fill it (the Kubernetes API, local container runtimes); names are read from it, from memory
//! only. What is gone stays for a while, so that what arrives late still gets its names.

mod addresses;

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use model::Text;

use crate::container::Place;
use addresses::AddressIndex;

/// The most pods, and the most containers, that are known at once; containers of pods are bounded with their pods.
const MOST: usize = 1 << 16;

/// How many earlier containers of a pod are remembered beside those that it has.
const FORMER: usize = 32;

/// Attributes that name something.
pub type Names = Box<[(Text, Text)]>;

/// A container, as a source knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// Its id, as it stands in the paths of its cgroups.
    pub id: Arc<str>,
    /// Its names; those of its pod are the pod's.
    pub names: Names,
}

/// A pod, as a source knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Its UID, as it stands in the paths of its cgroups.
    pub uid: Arc<str>,
    /// Another UID that paths may have: those of a static pod have that of its manifest.
    pub alias: Option<Arc<str>>,
    /// The names of the pod and of its owner.
    pub names: Names,
    /// Whether the filters by namespace and label let it be observed.
    pub observed: bool,
    /// Its containers, as far as their ids are known.
    pub containers: Vec<Container>,
    /// The addresses that nobody else has.
    pub addresses: Vec<IpAddr>,
}

/// What a source gives names to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Pods and their containers.
    Pods,
    /// Containers outside of pods.
    Containers,
}

/// What is known of a place in the hierarchy.
#[derive(Default)]
pub(crate) struct Found {
    pub(crate) pod: Option<Arc<PodNames>>,
    pub(crate) container: Option<Arc<Container>>,
}

/// A pod without its containers.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct PodNames {
    pub(crate) names: Names,
    pub(crate) observed: bool,
}

struct KnownPod {
    pod: Arc<PodNames>,
    alias: Option<Arc<str>>,
    /// The containers that it has or had, the latest last.
    containers: VecDeque<Arc<str>>,
    addresses: Vec<IpAddr>,
    gone: Option<Instant>,
}

struct KnownContainer {
    container: Arc<Container>,
    pod: Option<Arc<str>>,
    gone: Option<Instant>,
}

#[derive(Default)]
struct Known {
    pods: HashMap<Arc<str>, KnownPod>,
    aliases: HashMap<Arc<str>, Arc<str>>,
    containers: HashMap<Arc<str>, KnownContainer>,
    addresses: AddressIndex,
    /// What is gone, oldest first; some of it may have come back.
    gone: VecDeque<(Instant, Kind, Arc<str>)>,
    expected: [bool; 2],
}

/// All that the sources have told.
pub(crate) struct Directory {
    known: RwLock<Known>,
    retention: Duration,
    /// How much of what is gone is kept; the oldest goes first.
    limit: usize,
}

impl Directory {
    pub(crate) fn new(retention: Duration, limit: usize) -> Self {
        Self { known: RwLock::default(), retention, limit }
    }

    /// Says whether somebody is going to give names of a kind.
    pub(crate) fn expects(&self, kind: Kind) -> bool {
        self.read().expected[kind as usize]
    }

    /// Notes whether somebody is going to give names of a kind; says whether that is new.
    pub(crate) fn expect(&self, kind: Kind, expected: bool) -> bool {
        std::mem::replace(&mut self.write().expected[kind as usize], expected) != expected
    }

    /// Gives what is known of a place. A pod's own container speaks for all that is within it.
    pub(crate) fn find(&self, place: &Place<'_>) -> Found {
        let known = self.read();
        let id = place.outer.as_deref().or_else(|| place.container.as_ref().map(|container| &*container.id));
        let container = id.and_then(|id| known.containers.get(id));
        let uid = place.pod.as_deref().or_else(|| container?.pod.as_deref());
        let uid = uid.map(|uid| known.aliases.get(uid).map_or(uid, |uid| uid));
        let pod = uid.and_then(|uid| known.pods.get(uid));
        Found {
            pod: pod.map(|known| Arc::clone(&known.pod)),
            container: container.map(|known| Arc::clone(&known.container)),
        }
    }

    /// Notes what a pod is now. Gives the UIDs and ids whose names may have changed; nothing when there is no room.
    pub(crate) fn put_pod(&self, pod: Pod, now: Instant) -> Option<Vec<Arc<str>>> {
        let Pod { uid, alias, names, observed, containers, addresses } = pod;
        let mut known = self.write();
        self.sweep(&mut known, now);
        if known.pods.len() >= MOST && !known.pods.contains_key(&uid) {
            return None;
        }
        let mut changed = Vec::new();
        let own = PodNames { names, observed };
        let known = &mut *known;
        let entry = known.pods.entry(Arc::clone(&uid)).or_insert_with(|| {
            changed.push(Arc::clone(&uid));
            KnownPod {
                pod: Arc::new(PodNames { names: Box::default(), observed: false }),
                alias: None,
                containers: VecDeque::new(),
                addresses: Vec::new(),
                gone: None,
            }
        });
        entry.gone = None;
        known.addresses.claim(&uid, &mut entry.addresses, addresses);
        if *entry.pod != own || entry.alias != alias {
            entry.pod = Arc::new(own);
            known.addresses.rename(&entry.addresses);
            changed.push(Arc::clone(&uid));
            changed.extend(alias.clone());
            if let Some(alias) = &alias {
                known.aliases.insert(Arc::clone(alias), Arc::clone(&uid));
            }
            entry.alias = alias;
        }
        let keep = containers.len() + FORMER;
        for container in containers {
            let id = Arc::clone(&container.id);
            let same = |known: &KnownContainer| {
                *known.container == container && known.pod.as_ref() == Some(&uid) && known.gone.is_none()
            };
            if known.containers.get(&id).is_some_and(same) {
                continue;
            }
            changed.push(Arc::clone(&uid));
            changed.push(Arc::clone(&id));
            changed.extend(entry.alias.clone());
            if !entry.containers.contains(&id) {
                entry.containers.push_back(Arc::clone(&id));
            }
            let held = KnownContainer { container: Arc::new(container), pod: Some(Arc::clone(&uid)), gone: None };
            known.containers.insert(id, held);
        }
        while entry.containers.len() > keep {
            if let Some(former) = entry.containers.pop_front() {
                known.containers.remove(&former);
            }
        }
        changed.sort_unstable();
        changed.dedup();
        Some(changed)
    }

    /// Notes that a pod is gone: it keeps its names for a while.
    pub(crate) fn remove_pod(&self, uid: &str, now: Instant) {
        let mut known = self.write();
        if let Some((uid, entry)) = known.pods.get_key_value(uid)
            && entry.gone.is_none()
        {
            let uid = Arc::clone(uid);
            if let Some(entry) = known.pods.get_mut(&uid) {
                entry.gone = Some(now);
            }
            known.gone.push_back((now, Kind::Pods, uid));
        }
        self.sweep(&mut known, now);
    }

    /// Gives the UID and names of the pod that has an address, or had it last.
    pub(crate) fn owner(&self, address: IpAddr) -> Option<(Arc<str>, Arc<PodNames>)> {
        let known = self.read();
        let (uid, entry) = known.pods.get_key_value(known.addresses.owner(address)?)?;
        Some((Arc::clone(uid), Arc::clone(&entry.pod)))
    }

    /// Notes that addresses are this node's own.
    pub(crate) fn put_host(&self, addresses: &[IpAddr]) {
        if addresses.iter().all(|address| self.read().addresses.is_host(*address)) {
            return;
        }
        self.write().addresses.put_host(addresses);
    }

    /// Says whether an address is this node's own, or that of a pod of this node.
    pub(crate) fn is_here(&self, address: IpAddr) -> bool {
        let known = self.read();
        known.addresses.is_host(address) || known.addresses.owner(address).is_some()
    }

    /// Gives a number that changes whenever an address may have another owner, or its owner another name.
    pub(crate) fn addresses(&self) -> u64 {
        self.read().addresses.generation()
    }

    /// Gives the UIDs of the pods that are not gone.
    pub(crate) fn pods(&self) -> Vec<Arc<str>> {
        let known = self.read();
        known.pods.iter().filter(|(_, entry)| entry.gone.is_none()).map(|(uid, _)| Arc::clone(uid)).collect()
    }

    /// Notes what a container outside of pods is now. Says whether its names may have changed; nothing when there is no
    /// room.
    pub(crate) fn put_container(&self, container: Container, now: Instant) -> Option<bool> {
        let mut known = self.write();
        self.sweep(&mut known, now);
        if let Some(entry) = known.containers.get_mut(&container.id) {
            // The source of pods knows its containers better than a local runtime does.
            let same = *entry.container == container || entry.pod.is_some();
            entry.gone = None;
            if !same {
                entry.container = Arc::new(container);
            }
            return Some(!same);
        }
        // Containers of pods do not take the room of others.
        if known.containers.len() >= MOST + known.pods.len() * FORMER {
            return None;
        }
        let id = Arc::clone(&container.id);
        known.containers.insert(id, KnownContainer { container: Arc::new(container), pod: None, gone: None });
        Some(true)
    }

    /// Notes that a container outside of pods is gone: it keeps its names for a while.
    pub(crate) fn remove_container(&self, id: &str, now: Instant) {
        let mut known = self.write();
        if let Some(entry) = known.containers.get_mut(id).filter(|entry| entry.gone.is_none() && entry.pod.is_none()) {
            entry.gone = Some(now);
            let id = Arc::clone(&entry.container.id);
            known.gone.push_back((now, Kind::Containers, id));
        }
        self.sweep(&mut known, now);
    }

    /// Gives how many pods and containers are known, those that are gone included.
    pub(crate) fn len(&self) -> (usize, usize) {
        let known = self.read();
        (known.pods.len(), known.containers.len())
    }

    /// Forgets what is gone for too long or beyond the limit.
    fn sweep(&self, known: &mut Known, now: Instant) {
        while let Some((since, kind, id)) = known.gone.front() {
            if known.gone.len() <= self.limit && now.saturating_duration_since(*since) < self.retention {
                break;
            }
            let (since, kind, id) = (*since, *kind, Arc::clone(id));
            known.gone.pop_front();
            match kind {
                Kind::Containers => {
                    if known.containers.get(&id).is_some_and(|entry| entry.gone == Some(since)) {
                        known.containers.remove(&id);
                    }
                }
                Kind::Pods if known.pods.get(&id).is_some_and(|entry| entry.gone == Some(since)) => {
                    let Some(entry) = known.pods.remove(&id) else { continue };
                    known.addresses.release(&id, &entry.addresses);
                    for id in entry.containers {
                        known.containers.remove(&id);
                    }
                    if let Some(alias) = entry.alias.filter(|alias| known.aliases.get(alias) == Some(&id)) {
                        known.aliases.remove(&alias);
                    }
                }
                Kind::Pods => {}
            }
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Known> {
        self.known.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
