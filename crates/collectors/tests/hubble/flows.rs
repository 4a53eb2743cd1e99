//! Flows as Cilium reports them.

use hubble::server::messages::{
    Dns, Endpoint, EventType, Flow, Header, Http, Ip, Kafka, Layer4, Layer7, Ports, Protocol, Record, Service, Tcp,
    TcpFlags, Timestamp, Workload,
};

/// The first second of all flows.
pub const BEGIN: i64 = 1_700_000_000;

/// Gives a pod of the reporting node.
pub fn pod(namespace: &str, workload: &str, id: u32) -> Endpoint {
    Endpoint {
        id,
        identity: 10_000 + id,
        namespace: namespace.to_owned(),
        labels: vec![format!("k8s:app={workload}"), format!("k8s:io.kubernetes.pod.namespace={namespace}")],
        pod_name: format!("{workload}-{id}"),
        workloads: vec![Workload { name: workload.to_owned(), kind: "Deployment".to_owned() }],
    }
}

/// Gives a pod of another node, of which Hubble knows no workload.
pub fn remote(namespace: &str, app: &str) -> Endpoint {
    Endpoint { id: 0, workloads: Vec::new(), ..pod(namespace, app, 7) }
}

/// Gives what is outside of the cluster.
pub fn world() -> Endpoint {
    Endpoint { identity: 2, labels: vec!["reserved:world".to_owned()], ..Endpoint::default() }
}

/// Gives a flow that was seen a number of milliseconds after the beginning.
pub fn flow(source: Endpoint, destination: Endpoint, at: i64) -> Flow {
    Flow {
        time: Some(Timestamp { seconds: BEGIN + at / 1000, nanos: (at % 1000) as i32 * 1_000_000 }),
        verdict: 1,
        kind: 1,
        ip: Some(Ip { source: "10.0.0.1".to_owned(), destination: "10.0.0.2".to_owned() }),
        source: Some(source),
        destination: Some(destination),
        node_name: "node-1".to_owned(),
        event_type: Some(EventType { kind: 4, sub_type: 0 }),
        is_reply: Some(false),
        traffic_direction: 1,
        ..Flow::default()
    }
}

/// Gives flags of TCP by their letters.
pub fn flags(letters: &str) -> TcpFlags {
    let has = |letter| letters.contains(letter);
    TcpFlags { fin: has('F'), syn: has('S'), rst: has('R'), psh: has('P'), ack: has('A') }
}

/// Makes a flow one of TCP.
pub fn tcp(flow: Flow, ports: (u32, u32), letters: &str) -> Flow {
    let (source_port, destination_port) = ports;
    let tcp = Tcp { source_port, destination_port, flags: Some(flags(letters)) };
    Flow { l4: Some(Layer4 { protocol: Some(Protocol::Tcp(tcp)) }), ..flow }
}

/// Makes a flow one of UDP.
pub fn udp(flow: Flow) -> Flow {
    let ports = Ports { source_port: 40_000, destination_port: 53 };
    Flow { l4: Some(Layer4 { protocol: Some(Protocol::Udp(ports)) }), ..flow }
}

/// Turns a flow into the direction of the answers.
pub fn reply(flow: Flow) -> Flow {
    let ip = flow.ip.map(|ip| Ip { source: ip.destination, destination: ip.source });
    let (source, destination) = (flow.destination, flow.source);
    let (source_service, destination_service) = (flow.destination_service, flow.source_service);
    Flow { ip, source, destination, source_service, destination_service, is_reply: Some(true), ..flow }
}

/// Says where and how a packet was seen.
pub fn seen(flow: Flow, trace_observation_point: i32, trace_reason: i32) -> Flow {
    Flow { trace_observation_point, trace_reason, ..flow }
}

/// Makes a flow a request (1) or response (2) that a proxy saw.
pub fn l7(flow: Flow, kind: i32, latency_ns: u64, record: Record) -> Flow {
    let l7 = Some(Layer7 { kind, latency_ns, record: Some(record) });
    Flow { kind: 2, event_type: Some(EventType { kind: 129, sub_type: 0 }), l7, ..flow }
}

/// Gives a request or response of HTTP.
pub fn http(method: &str, url: &str, code: u32, protocol: &str, headers: &[(&str, &str)]) -> Record {
    let header = |&(key, value): &(&str, &str)| Header { key: key.to_owned(), value: value.to_owned() };
    Record::Http(Http {
        code,
        method: method.to_owned(),
        url: url.to_owned(),
        protocol: protocol.to_owned(),
        headers: headers.iter().map(header).collect(),
    })
}

/// Gives a query or an answer of DNS.
pub fn dns(qtypes: &[&str], rcode: u32) -> Record {
    let qtypes = qtypes.iter().map(|&kind| kind.to_owned()).collect();
    Record::Dns(Dns { query: "shop.example.".to_owned(), ips: Vec::new(), rcode, qtypes, rrtypes: Vec::new() })
}

/// Gives a request of Kafka.
pub fn kafka(api_key: &str, topic: &str) -> Record {
    Record::Kafka(Kafka { error_code: 0, api_key: api_key.to_owned(), topic: topic.to_owned() })
}

/// Gives a service.
pub fn service(namespace: &str, name: &str) -> Service {
    Service { name: name.to_owned(), namespace: namespace.to_owned() }
}
