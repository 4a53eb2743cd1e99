//! The agent with Cilium switched on, and a server that plays flows.

use std::net::TcpListener;

use ::hubble::server::messages::{Endpoint, EventType, Flow, Workload};
use ::hubble::server::{Player, Setup, Step};

use crate::harness::agent::{Agent, Wish};
use crate::harness::live;

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
