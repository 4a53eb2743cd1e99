//! The agent as in a pod: the address of the API server in its environment, its account where a kubelet mounts it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::json;

use super::checks::{SOON, counted, work};
use super::pods::{Driver, Pod};
use super::seen::{self, names, within};
use super::token::ACCOUNT;
use super::{NODE, Stage, token};
use crate::e2e::{END, peers};

/// Where every container of a pod finds its account.
const MOUNT: &str = "/run/secrets/kubernetes.io/serviceaccount";

/// A pod is named with nothing else to go by, and `check` says so.
///
/// # Errors
/// Fails when the names or numbers are others.
pub fn check(stage: &Stage) -> Result<String> {
    const CALLS: u64 = 8_009;
    prepare(stage)?;
    let agent = stage.peers.start_agent_by(inside(stage), &[])?;
    let mut pod = Pod::create(&stage.api, "inside", Driver::Systemd, &json!({}), &json!({}))?;
    work(stage, &mut pod, CALLS)?;
    within(SOON, || counted(stage, &pod, &names(&pod, "app"), CALLS))?;
    let status = seen::status(&stage.peers)?;
    let source = &status["enrichment"]["sources"]["kubernetes"];
    if source["state"] != "running" {
        bail!("the status says {source}");
    }
    let mut command = inside(stage);
    command.arg("check").arg("--config").arg(stage.peers.dir.join("telesonde.yaml"));
    let said = seen::check(&stage.peers, &mut command, "check.txt")?;
    agent.stop(END)?;
    pod.delete(&stage.api)?;
    Ok(format!("{CALLS} calls under pod and container, scraped and pushed; {said}"))
}

/// Writes the files of the account, and what shows them where a container has them.
fn prepare(stage: &Stage) -> Result<()> {
    let dir = &stage.peers.dir;
    let account = dir.join("account");
    fs::create_dir_all(&account)?;
    fs::write(account.join("token"), token::issued(&stage.api)?)?;
    fs::write(account.join("namespace"), ACCOUNT)?;
    fs::copy(dir.join("ca.pem"), account.join("ca.crt")).context("cannot copy the authority")?;
    let (script, account, agent) = (dir.join("inside"), account.display(), peers::agent());
    let text = format!(
        "#!/bin/sh\nset -e\nmount -t tmpfs none /run\nmkdir -p {MOUNT}\nmount --bind {account} {MOUNT}\n\
         exec {} \"$@\"\n",
        agent.display()
    );
    fs::write(&script, text)?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).context("cannot make it executable")
}

/// The agent with the mounts and the environment of a container.
fn inside(stage: &Stage) -> Command {
    let mut command = Command::new("unshare");
    command.arg("--mount").arg(stage.peers.dir.join("inside")).env("NODE_NAME", NODE);
    command.env("KUBERNETES_SERVICE_HOST", "127.0.0.1");
    command.env("KUBERNETES_SERVICE_PORT", stage.link.port.to_string());
    command
}
