//! Pods of the cluster's API whose cgroups are real: what a kubelet and a runtime would do, as far as an observer can tell.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::NODE;
use super::api::{Client, JSON, MERGE};
use crate::e2e::stimulus::{Workload, hierarchy};

/// The namespace of all pods of the proof.
pub const NAMESPACE: &str = "shop";

/// Who names the cgroups of pods and containers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    /// The kubelet and the runtime make directories.
    Cgroupfs,
    /// They ask systemd for slices and scopes.
    Systemd,
}

/// A pod of the API with its cgroup.
pub struct Pod {
    /// Its name.
    pub name: String,
    /// What the API server gave it.
    pub uid: String,
    driver: Driver,
    /// What its cgroup is named after: the uid, but for a static pod.
    cgroup_uid: String,
    containers: u32,
}

/// Who controls a pod: its kind, name and uid.
pub struct Owner<'a> {
    /// Such as `apps/v1`.
    pub version: &'a str,
    /// Such as `ReplicaSet`.
    pub kind: &'a str,
    /// Its name.
    pub name: &'a str,
    /// Its uid.
    pub uid: &'a str,
}

impl Owner<'_> {
    /// Gives the reference that the controlled object carries.
    pub fn reference(&self) -> Value {
        let Self { version, kind, name, uid } = self;
        json!([{"apiVersion": version, "kind": kind, "name": name, "uid": uid, "controller": true}])
    }
}

/// Gives the path of a namespace's pods.
pub fn collection() -> String {
    format!("/api/v1/namespaces/{NAMESPACE}/pods")
}

impl Pod {
    /// Creates a pod on the proof's node with these metadata beside its name, then its cgroup.
    ///
    /// # Errors
    /// Fails when the server says no or the cgroup cannot be made.
    pub fn create(api: &Client, name: &str, driver: Driver, metadata: &Value, spec: &Value) -> Result<Self> {
        let mut pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {"nodeName": NODE, "containers": [{"name": "app", "image": "registry.example/shop/app:1"}]},
        });
        merge(&mut pod["metadata"], metadata);
        merge(&mut pod["spec"], spec);
        let made = api.create(&collection(), &pod)?;
        let uid = made["metadata"]["uid"].as_str().context("the pod has no uid")?.to_owned();
        let configured = made["metadata"]["annotations"]["kubernetes.io/config.hash"].as_str();
        let cgroup_uid = configured.unwrap_or(&uid).to_owned();
        let pod = Self { name: name.to_owned(), uid, driver, cgroup_uid, containers: 0 };
        let dir = pod.dir()?;
        fs::create_dir_all(&dir).with_context(|| format!("cannot make the cgroup {}", dir.display()))?;
        Ok(pod)
    }

    /// Tells whether a text mentions this pod: by its name, its uid, or a container's id, which begins with the uid.
    pub fn is_in(&self, text: &str) -> bool {
        let uids = [&self.uid, &self.cgroup_uid];
        let mentions = |uid: &&String| text.contains(uid.as_str()) || text.contains(&uid.replace('-', ""));
        text.contains(&self.name) || uids.iter().any(mentions) || text.contains(&self.uid.replace('-', "_"))
    }

    fn dir(&self) -> Result<PathBuf> {
        let uid = &self.cgroup_uid;
        Ok(hierarchy()?.join(match self.driver {
            Driver::Cgroupfs => format!("kubepods/burstable/pod{uid}"),
            Driver::Systemd => {
                format!("kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{}.slice", uid.replace('-', "_"))
            }
        }))
    }

    /// Starts a new container that makes `calls` calls over a time; gives its id, which the API does not know yet.
    ///
    /// # Errors
    /// Fails when its cgroup cannot be made.
    pub fn run(&mut self, calls: u64, over: Duration) -> Result<(String, Workload)> {
        self.containers += 1;
        let id = self.id(self.containers);
        let scope = match self.driver {
            Driver::Cgroupfs => id.clone(),
            Driver::Systemd => format!("cri-containerd-{id}.scope"),
        };
        let workload = Workload::start_in(self.dir()?.join(scope), self.name.clone(), calls, over)?;
        Ok((id, workload))
    }

    fn id(&self, number: u32) -> String {
        format!("{}{number:032x}", self.uid.replace('-', ""))
    }

    /// Publishes the state of a container as a kubelet does; where it was started before, the end of the one before it is told, too.
    ///
    /// # Errors
    /// Fails when the server says no.
    pub fn publish(&self, api: &Client, list: &str, container: &str, id: &str, restarts: u32) -> Result<Value> {
        let time = "2026-01-01T00:00:00Z";
        let running = json!({"running": {"startedAt": time}});
        let before = (restarts > 0).then(|| format!("containerd://{}", self.id(self.containers.saturating_sub(1))));
        let ended = before.map(|id| json!({"containerID": id, "exitCode": 1, "startedAt": time, "finishedAt": time}));
        let status = json!({"status": {"phase": "Running", list: [{
            "name": container, "containerID": format!("containerd://{id}"), "restartCount": restarts, "ready": true,
            "started": true, "image": "registry.example/shop/app:1", "imageID": "", "state": running,
            "lastState": {"terminated": ended},
        }]}});
        api.must("PATCH", &format!("{}/{}/status", collection(), self.name), MERGE, &status.to_string())
    }

    /// Takes it out of the API at once and removes its cgroup.
    ///
    /// # Errors
    /// Fails when the server says no.
    pub fn delete(self, api: &Client) -> Result<()> {
        let now = r#"{"kind":"DeleteOptions","apiVersion":"v1","gracePeriodSeconds":0}"#;
        api.must("DELETE", &format!("{}/{}", collection(), self.name), JSON, now).map(drop)
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        let Ok(dir) = self.dir() else { return };
        // The groups above it go with the last pod; while others are in them, this fails.
        for dir in dir.ancestors().take(3) {
            let _ = fs::remove_dir(dir);
        }
    }
}

fn merge(into: &mut Value, more: &Value) {
    for (key, value) in more.as_object().into_iter().flatten() {
        into[key] = value.clone();
    }
}
