//! `cargo xtask release X.Y.Z`: the version everywhere, everything that users fetch, and checksums. All is made from a work tree of
//! its own, so that this one is as it was until the release is complete.

mod versions;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, ensure};

use crate::tools::{self, Tool};
use crate::{process, run};

/// What to release.
#[derive(clap::Args)]
pub struct Options {
    /// The version, such as 1.2.3.
    version: String,
    /// Make everything, but neither commit nor tag.
    #[arg(long)]
    dry_run: bool,
}

/// Makes a release.
///
/// # Errors
/// Fails when this is no version to release, the work tree has changes, or something cannot be made.
pub fn run(options: &Options) -> Result<ExitCode> {
    let (root, version) = (process::root(), options.version.as_str());
    permitted(&root, version)?;
    if !options.dry_run {
        // Said now, and not when all is made.
        process::must(git(&root, &["var", "GIT_COMMITTER_IDENT"]).stdout(Stdio::null()))?;
    }
    let out = process::target().join(format!("release-{version}"));
    let tree = process::target().join(format!("release-{version}.tree"));
    let discard = || {
        let _ = git(&root, &["worktree", "remove", "--force"]).arg(&tree).output();
    };
    discard();
    process::must(git(&root, &["worktree", "add", "--quiet", "--detach"]).arg(&tree).arg("HEAD"))?;
    let made = make(&tree, &out, version).and_then(|()| conclude(&root, &tree, options));
    discard();
    made?;
    for line in fs::read_to_string(out.join(SUMS))?.lines() {
        println!("{line}");
    }
    println!("{}", out.display());
    if !options.dry_run {
        println!("{}", by_hand(&out, version));
    }
    Ok(ExitCode::SUCCESS)
}

/// Says what is left to whoever may publish: nothing has gone out yet.
fn by_hand(out: &Path, version: &str) -> String {
    let out = out.display();
    format!(
        "\ncommitted and tagged here alone; what publishes it:\n\n    \
         git push origin HEAD v{version}\n    \
         git checkout v{version} && docker buildx build --platform linux/amd64,linux/arm64 --tag REGISTRY/telesonde:{version} --push .\n    \
         helm push {out}/telesonde-{version}.tgz oci://REGISTRY/charts\n\n\
         and the files of {out} beside the tag; whoever signs signs {SUMS}"
    )
}

/// Where the checksums are.
const SUMS: &str = "SHA256SUMS";

/// Refuses what is no version, what is not newer than the tree's, and a tree that is not as it was committed.
fn permitted(root: &Path, version: &str) -> Result<()> {
    let new = versions::parse(version)?;
    let current = versions::current(root)?;
    let old = versions::parse(&current)?;
    ensure!(new.0 >= old.0, "{version} is older than {current}, which this tree has");
    let changes = process::output(&mut git(root, &["status", "--porcelain", "--untracked-files=normal"]));
    let changes = changes.context("git does not tell whether anything is uncommitted: is this a clone?")?;
    ensure!(changes.is_empty(), "not everything is committed, so that a release would not have it:\n{changes}");
    let tag = format!("v{version}");
    let known = process::output(&mut git(root, &["tag", "--list", &tag])).unwrap_or_default();
    ensure!(known.is_empty(), "{tag} is there already: {version} was released");
    Ok(())
}

fn git(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new("git");
    command.current_dir(directory).args(arguments);
    command
}

/// Runs a developer command of the tree that is released.
fn xtask(tree: &Path, arguments: &[&str]) -> Result<()> {
    let mut command = process::cargo()?;
    command.current_dir(tree).env("CARGO_TARGET_DIR", process::target()).arg("xtask").args(arguments);
    process::must(&mut command)
}

fn make(tree: &Path, out: &Path, version: &str) -> Result<()> {
    let date = process::output(Command::new("date").args(["--utc", "+%F"])).context("date tells no date")?;
    versions::rewrite(tree, version, &date)?;
    process::must(&mut git(tree, &["--no-pager", "diff", "--stat"]))?;
    if out.exists() {
        fs::remove_dir_all(out).with_context(|| format!("cannot remove {}", out.display()))?;
    }
    fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    let at = out.to_string_lossy();
    xtask(tree, &["build"])?;
    let binary = run::binary(true)?;
    let said = process::output(Command::new(&binary).arg("--version")).context("the binary does not run")?;
    ensure!(said == format!("telesonde {version}"), "the binary says `{said}` of itself");
    // Whether manual, manifests and what the chart renders have the version, too.
    xtask(tree, &["gen", "--check", "--no-build"])?;
    xtask(tree, &["chart", "--no-build"])?;
    xtask(tree, &["package", "--no-build", "--out", &at])?;
    xtask(tree, &["image", "--no-build"])?;
    xtask(tree, &["sbom", "--out", &out.join(format!("telesonde-{version}.cdx.json")).to_string_lossy()])?;
    let name = format!("telesonde-{version}-linux-{}", std::env::consts::ARCH);
    pack(&out.join(format!("{name}.oci.tar")), &process::target().join("image/oci"), ".", &[])?;
    archive(tree, out, &name, &binary)?;
    let mut helm = Command::new(tools::install(Tool::Helm)?);
    process::must(helm.arg("package").arg(tree.join("charts/telesonde")).arg("--destination").arg(out))?;
    fs::copy(tree.join("examples/kubernetes/telesonde.yaml"), out.join(format!("telesonde-{version}.yaml")))?;
    sums(out)
}

/// Packs the binary and what belongs beside it, for hosts without packages.
fn archive(tree: &Path, out: &Path, name: &str, binary: &Path) -> Result<()> {
    let dir = process::target().join(name);
    if dir.exists() {
        fs::remove_dir_all(&dir)?;
    }
    fs::create_dir_all(&dir)?;
    fs::copy(binary, dir.join("telesonde"))?;
    for file in ["LICENSE", "README.md", "CHANGELOG.md", "configs/reference.yaml"] {
        let from = tree.join(file);
        fs::copy(&from, dir.join(from.file_name().unwrap_or_default()))
            .with_context(|| format!("cannot copy {file}"))?;
    }
    for folder in ["examples/systemd", "packaging/man", "packaging/completions"] {
        let mut copy = Command::new("cp");
        process::must(copy.arg("-r").arg(tree.join(folder)).arg(&dir))?;
    }
    pack(&out.join(format!("{name}.tar.gz")), &process::target(), name, &["--gzip"])?;
    fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))
}

fn pack(archive: &Path, directory: &Path, what: &str, arguments: &[&str]) -> Result<()> {
    let mut tar = Command::new("tar");
    tar.args(["--sort=name", "--owner=0", "--group=0", "--numeric-owner"]).args(arguments);
    process::must(tar.arg("-C").arg(directory).arg("-cf").arg(archive).arg(what))
}

/// Writes the checksums of all files, and checks them.
fn sums(out: &Path) -> Result<()> {
    let mut files = Vec::<PathBuf>::new();
    for entry in fs::read_dir(out)? {
        files.push(entry?.file_name().into());
    }
    files.sort();
    let sums = process::output(Command::new("sha256sum").current_dir(out).args(&files)).context("sha256sum fails")?;
    fs::write(out.join(SUMS), sums + "\n")?;
    process::must(Command::new("sha256sum").current_dir(out).args(["--check", "--strict", SUMS]))
}

/// Keeps the release: a commit on this branch, with a tag.
fn conclude(root: &Path, tree: &Path, options: &Options) -> Result<()> {
    if options.dry_run {
        println!("nothing is committed, as --dry-run asks for");
        return Ok(());
    }
    let (subject, tag) = (format!("Release {}", options.version), format!("v{}", options.version));
    process::must(&mut git(tree, &["commit", "--quiet", "--all", "--message", &subject]))?;
    let commit = process::output(&mut git(tree, &["rev-parse", "HEAD"])).context("git tells no commit")?;
    process::must(&mut git(root, &["merge", "--quiet", "--ff-only", &commit]))?;
    process::must(&mut git(root, &["tag", "--annotate", &tag, "--message", &subject]))?;
    Ok(())
}
