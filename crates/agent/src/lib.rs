//! The Telesonde agent: the place where the crates meet.
//!
//! [`main`] is the whole program. A program of your own may call it with further collectors: see
//! `examples/custom_collector.rs`.

mod admin;
mod check;
mod cli;
mod documents;
mod elections;
mod events;
mod exit;
mod files;
mod identity;
mod lock;
mod logging;
mod memory;
mod outlets;
mod privileges;
pub mod profile;
mod reload;
mod run;
mod sandbox;
mod shutdown;
mod summary;
mod table;
mod wiring;

use std::process::ExitCode;
use std::sync::Arc;

use bpf::probe::Facts;
use clap::{CommandFactory, Parser};
use runtime::{Bus, Descriptor, Own, Platform};

use cli::{Cli, Command, ConfigCommand, DebugCommand};
use exit::{Exit, Failure};
use sandbox::Sandbox;

/// Runs the command line of the process with the built-in collectors and `extra` ones; gives the exit code.
pub fn main(extra: &[&'static Descriptor]) -> ExitCode {
    bpf::memory::share_one_arena();
    privileges::raise();
    privileges::gain_no_more();
    privileges::raise_open_files();
    let cli = Cli::parse();
    let registry: Vec<&'static Descriptor> = collectors::ALL.iter().chain(extra).copied().collect();
    match dispatch(&cli, &registry) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            eprintln!("telesonde: {failure}");
            failure.exit.into()
        }
    }
}

fn dispatch(cli: &Cli, registry: &[&'static Descriptor]) -> Result<Exit, Failure> {
    match &cli.command {
        Command::Run { quiet } => {
            let sources = wiring::sources(cli);
            let loaded = wiring::load(&sources, registry)?;
            let (level, format) = wiring::log(&loaded.config);
            logging::start(level, format);
            // Later it could not be made; taking the lock says what is in the way. The profiler keeps its samples there.
            let directory = lock::directory(&loaded.config.admin.socket);
            let _ = std::fs::create_dir_all(directory);
            let _ = tempfile::env::override_temp_dir(directory);
            let host = confine(&loaded, registry)?;
            tokio_runtime()?.block_on(run::run(registry, sources, loaded, host, *quiet))?;
        }
        Command::Check { format } => {
            let loaded = wiring::load(&wiring::sources(cli), registry)?;
            let (facts, sandbox) = confine(&loaded, registry)?;
            let runtime = tokio_runtime()?;
            let _inside = runtime.enter();
            if facts.cgroups.mount.is_none() {
                let btf_path = wiring::given(&loaded.config.integrations.ebpf.btf_path);
                let (report, exit) = check::without_cgroups(&facts, btf_path.as_deref(), *format);
                print!("{report}");
                return Ok(exit);
            }
            let (platform, workloads) = platform(&loaded, registry, facts)?;
            let known = runtime.block_on(wiring::identify(&loaded.config))?;
            let parties = (&*workloads, known.as_slice(), &sandbox);
            let (report, exit) = check::check(registry, &loaded, &platform, parties, *format);
            print!("{report}");
            return Ok(exit);
        }
        Command::Reload { format } => {
            // The file may be invalid, which is for the agent to say: the socket's own key is enough.
            let (said, exit) = admin::reload(&wiring::socket(cli, registry), *format)?;
            print!("{said}");
            return Ok(exit);
        }
        Command::Prepare { user } => wiring::prepare(&wiring::load(&wiring::sources(cli), registry)?.config, *user)?,
        Command::List { format } => print!("{}", documents::list(registry, *format)),
        Command::Metrics { cardinality: false, format } => print!("{}", documents::metrics(registry, *format)),
        Command::Metrics { cardinality: true, format } => {
            let loaded = wiring::load(&wiring::sources(cli), registry)?;
            print!("{}", admin::show_cardinality(&loaded.config.admin.socket, *format)?);
        }
        Command::Debug(DebugCommand::Maps { map }) => {
            let loaded = wiring::load(&wiring::sources(cli), registry)?;
            print!("{}", admin::show_maps(&loaded.config.admin.socket, map.as_deref())?);
        }
        Command::Debug(DebugCommand::Programs) => {
            let loaded = wiring::load(&wiring::sources(cli), registry)?;
            print!("{}", admin::show_programs(&loaded.config.admin.socket)?);
        }
        Command::Debug(DebugCommand::Profile { seconds, output }) => {
            let loaded = wiring::load(&wiring::sources(cli), registry)?;
            let profile = admin::take_profile(&loaded.config.admin.socket, *seconds)?;
            std::fs::write(output, profile).map_err(|error| {
                Failure::new(
                    Exit::Failure,
                    format!("cannot write {}: {error}; give another --output", output.display()),
                )
            })?;
        }
        Command::Config(command) => configuration(cli, registry, command)?,
        Command::Completions { shell } => {
            clap_complete::generate(*shell, &mut Cli::command(), "telesonde", &mut std::io::stdout());
        }
        Command::Gen { out } => {
            let failed = |error| Failure::new(Exit::Failure, format!("{error:#}"));
            documents::generate(registry, out).map_err(failed)?;
        }
    }
    Ok(Exit::Success)
}

fn configuration(cli: &Cli, registry: &[&'static Descriptor], command: &ConfigCommand) -> Result<(), Failure> {
    match command {
        ConfigCommand::Schema => print!("{}", documents::pretty(&config::schema(&wiring::sections(registry)))),
        ConfigCommand::Print => print!("{}", wiring::load(&wiring::sources(cli), registry)?.print()),
        ConfigCommand::Validate => {
            for warning in wiring::load(&wiring::sources(cli), registry)?.warnings {
                println!("warning: {warning}");
            }
            println!("the configuration is valid");
        }
    }
    Ok(())
}

fn tokio_runtime() -> Result<tokio::runtime::Runtime, Failure> {
    // Two are enough: collectors and the gather have threads of their own.
    let built = tokio::runtime::Builder::new_multi_thread().worker_threads(2).thread_name("tokio").enable_all().build();
    built.map_err(|error| Failure::new(Exit::Failure, format!("cannot start the async runtime: {error}")))
}

/// Looks at the host; then gives up what is not needed, and confines the process, as long as it has one thread.
fn confine(loaded: &config::Loaded, registry: &[&'static Descriptor]) -> Result<(Facts, Sandbox), Failure> {
    let facts = wiring::facts(&loaded.config);
    privileges::keep_declared(registry, &facts, loaded.config.integrations.ebpf.events.buffer);
    Ok((facts, Sandbox::enter(&loaded.config)?))
}

/// Gives the platform that `check` tries collectors on. Without a readable cgroup hierarchy nothing can be tried.
fn platform(
    loaded: &config::Loaded,
    registry: &[&'static Descriptor],
    facts: Facts,
) -> Result<(Arc<Platform>, Arc<enrich::Workloads>), Failure> {
    let executables = wiring::executables(loaded)?;
    let workloads = wiring::workloads(&loaded.config, &facts, executables.as_ref())?;
    let learned = Arc::<enrich::Learned>::default();
    let peers = wiring::peers(&loaded.config, &workloads, &learned)?;
    let resolver = Arc::clone(&workloads) as Arc<dyn model::Resolver>;
    let bus = Arc::new(Bus::new(resolver, events::count(&loaded.config), loaded.config.exporters.events.queue));
    let meters = Own::new().provider();
    // Whoever only tries is not elected, and takes nothing over.
    let elections = wiring::elections(&loaded.config, None)?;
    let parties = (&workloads, &peers, learned, elections);
    let platform = wiring::platform(loaded, registry, facts, parties, (executables, None), meters, bus);
    Ok((platform, workloads))
}
