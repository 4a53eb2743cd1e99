//! Events, each exactly once: what was started, how it ended, what connected; by ring and by perf buffers.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::process::{Command, ExitStatus, Stdio};

use aya::maps::MapType;

use crate::harness::agent::{Agent, Wish, wrapped};
use crate::harness::cgroup::Cgroup;
use crate::harness::netns::Pair;
use crate::harness::otlp::{Event, Receiver};
use crate::harness::scrape::Scrape;
use crate::harness::{directory, eventually, live};

const EVENTS: &str = "otlp: test, schedule_delay: 50ms";
const UNLIMITED: &str = "process: {enabled: require, exec: {rate: 0}, exit: {rate: 0}, connection: {rate: 0}}";

/// Starts an agent that sends its events to the receiver.
fn start(receiver: &Receiver, process: &str, ebpf: &[&str]) -> Agent {
    let otlp = Some(receiver.address());
    Agent::start(Wish { collectors: &[process], ebpf, otlp, events: EVENTS, ..Wish::default() })
}

/// Runs a script within a cgroup.
fn shell(cgroup: &Cgroup, script: &str) -> ExitStatus {
    let script = format!("echo $$ > {}/cgroup.procs\n{script}", cgroup.directory().display());
    Command::new("/bin/sh").args(["-c", &script]).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap()
}

/// Counts events by these attributes.
fn count(events: &[Event], keys: &[&str]) -> BTreeMap<Vec<String>, usize> {
    let mut counts = BTreeMap::new();
    for event in events {
        let values = keys.iter().map(|&key| event.get(key).cloned().unwrap_or_default()).collect();
        *counts.entry(values).or_default() += 1;
    }
    counts
}

fn expected(counts: &[(&[&str], usize)]) -> BTreeMap<Vec<String>, usize> {
    counts.iter().map(|(values, count)| (values.iter().map(ToString::to_string).collect(), *count)).collect()
}

/// Gives how many events were emitted, and in the account of a sink how many came to one of these outcomes.
fn ledger(scrape: &Scrape, outcomes: &[&str]) -> Option<(f64, f64)> {
    // Ends of connections come from another collector, for the same sinks.
    scrape.value("telesonde_events_emitted_total", &[("collector", "process")])?;
    let emitted = scrape.sum("telesonde_events_emitted_total", &[]);
    let outcome = |name: &&str| scrape.value("telesonde_export_events_total", &[("outcome", name)]);
    let ended = outcomes.iter().map(outcome).sum::<Option<f64>>()?;
    Some((emitted, ended))
}

/// Everything that was emitted comes to these outcomes. The machine goes on meanwhile, so what was emitted by one
/// scrape has its outcome by a later one, and nothing has an outcome that is not emitted by then.
fn assert_closed(agent: &Agent, outcomes: &[&str]) {
    let (emitted, _) =
        agent.until("events are counted", |scrape| ledger(scrape, outcomes).filter(|&(emitted, _)| emitted > 0.0));
    let ended = agent.until("all events have their outcome", |scrape| {
        ledger(scrape, outcomes).map(|(_, ended)| ended).filter(|&ended| ended >= emitted)
    });
    let (emitted, _) = ledger(&agent.scrape(), outcomes).unwrap();
    assert!(ended <= emitted, "{ended} of {emitted}");
}

/// Everything that was emitted was delivered, and nothing was lost on the way.
fn assert_whole(agent: &Agent) {
    assert_closed(agent, &["delivered"]);
    let scrape = agent.scrape();
    assert_eq!(scrape.sum("telesonde_events_lost_total", &[("collector", "process")]), 0.0);
    assert_eq!(scrape.sum("telesonde_export_events_total", &[("outcome", "queue_full")]), 0.0);
}

#[test]
fn every_program_and_every_end_is_reported_once() {
    const SCRIPT: &str = "run() { n=$1; shift; while [ $n -gt 0 ]; do \"$@\"; n=$((n - 1)); done; }
        run 37 /bin/true; run 11 /bin/sh -c 'exit 3'; run 5 /bin/sh -c 'kill -KILL $$'; exit 7";
    let _kernel = live!();
    // Then no program may read the kernel's copy of the path.
    let locked = bpf::probe::Facts::gather().lockdown.as_deref() == Some("confidentiality");
    for (buffer, kind) in [("auto", MapType::RingBuf), ("ring", MapType::RingBuf), ("perf", MapType::PerfEventArray)] {
        let receiver = Receiver::start();
        let ebpf = [&*format!("events: {{buffer: {buffer}}}"), "perf_buffer_size: 64KiB", "ring_buffer_size: 256KiB"];
        let agent = start(&receiver, UNLIMITED, &ebpf);
        let maps: Vec<_> = aya::maps::loaded_maps().flatten().collect();
        // Another agent's map may have the same name.
        let ours = |map: &&aya::maps::MapInfo| {
            let fits = kind != MapType::RingBuf || map.max_entries() == 256 * 1024;
            map.name_as_str() == Some("events") && map.map_type().is_ok_and(|of| of == kind) && fits
        };
        assert!(maps.iter().find(ours).is_some(), "{buffer}: no such map");
        let cgroup = Cgroup::new(buffer);
        assert_eq!(shell(&cgroup, SCRIPT).code(), Some(7));
        let path = ("cgroup.path", cgroup.path());
        eventually("all ends are there", || {
            (receiver.events(&[path, ("event_name", "process.exit")]).len() >= 54).then_some(())
        });
        let execs = receiver.events(&[path, ("event_name", "process.exec")]);
        let named = count(&execs, &["process.executable.name", "process.executable.path", "severity_text"]);
        let of = |path| if locked { "" } else { path };
        assert_eq!(named, expected(&[(&["true", of("/bin/true"), "INFO"], 37), (&["sh", of("/bin/sh"), "INFO"], 16)]));
        let exits = receiver.events(&[path, ("event_name", "process.exit")]);
        let keys = ["process.executable.name", "process.exit.code", "process.exit.signal", "severity_text"];
        let ends = expected(&[
            (&["true", "0", "", "INFO"], 37),
            (&["sh", "3", "", "INFO"], 11),
            (&["sh", "", "9", "WARN"], 5),
            (&["sh", "7", "", "INFO"], 1),
        ]);
        assert_eq!(count(&exits, &keys), ends, "{buffer}");
        assert_whole(&agent);
        agent.stop();
    }
}

#[test]
fn threads_do_not_end_their_process() {
    let _kernel = live!();
    let receiver = Receiver::start();
    let agent = start(&receiver, UNLIMITED, &[]);
    let cgroup = Cgroup::new("threads");
    crate::harness::stimulus::run(&cgroup, &["threads=83", "fork=20"]);
    let exits = || receiver.events(&[("cgroup.path", cgroup.path()), ("event_name", "process.exit")]);
    eventually("all ends are there", || (exits().len() >= 21).then_some(()));
    assert_eq!(exits().len(), 21, "the children and the program itself");
    assert_whole(&agent);
    agent.stop();
}

#[test]
fn a_victim_of_the_oom_killer_is_named() {
    let _kernel = live!();
    let receiver = Receiver::start();
    let agent = start(&receiver, UNLIMITED, &[]);
    let cgroup = Cgroup::new("oom");
    let limits = [("memory.limit_in_bytes", "16M"), ("memory.max", "16M"), ("memory.swap.max", "0")];
    for (file, limit) in limits.map(|(file, limit)| (cgroup.directory().join(file), limit)) {
        if file.exists() {
            fs::write(&file, limit).unwrap();
        }
    }
    // It keeps the last lines, and there is no line's end.
    shell(&cgroup, "tail /dev/zero; exit 0");
    let path = ("cgroup.path", cgroup.path());
    let kills = || receiver.events(&[path, ("event_name", "oom_kill")]);
    eventually("the kill is there", || kills().first().cloned());
    assert_eq!(count(&kills(), &["process.executable.name", "severity_text"]), expected(&[(&["tail", "ERROR"], 1)]));
    let pid = kills()[0]["process.pid"].clone();
    let exits = || receiver.events(&[path, ("event_name", "process.exit"), ("process.pid", &pid)]);
    let exit = eventually("its end is there", || exits().first().cloned());
    assert_eq!(exit["process.exit.signal"], "9");
    assert_whole(&agent);
    agent.stop();
}

#[test]
fn connections_are_reported_at_both_ends() {
    const COUNT: usize = 40;
    let _kernel = live!();
    let pair = Pair::new();
    let receiver = Receiver::start();
    // One listens before the agent does, the other one after.
    let early = pair.server.run(|| TcpListener::bind((Pair::SERVER_V4, 7001)).unwrap());
    let agent = start(&receiver, UNLIMITED, &[]);
    let late = pair.server.run(|| TcpListener::bind((Pair::SERVER_V6, 7002)).unwrap());
    pair.client.run(|| {
        for listener in [&early, &late] {
            for _ in 0..COUNT {
                let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
                drop((listener.accept().unwrap(), stream));
            }
        }
        for _ in 0..COUNT {
            TcpStream::connect((Pair::SERVER_V4, 7003)).unwrap_err();
        }
    });
    let own = std::process::id().to_string();
    let events = || receiver.events(&[("event_name", "connection"), ("process.pid", &own)]);
    if agent.lacks("process", "no connection events", (5, 11)) {
        assert!(events().is_empty());
        agent.stop();
        return;
    }
    let ours = |event: &Event| event.values().any(|value| ["7001", "7002", "7003"].contains(&value.as_str()));
    let all = || events().into_iter().filter(ours).collect::<Vec<_>>();
    eventually("all connections are there", || (all().len() >= 5 * COUNT).then_some(()));
    let (change, local, peer) = ("network.connection.change", "network.local.", "network.peer.");
    let ends = |key: &str| [format!("{local}{key}"), format!("{peer}{key}")];
    let ([local_port, peer_port], [local, peer]) = (ends("port"), ends("address"));
    let of = |kind: &str| all().into_iter().filter(|event| event[change] == kind).collect::<Vec<_>>();
    let (v4, v6) = (Pair::SERVER_V4.to_string(), Pair::SERVER_V6.to_string());
    let two = expected(&[(&[&v4, "7001", "ipv4"], COUNT), (&[&v6, "7002", "ipv6"], COUNT)]);
    assert_eq!(count(&of("opened"), &[&peer, &peer_port, "network.type"]), two);
    assert_eq!(count(&of("accepted"), &[&local, &local_port, "network.type"]), two);
    let failed = count(&of("failed"), &[&peer, &peer_port, "error.type", "severity_text"]);
    assert_eq!(failed, expected(&[(&[&v4, "7003", "refused", "WARN"], COUNT)]));
    assert_whole(&agent);
    agent.stop();
}

#[test]
fn a_workload_beyond_its_limit_is_cut_and_counted() {
    let _kernel = live!();
    let receiver = Receiver::start();
    let limited = "process: {exec: {rate: 1, burst: 10}, exit: {enabled: false}, connection: {enabled: false}}";
    let agent = start(&receiver, limited, &[]);
    let (noisy, quiet) = (Cgroup::new("noisy"), Cgroup::new("quiet"));
    shell(&noisy, "n=300; while [ $n -gt 0 ]; do /bin/true; n=$((n - 1)); done");
    shell(&quiet, "/bin/true; exit 0");
    eventually("the quiet one is there", || receiver.events(&[("cgroup.path", quiet.path())]).pop());
    let limit = [("collector", "process"), ("reason", "rate_limit"), ("cgroup_path", noisy.path())];
    let sent = || receiver.events(&[("cgroup.path", noisy.path())]).len();
    agent.until("every one is there or counted", |scrape| {
        let lost = scrape.value("telesonde_events_lost_total", &limit)?;
        assert!(lost + sent() as f64 <= 300.0, "{lost} and {}", sent());
        (lost + sent() as f64 == 300.0).then_some(())
    });
    assert!((10..300).contains(&sent()), "{}", sent());
    agent.stop();
}

#[test]
fn without_a_sink_nothing_is_attached() {
    let _kernel = live!();
    let agent = Agent::start(Wish { collectors: &["process: {enabled: true}"], ..Wish::default() });
    let scrape = agent.scrape();
    let state = |state| scrape.value("telesonde_collector_state", &[("collector", "process"), ("state", state)]);
    assert_eq!(state("disabled"), Some(1.0));
    assert_eq!(scrape.sum("telesonde_bpf_programs_attached", &[("collector", "process")]), 0.0);
    let status = agent.status().unwrap().to_string();
    assert!(status.contains("exporters.events.stdout"), "the reason is there: {status}");
    agent.stop();
}

#[test]
fn a_dead_receiver_costs_standard_output_nothing() {
    const COUNT: usize = 300;
    let _kernel = live!();
    let receiver = Receiver::start();
    receiver.refuse(true);
    let events = "otlp: test, stdout: true, schedule_delay: 50ms, export_timeout: 1s";
    let otlp = Some(receiver.address());
    let agent = Agent::start(Wish { collectors: &[UNLIMITED], otlp, events, ..Wish::default() });
    let cgroup = Cgroup::new("stdout");
    shell(&cgroup, &format!("n={COUNT}; while [ $n -gt 0 ]; do /bin/true; n=$((n - 1)); done"));
    let lines = || {
        let log = agent.log();
        let lines = log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        lines.filter(|line| line["cgroup_path"] == cgroup.path()).collect::<Vec<_>>()
    };
    eventually("all lines are there", || (lines().len() > 2 * COUNT).then_some(()));
    let of = |kind| lines().into_iter().filter(|line| line["type"] == kind).collect::<Vec<_>>();
    let (execs, exits) = (of("process.exec"), of("process.exit"));
    assert_eq!((execs.len(), exits.len()), (COUNT, COUNT + 1), "the shell ends, too");
    let path = |line: &serde_json::Value| line["path"] == "/bin/true" && line["command"] == "true";
    assert!(execs.iter().all(path), "{:?}", execs[0]);
    let ids: std::collections::BTreeSet<_> = lines().iter().map(|line| line["id"].to_string()).collect();
    assert_eq!(ids.len(), 2 * COUNT + 1, "every event has an id of its own");
    let delivered = [("exporter", "test/events"), ("outcome", "delivered")];
    assert_eq!(agent.scrape().value("telesonde_export_events_total", &delivered), Some(0.0));
    agent.until("every event is in the account of the dead one", |scrape| {
        let of = |outcome| [("exporter", "test/events"), ("outcome", outcome)];
        let outcome = |name| scrape.value("telesonde_export_events_total", &of(name));
        (outcome("failed")? + outcome("queue_full")? > 2.0 * COUNT as f64).then_some(())
    });
    agent.stop();
}

/// A file system of its own, unmounted in the end.
struct Tiny(std::path::PathBuf);

impl Tiny {
    fn mount() -> Self {
        let at = directory("tiny");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=64k", "none"]).arg(&at).status().unwrap();
        assert!(mounted.success());
        Self(at)
    }

    /// Writes until there is no room.
    fn fill(&self, name: &str) {
        let mut file = fs::OpenOptions::new().create(true).append(true).open(self.0.join(name)).unwrap();
        while file.write_all(b"\n").is_ok() {}
    }
}

impl Drop for Tiny {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
        let _ = fs::remove_dir(&self.0);
    }
}

#[test]
fn a_full_disk_costs_lines_that_are_counted() {
    const OUTCOMES: [&str; 4] = ["delivered", "failed", "refused", "queue_full"];
    let _kernel = live!();
    let (disk, place) = (Tiny::mount(), directory("program"));
    let at = disk.0.display();
    let program = wrapped(&place, &format!("[ $1 = run ] && exec $program \"$@\" >> {at}/out 2>> {at}/err"));
    let (program, events) = (Some(&*program), "stdout: true, schedule_delay: 50ms");
    let agent = Agent::start(Wish { program, collectors: &[UNLIMITED], events, ..Wish::default() });
    disk.fill("filler");
    let noisy = |name: &str, count: u32| {
        let cgroup = Cgroup::new(name);
        shell(&cgroup, &format!("n={count}; while [ $n -gt 0 ]; do /bin/true; n=$((n - 1)); done"));
        cgroup
    };
    let _full = noisy("full", 100);
    let failed = |scrape: &Scrape| scrape.value("telesonde_export_events_total", &[("outcome", "failed")]);
    agent.until("events find the disk full", |scrape| failed(scrape).filter(|&count| count > 0.0));
    assert_closed(&agent, &OUTCOMES);
    // Neither does the log.
    disk.fill("err");
    eventually("a line of the log is lost", || {
        agent.signal("HUP");
        (agent.scrape().value("telesonde_log_lost_total", &[])? > 0.0).then_some(())
    });

    fs::remove_file(disk.0.join("filler")).unwrap();
    let later = noisy("later", 5);
    let whole = || {
        let text = fs::read_to_string(disk.0.join("out")).unwrap();
        // What was cut off stands alone on its line.
        text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok()).collect::<Vec<_>>()
    };
    eventually("events are written again", || {
        (whole().iter().filter(|line| line["cgroup_path"] == later.path()).count() == 11).then_some(())
    });
    eventually("what was delivered is in the file", || {
        let delivered = || agent.scrape().value("telesonde_export_events_total", &[("outcome", "delivered")]);
        let (before, lines, after) = (delivered()?, whole().len() as f64, delivered()?);
        (before == lines && lines == after).then_some(())
    });
    assert_closed(&agent, &OUTCOMES);
    agent.stop();
    fs::remove_dir_all(place).unwrap();
}

#[test]
fn a_sample_is_what_was_asked_for() {
    const COUNT: usize = 600;
    let _kernel = live!();
    let receiver = Receiver::start();
    let agent = start(&receiver, UNLIMITED, &["sample_rate: 25"]);
    let cgroup = Cgroup::new("sample");
    shell(&cgroup, &format!("n={COUNT}; while [ $n -gt 0 ]; do /bin/true; n=$((n - 1)); done"));
    assert_whole(&agent);
    let taken = receiver.events(&[("cgroup.path", cgroup.path()), ("event_name", "process.exec")]).len();
    // 150 of 600 on average; ten standard deviations of 10.6 are on either side.
    assert!((44..256).contains(&taken), "{taken}");
    agent.stop();
}
