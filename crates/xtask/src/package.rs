//! `cargo xtask package`: a .deb and an .rpm of the release binary with its unit, configuration, manual and completions. What is
//! in them, and where, is in Cargo.toml (`package.metadata`).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

use crate::chart::files;
use crate::tools::{self, Tool};
use crate::{process, run, setup};

/// How to make the packages.
#[derive(clap::Args)]
pub struct Options {
    /// Use the release binary that is there.
    #[arg(long)]
    no_build: bool,
    /// Put them into this directory instead of target/package.
    #[arg(long)]
    out: Option<PathBuf>,
}

/// The packages for this machine's architecture.
pub struct Packages {
    /// For Debian and its kin.
    pub deb: PathBuf,
    /// For Fedora, RHEL, SUSE and their kin.
    pub rpm: PathBuf,
}

/// Makes the packages and says where they are.
///
/// # Errors
/// Fails when a tool or the binary cannot be had, or a file of them is missing.
pub fn run(options: &Options) -> Result<ExitCode> {
    let packages = make(options.no_build, options.out.as_deref())?;
    for path in [packages.deb, packages.rpm] {
        println!("{}: {:.1} MB", path.display(), fs::metadata(&path)?.len() as f64 / 1e6);
    }
    Ok(ExitCode::SUCCESS)
}

/// Makes the packages in a directory, target/package by default.
///
/// # Errors
/// Fails when a tool or the binary cannot be had, or a file of them is missing.
pub fn make(no_build: bool, out: Option<&Path>) -> Result<Packages> {
    setup::package()?;
    run::binary(no_build)?;
    let dir = out.map_or_else(|| process::target().join("package"), PathBuf::from);
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    for old in [files(&dir, "deb")?, files(&dir, "rpm")?].concat() {
        fs::remove_file(&old).with_context(|| format!("cannot remove {}", old.display()))?;
    }
    // Given as it was built, without line tables but with names of functions, which `telesonde debug profile` tells.
    let arguments = ["--no-build", "--no-strip", "--locked", "--offline", "--output"];
    pack(Tool::CargoDeb, &arguments, &dir)?;
    // What it requires is found by ldd and not by what this machine happens to have of RPM.
    pack(Tool::CargoGenerateRpm, &["generate-rpm", "--auto-req", "builtin", "--output"], &dir)?;
    Ok(Packages { deb: only(&dir, "deb")?, rpm: only(&dir, "rpm")? })
}

fn pack(tool: Tool, arguments: &[&str], dir: &Path) -> Result<()> {
    let mut command = Command::new(tools::install(tool)?);
    command.current_dir(process::root()).args(arguments).arg(dir);
    process::must(&mut command)
}

fn only(dir: &Path, ending: &str) -> Result<PathBuf> {
    match files(dir, ending)?.as_slice() {
        [package] => Ok(package.clone()),
        other => bail!("{} should have one .{ending} and has {}", dir.display(), other.len()),
    }
}
