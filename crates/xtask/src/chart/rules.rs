//! The rules that the chart carries, checked and tried by promtool.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::files;
use crate::tools::{self, Tool};

/// promtool takes every rule, and every case of `tests/rules` comes out as it says.
///
/// # Errors
/// Fails with what promtool says, or with an alert that no case names.
pub fn check(root: &Path) -> Result<String> {
    let rules = files(&root.join("examples/prometheus/rules"), "yaml")?;
    let cases = files(&root.join("tests/rules"), "yaml")?;
    promtool(Command::new(program()?).args(["check", "rules"]).args(&rules))?;
    promtool(Command::new(program()?).args(["test", "rules"]).args(&cases))?;
    let read = |files: &[std::path::PathBuf]| -> Result<String> {
        files
            .iter()
            .map(|file| fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display())))
            .collect()
    };
    let (rules, cases) = (read(&rules)?, read(&cases)?);
    let alerts: Vec<&str> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    let untried = alerts.iter().find(|alert| !cases.contains(&format!("alertname=\"{alert}\"")));
    if let Some(alert) = untried {
        bail!("no case of tests/rules has {alert}");
    }
    Ok(format!("{} alerts, each tried with what fires it and what does not", alerts.len()))
}

fn program() -> Result<std::path::PathBuf> {
    Ok(tools::install(Tool::Prometheus)?.with_file_name("promtool"))
}

fn promtool(command: &mut Command) -> Result<()> {
    let output = command.output().context("cannot start promtool")?;
    if !output.status.success() {
        bail!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}
