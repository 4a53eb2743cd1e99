//! The agent with Cilium switched on, and a server that plays flows.

mod calls;

use std::net::{SocketAddr, TcpListener};
use std::time::Instant;

use ::hubble::server::messages::{Aggregate, Endpoint, EventType, Flow, Ip, Layer4, Ports, Protocol, Workload};
use ::hubble::server::{Player, Setup, Step};

use crate::harness::agent::{Agent, Wish};
use crate::harness::apiserver::{ApiServer, NODE};
use crate::harness::cgroup::Cgroup;
use crate::harness::netns::Pair;
use crate::harness::otlp::Receiver;
use crate::harness::scrape::Scrape;
use crate::harness::traffic::Traffic;
use crate::harness::{directory, eventually, live};

fn pod(workload: &str) -> Endpoint {
    let workloads = vec![Workload { name: workload.to_owned(), kind: "Deployment".to_owned() }];
    Endpoint { namespace: "shop".to_owned(), workloads, ..Endpoint::default() }
}

#[test]
fn flows_are_in_a_scrape() {
    let _kernel = live!();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let event_type = Some(EventType { kind: 4, sub_type: 0 });
    let (source, destination) = (Some(pod("web")), Some(pod("api")));
    let flow = Flow { verdict: 1, event_type, source, destination, ..Flow::default() };
    let script = move |call: u32, _: &_| {
        let sent = if call == 0 { 42 } else { 0 };
        vec![Step::Send(flow.clone().response()); sent].into_iter().chain([Step::Stall]).collect()
    };
    let _player = {
        let _inside = runtime.enter();
        Player::tcp(listener, Setup::default(), Box::new(script))
    };
    let cilium = format!("cilium: {{enabled: true, mode: node, hubble_node_address: \"{address}\"}}");
    let agent = Agent::start(Wish { ebpf: &[&cilium], ..Wish::default() });
    let labels = [
        ("source_namespace", "shop"),
        ("source_workload", "web"),
        ("destination_workload", "api"),
        ("verdict", "FORWARDED"),
        ("type", "Trace"),
    ];
    agent.until("all flows", |scrape| (scrape.value("hubble_flows_total", &labels) == Some(42.0)).then_some(()));
    let scrape = agent.scrape();
    assert_eq!(scrape.value("telesonde_hubble_connected", &[]), Some(1.0));
    let state = [("collector", "hubble"), ("state", "running")];
    agent.until("it runs", |scrape| (scrape.value("telesonde_collector_state", &state) == Some(1.0)).then_some(()));
    agent.stop();
}

const FLOWS: &str = "hubble_flows_total";
const NODES: [&str; 3] = ["node-a", "node-b", "node-c"];

/// Starts an agent that may be elected to read the relay, or reads its own node.
fn candidate(
    server: &ApiServer,
    mode: &str,
    (relay, node): (SocketAddr, SocketAddr),
    otlp: Option<SocketAddr>,
) -> Agent {
    let kubeconfig = server.kubeconfig(&directory("kubeconfig"));
    let enrich = format!("kubernetes: {{kubeconfig: \"{}\"}}", kubeconfig.display());
    let servers = format!("hubble_address: \"{relay}\", hubble_node_address: \"{node}\"");
    let cilium = format!("cilium: {{enabled: true, mode: {mode}, {servers}}}");
    let others = collectors::ALL.iter().map(|collector| collector.name);
    let others = others.filter(|name| !["syscalls", "cgroup", "hubble"].contains(name));
    let others: Vec<String> = others.map(|name| format!("{name}: {{enabled: false}}")).collect();
    let others: Vec<&str> = others.iter().map(String::as_str).collect();
    let (ebpf, collectors) = (&[&*cilium], &*others);
    Agent::start(Wish { enrich: &enrich, node: NODE, ebpf, collectors, otlp, ..Wish::default() })
}

/// Gives the place of the one that leads; nothing while none does, or the others do not know that they do not.
fn leader(agents: &[Agent]) -> Option<usize> {
    let leads: Vec<_> = agents.iter().map(|agent| agent.scrape().value("telesonde_hubble_leader", &[])).collect();
    let one = leads.iter().position(|leads| *leads == Some(1.0))?;
    let others = leads.iter().enumerate().filter(|(at, _)| *at != one);
    others.fold(true, |all, (_, leads)| all && *leads == Some(0.0)).then_some(one)
}

/// Gives how many flows of each node were counted.
fn by_node(scrapes: &[Scrape]) -> [f64; 3] {
    NODES.map(|node| scrapes.iter().map(|scrape| scrape.sum(FLOWS, &[("k8s_node_name", node)])).sum())
}

/// Three agents, a relay before three nodes, and a leader that is killed: every flow that was served counts once.
#[test]
fn a_fleet_counts_what_the_relay_says_once() {
    let _kernel = live!();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let relay = listener.local_addr().unwrap();
    let flow = |node: &str| {
        let event_type = Some(EventType { kind: 4, sub_type: 0 });
        let (source, destination) = (Some(pod("web")), Some(pod("api")));
        Flow { verdict: 1, event_type, source, destination, node_name: node.to_owned(), ..Flow::default() }.response()
    };
    // Each stream brings another amount, so that none can stand for another.
    let script = move |call: u32, _: &_| {
        let flows = NODES.iter().zip(1..).flat_map(|(node, nth)| vec![flow(node); nth * [10, 100, 500][call as usize]]);
        flows.map(Step::Send).chain([Step::Stall]).collect()
    };
    let player = {
        let _inside = runtime.enter();
        Player::tcp(listener, Setup::default(), Box::new(script))
    };
    let (server, receiver) = (ApiServer::start(), Receiver::start());
    let mut agents: Vec<Agent> =
        (0..3).map(|_| candidate(&server, "relay", (relay, relay), Some(receiver.address()))).collect();
    let scrapes = |agents: &[Agent]| agents.iter().map(Agent::scrape).collect::<Vec<_>>();

    let first = eventually("one leads", || leader(&agents));
    eventually("what the first leader reads", || (by_node(&scrapes(&agents)) == [10.0, 20.0, 30.0]).then_some(()));
    assert!(server.holder("telesonde-hubble").is_some());
    let all = scrapes(&agents);
    for (at, scrape) in all.iter().enumerate() {
        let everything = scrape.sum(FLOWS, &[]);
        assert!(everything == if at == first { 60.0 } else { 0.0 }, "agent {at}, leader {first}: {everything}");
        let state = [("collector", "hubble"), ("state", "running")];
        agents[at].until("it is well", |scrape| {
            (scrape.value("telesonde_collector_state", &state) == Some(1.0)).then_some(())
        });
    }

    // What the leader has noted for the next one; then it dies, and more flows are seen than anybody reads.
    eventually("it is noted", || (server.note("telesonde-hubble").as_deref() == Some("60/")).then_some(()));
    let killed = agents.remove(first);
    killed.signal("KILL");
    let begun = Instant::now();
    drop(killed);
    player.see(25);
    let second = eventually("another leads", || leader(&agents));
    println!("another leads after {:?}", begun.elapsed());
    eventually("what the second leader reads", || (by_node(&scrapes(&agents)) == [100.0, 200.0, 300.0]).then_some(()));
    let gap = agents[second].scrape().value("telesonde_hubble_unread_seconds_total", &[]);
    assert!(gap > Some(1.0), "nobody read for {gap:?} s");
    let missed = |agent: &Agent| agent.scrape().value("telesonde_hubble_flows_missed_total", &[]);
    assert_eq!(missed(&agents[second]), Some(25.0), "what was served is what was counted and what was missed");
    assert_eq!(player.requests().len(), 2, "each flow went to one agent");

    // Who ends in peace leaves its place at once.
    agents.remove(second).stop();
    eventually("the last one leads", || leader(&agents));
    eventually("what the last one reads", || (by_node(&scrapes(&agents)) == [500.0, 1000.0, 1500.0]).then_some(()));
    assert_eq!((player.requests().len(), missed(&agents[0])), (3, Some(0.0)));
    // No node but the flows' own: the receiver of OTLP knows the agent's by the resource of its other metrics.
    let resource = || receiver.resource_of(FLOWS).filter(|_| receiver.resource_of("telesonde_hubble_leader").is_some());
    let resource = eventually("OTLP", resource);
    let of_node = |key: &&String| key.starts_with("host.") || key.starts_with("k8s.node.");
    assert!(resource.keys().all(|key| !of_node(&key)) && resource.contains_key("service.name"), "{resource:?}");
    let own = receiver.resource_of("telesonde_hubble_leader").unwrap();
    assert!(own.keys().any(|key| of_node(&key)), "{own:?}");
    assert!(receiver.number(FLOWS, &[("k8s.node.name", "node-b")]) > Some(0.0));
}

/// Who has an address that neither this node nor the Kubernetes API knows: whom a flow of Hubble says; without Hubble the
/// name is absent and the totals are the same. The bytes that no flow tells are those of the table of connections.
#[test]
fn peers_are_whom_flows_tell_of() {
    const PORTS: (u32, u32) = (45_678, 7000);
    const COUNTED: [&str; 2] = ["ebpf_connection_bytes_total", "ebpf_network_bytes_total"];
    let _kernel = live!();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // Of this process alone, whatever else sends on this host.
    let [.., high, low] = std::process::id().to_be_bytes();
    let far = format!("10.98.{high}.{low}");
    let remote = Endpoint { pod_name: "db-0".to_owned(), ..pod("db") };
    let ip = Some(Ip { source: "10.99.0.1".to_owned(), destination: far.clone() });
    let event_type = Some(EventType { kind: 4, sub_type: 0 });
    let local = Endpoint { id: 1, pod_name: "web-0".to_owned(), ..pod("web") };
    let (source, destination) = (Some(local), Some(remote));
    let flow = Flow { verdict: 1, event_type, ip, source, destination, ..Flow::default() };
    let ports = Ports { source_port: PORTS.0, destination_port: PORTS.1 };
    let denied = Flow {
        verdict: 2,
        drop_reason_desc: 133,
        event_type: Some(EventType { kind: 1, sub_type: 0 }),
        l4: Some(Layer4 { protocol: Some(Protocol::Udp(ports)) }),
        aggregate: Some(Aggregate { egress_flow_count: 3, ..Aggregate::default() }),
        ..flow.clone()
    };
    let script = [flow, denied].map(|flow| Step::Send(flow.response()));
    let script = move |_: u32, _: &_| script.iter().cloned().chain([Step::Stall]).collect();
    let _player = {
        let _inside = runtime.enter();
        Player::tcp(listener, Setup::default(), Box::new(script))
    };
    let mut totals = Vec::new();
    for enabled in [true, false] {
        let keys = "aggregation_window: 10m, mode: node";
        let cilium = format!("cilium: {{enabled: {enabled}, {keys}, hubble_node_address: \"{address}\"}}");
        let collectors = ["connection: {enabled: require}", "network: {enabled: require, peers: true}"];
        let agent = Agent::start(Wish { ebpf: &[&cilium], collectors: &collectors, ..Wish::default() });
        let known = |scrape: &Scrape| scrape.value("telesonde_peer_addresses", &[]);
        if enabled {
            agent.until("the flow has told", |scrape| (known(scrape) == Some(2.0)).then_some(()));
        }
        let (pair, sender) = (Pair::new(), Cgroup::new("to-remote"));
        let to = ["lladdr", "02:00:00:00:00:02", "dev", "veth", "nud", "permanent"];
        pair.client.ip(&[&["neighbour", "add", &far], &to[..]].concat());
        pair.client.ip(&["route", "add", &far, "dev", "veth"]);
        Traffic::run(&pair.client, &sender, &["udp_send_from", &far, "7000", "101", "300", "45678"]);
        let sent = 101.0 * 328.0;
        let here = [("source_cgroup_path", sender.path()), ("cgroup_path", sender.path())];
        for (name, here) in COUNTED.iter().zip(here) {
            agent.until_exactly(name, (sent, 0.0), |scrape| (scrape.sum(name, &[here]), 0.0));
        }
        let scrape = agent.scrape();
        let who = |prefix: &'static str| {
            [(format!("{prefix}_k8s_namespace_name"), "shop"), (format!("{prefix}_workload_name"), "db")]
        };
        let ends = [("destination", "source_cgroup_path"), ("peer", "cgroup_path")];
        let named = COUNTED.iter().zip(ends).map(|(name, (prefix, own))| {
            let labels = who(prefix);
            let [namespace, workload] = labels.each_ref().map(|(key, value)| (key.as_str(), *value));
            scrape.sum(name, &[namespace, workload, (own, sender.path())])
        });
        let named: Vec<f64> = named.collect();
        assert_eq!(named, if enabled { [sent, sent] } else { [0.0, 0.0] });
        let between = [("source_workload", "web"), ("destination_workload", "db")];
        let bytes = |scrape: &Scrape, name| scrape.value(name, &between);
        if enabled {
            let (all, dropped) = (Some(sent), Some(sent / 101.0 * 3.0));
            agent.until("bytes of flows", |scrape| (bytes(scrape, "hubble_flow_bytes_total") == all).then_some(()));
            agent.until("of drops", |scrape| (bytes(scrape, "hubble_drop_bytes_total") == dropped).then_some(()));
            let scrape = agent.scrape();
            assert_eq!(scrape.value("telesonde_hubble_unmatched_drops_total", &[]), Some(0.0));
            assert!(scrape.value("telesonde_hubble_unmatched_bytes_total", &[]).is_some());
        } else {
            assert!(bytes(&scrape, "hubble_flow_bytes_total").is_none());
        }
        let hits = scrape.value("telesonde_peer_lookups_total", &[("outcome", "hit")]);
        assert!(if enabled { hits > Some(0.0) } else { hits.is_none() && known(&scrape).is_none() }, "{hits:?}");
        totals.push(COUNTED.map(|name| scrape.sum(name, &[here[0]]) + scrape.sum(name, &[here[1]])));
        agent.stop();
    }
    assert_eq!(totals[0], totals[1]);
}

/// Two agents that decide for themselves: the one whose own server is late reads the relay for both, until that server
/// answers; then each reads its own node. What was served is what was counted, at all times.
#[test]
fn agents_that_decide_for_themselves_count_nothing_twice() {
    let _kernel = live!();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let event_type = Some(EventType { kind: 4, sub_type: 0 });
    let plain = Flow { verdict: 1, event_type, source: Some(pod("web")), ..Flow::default() };
    let flow = |node: &str| Flow { node_name: node.to_owned(), ..plain.clone() }.response();
    let play = |listener: TcpListener, nodes: &[(&str, usize)]| {
        let flows: Vec<Step> = nodes.iter().flat_map(|(node, count)| vec![Step::Send(flow(node)); *count]).collect();
        let _inside = runtime.enter();
        let script = move |_: u32, _: &_| flows.iter().cloned().chain([Step::Stall]).collect();
        Player::tcp(listener, Setup::default(), Box::new(script))
    };
    let listen = |address: &str| {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    };
    let ((relay, relayed), (early, first)) = (listen("127.0.0.1:0"), listen("127.0.0.1:0"));
    let (_, second) = listen("127.0.0.1:0");
    let (relay, early) = (play(relay, &[("node-a", 10), ("node-b", 20)]), play(early, &[("node-a", 300)]));
    let server = ApiServer::start();
    let counted = |agent: &Agent| agent.scrape().sum(FLOWS, &[]);

    let late = candidate(&server, "auto", (relayed, second), None);
    eventually("the relay is read", || (counted(&late) == 30.0).then_some(()));
    let other = candidate(&server, "auto", (relayed, first), None);
    let state = [("collector", "hubble"), ("state", "running")];
    other.until("it waits", |scrape| (scrape.value("telesonde_collector_state", &state) == Some(1.0)).then_some(()));
    assert_eq!((counted(&late), counted(&other), early.requests().len()), (30.0, 0.0, 0));

    let own = play(listen(&second.to_string()).0, &[("node-b", 4000)]);
    eventually("each reads its own", || {
        let (late, other) = (counted(&late), counted(&other));
        (late == 4030.0 && other == 300.0).then_some(())
    });
    assert_eq!([relay.requests().len(), early.requests().len(), own.requests().len()], [1, 1, 1]);
}
