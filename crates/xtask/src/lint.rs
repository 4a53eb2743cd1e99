//! `cargo xtask lint`: formatting, lints, links, licences and dependencies; everything is tried before the command fails.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

use crate::tools::{self, Tool};
use crate::{links, process, setup};

/// Runs every check and returns failure if any of them failed.
///
/// # Errors
/// Fails when a checker cannot be installed.
pub fn run() -> Result<ExitCode> {
    setup::lint()?;
    let mut failed = Vec::new();
    let mut check = |name: &str, result: Result<()>| {
        if let Err(error) = result {
            eprintln!("{name}: {error:#}");
            failed.push(name.to_owned());
        }
    };
    check("fmt", process::must(process::cargo()?.args(["fmt", "--all", "--check"])));
    check("clippy", clippy());
    check("clang-format", clang_format());
    check("links", links::check(&process::root()));
    check("deny", deny());
    if failed.is_empty() {
        eprintln!("lint: all clean");
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("lint: failed: {}", failed.join(", "));
    Ok(ExitCode::FAILURE)
}

fn clippy() -> Result<()> {
    let features = ["--workspace", "--all-targets", "--all-features"];
    process::must(process::cargo()?.arg("clippy").args(features).args(["--", "-D", "warnings"]))
}

fn clang_format() -> Result<()> {
    let mut sources = Vec::new();
    c_sources(&process::root().join("bpf"), &mut sources)?;
    sources.sort();
    process::must(Command::new("clang-format").args(["--dry-run", "-Werror"]).args(sources))
}

fn c_sources(dir: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            c_sources(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "c" || extension == "h") {
            found.push(path);
        }
    }
    Ok(())
}

/// Checks what the dependencies are; their advisories only where the advisory database can be had.
fn deny() -> Result<()> {
    let program = tools::install(Tool::CargoDeny)?;
    let deny = || {
        let mut command = Command::new(&program);
        command.current_dir(process::root());
        command
    };
    process::must(deny().args(["--all-features", "check", "bans", "licenses", "sources"]))?;
    let mut advisories = deny();
    advisories.args(["--all-features", "check", "advisories"]);
    eprintln!("$ {}", process::line(&advisories));
    let output = advisories.output().context("cannot start cargo-deny")?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        return Ok(());
    }
    if said.contains("failed to fetch advisory database") {
        eprintln!("SKIPPED advisories: the advisory database cannot be fetched from here");
        return Ok(());
    }
    bail!("advisories:\n{said}")
}
