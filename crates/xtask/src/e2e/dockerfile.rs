//! `cargo xtask e2e dockerfile`: Podman builds the image by the Dockerfile, for this machine's processor and for the other one.
//! It has the files and settings of what `cargo xtask image` makes, and the agent runs in it.
//!
//! No registry is asked: the Dockerfile starts from what [`stand_in`] makes. All state is in target/dockerfile, so that what
//! was compiled once is compiled again only where it has changed; the instructions are carried out each time.

mod contents;
mod stand_in;

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};

use super::prometheus::eventually;
use super::runtimes::runtime;
use super::{Report, containers};
use crate::arch::Arch;
use crate::{image, process, setup};
use contents::Contents;

/// What the container is given, as the Dockerfile says and examples/grafana/compose.yaml does.
const RIGHTS: [&str; 6] =
    ["--pid=host", "--network=none", "--cap-drop=ALL", "--cap-add=BPF", "--cap-add=PERFMON", "--cap-add=NET_ADMIN"];
const HOST: [&str; 2] = ["--set", "host.root=/host"];

/// Runs the proof.
///
/// # Errors
/// Fails without root, and when something cannot be installed or made.
pub fn run(options: &crate::Proof) -> Result<ExitCode> {
    ensure!(process::is_root(), "containers need root: run it with sudo");
    setup::dockerfile()?;
    let chosen = |arch: &Arch| options.only.is_empty() || options.only.iter().any(|only| only == arch.debian());
    for arch in [Arch::X86_64, Arch::Aarch64].into_iter().filter(chosen) {
        setup::build_for(arch)?;
    }
    Report::of(options, prove)
}

fn prove(dir: &Path, report: &mut Report) -> Result<()> {
    let state = process::target().join("dockerfile");
    fs::create_dir_all(state.join("target"))?;
    // The same each time, for Podman remembers it, and short, for it wants it so.
    let mut hasher = DefaultHasher::new();
    state.hash(&mut hasher);
    let run = PathBuf::from(format!("/run/telesonde-{:08x}", hasher.finish() as u32));
    let place = Place { dir: dir.to_owned(), state, run };
    let result = judge(&place, report);
    let _ = fs::remove_dir_all(&place.run);
    result
}

fn judge(place: &Place, report: &mut Report) -> Result<()> {
    for base in bases(&fs::read_to_string(process::root().join("Dockerfile"))?) {
        println!("{base}: {}", stand_in::make(place, &base)?);
    }
    for arch in [Arch::X86_64, Arch::Aarch64] {
        let group = arch.debian();
        let mut built = None;
        report.check(group, "every instruction", || {
            let contents = place.build(arch)?;
            let said = contents.told()?;
            built = Some(contents);
            Ok(said)
        });
        let Some(built) = built else { continue };
        report.check(group, "files and settings are those of `cargo xtask image`", || place.same(arch, &built));
        if arch != Arch::HERE {
            report.check(group, "the agent starts, emulated", || emulated(arch, &built));
            continue;
        }
        report.check(group, "telesonde --version", || place.says(arch, &["--version"]));
        report.check(group, "telesonde check", || place.checks(arch));
        report.check(group, "a scrape", || place.scraped(arch));
    }
    Ok(())
}

/// Gives the images that a Dockerfile starts from, and that are none of its own stages.
fn bases(dockerfile: &str) -> Vec<String> {
    let (mut bases, mut own) = (Vec::new(), vec!["scratch"]);
    for line in dockerfile.lines().filter_map(|line| line.strip_prefix("FROM ")) {
        let mut words = line.split_whitespace().filter(|word| !word.starts_with("--"));
        let from = words.next().unwrap_or_default();
        if !own.contains(&from) {
            bases.push(from.to_owned());
        }
        own.extend(words.nth(1));
    }
    bases
}

/// Where everything is.
struct Place {
    dir: PathBuf,
    state: PathBuf,
    run: PathBuf,
}

impl Place {
    /// Gives a command of Podman, with what it keeps here.
    fn podman(&self, words: &[&str]) -> Result<Command> {
        let all = runtime::podman(&self.state, &self.run)?;
        let mut command = Command::new(&all[0]);
        command.args(&all[1..]).args(words);
        Ok(command)
    }

    fn told(&self, words: &[&str]) -> Result<String> {
        process::told(&mut self.podman(words)?)
    }

    /// Builds the image and unpacks it.
    fn build(&self, arch: Arch) -> Result<Contents> {
        let platform = format!("--platform=linux/{}", arch.debian());
        let mut build =
            self.podman(&["build", "--pull=never", "--network=host", "--no-cache", "--identity-label=false"])?;
        // Docker and newer Podman know it by themselves.
        let here = format!("--build-arg=BUILDPLATFORM=linux/{}", Arch::HERE.debian());
        build.args([&platform, &here, "--tag", &name(arch)]);
        build.arg("--volume").arg(format!("{}:/source/target", self.state.join("target").display()));
        // What cargo has fetched on this machine need not be fetched again.
        let registry = stand_in::cargo_home().join("registry");
        if registry.is_dir() {
            build.arg("--volume").arg(format!("{}:{}/registry:O", registry.display(), stand_in::CARGO_HOME));
        }
        process::must(build.arg(process::root()))?;
        let layout = self.dir.join(format!("built-{}", arch.debian()));
        self.told(&["push", "--format=oci", &name(arch), &format!("oci:{}:built", layout.display())])?;
        Contents::read(&layout)
    }

    /// The very program that was built, put into an image by the command that needs no Docker.
    fn same(&self, arch: Arch, built: &Contents) -> Result<String> {
        let (root, layout) = (self.dir.join("root"), self.dir.join(format!("image-{}", arch.debian())));
        if root.exists() {
            fs::remove_dir_all(&root)?;
        }
        image::fill(&root, &built.root.join(image::AGENT), arch)?;
        image::layout(&layout, &root, arch)?;
        built.equals(&Contents::read(&layout)?)
    }

    /// Runs a command of the agent in a container, with what compose.yaml gives it, but as the image's own user.
    fn container(&self, arch: Arch, options: &[&str], arguments: &[&str]) -> Result<String> {
        // A volume has the mode that the image gives the place.
        let own = ["--read-only", "--volume=/run/telesonde", "--volume=/:/host:ro"];
        self.run(&[options, &RIGHTS, &own, &[&name(arch)], arguments].concat())
    }

    /// Runs a container.
    fn run(&self, words: &[&str]) -> Result<String> {
        let mut command = self.podman(&[&["run", "--pull=never"], words].concat())?;
        process::told(command.env(runtime::SETTINGS, runtime::settings(&self.dir)?))
    }

    fn says(&self, arch: Arch, arguments: &[&str]) -> Result<String> {
        self.container(arch, &["--rm"], arguments)
    }

    fn checks(&self, arch: Arch) -> Result<String> {
        containers::usable(&self.says(arch, &[&["check"], &HOST[..]].concat())?)
    }

    fn scraped(&self, arch: Arch) -> Result<String> {
        let id = self.container(arch, &["--detach"], &[&["run"], &HOST[..]].concat())?;
        let said = (|| {
            let process = self.told(&["inspect", "--format={{.State.Pid}}", &id])?.parse()?;
            let families = eventually(|| containers::families(process))?;
            let status = fs::read_to_string(format!("/proc/{process}/status"))?;
            let user = containers::value(&status, "Uid")?;
            ensure!(user.split_whitespace().all(|id| image::USER.starts_with(id)), "it is user {user}");
            Ok(format!("{families} families of the kernel, as user {}", image::USER))
        })();
        let log = self.podman(&["logs", &id])?.output()?;
        self.told(&["rm", "--force", "--volumes", "--time=10", &id])?;
        said.with_context(|| format!("it said\n{}", String::from_utf8_lossy(&[log.stdout, log.stderr].concat())))
    }
}

/// The loader and the libraries are there and fit: nothing else can be seen of a processor that is not this machine's.
fn emulated(arch: Arch, built: &Contents) -> Result<String> {
    let mut command = Command::new(arch.emulator());
    process::told(command.arg("-L").arg(&built.root).arg(built.root.join(image::AGENT)).arg("--version"))
}

fn name(arch: Arch) -> String {
    format!("localhost/telesonde:{}", arch.debian())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dockerfile_starts_from_what_it_does_not_make() {
        let text =
            "FROM --platform=$P rust:1-x AS build\nRUN a\nFROM debian:y\nFROM build as more\nFROM scratch\nFROM more\n";
        assert_eq!(bases(text), ["rust:1-x", "debian:y"]);
    }
}
