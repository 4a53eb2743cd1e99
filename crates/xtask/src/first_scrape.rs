//! `cargo xtask first-scrape`: how long the built agent takes from its start until a scrape shows what all its collectors
//! found; the first one is complete, because nothing is served before every collector has been tried.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::process;

const DEADLINE: Duration = Duration::from_mins(1);

/// Starts the release binary with its defaults, on a port of its own, and prints the time to the first useful scrape.
///
/// # Errors
/// Fails when the agent does not start, ends, or shows nothing of the kernel within a minute.
pub fn run() -> Result<()> {
    let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
    let dir = std::env::temp_dir().join(format!("telesonde-first-scrape-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    let started = Instant::now();
    let mut agent = Command::new(process::target().join("release/telesonde"))
        .args(["run", "--set", &format!("exporters.prometheus.listen=127.0.0.1:{port}")])
        .args(["--set", "health.listen=127.0.0.1:0"])
        .args(["--set", &format!("admin.socket={}", dir.join("admin.sock").display())])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .context("cannot start the release binary; build it with `cargo build --release`")?;
    let result = wait(&mut agent, port, started);
    // SIGTERM by the shell's own kill: std knows only SIGKILL, and a bare machine may lack kill(1).
    let _ = Command::new("sh").args(["-c", &format!("kill {}", agent.id())]).status();
    let ended = Instant::now();
    while agent.try_wait()?.is_none() {
        if ended.elapsed() > Duration::from_secs(10) {
            let _ = agent.kill();
        }
        sleep(Duration::from_millis(20));
    }
    let _ = std::fs::remove_dir_all(&dir);
    let (took, running) = result?;
    println!("start to first scrape: {:.2} s\ncollectors running: {running}", took.as_secs_f64());
    Ok(())
}

fn wait(agent: &mut Child, port: u16, started: Instant) -> Result<(Duration, usize)> {
    while started.elapsed() < DEADLINE {
        if let Some(status) = agent.try_wait()? {
            bail!("the agent ended with {status} before its first scrape");
        }
        if let Some(body) = scrape(port).ok().filter(|body| body.contains("\nebpf_syscall_count_total{")) {
            return Ok((started.elapsed(), running(&body)));
        }
        sleep(Duration::from_millis(20));
    }
    bail!("no kernel metric was scraped within {} s", DEADLINE.as_secs())
}

/// Counts the collectors that run, be it with less than they could give.
fn running(body: &str) -> usize {
    let states = body.lines().filter(|line| line.starts_with("telesonde_collector_state{") && line.ends_with(" 1"));
    states.filter(|line| line.contains("state=\"running\"") || line.contains("state=\"degraded\"")).count()
}

fn scrape(port: u16) -> Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nAccept: text/plain\r\nConnection: close\r\n\r\n")?;
    let mut body = String::new();
    stream.read_to_string(&mut body)?;
    Ok(body)
}
