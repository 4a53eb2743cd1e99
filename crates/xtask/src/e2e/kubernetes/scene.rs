//! What the proof's cluster holds beside pods: the agent's account and rights, and the owners of pods.

use anyhow::{Context, Result};
use serde_json::json;

use super::api::{Client, MERGE};
use super::pods::{NAMESPACE, Owner};
use super::token::ACCOUNT;

/// The manifest that users apply.
pub const RBAC: &str = include_str!("../../../../../examples/kubernetes/rbac.yaml");

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
";

/// The `ReplicaSet` of the deployment `web`, and the agent's account.
pub struct Web {
    /// Name of the `ReplicaSet`.
    pub name: String,
    uid: String,
    /// The uid of the agent's account.
    pub account: String,
}

impl Web {
    /// Gives it as the owner of a pod.
    pub fn owner(&self) -> Owner<'_> {
        Owner { version: "apps/v1", kind: "ReplicaSet", name: &self.name, uid: &self.uid }
    }
}

/// Applies everything; what is there already stays.
///
/// # Errors
/// Fails when the API server says no.
pub fn prepare(api: &Client) -> Result<Web> {
    api.apply(RBAC)?;
    api.apply(WORKLOADS)?;
    let uid = |path: &str| -> Result<String> {
        let object = api.must("GET", path, super::api::JSON, "")?;
        Ok(object["metadata"]["uid"].as_str().context("an object has no uid")?.to_owned())
    };
    let name = format!("web-{HASH}");
    let of = format!("/apis/apps/v1/namespaces/{NAMESPACE}");
    let deployment = uid(&format!("{of}/deployments/web"))?;
    let owner = Owner { version: "apps/v1", kind: "Deployment", name: "web", uid: &deployment };
    let patch = json!({"metadata": {"ownerReferences": owner.reference()}});
    let set = format!("{of}/replicasets/{name}");
    api.must("PATCH", &set, MERGE, &patch.to_string())?;
    let account = uid(&format!("/api/v1/namespaces/{ACCOUNT}/serviceaccounts/{ACCOUNT}"))?;
    Ok(Web { uid: uid(&set)?, name, account })
}
