//! `cargo xtask run`: builds as the user, raises only the binary.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use crate::process::{self, ByHand, Raise};
use crate::setup;

/// Builds the release binary and returns its path.
///
/// # Errors
/// Fails when something cannot be installed or built.
pub fn build() -> Result<PathBuf> {
    setup::build()?;
    process::must(process::cargo()?.args(["build", "--release", "--package", "telesonde", "--bin", "telesonde"]))?;
    Ok(process::target().join("release/telesonde"))
}

/// Builds the agent and becomes it.
///
/// # Errors
/// Fails with the exact command where root's rights cannot be asked for.
pub fn run(args: &[String]) -> Result<ExitCode> {
    let binary = build()?;
    let mut command = match process::raise() {
        Some(Raise::Root) => Command::new(&binary),
        Some(Raise::Sudo(sudo)) => {
            eprintln!("The agent needs root to load its programs into the kernel; only the binary is raised.");
            let mut command = Command::new(sudo);
            command.arg(&binary);
            command
        }
        None => {
            let mut by_hand = Command::new("sudo");
            by_hand.arg(&binary).arg("run").args(args);
            return Err(ByHand::new(
                "the agent needs root to load its programs into the kernel, and sudo cannot ask for it here",
                process::line(&by_hand),
            )
            .into());
        }
    };
    command.arg("run").args(args);
    eprintln!("$ {}", process::line(&command));
    Err(command.exec()).with_context(|| format!("cannot start {}", binary.display()))
}
