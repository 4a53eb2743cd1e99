//! What an API server may send: entrances for `fuzz/`, which the tests of every run go through as well.

use serde_json::value::RawValue;

use super::Kubernetes;
use super::lines::Lines;
use super::owner;
use super::pod::{Event, List, Status, Versioned, value};

/// The longest object.
const LIMIT: usize = 1 << 16;

/// Reads a list, and the same bytes as the lines of a watch, in pieces.
pub fn kubernetes_objects(data: &[u8]) {
    let reader = Kubernetes {
        labels: vec!["app".to_owned()],
        annotations: vec!["team".to_owned()],
        namespaces: vec!["shop".to_owned()],
        selector: super::parse_selector("app in (web,api),!old").unwrap_or_default(),
        ..Kubernetes::default()
    };
    if let Ok(list) = serde_json::from_slice::<List<'_>>(data) {
        for item in list.items.unwrap_or_default() {
            object(&reader, item);
        }
    }
    let mut lines = Lines::new(LIMIT);
    for piece in data.chunks(7) {
        let each = |line: Option<&[u8]>| {
            if let Some(event) = line.and_then(|line| serde_json::from_slice::<Event<'_>>(line).ok()) {
                object(&reader, event.object);
            }
            Ok::<(), ()>(())
        };
        // Nothing here refuses a line.
        let _ = lines.push(piece, each);
    }
}

fn object(reader: &Kubernetes, object: &RawValue) {
    let text = object.get();
    drop(serde_json::from_str::<Status>(text).map(|status| value(&status.message)));
    drop(serde_json::from_str::<Versioned>(text));
    if let Ok((object, labels, annotations)) = reader.read(text) {
        drop(object.flaws());
        if object.metadata.is_sound() {
            drop(reader.describe(&object, &labels, &annotations));
            drop(owner::told(&object.metadata, &labels));
        }
    }
}
