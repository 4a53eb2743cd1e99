//! Who reads a page and does what it says.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::chart::block;
use crate::e2e::child::Program;
use crate::e2e::kubernetes::Server;
use crate::e2e::{END, http, peers};
use crate::process;
use crate::tools::{self, Tool};

const START: Duration = Duration::from_mins(3);

/// The ports of the agent's metrics and probes, and of Prometheus, by default.
const METRICS: u16 = 9464;
const PROBES: u16 = 9465;
pub const PROMETHEUS: u16 = 9090;

/// A reader with root's rights, the peers of the proof on the path and, where one is built, an API server.
pub struct Reader {
    dir: PathBuf,
    path: String,
    cluster: Option<Server>,
    /// What runs until it is ended, by the port on which it says that it is ready.
    running: Vec<(u16, Program)>,
    /// What the chart rendered last.
    rendered: String,
    /// Whether it is installed.
    installed: bool,
    started: usize,
}

impl Reader {
    /// Puts everything in its place.
    ///
    /// # Errors
    /// Fails when something cannot be had.
    pub fn sit_down(dir: &Path) -> Result<Self> {
        let bin = dir.join("bin");
        fs::create_dir_all(&bin)?;
        symlink(tools::install(Tool::Helm)?, bin.join("helm"))?;
        symlink(tools::install(Tool::Prometheus)?, bin.join("prometheus"))?;
        symlink(peers::agent(), bin.join("telesonde"))?;
        // The reader is root already.
        fs::write(bin.join("sudo"), "#!/bin/sh\nexec \"$@\"\n")?;
        fs::set_permissions(bin.join("sudo"), fs::Permissions::from_mode(0o755))?;
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
        let cluster = if tools::installed(Tool::KubeApiserver) { Some(Server::start(dir)?) } else { None };
        let (running, rendered) = (Vec::new(), String::new());
        Ok(Self { dir: dir.to_owned(), path, cluster, running, rendered, installed: false, started: 0 })
    }

    /// Ends what the commands of a section started.
    ///
    /// # Errors
    /// Fails when something does not end.
    pub fn tidy_up(&mut self) -> Result<()> {
        if std::mem::take(&mut self.installed) && self.cluster.is_some() {
            self.shell("helm uninstall telesonde --namespace telesonde")?;
        }
        self.running.drain(..).rev().try_for_each(|(_, program)| program.stop(END).map(drop))
    }

    /// Ends everything.
    ///
    /// # Errors
    /// Fails when something does not end.
    pub fn leave(mut self) -> Result<()> {
        self.tidy_up()?;
        self.cluster.take().map_or(Ok(()), Server::stop)
    }

    /// Does what a command says, and says how.
    ///
    /// # Errors
    /// Fails when the command does, and for one that nobody knows how to run.
    pub fn obey(&mut self, command: &str) -> Result<String> {
        let words: Vec<&str> = command.split_whitespace().collect();
        match words.as_slice() {
            // What it installs and builds is a stage of CI; this is what it becomes.
            ["cargo", "xtask", "run"] => {
                stage_of_ci("cargo xtask build")?;
                self.start("target/release/telesonde run", PROBES, "/readyz")
            }
            // It is built already.
            ["cargo", "xtask", "image"] => self.run(&format!("{command} --no-build")),
            ["cargo", "xtask", ..] => stage_of_ci(command),
            ["sudo", program, "run", ..] if program.ends_with("telesonde") => self.start(command, PROBES, "/readyz"),
            ["sudo", program, "check"] if program.ends_with("telesonde") => self.check(command),
            ["prometheus", ..] => self.start(command, PROMETHEUS, "/-/ready"),
            ["curl" | "tar", ..] => self.run(command),
            ["helm", action, ..] => self.helm(action, command),
            ["kubectl", "-n", "telesonde", words @ ..] | ["kubectl", words @ ..] => self.kubectl(words),
            _ => bail!("nobody runs it: let crates/xtask/src/e2e/docs/reader.rs know how"),
        }
    }

    /// Gives the commands of the notes that Helm prints after an installation with defaults, where there is a cluster.
    ///
    /// # Errors
    /// Fails when Helm does, or prints none.
    pub fn notes(&mut self) -> Result<Option<Vec<String>>> {
        if self.cluster.is_none() {
            return Ok(None);
        }
        let install = "helm install telesonde charts/telesonde --namespace telesonde --create-namespace";
        self.helm("install", install)?;
        let notes = self.shell("helm get notes telesonde --namespace telesonde")?;
        let commands = notes.lines().filter_map(|line| line.strip_prefix("  "));
        let commands: Vec<String> = commands
            .filter(|line| ["kubectl ", "curl ", "helm "].iter().any(|program| line.starts_with(program)))
            .map(str::to_owned)
            .collect();
        ensure!(!commands.is_empty(), "the notes tell no command:\n{notes}");
        Ok(Some(commands))
    }

    /// Starts what a command starts, and waits until it is ready. What was started before on the same port is ended.
    ///
    /// # Errors
    /// Fails when it does not become ready.
    pub fn start(&mut self, command: &str, port: u16, ready: &str) -> Result<String> {
        if let Some(at) = self.running.iter().position(|(taken, _)| *taken == port) {
            self.running.remove(at).1.stop(END)?;
        }
        self.started += 1;
        let mut program = Program::start(
            &format!("started-{}", self.started),
            &self.dir,
            &mut self.bash(&format!("exec {command}")),
        )?;
        program.until("being ready", START, || http::get(port, ready, "*/*").is_ok())?;
        self.running.push((port, program));
        Ok(format!("runs; {ready} on port {port} answers 200"))
    }

    /// Gives the directory of the run.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Makes a shell that is about to run a command in the repository's root.
    pub fn bash(&self, command: &str) -> Command {
        let mut bash = Command::new("bash");
        bash.args(["-o", "pipefail", "-c", command]).current_dir(process::root()).env("PATH", &self.path);
        if self.cluster.is_some() {
            bash.env("KUBECONFIG", self.dir.join("kubeconfig"));
        }
        bash
    }

    fn output(&self, command: &str) -> Result<Output> {
        self.bash(command).output().context("cannot start bash")
    }

    /// Runs a command to its end, which has to be a good one; gives what it printed.
    fn shell(&self, command: &str) -> Result<String> {
        let output = self.output(command)?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            let error = String::from_utf8_lossy(&output.stderr);
            bail!("`{command}` ended with {}\n{said}{error}", output.status);
        }
        Ok(said)
    }

    fn run(&self, command: &str) -> Result<String> {
        Ok(format!("ran; {} lines", self.shell(command)?.lines().count()))
    }

    /// Here some collectors may give less than they could, which is no failure of the command.
    fn check(&self, command: &str) -> Result<String> {
        let output = self.output(command)?;
        let said = String::from_utf8_lossy(&output.stdout);
        let code = output.status.code();
        ensure!(matches!(code, Some(0 | 1)) && said.contains("\nCOLLECTOR "), "it ended with {code:?}\n{said}");
        Ok(format!("ran: {}", said.lines().next_back().unwrap_or_default()))
    }

    /// Installs for real where there is an API server; in any case the chart renders with the same values.
    fn helm(&mut self, action: &str, command: &str) -> Result<String> {
        let known: Vec<&str> = command.split_whitespace().filter(|word| *word != "--reuse-values").collect();
        let how = if self.cluster.is_some() {
            "ran against a real API server"
        } else {
            "rendered, as there is no API server"
        };
        match action {
            "install" | "upgrade" => {
                self.rendered =
                    self.shell(&format!("helm template --skip-tests --kube-version 1.36.0 {}", known[2..].join(" ")))?;
                if self.cluster.is_some() {
                    if action == "install" && self.installed {
                        self.shell("helm uninstall telesonde --namespace telesonde")?;
                    }
                    self.shell(command)?;
                }
                self.installed = true;
            }
            "uninstall" if self.cluster.is_some() => {
                self.shell(command)?;
                self.installed = false;
            }
            "uninstall" => return Ok("not run, as there is no API server".to_owned()),
            _ => bail!("nobody runs this action of Helm"),
        }
        Ok(how.to_owned())
    }

    /// There is no node: what `kubectl` is to do with a pod is done here, with the configuration that the chart rendered.
    fn kubectl(&mut self, words: &[&str]) -> Result<String> {
        match words {
            ["apply", "-k", folder] => self.apply(folder),
            ["label", "namespace", "telesonde", label] => {
                let manifest = fs::read_to_string(process::root().join("examples/kubernetes/namespace.yaml"))?;
                ensure!(manifest.contains(&label.replacen('=', ": ", 1)), "namespace.yaml has another label");
                Ok("the manifest of the namespace has it".to_owned())
            }
            ["rollout", "status", object] => self.there(object).map(|()| "what it asks for is there".to_owned()),
            ["exec", object, "--", "telesonde", "check"] => {
                self.there(object)?;
                let config = self.configuration()?;
                let said = self.check(&format!("telesonde check --config {} --set host.root=", config.display()))?;
                Ok(format!("what it runs in the pod {said}"))
            }
            ["port-forward", object, ports, "&"] => {
                self.there(object)?;
                ensure!(*ports == format!("{METRICS}:{METRICS}"), "the agent's port is {METRICS}");
                let config = self.configuration()?;
                let agent = format!("telesonde run --quiet --config {} --set host.root=", config.display());
                let said = self.start(&agent, PROBES, "/readyz")?;
                Ok(format!("the agent of the pod {said}"))
            }
            _ => bail!("nobody runs it: let crates/xtask/src/e2e/docs/reader.rs know how"),
        }
    }

    /// What a folder brings would be taken by the API server, and is what the commands after it are about.
    fn apply(&mut self, folder: &str) -> Result<String> {
        let folder = process::root().join(folder);
        let list = fs::read_to_string(folder.join("kustomization.yaml"))?;
        let files = list.lines().filter_map(|line| line.strip_prefix("  - "));
        let (mut objects, mut all) = (0, String::new());
        for file in files {
            let text = fs::read_to_string(folder.join(file)).with_context(|| format!("there is no {file}"))?;
            if let Some(cluster) = &self.cluster {
                objects += cluster.api.judge(&text).with_context(|| file.to_owned())?;
            }
            all.push_str(&text);
        }
        self.rendered = all;
        Ok(match self.cluster {
            Some(_) => format!("a real API server would take its {objects} objects"),
            None => "its files are there; there is no API server".to_owned(),
        })
    }

    /// The object that a command is about is a `DaemonSet` among those rendered.
    fn there(&self, object: &str) -> Result<()> {
        let name = object.strip_prefix("daemonset/").context("it is about no DaemonSet")?;
        let mut objects = self.rendered.split("\n---");
        let is = |text: &str| text.contains("\nkind: DaemonSet\n") && text.contains(&format!("\n  name: {name}\n"));
        ensure!(objects.any(is), "nothing that was installed before is called {object}");
        Ok(())
    }

    /// Gives the configuration that the pod would have.
    fn configuration(&self) -> Result<PathBuf> {
        let text = block(&self.rendered, "  telesonde.yaml: |", 4).context("no configuration was rendered")?;
        let file = self.dir.join("pod.yaml");
        fs::write(&file, text)?;
        Ok(file)
    }
}

/// A command that CI runs by itself.
fn stage_of_ci(command: &str) -> Result<String> {
    let ci = fs::read_to_string(process::root().join(".ci/run")).context("cannot read .ci/run")?;
    ensure!(ci.lines().any(|line| line.contains(command)), "no stage of .ci/run runs it");
    Ok("a stage of .ci/run".to_owned())
}
