//! `cargo xtask e2e containers`: the image's root file system in containers that are what the chart's pods would be: its user,
//! capabilities, mounts and read-only root, by runc. The agent has what the chart grants, finds nothing amiss, and counts exactly.

mod pod;

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{CapabilitySet, LinkNameSpaceType, move_into_link_name_space};
use serde_json::Value;

use super::child::Program;
use super::prometheus::eventually;
use super::stimulus::Workload;
use super::{END, Report, exposition, http, peers};
use crate::arch::Arch;
use crate::{image, process, run, setup};
use pod::{Part, Pod};

const METRIC: &str = "ebpf_syscall_count_total";
const CALLS: u64 = 20_011;
/// The port of the chart's metrics.
const PORT: u16 = 9464;
const START: Duration = Duration::from_secs(30);

/// What is said to the chart, by the name of the check. There is no API server here.
const VALUES: [(&str, &[&str]); 5] = [
    ("root", &["security.profile=root"]),
    ("nonroot", &["security.profile=nonroot"]),
    ("drop", &["security.profile=nonroot", "config.agent.privileges=drop"]),
    ("pinned-root", &["security.profile=root", PINNED]),
    ("pinned-drop", &["security.profile=nonroot", "config.agent.privileges=drop", PINNED]),
];
/// Said where maps and programs outlive the container; the directory follows.
const PINNED: &str = "config.integrations.ebpf.pin_path=";
const ALWAYS: &str = "config.enrich.kubernetes.enabled=false";

/// Where everything is.
struct Place {
    dir: PathBuf,
    root: PathBuf,
}

/// Runs the proof.
///
/// # Errors
/// Fails when something cannot be installed, built or made.
pub fn run(options: &crate::Proof) -> Result<ExitCode> {
    if !process::is_root() {
        bail!("containers need root: run it with sudo");
    }
    setup::containers()?;
    run::binary(options.no_build)?;
    Report::of(options, prove)
}

fn prove(dir: &Path, report: &mut Report) -> Result<()> {
    let place = Place { dir: dir.to_owned(), root: dir.join("image") };
    image::fill(&place.root, &peers::agent(), Arch::HERE)?;
    let bpffs = BpfFs::mount(&place.dir.join("bpf"))?;
    for (name, values) in VALUES {
        let pins = format!("{PINNED}{}", bpffs.0.join(name).display());
        let given = values.iter().map(|&value| if value == PINNED { pins.as_str() } else { value });
        let given: Vec<&str> = given.chain([ALWAYS]).collect();
        let pod = Pod::of_chart(&place.dir.join(name), &given)?;
        let drops = values.contains(&"config.agent.privileges=drop");
        if pod.init.is_some() {
            report.check(name, "prepares its directory", || place.prepares(name, &pod));
        }
        report.check(name, "check finds everything in order", || place.checks(name, &pod));
        let mut agent = None;
        report.check(name, "starts", || {
            let container = place.start(name, &pod)?;
            let said = container.said()?;
            agent = Some(container);
            Ok(said)
        });
        let Some(agent) = agent else { continue };
        // They are dropped a moment after the first scrape can be had.
        let privileges = || eventually(|| agent.privileges(&pod, drops));
        report.check(name, "has what the chart grants", privileges);
        if pod.init.is_some() {
            report.check(name, "counts on after SIGKILL", || place.survives(name, &pod, agent));
            continue;
        }
        report.check(name, "counts exactly", || agent.counts(name));
        report.check(name, "takes a profile of itself", || place.profile(name));
        report.check(name, "ends", || Ok(agent.program.stop(END)?.to_string()));
    }
    Ok(())
}

/// A BPF file system of the proof's own, into which only root gets; it goes when this is dropped, and all that is pinned.
struct BpfFs(PathBuf);

impl BpfFs {
    fn mount(directory: &Path) -> Result<Self> {
        fs::create_dir_all(directory)?;
        process::must(Command::new("mount").args(["-t", "bpf", "-o", "mode=700", "bpf"]).arg(directory))?;
        Ok(Self(directory.to_owned()))
    }
}

impl Drop for BpfFs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

impl Place {
    /// Gives the command that runs a container of a pod.
    fn container(&self, name: &str, (pod, part): (&Pod, &Part), arguments: &[&str]) -> Result<(Command, PathBuf)> {
        let bundle = self.dir.join(name);
        pod.write(part, &bundle, &self.root, arguments)?;
        let number = bundle.join(format!("{}.pid", arguments[0]));
        let mut command = Command::new("runc");
        command.arg("--root").arg(self.dir.join("runc")).args(["run", "--bundle"]).arg(&bundle);
        command.arg("--pid-file").arg(&number);
        command.arg(format!("telesonde-e2e-{}-{name}-{}", std::process::id(), arguments[0]));
        Ok((command, number))
    }

    fn checks(&self, name: &str, pod: &Pod) -> Result<String> {
        usable(&self.says(name, (pod, &pod.agent), &["check"])?)
    }

    /// Runs a container to its end; gives what it says.
    fn says(&self, name: &str, part: (&Pod, &Part), arguments: &[&str]) -> Result<String> {
        let (mut command, _) = self.container(name, part, arguments)?;
        let output = command.output().context("cannot start runc")?;
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        ensure!(output.status.success(), "`telesonde {}` ended with {}:\n{said}", arguments[0], output.status);
        Ok(said)
    }

    /// Runs the container that comes before the agent's.
    fn prepares(&self, name: &str, pod: &Pod) -> Result<String> {
        let init = pod.init.as_ref().context("the chart renders no init container")?;
        let arguments: Vec<&str> = init.arguments.iter().map(String::as_str).collect();
        self.says(name, (pod, init), &arguments)?;
        let directory = fs::metadata(self.dir.join("bpf").join(name))?;
        let (user, mode) = (u64::from(directory.uid()), directory.mode() & 0o777);
        ensure!(user == pod.agent.user && mode == 0o700, "it is user {user}'s, mode {mode:o}");
        Ok(format!("user {user}'s, mode {mode:o}"))
    }

    /// The pod is killed while a workload makes its calls, and comes back when these are done.
    fn survives(&self, name: &str, pod: &Pod, agent: Container) -> Result<String> {
        let mut workload = Workload::start(&format!("containers-{name}"), CALLS, Duration::from_secs(2))?;
        eventually(|| {
            let calls = agent.calls(&workload.name)?;
            ensure!(calls > 0.0, "it has made no call yet");
            Ok(())
        })?;
        agent.kill()?;
        workload.wait()?;
        self.prepares(name, pod)?;
        let again = self.start(name, pod)?;
        let counted = eventually(|| again.exactly(&workload.name))?;
        again.program.stop(END)?;
        workload.finish()?;
        Ok(format!("{counted}, also while nobody was there"))
    }

    /// It writes while it does so, where nothing but the admin socket's directory can be written to.
    fn profile(&self, name: &str) -> Result<String> {
        let (socket, file) = (self.dir.join(name).join("volumes/run/admin.sock"), self.dir.join(format!("{name}.pb")));
        let mut command = Command::new(peers::agent());
        command.args(["debug", "profile", "--seconds", "1", "--set", &format!("admin.socket={}", socket.display())]);
        process::must(command.arg("--output").arg(&file))?;
        Ok(format!("{} bytes", fs::metadata(&file)?.len()))
    }

    fn start(&self, name: &str, pod: &Pod) -> Result<Container> {
        let arguments: Vec<&str> = pod.agent.arguments.iter().map(String::as_str).collect();
        let (mut command, number) = self.container(name, (pod, &pod.agent), &arguments)?;
        // Of a container before.
        let _ = fs::remove_file(&number);
        let mut program = Program::start(name, &self.dir, &mut command)?;
        let mut id = None;
        program.until("the container runs", START, || {
            id = fs::read_to_string(&number).ok().and_then(|id| id.trim().parse().ok());
            id.is_some()
        })?;
        let mut container = Container { id: id.context("runc tells no process id")?, program };
        let (id, ready) = (container.id, || scrape(container.id).is_ok());
        container.program.until(&format!("the first scrape of {id}"), START, ready)?;
        Ok(container)
    }
}

/// A container with the agent in it.
struct Container {
    id: u32,
    program: Program,
}

/// Says how many collectors are usable by what `check` prints, and that the agent would be confined.
pub fn usable(said: &str) -> Result<String> {
    let usable = said.lines().filter(|line| line.split_whitespace().nth(1) == Some("usable")).count();
    let confined = |what: &str| said.lines().any(|line| line.starts_with(what));
    ensure!(usable > 0 && confined("seccomp") && confined("Landlock"), "it says\n{said}");
    Ok(format!("{usable} collectors are usable"))
}

/// Counts the families of the kernel in a scrape of an agent.
pub fn families(id: u32) -> Result<usize> {
    let families = scrape(id)?.lines().filter(|line| line.starts_with("# TYPE ebpf_")).count();
    ensure!(families > 0, "a scrape has nothing of the kernel");
    Ok(families)
}

/// Asks for the metrics of an agent, from within its network namespace.
fn scrape(id: u32) -> Result<String> {
    let namespace = fs::File::open(format!("/proc/{id}/ns/net")).context("the agent has ended")?;
    // Only the thread that asks for it is moved, so it is one for this alone.
    let asks = thread::spawn(move || -> Result<String> {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
        Ok(http::get(PORT, "/metrics", "text/plain")?.body)
    });
    asks.join().map_err(|_| anyhow::anyhow!("the scrape panicked"))?
}

/// Gives what the kernel tells of a process.
pub fn value<'s>(status: &'s str, key: &str) -> Result<&'s str> {
    let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    line.map(str::trim).with_context(|| format!("the kernel tells no {key}"))
}

impl Container {
    fn said(&self) -> Result<String> {
        Ok(format!("process {}, {} families of the kernel", self.id, families(self.id)?))
    }

    /// Every thread has the capabilities of the chart, or none if they are dropped; it gains none, and is confined.
    fn privileges(&self, pod: &Pod, dropped: bool) -> Result<String> {
        let granted = bits(&pod.agent.capabilities)?;
        let has = if dropped { 0 } else { granted };
        let (id, mut threads) = (self.id, 0);
        for thread in fs::read_dir(format!("/proc/{id}/task"))? {
            // A thread may end meanwhile.
            let Ok(status) = fs::read_to_string(thread?.path().join("status")) else { continue };
            threads += 1;
            for (set, expected) in [("CapPrm", has), ("CapEff", has), ("CapBnd", granted), ("CapInh", 0), ("CapAmb", 0)]
            {
                let found = u64::from_str_radix(value(&status, set)?, 16)?;
                ensure!(found == expected, "{set} is {found:016x} and should be {expected:016x}");
            }
            ensure!(value(&status, "NoNewPrivs")? == "1" && value(&status, "Seccomp")? == "2", "{status}");
            let user = pod.agent.user.to_string();
            ensure!(value(&status, "Uid")?.split_whitespace().all(|word| word == user), "it is not user {user}");
        }
        let mounts = fs::read_to_string(format!("/proc/{id}/mountinfo"))?;
        let root = mounts.lines().find(|line| line.split(' ').nth(4) == Some("/")).context("it has no root")?;
        let options: BTreeSet<&str> = root.split(' ').nth(5).unwrap_or_default().split(',').collect();
        ensure!(options.contains("ro"), "its root can be written to: {root}");
        Ok(format!("user {}, {threads} threads with capabilities {has:016x} of {granted:016x}", pod.agent.user))
    }

    /// A workload beside it makes so many calls, and so many there are.
    fn counts(&self, name: &str) -> Result<String> {
        let workload = Workload::start(&format!("containers-{name}"), CALLS, Duration::from_millis(100))?;
        // Its cgroup stays until the agent has seen it.
        let counted = eventually(|| self.exactly(&workload.name))?;
        workload.finish()?;
        Ok(counted)
    }

    fn exactly(&self, workload: &str) -> Result<String> {
        let calls = self.calls(workload)?;
        ensure!(calls <= CALLS as f64, "{calls} calls of {CALLS}");
        ensure!(calls >= CALLS as f64, "only {calls} calls of {CALLS}");
        Ok(format!("{calls} calls of getppid"))
    }

    /// Gives the calls of a workload.
    fn calls(&self, workload: &str) -> Result<f64> {
        let scrape = exposition::parse(&scrape(self.id)?)?;
        let of = scrape.samples.iter().filter(|((name, labels), _)| {
            let is = |key: &str, wanted: &str| labels.iter().any(|(k, v)| k == key && v == wanted);
            name == METRIC && is("syscall", "getppid") && labels.iter().any(|(_, v)| v.contains(workload))
        });
        Ok(of.map(|(_, value)| value).sum())
    }

    /// Ends it as nothing else could, and waits until it has gone.
    fn kill(mut self) -> Result<()> {
        let id = i32::try_from(self.id).ok().and_then(Pid::from_raw).context("no process has that number")?;
        kill_process(id, Signal::KILL)?;
        self.program.wait(END).map(drop)
    }
}

/// Gives a set of capabilities as the kernel writes it.
fn bits(names: &[String]) -> Result<u64> {
    let bit = |name: &String| {
        let name = name.strip_prefix("CAP_").unwrap_or(name);
        CapabilitySet::from_name(name).map(|set| set.bits()).with_context(|| format!("{name} is no capability"))
    };
    names.iter().map(bit).try_fold(0, |all, bit| Ok(all | bit?))
}

/// Gives what stands at a place of a rendered object.
fn at<'v>(value: &'v Value, pointer: &str) -> Result<&'v Value> {
    value.pointer(pointer).with_context(|| format!("the chart renders no {pointer}"))
}
