//! A pod as the API writes it: only what names and filters need is kept, the rest is skipped while it is read.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::time::SystemTime;

use serde::Deserialize;
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The annotation of a mirror pod that has the UID of the static pod in the paths of its cgroups.
pub(super) const CONFIG_HASH: &str = "kubernetes.io/config.hash";

/// The longest name that the API knows of anything.
const LONGEST_NAME: usize = 253;

/// The longest value of a label or annotation that becomes an attribute; what is beyond is cut off.
const LONGEST_VALUE: usize = 256;

/// An event of a watch.
#[derive(Deserialize)]
pub(super) struct Event<'a> {
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(borrow)]
    pub object: &'a RawValue,
}

/// A list of objects.
#[derive(Deserialize)]
pub(super) struct List<'a> {
    #[serde(default)]
    pub metadata: ListMetadata,
    #[serde(borrow)]
    pub items: Option<Vec<&'a RawValue>>,
}

/// What a list or a bookmark says of itself.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ListMetadata {
    pub resource_version: Option<String>,
}

/// An object of which nothing but its version matters.
#[derive(Deserialize)]
pub(super) struct Versioned {
    pub metadata: ListMetadata,
}

/// What the API says of a request that it did not carry out.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Status {
    pub code: u16,
    pub message: String,
}

/// A pod.
#[derive(Deserialize)]
pub(super) struct Object<'a> {
    #[serde(borrow)]
    pub metadata: Metadata<'a>,
    #[serde(default)]
    pub spec: Option<Spec>,
    #[serde(default)]
    pub status: Option<Conditions>,
}

/// Any object's metadata.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Metadata<'a> {
    pub name: String,
    #[serde(default)]
    pub namespace: String,
    pub uid: String,
    pub creation_timestamp: Option<String>,
    #[serde(borrow, default)]
    labels: Option<&'a RawValue>,
    #[serde(borrow, default)]
    annotations: Option<&'a RawValue>,
    pub owner_references: Option<Vec<OwnerReference>>,
}

/// What an object belongs to.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct OwnerReference {
    #[serde(default)]
    pub api_version: String,
    pub kind: String,
    pub name: String,
    pub uid: String,
    pub controller: Option<bool>,
}

/// What is wanted of a pod.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Spec {
    host_network: Option<bool>,
    containers: Option<Vec<Image>>,
    init_containers: Option<Vec<Image>>,
    ephemeral_containers: Option<Vec<Image>>,
}

#[derive(Deserialize)]
struct Image {
    name: String,
    image: Option<String>,
}

/// What has become of a pod.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Conditions {
    phase: Option<String>,
    #[serde(rename = "podIP")]
    address: Option<String>,
    #[serde(rename = "podIPs")]
    addresses: Option<Vec<Address>>,
    #[serde(rename = "hostIP")]
    host_address: Option<String>,
    #[serde(rename = "hostIPs")]
    host_addresses: Option<Vec<Address>>,
    #[serde(rename = "containerStatuses")]
    containers: Option<Vec<ContainerStatus>>,
    #[serde(rename = "initContainerStatuses")]
    init_containers: Option<Vec<ContainerStatus>>,
    #[serde(rename = "ephemeralContainerStatuses")]
    ephemeral_containers: Option<Vec<ContainerStatus>>,
}

#[derive(Deserialize)]
struct Address {
    ip: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ContainerStatus {
    name: String,
    #[serde(rename = "containerID")]
    id: Option<String>,
    state: Option<ContainerState>,
    last_state: Option<ContainerState>,
}

#[derive(Deserialize)]
struct ContainerState {
    terminated: Option<Terminated>,
}

#[derive(Deserialize)]
struct Terminated {
    #[serde(rename = "containerID")]
    id: Option<String>,
}

impl Metadata<'_> {
    /// Gives the labels that are wanted.
    pub fn labels(&self, wanted: impl Fn(&str) -> bool) -> Result<BTreeMap<String, String>, serde_json::Error> {
        select(self.labels, &wanted)
    }

    /// Gives the annotations that are wanted; the rest, however large, is skipped.
    pub fn annotations(&self, wanted: impl Fn(&str) -> bool) -> Result<BTreeMap<String, String>, serde_json::Error> {
        select(self.annotations, &wanted)
    }

    /// Gives the owner that manages the object.
    pub fn owner(&self) -> Option<&OwnerReference> {
        self.owner_references.as_ref()?.iter().find(|owner| owner.controller == Some(true))
    }

    /// Gives when the object was made.
    pub fn created(&self) -> Option<SystemTime> {
        humantime::parse_rfc3339(self.creation_timestamp.as_deref()?).ok()
    }

    /// Says whether everything that is to become a name is one.
    pub fn is_sound(&self) -> bool {
        [&self.name, &self.namespace, &self.uid].into_iter().all(|name| is_name(name))
    }
}

impl Object<'_> {
    /// Gives name, image and each known id of every container of every sort, earlier ids before later ones.
    pub fn containers(&self) -> impl Iterator<Item = (&str, Option<&str>, &str)> {
        let lists = self
            .status
            .iter()
            .flat_map(|status| [&status.init_containers, &status.containers, &status.ephemeral_containers]);
        lists.flatten().flatten().flat_map(|status| {
            let image = self.image(&status.name);
            let ended =
                [&status.last_state, &status.state].map(|state| state.as_ref()?.terminated.as_ref()?.id.as_deref());
            let ids = [ended[0], ended[1], status.id.as_deref()];
            // A container that never ran has an empty id.
            let ids = ids.into_iter().flatten().filter(|id| !id.is_empty());
            ids.map(move |id| (status.name.as_str(), image, id.split_once("://").map_or(id, |(_, id)| id)))
        })
    }

    /// Gives the addresses that are the pod's own: those of the node are not, and those of a pod that has ended may be
    /// another's by now.
    pub fn addresses(&self) -> Vec<IpAddr> {
        let shared = self.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true));
        let status = self
            .status
            .as_ref()
            .filter(|status| !shared && !matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")));
        let of_pod = |status: &Conditions| parse(status.addresses.as_deref(), status.address.as_deref());
        status.map(of_pod).unwrap_or_default()
    }

    /// Gives the addresses of the node that the pod is on.
    pub fn host_addresses(&self) -> Vec<IpAddr> {
        let of_host = |status: &Conditions| parse(status.host_addresses.as_deref(), status.host_address.as_deref());
        self.status.as_ref().map(of_host).unwrap_or_default()
    }

    /// Says what cannot be used of it.
    pub fn flaws(&self) -> Vec<&'static str> {
        let pod = (!self.metadata.is_sound()).then_some("a pod whose names are none");
        let unsound = self.containers().filter(|(name, _, id)| !is_name(name) || !is_name(id));
        pod.into_iter().chain(unsound.map(|_| "a container whose name or id is none")).collect()
    }

    /// Gives the image that a container is to run, without tag and digest.
    fn image(&self, container: &str) -> Option<&str> {
        let spec = self.spec.as_ref()?;
        let lists = [&spec.containers, &spec.init_containers, &spec.ephemeral_containers];
        let image = lists.into_iter().flatten().flatten().find(|image| image.name == container)?.image.as_deref()?;
        let repository = image.split_once('@').map_or(image, |(repository, _)| repository);
        let slash = repository.rfind('/').unwrap_or(0);
        let tag = repository[slash..].find(':').map_or(repository.len(), |colon| slash + colon);
        Some(&repository[..tag])
    }
}

/// Gives the addresses of a list, and of the field that older servers have alone.
fn parse(all: Option<&[Address]>, one: Option<&str>) -> Vec<IpAddr> {
    let all = all.unwrap_or_default().iter().map(|address| address.ip.as_str());
    let mut found: Vec<IpAddr> = all.chain(one).filter_map(|text| text.parse().ok()).collect();
    found.sort_unstable();
    found.dedup();
    found
}

/// Says whether a text can be a name: the API knows none that is longer or has other characters.
pub(super) fn is_name(text: &str) -> bool {
    !text.is_empty() && text.len() <= LONGEST_NAME && text.chars().all(|c| c.is_ascii_graphic())
}

/// Makes a value of a label or annotation fit for an attribute.
pub(super) fn value(text: &str) -> String {
    let end = (0..=LONGEST_VALUE.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
    text[..end].chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn select(
    map: Option<&RawValue>,
    wanted: &dyn Fn(&str) -> bool,
) -> Result<BTreeMap<String, String>, serde_json::Error> {
    let Some(map) = map.filter(|map| map.get() != "null") else { return Ok(BTreeMap::new()) };
    Selection(wanted).deserialize(&mut serde_json::Deserializer::from_str(map.get()))
}

/// Reads those entries of a map whose keys are wanted.
struct Selection<'w>(&'w dyn Fn(&str) -> bool);

impl<'de> DeserializeSeed<'de> for Selection<'_> {
    type Value = BTreeMap<String, String>;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Selection<'_> {
    type Value = BTreeMap<String, String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of texts")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = BTreeMap::new();
        while let Some(key) = map.next_key::<String>()? {
            if (self.0)(&key) {
                found.insert(key, map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests;
