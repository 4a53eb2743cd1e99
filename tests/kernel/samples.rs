//! How many samples a whole node has in the exposition: 30 pods of two containers each, all of them busy.

use std::collections::BTreeMap;
use std::path::Path;

use crate::harness::agent::{Agent, Wish};
use crate::harness::cgroup::{Cgroup, io};
use crate::harness::disk::{self, Mount};
use crate::harness::netns::Netns;
use crate::harness::peer::Peer;
use crate::harness::scrape::{Sample, Scrape};
use crate::harness::traffic::Traffic;
use crate::harness::{live, skipped, stimulus};

/// What the default configuration may expose, the agent's own metrics included.
const MOST: usize = 10_000;
const PODS: usize = 30;

/// A container and its half in the hierarchy by which version 1 charges I/O.
struct Container {
    cgroup: Cgroup,
    io: Option<Cgroup>,
}

/// What a service does from its start on: it is loaded, forks, reads and writes files, asks for names, serves and calls.
fn serve(container: &Container, netns: &Netns, port: usize, disk: &Path) -> Peer {
    let chdir = format!("chdir={}", disk.display());
    let enter = container.io.iter().map(|io| format!("enter={}", io.directory().display()));
    let mut actions: Vec<String> = enter.collect();
    actions.extend([chdir, "direct_writes=2".into()]);
    let work = ["openat_enoent=3", "threads=2", "fork=2", "signals=2", "nanosleep=20:1000", "resident_pages=9"];
    actions.extend(work.map(str::to_owned));
    actions.extend(["dns_query=2", "tcp_refused=2", "exec=1"].map(str::to_owned));
    let actions: Vec<_> = actions.iter().map(String::as_str).collect();
    netns.run(|| stimulus::run(&container.cgroup, &actions));
    let mut peer = Peer::start(&container.cgroup, netns);
    peer.ask(&format!("listen 127.0.0.1 {port} 16"));
    assert_eq!(peer.ask(&format!("connect 127.0.0.1 {port} 2")), 2);
    peer.ask("accept 2");
    peer.ask("close 1");
    peer
}

/// What no service does all of: every call on files of two kinds, both families, resets, datagrams, every way to fail.
fn exhaust(container: &Container, netns: &Netns, peer: &mut Peer, port: usize, places: [&Path; 2]) {
    for place in places {
        let both: Vec<_> = [Some(&container.cgroup), container.io.as_ref()].into_iter().flatten().collect();
        stimulus::files(place, "everything=2", &both.iter().map(|cgroup| cgroup.directory()).collect::<Vec<_>>());
    }
    peer.ask("reset 1");
    peer.ask("close 2");
    peer.ask(&format!("attempt 127.0.0.2 {port} 1"));
    peer.ask(&format!("listen ::1 {port} 16"));
    assert_eq!(peer.ask(&format!("connect ::1 {port} 3")), 3);
    peer.ask("accept 3");
    peer.ask("send 9");
    peer.ask("close 1");
    for address in ["127.0.0.1", "::1"] {
        Traffic::run(netns, &container.cgroup, &["udp_send", address, "7", "3", "100"]);
    }
}

/// Scrapes until two looks in a row see as many series, so that all are there.
fn settled(agent: &Agent, above: &Cgroup) -> Scrape {
    let mut before = 0;
    agent.until("no more series come", |scrape| {
        let (now, last) = (scrape.0.iter().filter(|sample| belongs(sample, above)).count(), before);
        before = now;
        (now == last).then(|| scrape.clone())
    })
}

/// Says whether a sample is of the agent, of the node or of a workload below a cgroup, not of others on this machine.
fn belongs(sample: &Sample, above: &Cgroup) -> bool {
    let of_others = |(key, value): (&String, &String)| {
        let names_who = ["cgroup_path", "systemd_unit", "container_id"].iter().any(|name| key.ends_with(name));
        names_who && !value.starts_with(above.path())
    };
    !sample.labels.iter().any(of_others)
}

/// Compares the samples with what is promised, and prints of what they are.
fn check(what: &str, scrape: &Scrape, above: &Cgroup) {
    let mut names: BTreeMap<&str, usize> = BTreeMap::new();
    let counted: Vec<_> = scrape.0.iter().filter(|sample| belongs(sample, above)).collect();
    for sample in &counted {
        let name = &*sample.name;
        let family = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix));
        *names.entry(family.unwrap_or(name)).or_default() += 1;
    }
    let mut names: Vec<_> = names.into_iter().collect();
    names.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    println!("{what}: {} samples, those of others on this machine aside: {}", scrape.0.len(), counted.len());
    for (name, count) in names {
        println!("  {count:6} {name}");
    }
    assert!(counted.len() <= MOST, "{what}: {} samples", counted.len());
}

#[test]
fn a_default_node_stays_within_its_samples() {
    let _kernel = live!();
    if let Err(reason) = disk::permitted().and_then(|()| io().map(drop)) {
        skipped(&reason);
        return;
    }
    let (ext4, tmpfs, netns) = (Mount::ext4(), Mount::tmpfs(), Netns::new());
    let agent = Agent::start(Wish { all: true, ..Wish::default() });
    let pods = Cgroup::new("pods");
    let charged = pods.twin(&io().unwrap());
    let mut containers = Vec::new();
    let mut held = Vec::new();
    for pod in 0..PODS {
        let pod = format!("pod{pod}");
        let (above, io) = (pods.child(&pod), charged.as_ref().map(|charged| charged.child(&pod)));
        for name in ["app", "sidecar"] {
            let io = io.as_ref().map(|io| io.child(name));
            containers.push(Container { cgroup: above.child(name), io });
        }
        held.push((above, io));
    }
    let ports = 8000..;
    let mut peers: Vec<_> =
        containers.iter().zip(ports).map(|(one, port)| serve(one, &netns, port, ext4.path())).collect();
    let scrape = settled(&agent, &pods);
    check("60 services", &scrape, &pods);

    for ((one, peer), port) in containers.iter().zip(&mut peers).zip(8000..) {
        exhaust(one, &netns, peer, port, [ext4.path(), tmpfs.path()]);
    }
    let scrape = settled(&agent, &pods);
    check("60 containers that do all there is", &scrape, &pods);
    drop(peers);
    drop(containers);
    drop(held);
    agent.stop();
}
