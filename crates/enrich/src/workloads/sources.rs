//! What sources of names tell and how they fare.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Workloads;
use crate::container;
use crate::directory::{Container, Kind, Pod};
use crate::source::{Source, State};

/// A container by its cgroups.
#[derive(Debug)]
pub struct Seen {
    /// The path of one of them.
    pub path: Box<str>,
    /// Whether any still exists.
    pub alive: bool,
}

impl Workloads {
    /// Notes what a pod is now; says no when there is no room for it.
    pub fn put_pod(&self, pod: Pod) -> bool {
        let changed = self.shared.identities.directory.put_pod(pod, Instant::now());
        let room = changed.is_some();
        self.renew(&changed.unwrap_or_default());
        room
    }

    /// Notes that addresses are this node's own.
    pub fn put_host(&self, addresses: &[IpAddr]) {
        self.shared.identities.directory.put_host(addresses);
    }

    /// Notes that a pod is gone: it keeps its names for a while.
    pub fn remove_pod(&self, uid: &str) {
        self.shared.identities.directory.remove_pod(uid, Instant::now());
    }

    /// Gives the UIDs of the pods that are not gone.
    pub fn pods(&self) -> Vec<Arc<str>> {
        self.shared.identities.directory.pods()
    }

    /// Gives the containers outside of pods, by their ids, whose cgroups exist or did a while ago, and the number of that
    /// list; nothing while the list is still the one that has the number `known`.
    pub fn containers(&self, known: u64, while_ago: Duration) -> Option<(u64, HashMap<String, Seen>)> {
        let cache = &self.shared.cache;
        let number = cache.roster();
        if number == known {
            return None;
        }
        let mut containers = HashMap::<String, Seen>::new();
        for (path, alive) in cache.lately(while_ago) {
            let place = container::locate(&path);
            let Some(container) = place.container.filter(|_| place.pod.is_none()) else { continue };
            let id = container.id.into_owned();
            let seen = containers.entry(id).or_insert(Seen { path, alive: false });
            seen.alive |= alive;
        }
        Some((number, containers))
    }

    /// Gives the user whose cgroup it is, where that can be seen: rootless runtimes are given theirs by systemd.
    pub fn owner(&self, path: &str) -> Option<u32> {
        self.shared.hierarchy.owner(path).ok()
    }

    /// Notes what a container outside of pods is now; says no when there is no room for it.
    pub fn put_container(&self, container: Container) -> bool {
        let id = Arc::clone(&container.id);
        let changed = self.shared.identities.directory.put_container(container, Instant::now());
        if changed == Some(true) {
            self.renew(&[id]);
        }
        changed.is_some()
    }

    /// Notes that a container outside of pods is gone: it keeps its names for a while.
    pub fn remove_container(&self, id: &str) {
        self.shared.identities.directory.remove_container(id, Instant::now());
    }

    /// Notes whether a source is going to name what is not known yet: then cgroups wait a while for their names.
    pub fn expect(&self, kind: Kind, expected: bool) {
        if self.shared.identities.directory.expect(kind, expected) {
            self.shared.cache.renew_all(&self.shared.identities);
        }
    }

    fn renew(&self, keys: &[Arc<str>]) {
        if !keys.is_empty() {
            self.shared.cache.renew(keys.iter().map(|key| &**key), &self.shared.identities);
        }
    }

    /// Notes how a source fares.
    pub fn report(&self, source: &'static str, state: State) {
        self.shared.sources.report(source, state);
    }

    /// Counts an error of a source; says whether it is the first of its type, which is worth a line in the log.
    pub fn fail(&self, source: &'static str, kind: &'static str) -> bool {
        self.shared.sources.fail(source, kind)
    }

    /// Gives how all sources fare.
    pub fn sources(&self) -> Vec<Source> {
        self.shared.sources.list()
    }
}
