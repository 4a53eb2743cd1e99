//! Names of containers outside of pods, from what their runtimes keep on this host: Docker's directories of containers,
//! the bundles of containerd's tasks, the lists of Podman and CRI-O.
//!
//! Only what has been seen to exist is looked up, in the background, each container a few times; nothing is asked over a
//! socket. A file that cannot be understood names nothing, and is counted.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use model::Text;
use serde::Deserialize;

use crate::{Container, State, Workloads};

/// What this source is called.
pub const RUNTIMES: &str = "container_runtimes";

/// How often it is looked whether there are new containers, and how often one is looked up: its files may come after it.
const PAUSE: Duration = Duration::from_millis(200);
const TRIES: u32 = 10;
/// The most bytes of a file that are read.
const MOST: u64 = 4 << 20;

/// Where runtimes keep what they know, as the agent sees it.
#[derive(Clone, Debug, Default)]
pub struct Places {
    /// Docker's containers: `ID/config.v2.json`.
    pub docker: PathBuf,
    /// The tasks of containerd: `NAMESPACE/ID/config.json`.
    pub containerd: PathBuf,
    /// Lists of containers of containers/storage, which Podman and CRI-O use.
    pub lists: Vec<PathBuf>,
}

/// What Docker writes of a container.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Docker {
    name: String,
    #[serde(default)]
    config: DockerConfig,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerConfig {
    #[serde(default)]
    image: String,
}

/// What containerd writes of a task: an OCI configuration.
#[derive(Deserialize)]
struct Bundle {
    #[serde(default)]
    annotations: HashMap<String, String>,
}

/// What containers/storage writes of a container.
#[derive(Deserialize)]
struct Stored {
    id: String,
    #[serde(default)]
    names: Vec<String>,
    #[serde(default)]
    metadata: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Metadata {
    #[serde(default)]
    name: String,
    #[serde(default)]
    image_name: String,
}

impl Places {
    /// Gives the usual places on a host; `file` says where the agent sees a file of it.
    pub fn usual(file: impl Fn(&str) -> PathBuf) -> Self {
        let lists = ["containers", "volatile-containers"];
        Self {
            docker: file("/var/lib/docker/containers"),
            containerd: file("/run/containerd/io.containerd.runtime.v2.task"),
            lists: lists
                .map(|list| file(&format!("/var/lib/containers/storage/overlay-containers/{list}.json")))
                .to_vec(),
        }
    }

    /// Gives those that can be read.
    pub fn readable(&self) -> Vec<&Path> {
        let directories = [&self.docker, &self.containerd].into_iter().filter(|path| path.read_dir().is_ok());
        let lists = self.lists.iter().filter(|path| File::open(path).is_ok());
        directories.chain(lists).map(PathBuf::as_path).collect()
    }

    /// Looks a container up; nothing when no runtime has written of it.
    ///
    /// # Errors
    /// Fails when a file of it cannot be understood or read.
    pub fn find(&self, id: &str) -> io::Result<Option<Container>> {
        // What is no plain name is no directory of ours.
        if id.is_empty() || id.starts_with('.') || id.contains('/') {
            return Ok(None);
        }
        if let Some(found) = read::<Docker>(&self.docker.join(id).join("config.v2.json"))? {
            return Ok(container(id, found.name.trim_start_matches('/'), &found.config.image));
        }
        for namespace in self.containerd.read_dir().into_iter().flatten().flatten() {
            if let Some(found) = read::<Bundle>(&namespace.path().join(id).join("config.json"))? {
                let noted =
                    |keys: &[&str]| keys.iter().find_map(|key| found.annotations.get(*key)).map_or("", String::as_str);
                let name = noted(&["nerdctl/name", "io.kubernetes.cri.container-name"]);
                return Ok(container(id, name, noted(&["nerdctl/image-ref", "io.kubernetes.cri.image-name"])));
            }
        }
        for list in &self.lists {
            let stored = read::<Vec<Stored>>(list)?.unwrap_or_default();
            if let Some(found) = stored.into_iter().find(|stored| stored.id == id) {
                let told: Metadata = serde_json::from_str(&found.metadata).unwrap_or_default();
                let name = Some(told.name).filter(|name| !name.is_empty()).or_else(|| found.names.into_iter().next());
                return Ok(container(id, &name.unwrap_or_default(), &told.image_name));
            }
        }
        Ok(None)
    }
}

/// Reads a file; nothing when there is none.
fn read<T: for<'d> Deserialize<'d>>(path: &Path) -> io::Result<Option<T>> {
    let file = match File::open(path) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        file => file?,
    };
    let mut bytes = Vec::new();
    file.take(MOST).read_to_end(&mut bytes)?;
    let broken = |error| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {error}", path.display()));
    serde_json::from_slice(&bytes).map(Some).map_err(broken)
}

/// Makes a container of a name and, where it is known, an image; nothing without a name.
fn container(id: &str, name: &str, image: &str) -> Option<Container> {
    /// Longer than any runtime allows a name.
    const LONGEST: usize = 255;
    let plain = |text: &str| text.chars().filter(|c| !c.is_control()).take(LONGEST).collect::<String>();
    let names = [("container.name", plain(name)), ("container.image.name", plain(repository(image)))];
    if names[0].1.is_empty() {
        return None;
    }
    let names = names.into_iter().filter(|(_, value)| !value.is_empty());
    Some(Container { id: id.into(), names: names.map(|(key, value)| (key.into(), Text::from(value))).collect() })
}

/// Gives an image's name without its tag and digest.
fn repository(image: &str) -> &str {
    let image = image.split('@').next().unwrap_or(image);
    // A colon before a slash belongs to the registry's port.
    image.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')).map_or(image, |(name, _)| name)
}

/// Names the containers of a node in the background, for as long as it has workloads.
///
/// # Errors
/// Fails when no thread can be started.
pub fn start(places: Places, workloads: &Arc<Workloads>) -> io::Result<()> {
    let readable = places.readable();
    let state = if readable.is_empty() {
        State::Off("no state of Docker, containerd, Podman or CRI-O is to be seen (host.root, host.run)".to_owned())
    } else {
        State::Running
    };
    workloads.report(RUNTIMES, state);
    let workloads = Arc::downgrade(workloads);
    thread::Builder::new().name("enrich-runtimes".into()).spawn(move || follow(&places, &workloads)).map(drop)
}

fn follow(places: &Places, workloads: &Weak<Workloads>) {
    let mut tried: HashMap<String, u32> = HashMap::new();
    let mut known = 0;
    loop {
        {
            let Some(workloads) = workloads.upgrade() else { return };
            if let Some((number, present)) = workloads.containers(known) {
                known = number;
                let present: HashSet<String> = present.into_iter().collect();
                tried.retain(|id, _| {
                    let stays = present.contains(id);
                    if !stays {
                        workloads.remove_container(id);
                    }
                    stays
                });
                for id in present {
                    tried.entry(id).or_insert(0);
                }
            }
            for (id, tries) in tried.iter_mut().filter(|(_, tries)| **tries < TRIES) {
                *tries += 1;
                match places.find(id) {
                    Ok(Some(container)) => {
                        *tries = TRIES;
                        workloads.put_container(container);
                    }
                    Ok(None) => {}
                    Err(error) => {
                        if workloads.fail(RUNTIMES, "unreadable") {
                            tracing::warn!("cannot name a container: {error}");
                        }
                    }
                }
            }
        }
        thread::sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests;
