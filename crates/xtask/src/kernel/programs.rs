//! What runs in the guests: the suite and the agent.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::Options;
use crate::process;

/// What was built, and where the guest has it.
pub struct Programs {
    /// The test programs, at the same paths in the guest.
    pub tests: Vec<PathBuf>,
    /// What is released, with the places at which the tests look for it.
    pub released: Vec<(PathBuf, PathBuf)>,
}

impl Programs {
    /// Builds what a release has of the agent, and the tests as `cargo xtask test` does; leaves the programs that tests
    /// compile where [`super::initramfs`] finds them, as the guest has no compiler.
    ///
    /// # Errors
    /// Fails when something does not build.
    pub fn build(options: &Options) -> Result<Self> {
        let mut own = vec!["telesonde"];
        let mut build = process::cargo()?;
        build.args(["build", "--release", "--package", "telesonde", "--bin", "telesonde"]);
        if !options.quick {
            build.args(["--example", "custom_collector"]);
            own.push("examples/custom_collector");
        }
        process::must(&mut build)?;
        // All that the tests of the workspace have, so that what they built is not built again.
        let mut command = process::cargo()?;
        command.args(["test", "--workspace", "--features", "telesonde-xtask/e2e", "--no-run"]);
        command.args(["--message-format=json", "--test", "kernel", "--test", "tests"]);
        eprintln!("$ {}", process::line(&command));
        let output = command.stderr(Stdio::inherit()).output().context("cannot start cargo")?;
        if !output.status.success() {
            bail!("the suite does not build: cargo ended with {}", output.status);
        }
        let text = String::from_utf8(output.stdout).context("cargo writes no UTF-8")?;
        let found: Vec<PathBuf> = text.lines().filter_map(executable).collect();
        let named = |name: &str| {
            let found = found.iter().find(|path| is_named(path, name));
            found.cloned().with_context(|| format!("cargo names no program for the test {name}"))
        };
        let tests = vec![named("kernel")?, named("tests")?];
        let target = process::target();
        let place = |name: &str| (target.join("release").join(name), target.join("debug").join(name));
        let programs = Self { tests, released: own.into_iter().map(place).collect() };
        process::must(Command::new(programs.suite()?).args(["--exact", "harness::stimulus::all_compile"]))?;
        Ok(programs)
    }

    /// Gives the program with the live-kernel suite.
    ///
    /// # Errors
    /// Fails when there is none.
    pub fn suite(&self) -> Result<&Path> {
        self.tests.iter().find(|path| is_named(path, "tests")).map(PathBuf::as_path).context("there is no suite")
    }
}

/// Tells whether a path is `NAME-0123456789abcdef`.
pub fn is_named(path: &Path, name: &str) -> bool {
    let file = path.file_name().map(|file| file.to_string_lossy());
    file.is_some_and(|file| file.rsplit_once('-').is_some_and(|(stem, _)| stem == name))
}

/// Gives the path of a test program from a line of cargo's messages, which also name the agent.
fn executable(message: &str) -> Option<PathBuf> {
    if !message.contains("\"kind\":[\"test\"]") {
        return None;
    }
    let (_, rest) = message.split_once("\"executable\":\"")?;
    rest.split_once('"').map(|(path, _)| PathBuf::from(path))
}
