//! Reads a cgroup hierarchy from its mount point: which directories there are, and their ids.
//!
//! The id of a cgroup is the inode number of its directory; the kernel never gives one twice while it runs.

use std::fs;
use std::io;
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::{Path, PathBuf};

/// The most directories that one walk looks at.
const LIMIT: usize = 1 << 20;

/// A mounted cgroup hierarchy.
#[derive(Clone, Debug)]
pub struct Hierarchy {
    /// Where it is mounted, such as `/sys/fs/cgroup` or `/sys/fs/cgroup/memory`.
    pub mount: PathBuf,
    /// Whether the mount shows it from its root. What is below some container's cgroup has other paths than those that
    /// the kernel reports: of such a part nothing is read.
    pub whole: bool,
}

/// What a walk through a hierarchy found.
#[derive(Debug)]
pub(crate) struct Walk {
    /// Ids and paths from the root, which is `/`.
    pub(crate) found: Vec<(u64, String)>,
    /// Says whether every directory could be read.
    pub(crate) complete: bool,
}

impl Hierarchy {
    /// Gives the id of the cgroup at a path from the root.
    ///
    /// # Errors
    /// Fails when there is no such cgroup or it cannot be looked at.
    pub fn id(&self, path: &str) -> io::Result<u64> {
        fs::metadata(self.directory(path)).map(|metadata| metadata.ino())
    }

    /// Gives the user who owns the cgroup at a path from the root.
    pub(crate) fn owner(&self, path: &str) -> io::Result<u32> {
        fs::metadata(self.directory(path)).map(|metadata| metadata.uid())
    }

    /// Lists all cgroups. What vanishes meanwhile is left out; an unreadable root is an error.
    pub(crate) fn walk(&self, keep_going: impl Fn() -> bool) -> io::Result<Walk> {
        let mut walk = Walk { found: vec![(self.id("/")?, "/".to_owned())], complete: true };
        if !self.whole {
            return Ok(Walk { found: Vec::new(), complete: false });
        }
        let mut next = 0;
        while next < walk.found.len() {
            if !keep_going() || walk.found.len() >= LIMIT {
                walk.complete = false;
                break;
            }
            let path = walk.found[next].1.clone();
            let children = self.children(&path);
            match children {
                Ok(children) => {
                    let slash = if path.ends_with('/') { "" } else { "/" };
                    walk.found.extend(children.into_iter().map(|(id, name)| (id, format!("{path}{slash}{name}"))));
                }
                Err(error) if next == 0 => return Err(error),
                Err(error) => walk.complete &= error.kind() == io::ErrorKind::NotFound,
            }
            next += 1;
        }
        Ok(walk)
    }

    /// Lists the ids and names of the cgroups right below a path.
    pub(crate) fn children(&self, path: &str) -> io::Result<Vec<(u64, String)>> {
        if !self.whole {
            return Ok(Vec::new());
        }
        let directory = self.directory(path);
        // Two links are the directory's name and its own `.`: there is nothing below, which spares reading a leaf.
        if fs::metadata(&directory)?.nlink() == 2 {
            return Ok(Vec::new());
        }
        let mut children = Vec::new();
        for entry in fs::read_dir(&directory)? {
            let entry = entry?;
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                children.push((entry.ino(), entry.file_name().to_string_lossy().into_owned()));
            }
        }
        Ok(children)
    }

    fn directory(&self, path: &str) -> PathBuf {
        self.mount.join(Path::new(path.trim_start_matches('/')))
    }
}
