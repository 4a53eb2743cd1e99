//! The agent as a process of its own.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use aya::maps::{HashMap, Map, MapData, PerCpuHashMap};
use serde_json::Value;

use super::scrape::{self, Scrape};
use super::{DEADLINE, directory, eventually};

/// A running agent with the syscalls collector; it is killed when the test ends without stopping it.
pub struct Agent {
    child: Child,
    program: PathBuf,
    directory: PathBuf,
    hidden: Vec<String>,
    prometheus: SocketAddr,
}

/// The environment variable with which agents run only the collectors that their tests name: in a guest that is emulated
/// the kernel takes seconds to verify the programs of all.
const ALONE: &str = "TELESONDE_TEST_ALONE";

/// Says whether this machine is emulated, where moving gigabytes takes minutes.
pub fn is_emulated() -> bool {
    std::env::var_os(ALONE).is_some()
}

/// Makes a program that runs the agent as a shell does after some commands.
pub fn wrapped(directory: &Path, script: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let program = directory.join("wrapped");
    let telesonde = env!("CARGO_BIN_EXE_telesonde");
    fs::write(&program, format!("#!/bin/sh\nprogram={telesonde}\n{script}\nexec $program \"$@\"\n")).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    program
}

/// What a test wants of its agent beyond the defaults.
#[derive(Clone, Copy, Default)]
pub struct Wish<'w> {
    /// Another program than the product's own.
    pub program: Option<&'w Path>,
    /// The sections of further collectors, each a line of YAML.
    pub collectors: &'w [&'w str],
    /// Whether all other collectors have to run as well, even where [`ALONE`] is set.
    pub all: bool,
    /// Whether no other collectors run: the agent is there sooner.
    pub alone: bool,
    /// The section of the syscalls collector, in YAML's flow style without the braces.
    pub syscalls: &'w str,
    /// Further keys of `integrations.ebpf`, each a line of YAML.
    pub ebpf: &'w [&'w str],
    /// The section enrich, in YAML's flow style without the braces; empty for the defaults.
    pub enrich: &'w str,
    /// Where to push OTLP over HTTP.
    pub otlp: Option<SocketAddr>,
    /// How the endpoint is set beyond that, in YAML's flow style without the braces; empty for a push every second.
    pub endpoint: &'w str,
    /// The section exporters.events, in YAML's flow style without the braces; empty for no events.
    pub events: &'w str,
    /// How long the final flush may take; empty for the default.
    pub shutdown_timeout: &'w str,
    /// The node's name; empty for the host's.
    pub node: &'w str,
    /// Environment variables.
    pub env: &'w [(&'w str, &'w str)],
    /// Directories that the agent finds empty.
    pub hidden: &'w [&'w str],
}

impl Agent {
    /// Starts an agent and waits until it is ready.
    pub fn start(wish: Wish<'_>) -> Self {
        let mut agent = Self::begin(wish);
        let status = eventually("the agent is ready", || {
            if let Some(status) = agent.child.try_wait().unwrap() {
                panic!("the agent ended with {status}: {}", agent.log());
            }
            // The socket is the last thing that it opens, after the first gather.
            agent.status()
        });
        let address = &status["listeners"]["prometheus"];
        agent.prometheus =
            address.as_str().and_then(|address| address.parse().ok()).unwrap_or_else(|| panic!("no address: {status}"));
        agent
    }

    /// Starts an agent that does not come up; gives its exit code and what it said.
    pub fn refused(wish: Wish<'_>) -> (Option<i32>, String) {
        let mut agent = Self::begin(wish);
        let status = agent.wait();
        (status.code(), agent.log())
    }

    /// Lets the agent examine the host for an agent with the wishes; gives the exit code and the report.
    pub fn check(wish: Wish<'_>) -> (Option<i32>, Value) {
        let directory = directory("check");
        let program = Self::prepare(wish, &directory);
        let mut command = command(&program, &directory, &["check", "--format", "json"], wish.hidden);
        let report = examine(command.envs(wish.env.iter().copied()));
        fs::remove_dir_all(&directory).unwrap();
        report
    }

    /// Lets another process examine the host with the configuration of this agent; gives the exit code and the report.
    pub fn examine(&self) -> (Option<i32>, Value) {
        examine(&mut command(&self.program, &self.directory, &["check", "--format", "json"], &[]))
    }

    fn begin(wish: Wish<'_>) -> Self {
        let directory = directory("agent");
        let program = Self::prepare(wish, &directory);
        let hidden = wish.hidden.iter().map(|&path| path.to_owned()).collect();
        let log = fs::File::create(directory.join("log")).unwrap();
        let mut command = command(&program, &directory, &["run"], wish.hidden);
        command.envs(wish.env.iter().copied());
        let child = command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        Self { child, program, directory, hidden, prometheus: ([127, 0, 0, 1], 0).into() }
    }

    /// Writes the configuration; gives the program.
    fn prepare(wish: Wish<'_>, directory: &Path) -> PathBuf {
        let endpoint = if wish.endpoint.is_empty() { "interval: 1s" } else { wish.endpoint };
        let otlp = wish.otlp.map_or_else(String::new, |address| {
            format!(
                "  otlp:\n    test: {{endpoint: \"http://{address}\", protocol: http/protobuf, compression: none, {endpoint}}}\n"
            )
        });
        let timeout = match wish.shutdown_timeout {
            "" => String::new(),
            timeout => format!("shutdown_timeout: {timeout}\n"),
        };
        let events = if wish.events.is_empty() { "otlp: ''" } else { wish.events };
        let separator = if wish.syscalls.is_empty() { "" } else { ", " };
        let mut collectors: String = wish.collectors.iter().map(|line| ["      ", line, "\n"].concat()).collect();
        if wish.alone || is_emulated() && !wish.all {
            let is_named = |name: &str| wish.collectors.iter().any(|line| line.split(':').next() == Some(name));
            // What needs nothing of the kernel has its keys elsewhere, and is off unless it is set up.
            let others = collectors::ALL.iter().filter(|one| !one.needs.is_empty()).map(|one| one.name);
            for name in others.filter(|name| !["syscalls", "cgroup"].contains(name) && !is_named(name)) {
                collectors += &["      ", name, ": {enabled: false}\n"].concat();
            }
        }
        let ebpf: String = wish.ebpf.iter().map(|line| ["    ", line, "\n"].concat()).collect();
        let config = format!(
            "agent: {{node_name: \"{}\"}}\nintegrations:\n  ebpf:\n{ebpf}    collectors:\n      syscalls: {{enabled: require{separator}{}}}\n{collectors}\
             exporters:\n  prometheus: {{listen: \"127.0.0.1:0\", max_age: 0s}}\n  events: {{{events}}}\n{otlp}\
             health: {{listen: \"127.0.0.1:0\"}}\nenrich: {{{}}}\nadmin: {{socket: \"{}\"}}\n{timeout}",
            wish.node,
            wish.syscalls,
            wish.enrich,
            directory.join("admin.sock").display(),
        );
        fs::write(directory.join("telesonde.yaml"), config).unwrap();
        wish.program.unwrap_or(Path::new(env!("CARGO_BIN_EXE_telesonde"))).to_owned()
    }

    /// Runs a second agent with the same configuration to its end.
    pub fn second(&self) -> Output {
        self.tool(&["run"])
    }

    /// Runs another subcommand with the same configuration to its end.
    pub fn tool(&self, subcommand: &[&str]) -> Output {
        let hidden: Vec<&str> = self.hidden.iter().map(String::as_str).collect();
        let mut command = command(&self.program, &self.directory, subcommand, &hidden);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).output().unwrap()
    }

    /// Replaces some of the configuration's text, and the file at once, as an editor does.
    pub fn rewrite(&self, replacements: &[(&str, &str)]) {
        let file = self.directory.join("telesonde.yaml");
        let mut text = fs::read_to_string(&file).unwrap();
        for (before, after) in replacements {
            assert!(text.contains(before), "{before} does not stand in {text}");
            text = text.replacen(before, after, 1);
        }
        fs::write(self.directory.join("new"), text).unwrap();
        fs::rename(self.directory.join("new"), file).unwrap();
    }

    /// Lets the agent read its configuration again; gives the exit code of the command and what it says.
    pub fn reload(&self) -> (Option<i32>, Value) {
        examine(&mut command(&self.program, &self.directory, &["reload", "--format", "json"], &[]))
    }

    /// Gives the answer of the probe of readiness.
    pub fn readiness(&self) -> (u16, String) {
        let status = self.status().unwrap();
        let address = status["listeners"]["health"].as_str().unwrap().parse().unwrap();
        scrape::get(address, "/readyz").unwrap()
    }

    /// Gives `/status` of the admin socket, if it answers.
    pub fn status(&self) -> Option<Value> {
        let (code, body) = scrape::get_unix(&self.directory.join("admin.sock"), "/status").ok()?;
        (code == 200).then(|| serde_json::from_str(&body).unwrap())
    }

    /// Says whether a collector is degraded for a reason that has these words. It must be so on kernels before a version,
    /// and on no others.
    pub fn lacks(&self, collector: &str, words: &str, before: (u32, u32)) -> bool {
        let status = self.status().unwrap();
        let integrations = status["integrations"].as_array().unwrap();
        let state = integrations.iter().find(|one| one["name"] == collector).unwrap().to_string();
        let lacks = state.contains("degraded") && state.contains(words);
        let facts = bpf::probe::Facts::gather();
        assert_eq!(lacks, facts.version < before, "Linux {}: {state}", facts.release);
        lacks
    }

    /// Gives the text of a scrape.
    pub fn page(&self) -> String {
        let (code, body) = scrape::get(self.prometheus, "/metrics").unwrap();
        assert_eq!(code, 200, "{body}");
        body
    }

    /// Scrapes the agent.
    pub fn scrape(&self) -> Scrape {
        Scrape::parse(&self.page())
    }

    /// Scrapes until something is there.
    pub fn until<T>(&self, what: &str, mut look: impl FnMut(&Scrape) -> Option<T>) -> T {
        eventually(what, || look(&self.scrape()))
    }

    /// Scrapes until something is as it should be, or else rests for some seconds; gives it.
    pub fn at_rest<T: PartialEq>(
        &self,
        what: &str,
        read: impl Fn(&Scrape) -> T,
        as_it_should_be: impl Fn(&T) -> bool,
    ) -> T {
        let (mut last, mut unchanged) = (None, 0);
        self.until(what, |scrape| {
            let found = Some(read(scrape));
            unchanged = if found == last { unchanged + 1 } else { 0 };
            last = found;
            last.take_if(|found| as_it_should_be(found) || unchanged == 60)
        })
    }

    /// Scrapes until bytes and packets, or any other two amounts, are so many; never more.
    pub fn until_exactly(&self, what: &str, expected: (f64, f64), read: impl Fn(&Scrape) -> (f64, f64)) {
        let mut last = (-1.0, -1.0);
        self.until(&format!("{what} has {expected:?}"), |scrape| {
            let now = read(scrape);
            if now != last {
                println!("{what} has {now:?}, not yet {expected:?}");
            }
            last = now;
            assert!(now.0 <= expected.0 && now.1 <= expected.1, "{what}: {now:?}, not {expected:?}");
            (now == expected).then_some(())
        });
    }

    /// Gives the rules of cgroups, as the kernel has them.
    pub fn rules(&self) -> BTreeMap<u64, u32> {
        let rules = HashMap::<_, u64, u32>::try_from(self.map("cgroup_rules")).unwrap();
        rules.iter().flatten().collect()
    }

    /// Gives the least and the median time that a collector takes for a round, in milliseconds.
    pub fn rounds(&self, collector: &str) -> (f64, f64) {
        let mut last = (0.0, 0.0);
        let mut each = Vec::new();
        for _ in 0..41 {
            let scrape = self.scrape();
            let part = |part: &str| {
                let name = format!("telesonde_collection_duration_seconds_{part}");
                scrape.value(&name, &[("collector", collector)]).unwrap_or_default()
            };
            let now = (part("sum"), part("count"));
            if now.1 > last.1 {
                each.push((now.0 - last.0) / (now.1 - last.1) * 1000.0);
            }
            last = now;
        }
        // The first is a mean since the start.
        each.remove(0);
        each.sort_by(f64::total_cmp);
        (each[0], each[each.len() / 2])
    }

    /// Gives how many entries of a kernel map of the syscalls collector are in use.
    pub fn map_entries(&self, map: &str) -> u64 {
        let status = self.status().unwrap();
        let named = |list: &Value, name: &str| list.as_array()?.iter().find(|item| item["name"] == name).cloned();
        let map = named(&status["integrations"], "syscalls").and_then(|collector| named(&collector["maps"], map));
        map.and_then(|map| map["entries"].as_u64()).unwrap_or_else(|| panic!("no such map: {status}"))
    }

    /// Gives the agent's process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Gives the bytes of the agent's memory that are in RAM.
    pub fn resident(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.strip_suffix("kB"));
        resident.and_then(|number| number.trim().parse::<u64>().ok()).unwrap() * 1024
    }

    /// Gives how many descriptors the agent holds.
    pub fn open_descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap().count()
    }

    /// Gives the bytes of kernel memory of all maps that the agent holds, as the kernel tells them.
    pub fn map_memory(&self) -> u64 {
        let number = |text: &str, key: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(key));
            value.and_then(|value| value.trim().parse::<u64>().ok())
        };
        let descriptors = self.descriptors();
        let maps = descriptors.iter().filter_map(|text| Some((number(text, "map_id:")?, number(text, "memlock:")?)));
        maps.collect::<BTreeMap<_, _>>().values().sum()
    }

    /// Sends a signal.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args(["-s", name, &self.pid().to_string()]).status().unwrap();
        assert!(status.success());
    }

    /// Says whether the agent still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits until the agent has ended.
    pub fn wait(&mut self) -> ExitStatus {
        let begin = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(begin.elapsed() < DEADLINE, "the agent does not end: {}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Stops the agent as a service manager does; fails the test when it does not end well.
    pub fn stop(mut self) {
        self.signal("TERM");
        let status = self.wait();
        assert!(status.success(), "the agent ended with {status}: {}", self.log());
    }

    /// Gives the ids of the BPF programs that the agent holds.
    pub fn programs(&self) -> Vec<u32> {
        self.ids("prog_id:")
    }

    /// Gives the ids of cgroups, or of executables, that are keys of the map `calls` of the syscalls collector, as the kernel has it.
    pub fn counted_cgroups(&self) -> Vec<u64> {
        let calls = PerCpuHashMap::<_, [u64; 2], u64>::try_from(self.map("calls")).unwrap();
        calls.keys().flatten().map(|[cgroup, _]| cgroup).collect()
    }

    /// Gives the ids of the executables of a cgroup, as the kernel has them.
    pub fn executables(&self, cgroup: u64) -> Vec<u64> {
        let executables = HashMap::<_, u64, [u64; 3]>::try_from(self.map("executables")).unwrap();
        executables.iter().flatten().filter(|(_, of)| of[0] == cgroup).map(|(id, _)| id).collect()
    }

    fn map(&self, name: &str) -> Map {
        let ids = self.ids("map_id:");
        let mut maps = aya::maps::loaded_maps().flatten();
        let found = maps.find(|map| ids.contains(&map.id()) && map.name_as_str() == Some(name)).unwrap();
        Map::from_map_data(MapData::from_id(found.id()).unwrap()).unwrap()
    }

    fn ids(&self, key: &str) -> Vec<u32> {
        let descriptors = self.descriptors();
        let lines = descriptors.iter().flat_map(|text| text.lines());
        let mut ids: Vec<u32> = lines.filter_map(|line| line.strip_prefix(key)?.trim().parse().ok()).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// Gives what the kernel says of each BPF link that the agent holds.
    pub fn links(&self) -> Vec<String> {
        self.descriptors().into_iter().filter(|text| text.contains("link_type:")).collect()
    }

    /// Gives what the kernel says of each descriptor that the agent holds.
    fn descriptors(&self) -> Vec<String> {
        let entries = fs::read_dir(format!("/proc/{}/fdinfo", self.pid())).unwrap().flatten();
        // A descriptor may be closed between the listing and the reading.
        entries.filter_map(|entry| fs::read_to_string(entry.path()).ok()).collect()
    }

    /// Gives what the agent has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn examine(command: &mut Command) -> (Option<i32>, Value) {
    let output = command.output().unwrap();
    let report = serde_json::from_slice(&output.stdout);
    (output.status.code(), report.unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr))))
}

fn command(program: &Path, directory: &Path, arguments: &[&str], hidden: &[&str]) -> Command {
    let mut command = if hidden.is_empty() {
        Command::new(program)
    } else {
        // In a mount namespace of its own something empty is mounted over each.
        let mut command = Command::new("unshare");
        let mounts: String = hidden.iter().flat_map(|path| ["mount -t tmpfs none ", path, " && "]).collect();
        command.args(["--mount", "sh", "-c", &format!("{mounts}exec \"$0\" \"$@\"")]).arg(program);
        command
    };
    command.args(arguments).arg("--config").arg(directory.join("telesonde.yaml")).stdin(Stdio::null());
    // What the environment of the tests says of OpenTelemetry is not for the agent.
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("OTEL_") || name.starts_with("TELESONDE_")) {
        command.env_remove(name);
    }
    command
}
