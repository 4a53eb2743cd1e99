//! The sections of collectors: open to this crate, described by whoever has the collectors.

use serde_json::Value;

use crate::error::{Problem, Warning};
use crate::inert::NOT_YET;
use crate::nearest::nearest;
use crate::node::{Data, Entry, Node};
use crate::place::{Key, Place};
use crate::switch::Enabled;

/// The collectors that documents name, whether or not this build has them.
pub(crate) const DOCUMENTED: [&str; 8] =
    ["syscalls", "network", "file_io", "scheduler", "memory", "tcp", "dns", "http"];

/// The collector behind the `cilium` block, which is off unless somebody switches it on.
const HUBBLE: &str = "hubble";

/// What the configuration must know of one collector.
#[derive(Clone, Debug)]
pub struct Section {
    /// The collector's name, the key of its section.
    pub name: &'static str,
    /// A map of its keys with their defaults; `enabled` is not among them.
    pub defaults: Value,
    /// The JSON Schema of that map, with the doc comments as descriptions.
    pub schema: Value,
    /// Judges what a schema cannot. A message that begins with one of the section's keys and a colon is placed at that key.
    pub check: fn(&Value) -> Result<(), String>,
}

/// What the configuration says of one collector.
#[derive(Clone, Debug, PartialEq)]
pub struct Selection {
    /// The collector's name.
    pub name: &'static str,
    /// Whether it runs; false for all where `integrations.ebpf.enabled` is.
    pub enabled: Enabled,
    /// Its merged section, without `enabled`.
    pub section: Value,
}

/// Returns the short form of `collectors.NAME.enabled`.
pub fn short_form(name: &str) -> String {
    if name == "tcp" { "collect_tcp_events".to_owned() } else { format!("collect_{name}") }
}

/// Returns the key of a collector's section.
pub fn section_key(name: &str) -> String {
    if name == HUBBLE { "integrations.ebpf.cilium".to_owned() } else { format!("integrations.ebpf.collectors.{name}") }
}

/// Returns the names of all collectors that have a section or are documented, those of this build first.
pub(crate) fn names(sections: &[Section]) -> Vec<&'static str> {
    let own = sections.iter().map(|section| section.name).filter(|name| *name != HUBBLE);
    let absent = DOCUMENTED.iter().copied().filter(|name| !sections.iter().any(|section| section.name == *name));
    own.chain(absent).collect()
}

pub(crate) fn is_present(name: &str, sections: &[Section]) -> bool {
    sections.iter().any(|section| section.name == name)
}

/// Turns the short forms of one layer into the long ones, so that a later layer wins whichever form it uses.
pub(crate) fn unfold(root: &mut Node, sections: &[Section], problems: &mut Vec<Problem>) {
    let Some(ebpf) = root.get_mut("integrations").and_then(|node| node.get_mut("ebpf")) else { return };
    for name in names(sections) {
        let short = short_form(name);
        let Some(value) = ebpf.take(&short) else { continue };
        let long = ["collectors".to_owned(), name.to_owned(), "enabled".to_owned()];
        match ebpf.at(&Key(long.to_vec())) {
            None => ebpf.put(&long, value),
            Some(other) if agree(&other.data, &value.data) => {}
            Some(other) => problems.push(Problem::Conflict {
                place: value.place.clone(),
                key: format!("integrations.ebpf.{short}"),
                reason: format!(
                    "it contradicts collectors.{name}.enabled ({}); keep one of the two",
                    other.place.origin()
                ),
            }),
        }
    }
}

/// `collect_x: true` and `enabled: require` do not contradict each other.
fn agree(long: &Data, short: &Data) -> bool {
    matches!(long, Data::Bool(false)) == matches!(short, Data::Bool(false))
}

/// Returns the default layer's collectors: all of this build, each with its own defaults.
pub(crate) fn defaults(sections: &[Section]) -> Node {
    let entries = sections.iter().filter(|section| section.name != HUBBLE).map(|section| {
        let value = default(section, true);
        Entry { key: section.name.to_owned(), place: Place::Default, value }
    });
    Node::new(Place::Default, Data::Map(entries.collect()))
}

/// Returns the section behind the `cilium` block.
pub(crate) fn hubble(sections: &[Section]) -> Option<&Section> {
    sections.iter().find(|section| section.name == HUBBLE)
}

/// Returns a section's defaults, switched on or off.
pub(crate) fn default(section: &Section, enabled: bool) -> Node {
    let mut node = Node::from_json(&section.defaults, &Place::Default);
    node.take("enabled");
    node.put(&["enabled".to_owned()], Node::new(Place::Default, Data::Bool(enabled)));
    node
}

/// Reads the merged tree: what is selected, what is refused, and what is asked for but not in this build.
pub(crate) fn select(
    root: &Node,
    sections: &[Section],
    problems: &mut Vec<Problem>,
    warnings: &mut Vec<Warning>,
) -> Vec<Selection> {
    let Some(ebpf) = root.find("integrations.ebpf") else { return Vec::new() };
    let running = !matches!(ebpf.get("enabled").map(|node| &node.data), Some(Data::Bool(false)));
    absent(ebpf, sections, problems, warnings);
    let mut selections = Vec::with_capacity(sections.len());
    for section in sections {
        let path = section_key(section.name);
        let Some(mut node) = root.find(&path).cloned() else { continue };
        let enabled = match node.take("enabled").map(|node| node.data) {
            Some(Data::Bool(false)) => Enabled::False,
            Some(Data::Text(_)) => Enabled::Require,
            _ => Enabled::True,
        };
        let value = node.json();
        if let Err(reason) = (section.check)(&value) {
            problems.push(blame(section, &node, &path, reason));
        }
        let enabled = if running { enabled } else { Enabled::False };
        selections.push(Selection { name: section.name, enabled, section: value });
    }
    selections
}

/// Judges the budgets of collectors, which users name.
pub(crate) fn budgets(root: &Node, sections: &[Section], problems: &mut Vec<Problem>) {
    let Some(budgets) = root.find("budget.collectors") else { return };
    for entry in budgets.entries() {
        let reason = if !sections.iter().any(|section| section.name == entry.key) {
            let names = || sections.iter().map(|section| section.name);
            match nearest(&entry.key, names()) {
                Some(near) => format!("there is no collector {:?}; did you mean {near}?", entry.key),
                None => format!(
                    "there is no collector {:?}; there are {}",
                    entry.key,
                    names().collect::<Vec<_>>().join(", ")
                ),
            }
        } else if entry.value.json().as_f64().is_none_or(|percent| percent <= 0.0) {
            "a budget is more than 0 percent of a CPU; leave the collector out for none".to_owned()
        } else {
            continue;
        };
        let key = format!("budget.collectors.{}", entry.key);
        problems.push(Problem::Conflict { place: entry.place.clone(), key, reason });
    }
}

/// Finds the key that a section's own check complains of: the one it names, or the one without which it is content.
fn blame(section: &Section, node: &Node, path: &str, reason: String) -> Problem {
    let named = reason.split_once(": ").filter(|(key, _)| node.find(key).is_some());
    let (key, reason) = if let Some((key, reason)) = named {
        (Some(key.to_owned()), reason.to_owned())
    } else {
        let innocent = |key: &str| {
            let mut value = node.json();
            let default = section.defaults.get(key).cloned();
            let Some((map, default)) = value.as_object_mut().zip(default) else { return false };
            map.insert(key.to_owned(), default);
            (section.check)(&value).is_ok()
        };
        let guilty = node.entries().iter().find(|entry| innocent(&entry.key));
        (guilty.map(|entry| entry.key.clone()), reason)
    };
    let at = key.as_ref().and_then(|key| node.find(key)).unwrap_or(node);
    // Of a list the item that the message quotes is the place.
    let item = match &at.data {
        Data::List(items) => items.iter().find(|item| item.text().is_some_and(|text| reason.contains(text))),
        _ => None,
    };
    let place = item.unwrap_or(at).place.clone();
    Problem::Conflict { place, key: key.map_or_else(|| path.to_owned(), |key| format!("{path}.{key}")), reason }
}

/// Collectors that are switched on by name although this build has none of that name.
fn absent(ebpf: &Node, sections: &[Section], problems: &mut Vec<Problem>, warnings: &mut Vec<Warning>) {
    let mut judge = |node: Option<&Node>, key: String, what: &str| {
        let Some(node) = node.filter(|node| !node.is_default()) else { return };
        match &node.data {
            Data::Bool(false) => {}
            Data::Text(_) => problems.push(Problem::Conflict {
                place: node.place.clone(),
                key,
                reason: format!("{what} is required but is not in this version yet; write true, or remove it"),
            }),
            _ => warnings.push(Warning { place: node.place.clone(), key, message: NOT_YET.to_owned() }),
        }
    };
    for name in DOCUMENTED.iter().filter(|name| !is_present(name, sections)) {
        let path = format!("collectors.{name}.enabled");
        judge(ebpf.find(&path), format!("integrations.ebpf.{path}"), &format!("the collector {name}"));
    }
    if !is_present(HUBBLE, sections) {
        judge(ebpf.find("cilium.enabled"), "integrations.ebpf.cilium.enabled".to_owned(), "hubble");
    }
}
