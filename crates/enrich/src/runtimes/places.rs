//! What runtimes keep of their containers, and where: Docker's directories of containers, the bundles of containerd's
//! tasks, the lists of Podman and CRI-O; those of the host's own runtimes, and those of its users.

use std::collections::HashMap;
use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::container;
use crate::Container;

/// The most bytes of a file that are read.
const MOST: u64 = 4 << 20;

/// Where rootless runtimes keep what they know, below a user's home and runtime directory.
const OWN_DOCKER: &str = ".local/share/docker/containers";
const OWN_STORAGE: &str = ".local/share/containers/storage";
const OWN_RUNTIMES: [&str; 2] = ["docker", "containers"];

/// Where runtimes keep what they know, as the agent sees it.
pub struct Places {
    see: Box<dyn Fn(&str) -> PathBuf + Send + Sync>,
}

impl fmt::Debug for Places {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Places").field("root", &(self.see)("/")).finish_non_exhaustive()
    }
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

/// What an administrator writes for Docker.
#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Daemon {
    data_root: Option<String>,
}

/// What containerd writes of a task: an OCI configuration.
#[derive(Deserialize)]
struct Bundle {
    #[serde(default)]
    annotations: Option<HashMap<String, String>>,
}

/// What containers/storage writes of a container.
#[derive(Deserialize)]
struct Stored {
    id: String,
    #[serde(default)]
    names: Option<Vec<String>>,
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
    /// Takes the usual places on a host; `see` says where the agent sees a file of it.
    pub fn usual(see: impl Fn(&str) -> PathBuf + Send + Sync + 'static) -> Self {
        Self { see: Box::new(see) }
    }

    /// Says whether there is anything of any runtime.
    pub fn readable(&self) -> bool {
        let host = [self.docker(), self.containerd(), self.storage()];
        let users = (self.see)("/run/user").read_dir().into_iter().flatten().flatten();
        let own = users.flat_map(|user| OWN_RUNTIMES.map(|name| user.path().join(name)));
        host.into_iter().chain(own).any(|directory| directory.read_dir().is_ok())
    }

    /// Looks a container up whose cgroup belongs to a user; nothing when no runtime has written of it.
    ///
    /// What the host's own runtimes say comes first, and of users only the owner is asked: nobody can name a container that
    /// is not theirs.
    ///
    /// # Errors
    /// Fails when a file of it cannot be understood or read.
    pub fn find(&self, id: &str, owner: u32) -> io::Result<Option<Container>> {
        // What is no plain name is no directory of ours.
        if id.is_empty() || id.starts_with('.') || id.contains('/') {
            return Ok(None);
        }
        if let Some(found) = docker(&self.docker(), id)? {
            return Ok(Some(found));
        }
        if let Some(found) = containerd(&self.containerd(), id)? {
            return Ok(Some(found));
        }
        if let Some(found) = stored(&self.storage(), id)? {
            return Ok(Some(found));
        }
        let Some(home) = self.home(owner).filter(|_| owner != 0) else { return Ok(None) };
        if let Some(found) = stored(&home.join(OWN_STORAGE), id)? {
            return Ok(Some(found));
        }
        docker(&home.join(OWN_DOCKER), id)
    }

    fn docker(&self) -> PathBuf {
        let daemon = read::<Daemon>(&(self.see)("/etc/docker/daemon.json")).ok().flatten().unwrap_or_default();
        (self.see)(daemon.data_root.as_deref().unwrap_or("/var/lib/docker")).join("containers")
    }

    fn containerd(&self) -> PathBuf {
        (self.see)("/run/containerd/io.containerd.runtime.v2.task")
    }

    fn storage(&self) -> PathBuf {
        (self.see)("/var/lib/containers/storage")
    }

    /// Gives the home of a user of the host.
    fn home(&self, user: u32) -> Option<PathBuf> {
        let passwd = contents(&(self.see)("/etc/passwd")).ok().flatten()?;
        let text = String::from_utf8_lossy(&passwd);
        let mut users = text.lines().map(|line| line.split(':').collect::<Vec<_>>());
        let fields = users.find(|fields| fields.get(2).is_some_and(|id| id.parse() == Ok(user)))?;
        fields.get(5).filter(|home| home.starts_with('/')).map(|home| (self.see)(home))
    }
}

fn docker(containers: &Path, id: &str) -> io::Result<Option<Container>> {
    let found = read::<Docker>(&containers.join(id).join("config.v2.json"))?;
    Ok(found.and_then(|found| container(id, found.name.trim_start_matches('/'), &found.config.image)))
}

fn containerd(tasks: &Path, id: &str) -> io::Result<Option<Container>> {
    for namespace in tasks.read_dir().into_iter().flatten().flatten() {
        if let Some(found) = read::<Bundle>(&namespace.path().join(id).join("config.json"))? {
            let annotations = found.annotations.unwrap_or_default();
            let noted = |keys: &[&str]| keys.iter().find_map(|key| annotations.get(*key)).map_or("", String::as_str);
            let name = match noted(&["nerdctl/name", "io.kubernetes.cri.container-name"]) {
                // With `ctr` an id is what somebody called the container.
                "" if id.len() != 64 => id,
                name => name,
            };
            return Ok(container(id, name, noted(&["nerdctl/image-ref", "io.kubernetes.cri.image-name"])));
        }
    }
    Ok(None)
}

/// Looks into the lists of containers/storage: there are some for each of its drivers, such as `overlay-containers`.
fn stored(storage: &Path, id: &str) -> io::Result<Option<Container>> {
    for driver in storage.read_dir().into_iter().flatten().flatten() {
        if !driver.file_name().to_string_lossy().ends_with("-containers") {
            continue;
        }
        for list in ["containers.json", "volatile-containers.json"] {
            let stored = read::<Vec<Stored>>(&driver.path().join(list))?.unwrap_or_default();
            if let Some(found) = stored.into_iter().find(|stored| stored.id == id) {
                let told: Metadata = serde_json::from_str(&found.metadata).unwrap_or_default();
                let first = || found.names.into_iter().flatten().next();
                let name = Some(told.name).filter(|name| !name.is_empty()).or_else(first);
                return Ok(container(id, &name.unwrap_or_default(), &told.image_name));
            }
        }
    }
    Ok(None)
}

/// Reads a file of JSON; nothing when there is none.
fn read<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    let Some(bytes) = contents(path)? else { return Ok(None) };
    let broken = |error| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {error}", path.display()));
    serde_json::from_slice(&bytes).map(Some).map_err(broken)
}

/// Reads a plain file; nothing when there is none.
fn contents(path: &Path) -> io::Result<Option<Vec<u8>>> {
    // A user may put a pipe there, which would wait for its writer.
    let at_once = OFlags::NONBLOCK.bits().cast_signed();
    let file = match OpenOptions::new().read(true).custom_flags(at_once).open(path) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        file => file?,
    };
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{} is no file", path.display())));
    }
    let mut bytes = Vec::new();
    file.take(MOST).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}
