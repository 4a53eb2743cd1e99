//! A cluster without nodes: etcd and one API server on the loopback interface, which keep everything in the run's directory.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::api::Client;
use super::audit;
use crate::e2e::child::Program;
use crate::e2e::http;
use crate::tools::{self, Tool};

const START: Duration = Duration::from_mins(2);

/// Where everything of the cluster is.
pub struct Cluster {
    dir: PathBuf,
    /// The API server's port.
    pub port: u16,
    etcd: u16,
    etcd_peer: u16,
}

impl Cluster {
    /// Chooses ports and writes what the API server reads. The certificates are in `dir` already.
    ///
    /// # Errors
    /// Fails when a file cannot be written.
    pub fn prepare(dir: PathBuf) -> Result<Self> {
        let held = (0..3).map(|_| TcpListener::bind(("127.0.0.1", 0))).collect::<Result<Vec<_>, _>>()?;
        let ports = held.iter().map(|l| Ok(l.local_addr()?.port())).collect::<Result<Vec<_>>>()?;
        fs::write(dir.join("audit.yaml"), audit::POLICY).context("cannot write audit.yaml")?;
        Ok(Self { dir, port: ports[0], etcd: ports[1], etcd_peer: ports[2] })
    }

    /// Starts etcd.
    ///
    /// # Errors
    /// Fails when it does not start.
    pub fn start_etcd(&self) -> Result<Program> {
        let client = format!("http://127.0.0.1:{}", self.etcd);
        let peer = format!("http://127.0.0.1:{}", self.etcd_peer);
        let mut command = Command::new(tools::install(Tool::KubeApiserver)?.with_file_name("etcd"));
        command.arg("--data-dir").arg(self.dir.join("etcd")).args(["--name", "one", "--unsafe-no-fsync"]);
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--initial-cluster", &format!("one={peer}")]);
        let mut program = Program::start("etcd", &self.dir, &mut command)?;
        let healthy = || http::get(self.etcd, "/health", "*/*").is_ok_and(|r| r.body.contains("\"true\""));
        program.until("being healthy", START, healthy)?;
        Ok(program)
    }

    /// Starts the API server and waits until it is ready.
    ///
    /// # Errors
    /// Fails when it does not start.
    pub fn start(&self) -> Result<Program> {
        let mut program = self.launch()?;
        let administrator = Client::administrator(&self.dir, self.port)?;
        program.until("being ready", START, || administrator.get("/readyz").is_ok_and(|r| r.status == 200))?;
        Ok(program)
    }

    /// Starts the API server without waiting for it.
    ///
    /// # Errors
    /// Fails when it cannot be started.
    pub fn launch(&self) -> Result<Program> {
        let file = |name: &str| self.dir.join(name).display().to_string();
        let mut command = Command::new(tools::install(Tool::KubeApiserver)?);
        let options = [
            ("etcd-servers", format!("http://127.0.0.1:{}", self.etcd)),
            ("bind-address", "127.0.0.1".to_owned()),
            // Nobody reaches it by the service address, so the one that is announced is only for show.
            ("advertise-address", "192.0.2.1".to_owned()),
            ("endpoint-reconciler-type", "none".to_owned()),
            ("secure-port", self.port.to_string()),
            ("tls-cert-file", file("server.pem")),
            ("tls-private-key-file", file("server.key")),
            ("client-ca-file", file("ca.pem")),
            ("service-account-issuer", super::token::ISSUER.to_owned()),
            ("service-account-key-file", file("service-account.pub")),
            ("service-account-signing-key-file", file("service-account.key")),
            ("service-cluster-ip-range", "10.96.0.0/24".to_owned()),
            ("authorization-mode", "RBAC".to_owned()),
            // The account that every pod runs as is made by a controller, and there is none.
            ("disable-admission-plugins", "ServiceAccount".to_owned()),
            // One value set of the chart asks for it.
            ("allow-privileged", "true".to_owned()),
            ("audit-policy-file", file("audit.yaml")),
            ("audit-log-path", file(audit::LOG)),
        ];
        command.current_dir(&self.dir).args(options.map(|(name, value)| format!("--{name}={value}")));
        Program::start("kube-apiserver", &self.dir, &mut command)
    }

    /// Lets etcd forget what was before a revision.
    ///
    /// # Errors
    /// Fails when etcd says no.
    pub fn compact(&self, revision: &str) -> Result<()> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.etcd)).context("cannot reach etcd")?;
        let body = format!("{{\"revision\":\"{revision}\",\"physical\":true}}");
        let request = format!(
            "POST /v3/kv/compaction HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        let answer = http::exchange(&mut stream, &request)?;
        if answer.status != 200 {
            bail!("etcd answered {}: {}", answer.status, answer.body);
        }
        Ok(())
    }
}
