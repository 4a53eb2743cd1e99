//! The C programs that make the calls, compiled when they are first needed.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;

use super::cgroup::Cgroup;

/// How many programs this run of the tests has compiled.
static MADE: AtomicU32 = AtomicU32::new(0);

/// Makes calls within a cgroup, to the end; gives what the program says it did.
pub fn run(cgroup: &Cgroup, actions: &[&str]) -> Value {
    finish(start(cgroup, actions))
}

/// Begins to make calls within a cgroup.
pub fn start(cgroup: &Cgroup, actions: &[&str]) -> Child {
    let mut command = Command::new(program());
    command.arg(cgroup.directory()).args(actions).stdin(Stdio::null()).stdout(Stdio::piped());
    command.current_dir(env!("CARGO_TARGET_TMPDIR")).spawn().unwrap()
}

/// Makes calls within a cgroup as an executable of another name, to the end.
pub fn run_as(name: &str, cgroup: &Cgroup, actions: &[&str]) -> Value {
    let directory = super::directory("executable");
    let link = directory.join(name);
    std::os::unix::fs::symlink(program(), &link).unwrap();
    let mut command = Command::new(&link);
    command.arg(cgroup.directory()).args(actions).stdin(Stdio::null()).stdout(Stdio::piped());
    let done = finish(command.spawn().unwrap());
    std::fs::remove_dir_all(&directory).unwrap();
    done
}

/// Waits for a program that was started; gives what it says it did.
pub fn finish(child: Child) -> Value {
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "the stimulus ended with {}", output.status);
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Does file I/O in a directory, or on a device, within cgroups; gives what the program says it did.
pub fn files(place: &Path, action: &str, cgroups: &[&Path]) -> Value {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    let program = PROGRAM.get_or_init(|| compile("files.c", &["-O1", "-Wall", "-Werror"], &["clang", "cc"]).unwrap());
    let mut command = Command::new(program);
    command.arg(place).arg(action).args(cgroups).stdin(Stdio::null()).stdout(Stdio::piped());
    finish(command.spawn().unwrap())
}

/// Sends DNS messages within a cgroup, as `tests/stimulus/dns.c` describes; gives what the program says it did.
pub fn dns(cgroup: &Cgroup, actions: &[String]) -> Value {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    let program = PROGRAM.get_or_init(|| compile("dns.c", &["-O1", "-Wall", "-Werror"], &["clang", "cc"]).unwrap());
    let mut command = Command::new(program);
    command.arg(cgroup.directory()).args(actions).stdin(Stdio::null()).stdout(Stdio::piped());
    finish(command.spawn().unwrap())
}

/// How often the 32-bit programs do what they do.
pub const COMPAT_CALLS: u32 = 777;
pub const COMPAT_ROUNDS: u32 = 77;

/// Gives the 32-bit program that calls getppid [`COMPAT_CALLS`] times, or why there is none.
pub fn compat() -> Result<PathBuf, String> {
    compile_compat("compat.c", COMPAT_CALLS)
}

/// Gives the 32-bit program that reads, writes and flushes a new file [`COMPAT_ROUNDS`] times, or why there is none.
pub fn compat_files() -> Result<PathBuf, String> {
    compile_compat("compat_files.c", COMPAT_ROUNDS)
}

fn compile_compat(source: &str, count: u32) -> Result<PathBuf, String> {
    let count = format!("-DCOUNT={count}");
    let flags = ["-m32", "-O1", "-nostdlib", "-static", "-fno-stack-protector", "-fuse-ld=bfd", &count];
    let program = compile(source, &flags, &["clang"])?;
    match Command::new(&program).current_dir(env!("CARGO_TARGET_TMPDIR")).status() {
        Ok(status) if status.success() => Ok(program),
        Ok(status) => Err(format!("a 32-bit program ends with {status}")),
        Err(error) => Err(format!("this kernel runs no 32-bit programs: {error}")),
    }
}

/// Compiles a BPF program of somebody else.
pub fn bpf(source: &str) -> PathBuf {
    compile(source, &["-O2", "-g", "-target", "bpf", "-mcpu=v3", "-c"], &["clang"]).unwrap()
}

fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| compile("stimulus.c", &["-O1", "-Wall", "-Werror", "-pthread"], &["clang", "cc"]).unwrap())
}

/// Gives the program of `super::tasks`.
pub(super) fn tasks() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| compile("tasks.c", &["-O1", "-Wall", "-Werror", "-pthread"], &["clang", "cc"]).unwrap())
}

pub(super) fn compile(source: &str, flags: &[&str], compilers: &[&str]) -> Result<PathBuf, String> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stimulus").join(source);
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let output = directory.join(source.file_stem().unwrap());
    // Made beside its place under a name of its own, so that no other test or run of the tests ever starts half a program, or another one.
    let made = directory.join(format!("stimulus-{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed)));
    let mut reasons = Vec::new();
    for compiler in compilers {
        match Command::new(compiler).args(flags).arg(&source).arg("-o").arg(&made).output() {
            Ok(run) if run.status.success() => {
                std::fs::rename(&made, &output).map_err(|error| error.to_string())?;
                return Ok(output);
            }
            Ok(run) => reasons.push(format!("{compiler}: {}", String::from_utf8_lossy(&run.stderr))),
            Err(error) => reasons.push(format!("{compiler}: {error}")),
        }
    }
    // A guest that tests another kernel gets the programs compiled.
    if output.is_file() && compilers.iter().all(|compiler| is_missing(compiler)) {
        return Ok(output);
    }
    Err(format!("cannot compile {}: {}", source.display(), reasons.join("; ")))
}

fn is_missing(compiler: &str) -> bool {
    Command::new(compiler).arg("--version").output().is_err()
}

/// It also leaves the programs where a guest that tests another kernel finds them.
#[test]
fn all_compile() {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stimulus");
    // Where there is no 32-bit linker, the tests that need these programs say so.
    let _ = (compat(), compat_files());
    // A guest has no sources.
    for entry in std::fs::read_dir(sources).into_iter().flatten().flatten() {
        let name = entry.file_name().into_string().unwrap();
        if name.ends_with(".bpf.c") {
            bpf(&name);
        } else if !name.starts_with("compat") && entry.path().extension().is_some_and(|kind| kind == "c") {
            compile(&name, &["-O1", "-Wall", "-Werror", "-pthread"], &["clang", "cc"]).unwrap();
        }
    }
}
