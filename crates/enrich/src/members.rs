//! Which cgroups belong to each pod and container, so that news of one reach exactly those.
//!
//! It also finds a pod's sandbox, which no source publishes: its cgroup is made before those of the pod's containers.

use std::collections::{BTreeMap, HashMap};

use crate::container;

/// A cgroup of a pod or container.
struct Member {
    /// The container that it belongs to, where there is one.
    container: Option<Box<str>>,
    /// Whether a source has told which of the pod's containers that is.
    published: bool,
}

/// The cgroups of one pod, or of one container outside of pods, in the order in which they were made.
#[derive(Default)]
struct Group {
    members: BTreeMap<u64, Member>,
    published: usize,
}

/// The cgroups of all pods, by the UID in their paths, and of all containers outside of pods, by id.
#[derive(Default)]
pub(crate) struct Members {
    groups: HashMap<Box<str>, Group>,
}

impl Members {
    /// Gives the UIDs and ids.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &str> {
        self.groups.keys().map(|key| &**key)
    }

    /// Gives the cgroups of a pod or container.
    pub(crate) fn of(&self, key: &str) -> Vec<u64> {
        self.groups.get(key).map(|group| group.members.keys().copied().collect()).unwrap_or_default()
    }

    /// Notes a cgroup and, where its pod is known, whether its container is published. Gives the cgroups that are now
    /// known to be the pod's sandbox.
    pub(crate) fn put(&mut self, id: u64, path: &str, published: Option<bool>) -> Vec<u64> {
        let place = container::locate(path);
        let container = place.outer.as_deref().or_else(|| place.container.as_ref().map(|container| &*container.id));
        let Some(key) = place.pod.as_deref().or(container) else { return Vec::new() };
        if !self.groups.contains_key(key) {
            self.groups.insert(key.into(), Group::default());
        }
        let Some(group) = self.groups.get_mut(key) else { return Vec::new() };
        let is_published = published == Some(true);
        let before = group.members.insert(id, Member { container: container.map(Into::into), published: is_published });
        let was_published = before.is_some_and(|before| before.published);
        group.published = group.published + usize::from(is_published) - usize::from(was_published);
        match published {
            Some(true) if group.published == 1 && !was_published => group.sandbox(None),
            Some(false) => group.sandbox(Some(id)),
            _ => Vec::new(),
        }
    }

    /// Forgets a cgroup.
    pub(crate) fn remove(&mut self, id: u64, path: &str) {
        let place = container::locate(path);
        let container = place.container.as_ref().map(|container| &*container.id);
        let Some(key) = place.pod.as_deref().or(container) else { return };
        let Some(group) = self.groups.get_mut(key) else { return };
        if group.members.remove(&id).is_some_and(|member| member.published) {
            group.published -= 1;
        }
        if group.members.is_empty() {
            self.groups.remove(key);
        }
    }
}

impl Group {
    /// Gives the cgroups of the sandbox, or of them only the one that is asked for: nothing before a container that was
    /// made later is published.
    fn sandbox(&self, only: Option<u64>) -> Vec<u64> {
        let mut containers = self.members.iter().filter(|(_, member)| member.container.is_some());
        let Some((_, first)) = containers.next().filter(|(_, first)| !first.published && self.published > 0) else {
            return Vec::new();
        };
        let alike = |member: &Member| member.container == first.container;
        match only {
            Some(id) => self.members.get(&id).filter(|member| alike(member)).map(|_| id).into_iter().collect(),
            None => self.members.iter().filter(|(_, member)| alike(member)).map(|(&id, _)| id).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: &str = "/kubepods/pod5fbb1c5e-3a02-4b1e-9f0f-2d4c67a8e913";

    fn path(digit: char) -> String {
        format!("{POD}/{}", String::from(digit).repeat(64))
    }

    #[test]
    fn the_sandbox_is_what_was_made_first() {
        let mut members = Members::default();
        let uid = &POD["/kubepods/pod".len()..];
        assert!(members.put(10, POD, None).is_empty());
        assert!(members.put(11, &path('a'), Some(false)).is_empty());
        assert!(members.put(12, &path('b'), Some(false)).is_empty());
        assert!(members.put(13, &path('c'), Some(false)).is_empty());
        assert_eq!(members.put(13, &path('c'), Some(true)), [11], "12 may still be published");
        assert!(members.put(12, &path('b'), Some(true)).is_empty());
        assert_eq!(members.put(14, &format!("{}/below", path('a')), Some(false)), [14]);
        assert!(members.put(15, &path('d'), Some(false)).is_empty(), "a new container is no sandbox");
        assert_eq!(members.of(uid), [10, 11, 12, 13, 14, 15]);
        for (id, path) in [(10, POD.to_owned()), (11, path('a')), (12, path('b')), (13, path('c')), (15, path('d'))] {
            members.remove(id, &path);
        }
        assert_eq!(members.keys().count(), 1);
        members.remove(14, &path('a'));
        assert_eq!(members.keys().count(), 0);
    }

    #[test]
    fn without_a_sandbox_nothing_is_one() {
        let mut members = Members::default();
        assert!(members.put(11, &path('a'), Some(true)).is_empty());
        assert!(members.put(12, &path('b'), Some(false)).is_empty());
        assert!(members.put(1, "/docker/x", None).is_empty());
        assert_eq!(members.of("x"), [0; 0]);
    }
}
