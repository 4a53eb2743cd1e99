//! A mixed load that comes and goes for as long as one likes (`cargo xtask soak`; a default run of the tests does it
//! once): cgroups, processes, network namespaces, connections, files and DNS queries live briefly, and all that they did
//! must be counted in the end, by an agent that has not grown.

use std::time::{Duration, Instant};

use crate::harness::agent::{Agent, Wish};
use crate::harness::cgroup::Cgroup;
use crate::harness::disk::Mount;
use crate::harness::netns::Pair;
use crate::harness::otlp::Receiver;
use crate::harness::peer::Peer;
use crate::harness::scrape::Scrape;
use crate::harness::traffic::Traffic;
use crate::harness::{live, stimulus};

/// The environment variable that says how long it takes.
const MINUTES: &str = "TELESONDE_SOAK_MINUTES";
/// How long the agent keeps series of what is gone: a part of the warm-up.
const SERIES_TTL: &str = "30s";
/// How much of the time is warm-up, and how long the spans are at both ends of the rest that are compared.
const WARM_UP: f64 = 0.25;
const SPAN: f64 = 0.25;
/// How much resident memory may grow from the one span to the other.
const GROWTH: f64 = 0.02;
/// How long a round waits until all is counted before the next begins.
const SETTLE: Duration = Duration::from_secs(10);

const CALLS: u32 = 20_000;
const MISSING: u32 = 300;
const EXECS: u32 = 10;
const BRIEF: u32 = 20;
const BRIEF_CALLS: u32 = 20;
const DATAGRAMS: u32 = 2_000;
const SIZE: u32 = 700;
const IP_UDP: u32 = 28;
const CONNECTS: u32 = 50;
const QUERIES: u32 = 100;

/// Something of which it is known how much was done; `labels` are whose it is, and which of it.
struct Amount {
    what: &'static str,
    metric: &'static str,
    labels: Vec<(&'static str, String)>,
    done: f64,
}

impl Amount {
    fn counted(&self, scrape: &Scrape) -> f64 {
        let labels: Vec<_> = self.labels.iter().map(|(key, value)| (*key, value.as_str())).collect();
        scrape.sum(self.metric, &labels)
    }
}

/// The names under which the workloads of every round are one series, and what they have done until now.
struct Truth(Vec<Amount>);

fn unit(name: &str) -> String {
    format!("telesonde-soak-{}-{name}.service", std::process::id())
}

impl Truth {
    fn new() -> Self {
        let amount = |what, metric, of: &str, more: &[(&'static str, &str)]| {
            let more = more.iter().map(|(key, value)| (*key, (*value).to_owned()));
            let labels = std::iter::once(("systemd_unit", unit(of))).chain(more).collect();
            Amount { what, metric, labels, done: 0.0 }
        };
        let count = "ebpf_syscall_count_total";
        let (bytes, packets) = ("ebpf_network_bytes_total", "ebpf_network_packets_total");
        let tmpfs = ("system_filesystem_type", "tmpfs");
        let (transmit, receive) = (("network_io_direction", "transmit"), ("network_io_direction", "receive"));
        Self(vec![
            amount("system calls", count, "calls", &[("syscall", "getppid")]),
            amount("failed system calls", "ebpf_syscall_errors_total", "calls", &[("error_type", "ENOENT")]),
            amount("programs executed", count, "programs", &[("syscall", "execve")]),
            amount("bytes of files read", "ebpf_file_read_bytes_total", "files", &[tmpfs]),
            amount("bytes of files written", "ebpf_file_write_bytes_total", "files", &[tmpfs]),
            amount("files opened", "ebpf_file_open_count_total", "files", &[]),
            amount("bytes sent", bytes, "sender", &[transmit]),
            amount("bytes received", bytes, "receiver", &[receive]),
            amount("packets sent", packets, "sender", &[transmit]),
            amount("packets received", packets, "receiver", &[receive]),
            amount("TCP connects", "ebpf_tcp_connects_total", "client", &[]),
            amount("TCP accepts", "ebpf_tcp_accepts_total", "server", &[]),
            amount("DNS queries", "ebpf_dns_queries_total", "asking", &[]),
        ])
    }

    fn add(&mut self, what: &str, number: f64) {
        let amount = self.0.iter_mut().find(|amount| amount.what == what);
        amount.unwrap_or_else(|| panic!("no amount of {what}")).done += number;
    }

    fn is_counted(&self, scrape: &Scrape) -> bool {
        self.0.iter().all(|amount| amount.counted(scrape) == amount.done)
    }
}

/// One life of everything. What has names of its own must be counted before its series are forgotten; gives how much of
/// it was done and how much was counted.
fn round(number: u32, agent: &Agent, mount: &Mount, truth: &mut Truth) -> (f64, f64) {
    let above = Cgroup::new(&format!("soak-{number}"));
    let [calls, programs, files, sender, receiver, client, server, asking] =
        ["calls", "programs", "files", "sender", "receiver", "client", "server", "asking"]
            .map(|name| above.child(&unit(name)));
    let brief = above.child("brief");
    let pair = Pair::new();
    let address = Pair::SERVER_V4.to_string();

    let calling = stimulus::start(&calls, &[&format!("getppid={CALLS}"), &format!("openat_enoent={MISSING}")]);
    let starting = stimulus::start(&programs, &[&format!("fork={EXECS}"), &format!("exec={EXECS}")]);
    let churning = stimulus::start(&brief, &[&format!("churn={BRIEF}:{BRIEF_CALLS}")]);
    let done = stimulus::files(mount.path(), "everything=37", &[files.directory()]);
    let count = DATAGRAMS.to_string();
    let receiving = Traffic::ready(&pair.server, &receiver, &["udp_receive", &address, "7000", &count]);
    Traffic::run(&pair.client, &sender, &["udp_send", &address, "7000", &count, &SIZE.to_string()]);
    receiving.finish();
    let (mut dialling, mut serving) = (Peer::start(&client, &pair.client), Peer::start(&server, &pair.server));
    serving.ask(&format!("listen {address} 7000 64"));
    serving.tell(&format!("serve {CONNECTS}"));
    dialling.ask(&format!("cycle {address} 7000 {CONNECTS}"));
    serving.answer();
    pair.client.run(|| stimulus::run(&asking, &[&format!("dns_query={QUERIES}")]));
    stimulus::finish(calling);
    stimulus::finish(starting);
    stimulus::finish(churning);

    for (what, number) in [
        ("system calls", CALLS),
        ("failed system calls", MISSING),
        ("programs executed", EXECS),
        ("bytes sent", DATAGRAMS * (SIZE + IP_UDP)),
        ("bytes received", DATAGRAMS * (SIZE + IP_UDP)),
        ("packets sent", DATAGRAMS),
        ("packets received", DATAGRAMS),
        ("TCP connects", CONNECTS),
        ("TCP accepts", CONNECTS),
        ("DNS queries", QUERIES),
    ] {
        truth.add(what, number.into());
    }
    for (what, key) in
        [("bytes of files read", "read_bytes"), ("bytes of files written", "write_bytes"), ("files opened", "opens")]
    {
        truth.add(what, done[key].as_f64().unwrap());
    }
    let inside = format!("{}/", brief.path());
    let of_brief = |scrape: &Scrape| {
        let all = scrape.all("ebpf_syscall_count_total", &[("syscall", "getppid")]);
        let here = all.filter(|sample| sample.labels.get("cgroup_path").is_some_and(|path| path.starts_with(&inside)));
        here.map(|sample| sample.value).sum::<f64>()
    };
    let expected = f64::from(BRIEF * BRIEF_CALLS);
    let begin = Instant::now();
    loop {
        let scrape = agent.scrape();
        let counted = of_brief(&scrape);
        if begin.elapsed() > SETTLE || counted >= expected && truth.is_counted(&scrape) {
            return (expected, counted);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// What the agent takes at one moment.
#[derive(Clone, Copy)]
struct Taken {
    /// In parts of the whole time.
    at: f64,
    resident: f64,
    maps: f64,
    descriptors: f64,
}

impl Taken {
    fn by(agent: &Agent, at: f64) -> Self {
        let descriptors = agent.open_descriptors() as f64;
        Self { at, resident: agent.resident() as f64, maps: agent.map_memory() as f64, descriptors }
    }
}

/// The mean of something over a span of the time.
fn mean(all: &[Taken], (from, to): (f64, f64), of: impl Fn(&Taken) -> f64) -> f64 {
    let within: Vec<f64> = all.iter().filter(|taken| from <= taken.at && taken.at <= to).map(of).collect();
    within.iter().sum::<f64>() / within.len() as f64
}

/// Prints what is taken at both ends of the time after the warm-up; gives by how much resident memory has grown.
fn print_taken(all: &[Taken]) -> f64 {
    let (early, late) = ((WARM_UP, WARM_UP + SPAN), (1.0 - SPAN, f64::INFINITY));
    println!("\n{:<34}{:>12}{:>12}{:>10}", "mean of a quarter of the time", "second", "last", "growth");
    let print = |what: &str, unit: f64, of: fn(&Taken) -> f64| {
        let (before, after) = (mean(all, early, of), mean(all, late, of));
        let growth = after / before - 1.0;
        println!("{what:<34}{:>12.1}{:>12.1}{:>+9.2}%", before / unit, after / unit, growth * 100.0);
        growth
    };
    print("memory of kernel maps, KiB", 1024.0, |taken| taken.maps);
    print("descriptors", 1.0, |taken| taken.descriptors);
    print("resident memory, KiB", 1024.0, |taken| taken.resident)
}

/// Prints what was done and what was counted; gives how much is not right.
fn print_truth(truth: &Truth, (done, counted): (f64, f64), scrape: &Scrape) -> f64 {
    println!("\n{:<34}{:>16}{:>16}{:>10}", "", "done", "counted", "drift");
    let all = truth.0.iter().map(|amount| (amount.what, amount.done, amount.counted(scrape)));
    let brief = ("calls in cgroups of a moment", done, counted);
    let mut wrong = 0.0;
    for (what, done, counted) in all.chain([brief]) {
        println!("{what:<34}{done:>16}{counted:>16}{:>10}", counted - done);
        wrong += (counted - done).abs();
    }
    wrong
}

fn print_lost(scrape: &Scrape) {
    println!();
    for (what, name) in [
        ("events lost", "telesonde_events_lost_total"),
        ("events that found a map full", "telesonde_bpf_map_overflow_total"),
        ("runs that the kernel skipped", "telesonde_bpf_misses_total"),
        ("rounds that a collector failed", "telesonde_collector_errors_total"),
    ] {
        println!("{what:<34}{:>16}", scrape.sum(name, &[]) + 0.0);
        for sample in scrape.all(name, &[]).filter(|sample| sample.value > 0.0) {
            println!("  {:?}: {}", sample.labels, sample.value);
        }
    }
}

#[test]
fn nothing_grows_and_nothing_drifts() {
    let _kernel = live!();
    let minutes = std::env::var(MINUTES).ok().map(|text| text.parse::<f64>().unwrap());
    let whole = Duration::from_secs_f64(minutes.unwrap_or_default() * 60.0);
    let receiver = Receiver::start();
    let agent = Agent::start(Wish {
        otlp: Some(receiver.address()),
        events: "otlp: test",
        env: &[("TELESONDE_SERIES_TTL", SERIES_TTL)],
        all: minutes.is_some(),
        collectors: &[
            "file_io: {enabled: true}",
            "network: {enabled: true}",
            "tcp: {enabled: true}",
            "dns: {enabled: true}",
        ],
        ..Wish::default()
    });
    let mount = Mount::tmpfs();
    let (mut truth, mut brief, mut taken) = (Truth::new(), (0.0, 0.0), Vec::new());
    let begin = Instant::now();
    let mut rounds = 0;
    while rounds == 0 || begin.elapsed() < whole {
        let (done, counted) = round(rounds, &agent, &mount, &mut truth);
        brief = (brief.0 + done, brief.1 + counted);
        rounds += 1;
        taken.push(Taken::by(&agent, begin.elapsed().as_secs_f64() / whole.as_secs_f64()));
    }
    let scrape = agent.scrape();
    println!("{:.1} minutes, {rounds} rounds, {} series at the end", whole.as_secs_f64() / 60.0, scrape.0.len());
    let wrong = print_truth(&truth, brief, &scrape);
    print_lost(&scrape);
    let skipped = scrape.skipped(&["sys_enter", "sys_exit"]);
    let growth = minutes.map(|_| print_taken(&taken));
    assert!(wrong <= skipped, "the sums are wrong by {wrong}");
    assert!(growth.is_none_or(|growth| growth < GROWTH), "resident memory has grown");
    agent.stop();
}
