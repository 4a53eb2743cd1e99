//! `cargo xtask e2e package`: the .deb is installed on this machine, the agent started as its unit says, asked, and purged; the
//! .rpm is installed below a root of its own, as this machine's package manager is another one.

mod service;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::child::Program;
use super::{END, Report, http};
use crate::package::Packages;
use crate::{package, process, setup};
use service::Service;

/// Where the installed configuration lets the agent be asked.
const SCRAPE: u16 = 9464;
const HEALTH: u16 = 9465;

const UNIT: &str = "/usr/lib/systemd/system/telesonde.service";
const CONFIGURATION: &str = "/etc/telesonde/telesonde.yaml";

/// Where something of a package could be left.
const PLACES: [&str; 5] = ["/etc", "/usr", "/var/lib", "/run", "/var/cache/man"];

/// What an administrator wrote, which no package may take away.
const EDIT: &str = "\n# Ours.\n";

/// Runs the proof.
///
/// # Errors
/// Fails when the packages cannot be made, or this machine is none to install them on.
pub fn run(options: &crate::Proof) -> Result<ExitCode> {
    ensure!(process::is_root(), "installing a package needs root: run it with sudo");
    ensure!(process::find("dpkg").is_some(), "the .deb is installed by dpkg, which this machine lacks");
    let known = process::output(Command::new("dpkg-query").args(["--show", "telesonde"]));
    ensure!(known.is_none(), "telesonde is installed here: purge it first (`dpkg --purge telesonde`)");
    ensure!(http::get(HEALTH, "/healthz", "*/*").is_err(), "an agent runs on this machine already: stop it first");
    setup::packages()?;
    Report::of(options, |dir, report| prove(&package::make(options.no_build, Some(dir))?, dir, report))
}

fn prove(packages: &Packages, dir: &Path, report: &mut Report) -> Result<()> {
    let before = left()?;
    let started = Instant::now();
    report.check("deb", "installs without systemd", || install(&packages.deb));
    if !Path::new(UNIT).is_file() {
        bail!("nothing was installed, so nothing can be asked");
    }
    let mut agent = None;
    report.check("deb", "to first scrape, as the unit starts it", || {
        let (program, said) = scraped(dir, started)?;
        agent = Some(program);
        Ok(said)
    });
    if let Some(agent) = agent {
        report.check("deb", "the agent has what the unit grants and no more", || privileges(&agent));
        report.check("deb", "the agent answers on each way", asked);
        report.check("deb", "the agent ends", || Ok(agent.stop(END)?.to_string()));
    }
    report.check("deb", "manual and completions are understood", || understood(&packages.deb));
    report.check("deb", "an edited configuration outlives an upgrade and a removal", || edited(&packages.deb));
    let purged = purge(&before);
    report.check("deb", "purge leaves nothing", || purged);
    report.check("rpm", "has its files, and marks configuration and manual", || listed(&packages.rpm));
    report.check("rpm", "its scripts do nothing where there is no systemd", scripts);
    report.check("rpm", "installs and is erased", || rooted(&packages.rpm, &dir.join("root")));
    Ok(())
}

fn dpkg(arguments: &[&str], package: &Path) -> Result<String> {
    let mut command = Command::new("dpkg");
    command.args(arguments).arg(package).env("DEBIAN_FRONTEND", "noninteractive");
    process::told(&mut command)
}

fn install(deb: &Path) -> Result<String> {
    dpkg(&["--install"], deb)?;
    process::told(Command::new("dpkg-query").args(["--show", "--showformat", "${Status}, ${Version}", "telesonde"]))
}

fn scraped(dir: &Path, started: Instant) -> Result<(Program, String)> {
    let service = Service::read(Path::new(UNIT))?;
    let mut command = service.command()?;
    let shown = process::line(&command);
    let mut agent = Program::start("agent", dir, &mut command)?;
    agent.until("the first scrape", Duration::from_mins(1), || {
        http::get(SCRAPE, "/metrics", "text/plain")
            .is_ok_and(|scrape| scrape.body.contains("\nebpf_syscall_count_total{"))
    })?;
    Ok((
        agent,
        format!("{:.1} s from the .deb to the first scrape (goal 60 s); {shown}", started.elapsed().as_secs_f64()),
    ))
}

/// The agent is not root, and what it may do is what the unit names.
fn privileges(agent: &Program) -> Result<String> {
    let service = Service::read(Path::new(UNIT))?;
    let status = fs::read_to_string(format!("/proc/{}/status", agent.id())).context("the agent has ended")?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.map(str::trim).with_context(|| format!("the kernel tells no {name}"))
    };
    let user = field("Uid")?.split_whitespace().next().unwrap_or_default();
    ensure!(user != "0", "the agent is root");
    let granted = format!("{:016x}", service.capabilities()?);
    // What it would hand on to other programs it gives up at once.
    let nothing = format!("{:016x}", 0);
    for (set, expected) in [("CapPrm", &granted), ("CapEff", &granted), ("CapBnd", &granted), ("CapAmb", &nothing)] {
        let has = field(set)?;
        ensure!(has == expected, "{set} is {has} and should be {expected}");
    }
    ensure!(field("NoNewPrivs")? == "1", "new privileges can be had");
    Ok(format!("user {user}, capabilities {granted}"))
}

fn asked() -> Result<String> {
    for path in ["/healthz", "/readyz"] {
        http::get(HEALTH, path, "*/*")?;
    }
    let largest = process::told(Command::new("telesonde").args(["metrics", "--cardinality"]))?;
    ensure!(largest.contains("ebpf_syscall_count"), "`telesonde metrics --cardinality` says\n{largest}");
    let valid = process::told(Command::new("telesonde").args(["config", "validate"]))?;
    let body = http::get(SCRAPE, "/metrics", "text/plain")?.body;
    let families = body.lines().filter(|line| line.starts_with("# TYPE ebpf_")).count();
    Ok(format!("{families} families of the kernel; {valid}"))
}

/// man and bash read what was installed, as far as this machine has them and lets dpkg install manuals.
fn understood(deb: &Path) -> Result<String> {
    let listed = process::told(Command::new("dpkg-deb").arg("--contents").arg(deb))?;
    let pages: Vec<&str> = listed.lines().filter_map(|line| line.split(" .").last()).collect();
    let pages: Vec<&str> = pages.into_iter().filter(|path| path.starts_with("/usr/share/man/man1/telesonde")).collect();
    ensure!(pages.contains(&"/usr/share/man/man1/telesonde.1.gz"), "no manual among {pages:?}");
    if process::find("man").is_some() {
        for page in pages.iter().filter(|page| Path::new(page).exists()) {
            let mut man = Command::new("man");
            man.args(["--local-file", "--warnings", page]).env("MANROFFSEQ", "").env("MANWIDTH", "80");
            let output = man.output().context("cannot start man")?;
            let warnings = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.success() && warnings.is_empty(), "{page}: {warnings}");
        }
    }
    process::told(Command::new("bash").args(["-n", "/usr/share/bash-completion/completions/telesonde"]))?;
    for path in ["/usr/share/zsh/vendor-completions/_telesonde", "/usr/share/fish/vendor_completions.d/telesonde.fish"]
    {
        ensure!(Path::new(path).is_file(), "{path} is missing");
    }
    Ok(format!("{} pages", pages.len()))
}

fn edited(deb: &Path) -> Result<String> {
    let ours = fs::read_to_string(CONFIGURATION)? + EDIT;
    fs::write(CONFIGURATION, &ours)?;
    for step in ["--install", "--remove"] {
        let subject = if step == "--install" { deb } else { Path::new("telesonde") };
        dpkg(&[step], subject)?;
        let now = fs::read_to_string(CONFIGURATION).unwrap_or_default();
        ensure!(now == ours, "after `dpkg {step}` {CONFIGURATION} is\n{now}");
    }
    ensure!(!Path::new("/usr/bin/telesonde").exists(), "the binary is there after the removal");
    Ok("kept by `dpkg --install` and `dpkg --remove`".to_owned())
}

/// Purges whatever the checks before have left, and compares with what was there before.
fn purge(before: &[PathBuf]) -> Result<String> {
    let run = Path::new("/run/telesonde");
    // systemd removes the directory that it made.
    if run.exists() {
        fs::remove_dir_all(run)?;
    }
    dpkg(&["--purge"], Path::new("telesonde"))?;
    let after = left()?;
    let new: Vec<&PathBuf> = after.iter().filter(|path| !before.contains(path)).collect();
    ensure!(new.is_empty(), "left behind: {new:?}");
    let known = process::output(Command::new("dpkg-query").args(["--show", "telesonde"]));
    ensure!(known.is_none(), "dpkg still knows it: {known:?}");
    Ok(format!("nothing by its name in {}", PLACES.join(", ")))
}

/// Lists everything with the package's name where packages put things.
fn left() -> Result<Vec<PathBuf>> {
    let mut command = Command::new("find");
    command.args(PLACES.iter().filter(|place| Path::new(place).exists())).args(["-xdev", "-name", "*telesonde*"]);
    // Others come and go below it meanwhile.
    command.arg("-ignore_readdir_race");
    Ok(process::told(&mut command)?.lines().map(PathBuf::from).collect())
}

fn rpm(arguments: &[&str], package: &Path) -> Result<String> {
    process::told(Command::new("rpm").args(arguments).arg(package))
}

fn listed(package: &Path) -> Result<String> {
    let files = rpm(&["--query", "--package", "--list"], package)?;
    for file in ["/usr/bin/telesonde", UNIT, CONFIGURATION, "/usr/share/man/man1/telesonde.1"] {
        ensure!(files.lines().any(|line| line == file), "{file} is missing among\n{files}");
    }
    let configuration = rpm(&["--query", "--package", "--configfiles"], package)?;
    ensure!(configuration == CONFIGURATION, "its configuration is `{configuration}`");
    let requires = rpm(&["--query", "--package", "--requires"], package)?;
    ensure!(requires.contains("libc.so.6("), "it does not require the C library but\n{requires}");
    rpm(&["--checksig", "--nosignature"], package)?;
    Ok(format!("{} files", files.lines().count()))
}

fn scripts() -> Result<String> {
    ensure!(!Path::new("/run/systemd/system").exists(), "systemd runs here, where this must not be tried");
    for (script, argument) in
        [("post", "1"), ("post", "2"), ("preun", "0"), ("preun", "1"), ("postun", "0"), ("postun", "1")]
    {
        let path = process::root().join(format!("packaging/rpm/{script}.sh"));
        process::told(Command::new("/bin/sh").arg("-e").arg(&path).arg(argument).env("PATH", "/nonexistent"))?;
    }
    Ok("installation, upgrade, removal".to_owned())
}

fn rooted(package: &Path, root: &Path) -> Result<String> {
    fs::create_dir_all(root)?;
    let at = root.to_string_lossy();
    // Neither a C library nor a shell is below that root.
    rpm(&["--root", &at, "--install", "--nodeps", "--noscripts", "--nosignature"], package)?;
    let binary = root.join("usr/bin/telesonde");
    let version = process::told(Command::new(&binary).arg("--version"))?;
    rpm(&["--root", &at, "--verify", "--nodeps"], Path::new("telesonde"))?;
    rpm(&["--root", &at, "--erase", "--noscripts"], Path::new("telesonde"))?;
    ensure!(!binary.exists(), "{} is there after the removal", binary.display());
    Ok(version)
}
