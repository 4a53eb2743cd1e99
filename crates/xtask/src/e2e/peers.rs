//! The three programs of the proof and their configurations: a Collector with one receiver per way in, a Prometheus, and the agent between them.

use std::fmt::Write as _;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::child::Program;
use super::{certificates, http};
use crate::process;
use crate::tools::{self, Tool};

/// An OTLP endpoint of the agent and the receiver that it reaches.
struct Endpoint {
    name: &'static str,
    protocol: &'static str,
    compression: &'static str,
    tls: bool,
    delta: bool,
}

const ENDPOINTS: [Endpoint; 5] = [
    Endpoint { name: "grpc", protocol: "grpc", compression: "none", tls: false, delta: false },
    Endpoint { name: "http", protocol: "http", compression: "gzip", tls: false, delta: false },
    Endpoint { name: "zstd", protocol: "grpc", compression: "zstd", tls: false, delta: false },
    Endpoint { name: "mtls", protocol: "grpc", compression: "none", tls: true, delta: false },
    Endpoint { name: "delta", protocol: "grpc", compression: "none", tls: false, delta: true },
];

/// The endpoints with cumulative temporality.
pub fn cumulative() -> impl Iterator<Item = &'static str> {
    ENDPOINTS.iter().filter(|endpoint| !endpoint.delta).map(|endpoint| endpoint.name)
}

/// Where everything is, for one run.
pub struct Peers {
    /// Working directory of the run.
    pub dir: PathBuf,
    /// The agent's scrape port.
    pub scrape: u16,
    /// The port where the Collector re-exposes what it received over gRPC.
    pub collected: u16,
    /// Prometheus.
    pub prometheus: u16,
    receivers: [u16; ENDPOINTS.len()],
}

const START: Duration = Duration::from_secs(30);

impl Peers {
    /// Chooses ports and writes certificates and every configuration below `dir`.
    ///
    /// # Errors
    /// Fails when a file cannot be written.
    pub fn prepare(dir: PathBuf) -> Result<Self> {
        // All are held until all are chosen, so that they differ.
        let held =
            (0..ENDPOINTS.len() + 3).map(|_| TcpListener::bind(("127.0.0.1", 0))).collect::<Result<Vec<_>, _>>()?;
        let ports = held.iter().map(|l| Ok(l.local_addr()?.port())).collect::<Result<Vec<_>>>()?;
        let receivers = std::array::from_fn(|index| ports[index]);
        let [scrape, collected, prometheus] = std::array::from_fn(|index| ports[ENDPOINTS.len() + index]);
        let peers = Self { dir, scrape, collected, prometheus, receivers };
        certificates::write(&peers.dir)?;
        peers.write("collector.yaml", &peers.collector_configuration()?)?;
        peers.write("prometheus.yaml", &peers.prometheus_configuration())?;
        peers.write("telesonde.yaml", &peers.agent_configuration()?)?;
        Ok(peers)
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        fs::write(self.dir.join(name), text).with_context(|| format!("cannot write {name}"))
    }

    /// Returns the file with what an endpoint received.
    pub fn received(&self, endpoint: &str) -> PathBuf {
        self.dir.join(format!("{endpoint}.jsonl"))
    }

    fn collector_configuration(&self) -> Result<String> {
        let dir = self.dir.display();
        let (mut receivers, mut exporters, mut pipelines) = (String::new(), String::new(), String::new());
        for (Endpoint { name, protocol, tls, .. }, port) in ENDPOINTS.iter().zip(self.receivers) {
            let tls = if *tls {
                format!(
                    ", tls: {{cert_file: {dir}/server.pem, key_file: {dir}/server.key, client_ca_file: {dir}/ca.pem}}"
                )
            } else {
                String::new()
            };
            writeln!(receivers, "  otlp/{name}: {{protocols: {{{protocol}: {{endpoint: '127.0.0.1:{port}'{tls}}}}}}}")?;
            writeln!(exporters, "  file/{name}: {{path: {dir}/{name}.jsonl, append: true, flush_interval: 100ms}}")?;
            let again = if *name == "grpc" { ", prometheus" } else { "" };
            writeln!(pipelines, "    metrics/{name}: {{receivers: [otlp/{name}], exporters: [file/{name}{again}]}}")?;
        }
        Ok(format!(
            "receivers:\n{receivers}exporters:\n{exporters}  prometheus: {{endpoint: '127.0.0.1:{}'}}\n\
             service:\n  telemetry: {{metrics: {{level: none}}, logs: {{level: warn}}}}\n  pipelines:\n{pipelines}",
            self.collected
        ))
    }

    fn prometheus_configuration(&self) -> String {
        format!(
            "global: {{scrape_interval: 2s, scrape_timeout: 2s, scrape_native_histograms: true}}\n\
             scrape_configs:\n- job_name: scraped\n  static_configs: [{{targets: ['127.0.0.1:{}']}}]\n",
            self.scrape
        )
    }

    fn agent_configuration(&self) -> Result<String> {
        let dir = self.dir.display();
        let mut otlp = String::new();
        for (endpoint, port) in ENDPOINTS.iter().zip(self.receivers) {
            let Endpoint { name, protocol, compression, tls, delta } = endpoint;
            let scheme = if *tls { "https" } else { "http" };
            let protocol = if *protocol == "http" { "http/protobuf" } else { protocol };
            let temporality = if *delta { "delta" } else { "cumulative" };
            let tls = if *tls {
                format!(", tls: {{ca: {dir}/ca.pem, cert: {dir}/client.pem, key: {dir}/client.key}}")
            } else {
                String::new()
            };
            writeln!(
                otlp,
                "    {name}: {{endpoint: '{scheme}://127.0.0.1:{port}', protocol: {protocol}, compression: {compression}, \
                 temporality: {temporality}, interval: 1s{tls}}}"
            )?;
        }
        // With a high max_age a scrape shows the last gather, which is the one that was pushed.
        Ok(format!(
            "integrations: {{ebpf: {{collectors: {{syscalls: {{enabled: require, latency: all}}}}}}}}\n\
             exporters:\n  prometheus: {{listen: '127.0.0.1:{}', max_age: 1h}}\n  otlp:\n{otlp}    \
             receiver: {{endpoint: 'http://127.0.0.1:{}/api/v1/otlp', protocol: http/protobuf, compression: gzip, interval: 1s}}\n\
             health: {{listen: '127.0.0.1:0'}}\nadmin: {{socket: {dir}/admin.sock}}\n",
            self.scrape, self.prometheus
        ))
    }

    /// Starts the Collector and waits until its receivers listen.
    ///
    /// # Errors
    /// Fails when it does not start.
    pub fn start_collector(&self) -> Result<Program> {
        let mut command = Command::new(tools::install(Tool::Otelcol)?);
        command.arg("--config").arg(self.dir.join("collector.yaml"));
        let mut program = Program::start("collector", &self.dir, &mut command)?;
        let listen = |port: u16| std::net::TcpStream::connect(("127.0.0.1", port)).is_ok();
        program.until("listening", START, || self.receivers.iter().all(|&port| listen(port)))?;
        Ok(program)
    }

    /// Starts Prometheus with its OTLP receiver, native histograms and created timestamps.
    ///
    /// # Errors
    /// Fails when it does not start.
    pub fn start_prometheus(&self) -> Result<Program> {
        start_prometheus(&self.dir, self.prometheus)
    }

    /// Starts the agent with these files of the directory over its configuration, and waits for its first scrape.
    ///
    /// # Errors
    /// Fails when it does not start.
    pub fn start_agent(&self, layers: &[&str]) -> Result<Program> {
        self.start_agent_by(Command::new(agent()), layers)
    }

    /// Does the same by a command that becomes the agent.
    ///
    /// # Errors
    /// Fails when it does not start.
    pub fn start_agent_by(&self, command: Command, layers: &[&str]) -> Result<Program> {
        let files: Vec<PathBuf> =
            [&["telesonde.yaml"], layers].concat().iter().map(|file| self.dir.join(file)).collect();
        start_agent(&self.dir, self.scrape, command, &files)
    }

    /// Returns the path of promtool.
    ///
    /// # Errors
    /// Fails when Prometheus cannot be installed.
    pub fn promtool() -> Result<PathBuf> {
        Ok(tools::install(Tool::Prometheus)?.with_file_name("promtool"))
    }
}

/// Gives the release build of the agent.
pub fn agent() -> PathBuf {
    process::target().join("release/telesonde")
}

/// Starts the agent by a command, with these files as its configuration, and waits for its first scrape.
///
/// # Errors
/// Fails when it does not start.
pub fn start_agent(dir: &Path, scrape: u16, mut command: Command, files: &[PathBuf]) -> Result<Program> {
    command.arg("run");
    for file in files {
        command.arg("--config").arg(file);
    }
    let mut program = Program::start("agent", dir, &mut command)?;
    program.until("the first scrape", START, || http::get(scrape, "/metrics", "text/plain").is_ok())?;
    Ok(program)
}

/// Starts Prometheus on the configuration in a directory, with its OTLP receiver and created timestamps.
///
/// # Errors
/// Fails when it does not start.
pub fn start_prometheus(dir: &Path, port: u16) -> Result<Program> {
    let mut command = Command::new(tools::install(Tool::Prometheus)?);
    command
        .arg(format!("--config.file={}", dir.join("prometheus.yaml").display()))
        .arg(format!("--storage.tsdb.path={}", dir.join("tsdb").display()))
        .arg(format!("--web.listen-address=127.0.0.1:{port}"))
        .args(["--web.enable-otlp-receiver", "--enable-feature=created-timestamp-zero-ingestion"]);
    let mut program = Program::start("prometheus", dir, &mut command)?;
    program.until("ready", START, || http::get(port, "/-/ready", "*/*").is_ok())?;
    Ok(program)
}

/// Makes a working directory for this run.
///
/// # Errors
/// Fails when it cannot be made.
pub fn work_dir() -> Result<PathBuf> {
    let dir = std::env::temp_dir().join(format!("telesonde-e2e-{}", std::process::id()));
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    Ok(dir)
}

/// Removes the working directory unless it is to be kept.
pub fn clean(dir: &Path, keep: bool) {
    if keep {
        eprintln!("kept {}", dir.display());
    } else {
        let _ = fs::remove_dir_all(dir);
    }
}
