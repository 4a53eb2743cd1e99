//! Debian's packages, through apt with lists of its own: the machine's sources stay as they are.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::Release;
use crate::arch::Arch;
use crate::process;

/// What a guest of another processor has: where tests find the programs that they start, and busybox for the rest.
const PROGRAMS: [&str; 11] = [
    "bind9-dnsutils",
    "bpftool",
    "busybox-static",
    "dnsmasq-base",
    "e2fsprogs",
    "iproute2",
    "iptables",
    "libgcc-s1",
    "mount",
    "procps",
    "util-linux",
];
/// The suite that they come from: newer than what programs are linked with here.
const SUITE: &str = "trixie";

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
pub fn kernel(release: Release, arch: Arch, tools: &Path) -> Result<Kernel> {
    let (suite, security) = release.suite();
    let dir = place(suite, arch, tools);
    let root = dir.join("root");
    if !root.is_dir() {
        fetch(&Apt::new(dir, suite, security, arch)?)?;
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

/// Gives a directory with the programs of another processor, fetched once.
///
/// # Errors
/// Fails when a package cannot be fetched or unpacked.
pub fn programs(arch: Arch, tools: &Path) -> Result<PathBuf> {
    let dir = place("programs", arch, tools);
    let root = dir.join("root");
    if root.is_dir() {
        return Ok(root);
    }
    let apt = Apt::new(dir, SUITE, false, arch)?;
    let mut install = apt.command("apt-get");
    install.args(["install", "-y", "-q", "--no-install-recommends", "--download-only"]);
    process::must(install.args(PROGRAMS))?;
    apt.unpack(&apt.dir.join("cache/archives"))?;
    apt.keep()?;
    Ok(root)
}

/// Gives the directory of what is kept.
fn place(name: &str, arch: Arch, tools: &Path) -> PathBuf {
    let kernels = tools.join("kernels");
    match arch {
        Arch::X86_64 => kernels.join(name),
        Arch::Aarch64 => kernels.join(format!("{name}-{}", arch.debian())),
    }
}

/// apt, for a directory and a processor of its own.
struct Apt {
    dir: PathBuf,
    suite: &'static str,
    arch: Arch,
}

impl Apt {
    fn new(dir: PathBuf, suite: &'static str, security: bool, arch: Arch) -> Result<Self> {
        for part in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(dir.join(part)).with_context(|| format!("cannot make {}", dir.display()))?;
        }
        let archive = archive(security)?;
        let keyring = "/usr/share/keyrings/debian-archive-keyring.gpg";
        fs::write(dir.join("sources"), format!("deb [signed-by={keyring}] {archive} {suite} main\n"))?;
        fs::write(dir.join("status"), "")?;
        let _ = fs::remove_dir_all(dir.join("partial"));
        let apt = Self { dir, suite, arch };
        process::must(apt.command("apt-get").args(["update", "-q"]))?;
        Ok(apt)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.dir);
        for (key, value) in [
            ("APT::Architecture", PathBuf::from(self.arch.debian())),
            ("APT::Architectures", self.arch.debian().into()),
            ("Dir::Etc::SourceList", self.dir.join("sources")),
            ("Dir::Etc::SourceParts", "/dev/null".into()),
            ("Dir::State::Lists", self.dir.join("lists")),
            ("Dir::State::Status", self.dir.join("status")),
            ("Dir::Cache", self.dir.join("cache")),
            ("Acquire::Languages", "none".into()),
            ("APT::Sandbox::User", "root".into()),
        ] {
            command.arg("-o").arg(format!("{key}={}", value.display()));
        }
        command
    }

    /// Gives what a package needs in any case.
    fn depends(&self, package: &str) -> Result<Vec<String>> {
        let text = process::output(self.command("apt-cache").args(["depends", package]))
            .with_context(|| format!("{} has no {package}", self.suite))?;
        let names = text.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
        Ok(names.map(str::to_owned).collect())
    }

    /// Unpacks all packages of a directory, and removes them.
    fn unpack(&self, from: &Path) -> Result<PathBuf> {
        let partial = self.dir.join("partial");
        for entry in fs::read_dir(from)?.flatten() {
            if entry.path().extension().is_some_and(|extension| extension == "deb") {
                process::must(Command::new("dpkg-deb").arg("-x").arg(entry.path()).arg(&partial))?;
                fs::remove_file(entry.path())?;
            }
        }
        Ok(partial)
    }

    /// Gives what was unpacked its name: only what is whole gets it.
    fn keep(&self) -> Result<()> {
        fs::rename(self.dir.join("partial"), self.dir.join("root")).context("cannot keep what was unpacked")
    }
}

fn fetch(apt: &Apt) -> Result<()> {
    let package = format!("linux-image-cloud-{}", apt.arch.debian());
    let image = apt.depends(&package)?.into_iter().find(|name| name.starts_with("linux-image-"));
    let image = image.with_context(|| format!("{} names no kernel", apt.suite))?;
    let version = image.trim_start_matches("linux-image-");
    // Newer ones come in parts: the image itself, its modules, what belongs to both.
    let parts = apt.depends(&image)?.into_iter().filter(|name| name.starts_with("linux-") && name.ends_with(version));
    let packages: Vec<String> = std::iter::once(image.clone()).chain(parts).collect();
    process::must(apt.command("apt-get").args(["download", "-q"]).args(&packages))?;
    let partial = apt.unpack(&apt.dir)?;
    process::must(
        Command::new(process::find("depmod").context("depmod is missing")?).arg("-b").arg(base(&partial)).arg(version),
    )?;
    apt.keep()
}

/// Gives the directory below which `lib/modules` lies.
fn base(root: &Path) -> PathBuf {
    if root.join("usr/lib/modules").is_dir() { root.join("usr") } else { root.to_owned() }
}

/// Gives the archive of Debian, or that of its security, that this machine's own sources name.
///
/// # Errors
/// Fails when they name none.
pub fn archive(security: bool) -> Result<String> {
    let text = process::output(Command::new("apt-get").args(["indextargets", "--format", "$(REPO_URI)"]));
    let text = text.context("packages come from Debian's archive, through apt, which this machine lacks")?;
    let found = text.lines().find(|uri| uri.contains("debian") && uri.contains("security") == security);
    match found {
        Some(uri) => Ok(uri.to_owned()),
        None => {
            bail!("this machine's apt sources name no {} archive of Debian", if security { "security" } else { "main" })
        }
    }
}
