//! How the agent begins and ends.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use crate::harness::agent::{Agent, Wish};
use crate::harness::cgroup::Cgroup;
use crate::harness::otlp::Receiver;
use crate::harness::{eventually, live, stimulus};

fn loaded(ids: &[u32]) -> Vec<u32> {
    let loaded = aya::programs::loaded_programs().flatten().map(|program| program.id());
    loaded.filter(|id| ids.contains(id)).collect()
}

#[test]
fn nothing_stays_attached() {
    let _kernel = live!();
    let agent = Agent::start(Wish::default());
    let programs = agent.programs();
    assert!(!programs.is_empty(), "the agent holds programs");
    let status = std::fs::read_to_string(format!("/proc/{}/status", agent.pid())).unwrap();
    assert!(status.contains("NoNewPrivs:\t1"), "it can gain nothing: {status}");
    assert_eq!(loaded(&programs).len(), programs.len());
    agent.stop();
    eventually("the kernel has freed the programs", || loaded(&programs).is_empty().then_some(()));
}

#[test]
fn nothing_stays_attached_after_a_crash() {
    let _kernel = live!();
    let mut agent = Agent::start(Wish::default());
    let programs = agent.programs();
    assert!(!programs.is_empty(), "the agent holds programs");
    agent.signal("KILL");
    agent.wait();
    eventually("the kernel has freed the programs", || loaded(&programs).is_empty().then_some(()));
}

#[test]
fn the_last_calls_are_flushed() {
    let _kernel = live!();
    let receiver = Receiver::start();
    let (otlp, endpoint) = (Some(receiver.address()), "interval: 1h");
    let agent = Agent::start(Wish { otlp, endpoint, ..Wish::default() });
    let cgroup = Cgroup::new("flush");
    stimulus::run(&cgroup, &["getppid=4321"]);
    agent.stop();
    let labels = [("cgroup.path", cgroup.path()), ("syscall", "getppid")];
    assert_eq!(receiver.number("ebpf_syscall_count", &labels), Some(4321.0));
}

#[test]
fn the_second_signal_ends_it_at_once() {
    let _kernel = live!();
    // An endpoint that accepts and never answers keeps the final flush waiting.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let otlp = Some(listener.local_addr().unwrap());
    let mut agent = Agent::start(Wish { otlp, shutdown_timeout: "50s", ..Wish::default() });
    let begin = Instant::now();
    agent.scrape();
    assert!(begin.elapsed() < Duration::from_secs(30), "such an endpoint does not delay a scrape");
    let begin = Instant::now();
    agent.signal("TERM");
    std::thread::sleep(Duration::from_secs(1));
    assert!(agent.is_running(), "the first signal leaves time for the flush: {}", agent.log());
    agent.signal("TERM");
    let status = agent.wait();
    assert!(!status.success(), "what was not flushed is a failure: {status}");
    assert!(begin.elapsed() < Duration::from_secs(30), "the second signal does not wait");
}

#[test]
fn a_second_instance_refuses_and_names_the_first() {
    let _kernel = live!();
    let agent = Agent::start(Wish::default());
    let output = agent.second();
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{message}");
    assert!(message.contains(&format!("pid {}", agent.pid())), "{message}");
    assert!(agent.status().is_some(), "the first one goes on");
    agent.stop();
}
