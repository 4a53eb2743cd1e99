//! `cargo xtask run`: builds as the user, raises only the binary.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};

use crate::arch::Arch;
use crate::process::{self, ByHand, Raise};
use crate::setup;

/// Builds the release binary and returns its path.
///
/// # Errors
/// Fails when something cannot be installed or built.
pub fn build() -> Result<PathBuf> {
    binary_for(Arch::HERE, false)
}

/// Returns the path of the release binary, built now or as it is there.
///
/// # Errors
/// Fails when it cannot be built, or is not there.
pub fn binary(no_build: bool) -> Result<PathBuf> {
    binary_for(Arch::HERE, no_build)
}

/// Returns the path of the release binary for a processor, built now or as it is there.
///
/// # Errors
/// Fails when it cannot be built, or is not there.
pub fn binary_for(arch: Arch, no_build: bool) -> Result<PathBuf> {
    let binary = arch.directory().join("release/telesonde");
    if !no_build {
        setup::build_for(arch)?;
        let mut build = process::cargo()?;
        build.args(["build", "--release", "--package", "telesonde", "--bin", "telesonde"]);
        arch.build(&mut build);
        process::must(&mut build)?;
    }
    ensure!(binary.is_file(), "{} is not there: leave out --no-build, which builds it", binary.display());
    Ok(binary)
}

/// Returns the path of an agent that tells of itself: the debug build, or the release binary that is there.
///
/// # Errors
/// Fails when it cannot be built, or is not there.
pub fn agent(no_build: bool) -> Result<PathBuf> {
    if no_build {
        return binary(true);
    }
    setup::build()?;
    process::must(process::cargo()?.args(["build", "--package", "telesonde", "--bin", "telesonde"]))?;
    Ok(process::target().join("debug/telesonde"))
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
