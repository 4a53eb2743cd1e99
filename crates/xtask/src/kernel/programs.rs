//! What runs in the guests: the suite and the agent.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::Options;
use crate::arch::Arch;
use crate::process;

/// What was built, and where the guest has it.
pub struct Programs {
    /// The test programs, at the same paths in the guest.
    pub tests: Vec<PathBuf>,
    /// The agent and what belongs to it, with the places at which the tests look for it.
    pub agent: Vec<(PathBuf, PathBuf)>,
}

impl Programs {
    /// Builds the agent, and the tests as `cargo xtask test` does; leaves the programs that tests compile where
    /// [`super::initramfs`] finds them, as the guest has no compiler.
    ///
    /// # Errors
    /// Fails when something does not build.
    pub fn build(options: &Options) -> Result<Self> {
        let (arch, mut own) = (options.arch, vec!["telesonde"]);
        let mut build = process::cargo()?;
        build.args(["build", "--package", "telesonde", "--bin", "telesonde"]).args(arch.profile().1);
        arch.build(&mut build);
        if !options.quick {
            build.args(["--example", "custom_collector"]);
            own.push("examples/custom_collector");
        }
        // Cargo makes an agent with the tests, which does where nothing else is wanted.
        if arch == Arch::X86_64 || !options.quick {
            process::must(&mut build)?;
        }
        let mut command = process::cargo()?;
        command.args(["test", "--no-run"]);
        arch.build(&mut command);
        command.args(match arch {
            // All that the tests of the workspace have, so that what they built is not built again.
            Arch::X86_64 => ["--workspace", "--features=telesonde-xtask/e2e"],
            Arch::Aarch64 => ["--package=telesonde", "--package=telesonde-bpf"],
        });
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
        let target = arch.directory();
        let place = |name: &str| (target.join(arch.profile().0).join(name), target.join("debug").join(name));
        let programs = Self { tests, agent: own.into_iter().map(place).collect() };
        match arch {
            Arch::X86_64 => {
                process::must(Command::new(programs.suite()?).args(["--exact", "harness::stimulus::all_compile"]))?;
            }
            Arch::Aarch64 => stimuli(arch)?,
        }
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

/// Compiles what the tests compile for another processor, but for programs of 32 bits.
fn stimuli(arch: Arch) -> Result<()> {
    let to = arch.directory().join("tmp");
    fs::create_dir_all(&to)?;
    for entry in fs::read_dir(process::root().join("tests/stimulus"))?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(stem) = name.strip_suffix(".c").filter(|stem| !stem.starts_with("compat")) else { continue };
        let mut command = Command::new(if name.ends_with(".bpf.c") { "clang" } else { arch.cc() });
        command.args(if name.ends_with(".bpf.c") {
            ["-O2", "-g", "-target", "bpf", "-mcpu=v3", "-c"].as_slice()
        } else {
            &["-O1", "-Wall", "-Werror", "-pthread"]
        });
        process::must(command.arg(entry.path()).arg("-o").arg(to.join(stem)))?;
    }
    Ok(())
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
