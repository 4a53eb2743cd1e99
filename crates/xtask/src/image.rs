//! `cargo xtask image`: the root file system of the container image, which the Dockerfile copies, and the image itself as an OCI
//! layout, made without a daemon: `skopeo copy oci:target/image/oci docker://REGISTRY/telesonde` pushes it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail, ensure};

use crate::arch::Arch;
use crate::{process, run};

/// The most that a registry may have to keep and a node to fetch.
pub const LARGEST: u64 = 25_000_000;

/// What the binary's file permits whoever starts it, as far as the container has it.
const CAPABILITIES: &str = "cap_bpf,cap_perfmon,cap_net_admin=p";

/// Where authorities that sign servers' certificates are kept, here and there.
const AUTHORITIES: &str = "etc/ssl/certs/ca-certificates.crt";

/// Where the agent is, below the root.
pub const AGENT: &str = "usr/bin/telesonde";

/// How a container of the image starts, as the Dockerfile says it, too.
pub const USER: &str = "65532:65532";
const PORTS: [u16; 2] = [9464, 9465];
pub const ENTRYPOINT: &str = r#"["/usr/bin/telesonde"]"#;
const COMMAND: &str = r#"["run"]"#;
const ENVIRONMENT: &str = "PATH=/usr/bin";
const LABELS: [(&str, &str); 4] = [
    ("title", "telesonde"),
    ("description", "Turns what the Linux kernel knows into telemetry"),
    ("licenses", "Apache-2.0"),
    ("version", env!("CARGO_PKG_VERSION")),
];

/// What the chart calls the image, and where containerd and Docker look for whatever has such a name.
const NAME: &str = "telesonde";
const REGISTRY: &str = "docker.io/library";

/// What to make.
#[derive(clap::Args)]
pub struct Options {
    /// Make only the root file system, in this directory.
    #[arg(long)]
    root: Option<PathBuf>,
    /// For which processor.
    #[arg(long, default_value_t = Arch::HERE, value_enum)]
    arch: Arch,
    /// Use the release binary that is there.
    #[arg(long)]
    no_build: bool,
}

/// Makes the root file system and, unless only that is wanted, the image; says what is in it.
///
/// # Errors
/// Fails when something is missing, the agent does not run in it, or it is too large.
pub fn run(options: &Options) -> Result<ExitCode> {
    let binary = run::binary_for(options.arch, options.no_build)?;
    let place = process::target().join("image");
    let root = options.root.clone().unwrap_or_else(|| place.join("root"));
    if root.exists() {
        fs::remove_dir_all(&root).with_context(|| format!("cannot remove {}", root.display()))?;
    }
    fill(&root, &binary, options.arch)?;
    if process::is_root() && options.arch == Arch::HERE {
        let mut inside = Command::new("chroot");
        let said = process::output(inside.arg(&root).args(["/usr/bin/telesonde", "--version"]));
        println!("in it: {}", said.context("the agent does not run in it: a library is missing")?);
    }
    if options.root.is_none() {
        layout(&place.join("oci"), &root, options.arch)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Makes the root file system of the image.
///
/// # Errors
/// Fails when something is missing.
pub fn fill(root: &Path, binary: &Path, arch: Arch) -> Result<()> {
    // Older distributions look for the loader in /lib64, which is a part of /usr.
    for dir in ["usr/bin", "usr/lib", "usr/lib64", "etc/telesonde", "run/telesonde", "tmp"] {
        fs::create_dir_all(root.join(dir))?;
    }
    for dir in ["lib", "lib64"] {
        symlink(format!("usr/{dir}"), root.join(dir))?;
    }
    for dir in ["run/telesonde", "tmp"] {
        fs::set_permissions(root.join(dir), fs::Permissions::from_mode(0o1777))?;
    }
    let agent = root.join(AGENT);
    process::must(Command::new(arch.strip()).args(["--strip-all", "-o"]).arg(&agent).arg(binary))?;
    if arch == Arch::HERE {
        add_libraries(root, &agent)?;
    } else {
        add_libraries_of(arch, root, &agent)?;
    }
    let authorities = Path::new("/").join(AUTHORITIES);
    if authorities.exists() {
        fs::create_dir_all(root.join("etc/ssl/certs"))?;
        fs::copy(&authorities, root.join(AUTHORITIES))?;
    }
    if let (Some(setcap), true) = (process::find("setcap"), process::is_root()) {
        return process::must(Command::new(setcap).arg(CAPABILITIES).arg(&agent));
    }
    println!("without {CAPABILITIES} on its file, which takes root and setcap: it runs as root alone");
    Ok(())
}

/// Puts what a program is linked with beside it.
///
/// # Errors
/// Fails when a library cannot be found or copied.
pub fn add_libraries(root: &Path, program: &Path) -> Result<()> {
    let needed = process::output(Command::new("ldd").arg(program)).context("ldd does not tell the libraries")?;
    for library in needed.split_whitespace().filter(|word| word.starts_with('/')) {
        let to = root.join(library.trim_start_matches('/'));
        fs::create_dir_all(to.parent().unwrap_or(root))?;
        fs::copy(library, &to).with_context(|| format!("cannot copy {library}"))?;
    }
    Ok(())
}

/// Does the same for a program of another processor, whose loader cannot be asked: with the libraries of the compiler for it.
fn add_libraries_of(arch: Arch, root: &Path, program: &Path) -> Result<()> {
    let told = |file: &Path, option: &str, what: &str| -> Result<Vec<String>> {
        let said = process::output(Command::new("readelf").args(["--wide", option]).arg(file));
        let said = said.with_context(|| format!("readelf does not tell what {} needs", file.display()))?;
        let lines = said.lines().filter_map(|line| line.trim().split_once(what)?.1.strip_suffix(']'));
        Ok(lines.map(str::to_owned).collect())
    };
    let mut open = told(program, "--program-headers", "[Requesting program interpreter: ")?;
    let mut done = Vec::new();
    while let Some(place) = open.pop() {
        let name = place.rsplit('/').next().unwrap_or_default().to_owned();
        if done.contains(&name) {
            continue;
        }
        let from = process::output(Command::new(arch.cc()).arg(format!("-print-file-name={name}")));
        let from = from.filter(|from| from.starts_with('/'));
        let from = from.with_context(|| format!("{} knows no {name}, which the agent needs", arch.cc()))?;
        let to = root.join(place.trim_start_matches('/'));
        fs::copy(&from, &to).with_context(|| format!("cannot copy {from}"))?;
        for file in [program, &to] {
            let needed = told(file, "--dynamic", "(NEEDED)")?;
            let names = needed.iter().filter_map(|rest| rest.split_once('[').map(|(_, name)| name));
            open.extend(names.map(|name| format!("/usr/lib/{name}")));
        }
        done.push(name);
    }
    Ok(())
}

/// Writes the layout: one layer, its configuration, the manifest, and what points at it.
///
/// # Errors
/// Fails when it cannot be written, or is too large.
pub fn layout(oci: &Path, root: &Path, arch: Arch) -> Result<()> {
    let blobs = oci.join("blobs/sha256");
    if oci.exists() {
        fs::remove_dir_all(oci)?;
    }
    fs::create_dir_all(&blobs)?;
    let tar = oci.join("layer.tar");
    let same = ["--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--mtime=@0", "--format=pax"];
    let mut pack = Command::new("tar");
    pack.args(same).args([
        "--pax-option=delete=atime,delete=ctime",
        "--xattrs",
        "--xattrs-include=security.capability",
    ]);
    process::must(pack.arg("-C").arg(root).arg("-cf").arg(&tar).arg("."))?;
    let unpacked = digest(&tar)?;
    process::must(Command::new("gzip").args(["--no-name", "-9"]).arg(&tar))?;
    let layer = blob(&blobs, &oci.join("layer.tar.gz"))?;
    let architecture = arch.debian();
    let version = env!("CARGO_PKG_VERSION");
    let settings = settings();
    let config = format!(
        r#"{{"architecture":"{architecture}","os":"linux","config":{settings},"rootfs":{{"type":"layers","diff_ids":["sha256:{unpacked}"]}}}}"#
    );
    let config = text(&blobs, &config)?;
    let of = |kind: &str, (digest, size): &(String, u64)| {
        format!(r#"{{"mediaType":"application/vnd.oci.image.{kind}","digest":"sha256:{digest}","size":{size}}}"#)
    };
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{},"layers":[{}]}}"#,
        of("config.v1+json", &config),
        of("layer.v1.tar+gzip", &layer)
    );
    let manifest = text(&blobs, &manifest)?;
    let name = format!("{NAME}:{version}");
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{}]}}"#,
        of("manifest.v1+json", &manifest).replace(
            r#","size""#,
            &format!(
                r#","platform":{{"architecture":"{architecture}","os":"linux"}},"annotations":{{"io.containerd.image.name":"{REGISTRY}/{name}","org.opencontainers.image.ref.name":"{name}"}},"size""#
            )
        )
    );
    fs::write(oci.join("index.json"), index)?;
    fs::write(oci.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    let listed =
        process::output(Command::new("tar").arg("-tvzf").arg(blobs.join(&layer.0))).context("tar lists nothing")?;
    println!("{listed}");
    let size = layer.1 + config.1 + manifest.1;
    ensure!(size <= LARGEST, "the image has {size} bytes, more than {LARGEST}");
    println!("{}: {:.1} MB of at most {:.0}", oci.display(), size as f64 / 1e6, LARGEST as f64 / 1e6);
    Ok(())
}

/// Gives how a container starts, and what is told of the image.
fn settings() -> String {
    let labels = LABELS.map(|(key, value)| format!(r#""org.opencontainers.image.{key}":"{value}""#)).join(",");
    let ports = PORTS.map(|port| format!(r#""{port}/tcp":{{}}"#)).join(",");
    format!(
        r#"{{"User":"{USER}","ExposedPorts":{{{ports}}},"Entrypoint":{ENTRYPOINT},"Cmd":{COMMAND},"Env":["{ENVIRONMENT}"],"Labels":{{{labels}}}}}"#
    )
}

fn digest(file: &Path) -> Result<String> {
    let said = process::output(Command::new("sha256sum").arg(file)).context("sha256sum fails")?;
    match said.split_whitespace().next() {
        Some(digest) if digest.len() == 64 => Ok(digest.to_owned()),
        _ => bail!("sha256sum says {said}"),
    }
}

/// Gives a file its place by its digest; returns that and its size.
fn blob(blobs: &Path, file: &Path) -> Result<(String, u64)> {
    let (digest, size) = (digest(file)?, fs::metadata(file)?.len());
    fs::rename(file, blobs.join(&digest))?;
    Ok((digest, size))
}

fn text(blobs: &Path, json: &str) -> Result<(String, u64)> {
    let file = blobs.join("new");
    fs::write(&file, json)?;
    blob(blobs, &file)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives the instructions of the last stage, each on one line, with the version put in.
    fn last_stage(dockerfile: &str) -> Vec<String> {
        let joined = dockerfile.replace("\\\n", " ");
        let instructions = joined.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty());
        let all: Vec<String> = instructions.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        let from = all.iter().rposition(|line| line.starts_with("FROM ")).unwrap();
        let version = all[from..].iter().find_map(|line| line.strip_prefix("ARG VERSION=")).unwrap();
        all[from..].iter().map(|line| line.replace("${VERSION}", version)).collect()
    }

    #[test]
    fn the_dockerfile_makes_the_same_image() {
        let dockerfile = fs::read_to_string(process::root().join("Dockerfile")).unwrap();
        let labels = LABELS.map(|(key, value)| format!(r#"org.opencontainers.image.{key}="{value}""#)).join(" ");
        let ports = PORTS.map(|port| port.to_string()).join(" ");
        let expected = [
            "FROM scratch".to_owned(),
            format!("ARG VERSION={}", env!("CARGO_PKG_VERSION")),
            format!("LABEL {labels}"),
            "COPY --from=build /root-of-image /".to_owned(),
            format!("ENV {ENVIRONMENT}"),
            format!("USER {USER}"),
            format!("EXPOSE {ports}"),
            format!("ENTRYPOINT {ENTRYPOINT}"),
            format!("CMD {COMMAND}"),
        ];
        assert_eq!(last_stage(&dockerfile), expected);
        // Its root file system is what this command makes, by the same function.
        let made = "RUN cargo xtask image --root /root-of-image ${TARGETARCH:+--arch \"$TARGETARCH\"}\n";
        assert!(dockerfile.contains(made), "{dockerfile}");
        // What differs between platforms is known to the command alone.
        for fixed in ["amd64", "x86_64", "aarch64", "--target"] {
            let instructions = dockerfile.lines().filter(|line| !line.starts_with('#'));
            assert_eq!(instructions.filter(|line| line.contains(fixed)).count(), 0, "{fixed} in the Dockerfile");
        }
    }

    #[test]
    fn settings_are_json_of_one_object() {
        let settings = settings();
        assert_eq!(settings.matches('{').count(), settings.matches('}').count(), "{settings}");
        assert!(
            settings.contains(r#""User":"65532:65532","ExposedPorts":{"9464/tcp":{},"9465/tcp":{}}"#),
            "{settings}"
        );
    }
}
