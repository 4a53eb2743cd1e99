//! `cargo xtask e2e runtimes`: the agent beside real container runtimes, in whose containers a known number of calls is made.
//!
//! Docker, containerd and Podman come from the machine's distribution, keep everything in the run's directory and pull nothing:
//! their only image is a program compiled here, and for the example's compose file the agent and a Prometheus. The agent finds them through `host.root`, as it does in a container.

mod compose;
pub mod runtime;

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::child::Program;
use super::prometheus::eventually;
use super::{END, Report, exposition, http, peers};
use crate::{process, run, setup};
use runtime::{Kind, Runtime};

const METRIC: &str = "ebpf_syscall_count_total";
const CALL: &str = "sched_rr_get_interval";

/// A user of the proof's host who is none of this machine's.
const USER: u32 = 4711;

/// Where everything is.
pub struct Host {
    dir: PathBuf,
    /// The root file system of the image, and the same as an archive.
    image: PathBuf,
    archive: PathBuf,
    scrape: u16,
}

/// Runs the proof.
///
/// # Errors
/// Fails when something cannot be installed, built or started.
pub fn run(options: &crate::Proof) -> Result<ExitCode> {
    if !process::is_root() {
        bail!("container runtimes need root: run it with sudo");
    }
    setup::runtimes()?;
    run::binary(options.no_build)?;
    Report::of(options, |dir, report| prove(&Host::prepare(dir.to_owned())?, report))
}

fn prove(host: &Host, report: &mut Report) -> Result<()> {
    let mut runtimes = Vec::new();
    for kind in [Kind::Docker, Kind::Containerd, Kind::Podman, Kind::Rootless] {
        let mut started = None;
        report.check(kind.name(), "starts", || {
            let (runtime, version) = Runtime::start(kind, host)?;
            // One container is older than the agent.
            runtime.run("older", 1_009)?;
            started = Some(runtime);
            Ok(version)
        });
        runtimes.extend(started);
    }
    let agent =
        peers::start_agent(&host.dir, host.scrape, Command::new(peers::agent()), &[host.dir.join("telesonde.yaml")])?;
    for runtime in &runtimes {
        let group = runtime.kind.name();
        report.check(group, "a container that is older than the agent", || older(host, runtime));
        report.check(group, "a container that is started, and started again", || started(host, runtime));
        if runtime.kind.keeps_ended() {
            report.check(group, "a container that ends at once", || brief(host, runtime));
        }
    }
    report.check("check", "says that containers have names", || check(host));
    agent.stop(END)?;
    for docker in runtimes.iter().filter(|runtime| runtime.kind == Kind::Docker) {
        report.check("docker", "the agent itself in a container", || inside(host, docker));
    }
    runtimes.into_iter().try_for_each(Runtime::stop)?;
    report.check("compose", "the example's agent and Prometheus in containers", || compose::started(&host.dir));
    Ok(())
}

fn older(host: &Host, runtime: &Runtime) -> Result<String> {
    runtime.signal("older")?;
    eventually(|| host.counted(runtime, "older", 1_009))
}

/// The totals of a container's lives add up in one series.
fn started(host: &Host, runtime: &Runtime) -> Result<String> {
    const CALLS: u64 = 30_011;
    let name = format!("web-{}", runtime.kind.name());
    runtime.run(&name, CALLS)?;
    runtime.signal(&name)?;
    let first = eventually(|| host.counted(runtime, &name, CALLS))?;
    runtime.again(&name, CALLS)?;
    runtime.signal(&name)?;
    let second = eventually(|| host.counted(runtime, &name, 2 * CALLS))?;
    Ok(format!("{first}; then {second}"))
}

fn brief(host: &Host, runtime: &Runtime) -> Result<String> {
    const CALLS: u64 = 503;
    let name = format!("brief-{}", runtime.kind.name());
    runtime.run_to_end(&name, CALLS)?;
    eventually(|| host.counted(runtime, &name, CALLS))
}

/// The agent has nothing of its host but what is mounted, and the pid namespace.
fn inside(host: &Host, docker: &Runtime) -> Result<String> {
    const CALLS: u64 = 2_003;
    fs::create_dir_all(host.dir.join("sys/fs/cgroup"))?;
    let mut volumes = vec![
        format!("{}:/host:ro", host.dir.display()),
        "/sys/fs/cgroup:/host/sys/fs/cgroup:ro".to_owned(),
        format!("{}:/telesonde:ro", peers::agent().display()),
    ];
    // The image has no C library.
    let libraries = ["/lib", "/lib64", "/usr"].into_iter().filter(|path| Path::new(path).exists());
    volumes.extend(libraries.map(|path| format!("{path}:{path}:ro")));
    let settings = ["host.root=/host".to_owned(), format!("exporters.prometheus.listen=127.0.0.1:{}", host.scrape)];
    docker.run_program("agent", &volumes, &["/telesonde", "run", "--set", &settings[0], "--set", &settings[1]])?;
    eventually(|| http::get(host.scrape, "/metrics", "text/plain"))?;
    docker.run("neighbour", CALLS)?;
    docker.signal("neighbour")?;
    eventually(|| host.counted(docker, "neighbour", CALLS))
}

fn check(host: &Host) -> Result<String> {
    let mut command = Command::new(peers::agent());
    command.args(["check", "--format", "json", "--config"]).arg(host.dir.join("telesonde.yaml"));
    let output = command.output().context("cannot run the agent")?;
    let report: Value = serde_json::from_slice(&output.stdout).context("check prints no JSON")?;
    let all = report["host"].as_array().context("check finds nothing")?;
    let found = all.iter().find(|finding| finding["what"] == "container_runtimes");
    match found {
        Some(found) if found["found"] == "names workloads" => Ok("container_runtimes: names workloads".to_owned()),
        other => bail!("check says {other:?}"),
    }
}

impl Host {
    fn prepare(dir: PathBuf) -> Result<Self> {
        let (image, archive) = (dir.join("image"), dir.join("image.tar"));
        for made in ["image", "etc", "run/user", "home"] {
            fs::create_dir_all(dir.join(made))?;
        }
        let source = process::root().join("tests/stimulus/calls.c");
        let mut compile = Command::new("cc");
        process::must(compile.args(["-O1", "-Wall", "-static", "-o"]).arg(image.join("calls")).arg(source))?;
        process::must(Command::new("tar").arg("-C").arg(&image).arg("-cf").arg(&archive).arg("calls"))?;
        let scrape = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let host = Self { dir, image, archive, scrape };
        host.admit_user()?;
        let at = host.dir.display();
        let configuration = format!(
            "integrations: {{ebpf: {{collectors: {{syscalls: {{enabled: require}}}}}}}}\n\
             exporters: {{prometheus: {{listen: '127.0.0.1:{scrape}', max_age: 0s}}}}\n\
             host: {{root: {at}, cgroup: /sys/fs/cgroup}}\nadmin: {{socket: {at}/admin.sock}}\n"
        );
        fs::write(host.dir.join("telesonde.yaml"), configuration)?;
        Ok(host)
    }

    /// Gives the proof's host a user with a range of ids, and writes what runs a command as that user.
    fn admit_user(&self) -> Result<()> {
        let at = self.dir.display();
        let accounts = [
            ("passwd", format!("shopper:x:{USER}:{USER}::/home/shopper:/bin/sh\n")),
            ("group", format!("shopper:x:{USER}:\n")),
            ("subuid", "shopper:200000:65536\n".to_owned()),
            ("subgid", "shopper:200000:65536\n".to_owned()),
        ];
        for (file, line) in accounts {
            let before = fs::read_to_string(Path::new("/etc").join(file)).unwrap_or_default();
            fs::write(self.dir.join("etc").join(file), before + &line)?;
        }
        for own in ["home/shopper", "run/user/4711"] {
            fs::create_dir(self.dir.join(own))?;
            fs::set_permissions(self.dir.join(own), fs::Permissions::from_mode(0o700))?;
            chown(self.dir.join(own), Some(USER), Some(USER))?;
        }
        let script = format!(
            "#!/bin/sh\nset -e\nfor file in passwd group subuid subgid; do\n    \
             [ -e /etc/$file ] && mount --bind {at}/etc/$file /etc/$file\ndone\n\
             export HOME={at}/home/shopper XDG_RUNTIME_DIR={at}/run/user/{USER}\ncd $HOME\n\
             exec setpriv --reuid {USER} --regid {USER} --clear-groups \"$@\"\n"
        );
        fs::write(self.dir.join("as-user"), script)?;
        fs::set_permissions(self.dir.join("as-user"), fs::Permissions::from_mode(0o755))?;
        Ok(())
    }

    /// A container's calls are in the one series that has its name, runtime and user, and in no other that is the container's.
    fn counted(&self, runtime: &Runtime, container: &str, calls: u64) -> Result<String> {
        let scrape = exposition::parse(&http::get(self.scrape, "/metrics", "text/plain")?.body)?;
        let id = runtime.id(container)?;
        let mut found = Vec::new();
        for ((_, labels), value) in scrape.samples.iter().filter(|((name, _), _)| name == METRIC) {
            let has = |key: &str, value: &str| labels.get(key).is_some_and(|label| label == value);
            let named = has("container_name", container)
                && has("container_runtime_name", runtime.kind.label())
                && labels.get("user_id").map(String::as_str) == runtime.kind.user().as_deref();
            let of_it = named || labels.values().any(|value| value.contains(&id));
            if has("syscall", CALL) && of_it {
                found.push((named, *value, labels.clone()));
            }
        }
        match found.as_slice() {
            [(true, value, labels)] if value.to_bits() == (calls as f64).to_bits() => {
                let labels = labels.iter().map(|(key, value)| format!("{key}=\"{value}\"")).collect::<Vec<_>>();
                Ok(format!("{METRIC}{{{}}} {value}", labels.join(",")))
            }
            other => bail!("{container} should have {calls} calls in one series, and there is {other:?}"),
        }
    }
}

/// Starts a daemon of a runtime and waits until its socket is there.
fn daemon(name: &str, dir: &Path, command: &mut Command, socket: &Path) -> Result<Program> {
    let mut program = Program::start(name, dir, command)?;
    program.until("listening", std::time::Duration::from_mins(1), || socket.exists())?;
    Ok(program)
}
