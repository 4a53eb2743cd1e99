//! Values before they are typed: each knows where it was written.

use serde_json::Value;

use crate::place::{Key, Place};

/// One value with its place.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Node {
    pub(crate) place: Place,
    pub(crate) data: Data,
}

/// What a node holds. `Raw` is text from a variable or the command line, whose type the schema decides.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Data {
    Null,
    Bool(bool),
    Integer(i128),
    Float(f64),
    Text(String),
    Raw(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// One key of a map; the key has a place of its own.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) place: Place,
    pub(crate) value: Node,
}

impl Node {
    pub(crate) fn new(place: Place, data: Data) -> Self {
        Self { place, data }
    }

    pub(crate) fn empty(place: Place) -> Self {
        Self { place, data: Data::Map(Vec::new()) }
    }

    pub(crate) fn entries(&self) -> &[Entry] {
        match &self.data {
            Data::Map(entries) => entries,
            _ => &[],
        }
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Node> {
        self.entries().iter().find(|entry| entry.key == key).map(|entry| &entry.value)
    }

    pub(crate) fn at(&self, key: &Key) -> Option<&Node> {
        key.0.iter().try_fold(self, |node, segment| node.get(segment))
    }

    /// Finds a dotted key whose segments hold no dots themselves.
    pub(crate) fn find(&self, dotted: &str) -> Option<&Node> {
        self.at(&Key::of(dotted))
    }

    /// Puts a value at a path, making the maps on the way; what stood there is replaced.
    pub(crate) fn put(&mut self, path: &[String], value: Node) {
        let Some((first, rest)) = path.split_first() else {
            *self = value;
            return;
        };
        if !matches!(self.data, Data::Map(_)) {
            self.data = Data::Map(Vec::new());
        }
        let Data::Map(entries) = &mut self.data else { return };
        let place = value.place.clone();
        let at = entries.iter().position(|entry| entry.key == *first).unwrap_or_else(|| {
            entries.push(Entry { key: first.clone(), place: place.clone(), value: Node::empty(place) });
            entries.len() - 1
        });
        if let Some(entry) = entries.get_mut(at) {
            entry.value.put(rest, value);
        }
    }

    /// Removes a key of a map and returns what it held.
    pub(crate) fn take(&mut self, key: &str) -> Option<Node> {
        let Data::Map(entries) = &mut self.data else { return None };
        let at = entries.iter().position(|entry| entry.key == key)?;
        Some(entries.remove(at).value)
    }

    pub(crate) fn get_mut(&mut self, key: &str) -> Option<&mut Node> {
        let Data::Map(entries) = &mut self.data else { return None };
        entries.iter_mut().find(|entry| entry.key == key).map(|entry| &mut entry.value)
    }

    pub(crate) fn text(&self) -> Option<&str> {
        match &self.data {
            Data::Text(text) | Data::Raw(text) => Some(text),
            _ => None,
        }
    }

    pub(crate) fn is_default(&self) -> bool {
        self.place == Place::Default
    }

    /// Returns the value without its places.
    pub(crate) fn json(&self) -> Value {
        match &self.data {
            Data::Null => Value::Null,
            Data::Bool(value) => Value::Bool(*value),
            Data::Integer(value) => match (u64::try_from(*value), i64::try_from(*value)) {
                (Ok(value), _) => Value::from(value),
                (_, Ok(value)) => Value::from(value),
                _ => Value::from(*value as f64),
            },
            Data::Float(value) => Value::from(*value),
            Data::Text(text) | Data::Raw(text) => Value::String(text.clone()),
            Data::List(items) => Value::Array(items.iter().map(Node::json).collect()),
            Data::Map(entries) => entries.iter().map(|entry| (entry.key.clone(), entry.value.json())).collect(),
        }
    }

    /// Wraps a plain value; every part of it gets the same place.
    pub(crate) fn from_json(value: &Value, place: &Place) -> Self {
        let data = match value {
            Value::Null => Data::Null,
            Value::Bool(value) => Data::Bool(*value),
            Value::Number(number) => match (number.as_u64(), number.as_i64()) {
                (Some(value), _) => Data::Integer(value.into()),
                (_, Some(value)) => Data::Integer(value.into()),
                _ => Data::Float(number.as_f64().unwrap_or_default()),
            },
            Value::String(text) => Data::Text(text.clone()),
            Value::Array(items) => Data::List(items.iter().map(|item| Self::from_json(item, place)).collect()),
            Value::Object(map) => Data::Map(
                map.iter()
                    .map(|(key, value)| Entry {
                        key: key.clone(),
                        place: place.clone(),
                        value: Self::from_json(value, place),
                    })
                    .collect(),
            ),
        };
        Self { place: place.clone(), data }
    }
}
