//! `docs/seeds.md` says of every name in `tests/seeds.txt` what it is here, and what it says is there.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// The documents, in the order of the page's sections.
const DOCUMENTS: [&str; 5] = ["000", "001", "002", "003", "004"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(file: &str) -> String {
    std::fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

fn agent(arguments: &[&str]) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_telesonde")).args(arguments).output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap()
}

/// What stands between backticks.
fn names(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

/// The rows of the page's tables: the document, the cell of its names, the cell of ours.
fn rows(page: &str) -> Vec<(&str, &str, &str)> {
    let sections = page.split("\n## ").skip(1).zip(DOCUMENTS);
    let rows = sections.flat_map(|(section, document)| section.lines().map(move |line| (document, line)));
    rows.filter_map(|(document, line)| {
        // A name may have a bar in it.
        let (theirs, ours) = line.strip_prefix("| ")?.strip_suffix(" |")?.rsplit_once(" | ")?;
        theirs.starts_with('`').then_some((document, theirs, ours))
    })
    .collect()
}

#[test]
fn every_name_of_others_has_its_row() {
    let (page, list) = (read("docs/seeds.md"), read("tests/seeds.txt"));
    let mut mapped: BTreeMap<(&str, &str), &str> = BTreeMap::new();
    for (document, theirs, ours) in rows(&page) {
        assert!(ours.len() > 3, "{document}: {theirs} is nothing here");
        mapped.extend(names(theirs).map(|name| ((document, name), ours)));
    }
    let mut listed = BTreeSet::new();
    for line in list.lines().filter(|line| !line.starts_with('#')) {
        let [document, _, name] = line.splitn(3, ' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
        assert!(mapped.contains_key(&(document, name)), "docs/seeds.md says nothing of {name}, which {document} names");
        listed.insert((document, name));
    }
    let more = mapped.keys().find(|key| !listed.contains(*key));
    assert_eq!(more, None, "docs/seeds.md has a name that tests/seeds.txt has not");
}

/// Says whether a dotted path is in a schema; below an object of any keys, any segment is.
fn is_in(schema: &Value, path: &str) -> bool {
    let mut at = schema;
    for segment in path.split('.') {
        at = match (&at["properties"][segment], &at["additionalProperties"]) {
            (Value::Null, Value::Object(_)) => &at["additionalProperties"],
            (Value::Null, _) => return false,
            (property, _) => property,
        };
    }
    true
}

#[test]
fn every_name_of_ours_is_there() {
    let page = read("docs/seeds.md");
    let metrics = agent(&["metrics", "--format", "json"]);
    let metrics: BTreeSet<&str> =
        metrics.as_array().unwrap().iter().filter_map(|metric| metric["prometheus"].as_str()).collect();
    let config = agent(&["config", "schema"]);
    let chart: Value = serde_json::from_str(&read("charts/telesonde/values.schema.json")).unwrap();
    let rules = read("examples/prometheus/rules/agent.yaml") + &read("examples/prometheus/rules/reliability.yaml");
    let mut found = BTreeMap::<&str, usize>::new();
    for (document, theirs, ours) in rows(&page) {
        for name in names(ours) {
            let first = name.split('.').next().unwrap_or_default();
            let word = name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.'));
            let (kind, there) = if ["ebpf_", "telesonde_", "hubble_"].iter().any(|prefix| name.starts_with(prefix)) {
                ("metric", metrics.contains(name))
            } else if name.starts_with("Telesonde") {
                ("alert", rules.contains(&format!("- alert: {name}\n")))
            } else if ["examples/", "charts/", "docs/"].iter().any(|folder| name.starts_with(folder)) {
                ("file", root().join(name).exists())
            } else if word && name.contains('.') && is_in(&config, first) {
                ("key", is_in(&config, name))
            } else if word && is_in(&chart, first) {
                ("value", is_in(&chart, name))
            } else {
                continue;
            };
            assert!(there, "{document}: {theirs} is said to be the {kind} {name}, which is not there");
            *found.entry(kind).or_default() += 1;
        }
    }
    assert_eq!(found.len(), 5, "of some kind nothing was looked for: {found:?}");
}
