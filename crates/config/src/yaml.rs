//! YAML 1.2 with the core types, every node with its line and column. Duplicate keys are errors; aliases work, within bounds.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Tag};

use crate::error::Problem;
use crate::node::{Data, Entry, Node};
use crate::place::{Key, Place};

/// Bounds what a file may unfold to, so that nested aliases cannot exhaust the memory.
const MAX_NODES: usize = 200_000;
/// Bounds how deep maps and lists nest; ours are at most seven deep.
const MAX_DEPTH: usize = 64;

/// Parses one document. An empty text is an empty map.
pub(crate) fn parse(text: &str, path: &Arc<Path>) -> Result<Node, Vec<Problem>> {
    let mut builder = Builder {
        path: Arc::clone(path),
        open: Vec::new(),
        root: None,
        documents: 0,
        anchors: HashMap::new(),
        nodes: 0,
        problems: Vec::new(),
    };
    for event in Parser::new_from_str(text.trim_start_matches('\u{feff}')) {
        match event {
            Ok((event, span)) => builder.event(event, span.start),
            Err(error) => builder.syntax(*error.marker(), error.info().to_owned()),
        }
        // After the first thing that is not YAML the rest means nothing; duplicates are all worth telling.
        if builder.problems.iter().any(|problem| matches!(problem, Problem::Syntax { .. })) {
            break;
        }
    }
    if builder.problems.is_empty() {
        Ok(builder.root.unwrap_or_else(|| Node::new(Place::file(path, 1, 1), Data::Null)))
    } else {
        Err(builder.problems)
    }
}

/// A list or a map that has not ended yet.
struct Open {
    anchor: usize,
    node: Node,
    /// The key that waits for its value; None in lists and between entries.
    key: Option<(String, Place)>,
}

struct Builder {
    path: Arc<Path>,
    open: Vec<Open>,
    root: Option<Node>,
    documents: usize,
    anchors: HashMap<usize, Node>,
    nodes: usize,
    problems: Vec<Problem>,
}

impl Builder {
    fn event(&mut self, event: Event<'_>, at: Marker) {
        let place = Place::file(&self.path, at.line(), at.col() + 1);
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
            Event::DocumentStart(_) => {
                self.documents += 1;
                if self.documents > 1 {
                    self.syntax(at, "a second document begins here; a configuration file holds one".to_owned());
                }
            }
            Event::Alias(anchor) => match self.anchors.get(&anchor) {
                Some(node) => {
                    let node = Node { place, data: node.data.clone() };
                    self.nodes += size(&node);
                    self.add(node, at, 0);
                }
                None => self.syntax(at, "this alias names an anchor that is not complete yet".to_owned()),
            },
            Event::Scalar(text, style, anchor, tag) => {
                if self.waits_for_key() {
                    self.key(text.into_owned(), place);
                } else {
                    match scalar(text.as_ref(), style, tag.as_deref()) {
                        Ok(data) => self.add(Node { place, data }, at, anchor),
                        Err(reason) => self.syntax(at, reason),
                    }
                }
            }
            Event::SequenceStart(anchor, _) => self.start(anchor, Node::new(place, Data::List(Vec::new())), at),
            Event::MappingStart(anchor, _) => self.start(anchor, Node::empty(place), at),
            Event::SequenceEnd | Event::MappingEnd => {
                if let Some(open) = self.open.pop() {
                    self.add(open.node, at, open.anchor);
                }
            }
        }
    }

    fn waits_for_key(&self) -> bool {
        self.open.last().is_some_and(|open| matches!(open.node.data, Data::Map(_)) && open.key.is_none())
    }

    fn start(&mut self, anchor: usize, node: Node, at: Marker) {
        if self.waits_for_key() {
            return self.syntax(at, "a key must be plain text, not a list or a map".to_owned());
        }
        if self.open.len() >= MAX_DEPTH {
            return self.syntax(at, format!("maps and lists are nested more than {MAX_DEPTH} deep"));
        }
        self.open.push(Open { anchor, node, key: None });
    }

    fn key(&mut self, key: String, place: Place) {
        let dotted = Key(self.open.iter().filter_map(|open| open.key.as_ref()).map(|(key, _)| key.clone()).collect())
            .child(&key);
        let Some(open) = self.open.last_mut() else { return };
        let first = open.node.entries().iter().find(|entry| entry.key == key).map(|entry| entry.place.clone());
        open.key = Some((key, place.clone()));
        if let Some(Place::File { line: first, .. }) = first {
            self.problems.push(Problem::DuplicateKey { place, key: dotted.to_string(), first });
        }
    }

    fn add(&mut self, node: Node, at: Marker, anchor: usize) {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return self.syntax(at, format!("the file unfolds to more than {MAX_NODES} values"));
        }
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        match self.open.last_mut() {
            None => self.root = Some(node),
            Some(open) => match &mut open.node.data {
                Data::List(items) => items.push(node),
                Data::Map(entries) => {
                    if let Some((key, place)) = open.key.take() {
                        entries.push(Entry { key, place, value: node });
                    }
                }
                _ => {}
            },
        }
    }

    fn syntax(&mut self, at: Marker, reason: String) {
        let place = Place::file(&self.path, at.line(), at.col() + 1);
        self.problems.push(Problem::Syntax { place, reason });
    }
}

fn size(node: &Node) -> usize {
    match &node.data {
        Data::List(items) => 1 + items.iter().map(size).sum::<usize>(),
        Data::Map(entries) => 1 + entries.iter().map(|entry| size(&entry.value)).sum::<usize>(),
        _ => 1,
    }
}

fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Result<Data, String> {
    match tag {
        None if style == ScalarStyle::Plain => Ok(plain(text)),
        None => Ok(Data::Text(text.to_owned())),
        Some(tag) if tag.is_yaml_core_schema() && tag.suffix == "str" => Ok(Data::Text(text.to_owned())),
        Some(tag) if tag.is_yaml_core_schema() => {
            let data = plain(text);
            let fits = matches!(
                (tag.suffix.as_str(), &data),
                ("null", Data::Null) | ("bool", Data::Bool(_)) | ("int", Data::Integer(_)) | ("float", Data::Float(_))
            );
            if fits { Ok(data) } else { Err(format!("this value is not a !!{}", tag.suffix)) }
        }
        Some(tag) => Err(format!("the tag {}{} has no meaning here; remove it", tag.handle, tag.suffix)),
    }
}

/// Resolves an unquoted scalar by the core schema of YAML 1.2: `yes`, `on` and `0777` are not what they were in 1.1.
pub(crate) fn plain(text: &str) -> Data {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Data::Null,
        "true" | "True" | "TRUE" => return Data::Bool(true),
        "false" | "False" | "FALSE" => return Data::Bool(false),
        _ => {}
    }
    if let Some(value) = integer(text) {
        return Data::Integer(value);
    }
    let body = text.trim_start_matches(['+', '-']);
    let numeric = body.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && body.contains(|c: char| c.is_ascii_digit())
        && text.len() <= body.len() + 1;
    match text.parse::<f64>() {
        Ok(value) if numeric => Data::Float(value),
        _ => Data::Text(text.to_owned()),
    }
}

fn integer(text: &str) -> Option<i128> {
    if let Some(digits) = text.strip_prefix("0x") {
        return i128::from_str_radix(digits, 16).ok();
    }
    if let Some(digits) = text.strip_prefix("0o") {
        return i128::from_str_radix(digits, 8).ok();
    }
    text.parse().ok()
}

#[cfg(test)]
mod tests;
