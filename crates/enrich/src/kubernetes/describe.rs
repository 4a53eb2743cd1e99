//! What is kept of a pod: the names and containers that enrichment wants, and whether the filters want the pod.

use std::collections::BTreeMap;

use kube::core::SelectorExt;
use model::Text;

use super::Kubernetes;
use super::owner::TEMPLATE_HASH;
use super::pod::{CONFIG_HASH, Object, is_name, value};
use crate::{Container, Pod};

/// Labels or annotations.
type Texts = BTreeMap<String, String>;

impl Kubernetes {
    /// Reads a pod, with those of its labels and annotations that matter.
    pub(super) fn read<'a>(&self, object: &'a str) -> Result<(Object<'a>, Texts, Texts), serde_json::Error> {
        let object = serde_json::from_str::<Object<'_>>(object)?;
        let is_in = |wanted: &[String], key: &str| wanted.iter().any(|wanted| wanted == key);
        let all = !self.selector.selects_all();
        let labels = object.metadata.labels(|key| all || key == TEMPLATE_HASH || is_in(&self.labels, key))?;
        let annotations = object.metadata.annotations(|key| key == CONFIG_HASH || is_in(&self.annotations, key))?;
        Ok((object, labels, annotations))
    }

    /// Gives what is kept of a pod whose names are sound, its owner aside.
    pub(super) fn describe(&self, object: &Object<'_>, labels: &Texts, annotations: &Texts) -> Pod {
        let metadata = &object.metadata;
        let mut names: Vec<(Text, Text)> = vec![
            ("k8s.namespace.name".into(), metadata.namespace.clone().into()),
            ("k8s.pod.name".into(), metadata.name.clone().into()),
        ];
        for (prefix, wanted, found) in
            [("k8s.pod.label.", &self.labels, labels), ("k8s.pod.annotation.", &self.annotations, annotations)]
        {
            let found = wanted.iter().filter_map(|key| Some((key, found.get(key)?)));
            names.extend(found.map(|(key, text)| (format!("{prefix}{key}").into(), value(text).into())));
        }
        let alias = annotations.get(CONFIG_HASH).filter(|hash| **hash != metadata.uid && is_name(hash));
        let is_chosen = self.namespaces.is_empty() || self.namespaces.contains(&metadata.namespace);
        Pod {
            uid: metadata.uid.as_str().into(),
            alias: alias.map(|hash| hash.as_str().into()),
            names: names.into(),
            observed: is_chosen && self.selector.matches(labels),
            containers: containers(object),
            addresses: object.addresses(),
        }
    }
}

fn containers(object: &Object<'_>) -> Vec<Container> {
    let sound = object.containers().filter(|(name, _, id)| is_name(name) && is_name(id));
    let containers = sound.map(|(name, image, id)| {
        let name = (Text::Static("k8s.container.name"), Text::from(name.to_owned()));
        let image = image.filter(|image| is_name(image));
        let image = image.map(|image| (Text::Static("container.image.name"), Text::from(image.to_owned())));
        Container { id: id.into(), names: std::iter::once(name).chain(image).collect() }
    });
    containers.collect()
}
