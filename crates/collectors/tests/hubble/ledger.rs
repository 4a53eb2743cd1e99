//! Every flow that comes has one outcome, whatever comes.

use bytes::Bytes;
use hubble::server::messages::{Endpoint, Flow, Ip, Timestamp};
use hubble::server::{Setup, Step};
use runtime::State;
use serde_json::{Value, json};

use crate::flows::{flow, pod, remote, tcp, udp, world};
use crate::world::{Readings, World, account, ends, flows, once, outcome, play, runtime};

/// Plays messages to a collector with some keys; gives what it made of them.
fn played(messages: Vec<Bytes>, keys: &Value) -> (Readings, State) {
    let servers = runtime();
    let received = messages.len() as u64;
    let (_player, address) = play(&servers, Setup::default(), once(messages));
    let world = World::start(&address.to_string(), keys);
    let readings = world.settled(received);
    assert_eq!(account(&readings), (received, received));
    (readings, world.state())
}

fn repeated(flow: &Flow, times: usize) -> Vec<Bytes> {
    vec![flow.clone().response(); times]
}

#[test]
fn namespaces_are_left_out_as_configured() {
    let ends = [
        (pod("shop", "web", 1), pod("kube-system", "dns", 2)),
        (pod("shop", "web", 1), pod("shop", "api", 3)),
        (pod("kube-system", "dns", 2), pod("kube-system", "proxy", 4)),
        (pod("kube-system", "dns", 2), world()),
        (pod("bank", "web", 5), world()),
        (world(), world()),
    ];
    let messages = || ends.iter().map(|(a, b)| udp(flow(a.clone(), b.clone(), 0)).response()).collect::<Vec<_>>();
    let (readings, state) = played(messages(), &json!({"exclude_namespaces": ["kube-system", "cilium"]}));
    // The first is one of shop's, too.
    assert_eq!((outcome(&readings, "filtered", ""), outcome(&readings, "counted", "")), (2, 4));
    assert_eq!(state, State::Running);
    let (readings, _) = played(messages(), &json!({"watch_namespaces": ["shop"]}));
    assert_eq!((outcome(&readings, "filtered", ""), outcome(&readings, "counted", "")), (4, 2));
}

#[test]
fn a_sample_is_scaled_and_marked() {
    let one = udp(flow(pod("shop", "web", 1), pod("shop", "api", 2), 0));
    let (readings, _) = played(repeated(&one, 1_000), &json!({"flow_sample_rate": 10}));
    assert_eq!((outcome(&readings, "sampled_out", ""), outcome(&readings, "counted", "")), (900, 100));
    let total: f64 = readings.iter().filter(|(name, _)| name.starts_with("hubble_flows_total")).map(|(_, n)| n).sum();
    assert_eq!(total as u64, 1_000);
    assert_eq!(readings["telesonde_sample_interval{metric=hubble_flows_total}"] as u64, 10);
    assert!(!readings.contains_key("telesonde_sample_interval{metric=hubble_tcp_connection_duration_seconds}"));
}

#[test]
fn what_is_too_much_is_dropped_at_one_place_and_said() {
    let one = udp(flow(pod("shop", "web", 1), pod("shop", "api", 2), 0));
    let (readings, _) = played(repeated(&one, 5_000), &json!({"max_flows_per_second": 10}));
    assert!(outcome(&readings, "dropped", "rate_limit") > 4_000, "{readings:#?}");
    let (readings, _) =
        played(repeated(&one, 50_000), &json!({"flow_buffer_size": 1, "max_flows_per_second": 1_000_000}));
    assert!(outcome(&readings, "dropped", "queue_full") > 0, "{readings:#?}");
}

#[test]
fn it_is_degraded_while_it_drops_and_no_longer() {
    let servers = runtime();
    let one = udp(flow(pod("shop", "web", 1), pod("shop", "api", 2), 0)).response();
    let script = move |_: u32, _: &_| vec![Step::Send(one.clone()); 5_000].into_iter().chain([Step::Stall]).collect();
    let (_player, address) = play(&servers, Setup::default(), Box::new(script));
    let world = World::start(&address.to_string(), &json!({"max_flows_per_second": 10}));
    let why = world.until("it is degraded", |_| match world.state() {
        State::Degraded(why) if why.contains("max_flows_per_second") => Some(why),
        _ => None,
    });
    assert!(why.contains("flows came beyond max_flows_per_second"), "{why}");
    world.settled(5_000);
    world.until("it runs", |_| (world.state() == State::Running).then_some(()));
}

#[test]
fn hostile_messages_neither_panic_nor_become_labels() {
    let long = "x".repeat(70_000);
    let evil = Endpoint {
        namespace: "a\nb\u{0}\u{1b}[31m".to_owned(),
        pod_name: long.clone(),
        labels: vec![long.clone(), "k8s:app=\u{7f}".to_owned()],
        ..Endpoint::default()
    };
    let named = Endpoint { namespace: long.clone(), ..Endpoint::default() };
    let absurd = |seconds, nanos| Flow {
        time: Some(Timestamp { seconds, nanos }),
        ..tcp(flow(world(), remote("shop", "api"), 0), (1, 2), "SF")
    };
    let numbers = Flow {
        verdict: i32::MIN,
        kind: 99,
        traffic_direction: -5,
        trace_reason: 1000,
        drop_reason_desc: -1,
        ..udp(flow(world(), world(), 0))
    };
    let ip = Some(Ip { source: long.clone(), destination: "not an address".to_owned() });
    let mut messages = vec![
        udp(flow(evil, named, 0)).response(),
        absurd(i64::MAX, -1).response(),
        absurd(i64::MIN, i32::MAX).response(),
        numbers.response(),
        Flow { ip, ..tcp(flow(world(), world(), 0), (70_000, 1), "S") }.response(),
    ];
    let whole = messages.len() as u64;
    // Cut off, and bytes that are no message at all.
    let cut = messages[0].slice(..messages[0].len() - 3);
    messages.extend([cut, Bytes::from_static(&[0x0a, 0xff, 0xff]), Bytes::from_static(&[0x0a, 0x02, 0x42, 0x7f])]);
    let (readings, _) = played(messages, &json!({}));
    assert_eq!((outcome(&readings, "counted", ""), outcome(&readings, "dropped", "malformed")), (whole, 3));
    for name in flows(&readings).keys() {
        assert!(name.len() < 2_000 && !name.chars().any(char::is_control), "{name:?}");
    }
}

#[test]
fn what_is_beyond_the_budget_is_in_the_overflow_series() {
    let messages: Vec<Bytes> =
        (0..1_000).map(|n| udp(flow(pod("shop", &format!("web-{n}"), n), world(), 0)).response()).collect();
    let (readings, _) = played(messages, &json!({"max_series": 100}));
    let of = |metric: &str| -> Vec<(String, f64)> {
        flows(&readings).into_iter().filter(|(name, _)| name.starts_with(metric)).collect()
    };
    for metric in ["hubble_flows_total", "hubble_udp_flows_total"] {
        let all = of(metric);
        assert_eq!(all.iter().map(|(_, value)| *value as u64).sum::<u64>(), 1_000, "{metric}");
        assert!(
            all.iter().any(|(name, value)| name.contains("otel.metric.overflow=true") && *value > 800.0),
            "{metric}"
        );
        assert!(all.len() <= 101);
    }
}

#[test]
fn of_a_relay_each_series_says_its_node() {
    let servers = runtime();
    let on =
        |node: &str| Flow { node_name: node.to_owned(), ..udp(flow(pod("shop", "web", 1), pod("shop", "api", 2), 0)) };
    let messages = vec![on("node-1").response(), on("node-2").response(), on("node-2").response()];
    let (_player, address) = play(&servers, Setup::default(), once(messages));
    let keys = json!({"mode": "relay", "hubble_address": address.to_string(), "kubernetes_enabled": false});
    let readings = World::start("127.0.0.1:1", &keys).settled(3);
    let of = |node: &str| {
        let mut found =
            flows(&readings).into_iter().filter(|(name, _)| name.contains(&format!("k8s.node.name={node},")));
        found.find(|(name, _)| name.starts_with("hubble_udp_flows_total")).map(|(_, value)| value as u64)
    };
    assert_eq!((of("node-1"), of("node-2")), (Some(1), Some(2)));
}

#[test]
fn a_restart_of_the_server_costs_only_what_it_did_not_send() {
    let servers = runtime();
    let one = udp(flow(pod("shop", "web", 1), pod("shop", "api", 2), 0)).response();
    let script = move |call: u32, _: &_| {
        let mut steps = vec![Step::Send(one.clone()); 100];
        steps.push(if call == 0 { Step::End } else { Step::Stall });
        steps
    };
    let (player, address) = play(&servers, Setup::default(), Box::new(script));
    let world = World::start(&address.to_string(), &json!({}));
    let readings = world.settled(200);
    assert_eq!(readings["telesonde_hubble_flows_missed{}"] as u64, 0);
    assert_eq!(player.requests().len(), 2);
    assert_eq!((account(&readings), ends(&readings, "closed")), ((200, 200), 1));
    world.until("it runs", |_| (world.state() == State::Running).then_some(()));
}

#[test]
fn without_a_server_it_is_degraded_and_says_why() {
    let world = World::start("127.0.0.1:1", &json!({}));
    world.until("a reason", |readings| (ends(readings, "connect") > 0).then_some(()));
    let State::Degraded(why) = world.state() else { panic!("{:?}", world.state()) };
    assert!(why.contains("127.0.0.1:1") && why.contains("refused"), "{why}");
    assert_eq!(world.readings()["telesonde_hubble_connected{}"] as u64, 0);
}

#[test]
fn connections_beyond_their_table_are_forgotten_and_counted() {
    let open = |port| {
        let flow = flow(pod("shop", "web", 1), pod("shop", "api", 2), i64::from(port));
        crate::flows::seen(tcp(flow, (port, 80), "S"), 101, 1).response()
    };
    let (readings, _) = played((1..=100).map(open).collect(), &json!({"max_connections": 10}));
    let opened = flows(&readings).into_iter().find(|(name, _)| name.starts_with("hubble_tcp_connections_total"));
    assert_eq!(opened.map(|(_, count)| count as u64), Some(100));
    let evicted = readings["telesonde_hubble_connections_evicted{reason=full}"] as u64;
    assert!((90..=95).contains(&evicted), "{evicted}");
}

#[test]
fn agents_that_read_their_own_nodes_count_each_flow_once() {
    let servers = runtime();
    let on = |node: u32| Flow { node_name: format!("node-{node}"), ..udp(flow(pod("shop", "web", node), world(), 0)) };
    let fleet: Vec<_> = (1..=3)
        .map(|node| {
            let messages = repeated(&on(node), 100 * node as usize);
            let (player, address) = play(&servers, Setup::default(), once(messages));
            (player, World::start(&address.to_string(), &json!({})), 100 * u64::from(node))
        })
        .collect();
    let count = |(_, world, sent): &(_, World, u64)| {
        let readings = world.settled(*sent);
        let flows = flows(&readings).into_iter().filter(|(name, _)| name.starts_with("hubble_flows_total"));
        flows.map(|(_, count)| count as u64).sum::<u64>()
    };
    assert_eq!(fleet.iter().map(count).sum::<u64>(), 600);
}

/// Flows are told apart by nothing that they carry: one that comes twice was reported twice. What a relay sends again
/// when a node comes back is only what somebody has asked for with a number or a time, which nobody does here.
#[test]
fn flows_with_one_uuid_are_one_each() {
    let one = Flow { uuid: "0b9a4a3e".to_owned(), ..udp(flow(pod("shop", "web", 1), world(), 0)) };
    let servers = runtime();
    let (player, address) = play(&servers, Setup::default(), once(repeated(&one, 3)));
    let world = World::start(&address.to_string(), &json!({}));
    let readings = world.settled(3);
    assert_eq!((account(&readings), outcome(&readings, "counted", "")), ((3, 3), 3));
    // The fields 1 (number), 7 (since) and 8 (until) of the request.
    let request = player.raw_requests().remove(0);
    let asked: Vec<u32> = hubble::wire::Fields(&request).map(|field| field.unwrap().0).collect();
    assert!(!asked.is_empty() && asked.iter().all(|field| ![1, 7, 8].contains(field)), "{asked:?}");
}
