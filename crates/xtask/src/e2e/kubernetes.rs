//! `cargo xtask e2e kubernetes`: the agent beside a real API server, whose pods are real cgroups in which a known number of calls is made.
//!
//! There is no kubelet: the proof does what one does, so that it decides when a pod's containers become known.

mod account;
mod api;
mod audit;
mod checks;
mod cluster;
mod link;
mod manifests;
mod pods;
mod record;
mod scene;
mod seen;
mod token;

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};

use super::child::Program;
use super::peers::{self, Peers};
use super::{END, Report};
use crate::tools::{self, Tool};
use crate::{process, run};
use api::Client;
use cluster::Cluster;
use link::Link;
use scene::Scene;
use token::Signer;

/// The node that the agent is told it runs on, and that the pods are bound to.
const NODE: &str = "telesonde-e2e";

/// Everything that a check may use or change.
struct Stage {
    peers: Peers,
    cluster: Cluster,
    server: Program,
    api: Client,
    link: Link,
    scene: Scene,
    signer: Signer,
}

/// Runs the proof, or records a server's answers.
///
/// # Errors
/// Fails when something cannot be built or started.
pub fn run(options: &crate::Proof) -> Result<ExitCode> {
    if options.cached && !tools::installed(Tool::KubeApiserver) {
        let build = "`cargo xtask tools kube-apiserver` builds one";
        return Ok(Report::skipped("the proof with a real API server", build));
    }
    if options.record {
        let dir = peers::work_dir()?;
        super::certificates::write(&dir)?;
        let result = record::run(&dir, &process::root().join("tests/kubernetes/recorded"));
        peers::clean(&dir, options.keep || result.is_err());
        return result.map(|()| ExitCode::SUCCESS);
    }
    run::binary(options.no_build)?;
    Report::of(options, |dir, report| prove(Peers::prepare(dir.to_owned())?, report))
}

fn prove(peers: Peers, report: &mut Report) -> Result<()> {
    let dir = peers.dir.clone();
    let signer = Signer::prepare(&dir)?;
    let cluster = Cluster::prepare(dir.clone())?;
    let etcd = cluster.start_etcd()?;
    let server = cluster.start()?;
    let api = Client::administrator(&dir, cluster.port)?;
    let scene = scene::prepare(&api)?;
    let link = Link::to(cluster.port)?;
    fs::write(dir.join("token"), token::issued(&api)?).context("cannot write the token")?;
    fs::write(dir.join("kubeconfig"), kubeconfig(&peers, &link)).context("cannot write the kubeconfig")?;
    fs::write(dir.join("kubernetes.yaml"), layer(&peers)).context("cannot write kubernetes.yaml")?;
    let collector = peers.start_collector()?;
    let prometheus = peers.start_prometheus()?;
    let agent = peers.start_agent(&["kubernetes.yaml"])?;
    let mut stage = Stage { peers, cluster, server, api, link, scene, signer };
    report.check("manifests", "all that the chart renders", || manifests::rendered(&stage));
    checks::all(&mut stage, report);
    let status = serde_json::to_string_pretty(&seen::status(&stage.peers)?["enrichment"])?;
    fs::write(dir.join("status.json"), status).context("cannot write the status")?;
    agent.stop(END)?;
    report.check("account", "in a pod, by its service account", || account::check(&stage));
    prometheus.stop(END)?;
    collector.stop(END)?;
    stage.server.end(END)?;
    etcd.stop(END)?;
    Ok(())
}

fn kubeconfig(peers: &Peers, link: &Link) -> String {
    let (dir, port) = (peers.dir.display(), link.port);
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: e2e\n\
         clusters: [{{name: e2e, cluster: {{server: 'https://127.0.0.1:{port}', certificate-authority: {dir}/ca.pem}}}}]\n\
         users: [{{name: e2e, user: {{tokenFile: {dir}/token}}}}]\n\
         contexts: [{{name: e2e, context: {{cluster: e2e, user: e2e}}}}]\n"
    )
}

/// What the agent is told beyond the configuration of the other proof.
fn layer(peers: &Peers) -> String {
    format!(
        "agent: {{deployment_mode: kubernetes, node_name: {NODE}}}\n\
         enrich: {{kubernetes: {{enabled: true, kubeconfig: {}/kubeconfig}}}}\n",
        peers.dir.display()
    )
}

/// An API server, and etcd behind it, for whoever needs no more than that.
pub struct Server {
    /// Its administrator.
    pub api: Client,
    apiserver: Program,
    etcd: Program,
}

impl Server {
    /// Starts both, lets the server know the definitions of others' resources, and writes the administrator's `kubeconfig`.
    ///
    /// # Errors
    /// Fails when one does not start.
    pub fn start(dir: &Path) -> Result<Self> {
        super::certificates::write(dir)?;
        Signer::prepare(dir)?;
        let cluster = Cluster::prepare(dir.to_owned())?;
        let (etcd, apiserver) = (cluster.start_etcd()?, cluster.start()?);
        let api = Client::administrator(dir, cluster.port)?;
        manifests::define(&api)?;
        let (at, port) = (dir.display(), cluster.port);
        let admin = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: e2e\n\
             clusters: [{{name: e2e, cluster: {{server: 'https://127.0.0.1:{port}', certificate-authority: {at}/ca.pem}}}}]\n\
             users: [{{name: e2e, user: {{client-certificate: {at}/admin.pem, client-key: {at}/admin.key}}}}]\n\
             contexts: [{{name: e2e, context: {{cluster: e2e, user: e2e}}}}]\n"
        );
        fs::write(dir.join("kubeconfig"), admin).context("cannot write the kubeconfig")?;
        Ok(Self { api, apiserver, etcd })
    }

    /// Ends both.
    ///
    /// # Errors
    /// Fails when one does not end.
    pub fn stop(self) -> Result<()> {
        self.apiserver.stop(END)?;
        self.etcd.stop(END)?;
        Ok(())
    }
}
