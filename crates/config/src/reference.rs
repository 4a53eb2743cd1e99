//! The reference: every key with its default and its doc comment, as a file that loads.

use std::fmt::Write as _;

use serde_json::Value;

use crate::check::{brief, values};
use crate::collectors::Section;
use crate::inert;
use crate::layers::{self, Sources};
use crate::node::{Data, Node};
use crate::place::{Key, Place};
use crate::print::{inline, ordered, text};
use crate::schema::schema;

const HEAD: &str = "\
# Every key of Telesonde, with its default. An empty file means the same as this one.
#
# This file is generated. Remove the # before a key (not followed by a space) to set what is optional.
# Durations are written 15s, 1m 30s or 500ms, sizes 65536 or 64KiB. See docs/configuration.md.

";

/// Renders configs/reference.yaml.
pub fn reference(sections: &[Section]) -> String {
    let schema = schema(sections);
    let (mut problems, mut warnings) = (Vec::new(), Vec::new());
    let tree = layers::merge(&Sources::default(), sections, &schema, &mut problems, &mut warnings);
    let mut out = String::from(HEAD);
    Writer { out: &mut out }.map(&tree.root, &schema, &Key::default(), false);
    out
}

struct Writer<'a> {
    out: &'a mut String,
}

impl Writer<'_> {
    /// Writes every key that the schema has; those that the tree lacks are optional and commented out.
    fn map(&mut self, node: &Node, schema: &Value, key: &Key, off: bool) {
        let properties = schema.get("properties").and_then(Value::as_object);
        for (name, of) in properties.into_iter().flatten() {
            let own = key.child(name);
            if own.0.len() == 1 && !self.out.ends_with("\n\n") {
                self.out.push('\n');
            }
            // The short forms, which stand below, name collectors of later versions.
            if of.get("x-absent").is_some() {
                continue;
            }
            let value = node.get(name).cloned();
            let off = off || value.is_none() || inert::is_written_off(&own.to_string());
            let value = value.unwrap_or_else(|| optional(name, of));
            self.comment(of, own.0.len() - 1);
            self.value(name, &value, of, &own, off);
        }
    }

    fn value(&mut self, name: &str, value: &Node, of: &Value, key: &Key, off: bool) {
        let depth = key.0.len() - 1;
        let known = of.get("properties").and_then(Value::as_object).is_some_and(|known| !known.is_empty());
        if known {
            self.line(depth, off, &format!("{}:", text(name)));
            return self.map(value, of, key, off);
        }
        // A map of the user's own things shows what one of them may hold.
        if let Some(of) = values(of).filter(|of| of.get("properties").is_some()) {
            self.line(depth, off, &format!("{}: {{}}", text(name)));
            self.line(depth, true, &format!("{}:", text(name)));
            self.line(depth + 1, true, "main:");
            return self.map(&layers::endpoint(), of, &key.child("main"), true);
        }
        let whole = ordered(value, of).is_empty() || !matches!(value.data, Data::Map(_));
        let shown = if whole || depth > 0 { inline(value, false) } else { String::new() };
        self.line(depth, off, &format!("{}: {shown}", text(name)));
    }

    fn line(&mut self, depth: usize, off: bool, line: &str) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.out, "{}{}{}", "  ".repeat(depth), if off { "#" } else { "" }, line.trim_end());
    }

    fn comment(&mut self, schema: &Value, depth: usize) {
        let mut words =
            schema.get("description").and_then(Value::as_str).unwrap_or_default().replace('\n', " ").replace('`', "");
        if let Some(brief) = brief(schema) {
            let _ = write!(words, " ({brief})");
        }
        let width = 116_usize.saturating_sub(depth * 2);
        let mut line = String::new();
        for word in words.split_whitespace() {
            if !line.is_empty() && line.len() + word.len() + 1 > width {
                self.line(depth, false, &format!("# {line}"));
                line.clear();
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        if !line.is_empty() {
            self.line(depth, false, &format!("# {line}"));
        }
    }
}

/// What stands behind a key that has no default: an example, so that removing the # gives something that loads.
fn optional(name: &str, schema: &Value) -> Node {
    if schema.get("properties").is_some() {
        return Node::empty(Place::Default);
    }
    let fallback = Value::Bool(name.starts_with("collect_") || name == "enabled");
    let example = schema.get("default").or_else(|| schema.get("examples").and_then(|examples| examples.get(0)));
    Node::from_json(example.unwrap_or(&fallback), &Place::Default)
}
