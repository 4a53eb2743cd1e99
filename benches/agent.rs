//! The agent as it ships: what it takes when nothing happens, and how steady its rates are.

use std::error::Error;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::load::Load;
use crate::measure::{self, median};

const IDLE: Duration = Duration::from_secs(30);
/// As often as a Prometheus with default settings would.
const IDLE_SCRAPE: Duration = Duration::from_secs(15);
const GOAL_MEBIBYTES: f64 = 40.0;
const GOAL_CPU_PERCENT: f64 = 0.2;
const STARTS: usize = 5;
const GOAL_START_SECONDS: f64 = 1.0;

const SCRAPES: usize = 40;
const SCRAPE_INTERVAL: Duration = Duration::from_secs(1);
/// A fifth of what one core can do.
const CALLS_PER_MILLISECOND: u64 = 500;
const GOAL_SPREAD_PERCENT: f64 = 2.0;

/// How long the agent may take to start.
const PATIENCE: Duration = Duration::from_secs(30);

struct Agent {
    child: Child,
    directory: PathBuf,
    address: SocketAddr,
    /// From its start to the end of its first scrape, which is complete: nothing is served before every collector has
    /// been tried and read.
    start: Duration,
}

impl Agent {
    fn start() -> Result<Self, Box<dyn Error>> {
        let address = free_address()?;
        let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("bench-{}", std::process::id()));
        fs::create_dir_all(&directory)?;
        let config = format!(
            "exporters:\n  prometheus: {{listen: \"{address}\", max_age: 0s}}\nhealth: {{listen: \"127.0.0.1:0\"}}\n\
             admin: {{socket: \"{}\"}}\n",
            directory.join("admin.sock").display()
        );
        fs::write(directory.join("telesonde.yaml"), config)?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_telesonde"));
        command.args(["run", "--quiet", "--config"]).arg(directory.join("telesonde.yaml"));
        let log = fs::File::create(directory.join("log"))?;
        let begun = Instant::now();
        let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
        let mut agent = Self { child, directory, address, start: Duration::ZERO };
        while agent.scrape().is_err() {
            if begun.elapsed() > PATIENCE || agent.child.try_wait()?.is_some() {
                let log = fs::read_to_string(agent.directory.join("log"))?;
                return Err(format!("the agent does not serve: {log}").into());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        agent.start = begun.elapsed();
        Ok(agent)
    }

    fn scrape(&self) -> io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&self.address, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        if answer.starts_with("HTTP/1.0 200") || answer.starts_with("HTTP/1.1 200") {
            Ok(answer)
        } else {
            Err(io::Error::other(answer.lines().next().unwrap_or_default().to_owned()))
        }
    }

    /// Gives the time that the agent's threads have spent on a CPU, in nanoseconds.
    /// `/proc/PID/stat` has it in steps of 10 ms only, which is more than the idle agent takes in a gather.
    fn cpu_time(&self) -> Result<Duration, Box<dyn Error>> {
        let mut total = 0;
        for task in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            // A thread may end meanwhile.
            let text = fs::read_to_string(task?.path().join("schedstat")).unwrap_or_default();
            total += text.split(' ').next().and_then(|time| time.parse::<u64>().ok()).unwrap_or_default();
        }
        Ok(Duration::from_nanos(total))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // What it had attached goes with it.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Gives an address that nobody listens on now.
fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0")?.local_addr()
}

/// Prints what the agent takes when all it has to do is a scrape every 15 s.
pub fn idle() -> Result<(), Box<dyn Error>> {
    let agent = Agent::start()?;
    std::thread::sleep(Duration::from_secs(2));
    let (begun, before) = (Instant::now(), agent.cpu_time()?);
    while begun.elapsed() < IDLE {
        std::thread::sleep(IDLE_SCRAPE);
        agent.scrape()?;
    }
    let percent = agent.cpu_time()?.saturating_sub(before).as_secs_f64() / begun.elapsed().as_secs_f64() * 100.0;
    let mebibytes = |field| {
        let bytes = measure::memory(agent.child.id(), field).ok_or(format!("/proc has no {field} of the agent"))?;
        Ok::<_, Box<dyn Error>>(bytes as f64 / f64::from(1 << 20))
    };
    let (resident, peak) = (mebibytes("VmRSS")?, mebibytes("VmHWM")?);
    let lines = agent.scrape()?.lines().filter(|line| !line.starts_with('#')).count();
    drop(agent);
    let starts: Result<Vec<f64>, Box<dyn Error>> =
        (0..STARTS).map(|_| Agent::start().map(|agent| agent.start.as_secs_f64())).collect();
    let start = median(&mut starts?);
    println!(
        "idle agent with the default configuration, {} s, a scrape every {} s:",
        IDLE.as_secs(),
        IDLE_SCRAPE.as_secs()
    );
    println!(
        "{:<28} {resident:.1} MiB (peak {peak:.1}), {lines} samples: goal {GOAL_MEBIBYTES}: {}",
        "resident memory",
        verdict(resident, GOAL_MEBIBYTES)
    );
    println!(
        "{:<28} {start:.2} s, median of {STARTS}: goal {GOAL_START_SECONDS}: {}",
        "start to a complete scrape",
        verdict(start, GOAL_START_SECONDS)
    );
    println!("{:<28} {percent:.3} % of a core: goal {GOAL_CPU_PERCENT}: {}", "CPU", verdict(percent, GOAL_CPU_PERCENT));
    Ok(())
}

/// Prints how far the rates of a constant load lie apart.
pub fn rate(cpu: usize) -> Result<(), Box<dyn Error>> {
    let agent = Agent::start()?;
    let mut load = Load::start(cpu)?;
    load.pace(CALLS_PER_MILLISECOND, SCRAPE_INTERVAL * (SCRAPES as u32 + 10))?;
    std::thread::sleep(Duration::from_secs(2));
    let mut samples = Vec::new();
    let begun = Instant::now();
    for scrape in 0..=SCRAPES as u32 {
        let due = begun + SCRAPE_INTERVAL * scrape;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let at = begun.elapsed().as_secs_f64();
        samples.push((at, calls(&agent.scrape()?).ok_or("the scrape has no getppid")?));
    }
    let rate = |pair: &[(f64, f64)]| (pair[1].1 - pair[0].1) / (pair[1].0 - pair[0].0);
    let mut rates: Vec<f64> = samples.windows(2).map(rate).collect();
    let middle = median(&mut rates);
    let spread = (rates[rates.len() - 1] - rates[0]) / middle * 100.0;
    let expected = CALLS_PER_MILLISECOND * 1000;
    println!("rate() of a constant {expected} calls a second over {SCRAPES} scrapes, one a second:");
    println!("{:<28} {middle:.0} a second", "median");
    println!(
        "{:<28} {spread:.2} % of the median: goal {GOAL_SPREAD_PERCENT}: {}",
        "from least to most",
        verdict(spread, GOAL_SPREAD_PERCENT)
    );
    Ok(())
}

/// Gives the sum of all workloads' getppid calls.
fn calls(text: &str) -> Option<f64> {
    let ours = |line: &&str| line.starts_with("ebpf_syscall_count_total{") && line.contains("syscall=\"getppid\"");
    let values: Vec<f64> = text.lines().filter(ours).filter_map(|line| line.rsplit(' ').next()?.parse().ok()).collect();
    (!values.is_empty()).then(|| values.iter().sum())
}

fn verdict(value: f64, goal: f64) -> &'static str {
    if value <= goal { "met" } else { "missed" }
}
