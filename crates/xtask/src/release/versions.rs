//! Where the version stands in the tree, and how a release changes it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

/// The files with the version in them, and folders of which every file has it.
const PLACES: [&str; 8] = [
    "Cargo.toml",
    "Dockerfile",
    "README.md",
    "charts/telesonde/Chart.yaml",
    "docs/quickstart.md",
    "examples/kubernetes",
    "packaging/man",
    "tests/chart/golden",
];

/// What is before the version wherever it is this project's.
const BEFORE: [&str; 12] = [
    "telesonde ",
    "telesonde-",
    "telesonde:",
    "ersion: ",
    "ersion: \"",
    "VERSION=",
    "targetRevision: v",
    "tag: v",
    "newTag: ",
    "image.tag=",
    "\nversion = \"",
    "\nv",
];

const LOCK: &str = "Cargo.lock";
const CHANGELOG: &str = "CHANGELOG.md";
const UNRELEASED: &str = "## [Unreleased]\n";

/// Gives the numbers of a version, and whether it is final; none for what is no version.
///
/// # Errors
/// Fails when it is none.
pub fn parse(version: &str) -> Result<([u64; 3], bool)> {
    let (numbers, candidate) = match version.split_once("-rc.") {
        Some((numbers, candidate)) => (numbers, Some(candidate)),
        None => (version, None),
    };
    let number = |text: &str| {
        let plain = text == "0" || !text.starts_with('0');
        text.parse::<u64>().ok().filter(|_| plain && text.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let all: Option<Vec<u64>> = numbers.split('.').map(number).collect();
    match all.as_deref() {
        Some(&[major, minor, patch]) if candidate.is_none_or(|candidate| number(candidate).is_some()) => {
            Ok(([major, minor, patch], candidate.is_none()))
        }
        _ => bail!("`{version}` is no version: give three numbers, such as 1.2.3, or 1.2.3-rc.1 for a candidate"),
    }
}

/// Returns the version that the tree below `root` has.
///
/// # Errors
/// Fails when Cargo.toml has none.
pub fn current(root: &Path) -> Result<String> {
    let manifest = read(&root.join("Cargo.toml"))?;
    let version = manifest.split("[workspace.package]").nth(1).and_then(|table| table.split("\nversion = \"").nth(1));
    let version =
        version.and_then(|rest| rest.split('"').next()).context("Cargo.toml has no version of the workspace")?;
    Ok(version.to_owned())
}

/// Gives the tree below `root` the version, and what is unreleased in its change log the version and a date.
///
/// # Errors
/// Fails when a place has no version to change, or the change log says nothing of this release.
pub fn rewrite(root: &Path, new: &str, date: &str) -> Result<()> {
    let old = current(root)?;
    for path in places(root)? {
        let text = read(&path)?;
        let (changed, count) = replace(&text, &old, new);
        ensure!(count > 0, "{} does not have version {old} where it should", path.display());
        write(&path, &changed)?;
    }
    let lock = root.join(LOCK);
    write(&lock, &locked(&read(&lock)?, &old, new))?;
    let changes = root.join(CHANGELOG);
    write(&changes, &released(&read(&changes)?, new, date)?)
}

/// Lists the files of all places.
fn places(root: &Path) -> Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for place in PLACES {
        let path = root.join(place);
        if !path.is_dir() {
            all.push(path);
            continue;
        }
        for entry in fs::read_dir(&path).with_context(|| format!("cannot read {}", path.display()))? {
            let file = entry?.path();
            // Of the plain manifests, one has no version.
            if file.file_name().is_some_and(|name| name != "namespace.yaml") {
                all.push(file);
            }
        }
    }
    Ok(all)
}

/// Replaces a version where it is this project's; says how often.
fn replace(text: &str, old: &str, new: &str) -> (String, usize) {
    let (mut out, mut count, mut from) = (String::new(), 0, 0);
    for (at, _) in text.match_indices(old) {
        let after = text[at + old.len()..].bytes().next();
        let ends = !after.is_some_and(|byte| byte.is_ascii_digit() || byte == b'.' && !is_end(&text[at + old.len()..]));
        if ends && BEFORE.iter().any(|before| text[..at].ends_with(before)) {
            out.push_str(&text[from..at]);
            out.push_str(new);
            from = at + old.len();
            count += 1;
        }
    }
    out.push_str(&text[from..]);
    (out, count)
}

/// Tells whether a full stop ends a sentence or a file's stem, rather than going on with a version.
fn is_end(rest: &str) -> bool {
    !rest.as_bytes().get(1).is_some_and(u8::is_ascii_digit)
}

/// Gives the workspace's own packages in a lock file the version.
fn locked(lock: &str, old: &str, new: &str) -> String {
    let own = |block: &str| block.starts_with("\nname = \"telesonde") && !block.contains("\nsource = ");
    let (from, to) = (format!("\nversion = \"{old}\"\n"), format!("\nversion = \"{new}\"\n"));
    let blocks = lock.split("[[package]]");
    let blocks = blocks.map(|block| if own(block) { block.replacen(&from, &to, 1) } else { block.to_owned() });
    blocks.collect::<Vec<_>>().join("[[package]]")
}

/// Turns what is unreleased into a release.
fn released(changes: &str, new: &str, date: &str) -> Result<String> {
    let (before, after) = changes.split_once(UNRELEASED).with_context(|| format!("{CHANGELOG} has no {UNRELEASED}"))?;
    ensure!(!changes.contains(&format!("## [{new}]")), "{CHANGELOG} has version {new} already");
    let unreleased = after.split("\n## ").next().unwrap_or_default();
    ensure!(
        unreleased.lines().any(|line| line.starts_with("- ")),
        "{CHANGELOG} has nothing under Unreleased to release"
    );
    Ok(format!("{before}{UNRELEASED}\n## [{new}] - {date}\n{after}"))
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::process;

    #[test]
    fn a_version_is_three_numbers() {
        assert_eq!(parse("1.20.3").unwrap(), ([1, 20, 3], true));
        assert_eq!(parse("1.0.0-rc.2").unwrap(), ([1, 0, 0], false));
        for bad in
            ["", "1", "1.2", "1.2.3.4", "v1.2.3", "1.2.x", "01.2.3", "1.2.3-", "1.2.3-rc.", "1.2.3-beta", "+1.2.3"]
        {
            assert!(parse(bad).unwrap_err().to_string().contains("no version"), "{bad}");
        }
    }

    #[test]
    fn only_this_projects_version_is_replaced() {
        let text = "image: telesonde:1.2.3\nimage: other:1.2.3\nappVersion: 1.2.3\ntelesonde 1.2.30 and telesonde 1.2.3.\nkubeVersion: 1.2.3.4\n";
        let (changed, count) = replace(text, "1.2.3", "2.0.0");
        let right = "image: telesonde:2.0.0\nimage: other:1.2.3\nappVersion: 2.0.0\ntelesonde 1.2.30 and telesonde 2.0.0.\nkubeVersion: 1.2.3.4\n";
        assert_eq!((changed.as_str(), count), (right, 3));
    }

    #[test]
    fn only_own_packages_are_locked_anew() {
        let lock = "[[package]]\nname = \"a\"\nversion = \"1.0.0\"\n\n[[package]]\nname = \"telesonde-bpf\"\nversion = \"1.0.0\"\n";
        assert_eq!(
            locked(lock, "1.0.0", "1.1.0"),
            lock.replace("-bpf\"\nversion = \"1.0.0", "-bpf\"\nversion = \"1.1.0")
        );
    }

    #[test]
    fn what_is_unreleased_is_released() {
        let changes =
            "# Changelog\n\n## [Unreleased]\n\n### Added\n\n- A thing.\n\n## [1.0.0] - 2026-01-02\n\n- All.\n";
        let new = released(changes, "1.1.0", "2026-02-03").unwrap();
        assert!(
            new.contains("## [Unreleased]\n\n## [1.1.0] - 2026-02-03\n\n### Added\n\n- A thing.\n\n## [1.0.0]"),
            "{new}"
        );
        assert!(released(changes, "1.0.0", "").unwrap_err().to_string().contains("already"));
        assert!(released(&new, "1.2.0", "").unwrap_err().to_string().contains("nothing under Unreleased"));
        assert!(released("", "1.2.0", "").is_err());
    }

    /// No file of the tree keeps the old version.
    #[test]
    fn the_tree_has_one_version() {
        let root = process::root();
        let old = current(&root).unwrap();
        let places = places(&root).unwrap();
        for path in &places {
            let (changed, count) = replace(&read(path).unwrap(), &old, "987.65.43");
            assert!(count > 0, "{} has no version {old}", path.display());
            assert_eq!(replace(&changed, &old, "").1, 0, "{}", path.display());
        }
        let listed = process::output(Command::new("git").current_dir(&root).args(["ls-files"])).unwrap_or_default();
        let own = |file: &&str| {
            ![LOCK, CHANGELOG].contains(file) && !file.starts_with("crates/") && !file.starts_with("fuzz/")
        };
        for file in listed.lines().filter(own) {
            let path = root.join(file);
            let text = fs::read_to_string(&path).unwrap_or_default();
            assert!(
                places.contains(&path) || replace(&text, &old, "").1 == 0,
                "a release does not know that {file} has the version"
            );
        }
    }
}
