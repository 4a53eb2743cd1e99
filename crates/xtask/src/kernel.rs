//! `cargo xtask kernel`: the live-kernel suite on Debian's kernels, each booted in QEMU's software emulation.

mod guest;
mod initramfs;
mod packages;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::{process, setup, tools};

/// A kernel that Debian ships.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Release {
    /// Debian 11.
    #[value(name = "5.10")]
    V5_10,
    /// Debian 12.
    #[value(name = "6.1")]
    V6_1,
    /// Debian 13.
    #[value(name = "6.12")]
    V6_12,
    /// Debian unstable.
    #[value(name = "newest")]
    Newest,
}

/// How the guest mounts its cgroups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Cgroups {
    /// Version 2 alone.
    V2,
    /// Version 2 without controllers, and the memory and block controllers of version 1 beside it.
    Hybrid,
    /// Version 1 alone.
    V1,
}

/// What to boot and what to run there.
#[derive(clap::Args)]
pub struct Options {
    /// Which kernels.
    #[arg(long = "kernel", value_delimiter = ',', default_values = ["5.10", "6.1", "6.12"])]
    releases: Vec<Release>,
    /// How the guest mounts its cgroups.
    #[arg(long, default_value = "v2")]
    cgroups: Cgroups,
    /// Boot with lockdown=confidentiality.
    #[arg(long)]
    lockdown: bool,
    /// The guest's CPUs.
    #[arg(long, default_value_t = 2)]
    cpus: u32,
    /// Arguments for the test programs, such as a name.
    #[arg(last = true)]
    args: Vec<String>,
}

/// Runs the suite on each kernel and prints one table; anything that failed makes the exit code 1.
///
/// # Errors
/// Fails when a kernel cannot be had or booted, or when the suite cannot be built.
pub fn run(options: &Options) -> Result<ExitCode> {
    setup::kernel()?;
    let programs = programs()?;
    let mut results = Vec::new();
    for &release in &options.releases {
        let kernel = packages::kernel(release, &tools::home())?;
        let image = initramfs::pack(&kernel, &programs, options)?;
        let output = guest::boot(&kernel, &image, options)?;
        results.push(table::Column::read(&kernel.version, &output));
    }
    print!("\n{}", table::render(&results));
    Ok(ExitCode::from(u8::from(results.iter().any(|column| column.failed() > 0))))
}

/// Builds the suite and the agent, and what the tests compile on a machine that has a compiler.
fn programs() -> Result<Vec<PathBuf>> {
    process::must(process::cargo()?.args(["build", "--release", "--package", "telesonde", "--bin", "telesonde"]))?;
    let mut programs = Vec::new();
    for (package, test) in [("telesonde-bpf", "kernel"), ("telesonde", "tests")] {
        let mut command = process::cargo()?;
        command.args(["test", "--release", "--no-run", "--message-format=json", "--package", package, "--test", test]);
        eprintln!("$ {}", process::line(&command));
        let output = command.stderr(std::process::Stdio::inherit()).output().context("cannot start cargo")?;
        if !output.status.success() {
            bail!("the suite does not build: cargo ended with {}", output.status);
        }
        let text = String::from_utf8(output.stdout).context("cargo writes no UTF-8")?;
        let found = text.lines().filter_map(executable).next_back();
        programs.push(found.with_context(|| format!("cargo names no program for the test {test} of {package}"))?);
    }
    // The guest has no compiler: what this leaves in the build's directory goes into its file system.
    let suite = programs.last().context("there is no suite")?;
    process::must(std::process::Command::new(suite).args(["--exact", "harness::stimulus::all_compile"]))?;
    Ok(programs)
}

/// Gives the path of a test program from a line of cargo's messages, which also name the agent.
fn executable(message: &str) -> Option<PathBuf> {
    if !message.contains("\"kind\":[\"test\"]") {
        return None;
    }
    let (_, rest) = message.split_once("\"executable\":\"")?;
    rest.split_once('"').map(|(path, _)| PathBuf::from(path))
}
