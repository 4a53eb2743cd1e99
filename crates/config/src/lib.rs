//! Layered configuration with errors that name the key, the layer and the fix.
//!
//! [`load`] merges the defaults, the standard `OTEL_*` variables, files, `conf.d`, the environment and `--set` into a
//! [`Config`] of plain structs. The crate knows no collector: their sections come in as [`Section`]s.

mod change;
mod check;
mod collectors;
mod duration;
mod environment;
mod error;
mod inert;
mod layers;
mod listen;
mod nearest;
mod node;
mod otel;
mod place;
mod print;
mod reference;
mod rules;
mod schema;
mod secret;
pub mod sections;
mod set;
mod size;
mod switch;
mod url;
mod yaml;

use std::fmt;
use std::path::PathBuf;

use serde_json::Value;

pub use collectors::{Section, Selection, section_key, short_form};
pub use duration::{format as format_duration, parse as parse_duration};
pub use error::{Errors, Problem, Warning};
pub use layers::{DEFAULT_FILE, Sources};
pub use otel::{OTEL_VARIABLES, OtelVariable, Status, otel_table};
pub use place::Place;
pub use reference::reference;
pub use schema::schema;
pub use secret::{REDACTED, Secret};
pub use sections::Config;
pub use size::{format as format_size, parse as parse_size};
pub use switch::{Enabled, Switch};

use node::{Data, Node};

/// A configuration that is complete and consistent.
#[derive(Clone)]
pub struct Loaded {
    /// The typed tree.
    pub config: Config,
    /// What is said of each collector of this build, in the order of the sections.
    pub collectors: Vec<Selection>,
    /// What is accepted but deserves a word.
    pub warnings: Vec<Warning>,
    /// The files that were read, in order.
    pub files: Vec<PathBuf>,
    root: Node,
    schema: Value,
}

/// Loads a configuration.
///
/// # Errors
/// Everything that is wrong, each with its place, its key and the fix.
pub fn load(sources: &Sources, sections: &[Section]) -> Result<Loaded, Errors> {
    let (mut problems, mut warnings) = (Vec::new(), Vec::new());
    let schema = schema(sections);
    let layers::Tree { mut root, files } = layers::merge(sources, sections, &schema, &mut problems, &mut warnings);
    let mut collectors = Vec::new();
    // What contradicts something that is wrong already is not worth a second message.
    if problems.is_empty() {
        follow(&mut root);
        collectors::budgets(&root, sections, &mut problems);
        collectors = collectors::select(&root, sections, &mut problems, &mut warnings);
        rules::judge(&root, &mut problems, &mut warnings);
        inert::judge(&root, &mut warnings);
    }
    if !problems.is_empty() {
        return Err(Errors(problems));
    }
    match serde_json::from_value(root.json()) {
        Ok(config) => Ok(Loaded { config, collectors, warnings, files, root, schema }),
        Err(error) => Err(Errors(vec![Problem::Inconsistent { reason: error.to_string() }])),
    }
}

/// Looks one text up in a configuration that may be wrong elsewhere.
pub fn glance(sources: &Sources, sections: &[Section], key: &str) -> Option<String> {
    let schema = schema(sections);
    let tree = layers::merge(sources, sections, &schema, &mut Vec::new(), &mut Vec::new());
    tree.root.find(key)?.text().map(str::to_owned)
}

/// Fills in the defaults that follow other values: an endpoint's port is that of its protocol.
fn follow(root: &mut Node) {
    let Some(endpoints) = root.get_mut("exporters").and_then(|node| node.get_mut("otlp")) else { return };
    let Data::Map(endpoints) = &mut endpoints.data else { return };
    for endpoint in endpoints {
        let node = &mut endpoint.value;
        let http = node.get("protocol").and_then(Node::text) == Some("http/protobuf");
        if http && node.get("endpoint").is_some_and(Node::is_default) {
            let value = Node::new(Place::Default, Data::Text("http://127.0.0.1:4318".to_owned()));
            node.put(&["endpoint".to_owned()], value);
        }
    }
}

impl Loaded {
    /// Renders the effective configuration as YAML: each value with its origin, secrets redacted.
    pub fn print(&self) -> String {
        let mut root = self.root.clone();
        let interval = root.find("integrations.ebpf.scrape_interval").cloned();
        let endpoints = root.get_mut("exporters").and_then(|node| node.get_mut("otlp"));
        if let (Some(interval), Some(Data::Map(endpoints))) = (interval, endpoints.map(|node| &mut node.data)) {
            for endpoint in endpoints.iter_mut().filter(|endpoint| endpoint.value.get("interval").is_none()) {
                endpoint.value.put(&["interval".to_owned()], interval.clone());
            }
        }
        print::print(&root, &self.schema)
    }

    /// Returns where the value of a dotted key was written; None for a key that does not exist.
    pub fn origin(&self, key: &str) -> Option<&Place> {
        self.root.find(key).map(|node| &node.place)
    }
}

impl fmt::Debug for Loaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loaded").field("config", &self.config).field("warnings", &self.warnings).finish_non_exhaustive()
    }
}
