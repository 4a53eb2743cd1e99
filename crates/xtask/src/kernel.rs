//! `cargo xtask kernel`: the live-kernel suite on Debian's kernels, each booted in QEMU's software emulation.

mod guest;
mod initramfs;
pub mod packages;
mod programs;
mod table;
pub mod verifier;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::process::{Command, ExitCode};
use std::sync::Mutex;
use std::thread;

use anyhow::{Context, Result};
use clap::ValueEnum;

use initramfs::Image;
use packages::Kernel;
use programs::Programs;

use crate::arch::Arch;
use crate::{process, setup, tools};

/// What a change must pass on each kernel: of each row of the table tests that compare what was counted with what was
/// done and are quick in an emulated machine, with the one that loads all programs at once.
const QUICK: [&str; 19] = [
    "calls_and_errors_are_counted_exactly_in_every_mode",
    "kernel::block::direct_writes_belong_to_who_wrote",
    "kernel::cgroup::memory_is_what_the_files_say",
    "kernel::connection::datagrams_count_once_from_whom_to_whom",
    "kernel::connection::streams_count_what_their_sockets_sent",
    "kernel::counts::scrape_and_export_say_what_was_done",
    "kernel::dns::many_questions_on_one_socket_are_answered_out_of_order",
    "kernel::file_io::every_call_counts_on_ext4_and_on_tmpfs",
    "kernel::filter::only_containers_of_the_filter_are_seen",
    "kernel::hooks::at_most_two_programs_sit_on_a_hook",
    "kernel::life::nothing_stays_attached",
    "kernel::limits::the_plan_knows_every_map",
    "kernel::memory::fresh_pages_are_minor_faults_and_allocations",
    "kernel::network::datagrams_are_counted_at_both_ends",
    "kernel::network::datagrams_to_a_closed_port_are_dropped_for_one_reason",
    "kernel::process::every_program_and_every_end_is_reported_once",
    "kernel::scheduler::time_switches_and_waits_are_the_kernels_own",
    "kernel::tcp::causes::failed_connects_are_counted_by_their_cause",
    "kernel::tcp::connections_are_counted_from_their_beginning_to_their_end",
];

/// A kernel that Debian ships.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Release {
    /// Debian 11.
    #[value(name = "5.10")]
    V5_10,
    /// Debian 12.
    #[value(name = "6.1")]
    V6_1,
    /// Debian 13.
    #[value(name = "6.12")]
    V6_12,
    /// Debian unstable.
    #[value(name = "newest")]
    Newest,
}

/// How the guest mounts its cgroups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Cgroups {
    /// Version 2 alone.
    V2,
    /// Version 2 without controllers, and the memory and block controllers of version 1 beside it.
    Hybrid,
    /// Version 1 alone.
    V1,
}

/// What to boot and what to run there.
#[derive(clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub struct Options {
    /// Which kernels.
    #[arg(long = "kernel", value_delimiter = ',', default_values = ["5.10", "6.1", "6.12"])]
    releases: Vec<Release>,
    /// For which processor; kernels of aarch64 get programs that are cross-compiled.
    #[arg(long, default_value = "x86_64")]
    arch: Arch,
    /// How the guest mounts its cgroups.
    #[arg(long, default_value = "v2")]
    cgroups: Cgroups,
    /// Boot with lockdown=confidentiality.
    #[arg(long)]
    lockdown: bool,
    /// The guest's CPUs. With one, its clock does not depend on this machine's load.
    #[arg(long, default_value_t = 1)]
    cpus: u32,
    /// Only the quick tests, at least one of each collector.
    #[arg(long, conflicts_with = "args")]
    quick: bool,
    /// How many guests run side by side; as many as this machine has processors unless said.
    #[arg(long)]
    jobs: Option<usize>,
    /// Run nothing: fetch the kernels and what boots them.
    #[arg(long, conflicts_with_all = ["args", "quick"])]
    fetch: bool,
    /// Run nothing: write docs/kernels.md and docs/verifier.md from the results of earlier runs.
    #[arg(long, exclusive = true)]
    record: bool,
    /// Arguments for the test programs, such as a name.
    #[arg(last = true)]
    args: Vec<String>,
}

impl Options {
    /// Gives the arguments of the test programs; none for the whole suite.
    fn selection(&self) -> Vec<&str> {
        if self.quick {
            return std::iter::once("--exact").chain(QUICK).collect();
        }
        self.args.iter().map(String::as_str).collect()
    }

    /// Gives what distinguishes a boot from a normal one, empty for that.
    fn variant(&self) -> String {
        let mut words = Vec::new();
        match self.cgroups {
            Cgroups::V2 => {}
            Cgroups::Hybrid => words.push("hybrid cgroups".to_owned()),
            Cgroups::V1 => words.push("cgroups v1".to_owned()),
        }
        if self.lockdown {
            words.push("lockdown".to_owned());
        }
        if self.cpus != 1 {
            words.push(format!("{} CPUs", self.cpus));
        }
        if self.quick {
            words.push("quick suite".to_owned());
        }
        words.join(", ")
    }
}

/// Runs the suite on each kernel and prints one table. The exit code is 1 for anything that failed, for a test that was
/// skipped although this machine runs it, for a collector without any test that passed, and for a guest that fell.
///
/// # Errors
/// Fails when a kernel cannot be had, QEMU not be started, or the suite not be built.
pub fn run(options: &Options) -> Result<ExitCode> {
    if options.record {
        return record().map(|()| ExitCode::SUCCESS);
    }
    setup::kernel(options.arch)?;
    let kernels = options.releases.iter().map(|&release| packages::kernel(release, options.arch, &tools::home()));
    let kernels: Vec<Kernel> = kernels.collect::<Result<_>>()?;
    if options.fetch {
        for kernel in &kernels {
            println!("{}", kernel.image.display());
        }
        return Ok(ExitCode::SUCCESS);
    }
    let programs = Programs::build(options)?;
    let pack = |kernel: Kernel| initramfs::pack(&kernel, &programs, options).map(|image| (kernel, image));
    let guests: Vec<(Kernel, Image)> = kernels.into_iter().map(pack).collect::<Result<_>>()?;
    let (mut columns, mut good) = (Vec::new(), true);
    for ((kernel, _), ran) in guests.iter().zip(side_by_side(&guests, options)) {
        let (output, is_whole) = ran?;
        good &= is_whole;
        let title = [kernel.version.as_str(), &options.variant()].join(" ").trim().to_owned();
        keep(&title, &output, options.args.is_empty())?;
        columns.push(table::Column::read(&title, &output));
    }
    print!("\n{}", table::render(&columns));
    for column in &columns {
        let (tests, seconds) = column.totals();
        println!("{}: {tests} tests in {seconds:.0} s, boots: {}", column.title, column.boots);
    }
    good &= columns.iter().all(|column| column.failed().is_empty());
    let here = match options.arch {
        Arch::X86_64 => skipped_here(&programs, &columns)?,
        Arch::Aarch64 => Vec::new(),
    };
    for column in &columns {
        for (name, _) in column.skipped().filter(|(name, _)| !here.iter().any(|here| here == name)) {
            println!("{}: {name} was skipped, but runs on this machine", column.title);
            good = false;
        }
        for name in column.without(&QUICK).into_iter().filter(|_| options.quick) {
            println!("{}: there is no test {name}", column.title);
            good = false;
        }
        for collector in column.without_a_pass().into_iter().filter(|_| options.args.is_empty()) {
            println!("{}: no test of {collector} has passed", column.title);
            good = false;
        }
    }
    println!("{}", table::totals(&columns));
    Ok(ExitCode::from(u8::from(!good)))
}

/// Runs guests to their ends, some at a time, the last ones first: newer kernels take longer.
fn side_by_side(guests: &[(Kernel, Image)], options: &Options) -> Vec<Result<(String, bool)>> {
    let jobs = options.jobs.unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from));
    let waiting = Mutex::new(guests.iter().enumerate().collect::<Vec<_>>());
    let next = || waiting.lock().ok()?.pop();
    let work = || {
        let mut ran = Vec::new();
        while let Some((at, (kernel, image))) = next() {
            ran.push((at, guest::run(kernel, image, options)));
        }
        ran
    };
    let mut ran: Vec<_> = thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs.clamp(1, guests.len().max(1))).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap_or_default()).collect()
    });
    ran.sort_by_key(|(at, _)| *at);
    ran.into_iter().map(|(_, ran)| ran).collect()
}

/// Keeps a console for [`record`]; part of a suite adds to what is there.
fn keep(title: &str, output: &str, whole: bool) -> Result<()> {
    let directory = process::target().join("kernel/consoles");
    fs::create_dir_all(&directory)?;
    let path = directory.join(title);
    let before = if whole { String::new() } else { fs::read_to_string(&path).unwrap_or_default() };
    fs::write(&path, before + output).with_context(|| format!("cannot write {}", path.display()))
}

/// Gives which of the skipped tests are skipped on this machine, too.
fn skipped_here(programs: &Programs, columns: &[table::Column]) -> Result<Vec<String>> {
    let names: BTreeSet<&str> = columns.iter().flat_map(table::Column::skipped).map(|(name, _)| name).collect();
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let mut command = Command::new(programs.suite()?);
    command.args(["--exact", "--show-output"]).args(names);
    let output = process::output(&mut command).context("what was skipped there fails here")?;
    let column = table::Column::read("here", &output);
    Ok(column.skipped().map(|(name, _)| name.to_owned()).collect())
}

/// Writes docs/kernels.md, normal boots in one table and others in a second one, and docs/verifier.md.
fn record() -> Result<()> {
    let directory = process::target().join("kernel/consoles");
    let (mut columns, mut verified) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
        let (title, console) = (entry.file_name().to_string_lossy().into_owned(), fs::read_to_string(entry.path())?);
        columns.push(table::Column::read(&title, &console));
        if !title.contains(' ') {
            verified.push((title, verifier::read(&console)));
        }
    }
    process::must(process::cargo()?.args(["build", "--package", "telesonde", "--bin", "telesonde"]))?;
    match verifier::here() {
        Ok(here) => verified.push(here),
        Err(why) => eprintln!("what this machine's kernel verifies is not recorded: {why:#}"),
    }
    verifier::record(&verified)?;
    let version = |column: &table::Column| -> Vec<u32> {
        column.title.split(['.', '-', '+', ' ']).map_while(|part| part.parse().ok()).collect()
    };
    columns.sort_by_key(version);
    let (others, normal): (Vec<_>, Vec<_>) = columns.into_iter().partition(|column| column.title.contains(' '));
    let mut text = String::from(include_str!("kernel/kernels.md"));
    for (heading, columns) in [("Normal boots: cgroup v2, one CPU", &normal), ("Other boots", &others)] {
        if columns.is_empty() {
            continue;
        }
        let _ = write!(text, "\n## {heading}\n\n{}", table::document(columns));
        let skipped: BTreeSet<String> = columns
            .iter()
            .flat_map(|of| of.skipped().map(|(name, why)| format!("* {}: `{name}`: {why}\n", of.title)))
            .collect();
        let failed: BTreeSet<String> = columns
            .iter()
            .flat_map(|of| of.failed().into_iter().map(|name| format!("* {}: `{name}`\n", of.title)))
            .collect();
        for (what, names) in [("Skipped", skipped), ("Failed", failed)] {
            if !names.is_empty() {
                let _ = write!(text, "\n{what}:\n\n{}", names.into_iter().collect::<String>());
            }
        }
    }
    if normal.is_empty() && others.is_empty() {
        text.push_str("\nNo run of the present suite is recorded yet.\n");
    }
    let path = process::root().join("docs/kernels.md");
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}
