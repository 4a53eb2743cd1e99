//! Developer commands: `cargo xtask run | test | gen | chart | lint | bench | soak | e2e | kernel | tools | setup`.
//!
//! Everything a machine lacks is installed by the command that needs it; what only a person can do is printed as the exact command, with exit code 3.

mod arch;
mod bench;
mod chart;
#[cfg(feature = "e2e")]
mod e2e;
mod first_scrape;
mod generate;
mod image;
mod kernel;
mod links;
mod lint;
mod markdown;
mod package;
mod process;
mod release;
mod run;
#[cfg(feature = "e2e")]
mod sbom;
mod setup;
mod soak;
mod test;
mod tools;
mod tracer;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Developer commands of Telesonde.
#[derive(Parser)]
#[command(name = "cargo xtask", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// What to prove, and how.
#[derive(clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
pub struct Proof {
    /// Against what.
    #[arg(value_enum, default_value_t = Against::Receivers)]
    against: Against,
    /// Keep the working directory (configuration, logs, received data).
    #[arg(long)]
    keep: bool,
    /// Use the release binary that is there.
    #[arg(long)]
    no_build: bool,
    /// Run only the checks of these groups: compare, prometheus, names, lint, outage, shutdown; with kubernetes: manifests, pods, restart, expiry, denial,
    /// token, requests, series, account; with runtimes: docker, containerd, podman, rootless, check; with
    /// hubble: node, relay; with dashboards: dashboards, grafana, alerts, allowed; with docs: readme,
    /// quickstart, notes, compose; with package: deb, rpm; with dockerfile: amd64, arm64.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Skip what needs an API server, or Cilium's servers, where none have been built yet.
    #[arg(long)]
    cached: bool,
    /// Write down what the API server says, for the fake one of the tests, instead of proving anything.
    #[arg(long)]
    record: bool,
}

/// What the agent is proved against.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Against {
    /// A real OpenTelemetry Collector and a real Prometheus.
    Receivers,
    /// A real API server of Kubernetes beside them.
    Kubernetes,
    /// Real container runtimes: Docker, containerd, Podman.
    Runtimes,
    /// Containers that are what the chart's pods would be.
    Containers,
    /// The image as Podman builds it by the Dockerfile, for two processors.
    Dockerfile,
    /// Cilium's own Hubble and Hubble Relay, with synthetic flows.
    Hubble,
    /// Every query of the dashboards, and every metric of the alerts, in a real Prometheus.
    Dashboards,
    /// Every command of the README, the quick start and the chart's notes; what the compose file starts.
    Docs,
    /// The packages: installed, started as the unit says, asked, and purged.
    Package,
}

#[derive(Subcommand)]
enum Command {
    /// Install what this machine lacks to build Telesonde.
    Setup,
    /// Build the release binary.
    Build,
    /// Build the agent and run it with what it needs from the kernel.
    Run {
        /// Arguments for `telesonde run`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Run all tests, those on the live kernel as root.
    Test {
        /// Run them while bpftrace sits on every system call and every switch.
        #[arg(long)]
        tracer: bool,
        /// Arguments for `cargo test`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Write the generated documents and the reference configuration.
    Gen {
        /// Only compare; fail where a committed file is out of date.
        #[arg(long)]
        check: bool,
        /// Ask the release binary that is there.
        #[arg(long)]
        no_build: bool,
    },
    /// Check the Helm chart: lint, golden output of every value set, what it must refuse, and the agent's configuration in it.
    Chart {
        /// Write the golden output instead of comparing with it.
        #[arg(long)]
        write: bool,
        /// Ask the release binary that is there.
        #[arg(long)]
        no_build: bool,
    },
    /// Check formatting, lints, links, licences and dependencies.
    Lint,
    /// Measure on this machine and write the result into docs/performance.md.
    Bench {
        /// Which bench.
        name: bench::Name,
    },
    /// Let the agent count a load that comes and goes for minutes, and see that it does not grow and that no sum is wrong.
    Soak {
        #[command(flatten)]
        options: soak::Options,
    },
    /// Prove the agent against a real OpenTelemetry Collector and a real Prometheus.
    E2e {
        #[command(flatten)]
        options: Proof,
    },
    /// Make the container image as an OCI layout, without a daemon, and check its size and that the agent runs in it.
    Image {
        #[command(flatten)]
        options: image::Options,
    },
    /// Make a .deb and an .rpm with the binary, its unit, configuration, manual and completions.
    Package {
        #[command(flatten)]
        options: package::Options,
    },
    /// Make a release: the version everywhere, all that users fetch with checksums in target/release-VERSION, a commit and a tag.
    Release {
        #[command(flatten)]
        options: release::Options,
    },
    /// Run the live-kernel suite on other kernels, booted in QEMU.
    Kernel {
        #[command(flatten)]
        options: kernel::Options,
    },
    /// Write a `CycloneDX` bill of materials of what is linked into the binary.
    Sbom {
        /// Where to; target/telesonde.cdx.json by default.
        #[arg(long)]
        out: Option<std::path::PathBuf>,
    },
    /// Install the peers of tests (Collector, Prometheus, Helm, cargo-deny) into target/tools.
    Tools {
        /// Which; all by default.
        names: Vec<tools::Tool>,
    },
    /// Time the start of the built agent until its first scrape.
    #[command(hide = true)]
    FirstScrape,
    /// Make an exact number of getppid calls in a cgroup of its own.
    #[cfg(feature = "e2e")]
    #[command(hide = true)]
    Stimulus(e2e::stimulus::Args),
    /// Do some of everything that dashboards show, in cgroups that are too small for it.
    #[cfg(feature = "e2e")]
    #[command(hide = true)]
    Load(e2e::load::Args),
}

fn main() -> ExitCode {
    match dispatch(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::from(if error.is::<process::ByHand>() { 3 } else { 1 })
        }
    }
}

fn dispatch(command: Command) -> Result<ExitCode> {
    match command {
        Command::Setup => setup::build().map(|()| ExitCode::SUCCESS),
        Command::Build => run::build().map(|binary| {
            println!("{}", binary.display());
            ExitCode::SUCCESS
        }),
        Command::Run { args } => run::run(&args),
        Command::Test { tracer, args } => test::run(tracer, &args),
        Command::Gen { check, no_build } => generate::run(check, no_build).map(|()| ExitCode::SUCCESS),
        Command::Chart { write, no_build } => chart::run(write, no_build),
        Command::Lint => lint::run(),
        Command::Bench { name } => bench::run(name).map(|()| ExitCode::SUCCESS),
        Command::Soak { options } => soak::run(&options).map(|()| ExitCode::SUCCESS),
        #[cfg(feature = "e2e")]
        Command::E2e { options } => e2e::run(&options),
        #[cfg(not(feature = "e2e"))]
        Command::E2e { .. } => process::with_e2e(),
        Command::Image { options } => image::run(&options),
        Command::Package { options } => package::run(&options),
        Command::Release { options } => release::run(&options),
        Command::Kernel { options } => kernel::run(&options),
        #[cfg(feature = "e2e")]
        Command::Sbom { out } => sbom::run(out.as_deref()).map(|()| ExitCode::SUCCESS),
        #[cfg(not(feature = "e2e"))]
        Command::Sbom { .. } => process::with_e2e(),
        Command::Tools { names } => tools::run(&names),
        Command::FirstScrape => first_scrape::run().map(|()| ExitCode::SUCCESS),
        #[cfg(feature = "e2e")]
        Command::Stimulus(args) => e2e::stimulus::run(&args).map(|()| ExitCode::SUCCESS),
        #[cfg(feature = "e2e")]
        Command::Load(args) => e2e::load::run(&args).map(|()| ExitCode::SUCCESS),
    }
}
