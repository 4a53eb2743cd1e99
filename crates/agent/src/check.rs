//! The doctor: what this host has, what each collector makes of it, and how to get what is missing.

mod names;

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use bpf::probe::{CgroupMode, Facts, Hierarchy, Memlock};
use config::sections::integrations::Granularity;
use config::{Enabled, Loaded};
use enrich::kubernetes::Known;
use runtime::{Descriptor, MakeError, Need, Platform, Setup};
use serde_json::{Value, json};

use crate::cli::Format;
use crate::exit::{Exit, Failure};
use crate::sandbox::Sandbox;
use crate::table::Table;
use crate::wiring;

/// How good a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Grade {
    Good,
    /// Something gives less than it could.
    Less,
    /// The agent cannot run.
    Bad,
}

struct Finding {
    what: &'static str,
    found: String,
    grade: Grade,
    fix: String,
}

struct Verdict {
    name: &'static str,
    capabilities: Vec<&'static str>,
    state: &'static str,
    why: String,
    map_bytes: u64,
    samples: usize,
}

/// The kernel maps of all collectors that are to run, when they are full, on a host with so many possible CPUs.
struct Memory {
    cpus: usize,
    bytes: u64,
}

/// What Prometheus is to scrape.
struct Exposition {
    workloads: usize,
    /// Samples that each workload may have in any case.
    share: usize,
    /// Samples that all may have.
    most: usize,
}

/// Sizes of other hosts that a fleet may have.
const OTHER_HOSTS: [usize; 3] = [16, 64, 256];

/// Examines the host and tries every collector; gives the report and the exit code.
pub fn check(
    registry: &[&'static Descriptor],
    loaded: &Loaded,
    platform: &Arc<Platform>,
    (names, known, sandbox): (&enrich::Workloads, &[Known], &Sandbox),
    format: Format,
) -> (String, Exit) {
    let facts = &platform.facts;
    let mut findings = findings(facts, platform.btf_path.as_deref());
    let cgroups = workloads(facts);
    let workloads = cgroups.len();
    findings.extend(pins(loaded));
    findings.extend(confinement(sandbox));
    findings.extend(names::sources(names));
    findings.extend(names::node(known));
    let enrichment = names::Enrichment::examine(names, &cgroups, &loaded.config.admin.socket);
    findings.extend(enrichment.findings());
    let verdicts: Vec<Verdict> = registry.iter().map(|d| verdict(d, loaded, platform, workloads)).collect();
    let hosts = [facts.possible_cpus].into_iter().chain(OTHER_HOSTS);
    let memory: Vec<Memory> = hosts.map(|cpus| memory(registry, loaded, cpus)).collect();
    let share = loaded.config.limits.samples_per_workload;
    let exposition = Exposition { workloads, share, most: share * workloads.max(runtime::WORKLOADS) };
    let lame = verdicts.iter().any(|verdict| !matches!(verdict.state, "usable" | "disabled"));
    let worst = findings.iter().map(|finding| finding.grade).max().unwrap_or(Grade::Good);
    let exit = match worst {
        Grade::Bad => Exit::Unable,
        Grade::Less => Exit::Failure,
        Grade::Good if lame => Exit::Failure,
        Grade::Good => Exit::Success,
    };
    let report = match format {
        Format::Json => json_report(&findings, &verdicts, &memory, (&exposition, &enrichment), exit),
        Format::Table => table_report(&findings, &verdicts, &memory, &exposition, exit),
    };
    (report, exit)
}

/// Examines a host of which no cgroup hierarchy is to be seen: no collector can be tried there.
pub fn without_cgroups(facts: &Facts, btf_path: Option<&Path>, format: Format) -> (String, Exit) {
    let (findings, exit) = (findings(facts, btf_path), Exit::Unable);
    let report = match format {
        Format::Json => {
            let report = json!({"exit_code": exit as u8, "host": host_json(&findings), "collectors": []});
            crate::documents::pretty(&report)
        }
        Format::Table => format!("{}\n{}\n", host_table(&findings), end(exit)),
    };
    (report, exit)
}

/// Says why the agent cannot run here at all, if so.
pub fn obstacle(facts: &Facts, btf_path: Option<&Path>) -> Option<Failure> {
    let bad = findings(facts, btf_path).into_iter().find(|finding| finding.grade == Grade::Bad)?;
    if bad.what == "BTF" && btf_path.is_some() {
        return Some(Failure::new(Exit::Configuration, bad.found));
    }
    let exit = if bad.what == "capabilities" { Exit::Privileges } else { Exit::Unable };
    let Finding { what, found, fix, .. } = bad;
    Some(Failure::new(exit, format!("telesonde cannot run on this host: {what}: {found}; {fix}")))
}

/// Says where the kernel's types come from. A file has to have the very types of the running kernel.
fn types(facts: &Facts, btf_path: Option<&Path>) -> Finding {
    let what = "BTF";
    let good = |found: String| Finding { what, found, grade: Grade::Good, fix: String::new() };
    match (btf_path, facts.btf) {
        (None, true) => good("/sys/kernel/btf/vmlinux".to_owned()),
        (None, false) => {
            let fix = "boot a kernel with CONFIG_DEBUG_INFO_BTF=y; where /sys is only hidden, name a copy of its \
                       /sys/kernel/btf/vmlinux in integrations.ebpf.btf_path";
            Finding { what, found: "missing".to_owned(), grade: Grade::Bad, fix: fix.to_owned() }
        }
        (Some(path), own) => match bpf::Types::load(Some(path)) {
            Err(error) => {
                let fix = "programs attach by the running kernel's own types: those of another do not fit".to_owned();
                Finding { what, found: error.to_string(), grade: Grade::Bad, fix }
            }
            Ok(_) if own => good(format!("{}, the same as /sys/kernel/btf/vmlinux", path.display())),
            Ok(_) => Finding {
                what,
                found: format!("{}; the kernel's own are not to be seen", path.display()),
                grade: Grade::Less,
                fix: "programs load only if the file has the running kernel's own types and the kernel was built with \
                      CONFIG_DEBUG_INFO_BTF: the collectors below tell"
                    .to_owned(),
            },
        },
    }
}

fn findings(facts: &Facts, btf_path: Option<&Path>) -> Vec<Finding> {
    let good = |what, found: String| Finding { what, found, grade: Grade::Good, fix: String::new() };
    let lacks =
        |what, found: &str, grade, fix: &str| Finding { what, found: found.to_owned(), grade, fix: fix.to_owned() };
    let mut all = Vec::new();
    all.push(if facts.version >= (5, 10) {
        good("kernel", facts.release.clone())
    } else {
        let fix = "boot Linux 5.10 or newer: older ones lack BPF ring buffers (5.8) or BTF tracing programs (5.5)";
        lacks("kernel", &facts.release, Grade::Bad, fix)
    });
    all.push(match facts.arch.as_str() {
        "x86_64" | "aarch64" => good("architecture", facts.arch.clone()),
        other => lacks("architecture", other, Grade::Bad, "only x86_64 and aarch64 are supported"),
    });
    all.push(types(facts, btf_path));
    all.push(capabilities(facts));
    all.push(match &facts.bpffs {
        Some(path) => good("bpffs", path.display().to_string()),
        None => good("bpffs", "not mounted; not needed".to_owned()),
    });
    let tracefs =
        facts.tracefs.as_ref().map_or("not mounted; not needed".to_owned(), |path| path.display().to_string());
    all.push(good("tracefs", tracefs));
    all.push(match facts.lockdown.as_deref() {
        Some("confidentiality") => {
            let fix = "boot with lockdown=integrity, or do without cgroup paths straight from the kernel";
            lacks("lockdown", "confidentiality: no program may read kernel memory", Grade::Less, fix)
        }
        Some(mode) => good("lockdown", mode.to_owned()),
        None => good("lockdown", "not built in".to_owned()),
    });
    let mode = match facts.cgroups.mode {
        CgroupMode::V1 => "v1",
        CgroupMode::Hybrid => "hybrid",
        CgroupMode::V2 => "v2",
        CgroupMode::None => "none",
    };
    let primary = match facts.cgroups.primary {
        Hierarchy::Unified => "unified",
        Hierarchy::Memory => "memory (v1)",
    };
    all.push(match &facts.cgroups.mount {
        Some(mount) if facts.cgroups.whole => {
            good("cgroups", format!("{mode}; workloads by {primary} at {}", mount.display()))
        }
        Some(mount) => lacks(
            "cgroups",
            &format!("{mode}; of {primary} only what is below the agent's own cgroup, at {}", mount.display()),
            Grade::Less,
            "workloads that are older than the agent have no names, and no files of cgroups are read: mount the host's \
             /sys/fs/cgroup (Kubernetes: a hostPath volume; Docker, Podman: -v /sys/fs/cgroup:/host/sys/fs/cgroup:ro) and \
             set host.cgroup to its place, or run in the host's cgroup namespace (--cgroupns=host)",
        ),
        None => lacks(
            "cgroups",
            "not mounted",
            Grade::Bad,
            "mount cgroup2 at /sys/fs/cgroup (in a container: mount the host's and set host.cgroup to its place)",
        ),
    });
    all.push(if facts.sees_all_tasks {
        good("pid namespace", "the host's".to_owned())
    } else {
        let fix = "tasks and sockets that are older than the agent, and what a task does before it ends, are not seen of \
                   other pid namespaces: run in the host's (Kubernetes: hostPID: true; Docker, Podman: --pid=host); \
                   a mount of the host's /proc does not help, since the kernel walks over tasks by namespace";
        lacks("pid namespace", "the agent's own", Grade::Less, fix)
    });
    all.push(match facts.memlock {
        Memlock::Cgroup => good("map memory", "charged to the agent's cgroup".to_owned()),
        Memlock::Limit(None) => good("map memory", "RLIMIT_MEMLOCK: unlimited".to_owned()),
        Memlock::Limit(Some(bytes)) => good("map memory", format!("RLIMIT_MEMLOCK: {bytes} bytes, lifted at start-up")),
    });
    all.push(good("possible CPUs", facts.possible_cpus.to_string()));
    all
}

/// Says what outlives the agent, where something is to.
fn pins(loaded: &Loaded) -> Option<Finding> {
    let config = &loaded.config;
    let path = wiring::given(&config.integrations.ebpf.pin_path)?;
    let what = "pins";
    Some(match bpf::Pins::examine(&path) {
        Ok(()) if config.integrations.ebpf.granularity == Granularity::Process => Finding {
            what,
            found: format!("{}: nothing is kept over restarts with granularity: process", path.display()),
            grade: Grade::Less,
            fix: "leave integrations.ebpf.pin_path empty, or choose another granularity".to_owned(),
        },
        Ok(()) => {
            let by_peer = loaded.collectors.iter().any(|one| one.name == "network" && one.section["peers"] == true);
            let able = |name: &&str| !(by_peer && ["network", "connection"].contains(name));
            let kept = collectors::LASTING.iter().copied().filter(able).collect::<Vec<_>>().join(", ");
            let found = format!("{}; kept over restarts: {kept}; what others count begins afresh", path.display());
            Finding { what, found, grade: Grade::Good, fix: String::new() }
        }
        Err(error) => Finding {
            what,
            found: error.to_string(),
            grade: Grade::Bad,
            fix: "the agent does not start: see integrations.ebpf.pin_path".to_owned(),
        },
    })
}

fn capabilities(facts: &Facts) -> Finding {
    let has = |name: &str| facts.capabilities.contains(&name);
    let what = "capabilities";
    if has("CAP_SYS_ADMIN") || (has("CAP_BPF") && has("CAP_PERFMON")) {
        return Finding { what, found: facts.capabilities.join(", "), grade: Grade::Good, fix: String::new() };
    }
    let found = if facts.capabilities.is_empty() { "none".to_owned() } else { facts.capabilities.join(", ") };
    let fix = "run as root, or grant CAP_BPF and CAP_PERFMON (before Linux 5.8: CAP_SYS_ADMIN)".to_owned();
    Finding { what, found, grade: Grade::Bad, fix }
}

/// Tells how far the agent is confined. Whoever wants more than the kernel has requires it.
fn confinement(sandbox: &Sandbox) -> [Finding; 2] {
    let parts = [("seccomp", &sandbox.seccomp), ("Landlock", &sandbox.landlock)];
    parts.map(|(what, part)| {
        let found = part.clone().unwrap_or_else(|why| format!("not confined: {why}"));
        Finding { what, found, grade: Grade::Good, fix: String::new() }
    })
}

/// Gives the capabilities that a collector takes on this host, by their names without what all begin with.
fn capabilities_for(descriptor: &Descriptor, facts: &Facts) -> Vec<&'static str> {
    let short = |need: &Need| match need {
        Need::Capability(name) => Some(name.strip_prefix("CAP_").unwrap_or(name)),
        _ => None,
    };
    let mut all: Vec<&str> = descriptor.needs.iter().filter_map(short).collect();
    if !all.is_empty() && matches!(facts.memlock, Memlock::Limit(_)) {
        all.push("SYS_RESOURCE");
    }
    all
}

/// Tries a collector for real: nothing else tells what a kernel accepts.
fn verdict(descriptor: &'static Descriptor, loaded: &Loaded, platform: &Arc<Platform>, workloads: usize) -> Verdict {
    let (name, capabilities) = (descriptor.name, capabilities_for(descriptor, &platform.facts));
    let Some(selection) = loaded.collectors.iter().find(|selection| selection.name == name) else {
        return Verdict { name, capabilities, state: "disabled", why: String::new(), map_bytes: 0, samples: 0 };
    };
    if selection.enabled == Enabled::False {
        let why = format!("{}.enabled is false", config::section_key(name));
        return Verdict { name, capabilities, state: "disabled", why, map_bytes: 0, samples: 0 };
    }
    let plan = (descriptor.plan)(&selection.section, platform.facts.possible_cpus);
    let full: u64 = plan.maps.iter().map(|(_, bytes)| bytes).sum();
    let map_bytes = (full as f64 * platform.map_scale) as u64;
    let samples = (plan.numbers + plan.histograms * histogram_samples(loaded)) * workloads;
    let runtime = tokio::runtime::Handle::current();
    let mut setup = Setup::new(name, selection.section.clone(), Arc::clone(platform), runtime);
    let (state, why) = match (descriptor.make)(&mut setup) {
        Ok(collector) => {
            drop(collector);
            setup.degraded().map_or(("usable", String::new()), |why| ("degraded", why.to_owned()))
        }
        Err(MakeError::Idle(why)) => {
            return Verdict { name, capabilities, state: "disabled", why, map_bytes: 0, samples: 0 };
        }
        Err(MakeError::Unsupported(why)) => ("unsupported", why),
        Err(MakeError::Failed(why)) => ("failed", why),
    };
    Verdict { name, capabilities, state, why, map_bytes, samples }
}

/// Gives how many samples a histogram of latencies has in a scrape: its bounds, `+Inf`, the sum and the count.
fn histogram_samples(loaded: &Loaded) -> usize {
    let doublings = loaded.config.exporters.prometheus.bucket_doublings();
    model::metric::spaced(model::metric::NANOSECOND_BOUNDS, doublings).count() + 3
}

/// Adds up the plans of the collectors that are to run.
fn memory(registry: &[&'static Descriptor], loaded: &Loaded, cpus: usize) -> Memory {
    let running = loaded.collectors.iter().filter(|selection| selection.enabled != Enabled::False);
    let plans = running.filter_map(|selection| {
        let descriptor = registry.iter().find(|descriptor| descriptor.name == selection.name)?;
        Some((descriptor.plan)(&selection.section, cpus))
    });
    let planned: u64 = plans.flat_map(|plan| plan.maps).map(|(_, bytes)| bytes).sum();
    Memory { cpus, bytes: planned }
}

/// Gives the ids of the cgroups that have tasks: each is a workload at most.
fn workloads(facts: &Facts) -> Vec<u64> {
    fn find(directory: &Path, depth: usize, found: &mut Vec<u64>) {
        if std::fs::read(directory.join("cgroup.procs")).is_ok_and(|tasks| !tasks.is_empty()) {
            found.extend(std::fs::metadata(directory).map(|metadata| metadata.ino()));
        }
        let below = std::fs::read_dir(directory).into_iter().flatten().flatten();
        // Deeper than any container runtime nests.
        for entry in below.filter(|entry| depth < 16 && entry.file_type().is_ok_and(|kind| kind.is_dir())) {
            find(&entry.path(), depth + 1, found);
        }
    }
    let mut found = Vec::new();
    if let Some(mount) = facts.cgroups.mount.as_deref() {
        find(mount, 0, &mut found);
    }
    found
}

fn host_table(findings: &[Finding]) -> Table<3> {
    let mut host = Table::new(["HOST", "FOUND", ""]);
    for finding in findings {
        let mark = match finding.grade {
            Grade::Good => "ok".to_owned(),
            Grade::Less => format!("less: {}", finding.fix),
            Grade::Bad => format!("MISSING: {}", finding.fix),
        };
        host.row([finding.what.to_owned(), finding.found.clone(), mark]);
    }
    host
}

fn end(exit: Exit) -> &'static str {
    match exit {
        Exit::Success => "Everything is usable.",
        Exit::Unable => "The agent cannot run here.",
        _ => "The agent runs, but gives less than it could.",
    }
}

fn table_report(
    findings: &[Finding],
    verdicts: &[Verdict],
    memory: &[Memory],
    exposition: &Exposition,
    exit: Exit,
) -> String {
    let host = host_table(findings);
    let mut collectors = Table::new(["COLLECTOR", "STATE", "CAPABILITIES", "MAP MEMORY", "SAMPLES", "WHY"]);
    for verdict in verdicts {
        collectors.row([
            verdict.name.to_owned(),
            verdict.state.to_owned(),
            verdict.capabilities.join(" "),
            mebibytes(verdict.map_bytes),
            format!("~{}", verdict.samples),
            verdict.why.clone(),
        ]);
    }
    let end = end(exit);
    let memory: Vec<String> =
        memory.iter().map(|memory| format!("{} on {} CPUs", mebibytes(memory.bytes), memory.cpus)).collect();
    let memory = memory.join(", ");
    let Exposition { workloads, share, most } = exposition;
    format!(
        "{host}\n{collectors}\nFull maps need {memory}; limits.map_memory caps them.\n\
         Samples of a scrape are estimated for the {workloads} cgroups that have tasks now, as if each did most of what is watched.\n\
         limits.samples_per_workload ({share}) caps them at {most} for so many: past it what is idle folds; the agent's own are 500 to 1000.\n\
         {end}\n"
    )
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

fn host_json(findings: &[Finding]) -> Vec<Value> {
    let json = |f: &Finding| json!({"what": f.what, "found": f.found, "ok": f.grade == Grade::Good, "fix": f.fix});
    findings.iter().map(json).collect()
}

fn json_report(
    findings: &[Finding],
    verdicts: &[Verdict],
    memory: &[Memory],
    (exposition, enrichment): (&Exposition, &names::Enrichment),
    exit: Exit,
) -> String {
    let collectors: Vec<Value> = verdicts
        .iter()
        .map(
            |v| json!({"name": v.name, "state": v.state, "why": v.why, "capabilities": v.capabilities, "map_bytes": v.map_bytes, "samples": v.samples}),
        )
        .collect();
    let memory: Vec<Value> = memory.iter().map(|m| json!({"cpus": m.cpus, "map_bytes": m.bytes})).collect();
    let report = json!({
        "exit_code": exit as u8, "host": host_json(findings), "collectors": collectors, "map_memory": memory,
        "workloads": exposition.workloads, "samples_per_workload": exposition.share, "most_samples": exposition.most,
        "enrichment": enrichment.json(),
    });
    crate::documents::pretty(&report)
}
