//! Kernel packages, through apt with lists of its own: the machine's sources stay as they are.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::Release;
use crate::process;

/// An unpacked kernel.
pub struct Kernel {
    /// As `uname -r` gives it.
    pub version: String,
    /// The compressed image.
    pub image: PathBuf,
    /// The directory with `modules.dep`.
    pub modules: PathBuf,
}

impl Release {
    /// Gives the suite, and whether it is one of the security archive.
    fn suite(self) -> (&'static str, bool) {
        match self {
            Self::V5_10 => ("bullseye-security", true),
            Self::V6_1 => ("bookworm-security", true),
            Self::V6_12 => ("trixie", false),
            Self::Newest => ("sid", false),
        }
    }
}

/// Gives a kernel, fetched once.
///
/// # Errors
/// Fails when the package cannot be fetched or unpacked.
pub fn kernel(release: Release, tools: &Path) -> Result<Kernel> {
    let (suite, _) = release.suite();
    let dir = tools.join("kernels").join(suite);
    let root = dir.join("root");
    if !root.is_dir() {
        fetch(release, &dir)?;
    }
    let modules = base(&root).join("lib/modules");
    let entries = fs::read_dir(&modules).with_context(|| format!("cannot read {}", modules.display()))?;
    let modules = entries.flatten().map(|entry| entry.path()).find(|path| path.is_dir());
    let modules = modules.context("the kernel has no modules")?;
    let version = modules.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    // Newer packages have the image beside the modules.
    let places = [root.join("boot").join(format!("vmlinuz-{version}")), modules.join("vmlinuz")];
    let image = places.into_iter().find(|path| path.is_file());
    Ok(Kernel { image: image.with_context(|| format!("{version} has no image"))?, modules, version })
}

fn fetch(release: Release, dir: &Path) -> Result<()> {
    let (suite, security) = release.suite();
    for part in ["lists/partial", "cache/archives/partial"] {
        fs::create_dir_all(dir.join(part)).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    let archive = archive(security)?;
    let keyring = "/usr/share/keyrings/debian-archive-keyring.gpg";
    fs::write(dir.join("sources"), format!("deb [signed-by={keyring}] {archive} {suite} main\n"))?;
    fs::write(dir.join("status"), "")?;
    let apt = |program: &str| {
        let mut command = Command::new(program);
        for (key, value) in [
            ("Dir::Etc::SourceList", dir.join("sources")),
            ("Dir::Etc::SourceParts", "/dev/null".into()),
            ("Dir::State::Lists", dir.join("lists")),
            ("Dir::State::Status", dir.join("status")),
            ("Dir::Cache", dir.join("cache")),
            ("Acquire::Languages", "none".into()),
            ("APT::Sandbox::User", "root".into()),
        ] {
            command.arg("-o").arg(format!("{key}={}", value.display()));
        }
        command
    };
    process::must(apt("apt-get").args(["update", "-q"]))?;
    let depends = |package: &str| -> Result<Vec<String>> {
        let text = process::output(apt("apt-cache").args(["depends", package]))
            .with_context(|| format!("{suite} has no {package}"))?;
        let names = text.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
        Ok(names.map(str::to_owned).collect())
    };
    let image = depends("linux-image-cloud-amd64")?.into_iter().find(|name| name.starts_with("linux-image-"));
    let image = image.with_context(|| format!("{suite} names no kernel"))?;
    let version = image.trim_start_matches("linux-image-");
    // Newer ones come in parts: the image itself, its modules, what belongs to both.
    let parts = depends(&image)?.into_iter().filter(|name| name.starts_with("linux-") && name.ends_with(version));
    let packages: Vec<String> = std::iter::once(image.clone()).chain(parts).collect();
    process::must(apt("apt-get").current_dir(dir).args(["download", "-q"]).args(&packages))?;
    let partial = dir.join("partial");
    let _ = fs::remove_dir_all(&partial);
    for entry in fs::read_dir(dir)?.flatten() {
        if entry.path().extension().is_some_and(|extension| extension == "deb") {
            process::must(Command::new("dpkg-deb").arg("-x").arg(entry.path()).arg(&partial))?;
            fs::remove_file(entry.path())?;
        }
    }
    process::must(
        Command::new(process::find("depmod").context("depmod is missing")?).arg("-b").arg(base(&partial)).arg(version),
    )?;
    // Only what is whole gets its name.
    fs::rename(&partial, dir.join("root")).context("cannot keep the kernel")
}

/// Gives the directory below which `lib/modules` lies.
fn base(root: &Path) -> PathBuf {
    if root.join("usr/lib/modules").is_dir() { root.join("usr") } else { root.to_owned() }
}

/// Gives the archive that this machine's own sources name.
fn archive(security: bool) -> Result<String> {
    let text = process::output(Command::new("apt-get").args(["indextargets", "--format", "$(REPO_URI)"]));
    let text = text.context("kernels come from Debian's archive, through apt, which this machine lacks")?;
    let found = text.lines().find(|uri| uri.contains("debian") && uri.contains("security") == security);
    match found {
        Some(uri) => Ok(uri.to_owned()),
        None => {
            bail!("this machine's apt sources name no {} archive of Debian", if security { "security" } else { "main" })
        }
    }
}
