//! Exact values of a scripted set of flows.

use hubble::server::Setup;
use hubble::server::messages::{
    Aggregate, Content, Dns, EventType, Flow, GetFlowsResponse, Icmp, Layer4, LostEvent, NodeStatusEvent, Protocol,
    Record,
};
use prost::Message;
use serde_json::json;

use crate::flows::{dns, flow, http, kafka, l7, pod, remote, reply, seen, service, tcp, udp, world};
use crate::world::{World, flows, once, play, runtime};

fn drop_of(flow: Flow, reason: i32) -> Flow {
    Flow { verdict: 2, drop_reason_desc: reason, event_type: Some(EventType { kind: 1, sub_type: 0 }), ..flow }
}

fn verdict_of(flow: Flow, verdict: i32, policy_match_type: u32) -> Flow {
    Flow { verdict, policy_match_type, event_type: Some(EventType { kind: 5, sub_type: 0 }), ..flow }
}

/// Every kind of flow.
fn script() -> Vec<Flow> {
    let (web, api) = (|| pod("shop", "web", 1), || pod("shop", "api", 2));
    let between = |at| flow(web(), api(), at);
    let ports = (40_000, 8080);
    let mut all = vec![
        // A connection within the cluster, seen where it leaves the one pod and where it reaches the other.
        seen(tcp(between(0), ports, "S"), 3, 1),
        seen(tcp(between(1), ports, "S"), 101, 1),
        // The same packet again.
        seen(tcp(between(900), ports, "S"), 101, 1),
        seen(reply(tcp(between(2), (8080, 40_000), "SA")), 3, 3),
        seen(tcp(between(500), ports, "A"), 101, 2),
        // It ends by the server.
        seen(reply(tcp(between(2_001), (8080, 40_000), "FA")), 3, 3),
        seen(tcp(between(2_002), ports, "FA"), 101, 2),
        // The port is used again; nobody says how that ended.
        seen(tcp(between(60_000), ports, "S"), 101, 1),
        // A connection out of the cluster, seen at two points.
        seen(tcp(flow(web(), world(), 10), (40_001, 443), "S"), 3, 1),
        seen(tcp(flow(web(), world(), 11), (40_001, 443), "S"), 11, 1),
        // A reply with SYN and ACK is no beginning, nor is what belongs to a known connection.
        seen(tcp(between(12), (40_002, 8080), "S"), 101, 2),
        udp(between(20)),
        // A workload that only its label tells of.
        udp(flow(remote("shop", "cart"), api(), 21)),
        Flow {
            aggregate: Some(Aggregate { ingress_flow_count: 3, egress_flow_count: 2, ..Aggregate::default() }),
            ..udp(between(22))
        },
    ];
    // One packet that a policy denied: the drop and the verdict.
    all.push(drop_of(tcp(between(30), (40_003, 9090), "S"), 133));
    all.push(verdict_of(tcp(between(30), (40_003, 9090), "S"), 2, 0));
    all.push(verdict_of(tcp(between(31), (40_004, 8080), "S"), 1, 2));
    all.push(verdict_of(tcp(between(32), (40_005, 8080), "S"), 5, 2));
    all.push(verdict_of(tcp(between(33), (40_005, 8080), "S"), 4, 1));
    // What a newer server may say.
    all.push(drop_of(tcp(between(34), (40_006, 8080), "S"), 999));
    all.push(verdict_of(tcp(between(35), (40_006, 8080), "S"), 42, 77));
    let call = |kind, latency, record| {
        let asked = Flow { destination_service: Some(service("shop", "api")), ..tcp(between(40), ports, "") };
        let asked = Flow { traffic_direction: 2, ..asked };
        if kind == 2 { l7(reply(asked), kind, latency, record) } else { l7(asked, kind, latency, record) }
    };
    let get = |code| http("GET", "http://api/cart", code, "HTTP/1.1", &[]);
    all.extend([call(1, 0, get(0)), call(2, 50_000_000, get(200)), call(1, 0, get(0)), call(2, 0, get(503))]);
    all.push(call(1, 0, http("BREW", "http://api/", 0, "HTTP/1.1", &[])));
    let grpc = |code, headers: &[(&str, &str)]| http("POST", "http://api:8080/cart.Cart/Add", code, "HTTP/2", headers);
    all.push(call(1, 0, grpc(0, &[("Content-Type", "application/grpc")])));
    all.push(call(2, 2_000_000, grpc(200, &[("content-type", "application/grpc"), ("grpc-status", "13")])));
    // Without the header it is an ordinary request.
    all.push(call(1, 0, grpc(0, &[])));
    all.extend([call(1, 0, dns(&["A", "AAAA"], 0)), call(2, 0, dns(&["A"], 3)), call(2, 0, dns(&["A"], 23))]);
    all.push(call(1, 0, kafka("produce", "orders")));
    all.push(Flow { verdict: 2, ..call(1, 0, get(0)) });
    // An empty flow is one, too.
    all.push(Flow::default());
    all
}

/// What Cilium's exporter has, too.
const THEIRS: [&str; 10] = [
    "hubble_flows_total",
    "hubble_flows_processed_total",
    "hubble_tcp_flags_total",
    "hubble_port_distribution_total",
    "hubble_icmp_total",
    "hubble_flows_to_world_total",
    "hubble_http_",
    "hubble_dns_",
    "hubble_policy_verdicts_total",
    "hubble_drop_total",
];

/// Makes a flow one of ICMP, of the version of its family.
fn icmp(flow: Flow, version: u32, kind: u32, code: u32) -> Flow {
    let message = Icmp { kind, code };
    let protocol = if version == 4 { Protocol::Icmp4(message) } else { Protocol::Icmp6(message) };
    Flow { l4: Some(Layer4 { protocol: Some(protocol) }), ..flow }
}

/// What only Cilium's exporter looks at.
fn script_for_cilium() -> Vec<Flow> {
    let (web, api) = (|| pod("shop", "web", 1), || pod("shop", "api", 2));
    let between = |at| flow(web(), api(), at);
    let out = |at| tcp(flow(web(), world(), at), (40_007, 443), "A");
    let answer = Dns {
        query: "shop.example.".to_owned(),
        qtypes: vec!["A".to_owned()],
        rrtypes: vec!["CNAME".to_owned(), "A".to_owned(), "A".to_owned()],
        ips: vec!["192.0.2.1".to_owned(), "192.0.2.2".to_owned()],
        rcode: 0,
    };
    vec![
        icmp(between(50), 4, 8, 0),
        reply(icmp(between(51), 4, 0, 0)),
        icmp(between(52), 4, 3, 3),
        icmp(between(53), 6, 135, 0),
        // Out of the cluster: what a policy dropped counts, but not what was dropped for another reason, nor what comes back.
        drop_of(out(54), 133),
        drop_of(out(55), 181),
        Flow { is_reply: Some(true), ..out(56) },
        reply(out(57)),
        l7(reply(udp(between(58))), 2, 0, Record::Dns(answer)),
    ]
}

#[test]
fn by_wish_they_count_as_in_ciliums_exporter() {
    let servers = runtime();
    let mut script = script();
    script.extend(script_for_cilium());
    let sent = script.len() as u64;
    let (_player, address) = play(&servers, Setup::default(), once(script.into_iter().map(Flow::response).collect()));
    let readings = World::start(&address.to_string(), &json!({"labels": {"cilium": true}})).settled(sent);
    let found = flows(&readings);
    let found = found.iter().filter(|(name, _)| THEIRS.iter().any(|theirs| name.starts_with(theirs)));
    let found: Vec<String> = found.map(|(name, value)| format!("{name} {value:.4}")).collect();
    assert_eq!(found.join("\n"), include_str!("cilium.txt").trim_end());
}

#[test]
fn every_kind_of_flow_counts_as_documented() {
    let servers = runtime();
    let script = script();
    let sent = script.len() as u64;
    let mut messages: Vec<_> = script.into_iter().map(Flow::response).collect();
    let other = |content| -> bytes::Bytes {
        let response = GetFlowsResponse { content: Some(content), node_name: "node-1".to_owned(), time: None };
        response.encode_to_vec().into()
    };
    messages.push(other(Content::Lost(LostEvent { source: 3, num_events_lost: 40 })));
    messages.push(other(Content::Lost(LostEvent { source: 3, num_events_lost: 2 })));
    let names = vec!["a".to_owned(), "b".to_owned()];
    messages.push(other(Content::NodeStatus(NodeStatusEvent {
        state_change: 1,
        node_names: names,
        message: String::new(),
    })));
    let (_player, address) = play(&servers, Setup::default(), once(messages));
    let world = World::start(&address.to_string(), &json!({}));
    let readings = world.settled(sent);
    let readings = if readings.contains_key("telesonde_hubble_nodes{state=connected}") {
        readings
    } else {
        world.until("the nodes", |readings| {
            readings.contains_key("telesonde_hubble_nodes{state=connected}").then(|| readings.clone())
        })
    };

    let found: Vec<String> = flows(&readings).iter().map(|(name, value)| format!("{name} {value:.4}")).collect();
    assert_eq!(found.join("\n"), include_str!("counting.txt").trim_end());
}
