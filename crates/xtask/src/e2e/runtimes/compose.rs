//! examples/grafana/compose.yaml as it stands, started by Docker Compose: the agent and Prometheus, each in its container.
//!
//! Podman answers instead of Docker, which may be older than the agent's capabilities. Nothing is pulled: both images are made
//! here, of the release binary and of the proof's Prometheus. Of Grafana there is none.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use super::{daemon, runtime};
use crate::arch::Arch;
use crate::e2e::docs::compose;
use crate::e2e::{END, peers};
use crate::tools::{self, Tool};
use crate::{image, process, setup};

const STOP: Duration = Duration::from_secs(30);

/// Starts both, looks at Prometheus as the example's reader would, and takes them down.
///
/// # Errors
/// Fails when an image cannot be made, a container does not start, or Prometheus lacks what it should have.
pub fn started(host: &Path) -> Result<String> {
    setup::compose()?;
    let dir = host.join("compose");
    fs::create_dir_all(&dir)?;
    let settings = runtime::settings(&dir)?;
    let podman = |words: &[&str]| -> Result<Command> {
        let all = runtime::podman(host, host)?;
        let mut command = Command::new(&all[0]);
        command.args(&all[1..]).arg(runtime::DRIVER).args(words).env(runtime::SETTINGS, &settings);
        Ok(command)
    };
    for (name, root, entry) in [
        ("docker.io/library/telesonde:latest", agent(&dir)?, image::ENTRYPOINT),
        ("docker.io/prom/prometheus:v3.15.0", server(&dir)?, r#"["/usr/bin/prometheus"]"#),
    ] {
        let archive = root.with_extension("tar");
        process::must(Command::new("tar").arg("-C").arg(&root).arg("--xattrs").arg("-cf").arg(&archive).arg("."))?;
        let entry = format!("ENTRYPOINT {entry}");
        let archive = archive.display().to_string();
        process::must(&mut podman(&["import", "--change", &entry, "--change", "WORKDIR /data", &archive, name])?)?;
    }
    let socket = dir.join("podman.sock");
    let address = format!("unix://{}", socket.display());
    let service = daemon("podman", &dir, &mut podman(&["system", "service", "--time=0", &address])?, &socket)?;
    let file = process::root().join(compose::FOLDER).join("compose.yaml");
    let compose = |words: &[&str]| {
        let mut command = Command::new("docker-compose");
        command.args(["--project-name", "telesonde-e2e", "--file"]).arg(&file).args(words);
        process::must(command.env("DOCKER_HOST", &address).current_dir(&dir))
    };
    let up = compose(&["up", "--detach", "--no-build", "telesonde", "prometheus"]);
    let said = up.and_then(|()| compose::seen());
    let down = compose(&["down", "--timeout", &END.as_secs().to_string()]);
    service.stop(STOP)?;
    down.and(said)
}

/// The root file system of the image that `cargo xtask image` makes.
fn agent(dir: &Path) -> Result<PathBuf> {
    let root = dir.join("agent");
    image::fill(&root, &peers::agent(), Arch::HERE)?;
    fs::create_dir_all(root.join("data"))?;
    Ok(root)
}

fn server(dir: &Path) -> Result<PathBuf> {
    let root = dir.join("prometheus");
    for made in ["usr/bin", "data", "tmp", "etc"] {
        fs::create_dir_all(root.join(made))?;
    }
    let program = tools::install(Tool::Prometheus)?;
    fs::copy(&program, root.join("usr/bin/prometheus"))?;
    image::add_libraries(&root, &program)?;
    Ok(root)
}
