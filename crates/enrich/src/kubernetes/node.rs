//! What tells a node and its cluster apart from others of the same names: their UIDs, each by a right of its own.

use std::time::Duration;

use tokio::time::timeout;

use super::Kubernetes;
use super::client::{Client, Trouble, chain};
use super::pod::{Object, is_name};

/// How long all of it may take: the agent starts after that, and what it says of itself must not change later.
const PATIENCE: Duration = Duration::from_secs(2);

/// An attribute of the node, or why it is not known.
pub type Known = (&'static str, Result<String, String>);

impl Kubernetes {
    /// Asks once for the UIDs of the node and of its cluster, which is that of the namespace `kube-system`.
    pub async fn identify(&self) -> [Known; 2] {
        let client = Client::new(self.kubeconfig.as_deref()).await;
        let ask = async |resource: &'static str, name: &str| {
            let client = client.as_ref().map_err(|trouble| trouble.explain("reach", "the API server"))?;
            let asked = timeout(PATIENCE, uid(client, resource, name)).await;
            let late = || Trouble::Unreachable(format!("no answer within {} s", PATIENCE.as_secs()));
            asked.unwrap_or_else(|_| Err(late())).map_err(|trouble| trouble.explain("get", resource))
        };
        let (node, cluster) = tokio::join!(ask("nodes", &self.node), ask("namespaces", "kube-system"));
        [("k8s.node.uid", node), ("k8s.cluster.uid", cluster)]
    }
}

async fn uid(client: &Client, resource: &str, name: &str) -> Result<String, Trouble> {
    let body = client.metadata(&format!("/api/v1/{resource}"), name).await?;
    let object: Object<'_> = serde_json::from_slice(&body).map_err(|error| Trouble::Foreign(chain(&error)))?;
    let uid = object.metadata.uid;
    if is_name(&uid) { Ok(uid) } else { Err(Trouble::Foreign("a UID that is none".to_owned())) }
}
