//! Whoever reaches the listener can keep it busy, but neither the gathers nor the memory.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::harness::agent::{Agent, Wish};
use crate::harness::cgroup::Cgroup;
use crate::harness::otlp::Receiver;
use crate::harness::scrape::{self, Scrape};
use crate::harness::{eventually, live, stimulus};

/// What a crowd may take for a moment: 64 connections with their buffers, and some rounding.
const ROOM: u64 = 32 << 20;

/// How many connect at the same time: who finds the accept queue full comes back a second later.
const GATES: usize = 50;

/// Gives so many connections that have all sent some bytes, as far as they were not closed at once.
fn crowd(address: SocketAddr, size: usize, bytes: &[u8]) -> Vec<TcpStream> {
    let connect = |_| {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(20)).ok()?;
        // One that was refused is reset.
        stream.write_all(bytes).ok()?;
        Some(stream)
    };
    std::thread::scope(|scope| {
        let part = || (0..size / GATES).filter_map(connect).collect::<Vec<_>>();
        let gates: Vec<_> = (0..GATES).map(|_| scope.spawn(part)).collect();
        gates.into_iter().flat_map(|gate| gate.join().unwrap()).collect()
    })
}

#[test]
fn a_crowd_at_the_listener_delays_no_gather_and_takes_no_memory() {
    let _kernel = live!();
    let before = getrlimit(Resource::Nofile);
    let wanted = Rlimit { current: before.maximum.map(|most| most.min(12_000)).or(Some(12_000)), ..before };
    setrlimit(Resource::Nofile, wanted).unwrap();
    let receiver = Receiver::start();
    // As by default, scrapes share a gather of the last second; and what they get is short.
    let env = [("TELESONDE_EXPORTERS__PROMETHEUS__MAX_AGE", "1s")];
    let needless =
        collectors::ALL.iter().map(|one| one.name).filter(|name| !["syscalls", "cgroup", "hubble"].contains(name));
    let needless: Vec<_> = needless.map(|name| format!("{name}: {{enabled: false}}")).collect();
    let needless: Vec<_> = needless.iter().map(String::as_str).collect();
    let otlp = Some(receiver.address());
    let agent = Agent::start(Wish {
        otlp,
        env: &env,
        collectors: &needless,
        syscalls: "syscalls: [getppid]",
        ..Wish::default()
    });
    let address: SocketAddr = agent.status().unwrap()["listeners"]["prometheus"].as_str().unwrap().parse().unwrap();
    let cgroup = Cgroup::new("crowd");
    let labels = [("cgroup.path", cgroup.path()), ("syscall", "getppid")];
    let mut done = 0.0;
    let mut pushed = || {
        stimulus::run(&cgroup, &["getppid=10"]);
        done += 10.0;
        eventually("the calls are pushed all the same", || {
            (receiver.number("ebpf_syscall_count", &labels) == Some(done)).then_some(())
        });
    };
    agent.page();
    pushed();
    let begin = agent.resident();

    // Clients that never finish their requests: they fill the listener until their time is up.
    let slow = crowd(address, 500, b"GET /metrics HTTP/1.1\r\nHost: x\r\nX-Slow: ");
    pushed();
    let grown = agent.resident().saturating_sub(begin);
    assert!(grown < ROOM, "{} slow clients cost {grown} bytes", slow.len());
    drop(slow);

    // And as many scrapes at once as a test may have descriptors.
    let size = getrlimit(Resource::Nofile).current.map_or(10_000, |most| most.saturating_sub(1_000).min(10_000));
    let scrapes = crowd(address, size as usize, b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    pushed();
    let grown = agent.resident().saturating_sub(begin);
    assert!(grown < ROOM, "{size} scrapes cost {grown} bytes");
    let mut answered = 0;
    for mut stream in scrapes {
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut head = [0; 12];
        answered += usize::from(stream.read_exact(&mut head).is_ok() && &head == b"HTTP/1.1 200");
    }
    let refused = eventually("who was refused is counted", || {
        // The last of the crowd may still be there.
        let (code, body) = scrape::get(address, "/metrics").ok()?;
        let labels = [("outcome", "refused")];
        (code == 200).then(|| Scrape::parse(&body).value("telesonde_scrapes_total", &labels)).flatten()
    });
    println!("{answered} of {size} scrapes were answered, {refused} connections refused, {grown} bytes more");
    assert!(answered > 0, "some are served");
    agent.stop();
    setrlimit(Resource::Nofile, before).unwrap();
}
