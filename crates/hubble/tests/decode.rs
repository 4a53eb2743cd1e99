//! Our reading of a flow against prost's.

use prost::Message;
use telesonde_hubble::flow::{Content, Endpoint as End, L4, Protocol as Kind, Record as Seen, Response, is_flow};
use telesonde_hubble::server::messages::{
    Aggregate, Content as Sent, Dns, Endpoint, EventType, Flow, GetFlowsResponse, Header, Http, Ip, Kafka, Layer4,
    Layer7, LostEvent, NodeStatusEvent, Protocol, Record, Service, Tcp, TcpFlags, Timestamp, Workload,
};

fn text(text: &str) -> String {
    text.to_owned()
}

fn whole() -> Flow {
    let endpoint = |name: &str, id| Endpoint {
        id,
        identity: id * 10,
        namespace: text("shop"),
        labels: vec![text("k8s:app=web"), text("k8s:tier=front")],
        pod_name: format!("{name}-0"),
        workloads: vec![
            Workload { name: text(name), kind: text("Deployment") },
            Workload { name: text("other"), kind: text("Job") },
        ],
    };
    let flags = TcpFlags { syn: true, ack: true, ..TcpFlags::default() };
    let tcp = Tcp { source_port: 40_000, destination_port: 443, flags: Some(flags) };
    Flow {
        time: Some(Timestamp { seconds: 1_700_000_000, nanos: 5 }),
        verdict: 2,
        drop_reason: 130,
        ip: Some(Ip { source: text("10.0.0.1"), destination: text("fd00::2") }),
        l4: Some(Layer4 { protocol: Some(Protocol::Tcp(tcp)) }),
        source: Some(endpoint("web", 7)),
        destination: Some(endpoint("api", 8)),
        kind: 1,
        node_name: text("node-1"),
        source_names: vec![text("a.example")],
        destination_names: vec![text("b.example"), text("c.example")],
        l7: Some(Layer7 { kind: 2, latency_ns: 77, record: None }),
        event_type: Some(EventType { kind: 129, sub_type: 3 }),
        source_service: Some(Service { name: text("s"), namespace: text("n") }),
        destination_service: Some(Service { name: text("t"), namespace: text("m") }),
        traffic_direction: 2,
        policy_match_type: 4,
        trace_observation_point: 101,
        drop_reason_desc: 181,
        is_reply: Some(false),
        uuid: text("u"),
        trace_reason: 1,
        aggregate: Some(Aggregate { ingress_flow_count: 2, egress_flow_count: 3, unknown_direction_flow_count: 1 }),
    }
}

fn read(message: &[u8]) -> telesonde_hubble::flow::Flow<'_> {
    let response = Response::read(message).unwrap();
    assert_eq!((response.node_name, response.time), (&b"node-1"[..], Some(1_700_000_000_000_000_005)));
    let Content::Flow(flow) = response.content else { panic!("{response:?}") };
    flow
}

#[test]
fn every_field_is_read() {
    let message = whole().response();
    assert!(is_flow(&message));
    let flow = read(&message);
    assert_eq!((flow.verdict, flow.drop_reason, flow.kind, flow.event), (2, 181, 1, 129));
    assert_eq!((flow.source_ip, flow.destination_ip), (&b"10.0.0.1"[..], &b"fd00::2"[..]));
    let l4 = L4 { protocol: Kind::Tcp, source: 40_000, destination: 443, flags: L4::SYN | L4::ACK, message: (0, 0) };
    assert_eq!((flow.l4, flow.node_name), (l4, &b"node-1"[..]));
    let (source, destination) = (End::read(flow.source).unwrap(), End::read(flow.destination).unwrap());
    assert_eq!((source.id, source.identity, source.namespace), (7, 70, &b"shop"[..]));
    assert_eq!((source.pod, source.workload, destination.workload), (&b"web-0"[..], &b"web"[..], &b"api"[..]));
    assert_eq!(source.labels.iter().collect::<Vec<_>>(), [&b"k8s:app=web"[..], b"k8s:tier=front"]);
    assert_eq!(flow.source_names.iter().collect::<Vec<_>>(), [b"a.example"]);
    assert_eq!(flow.destination_names.iter().count(), 2);
    assert_eq!((flow.source_service.name, flow.source_service.namespace), (&b"s"[..], &b"n"[..]));
    assert_eq!((flow.destination_service.name, flow.destination_service.namespace), (&b"t"[..], &b"m"[..]));
    assert_eq!((flow.direction, flow.policy_match, flow.point), (2, 4, 101));
    assert_eq!((flow.is_reply, flow.trace_reason, flow.count), (Some(false), 1, 6));
    assert_eq!(flow.l7.map(|l7| (l7.kind, l7.latency)), Some((2, 77)));
}

#[test]
fn every_record_is_read() {
    let with = |record| {
        let l7 = Some(Layer7 { kind: 1, latency_ns: 0, record: Some(record) });
        Flow { l7, ..whole() }.response()
    };
    let dns = Dns {
        query: text("q."),
        ips: vec![text("10.0.0.9")],
        rcode: 3,
        qtypes: vec![text("A"), text("AAAA")],
        rrtypes: vec![text("CNAME")],
    };
    let message = with(Record::Dns(dns));
    let Some(Seen::Dns { rcode: 3, types, query: b"q.", ips, answers }) = read(&message).l7.map(|l7| l7.record) else {
        panic!()
    };
    assert_eq!(types.iter().collect::<Vec<_>>(), [&b"A"[..], b"AAAA"]);
    assert_eq!(ips.iter().collect::<Vec<_>>(), [b"10.0.0.9"]);
    assert_eq!(answers.iter().collect::<Vec<_>>(), [b"CNAME"]);
    let headers =
        vec![Header { key: text("X"), value: text("1") }, Header { key: text("Content-Type"), value: text("x/y") }];
    let http = Http { code: 404, method: text("GET"), url: text("/"), protocol: text("HTTP/2"), headers };
    let message = with(Record::Http(http));
    let Some(Seen::Http(http)) = read(&message).l7.map(|l7| l7.record) else { panic!() };
    assert_eq!((http.code, http.method, http.url, http.protocol), (404, &b"GET"[..], &b"/"[..], &b"HTTP/2"[..]));
    assert_eq!((http.header("content-type"), http.header("grpc-status")), (Some(&b"x/y"[..]), None));
    let message = with(Record::Kafka(Kafka { error_code: -1, api_key: text("fetch"), topic: text("t") }));
    let Some(Seen::Kafka { key: b"fetch", topic: b"t", error: -1 }) = read(&message).l7.map(|l7| l7.record) else {
        panic!()
    };
}

#[test]
fn old_fields_and_absent_ones_have_their_meaning() {
    let message = Flow { drop_reason_desc: 0, is_reply: None, aggregate: None, ..whole() }.response();
    let flow = read(&message);
    assert_eq!((flow.drop_reason, flow.is_reply, flow.count), (130, None, 1));
    for (seconds, nanos) in [(i64::MIN, 0), (i64::MAX, 0), (-1, 5), (1, -1), (1, 1_000_000_000), (0, 0)] {
        let message = Flow { time: Some(Timestamp { seconds, nanos }), ..Flow::default() }.response();
        let Content::Flow(flow) = Response::read(&message).unwrap().content else { panic!() };
        assert_eq!(flow.time, None, "{seconds} {nanos}");
    }
}

#[test]
fn what_is_no_flow_is_told_apart() {
    let response = |content| GetFlowsResponse { content, node_name: text("node-1"), time: None }.encode_to_vec();
    let lost = response(Some(Sent::Lost(LostEvent { source: 1, num_events_lost: 9 })));
    let names = vec![text("a"), text("b")];
    let status =
        response(Some(Sent::NodeStatus(NodeStatusEvent { state_change: 4, node_names: names, message: text("m") })));
    assert!(!is_flow(&lost) && !is_flow(&status));
    let Content::Lost(lost) = Response::read(&lost).unwrap().content else { panic!() };
    assert_eq!((lost.source, lost.events), (1, 9));
    let Content::NodeStatus(status) = Response::read(&status).unwrap().content else { panic!() };
    assert_eq!((status.state, status.nodes.iter().count(), status.message), (4, 2, &b"m"[..]));
    assert!(matches!(Response::read(&response(None)).unwrap().content, Content::Unknown));
}
