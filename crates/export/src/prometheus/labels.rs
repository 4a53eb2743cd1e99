//! Attribute sets as Prometheus labels, rendered once per set and joined per series.
//!
//! A rendered set begins with eight bytes that stand for its label names. Two sets are joined by copying both, unless
//! they share a label name: whether two shapes do is found out once.

use std::borrow::Cow;

use model::{Attribute, Attributes, Rendering, Series, name};

use crate::wire;

const SHAPE: usize = 8;

/// How labels are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Syntax {
    /// `a="b",c="d"`.
    Text,
    /// `Metric.label` fields.
    Protobuf,
}

impl Syntax {
    /// Gives the two parts of a series' labels as one.
    pub(super) fn join(self, labels: [&[u8]; 2]) -> Vec<u8> {
        let comma = self == Self::Text && labels.iter().all(|part| !part.is_empty());
        labels.join(if comma { &b","[..] } else { &[] })
    }
}

/// Gives the label name of an attribute key: legal, and none of those that the exposition itself uses.
fn label(key: &str) -> Cow<'_, str> {
    match name::label(key) {
        name if name.is_empty() => Cow::Borrowed("_"),
        name if name == "le" || name.starts_with("__") => Cow::Owned(format!("exported_{name}")),
        name => name,
    }
}

/// Gives the labels of attributes in key order; the values of keys with one label name are joined by `;`.
fn labels<'a>(pairs: impl Iterator<Item = &'a Attribute>) -> Vec<(Cow<'a, str>, Cow<'a, str>)> {
    let mut labels: Vec<(Cow<'a, str>, Cow<'a, str>)> = Vec::new();
    for pair in pairs {
        let name = label(pair.key.as_str());
        match labels.iter_mut().find(|label| label.0 == name) {
            Some((_, value)) => {
                let value = value.to_mut();
                value.push(';');
                value.push_str(pair.value.as_str());
            }
            None => labels.push((name, Cow::Borrowed(pair.value.as_str()))),
        }
    }
    labels
}

fn write(labels: &[(Cow<'_, str>, Cow<'_, str>)], syntax: Syntax, out: &mut Vec<u8>) {
    for (index, (name, value)) in labels.iter().enumerate() {
        match syntax {
            Syntax::Text => {
                if index > 0 {
                    out.push(b',');
                }
                out.extend_from_slice(name.as_bytes());
                out.extend_from_slice(b"=\"");
                escape(value, true, out);
                out.push(b'"');
            }
            Syntax::Protobuf => wire::message(out, 1, |out| {
                wire::bytes(out, 1, name.as_bytes());
                wire::bytes(out, 2, value.as_bytes());
            }),
        }
    }
}

/// Appends text with backslash, line feed and, on request, the double quote escaped.
pub(super) fn escape(text: &str, quote: bool, out: &mut Vec<u8>) {
    for &byte in text.as_bytes() {
        match byte {
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'"' if quote => out.extend_from_slice(b"\\\""),
            byte => out.push(byte),
        }
    }
}

/// Gives a number that stands for the label names: 0 for none (FNV-1a).
fn shape(labels: &[(Cow<'_, str>, Cow<'_, str>)]) -> u64 {
    if labels.is_empty() {
        return 0;
    }
    let bytes = labels.iter().flat_map(|(name, _)| name.bytes().chain([0]));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

fn rendered(set: &Attributes, syntax: Syntax) -> (u64, &[u8]) {
    let rendering = match syntax {
        Syntax::Text => Rendering::PrometheusText,
        Syntax::Protobuf => Rendering::PrometheusProtobuf,
    };
    let bytes = set.rendered(rendering, |pairs| {
        let labels = labels(pairs.iter());
        let mut out = shape(&labels).to_le_bytes().to_vec();
        write(&labels, syntax, &mut out);
        out
    });
    match bytes.split_first_chunk::<SHAPE>() {
        Some((shape, labels)) => (u64::from_le_bytes(*shape), labels),
        None => (0, &[]),
    }
}

/// Joins the labels of entities and dimensions; one lives as long as one encoding.
#[derive(Default)]
pub(super) struct Joiner {
    /// Pairs of shapes met so far and whether they share a name; the last one asked for stands first.
    met: Vec<(u64, u64, bool)>,
    joined: Vec<u8>,
}

impl Joiner {
    /// Gives a series' labels in two parts, either of which may be empty.
    #[inline]
    pub(super) fn of<'a>(&'a mut self, series: &'a Series, syntax: Syntax) -> [&'a [u8]; 2] {
        let (entity, entity_labels) = rendered(&series.entity, syntax);
        let (dimensions, dimensions_labels) = rendered(&series.dimensions, syntax);
        if entity == 0 || dimensions == 0 || !self.share(series, entity, dimensions) {
            return [entity_labels, dimensions_labels];
        }
        let mut pairs: Vec<&Attribute> = series.entity.pairs().iter().chain(series.dimensions.pairs()).collect();
        pairs.sort_by(|a, b| a.key.cmp(&b.key));
        self.joined.clear();
        write(&labels(pairs.into_iter()), syntax, &mut self.joined);
        [&self.joined, &[]]
    }

    fn share(&mut self, series: &Series, entity: u64, dimensions: u64) -> bool {
        if let Some(at) = self.met.iter().position(|met| met.0 == entity && met.1 == dimensions) {
            self.met.swap(0, at);
            return self.met[0].2;
        }
        let names = labels(series.entity.pairs().iter());
        let others = labels(series.dimensions.pairs().iter());
        let share = others.iter().any(|(other, _)| names.iter().any(|(name, _)| name == other));
        self.met.insert(0, (entity, dimensions, share));
        share
    }
}

/// Appends the labels of one set.
pub(super) fn append(set: &Attributes, syntax: Syntax, out: &mut Vec<u8>) {
    out.extend_from_slice(rendered(set, syntax).1);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn set(pairs: &[(&str, &str)]) -> Arc<Attributes> {
        Arc::new(Attributes::new(pairs.iter().map(|&(k, v)| (k.to_owned().into(), v.to_owned().into()))))
    }

    fn joined(entity: &[(&str, &str)], dimensions: &[(&str, &str)]) -> String {
        let series = Series { id: 1, entity: set(entity), dimensions: set(dimensions), start: 0, base: None };
        let mut joiner = Joiner::default();
        let parts = joiner.of(&series, Syntax::Text);
        let parts: Vec<_> =
            parts.iter().filter(|part| !part.is_empty()).map(|part| str::from_utf8(part).unwrap()).collect();
        parts.join("|")
    }

    #[test]
    fn sets_are_joined_unless_they_share_a_name() {
        assert_eq!(joined(&[("a.b", "1")], &[("c", "2")]), r#"a_b="1"|c="2""#);
        assert_eq!(joined(&[("a.b", "1")], &[("a_b", "2")]), r#"a_b="1;2""#);
        assert_eq!(joined(&[("a.b", "1"), ("z", "3")], &[("z", "2")]), r#"a_b="1",z="3;2""#);
        assert_eq!(joined(&[], &[("z", "2")]), r#"z="2""#);
    }

    #[test]
    fn keys_of_one_label_are_joined_in_key_order() {
        assert_eq!(joined(&[("a_b", "2"), ("a.b", "1"), ("a-b", "0")], &[]), r#"a_b="0;1;2""#);
    }

    #[test]
    fn names_of_the_exposition_are_kept_free() {
        assert_eq!(joined(&[("le", "1"), ("__name__", "x")], &[]), r#"exported___name__="x",exported_le="1""#);
        assert_eq!(joined(&[("", "1"), ("é", "x")], &[]), r#"_="1;x""#);
    }

    #[test]
    fn values_are_escaped() {
        assert_eq!(joined(&[("a", "\"\\\n\r\0é")], &[]), "a=\"\\\"\\\\\\n\r\0é\"");
    }
}
