//! Keys that are accepted and whose effect is still to come: one warning each, where somebody asks for that effect.

use serde_json::Value;

use crate::error::Warning;
use crate::node::Node;
use crate::sections::Config;
use crate::size;

/// What is said of all of them.
pub(crate) const NOT_YET: &str = "accepted, but what it controls is not in this version yet";

/// When a value asks for an effect that is not there.
#[derive(Clone, Copy)]
enum When {
    /// Whenever it is written.
    Written,
    /// When it is not the default.
    Differs,
}

const KEYS: [(&str, When); 2] =
    [("integrations.ebpf.programs_path", When::Differs), ("integrations.ebpf.max_stack_depth", When::Written)];

/// Tells whether the very mention of a key gives a warning.
pub(crate) fn is_written_off(key: &str) -> bool {
    KEYS.iter().any(|(inert, when)| *inert == key && matches!(when, When::Written))
}

/// Returns the keys that have no effect whatever their value.
pub(crate) fn silent() -> impl Iterator<Item = &'static str> {
    KEYS.into_iter().map(|(key, _)| key)
}

/// Adds one warning for each such key that is set.
pub(crate) fn judge(root: &Node, warnings: &mut Vec<Warning>) {
    let defaults = serde_json::to_value(Config::default()).unwrap_or_default();
    for (key, when) in KEYS {
        let Some(node) = root.find(key).filter(|node| !node.is_default()) else { continue };
        let default = defaults.pointer(&format!("/{}", key.replace('.', "/"))).unwrap_or(&Value::Null);
        let differs = !same(&node.json(), default);
        let asks = match when {
            When::Written => true,
            When::Differs => differs,
        };
        if asks {
            let (place, key) = (node.place.clone(), key.to_owned());
            warnings.push(Warning { place, key, message: NOT_YET.to_owned() });
        }
    }
}

/// Compares two values; a size may be a number or text.
fn same(a: &Value, b: &Value) -> bool {
    let bytes = |value: &Value| value.as_u64().or_else(|| size::parse(value.as_str()?).ok());
    a == b || (bytes(a).is_some() && bytes(a) == bytes(b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::Data;
    use crate::place::Place;

    #[test]
    fn each_key_exists_and_warns_once_when_it_asks_for_something() {
        let defaults = serde_json::to_value(Config::default()).expect("json");
        for (key, _) in KEYS {
            let default = defaults.pointer(&format!("/{}", key.replace('.', "/")));
            assert!(default.is_some(), "{key} is no key");
            let asks = Data::Text("something".to_owned());
            let mut root = Node::empty(Place::Set);
            root.put(&crate::place::Key::of(key).0, Node::new(Place::Set, asks));
            let mut warnings = Vec::new();
            judge(&root, &mut warnings);
            assert_eq!(warnings.iter().map(|warning| warning.key.as_str()).collect::<Vec<_>>(), [key]);
        }
    }
}
