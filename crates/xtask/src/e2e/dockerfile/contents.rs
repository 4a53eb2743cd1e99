//! What is in an image: its settings, and its files as a container has them.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use rustix::fs::lgetxattr;
use serde_json::Value;

use crate::image;
use crate::process;

/// An image of one layer or more, unpacked.
pub struct Contents {
    /// Its root file system.
    pub root: PathBuf,
    /// What registries keep of it, in bytes.
    size: u64,
    settings: Value,
    /// Of each file: kind and mode, owners, where a link leads, capabilities.
    files: BTreeMap<PathBuf, String>,
}

fn blob(layout: &Path, pointer: &Value) -> Result<PathBuf> {
    let digest = pointer["digest"].as_str().and_then(|digest| digest.strip_prefix("sha256:"));
    Ok(layout.join("blobs/sha256").join(digest.context("the layout points at nothing")?))
}

fn json(path: &Path) -> Result<Value> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| path.display().to_string())
}

impl Contents {
    /// Reads and unpacks an OCI layout.
    ///
    /// # Errors
    /// Fails when it is none.
    pub fn read(layout: &Path) -> Result<Self> {
        let manifest = json(&blob(layout, &json(&layout.join("index.json"))?["manifests"][0])?)?;
        let config = json(&blob(layout, &manifest["config"])?)?;
        let settings = ["architecture", "os", "config"].map(|key| (key.to_owned(), config[key].clone()));
        let (root, mut size) = (layout.with_extension("root"), 0);
        fs::create_dir_all(&root)?;
        for layer in manifest["layers"].as_array().into_iter().flatten() {
            size += layer["size"].as_u64().context("a layer has no size")?;
            let mut unpack = Command::new("tar");
            unpack.args(["--xattrs", "--xattrs-include=security.capability", "--numeric-owner", "-xzpf"]);
            process::must(unpack.arg(blob(layout, layer)?).arg("-C").arg(&root))?;
        }
        let mut files = BTreeMap::new();
        list(&root, &root, &mut files)?;
        Ok(Self { root, size, settings: settings.into_iter().collect(), files })
    }

    /// Says what it is, unless it is too large.
    ///
    /// # Errors
    /// Fails when it is.
    pub fn told(&self) -> Result<String> {
        ensure!(self.size <= image::LARGEST, "the image has {} bytes, more than {}", self.size, image::LARGEST);
        Ok(format!("{} files, {:.1} MB; {}", self.files.len(), self.size as f64 / 1e6, self.settings))
    }

    /// Says that settings and files are those of another image, and its programs to the byte.
    ///
    /// # Errors
    /// Fails with what differs.
    pub fn equals(&self, other: &Self) -> Result<String> {
        ensure!(self.settings == other.settings, "{} should be {}", self.settings, other.settings);
        let names = self.files.keys().chain(other.files.keys());
        let differ = names.filter(|name| self.files.get(*name) != other.files.get(*name));
        let differ = differ.map(|name| {
            format!("{}: {:?} should be {:?}", name.display(), self.files.get(name), other.files.get(name))
        });
        let differ: Vec<String> = differ.collect();
        ensure!(differ.is_empty(), "{}", differ.join("\n"));
        let agents = [&self.root, &other.root].map(|root| fs::read(root.join(image::AGENT)));
        let [Ok(own), Ok(others)] = agents else { anyhow::bail!("there is no {}", image::AGENT) };
        ensure!(own == others, "the agent is not the same");
        Ok(format!("{} files, and all settings", self.files.len()))
    }
}

fn list(root: &Path, dir: &Path, files: &mut BTreeMap<PathBuf, String>) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let meta = fs::symlink_metadata(&path)?;
        let link = fs::read_link(&path).unwrap_or_default();
        let mut capability = [0; 64];
        let length = lgetxattr(&path, "security.capability", &mut capability).unwrap_or(0);
        let said = format!(
            "{:o} of {}:{} {} {:02x?}",
            meta.mode(),
            meta.uid(),
            meta.gid(),
            link.display(),
            &capability[..length]
        );
        files.insert(path.strip_prefix(root)?.to_owned(), said);
        if meta.is_dir() {
            list(root, &path, files)?;
        }
    }
    Ok(())
}
