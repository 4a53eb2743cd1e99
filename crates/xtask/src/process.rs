//! Starting other programs: where the workspace is, as whom to build, how to raise a binary, and what to say when that is not possible.

use std::ffi::OsStr;
use std::fmt;
use std::io::IsTerminal;
use std::os::unix::fs::{MetadataExt, lchown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};

/// Something only the person at the machine can do; ends the command with exit code 3.
#[derive(Debug)]
pub struct ByHand {
    why: String,
    command: String,
}

impl ByHand {
    /// Makes the error from the reason and the exact command to run.
    pub fn new(why: impl Into<String>, command: impl Into<String>) -> Self {
        Self { why: why.into(), command: command.into() }
    }
}

impl fmt::Display for ByHand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; run:\n\n    {}\n", self.why, self.command)
    }
}

impl std::error::Error for ByHand {}

/// Returns the root of the workspace.
pub fn root() -> PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR")
        .and_then(|dir| Path::new(&dir).ancestors().nth(2).map(Path::to_path_buf))
        .filter(|dir| dir.join("Cargo.lock").exists())
        .unwrap_or_else(|| PathBuf::from("."))
}

/// Returns the directory cargo builds into.
pub fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => root().join(dir),
        None => root().join("target"),
    }
}

/// Tells whether this process has root's effective user id.
pub fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0)
}

/// Tells whether a continuous-integration system runs this.
pub fn is_ci() -> bool {
    std::env::var_os("CI").is_some_and(|value| value == "true")
}

/// The normal user who came here through sudo.
struct Invoker {
    uid: u32,
    gid: u32,
    home: PathBuf,
}

impl Invoker {
    fn path(&self) -> String {
        let path = std::env::var("PATH").unwrap_or_default();
        format!("{}:{path}", self.home.join(".cargo/bin").display())
    }
}

fn invoker() -> Option<Invoker> {
    let number = |name| std::env::var(name).ok()?.parse::<u32>().ok();
    let (uid, gid) = (number("SUDO_UID")?, number("SUDO_GID")?);
    if !is_root() || uid == 0 {
        return None;
    }
    let passwd = std::fs::read_to_string("/etc/passwd").ok()?;
    let home = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>()).find_map(|fields| {
        (fields.get(2)?.parse() == Ok(uid)).then(|| PathBuf::from(fields.get(5).copied().unwrap_or("/")))
    })?;
    Some(Invoker { uid, gid, home })
}

/// Returns cargo in the root of the workspace, never as root on behalf of a normal user.
///
/// # Errors
/// Fails when what root already built cannot be handed back to that user.
pub fn cargo() -> Result<Command> {
    let mut command = match invoker() {
        None => Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())),
        // Root's cargo may be another one, or not readable for the user.
        Some(user) => Command::new(find_in(&user.path(), "cargo").unwrap_or_else(|| "cargo".into())),
    };
    command.current_dir(root());
    // What `cargo run` told this program of itself; build scripts that watch it would run again.
    for (name, _) in std::env::vars_os() {
        let told = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_"];
        if name.to_str().is_some_and(|name| told.iter().any(|prefix| name.starts_with(prefix))) {
            command.env_remove(&name);
        }
    }
    as_user(&mut command)?;
    Ok(command)
}

/// Lets a command run as the user who came here through sudo, where there is one.
///
/// # Errors
/// Fails when what root already built cannot be handed back to that user.
pub fn as_user(command: &mut Command) -> Result<()> {
    let Some(user) = invoker() else { return Ok(()) };
    give_back(&target(), &user)?;
    command.uid(user.uid).gid(user.gid).env("HOME", &user.home).env("PATH", user.path());
    for name in ["CARGO", "CARGO_HOME", "RUSTUP_HOME", "RUSTUP_TOOLCHAIN", "RUSTC"] {
        command.env_remove(name);
    }
    Ok(())
}

/// Hands files that `sudo cargo xtask` made as root to the user who will build.
fn give_back(path: &Path, user: &Invoker) -> Result<()> {
    let Ok(meta) = std::fs::symlink_metadata(path) else { return Ok(()) };
    if meta.uid() != user.uid {
        lchown(path, Some(user.uid), Some(user.gid))
            .with_context(|| format!("cannot give {} back to user {}", path.display(), user.uid))?;
    }
    if meta.is_dir() {
        for entry in std::fs::read_dir(path)? {
            give_back(&entry?.path(), user)?;
        }
    }
    Ok(())
}

/// Finds a program on the search path.
pub fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    find_in(&format!("{path}:/usr/sbin:/sbin:/usr/local/go/bin:/usr/lib/go/bin"), name)
}

fn find_in(path: &str, name: &str) -> Option<PathBuf> {
    path.split(':').map(|dir| Path::new(dir).join(name)).find(|file| file.is_file())
}

/// How to get root's rights for one program.
pub enum Raise {
    /// This process has them already.
    Root,
    /// sudo may ask for them.
    Sudo(PathBuf),
}

/// Returns how to raise a program, or nothing where sudo is missing or could not ask.
pub fn raise() -> Option<Raise> {
    if is_root() {
        return Some(Raise::Root);
    }
    let sudo = find("sudo")?;
    let silent = Command::new(&sudo).args(["-n", "true"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    (std::io::stdin().is_terminal() || silent.is_ok_and(|status| status.success())).then_some(Raise::Sudo(sudo))
}

/// Writes a command as a person would type it.
pub fn line(command: &Command) -> String {
    let quote = |word: &OsStr| {
        let word = word.to_string_lossy();
        let plain = !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || "-_./=:,@+%".contains(c));
        if plain { word.into_owned() } else { format!("'{}'", word.replace('\'', r"'\''")) }
    };
    std::iter::once(command.get_program()).chain(command.get_args()).map(quote).collect::<Vec<_>>().join(" ")
}

/// Runs a command that must succeed, showing it first.
///
/// # Errors
/// Fails when it cannot be started or ends with another code than 0.
pub fn must(command: &mut Command) -> Result<()> {
    let shown = line(command);
    eprintln!("$ {shown}");
    let status = command.status().with_context(|| format!("cannot start `{shown}`"))?;
    if !status.success() {
        bail!("`{shown}` ended with {status}");
    }
    Ok(())
}

/// Returns what a command prints, trimmed, or nothing where it fails.
pub fn output(command: &mut Command) -> Option<String> {
    let output = command.stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Gives what a command prints, trimmed.
///
/// # Errors
/// Fails with all that it says when it does.
#[cfg(feature = "e2e")]
pub fn told(command: &mut Command) -> Result<String> {
    let shown = line(command);
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot start `{shown}`"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned();
        bail!("`{shown}` ended with {}:\n{said}", output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Sets the runner of binaries so that cargo builds as the user and only what it runs is raised.
///
/// # Errors
/// Fails when rustc does not name its host.
pub fn run_raised(command: &mut Command) -> Result<bool> {
    match raise() {
        Some(Raise::Root) if invoker().is_none() => Ok(true),
        Some(Raise::Sudo(sudo)) => {
            let verbose = output(Command::new("rustc").arg("-vV")).context("cannot ask rustc for its host")?;
            let host = verbose.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc names no host")?;
            let name = format!("CARGO_TARGET_{}_RUNNER", host.to_uppercase().replace('-', "_"));
            command.env(name, format!("{} -E", sudo.display()));
            Ok(true)
        }
        _ => Ok(false),
    }
}

/// Builds this program again with the end-to-end proof in it and hands over.
///
/// # Errors
/// Fails when cargo cannot be started.
#[cfg_attr(feature = "e2e", expect(dead_code, reason = "the second stage is this program with the feature on"))]
pub fn with_e2e() -> Result<ExitCode> {
    let mut command = cargo()?;
    command.args(["run", "--quiet", "--package", "telesonde-xtask", "--features", "e2e"]);
    // A directory of its own keeps the two stages from rebuilding each other.
    command.arg("--target-dir").arg(target().join("xtask"));
    command.arg("--").args(std::env::args_os().skip(1));
    let status = command.status().context("cannot start cargo")?;
    Ok(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)))
}
