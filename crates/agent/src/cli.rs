//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

/// Turns what the Linux kernel knows into telemetry.
#[derive(Debug, Parser)]
#[command(name = "telesonde", version, about, propagate_version = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Read this configuration file instead of /etc/telesonde/telesonde.yaml; may be given several times.
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Vec<PathBuf>,
    /// Set one key, such as `exporters.prometheus.listen=0.0.0.0:9464`; may be given several times.
    #[arg(long, global = true, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Attach the collectors and serve their metrics until told to stop.
    Run {
        /// Do not show the live summary.
        #[arg(long)]
        quiet: bool,
    },
    /// Let the running agent read its configuration again and apply what differs.
    Reload {
        /// How to print what became of it.
        #[arg(long, value_enum, default_value_t = Format::Table)]
        format: Format,
    },
    /// Examine this host: what works, what is missing, and how to get it.
    Check {
        /// How to print the findings.
        #[arg(long, value_enum, default_value_t = Format::Table)]
        format: Format,
    },
    /// Make, as root, what an agent that runs as another user cannot: the directory of `pin_path`.
    Prepare {
        /// The number of the agent's user.
        #[arg(long)]
        user: u32,
    },
    /// List the collectors and what they need.
    List {
        /// How to print the list.
        #[arg(long, value_enum, default_value_t = Format::Table)]
        format: Format,
    },
    /// List the metrics, or show the largest ones of the running agent.
    Metrics {
        /// Ask the running agent which metrics and labels have the most series.
        #[arg(long)]
        cardinality: bool,
        /// How to print the list.
        #[arg(long, value_enum, default_value_t = Format::Table)]
        format: Format,
    },
    /// Look into the running agent.
    #[command(subcommand)]
    Debug(DebugCommand),
    /// Work with the configuration.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print a completion script for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Write the generated documents and the reference configuration.
    #[command(hide = true)]
    Gen {
        /// The directory to write into.
        #[arg(long)]
        out: PathBuf,
    },
}

/// What to look at.
#[derive(Debug, Subcommand)]
pub enum DebugCommand {
    /// List the maps in the kernel, or print the entries of one.
    Maps {
        /// The collector and the map, such as `connection/connections`.
        #[arg(value_name = "COLLECTOR/MAP")]
        map: Option<String>,
    },
    /// List the programs in the kernel: their hashes, how many instructions the verifier walked through, and the runs that
    /// the kernel skipped.
    Programs,
    /// Write a CPU profile of the agent itself, as pprof reads it.
    Profile {
        /// For how long, up to 60.
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=60))]
        seconds: u64,
        /// The file to write.
        #[arg(long, short, value_name = "FILE")]
        output: PathBuf,
    },
}

/// What to do with the configuration.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print the effective configuration with the origin of every value.
    Print,
    /// Say whether the configuration is valid.
    Validate,
    /// Print a JSON Schema for editors.
    Schema,
}

/// For whom to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Table,
    /// For machines.
    Json,
}
