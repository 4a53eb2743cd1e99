//! What is worth an event makes one, and no more than allowed.

use hubble::server::Setup;
use hubble::server::messages::{EventType, Flow};
use model::event::Detail;
use serde_json::json;

use crate::flows::{dns, flow, http, l7, pod, reply, tcp, world};
use crate::world::{World, once, play, runtime};

fn between(at: i64) -> Flow {
    tcp(flow(pod("shop", "web", 1), pod("bank", "api", 2), at), (40_000, 8080), "S")
}

fn of(flow: Flow, event: i32, verdict: i32, reason: i32) -> Flow {
    let event_type = Some(EventType { kind: event, sub_type: 0 });
    Flow { event_type, verdict, drop_reason_desc: reason, ..flow }
}

#[test]
fn what_does_not_come_through_is_told_once() {
    let servers = runtime();
    let get = |code| http("GET", "/", code, "HTTP/1.1", &[]);
    let script = vec![
        between(1),
        // A denied packet: the drop and the verdict.
        of(between(2), 1, 2, 133),
        of(between(2), 5, 2, 0),
        of(between(3), 1, 2, 132),
        of(between(4), 5, 4, 0),
        Flow { traffic_direction: 2, ..of(flow(pod("shop", "web", 1), world(), 5), 1, 2, 181) },
        l7(reply(between(6)), 2, 1, get(503)),
        l7(reply(between(7)), 2, 1, get(404)),
        Flow { verdict: 2, ..l7(between(8), 1, 0, get(0)) },
        l7(reply(between(9)), 2, 0, dns(&["A"], 3)),
        l7(reply(between(10)), 2, 0, dns(&["A"], 2)),
    ];
    let messages = script.into_iter().map(Flow::response).collect();
    let (_player, address) = play(&servers, Setup::default(), once(messages));
    let collector = World::start(&address.to_string(), &json!({}));
    collector.settled(11);
    let told: Vec<String> = collector
        .events(7)
        .iter()
        .map(|record| {
            let Detail::Flow(flow) = &record.event.detail else { panic!("{record:?}") };
            let [namespace, pod] = ["k8s.namespace.name", "k8s.pod.name"].map(|key| record.workload.get(key).unwrap());
            let (kind, second) = (record.event.kind().name(), record.event.time % 1_000_000_000 / 1_000_000);
            format!("{second} {kind} {} {namespace}/{pod} {} {}", flow.reason, flow.direction, flow.peer)
        })
        .collect();
    let expected = [
        "2 hubble.policy POLICY_DENIED bank/api-2 ingress shop/web-1",
        "3 hubble.drop INVALID_SOURCE_IP bank/api-2 ingress shop/web-1",
        "4 hubble.policy AUDIT bank/api-2 ingress shop/web-1",
        "5 hubble.policy POLICY_DENY shop/web-1 egress reserved:world",
        "6 hubble.l7_error http 503 shop/web-1 ingress bank/api-2",
        "8 hubble.policy DENIED bank/api-2 ingress shop/web-1",
        "10 hubble.l7_error dns SERVFAIL shop/web-1 ingress bank/api-2",
    ];
    assert_eq!(told, expected);
    let readings = collector.readings();
    assert_eq!(readings["telesonde_events_emitted{collector=hubble}"] as u64, 7);
}

#[test]
fn a_workload_has_no_more_than_its_limit() {
    let servers = runtime();
    let denied = of(between(1), 1, 2, 133).response();
    let (_player, address) = play(&servers, Setup::default(), once(vec![denied; 500]));
    let limits = json!({"events": {"policy": {"rate": 1, "burst": 20}}});
    let collector = World::start(&address.to_string(), &limits);
    let readings = collector.settled(500);
    assert_eq!(collector.events(20).len(), 20);
    let readings = if readings.contains_key("telesonde_events_lost{collector=hubble,reason=rate_limit}") {
        readings
    } else {
        collector.readings()
    };
    assert_eq!(readings["telesonde_events_lost{collector=hubble,reason=rate_limit}"] as u64, 480);
}
