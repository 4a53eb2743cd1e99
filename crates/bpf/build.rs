//! Compiles every `bpf/*.bpf.c` with clang and lists the objects for the crate to embed: the product is one file.

use std::collections::BTreeSet;
use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

const SETUP: &str = "`cargo xtask setup` installs it (Debian, Ubuntu: apt install clang llvm libbpf-dev; Fedora: dnf install clang llvm libbpf-devel)";

fn main() -> ExitCode {
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            for line in why.lines() {
                println!("cargo::error={line}");
            }
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<(), String> {
    let root = PathBuf::from(variable("CARGO_MANIFEST_DIR")?).join("../..");
    let root = root.canonicalize().map_err(|error| format!("cannot find the workspace: {error}"))?;
    let out = PathBuf::from(variable("OUT_DIR")?);
    let arch = match variable("CARGO_CFG_TARGET_ARCH")?.as_str() {
        "x86_64" => "x86",
        "aarch64" => "arm64",
        other => return Err(format!("the eBPF programs are written for x86_64 and aarch64, not for {other}")),
    };
    println!("cargo::rerun-if-env-changed=CLANG");
    println!("cargo::rerun-if-env-changed=BPF_INCLUDE");
    println!("cargo::rerun-if-changed={}", root.join("bpf").display());

    let mut list = String::from("static OBJECTS: &[(&str, &[u8])] = &[\n");
    for (name, source) in sources(&root.join("bpf"))? {
        let object = out.join(format!("{name}.o"));
        compile(&root, &source, &object, arch)?;
        let _ =
            writeln!(list, "    ({name:?}, aya::include_bytes_aligned!(concat!(env!(\"OUT_DIR\"), \"/{name}.o\"))),");
    }
    list.push_str("];\n");
    fs::write(out.join("objects.rs"), list).map_err(|error| format!("cannot write the list of objects: {error}"))
}

fn variable(name: &str) -> Result<String, String> {
    env::var(name).map_err(|error| format!("{name}: {error}"))
}

/// Gives the programs in the order of their names: stem and path.
fn sources(directory: &Path) -> Result<BTreeSet<(String, PathBuf)>, String> {
    let files = fs::read_dir(directory).map_err(|error| format!("cannot list {}: {error}", directory.display()))?;
    let paths = files.filter_map(|file| file.ok().map(|file| file.path()));
    Ok(paths.filter_map(|path| Some((path.file_name()?.to_str()?.strip_suffix(".bpf.c")?.to_owned(), path))).collect())
}

fn compile(root: &Path, source: &Path, object: &Path, arch: &str) -> Result<(), String> {
    let dependencies = object.with_extension("d");
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".to_owned());
    let relative = source.strip_prefix(root).unwrap_or(source);
    let mut command = Command::new(&clang);
    // Paths relative to the workspace: an object is the same wherever it was built.
    command
        .current_dir(root)
        .args(["-O2", "-g", "-target", "bpf", "-mcpu=v3", "-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter"])
        .arg(format!("-D__TARGET_ARCH_{arch}"))
        .args(["-fdebug-compilation-dir=.", "-MD", "-MF"])
        .arg(&dependencies)
        .args(env::var("BPF_INCLUDE").map(|path| format!("-I{path}")))
        .arg("-c")
        .arg(relative)
        .arg("-o")
        .arg(object);
    let output = command
        .output()
        .map_err(|error| format!("cannot run {clang}, which compiles the eBPF programs: {error}\n{SETUP}"))?;
    if !output.status.success() {
        let log = String::from_utf8_lossy(&output.stderr);
        if log.contains("'bpf/bpf_helpers.h' file not found") {
            return Err(format!("libbpf's headers are missing: {SETUP}"));
        }
        return Err(format!("{} does not compile:\n{log}", relative.display()));
    }
    let warnings = String::from_utf8_lossy(&output.stderr);
    for line in warnings.lines() {
        println!("cargo::warning={line}");
    }
    track(root, &dependencies)?;
    strip(object);
    Ok(())
}

/// Makes cargo build again when a header changes.
fn track(root: &Path, dependencies: &Path) -> Result<(), String> {
    let rule = fs::read_to_string(dependencies).map_err(|error| format!("cannot read the dependencies: {error}"))?;
    let files = rule.split_once(": ").map_or("", |(_, files)| files);
    for file in files.split_whitespace().filter(|&file| file != "\\") {
        println!("cargo::rerun-if-changed={}", root.join(file).display());
    }
    Ok(())
}

/// Drops DWARF where llvm-strip is at hand; BTF stays. Without it the objects are larger and work the same.
fn strip(object: &Path) {
    let _ = Command::new("llvm-strip").arg("-g").arg(object).status();
}
