//! `cargo xtask gen`: what the agent says of itself, written into the tree or compared with it.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::chart::files;
use crate::kernel::verifier;
use crate::{process, run};

/// The generated files, relative to the root of the workspace and to the agent's output directory.
const FILES: [&str; 6] = [
    "charts/telesonde/collectors.yaml",
    "charts/telesonde/values.schema.json",
    "configs/reference.yaml",
    "docs/collectors.md",
    "docs/metrics.md",
    "docs/otel-variables.md",
];

/// Folders of generated files, with nothing else in them.
const FOLDERS: [&str; 2] = ["packaging/completions", "packaging/man"];

/// What the chart carries a copy of, since Helm takes nothing from outside of a chart: the folder, the ending, the copies' folder.
const COPIES: [(&str, &str, &str); 2] = [
    ("examples/prometheus/rules", "yaml", "charts/telesonde/rules"),
    ("examples/grafana", "json", "charts/telesonde/dashboards"),
];

/// The part of the chart's schema that is not the agent's, and what stands in it for the agent's.
const SCHEMA: &str = "charts/values.schema.json";
const CONFIG: &str = "\"telesonde config schema\"";

/// Generates all files; with `check` compares them with the tree instead.
///
/// # Errors
/// Fails when the agent cannot be built or, with `check`, when a file differs.
pub fn run(check: bool, no_build: bool) -> Result<()> {
    let agent = run::agent(no_build)?;
    let fresh = process::target().join("gen");
    let _ = fs::remove_dir_all(&fresh);
    fs::create_dir_all(&fresh).with_context(|| format!("cannot make {}", fresh.display()))?;
    process::must(Command::new(&agent).args(["gen", "--out"]).arg(&fresh))?;
    values_schema(&agent, &fresh.join("charts/telesonde/values.schema.json"))?;
    let (mut stale, mut news) = (Vec::new(), Vec::new());
    for file in FILES {
        let new = fs::read_to_string(fresh.join(file)).with_context(|| format!("the agent did not generate {file}"))?;
        news.push((file.to_owned(), new));
    }
    for folder in FOLDERS {
        for name in names(&fresh.join(folder))? {
            let file = format!("{folder}/{name}");
            let new = fs::read_to_string(fresh.join(&file)).with_context(|| format!("cannot read the new {file}"))?;
            news.push((file, new));
        }
        let committed = process::root().join(folder);
        let left = if committed.exists() { names(&committed)? } else { Vec::new() };
        for name in left.into_iter().filter(|name| !fresh.join(folder).join(name).exists()) {
            if check {
                stale.push(format!("{folder}/{name}: is generated no longer"));
            } else {
                fs::remove_file(committed.join(&name))?;
                eprintln!("removed {folder}/{name}");
            }
        }
    }
    for (folder, ending, copies) in COPIES {
        for path in files(&process::root().join(folder), ending)? {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            news.push((format!("{copies}/{name}"), fs::read_to_string(&path)?));
        }
    }
    for (file, new) in &news {
        let committed = process::root().join(file);
        let old = fs::read_to_string(&committed).unwrap_or_default();
        if old == *new {
            continue;
        }
        if check {
            stale.push(format!("{file}: {}", difference(&old, new)));
        } else {
            write(&committed, new)?;
            eprintln!("wrote {file}");
        }
    }
    if !stale.is_empty() {
        bail!("generated files are out of date, run `cargo xtask gen` and commit:\n  {}", stale.join("\n  "));
    }
    eprintln!("{} generated files are up to date", news.len());
    verifier::compare(check)
}

/// Writes the schema of the chart's values: what the chart has, and below `config` all that the agent takes.
fn values_schema(agent: &Path, file: &Path) -> Result<()> {
    let chart = fs::read_to_string(process::root().join(SCHEMA)).with_context(|| format!("cannot read {SCHEMA}"))?;
    let config = process::output(Command::new(agent).args(["config", "schema"])).context("the agent has no schema")?;
    let (before, after) = chart.split_once(CONFIG).with_context(|| format!("{SCHEMA} does not say {CONFIG}"))?;
    write(file, &format!("{before}{}{after}", config.replace('\n', "\n    ")))
}

/// Gives the names of a folder's files, sorted.
fn names(folder: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let mut names = names.collect::<Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

fn write(path: &Path, text: &str) -> Result<()> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// Describes the first line that differs.
pub fn difference(old: &str, new: &str) -> String {
    if old.is_empty() {
        return "is missing".into();
    }
    let (mut old_lines, mut new_lines) = (old.lines(), new.lines());
    for number in 1.. {
        match (old_lines.next(), new_lines.next()) {
            (None, None) => break,
            (was, is) if was == is => {}
            (was, is) => {
                let show =
                    |line: Option<&str>| line.map_or_else(|| "(end of file)".to_owned(), |line| format!("`{line}`"));
                return format!("line {number} is {} and should be {}", show(was), show(is));
            }
        }
    }
    "differs in its line ends".into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_names_its_first_line() {
        assert_eq!(difference("a\nb\n", "a\nc\n"), "line 2 is `b` and should be `c`");
        assert_eq!(difference("a\n", "a\nc\n"), "line 2 is (end of file) and should be `c`");
        assert_eq!(difference("", "c\n"), "is missing");
        assert_eq!(difference("a", "a\n"), "differs in its line ends");
    }
}
