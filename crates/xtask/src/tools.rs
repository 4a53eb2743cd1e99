//! `cargo xtask tools`: the peers that the proof needs, built from their released sources and kept by version.
//!
//! They come through the package registries' ordinary clients; nothing of them enters this repository.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::{process, setup};

/// A third-party program.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Tool {
    /// The OpenTelemetry Collector with its OTLP receiver and its file and Prometheus exporters.
    Otelcol,
    /// Prometheus, and promtool beside it.
    Prometheus,
    /// Helm, which renders the chart.
    Helm,
    /// The checker of licences, sources and advisories.
    CargoDeny,
    /// What makes a package for Debian.
    CargoDeb,
    /// What makes a package for RPM.
    CargoGenerateRpm,
    /// The definitions of what the chart makes for other projects' operators: Prometheus Operator, `OpenShift`, Argo CD.
    CustomResources,
    /// The API server of Kubernetes, and etcd beside it; not among the default ones, for it takes long to build.
    KubeApiserver,
    /// Cilium's Hubble and Hubble Relay of the newest release, with synthetic flows; not among the default ones either.
    CiliumHubble,
    /// The same of an old release.
    CiliumHubbleOld,
}

/// What a name stands for when none is given.
const DEFAULT: [Tool; 7] = [
    Tool::Otelcol,
    Tool::Prometheus,
    Tool::Helm,
    Tool::CustomResources,
    Tool::CargoDeny,
    Tool::CargoDeb,
    Tool::CargoGenerateRpm,
];

const PROMETHEUS: &str = "v0.315.0";
const HELM: &str = "v3.22.0";
const CARGO_DENY: &str = "0.20.2";
const CARGO_DEB: &str = "3.8.0";
const CARGO_GENERATE_RPM: &str = "0.21.1";
/// Raised when a definition below is.
const CUSTOM_RESOURCES: &str = "1";
/// A module, its version, and the files with definitions in it.
const DEFINITIONS: [(&str, &str, &[&str]); 3] = [
    (
        "github.com/prometheus-operator/prometheus-operator",
        "v0.85.0",
        &[
            "example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml",
            "example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml",
            "example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml",
        ],
    ),
    (
        "github.com/openshift/api",
        "v0.0.0-20250710004639-926605d3338b",
        &["payload-manifests/crds/0000_03_config-operator_01_securitycontextconstraints.crd.yaml"],
    ),
    ("github.com/argoproj/argo-cd/v3", "v3.2.3", &["manifests/crds/application-crd.yaml"]),
];
/// The newest version of which every module is to be had from the module proxy.
const KUBERNETES: &str = "v1.36.3";
/// The newest release of Cilium of which every module is to be had from the module proxy, and the oldest that is supported.
const CILIUM: &str = "v1.20.1";
const CILIUM_OLD: &str = "v1.14.19";
const ETCD: &str = "v3.6.16";

/// The Collector's modules. Its parts are released separately: this is the newest set of which every module is to be had from the module proxy.
const BUILDER: &str = "go.opentelemetry.io/collector/cmd/builder@v0.162.0";
const OTELCOL: &str = "v0.162.0";
const OTELCOL_MODULES: [(&str, &str); 5] = [
    ("go.opentelemetry.io/collector/otelcol", OTELCOL),
    ("go.opentelemetry.io/collector/receiver/otlpreceiver", OTELCOL),
    ("go.opentelemetry.io/collector/confmap/provider/fileprovider", "v1.68.0"),
    ("github.com/open-telemetry/opentelemetry-collector-contrib/exporter/fileexporter", "v0.162.0"),
    ("github.com/open-telemetry/opentelemetry-collector-contrib/exporter/prometheusexporter", "v0.155.0"),
];

/// Installs the named tools, or those that build in minutes, and prints where they are.
///
/// # Errors
/// Fails when one cannot be built.
pub fn run(names: &[Tool]) -> Result<ExitCode> {
    let names = if names.is_empty() { &DEFAULT } else { names };
    for &tool in names {
        println!("{}", install(tool)?.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// Installs a tool where it is not yet and returns the path of its program.
///
/// # Errors
/// Fails when it cannot be built.
pub fn install(tool: Tool) -> Result<PathBuf> {
    let (dir, program) = place(tool);
    if program.is_file() {
        return Ok(program);
    }
    let (name, version) = named(tool);
    fs::create_dir_all(dir.join("bin")).with_context(|| format!("cannot make {}", dir.display()))?;
    eprintln!("Building {name} {version} into {} (once)", dir.display());
    match tool {
        Tool::Otelcol => otelcol(&dir, &program)?,
        Tool::Prometheus => programs(&dir, "github.com/prometheus/prometheus", version, &["promtool", "prometheus"])?,
        Tool::Helm => programs(&dir, "helm.sh/helm/v3", version, &["helm"])?,
        Tool::CustomResources => definitions(&dir, &program)?,
        Tool::CargoDeny | Tool::CargoDeb | Tool::CargoGenerateRpm => {
            let mut command = process::cargo()?;
            command.args(["install", "--quiet", "--locked", "--version", version, "--root"]).arg(&dir).arg(name);
            process::must(&mut command)?;
        }
        Tool::KubeApiserver => kubernetes(&dir)?,
        Tool::CiliumHubble => cilium(&dir, &program, version, "")?,
        Tool::CiliumHubbleOld => cilium(&dir, &program, version, "v1_14")?,
    }
    if !program.is_file() {
        bail!("{name} was built but {} is not there", program.display());
    }
    Ok(program)
}

fn named(tool: Tool) -> (&'static str, &'static str) {
    match tool {
        Tool::Otelcol => ("otelcol", OTELCOL),
        Tool::Prometheus => ("prometheus", PROMETHEUS),
        Tool::Helm => ("helm", HELM),
        Tool::CustomResources => ("custom-resources", CUSTOM_RESOURCES),
        Tool::CargoDeny => ("cargo-deny", CARGO_DENY),
        Tool::CargoDeb => ("cargo-deb", CARGO_DEB),
        Tool::CargoGenerateRpm => ("cargo-generate-rpm", CARGO_GENERATE_RPM),
        Tool::KubeApiserver => ("kube-apiserver", KUBERNETES),
        Tool::CiliumHubble => ("cilium-hubble", CILIUM),
        Tool::CiliumHubbleOld => ("cilium-hubble", CILIUM_OLD),
    }
}

/// Returns the directory of a tool and its program therein.
fn place(tool: Tool) -> (PathBuf, PathBuf) {
    let (name, version) = named(tool);
    let dir = home().join(format!("{name}-{}", version.trim_start_matches('v')));
    let program = dir.join("bin").join(name);
    (dir, program)
}

/// Tells whether a tool is installed already.
#[cfg(feature = "e2e")]
pub fn installed(tool: Tool) -> bool {
    place(tool).1.is_file()
}

/// Returns where tools are kept: `TELESONDE_TOOLS`, which outlives a clone, or `target/tools`.
pub fn home() -> PathBuf {
    std::env::var_os("TELESONDE_TOOLS").map_or_else(|| process::target().join("tools"), PathBuf::from)
}

fn go(dir: &Path) -> Result<Command> {
    setup::go()?;
    let mut command = Command::new(process::find("go").context("go is not on the path")?);
    command.current_dir(dir).env("GOFLAGS", "-mod=mod").env("GOWORK", "off").env("GO111MODULE", "on");
    process::as_user(&mut command)?;
    Ok(command)
}

/// Generates the Collector's main program with the Collector's own builder and compiles it.
fn otelcol(dir: &Path, program: &Path) -> Result<()> {
    process::must(go(dir)?.env("GOBIN", dir.join("bin")).args(["install", BUILDER]))?;
    let modules = |part: &str| {
        let all = OTELCOL_MODULES.iter().filter(|(module, _)| module.contains(part));
        all.map(|(module, version)| format!("  - gomod: {module} {version}\n")).collect::<Vec<_>>().concat()
    };
    let source = dir.join("source");
    let manifest = format!(
        "dist: {{name: otelcol, output_path: {}, version: {}}}\nconf_resolver: {{default_uri_scheme: file}}\nreceivers:\n{}exporters:\n{}providers:\n{}",
        source.display(),
        OTELCOL.trim_start_matches('v'),
        modules("/receiver/"),
        modules("/exporter/"),
        modules("/provider/"),
    );
    fs::write(dir.join("builder.yaml"), manifest)?;
    let mut builder = Command::new(dir.join("bin/builder"));
    builder.current_dir(dir).args(["--skip-get-modules", "--skip-compilation", "--config", "builder.yaml"]);
    process::must(&mut builder)?;
    let requires = OTELCOL_MODULES.map(|(module, version)| format!("require {module} {version}\n")).concat();
    fs::write(source.join("go.mod"), format!("module otelcol\n\ngo 1.26\n\n{requires}"))?;
    process::must(go(&source)?.args(["build", "-trimpath", "-ldflags=-s -w", "-o"]).arg(program).arg("."))
}

/// Compiles programs of a module's `cmd` folder.
fn programs(dir: &Path, module: &str, version: &str, names: &[&str]) -> Result<()> {
    let source = dir.join("source");
    fs::create_dir_all(&source)?;
    fs::write(source.join("go.mod"), format!("module tools\n\ngo 1.26\n\nrequire {module} {version}\n"))?;
    for name in names {
        let package = format!("{module}/cmd/{name}");
        let output = dir.join("bin").join(name);
        process::must(go(&source)?.args(["build", "-trimpath", "-ldflags=-s -w", "-o"]).arg(output).arg(package))?;
    }
    Ok(())
}

/// Takes definitions out of released modules, whose code nobody needs, into one file.
fn definitions(dir: &Path, file: &Path) -> Result<()> {
    let modules = dir.join("modules");
    let mut all = String::new();
    for (module, version, files) in DEFINITIONS {
        let released = format!("{module}@{version}");
        let mut download = go(dir)?;
        download.env("GOFLAGS", "-modcacherw").env("GOMODCACHE", &modules);
        process::must(download.args(["mod", "download", &released]))?;
        for file in files {
            let path = modules.join(&released).join(file);
            let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            writeln!(all, "---\n{}", text.trim_start_matches("---\n").trim_end())?;
        }
    }
    fs::write(file, all).with_context(|| format!("cannot write {}", file.display()))?;
    fs::remove_dir_all(&modules).with_context(|| format!("cannot remove {}", modules.display()))
}

/// The main module of Kubernetes takes its parts from its own source tree and so requires them without a version;
/// each is also a released module, whose version is that of Kubernetes with a leading 0.
fn kubernetes(dir: &Path) -> Result<()> {
    let source = dir.join("source");
    fs::create_dir_all(&source)?;
    let module = "k8s.io/kubernetes";
    let manifest = source.join("go.mod");
    let etcd = "go.etcd.io/etcd/server/v3";
    let requires = format!("module tools\n\ngo 1.26\n\nrequire {module} {KUBERNETES}\n\nrequire {etcd} {ETCD}\n");
    fs::write(&manifest, "module tools\n\ngo 1.26\n")?;
    let mut list = go(&source)?;
    list.args(["list", "-m", "-f", "{{.GoMod}}", &format!("{module}@{KUBERNETES}")]);
    let listed = process::output(&mut list).with_context(|| format!("cannot get {module} {KUBERNETES}"))?;
    let released = fs::read_to_string(&listed).with_context(|| format!("cannot read {listed}"))?;
    let version = KUBERNETES.replacen("v1.", "v0.", 1);
    let parts = released.lines().filter_map(|line| line.trim().strip_suffix(" v0.0.0"));
    let replaces = parts.map(|part| format!("replace {part} => {part} {version}\n")).collect::<Vec<_>>().concat();
    fs::write(&manifest, format!("{requires}\n{replaces}"))?;
    let flags = format!("-ldflags=-s -w -X k8s.io/component-base/version.gitVersion={KUBERNETES}");
    let server = format!("{module}/cmd/kube-apiserver");
    for (program, package) in [("etcd", etcd), ("kube-apiserver", &server)] {
        let output = dir.join("bin").join(program);
        process::must(go(&source)?.args(["build", "-trimpath", &flags, "-o"]).arg(output).arg(package))?;
    }
    Ok(())
}

/// Compiles the program of `tests/cilium` with a release of Cilium. Its modules and what is compiled of them take
/// gigabytes, which nobody needs afterwards.
fn cilium(dir: &Path, program: &Path, version: &str, tags: &str) -> Result<()> {
    let (source, modules, cache) = (dir.join("source"), dir.join("modules"), dir.join("cache"));
    fs::create_dir_all(&source)?;
    for entry in fs::read_dir(process::root().join("tests/cilium"))? {
        let path = entry?.path();
        fs::copy(&path, source.join(path.file_name().unwrap_or_default()))?;
    }
    let module = "github.com/cilium/cilium";
    fs::write(source.join("go.mod"), format!("module hubble\n\ngo 1.26\n\nrequire {module} {version}\n"))?;
    let mut build = go(&source)?;
    // One package at a time: some need much memory.
    build.env("GOFLAGS", "-mod=mod -modcacherw -p=1").env("GOMODCACHE", &modules).env("GOCACHE", &cache);
    process::must(build.args(["build", "-trimpath", "-ldflags=-s -w", "-tags", tags, "-o"]).arg(program).arg("."))?;
    for used in [modules, cache] {
        fs::remove_dir_all(&used).with_context(|| format!("cannot remove {}", used.display()))?;
    }
    Ok(())
}
