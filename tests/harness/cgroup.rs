//! Cgroups that a test makes, in the hierarchy that the agent takes as primary.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::eventually;

/// Gives the mount point of the primary hierarchy: the memory controller's on v1 and hybrid hosts, else v2's.
pub fn mount() -> Result<PathBuf, String> {
    mount_of("memory").ok_or_else(|| "no cgroup hierarchy is mounted".to_owned())
}

/// Gives the mount point of a version 1 controller, or else of version 2; with an empty name always the latter.
pub fn mount_of(controller: &str) -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let mut unified = None;
    for line in mounts.lines() {
        let mut fields = line.split(' ').skip(1);
        let (Some(at), Some(kind), Some(options)) = (fields.next(), fields.next(), fields.next()) else { continue };
        match kind {
            "cgroup" if options.split(',').any(|option| option == controller) => return Some(at.into()),
            "cgroup2" if unified.is_none() => unified = Some(PathBuf::from(at)),
            _ => {}
        }
    }
    unified
}

/// Gives the mount point of the hierarchy by which I/O is charged, where new cgroups right below its root are charged.
pub fn io() -> Result<PathBuf, String> {
    let mount = mount_of("blkio").ok_or("no cgroup hierarchy is mounted")?;
    let control = mount.join("cgroup.subtree_control");
    if control.exists() {
        // With version 1 there is no such file, and all are charged.
        fs::write(control, "+io").map_err(|error| format!("I/O cannot be charged to cgroups: {error}"))?;
    }
    Ok(mount)
}

/// Says why no cgroup can be made here, if that is so.
pub fn permitted() -> Result<(), String> {
    let probe = mount()?.join(format!("telesonde-test-{}-probe", std::process::id()));
    fs::create_dir(&probe).map_err(|error| format!("cannot make a cgroup: {error}"))?;
    remove(&probe);
    Ok(())
}

/// A cgroup that is removed, with all below it, when the test is done.
pub struct Cgroup {
    directory: PathBuf,
    path: String,
}

impl Cgroup {
    /// Makes a cgroup right below the root, its name made unique.
    pub fn new(name: &str) -> Self {
        let path = format!("/telesonde-test-{}-{name}", std::process::id());
        let directory = mount().unwrap().join(&path[1..]);
        remove(&directory);
        fs::create_dir(&directory).unwrap();
        Self { directory, path }
    }

    /// Makes a cgroup below this one.
    pub fn child(&self, name: &str) -> Self {
        let directory = self.directory.join(name);
        fs::create_dir(&directory).unwrap();
        Self { directory, path: format!("{}/{name}", self.path) }
    }

    /// Makes the cgroup of the same path in another hierarchy, unless that is this one.
    pub fn twin(&self, mount: &Path) -> Option<Self> {
        let directory = mount.join(&self.path[1..]);
        if directory == self.directory {
            return None;
        }
        remove(&directory);
        fs::create_dir(&directory).unwrap();
        Some(Self { directory, path: self.path.clone() })
    }

    /// Gives the path from the hierarchy's root, as it stands in `cgroup.path`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Gives the id, as the kernel has it.
    pub fn id(&self) -> u64 {
        fs::metadata(&self.directory).unwrap().ino()
    }

    /// Gives the directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        remove(&self.directory);
    }
}

/// Removes a cgroup and those below it; a task that still exits keeps it busy for a moment.
fn remove(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path());
        }
    }
    eventually("the cgroup is empty", || match fs::remove_dir(directory) {
        Err(error) if error.kind() != ErrorKind::NotFound => None,
        _ => Some(()),
    });
}
