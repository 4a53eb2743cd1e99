//! Attribute sets, rendered at most once per wire format.
//!
//! Protobuf repeated fields and Prometheus labels both concatenate, so a data point's attributes are the bytes of its
//! entity followed by the bytes of its own dimensions. Each set keeps those bytes; readers fill them on first use.

use std::borrow::Cow;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, OnceLock};

/// Text that is either a constant or shared: cloning never copies it.
#[derive(Clone)]
pub enum Text {
    /// A constant of the program.
    Static(&'static str),
    /// A string made at run time.
    Shared(Arc<str>),
}

impl Text {
    /// Gives the text.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Static(text) => text,
            Self::Shared(text) => text,
        }
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl PartialEq for Text {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Text {}

impl PartialOrd for Text {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Text {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.as_str().cmp(other.as_str())
    }
}

impl Hash for Text {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl From<&'static str> for Text {
    fn from(text: &'static str) -> Self {
        Self::Static(text)
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        Self::Shared(text.into())
    }
}

impl From<Cow<'static, str>> for Text {
    fn from(text: Cow<'static, str>) -> Self {
        match text {
            Cow::Borrowed(text) => Self::Static(text),
            Cow::Owned(text) => text.into(),
        }
    }
}

/// One key (dotted, as in OTLP) and its value.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Attribute {
    /// The attribute's key.
    pub key: Text,
    /// The attribute's value; never empty within an [`Attributes`].
    pub value: Text,
}

/// The wire formats whose bytes an attribute set keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rendering {
    /// `NumberDataPoint.attributes` fields.
    OtlpNumber,
    /// `HistogramDataPoint.attributes` fields.
    OtlpHistogram,
    /// `ExponentialHistogramDataPoint.attributes` fields.
    OtlpExponential,
    /// `key="value"` pairs joined by commas.
    PrometheusText,
    /// `Metric.label` fields.
    PrometheusProtobuf,
}

const RENDERINGS: usize = 5;

/// An immutable attribute set, sorted by key, with no empty values.
///
/// Equality and hashing look at the attributes only.
#[derive(Default)]
pub struct Attributes {
    pairs: Box<[Attribute]>,
    rendered: [OnceLock<Box<[u8]>>; RENDERINGS],
}

impl Attributes {
    /// Makes a set of the pairs, dropping empty values; of two pairs with one key the later one stays.
    pub fn new(pairs: impl IntoIterator<Item = (Text, Text)>) -> Self {
        let mut all: Vec<Attribute> = Vec::new();
        for (key, value) in pairs {
            if value.as_str().is_empty() {
                continue;
            }
            match all.iter_mut().find(|attribute| attribute.key == key) {
                Some(attribute) => attribute.value = value,
                None => all.push(Attribute { key, value }),
            }
        }
        all.sort_by(|a, b| a.key.cmp(&b.key));
        Self { pairs: all.into(), rendered: Default::default() }
    }

    /// Gives the attributes in key order.
    pub fn pairs(&self) -> &[Attribute] {
        &self.pairs
    }

    /// Gives the value of a key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.pairs.iter().find(|attribute| attribute.key.as_str() == key).map(|attribute| attribute.value.as_str())
    }

    /// Says whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// Gives the set's bytes in a wire format, made by `render` the first time they are asked for.
    pub fn rendered(&self, format: Rendering, render: impl FnOnce(&[Attribute]) -> Vec<u8>) -> &[u8] {
        self.rendered[format as usize].get_or_init(|| render(&self.pairs).into_boxed_slice())
    }
}

impl fmt::Debug for Attributes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.pairs.iter().map(|attribute| (&attribute.key, &attribute.value))).finish()
    }
}

impl PartialEq for Attributes {
    fn eq(&self, other: &Self) -> bool {
        self.pairs == other.pairs
    }
}

impl Eq for Attributes {}

impl Hash for Attributes {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.pairs.hash(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_sorted_and_lack_empty_values() {
        let set = Attributes::new([("b".into(), "2".into()), ("c".into(), "".into()), ("a".into(), "1".into())]);
        let keys: Vec<_> = set.pairs().iter().map(|attribute| attribute.key.as_str()).collect();
        assert_eq!(keys, ["a", "b"]);
        assert_eq!(set.get("b"), Some("2"));
        assert_eq!(set.get("c"), None);
    }

    #[test]
    fn a_rendering_is_made_once() {
        let set = Attributes::new([("a".into(), "1".into())]);
        assert_eq!(set.rendered(Rendering::PrometheusText, |_| b"x".to_vec()), b"x");
        assert_eq!(set.rendered(Rendering::PrometheusText, |_| b"y".to_vec()), b"x");
        assert_eq!(set.rendered(Rendering::OtlpNumber, |_| b"z".to_vec()), b"z");
    }
}
