//! The layers and how they merge: default < OTEL_* < files < conf.d < environment < `--set`.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use figment::value::{Dict, Map, Value as Merged};
use figment::{Figment, Metadata, Profile, Provider};
use serde_json::Value;

use crate::check::check;
use crate::collectors::{self, Section};
use crate::error::{Problem, Warning};
use crate::node::{Data, Entry, Node};
use crate::place::{Key, Place, shared};
use crate::sections::Config;
use crate::sections::otlp::Endpoint;
use crate::{environment, otel, set, yaml};

/// What a configuration is made of, besides the defaults.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The files given with `--config`, in order; each must exist. With none of them `default_file` is read.
    pub files: Vec<PathBuf>,
    /// The file that is read where none is given; it may be missing.
    pub default_file: Option<PathBuf>,
    /// The environment, as name and value.
    pub env: Vec<(String, String)>,
    /// The `--set` arguments, in order.
    pub set: Vec<String>,
}

impl Sources {
    /// Returns the files and directories that are looked for, whether they are there or not.
    pub fn places(&self) -> Vec<PathBuf> {
        let fallback = self.default_file.iter().filter(|_| self.files.is_empty());
        self.files.iter().chain(fallback).flat_map(|path| [path.clone(), beside(path)]).collect()
    }
}

/// Returns the directory beside a file whose files are read after it.
fn beside(path: &Path) -> PathBuf {
    path.parent().unwrap_or(Path::new("")).join(DIRECTORY)
}

/// The name of that directory.
const DIRECTORY: &str = "conf.d";

/// The file that is read where no `--config` is given.
pub const DEFAULT_FILE: &str = "/etc/telesonde/telesonde.yaml";

/// The most bytes of one file: far above any configuration, far below what could hurt.
const MAX_FILE: u64 = 4 << 20;

/// One layer, checked and typed.
struct Layer {
    name: String,
    root: Node,
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.name.clone())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        let dict = Merged::serialize(self.root.json())?.into_dict().unwrap_or_default();
        Ok(Map::from([(Profile::Default, dict)]))
    }
}

/// All layers merged into one tree whose values still know their places.
pub(crate) struct Tree {
    pub(crate) root: Node,
    pub(crate) files: Vec<PathBuf>,
}

/// Reads, checks and merges all layers.
pub(crate) fn merge(
    sources: &Sources,
    sections: &[Section],
    schema: &Value,
    problems: &mut Vec<Problem>,
    warnings: &mut Vec<Warning>,
) -> Tree {
    let mut layers = Vec::new();
    let paths = paths(sources, problems, warnings);
    for path in &paths {
        let Some(node) = read(path, problems) else { continue };
        layers.push(Layer { name: path.display().to_string(), root: typed(&node, schema, sections, problems) });
    }
    let mut strange = Vec::new();
    let common = typed(&environment::common(&sources.env), schema, sections, &mut strange);
    warnings.extend(strange.into_iter().filter_map(passed_over));
    layers.push(Layer { name: "common environment".to_owned(), root: common });
    let own = environment::prefixed(&sources.env, schema, warnings);
    layers.push(Layer { name: "environment".to_owned(), root: typed(&own, schema, sections, problems) });
    let set = set::collect(&sources.set, schema, problems);
    layers.push(Layer { name: "--set".to_owned(), root: typed(&set, schema, sections, problems) });

    let above: Vec<&Node> = layers.iter().map(|layer| &layer.root).collect();
    let otel = otel::collect(&sources.env, schema, &above, problems, warnings);
    layers.insert(0, Layer { name: "OTEL environment".to_owned(), root: otel });
    let defaults = defaults(&layers, sections);
    layers.insert(0, Layer { name: "default".to_owned(), root: defaults });

    let merged = layers.iter().fold(Figment::new(), |figment, layer| figment.merge(layer));
    let root = match merged.find_value("") {
        Ok(value) => located(&value, &merged, &layers, &Key::default()),
        Err(error) => {
            problems.push(Problem::Inconsistent { reason: error.to_string() });
            Node::empty(Place::Default)
        }
    };
    Tree { root, files: paths }
}

fn typed(node: &Node, schema: &Value, sections: &[Section], problems: &mut Vec<Problem>) -> Node {
    let mut root = check(node, schema, &Key::default(), problems).unwrap_or_else(|| Node::empty(node.place.clone()));
    collectors::unfold(&mut root, sections, problems);
    root
}

/// A strange value of a variable that is not ours is no reason to refuse to start.
fn passed_over(problem: Problem) -> Option<Warning> {
    match problem {
        Problem::WrongValue { place: place @ Place::Variable(_), key, expected, found, .. } => {
            let name = place.origin().trim_start_matches("environment ").to_owned();
            Some(Warning { place, key: name, message: format!("{key} must be {expected}, not {found}; it is ignored") })
        }
        _ => None,
    }
}

/// Returns the defaults of everything, with one complete endpoint for each that a layer names.
fn defaults(layers: &[Layer], sections: &[Section]) -> Node {
    let json = serde_json::to_value(Config::default()).unwrap_or_default();
    let mut root = without_nulls(Node::from_json(&json, &Place::Default));
    let names: BTreeSet<&str> = layers
        .iter()
        .filter_map(|layer| layer.root.find("exporters.otlp"))
        .flat_map(Node::entries)
        .map(|entry| entry.key.as_str())
        .collect();
    let endpoint = endpoint();
    for name in names {
        root.put(&Key::of("exporters.otlp").child(name).0, endpoint.clone());
    }
    root.put(&Key::of("integrations.ebpf.collectors").0, collectors::defaults(sections));
    if let Some(section) = collectors::hubble(sections) {
        root.put(&Key::of("integrations.ebpf.cilium").0, collectors::default(section, false));
    }
    root
}

/// Returns an endpoint with all its defaults.
pub(crate) fn endpoint() -> Node {
    let json = serde_json::to_value(Endpoint::default()).unwrap_or_default();
    without_nulls(Node::from_json(&json, &Place::Default))
}

fn without_nulls(node: Node) -> Node {
    match node.data {
        Data::Map(entries) => {
            let kept = entries.into_iter().filter(|entry| entry.value.data != Data::Null);
            let entries = kept.map(|entry| Entry { value: without_nulls(entry.value), ..entry });
            Node { place: node.place, data: Data::Map(entries.collect()) }
        }
        data => Node { place: node.place, data },
    }
}

/// Gives each merged value its place back, by the layer that figment says it is from.
fn located(value: &Merged, merged: &Figment, layers: &[Layer], key: &Key) -> Node {
    let from =
        merged.get_metadata(value.tag()).and_then(|metadata| layers.iter().find(|layer| layer.name == metadata.name));
    let own = from.and_then(|layer| layer.root.at(key));
    match value {
        Merged::Dict(_, dict) => {
            let place = own.map_or(Place::Default, |node| node.place.clone());
            let entries = dict.iter().map(|(name, value)| {
                let value = located(value, merged, layers, &key.child(name));
                Entry { key: name.clone(), place: value.place.clone(), value }
            });
            Node::new(place, Data::Map(entries.collect()))
        }
        _ => own.cloned().unwrap_or_else(|| Node::new(Place::Default, Data::Null)),
    }
}

/// Returns the files to read, in order: those that were named, then `conf.d/*.yaml` beside them by name.
fn paths(sources: &Sources, problems: &mut Vec<Problem>, warnings: &mut Vec<Warning>) -> Vec<PathBuf> {
    let mut paths = Vec::new();
    let mut directories: Vec<PathBuf> = Vec::new();
    let named = sources.files.iter().map(|path| (path, true));
    let fallback = sources.default_file.iter().filter(|_| sources.files.is_empty()).map(|path| (path, false));
    for (path, required) in named.chain(fallback) {
        if required || path.exists() {
            paths.push(path.clone());
        }
        let directory = beside(path);
        if !directories.contains(&directory) {
            directories.push(directory);
        }
    }
    for directory in directories {
        match fs::read_dir(&directory) {
            Err(error) if [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory].contains(&error.kind()) => {}
            Err(source) => problems.push(Problem::Unreadable { path: directory, source }),
            Ok(entries) => {
                let mut beside: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
                beside.sort();
                for path in beside {
                    let hidden = path.file_name().is_none_or(|name| name.to_string_lossy().starts_with('.'));
                    match path.extension().and_then(|extension| extension.to_str()) {
                        _ if hidden => {}
                        Some("yaml") => paths.push(path),
                        Some("yml") => warnings.push(Warning {
                            place: Place::file(&shared(&path), 1, 1),
                            key: DIRECTORY.to_owned(),
                            message: "not read: only files that end in .yaml are".to_owned(),
                        }),
                        _ => {}
                    }
                }
            }
        }
    }
    paths
}

fn read(path: &Path, problems: &mut Vec<Problem>) -> Option<Node> {
    let unreadable = |source| Problem::Unreadable { path: path.to_owned(), source };
    let text = match fs::metadata(path) {
        Ok(metadata) if metadata.len() > MAX_FILE => Err(io::Error::other("it is larger than 4 MiB")),
        Ok(_) => fs::read_to_string(path),
        Err(error) => Err(error),
    };
    match text.map_err(unreadable) {
        Ok(text) => match yaml::parse(&text, &shared(path)) {
            Ok(node) => Some(node),
            Err(errors) => {
                problems.extend(errors);
                None
            }
        },
        Err(problem) => {
            problems.push(problem);
            None
        }
    }
}
