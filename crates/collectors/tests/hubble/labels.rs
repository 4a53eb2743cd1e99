//! What ends of flows are called.

use hubble::server::Setup;
use hubble::server::messages::{Endpoint, Flow, Ip};
use serde_json::json;

use crate::flows::{flow, pod, remote, udp, world};
use crate::world::{Readings, World, flows, once, play, runtime};

/// Gives a flow to an address outside of the cluster that is known by a name.
fn to(name: &str, address: &str) -> Flow {
    let destination_names =
        if name.is_empty() { Vec::new() } else { vec![name.to_owned(), "another.example".to_owned()] };
    let ip = Some(Ip { source: "10.0.0.1".to_owned(), destination: address.to_owned() });
    Flow { destination_names, ip, ..udp(flow(pod("shop", "web", 1), world(), 0)) }
}

/// Gives how many flows went to each destination.
fn destinations(readings: &Readings) -> Vec<(String, u64)> {
    let of = |name: &str| {
        name.split(&['{', ',']).find_map(|label| label.strip_prefix("destination.workload=").map(str::to_owned))
    };
    let all = flows(readings);
    all.iter()
        .filter_map(|(name, count)| Some((of(name.strip_prefix("hubble_udp_flows_total")?)?, *count as u64)))
        .collect()
}

#[test]
fn the_world_is_told_apart_by_name_on_wish_and_within_a_budget() {
    let servers = runtime();
    let script = || {
        let all = [
            to("a.example", "192.0.2.1"),
            to("b.example", "192.0.2.2"),
            to("", "192.0.2.3"),
            to("a.example", "192.0.2.4"),
        ];
        let more = (0..5).map(|n| to(&format!("n{n}.example"), "192.0.2.9"));
        all.into_iter().chain(more).map(Flow::response).collect::<Vec<_>>()
    };
    let (player, address) = play(&servers, Setup::default(), once(script()));
    let plain = World::start(&address.to_string(), &json!({})).settled(9);
    assert_eq!(destinations(&plain), [("reserved:world".to_owned(), 9)]);
    assert!(!plain.contains_key("telesonde_hubble_names_refused{}"));
    let masked = |player: &hubble::server::Player| {
        let paths = player.requests()[0].field_mask.clone().unwrap().paths;
        paths.iter().filter(|path| path.ends_with("_names")).count()
    };
    assert_eq!(masked(&player), 0);

    let (player, address) = play(&servers, Setup::default(), once(script()));
    let keys = json!({"labels": {"workload": ["workload", "app", "dns", "reserved"], "max_names": 3}});
    let world = World::start(&address.to_string(), &keys);
    let readings = world.settled(9);
    let expected = [("a.example", 2), ("b.example", 1), ("n0.example", 1), ("reserved:world", 5)];
    assert_eq!(destinations(&readings), expected.map(|(name, count)| (name.to_owned(), count)));
    assert_eq!(readings["telesonde_hubble_names_refused{}"] as u64, 4);
    assert_eq!(masked(&player), 2);
    // The same names tell whose the addresses are.
    assert_eq!(world.who("192.0.2.2").as_deref(), Some("workload.name=b.example"));
    assert_eq!(world.who("192.0.2.3"), None);
}

#[test]
fn the_first_name_that_is_known_is_taken() {
    let servers = runtime();
    let host = Endpoint { identity: 1, labels: vec!["reserved:host".to_owned()], ..Endpoint::default() };
    let ends = [remote("shop", "cart"), Endpoint { labels: Vec::new(), ..remote("shop", "lost") }, host, world()];
    let flows = ends.into_iter().zip(1..).map(|(end, nth)| {
        let ip = Some(Ip { source: "10.0.0.1".to_owned(), destination: format!("10.0.9.{nth}") });
        Flow { ip, ..udp(flow(pod("shop", "web", 1), end, 0)) }.response()
    });
    let (_player, address) = play(&servers, Setup::default(), once(flows.collect()));
    let keys = json!({"labels": {"workload": ["workload", "app", "pod", "reserved", "identity"], "identity": true}});
    let world = World::start(&address.to_string(), &keys);
    let readings = world.settled(4);
    let expected = [("cart", 1), ("lost-7", 1), ("reserved:host", 1), ("reserved:world", 1)];
    let mut found = destinations(&readings);
    found.sort();
    assert_eq!(found, expected.map(|(name, count)| (name.to_owned(), count)));
    let who = |address| world.who(address).unwrap_or_default();
    assert_eq!(who("10.0.9.1"), "identity=10007,k8s.namespace.name=shop,workload.name=cart");
    assert_eq!(who("10.0.9.2"), "identity=10007,k8s.namespace.name=shop,workload.name=lost-7");
    assert_eq!(who("10.0.9.3"), "identity=1,workload.name=reserved:host");
    assert_eq!(world.who("10.0.9.4"), None);
}
