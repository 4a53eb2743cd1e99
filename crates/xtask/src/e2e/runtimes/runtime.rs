//! One container runtime, told what to do by its own command line.

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::{Host, USER, daemon};
use crate::e2e::END;
use crate::e2e::child::Program;
use crate::e2e::prometheus::eventually;
use crate::e2e::seccomp;
use crate::e2e::stimulus::hierarchy;
use crate::process;

const IMAGE: &str = "localhost/calls:1";

/// Which runtime, and whose.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Docker,
    Containerd,
    Podman,
    /// Podman of a user who is not root.
    Rootless,
}

impl Kind {
    /// Gives the name of its checks.
    pub fn name(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Containerd => "containerd",
            Self::Podman => "podman",
            Self::Rootless => "rootless",
        }
    }

    /// Gives what its series have as `container.runtime.name`.
    pub fn label(self) -> &'static str {
        if self == Self::Rootless { "podman" } else { self.name() }
    }

    /// Gives what they have as `user.id`: users may call their containers as the host's are called.
    pub fn user(self) -> Option<String> {
        (self == Self::Rootless).then(|| USER.to_string())
    }

    /// Says whether it still knows a container that has ended, and puts each in a cgroup by itself.
    pub fn keeps_ended(self) -> bool {
        matches!(self, Self::Docker | Self::Podman)
    }
}

fn program(name: &str) -> Result<String> {
    Ok(process::find(name).with_context(|| format!("{name} is not installed"))?.display().to_string())
}

/// What needs nothing of the file system that it is on.
pub const DRIVER: &str = "--storage-driver=vfs";

fn stateless_podman() -> Result<Vec<String>> {
    let options = ["--cgroup-manager=cgroupfs", "--events-backend=file"];
    // Beside version 1 of cgroups, crun wants no controller in version 2.
    let runtime = format!("--runtime={}", program("runc")?);
    Ok([vec![program("podman")?], options.map(str::to_owned).to_vec(), vec![runtime]].concat())
}

/// Gives the command line of a Podman of root that keeps everything below a directory, and what ends with a boot below
/// another, whose path must be short.
///
/// # Errors
/// Fails when it or its runtime is not installed.
pub fn podman(dir: &Path, run: &Path) -> Result<Vec<String>> {
    let places = [("root", dir, "var/lib/containers/storage"), ("runroot", run, "run/containers/storage")];
    let places = places.into_iter().chain([("tmpdir", run, "run/libpod")]);
    let places = places.map(|(option, dir, place)| format!("--{option}={}", dir.join(place).display()));
    Ok(stateless_podman()?.into_iter().chain(places).collect())
}

/// What tells Podman where its settings are.
pub const SETTINGS: &str = "CONTAINERS_CONF";

/// Writes settings into a directory: such limits as a machine grants where root may not raise any, and the profile of system
/// calls that knows what the agent's capabilities are for.
///
/// # Errors
/// Fails when a file cannot be written, or there is no profile.
pub fn settings(dir: &Path) -> Result<PathBuf> {
    let (profile, settings) = (dir.join("seccomp.json"), dir.join("containers.conf"));
    fs::write(&profile, seccomp::profile()?.to_string())?;
    let text = format!(
        "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\nseccomp_profile = \"{}\"\n",
        profile.display()
    );
    fs::write(&settings, text)?;
    Ok(settings)
}

/// A runtime that has the image.
pub struct Runtime {
    /// Which it is.
    pub kind: Kind,
    prefix: Vec<String>,
    image: PathBuf,
    daemon: Option<Program>,
}

impl Runtime {
    /// Starts it with all its state below the host's directory; gives its version, too.
    ///
    /// # Errors
    /// Fails when it does not start or does not take the image.
    pub fn start(kind: Kind, host: &Host) -> Result<(Self, String)> {
        let at = |path: &str| host.dir.join(path).display().to_string();
        let socket = host.dir.join(format!("run/{}.sock", kind.name()));
        let address = socket.display().to_string();
        let (prefix, daemon) = match kind {
            Kind::Docker => {
                let mut command = Command::new(program("dockerd")?);
                command.args(["--iptables=false", "--ip6tables=false", "--bridge=none", "--storage-driver=vfs"]);
                command.args(["--exec-opt=native.cgroupdriver=cgroupfs", &format!("--host=unix://{address}")]);
                command.args(["--data-root", &at("var/lib/docker"), "--exec-root", &at("run/docker")]);
                command.args(["--pidfile", &at("run/docker.pid")]);
                let prefix = vec![program("docker")?, format!("--host=unix://{address}")];
                (prefix, Some(daemon("dockerd", &host.dir, &mut command, &socket)?))
            }
            Kind::Containerd => {
                let mut command = Command::new(program("containerd")?);
                command.args(["--root", &at("var/lib/containerd"), "--state", &at("run/containerd")]);
                command.args(["--address", &address]);
                let prefix = vec![program("ctr")?, format!("--address={address}")];
                (prefix, Some(daemon("containerd", &host.dir, &mut command, &socket)?))
            }
            Kind::Podman => ([podman(&host.dir, &host.dir)?, vec![DRIVER.to_owned()]].concat(), None),
            Kind::Rootless => (
                [
                    vec!["unshare".to_owned(), "--mount".to_owned(), at("as-user")],
                    stateless_podman()?,
                    vec![DRIVER.to_owned()],
                ]
                .concat(),
                None,
            ),
        };
        let runtime = Self { kind, prefix, image: host.image.clone(), daemon };
        if kind != Kind::Containerd {
            let archive = host.archive.display().to_string();
            // A daemon's socket is there before it answers.
            eventually(|| runtime.say(&["import", &archive, IMAGE]))?;
        }
        let version = match kind {
            // The command line may be of another version.
            Kind::Docker => format!("docker version {}", runtime.say(&["version", "--format", "{{.Server.Version}}"])?),
            _ => runtime.say(&["--version"])?,
        };
        Ok((runtime, version))
    }

    /// Starts a container that makes calls once it is told to.
    ///
    /// # Errors
    /// Fails when the runtime does not start it.
    pub fn run(&self, name: &str, calls: u64) -> Result<()> {
        let (calls, image) = (calls.to_string(), self.image.display().to_string());
        if self.kind == Kind::Containerd {
            return self.say(&["run", "--detach", "--rootfs", &image, name, "/calls", &calls]).map(drop);
        }
        let options = [&["run", "--detach", "--network=none"], self.limits(), &["--name", name]].concat();
        self.say(&[&options[..], &[IMAGE, "/calls", &calls]].concat())?;
        self.place(name)
    }

    /// Starts a program that is mounted, with the rights and the namespaces that the agent needs.
    ///
    /// # Errors
    /// Fails when the runtime does not start it.
    pub fn run_program(&self, name: &str, volumes: &[String], program: &[&str]) -> Result<()> {
        let mut options = vec!["run", "--detach", "--pid=host", "--network=host", "--cap-drop=ALL"];
        // Not every Docker knows BPF and PERFMON, which SYS_ADMIN has in it.
        options.extend(["--cap-add=SYS_ADMIN", "--cap-add=NET_ADMIN", "--security-opt=seccomp=unconfined"]);
        options.extend(["--name", name]);
        options.extend(volumes.iter().flat_map(|volume| ["--volume", volume]));
        self.say(&[&options[..], &[IMAGE], program].concat()).map(drop)
    }

    /// Runs a container that makes its calls and ends at once.
    ///
    /// # Errors
    /// Fails when it does not succeed.
    pub fn run_to_end(&self, name: &str, calls: u64) -> Result<()> {
        let options = [&["run", "--network=none"], self.limits(), &["--name", name]].concat();
        self.say(&[&options[..], &[IMAGE, "/calls", &calls.to_string(), "now"]].concat()).map(drop)
    }

    /// Ends a container's life and begins another.
    ///
    /// # Errors
    /// Fails when the runtime does not do so.
    pub fn again(&self, name: &str, calls: u64) -> Result<()> {
        self.signal(name)?;
        if self.kind == Kind::Containerd {
            eventually(|| self.say(&["tasks", "delete", name]))?;
            self.say(&["containers", "delete", name])?;
            return self.run(name, calls);
        }
        self.say(&["wait", name])?;
        self.say(&["start", name])?;
        self.place(name)
    }

    /// Tells the program of a container to go on.
    ///
    /// # Errors
    /// Fails when the runtime does not do so.
    pub fn signal(&self, name: &str) -> Result<()> {
        match self.kind {
            Kind::Containerd => self.say(&["tasks", "kill", "--signal", "SIGUSR1", name]),
            _ => self.say(&["kill", "--signal", "USR1", name]),
        }
        .map(drop)
    }

    /// Gives what a series has that is the container's and nobody else's: the id.
    ///
    /// # Errors
    /// Fails when the runtime does not know it.
    pub fn id(&self, name: &str) -> Result<String> {
        if self.kind == Kind::Containerd {
            // With `ctr` whoever runs a container chooses its id, which is the name; this is where its cgroup is.
            return Ok(format!("/default/{name}"));
        }
        self.say(&["inspect", "--format", "{{.Id}}", name])
    }

    /// Removes all containers and ends the daemon.
    ///
    /// # Errors
    /// Fails when either does not work.
    pub fn stop(mut self) -> Result<()> {
        self.clear()?;
        self.daemon.take().map_or(Ok(()), |daemon| daemon.stop(END).map(drop))
    }

    fn clear(&self) -> Result<()> {
        if self.kind == Kind::Containerd {
            for name in self.say(&["tasks", "list", "--quiet"])?.lines() {
                self.say(&["tasks", "delete", "--force", name])?;
            }
            return Ok(());
        }
        for id in self.say(&["ps", "--all", "--quiet"])?.lines() {
            self.say(&["rm", "--force", id])?;
        }
        if self.kind == Kind::Rootless {
            // Ends the process that keeps the user's namespace.
            self.say(&["system", "migrate"])?;
        }
        Ok(())
    }

    /// Limits that a machine grants where root may not raise any.
    fn limits(&self) -> &'static [&'static str] {
        match self.kind {
            Kind::Podman | Kind::Rootless => &["--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024"],
            _ => &[],
        }
    }

    /// Does what systemd does for a user's Podman, which cannot make a cgroup itself: gives the container a scope.
    fn place(&self, name: &str) -> Result<()> {
        if self.kind != Kind::Rootless {
            return Ok(());
        }
        let scope = own_slice()?.join(format!("libpod-{}.scope", self.id(name)?));
        fs::create_dir_all(&scope).with_context(|| format!("cannot make the cgroup {}", scope.display()))?;
        chown(&scope, Some(USER), Some(USER))?;
        let pid = self.say(&["inspect", "--format", "{{.State.Pid}}", name])?;
        fs::write(scope.join("cgroup.procs"), &pid).with_context(|| format!("cannot move {pid}"))
    }

    /// Runs the command line; gives what it prints.
    fn say(&self, words: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.prefix[0]);
        command.args(&self.prefix[1..]).args(words).env_remove("DOCKER_HOST").env_remove("CONTAINERD_NAMESPACE");
        let line = process::line(&command);
        let output = command.output().with_context(|| format!("cannot start `{line}`"))?;
        if !output.status.success() {
            bail!("`{line}` ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        // Containers outlive their daemon, and one that is killed leaves another daemon behind.
        if let Some(mut daemon) = self.daemon.take() {
            let _ = self.clear();
            let _ = daemon.end(END);
        }
        let Ok(slice) = own_slice() else { return };
        if self.kind == Kind::Rootless {
            for scope in slice.read_dir().into_iter().flatten().flatten() {
                let _ = fs::remove_dir(scope.path());
            }
            // What others are in stays.
            for dir in slice.ancestors().take(4) {
                let _ = fs::remove_dir(dir);
            }
        }
    }
}

/// Where systemd keeps a user's scopes.
fn own_slice() -> Result<PathBuf> {
    Ok(hierarchy()?.join(format!("user.slice/user-{USER}.slice/user@{USER}.service/user.slice")))
}
