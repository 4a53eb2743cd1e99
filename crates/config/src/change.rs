//! What differs between two configurations, key by key, and how one keeps values of another.

use std::collections::BTreeSet;

use crate::node::{Data, Node};
use crate::place::Key;
use crate::{Errors, Loaded, Problem};

impl Loaded {
    /// Returns the dotted keys whose values differ, in order; of a map that only one of the two has, the map's own key.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let mut keys = Vec::new();
        compare(&self.root, &other.root, &Key::default(), &mut keys);
        keys
    }

    /// Takes the values of some keys, and of all keys below them, from another configuration.
    ///
    /// # Errors
    /// Fails when what comes out does not fit the structure, which is a defect of this crate.
    pub fn keeping(mut self, other: &Self, keys: &[&str]) -> Result<Self, Errors> {
        for key in keys {
            let path = Key::of(key);
            match (other.root.at(&path), path.0.split_last()) {
                (Some(value), _) => self.root.put(&path.0, value.clone()),
                (None, Some((last, above))) => {
                    let above = above.iter().try_fold(&mut self.root, |node, segment| node.get_mut(segment));
                    drop(above.and_then(|above| above.take(last)));
                }
                (None, None) => {}
            }
        }
        let reason = |error: serde_json::Error| Errors(vec![Problem::Inconsistent { reason: error.to_string() }]);
        self.config = serde_json::from_value(self.root.json()).map_err(reason)?;
        Ok(self)
    }
}

fn compare(one: &Node, other: &Node, key: &Key, differing: &mut Vec<String>) {
    let (Data::Map(ours), Data::Map(theirs)) = (&one.data, &other.data) else {
        if one.json() != other.json() {
            differing.push(key.to_string());
        }
        return;
    };
    let names: BTreeSet<&str> = ours.iter().chain(theirs).map(|entry| entry.key.as_str()).collect();
    for name in names {
        match (one.get(name), other.get(name)) {
            (Some(one), Some(other)) => compare(one, other, &key.child(name), differing),
            _ => differing.push(key.child(name).to_string()),
        }
    }
}
