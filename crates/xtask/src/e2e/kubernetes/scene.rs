//! What the proof's cluster holds beside pods: the agent's account and rights, and the owners of pods.

use anyhow::{Context, Result};
use serde_json::json;

use super::api::{Client, MERGE};
use super::pods::{NAMESPACE, Owner};
use super::token::ACCOUNT;

/// The manifests that users apply: among them the agent's account and rights.
const NAMESPACE_OF_AGENT: &str = include_str!("../../../../../examples/kubernetes/namespace.yaml");
/// No controller makes pods of the `DaemonSet` in it.
pub const AGENT: &str = include_str!("../../../../../examples/kubernetes/telesonde.yaml");

/// What the deployment controller adds to the names of a `ReplicaSet` and its pods.
pub const HASH: &str = "6d4cf56db6";

const WORKLOADS: &str = "\
apiVersion: v1
kind: Namespace
metadata:
  name: shop
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
  namespace: shop
spec:
  selector: {matchLabels: {app: web}}
  template: {metadata: {labels: {app: web}}, spec: {containers: [{name: app, image: app}]}}
---
apiVersion: apps/v1
kind: ReplicaSet
metadata:
  name: web-6d4cf56db6
  namespace: shop
spec:
  selector: {matchLabels: {app: web, pod-template-hash: 6d4cf56db6}}
  template: {metadata: {labels: {app: web, pod-template-hash: 6d4cf56db6}}, spec: {containers: [{name: app, image: app}]}}
---
apiVersion: batch/v1
kind: CronJob
metadata:
  name: yearly
  namespace: shop
spec:
  schedule: 0 0 1 1 *
  jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: app, image: app}]}}}}
---
apiVersion: batch/v1
kind: Job
metadata:
  name: yearly-28930320
  namespace: shop
spec:
  template: {spec: {restartPolicy: Never, containers: [{name: app, image: app}]}}
";

/// The objects that pods belong to, and the agent's account.
pub struct Scene {
    web: Object,
    yearly: Object,
    /// The uid of the agent's account.
    pub account: String,
}

struct Object {
    name: String,
    uid: String,
}

impl Scene {
    /// Gives the `ReplicaSet` of the deployment `web`.
    pub fn web(&self) -> Owner<'_> {
        Owner { version: "apps/v1", kind: "ReplicaSet", name: &self.web.name, uid: &self.web.uid }
    }

    /// Gives a Job of the `CronJob` `yearly` whose name does not tell so, for it is long since it was due.
    pub fn yearly(&self) -> Owner<'_> {
        Owner { version: "batch/v1", kind: "Job", name: &self.yearly.name, uid: &self.yearly.uid }
    }
}

/// Applies everything; what is there already stays.
///
/// # Errors
/// Fails when the API server says no.
pub fn prepare(api: &Client) -> Result<Scene> {
    api.apply(NAMESPACE_OF_AGENT)?;
    api.apply(AGENT)?;
    api.apply(WORKLOADS)?;
    let uid = |path: &str| -> Result<String> {
        let object = api.must("GET", path, super::api::JSON, "")?;
        Ok(object["metadata"]["uid"].as_str().context("an object has no uid")?.to_owned())
    };
    // What the controllers of a real cluster do: say what an object belongs to.
    let own =
        |version: &str, (kind, plural, name): (&str, &str, &str), (owned, object): (&str, &str)| -> Result<Object> {
            let of = format!("/apis/{version}/namespaces/{NAMESPACE}");
            let owner = Owner { version, kind, name, uid: &uid(&format!("{of}/{plural}/{name}"))? };
            let reference = json!({"metadata": {"ownerReferences": owner.reference()}});
            let path = format!("{of}/{owned}/{object}");
            api.must("PATCH", &path, MERGE, &reference.to_string())?;
            Ok(Object { name: object.to_owned(), uid: uid(&path)? })
        };
    let web = own("apps/v1", ("Deployment", "deployments", "web"), ("replicasets", &format!("web-{HASH}")))?;
    let yearly = own("batch/v1", ("CronJob", "cronjobs", "yearly"), ("jobs", "yearly-28930320"))?;
    let account = uid(&format!("/api/v1/namespaces/{ACCOUNT}/serviceaccounts/{ACCOUNT}"))?;
    Ok(Scene { web, yearly, account })
}
