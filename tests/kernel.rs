//! What the agent says of things that are known to have happened, on the live kernel.

mod block;
mod budget;
mod cgroup;
mod churn;
mod connection;
mod container;
mod counts;
mod dns;
mod faults;
mod file_io;
mod filter;
mod flood;
mod foreign;
mod granularity;
mod hooks;
mod host;
mod life;
mod limits;
mod memory;
mod memory_limit;
mod names;
mod network;
mod outage;
mod privileges;
mod process;
mod profile;
mod quantiles;
mod reload;
mod restart;
mod samples;
mod scheduler;
mod scrapes;
mod soak;
mod steady;
mod tcp;

use crate::harness::agent::{Agent, Wish};
use crate::harness::cgroup::{Cgroup, io};
use crate::harness::{live, stimulus};

/// How to make the kernel do what a collector watches, and which metric of the workload must move.
pub struct Stimulus {
    /// The collector's name.
    pub collector: &'static str,
    /// What to do within a new cgroup.
    pub actions: &'static [&'static str],
    /// The sample as it stands in a scrape.
    pub sample: &'static str,
}

/// One line for each collector.
pub const STIMULI: &[Stimulus] = &[
    // The directory is there as long as the test: what it holds is more than nothing.
    Stimulus { collector: "cgroup", actions: &["resident_pages=9"], sample: "cgroup_memory_usage_bytes" },
    Stimulus { collector: "dns", actions: &["dns_query=1"], sample: "ebpf_dns_queries_total" },
    // Series of connections name two workloads: tests/kernel/connection.rs looks at them.
    Stimulus { collector: "connection", actions: &["datagrams=5"], sample: "ebpf_active_connections" },
    Stimulus { collector: "network", actions: &["datagrams=5"], sample: "ebpf_network_packets_total" },
    Stimulus { collector: "block", actions: &["direct_writes=1"], sample: "ebpf_block_io_bytes_total" },
    Stimulus { collector: "file_io", actions: &["exec=1"], sample: "ebpf_file_open_count_total" },
    // It measures nothing itself: tests/kernel/process.rs looks at its events.
    Stimulus { collector: "process", actions: &["exec=1"], sample: "ebpf_syscall_count_total" },
    Stimulus { collector: "syscalls", actions: &["openat_enoent=1"], sample: "ebpf_syscall_errors_total" },
    Stimulus { collector: "tcp", actions: &["tcp_refused=1"], sample: "ebpf_tcp_connect_errors_total" },
    Stimulus { collector: "scheduler", actions: &["nanosleep=5:1000"], sample: "ebpf_context_switches_total" },
    Stimulus { collector: "memory", actions: &["getppid=1"], sample: "ebpf_page_faults_total" },
];

#[test]
fn every_collector_sees_what_it_watches() {
    let _kernel = live!();
    let agent = Agent::start(Wish { all: true, ..Wish::default() });
    stimulate(&agent);
    agent.stop();
}

/// Does what each collector watches, and waits until the agent tells of it.
fn stimulate(agent: &Agent) {
    for stimulus in STIMULI {
        let cgroup = Cgroup::new(stimulus.collector);
        // Version 1 charges I/O by a hierarchy of its own.
        let io = cgroup.twin(&io().unwrap());
        let enter = io.iter().map(|io| format!("enter={}", io.directory().display())).collect::<Vec<_>>();
        let actions = enter.iter().map(String::as_str).chain(stimulus.actions.iter().copied()).collect::<Vec<_>>();
        stimulus::run(&cgroup, &actions);
        let labels = [("cgroup_path", cgroup.path())];
        agent.until(stimulus.sample, |scrape| (scrape.sum(stimulus.sample, &labels) > 0.0).then_some(()));
    }
}
