//! Who is called: whom a flow of Hubble says; without Hubble the name is absent and the totals are the same.

use std::net::TcpListener;

use hubble::server::messages::{Endpoint, EventType, Flow, Ip};
use hubble::server::{Player, Setup, Step};

use super::pod;
use crate::harness::agent::{Agent, Wish};
use crate::harness::cgroup::Cgroup;
use crate::harness::live;
use crate::harness::netns::{Netns, Pair};
use crate::harness::peer::Peer;
use crate::harness::scrape::Scrape;

const SILENT: &str = "10.99.0.9";
const SERVER: &str = "10.99.0.8";
const TCP: [&str; 3] = ["ebpf_tcp_connects_total", "ebpf_tcp_connect_errors_total", "ebpf_tcp_retransmits_total"];

/// Calls whom somebody has to answer, on two ports, and somebody who does not.
fn call(pair: &Pair, cgroup: &Cgroup) -> Peer {
    let to = ["lladdr", "02:00:00:00:00:02", "dev", "veth", "nud", "permanent"];
    pair.client.ip(&[&["neighbour", "add", SILENT], &to[..]].concat());
    pair.server.ip(&["address", "add", &format!("{SERVER}/24"), "dev", "veth"]);
    pair.client.set("ipv4/tcp_syn_retries", "1");
    let mut listener = Peer::start(cgroup, &pair.server);
    listener.ask(&format!("listen {SERVER} 7000 16"));
    let mut caller = Peer::start(cgroup, &pair.client);
    assert_eq!(caller.ask(&format!("connect {SERVER} 7000 5")), 5);
    assert_eq!(caller.ask(&format!("connect {SERVER} 7001 3")), 0);
    caller.ask(&format!("begin {SILENT} 7000 2"));
    caller
}

#[test]
fn calls_are_to_whom_flows_tell_of() {
    let _kernel = live!();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let remote = Endpoint { pod_name: "db-0".to_owned(), ..pod("db") };
    let flows = [SILENT, SERVER].map(|destination| {
        let ip = Some(Ip { source: "10.99.0.1".to_owned(), destination: destination.to_owned() });
        let event_type = Some(EventType { kind: 4, sub_type: 0 });
        Flow { verdict: 1, event_type, ip, destination: Some(remote.clone()), ..Flow::default() }.response()
    });
    let script = move |_, _: &_| flows.clone().into_iter().map(Step::Send).chain([Step::Stall]).collect();
    let _player = {
        let _inside = runtime.enter();
        Player::tcp(listener, Setup::default(), Box::new(script))
    };
    for enabled in [true, false] {
        let cilium = format!("cilium: {{enabled: {enabled}, mode: node, hubble_node_address: \"{address}\"}}");
        let collectors = ["tcp: {enabled: require, peers: true}"];
        let agent = Agent::start(Wish { ebpf: &[&cilium], collectors: &collectors, ..Wish::default() });
        if enabled {
            agent.until("the flows have told", |scrape| {
                (scrape.value("telesonde_peer_addresses", &[]) == Some(2.0)).then_some(())
            });
        }
        let (pair, cgroup) = (Pair::new(), Cgroup::new("calls-remote"));
        let mut caller = call(&pair, &cgroup);
        let own = ("cgroup_path", cgroup.path());
        let tcp = |scrape: &Scrape, labels: &[_]| TCP.map(|name| scrape.sum(name, labels));
        agent.until("SYNs are repeated", |scrape| (tcp(scrape, &[own])[2] >= 2.0).then_some(()));
        caller.ask("close 7");
        // The other end, whom no flow names, may have repeated something, too.
        let again = |netns: &Netns| netns.snmp("Tcp", "RetransSegs") as f64;
        let expected = |again: f64| [5.0, 3.0 + 2.0, again];
        let scrape = agent.until("all calls", |scrape| {
            let all = again(&pair.client) + again(&pair.server);
            (tcp(scrape, &[own]) == expected(all)).then(|| scrape.clone())
        });
        let named = tcp(&scrape, &[own, ("peer_k8s_namespace_name", "shop"), ("peer_workload_name", "db")]);
        assert_eq!(named, if enabled { expected(again(&pair.client)) } else { [0.0; 3] });
        agent.stop();
    }
}
