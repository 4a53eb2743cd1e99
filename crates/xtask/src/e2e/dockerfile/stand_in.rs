//! What the Dockerfile starts from: the official image of Rust, as far as a build can tell, without a registry. A minimal Debian
//! of the release in its name, the C compiler, this machine's Rust, and how this machine reaches packages.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::Place;
use crate::kernel::packages::archive;
use crate::process;

/// Where the official image has cargo's files.
pub const CARGO_HOME: &str = "/usr/local/cargo";

const RUST: &str = "/usr/local/rust";
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How this machine's apt reaches its archive.
const REACH: [&str; 3] = ["Acquire::http", "Acquire::Check-", "Acquire::Max-"];

/// Gives where this machine's cargo has its files.
pub fn cargo_home() -> PathBuf {
    let home = std::env::var_os("HOME").unwrap_or_else(|| "/root".into());
    std::env::var_os("CARGO_HOME").map_or_else(|| Path::new(&home).join(".cargo"), PathBuf::from)
}

/// Makes an image `rust:VERSION-RELEASE`, unless it is there with this machine's Rust.
///
/// # Errors
/// Fails when this machine has another Rust, or cannot have that Debian.
pub fn make(place: &Place, name: &str) -> Result<String> {
    let (version, release) = name
        .strip_prefix("rust:")
        .and_then(|tag| tag.split_once('-'))
        .with_context(|| format!("nothing stands in for {name}, only for images of Rust on a release of Debian"))?;
    let here = process::told(Command::new("rustc").arg("-vV"))?;
    let own = here.lines().find_map(|line| line.strip_prefix("release: ")).context("rustc names no release")?;
    ensure!(own == version || own.starts_with(&format!("{version}.")), "{name} has not this machine's Rust {own}");
    let known = place.run(&["--rm", "--network=none", name, "rustc", "-vV"]);
    if known.is_ok_and(|known| known == here) {
        return Ok("is there".to_owned());
    }
    let root = place.dir.join("debian");
    let mut debian = Command::new("debootstrap");
    debian.args(["--variant=minbase", "--include=ca-certificates,gcc,libc6-dev", release]);
    process::must(debian.arg(&root).arg(archive(false)?))?;
    reach(&root)?;
    let toolchain = process::told(Command::new("rustc").args(["--print", "sysroot"]))?;
    ensure!(toolchain != "/usr", "Rust is this machine's distribution's: only one of rustup can be copied");
    let rust = root.join(RUST.trim_start_matches('/'));
    copy(Path::new(&toolchain), &rust)?;
    let _ = fs::remove_dir_all(rust.join("share/doc"));
    let mut pack = Command::new("tar").arg("-C").arg(&root).args(["-cf", "-", "."]).stdout(Stdio::piped()).spawn()?;
    let packed = pack.stdout.take().context("tar has no output")?;
    let path = format!("ENV PATH={CARGO_HOME}/bin:{RUST}/bin:{PATH}");
    let home = format!("ENV CARGO_HOME={CARGO_HOME}");
    let mut import = place.podman(&["import", "--change", &path, "--change", &home, "-"])?;
    process::must(import.arg(format!("docker.io/library/{name}")).stdin(packed))?;
    ensure!(pack.wait()?.success(), "tar failed");
    fs::remove_dir_all(&root)?;
    Ok(format!("made of Debian {release} and Rust {own}"))
}

/// Has it reach packages as this machine does: by its options of apt, cargo's settings, and authorities of its own.
fn reach(root: &Path) -> Result<()> {
    let options = process::told(Command::new("apt-config").args(["dump", "Acquire"]))?;
    let options = options.split_inclusive('\n').filter(|line| REACH.iter().any(|prefix| line.starts_with(prefix)));
    fs::write(root.join("etc/apt/apt.conf.d/99machine"), options.collect::<String>())?;
    let authorities = Path::new("/usr/local/share/ca-certificates");
    if authorities.is_dir() {
        copy(authorities, &root.join("usr/local/share"))?;
        process::must(Command::new("chroot").arg(root).arg("update-ca-certificates"))?;
    }
    let settings = cargo_home().join("config.toml");
    let own = root.join(CARGO_HOME.trim_start_matches('/'));
    fs::create_dir_all(&own)?;
    if settings.is_file() {
        fs::copy(&settings, own.join("config.toml"))?;
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    process::must(Command::new("cp").arg("-a").arg(from).arg(to))
}
