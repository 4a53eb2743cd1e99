//! Who made a pod: read from the pod itself wherever that is certain, else asked for once.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::pod::{Metadata, OwnerReference};

/// The label by which a `Deployment` tells its `ReplicaSet`s apart.
pub(super) const TEMPLATE_HASH: &str = "pod-template-hash";

/// How much earlier than its first pod a `CronJob`'s run may have been due.
const LATE: Duration = Duration::from_hours(31 * 24);
/// How much later, where clocks differ.
const EARLY: Duration = Duration::from_mins(10);

/// How many answers are remembered.
const REMEMBERED: usize = 16_384;

/// An owner: the attribute's key and its name.
pub(super) type Owner = Option<(&'static str, Arc<str>)>;

/// What a pod tells of its owner.
#[derive(Debug, PartialEq)]
pub(super) enum Told {
    /// All there is to know.
    Certain(Owner),
    /// What its owner belongs to has to be asked for.
    Ask {
        /// The resource of the owner, such as `replicasets`.
        resource: &'static str,
        /// The API that has the resource.
        api: &'static str,
        /// What stands for the owner when nobody answers.
        fallback: Owner,
    },
}

/// Reads the owner from a pod's metadata and labels.
pub(super) fn told(metadata: &Metadata<'_>, labels: &BTreeMap<String, String>) -> Told {
    let Some(owner) = metadata.owner() else { return Told::Certain(None) };
    let certain = |key, name: &str| Told::Certain(Some((key, name.into())));
    let group = owner.api_version.split('/').next().unwrap_or_default();
    match (group, owner.kind.as_str()) {
        ("apps", "ReplicaSet") => {
            let Some(hash) = labels.get(TEMPLATE_HASH) else { return certain("k8s.replicaset.name", &owner.name) };
            match owner.name.strip_suffix(hash.as_str()).and_then(|name| name.strip_suffix('-')) {
                Some(deployment) if !deployment.is_empty() => certain("k8s.deployment.name", deployment),
                _ => ask("replicasets", "/apis/apps/v1", "k8s.replicaset.name", owner),
            }
        }
        ("batch", "Job") => match owner.name.rsplit_once('-') {
            Some((cronjob, due)) if is_due(due, metadata.created()) => certain("k8s.cronjob.name", cronjob),
            Some((_, due)) if is_number(due) => ask("jobs", "/apis/batch/v1", "k8s.job.name", owner),
            _ => certain("k8s.job.name", &owner.name),
        },
        _ => Told::Certain(key(owner).map(|key| (key, owner.name.as_str().into()))),
    }
}

/// Gives what an owner that was asked for belongs to.
pub(super) fn of(metadata: &Metadata<'_>, fallback: Owner) -> Owner {
    let owner = metadata.owner();
    owner.and_then(|owner| Some((key(owner)?, owner.name.as_str().into()))).or(fallback)
}

fn ask(resource: &'static str, api: &'static str, key: &'static str, owner: &OwnerReference) -> Told {
    Told::Ask { resource, api, fallback: Some((key, owner.name.as_str().into())) }
}

/// Gives the attribute of an owner's kind; kinds that the semantic conventions do not know have none.
fn key(owner: &OwnerReference) -> Option<&'static str> {
    Some(match (owner.api_version.split('/').next()?, owner.kind.as_str()) {
        ("apps", "Deployment") => "k8s.deployment.name",
        ("apps", "ReplicaSet") => "k8s.replicaset.name",
        ("apps", "StatefulSet") => "k8s.statefulset.name",
        ("apps", "DaemonSet") => "k8s.daemonset.name",
        ("batch", "Job") => "k8s.job.name",
        ("batch", "CronJob") => "k8s.cronjob.name",
        ("v1", "ReplicationController") => "k8s.replicationcontroller.name",
        _ => return None,
    })
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Says whether a number is when a `CronJob`'s run was due: the name of its Job ends in the minutes since 1970.
fn is_due(minutes: &str, created: Option<SystemTime>) -> bool {
    let minutes = Some(minutes).filter(|text| is_number(text)).and_then(|text| text.parse::<u32>().ok());
    let (Some(minutes), Some(created)) = (minutes, created) else { return false };
    let due = UNIX_EPOCH + Duration::from_secs(u64::from(minutes) * 60);
    created - LATE <= due && due <= created + EARLY
}

/// What was asked for, by the owner's UID; each owner is asked for once.
#[derive(Default)]
pub(super) struct Owners {
    answers: HashMap<String, Owner>,
    order: VecDeque<String>,
}

impl Owners {
    /// Gives what is known of an owner.
    pub fn get(&self, uid: &str) -> Option<&Owner> {
        self.answers.get(uid)
    }

    /// Remembers what an owner belongs to; the oldest is forgotten for it when there are too many.
    pub fn put(&mut self, uid: String, owner: Owner) {
        if self.answers.insert(uid.clone(), owner).is_none() {
            self.order.push_back(uid);
        }
        while self.order.len() > REMEMBERED {
            if let Some(oldest) = self.order.pop_front() {
                self.answers.remove(&oldest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner_of(kind: &str, name: &str, hash: Option<&str>, created: &str) -> Told {
        let api = match kind {
            "Job" => "batch/v1",
            "Node" | "ReplicationController" => "v1",
            "Rollout" => "argoproj.io/v1alpha1",
            _ => "apps/v1",
        };
        let object = serde_json::json!({
            "name": "x", "namespace": "shop", "uid": "u", "creationTimestamp": created,
            "labels": hash.map(|hash| BTreeMap::from([(TEMPLATE_HASH, hash)])),
            "ownerReferences": [
                {"apiVersion": "v1", "kind": "Other", "name": "other", "uid": "1"},
                {"apiVersion": api, "kind": kind, "name": name, "uid": "2", "controller": true},
            ],
        });
        let text = object.to_string();
        let metadata: Metadata<'_> = serde_json::from_str(&text).unwrap();
        told(&metadata, &metadata.labels(|_| true).unwrap())
    }

    #[test]
    fn pods_tell_of_their_owners() {
        // 28 570 860 minutes: 2024-04-27T23:00:00Z.
        let noon = "2024-04-28T12:00:00Z";
        let cases = [
            ("ReplicaSet", "web-5d9c7b8f4", Some("5d9c7b8f4"), "k8s.deployment.name", "web"),
            ("ReplicaSet", "web", None, "k8s.replicaset.name", "web"),
            ("StatefulSet", "db", None, "k8s.statefulset.name", "db"),
            ("DaemonSet", "agent", None, "k8s.daemonset.name", "agent"),
            ("Job", "report-28570860", None, "k8s.cronjob.name", "report"),
            ("Job", "migrate", None, "k8s.job.name", "migrate"),
            ("Job", "migrate-now", None, "k8s.job.name", "migrate-now"),
            ("ReplicationController", "old", None, "k8s.replicationcontroller.name", "old"),
        ];
        for (kind, name, hash, key, owner) in cases {
            assert_eq!(owner_of(kind, name, hash, noon), Told::Certain(Some((key, owner.into()))), "{kind} {name}");
        }
        assert_eq!(owner_of("Node", "worker-1", None, noon), Told::Certain(None), "a mirror pod");
        assert_eq!(owner_of("Rollout", "canary", None, noon), Told::Certain(None));
    }

    #[test]
    fn what_is_not_certain_is_asked_for() {
        let noon = "2024-04-28T12:00:00Z";
        let asks = |kind, name, hash, created| match owner_of(kind, name, hash, created) {
            Told::Ask { resource, fallback: Some((_, fallback)), .. } => {
                assert_eq!(&*fallback, name);
                resource
            }
            other => panic!("{name}: {other:?}"),
        };
        assert_eq!(asks("ReplicaSet", "renamed", Some("5d9c7b8f4"), noon), "replicasets");
        assert_eq!(asks("ReplicaSet", "-5d9c7b8f4", Some("5d9c7b8f4"), noon), "replicasets");
        assert_eq!(asks("Job", "report-20240428", None, noon), "jobs", "a date is no time in minutes");
        assert_eq!(asks("Job", "report-28570860", None, "2023-04-28T12:00:00Z"), "jobs", "not due for a year");
        assert_eq!(asks("Job", "report-99999999999999999999", None, noon), "jobs");
        assert_eq!(asks("Job", "report-28570860", None, "nonsense"), "jobs");
    }

    #[test]
    fn answers_are_bounded() {
        let mut owners = Owners::default();
        for number in 0..REMEMBERED + 10 {
            owners.put(number.to_string(), None);
        }
        assert!(owners.get("9").is_none() && owners.get("10").is_some());
        assert_eq!((owners.answers.len(), owners.order.len()), (REMEMBERED, REMEMBERED));
    }
}
