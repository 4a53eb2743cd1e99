//! A BPF file system of a test's own, where an agent can pin.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::directory;

/// A mounted BPF file system; all that is pinned in it goes with it.
pub struct BpfFs(PathBuf);

impl BpfFs {
    /// Mounts one in a directory of its own.
    pub fn mount() -> Self {
        let directory = directory("bpffs");
        let status = Command::new("mount").args(["-t", "bpf", "bpf"]).arg(&directory).status().unwrap();
        assert!(status.success(), "mount -t bpf: {status}");
        Self(directory)
    }

    /// Gives the directory that agents are told, which is not there at first.
    pub fn pins(&self) -> PathBuf {
        self.0.join("telesonde")
    }

    /// Gives the key that tells agents.
    pub fn key(&self) -> String {
        format!("pin_path: {}", self.pins().display())
    }

    /// Gives the files that agents have pinned.
    pub fn files(&self) -> Vec<PathBuf> {
        fn walk(directory: &Path, found: &mut Vec<PathBuf>) {
            for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
                if entry.file_type().unwrap().is_dir() {
                    walk(&entry.path(), found);
                } else {
                    found.push(entry.path());
                }
            }
        }
        let mut found = Vec::new();
        walk(&self.pins(), &mut found);
        found
    }
}

impl Drop for BpfFs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
        let _ = std::fs::remove_dir(&self.0);
    }
}
