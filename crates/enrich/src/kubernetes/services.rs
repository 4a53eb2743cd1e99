//! Services and their endpoints as the API writes them: addresses, ports, and the pods that answer.

use std::collections::{BTreeSet, HashSet};
use std::marker::PhantomData;
use std::net::IpAddr;
use std::sync::Arc;

use model::Text;
use serde::Deserialize;

use super::client::{Client, chain};
use super::follow::{Account, Resource};
use super::pod::{Metadata, is_name};
use crate::{Claim, Services};

/// The label of a slice that tells its service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// What the API tells of.
pub(super) trait Told: Send {
    const NAME: &'static str;
    const PATH: &'static str;

    /// Reads an object: its metadata and what it claims.
    fn read(object: &str) -> Result<(Metadata<'_>, Vec<Claim>), serde_json::Error>;
}

/// One of them, as it is followed.
pub(super) struct Followed<T> {
    services: Arc<Services>,
    account: Account,
    told: PhantomData<T>,
}

impl<T> Followed<T> {
    pub fn new(services: Arc<Services>, account: Account) -> Self {
        Self { services, account, told: PhantomData }
    }
}

impl<T: Told> Resource for Followed<T> {
    const NAME: &'static str = T::NAME;
    const PATH: &'static str = T::PATH;

    fn take(&mut self, object: &str, gone: bool, _: &Client) -> Option<String> {
        let (metadata, claims) = match T::read(object) {
            Ok(read) => read,
            Err(error) => {
                let what = format!("one of the {} that cannot be read: {}", T::NAME, chain(&error));
                self.account.wrong("malformed", &what);
                return None;
            }
        };
        if !metadata.is_sound() {
            self.account.wrong("malformed", &format!("one of the {} whose names are none", T::NAME));
            return None;
        }
        let key = format!("{}/{}", metadata.namespace, metadata.name);
        if gone {
            self.services.remove(self.account.source, &key);
        } else if !self.services.put(self.account.source, &key, claims) {
            self.account.wrong("too_many", &format!("more {} than there is room for", T::NAME));
        }
        Some(key)
    }

    fn keep(&mut self, listed: &HashSet<String>) {
        for key in self.services.keys(self.account.source) {
            if !listed.contains(&*key) {
                self.services.remove(self.account.source, &key);
            }
        }
    }
}

/// A service.
#[derive(Deserialize)]
pub(super) struct Service<'a> {
    #[serde(borrow)]
    metadata: Metadata<'a>,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Conditions,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    #[serde(rename = "clusterIP")]
    cluster_ip: Option<String>,
    #[serde(rename = "clusterIPs")]
    cluster_ips: Option<Vec<String>>,
    #[serde(rename = "externalIPs")]
    external_ips: Option<Vec<String>>,
    ports: Option<Vec<Port>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Conditions {
    load_balancer: LoadBalancer,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct LoadBalancer {
    ingress: Option<Vec<Ingress>>,
}

#[derive(Deserialize)]
struct Ingress {
    ip: Option<String>,
}

#[derive(Deserialize)]
struct Port {
    port: Option<u16>,
}

impl Told for Service<'_> {
    const NAME: &'static str = "services";
    const PATH: &'static str = "/api/v1/services";

    fn read(object: &str) -> Result<(Metadata<'_>, Vec<Claim>), serde_json::Error> {
        let Service { metadata, spec, status } = serde_json::from_str(object)?;
        let service = [metadata.namespace.clone().into(), metadata.name.clone().into()];
        let claim = |(address, port)| Claim { address, port, service: service.clone(), pod: None, node: None };
        // An address within the cluster is one service's; that of a node or a load balancer may be several's.
        let own = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip).filter_map(|text| text.parse().ok());
        let own: Vec<(IpAddr, u16)> = own.map(|address| (address, 0)).collect();
        let ingress = status.load_balancer.ingress.iter().flatten().filter_map(|ingress| ingress.ip.as_ref());
        let shared = spec.external_ips.iter().flatten().chain(ingress).filter_map(|text| text.parse().ok());
        let shared: Vec<(IpAddr, u16)> =
            shared.flat_map(|address| ports(spec.ports.as_ref()).map(move |port| (address, port))).collect();
        let mut all = [own, shared].concat();
        all.sort_unstable();
        all.dedup();
        Ok((metadata, all.into_iter().map(claim).collect()))
    }
}

/// Endpoints of a service.
#[derive(Deserialize)]
pub(super) struct Slice<'a> {
    #[serde(borrow)]
    metadata: Metadata<'a>,
    endpoints: Option<Vec<Endpoint>>,
    ports: Option<Vec<Port>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Endpoint {
    addresses: Option<Vec<String>>,
    target_ref: Option<Target>,
    node_name: Option<String>,
}

#[derive(Deserialize)]
struct Target {
    kind: Option<String>,
    name: Option<String>,
}

impl Told for Slice<'_> {
    const NAME: &'static str = "endpointslices";
    const PATH: &'static str = "/apis/discovery.k8s.io/v1/endpointslices";

    fn read(object: &str) -> Result<(Metadata<'_>, Vec<Claim>), serde_json::Error> {
        let Slice { metadata, endpoints, ports: all } = serde_json::from_str(object)?;
        let labels = metadata.labels(|key| key == SERVICE_NAME)?;
        let Some(name) = labels.get(SERVICE_NAME).filter(|name| is_name(name)) else {
            return Ok((metadata, Vec::new()));
        };
        let service = [metadata.namespace.clone().into(), name.clone().into()];
        let mut claims = Vec::new();
        for endpoint in endpoints.iter().flatten() {
            let pod = endpoint.target_ref.as_ref().filter(|target| target.kind.as_deref() == Some("Pod"));
            let pod = pod.and_then(|target| target.name.clone()).filter(|name| is_name(name)).map(Into::into);
            let node = endpoint.node_name.as_ref().filter(|name| is_name(name));
            let node: Option<Text> = node.map(|name| name.clone().into());
            // Names of hosts are no addresses.
            for address in endpoint.addresses.iter().flatten().filter_map(|text| text.parse().ok()) {
                let told = Claim { address, port: 0, service: service.clone(), pod: pod.clone(), node: node.clone() };
                claims.extend(ports(all.as_ref()).map(|port| Claim { port, ..told.clone() }));
            }
        }
        Ok((metadata, claims))
    }
}

/// Gives the ports that are told; which protocol they are of tells no two services apart that are one workload.
fn ports(all: Option<&Vec<Port>>) -> impl Iterator<Item = u16> {
    let all: BTreeSet<u16> = all.into_iter().flatten().filter_map(|port| port.port).filter(|&port| port != 0).collect();
    all.into_iter()
}
