//! What is counted of flows, and of the way that they take.

use model::Metric;
use model::metric::SECOND_BOUNDS;

/// The attributes of both ends, before a metric's own: the values that [`super::series::Ends`] gives, in its order.
macro_rules! ends {
    ($($own:literal),*) => {
        &[
            "k8s.node.name",
            "source.namespace",
            "source.workload",
            "source.pod",
            "source.app",
            "source.identity",
            "destination.namespace",
            "destination.workload",
            "destination.pod",
            "destination.app",
            "destination.identity",
            $($own),*
        ]
    };
}

/// How many attributes say which node and which ends.
pub const ENDS: usize = ends!().len();

macro_rules! metrics {
    ($($of:ident $name:ident = $kind:ident($text:literal, $unit:literal, $help:literal, $attributes:expr $(, $bounds:expr)?);)*) => {
        /// Everything that is counted by the ends of flows.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Of { $($of),* }

        impl Of {
            /// Everything, in this order.
            pub const ALL: &[Self] = &[$(Self::$of),*];
        }

        $(static $name: Metric = Metric::$kind($text, $unit, $help, $attributes $(, $bounds)?);)*

        /// The metrics, in the order of [`Of`].
        pub static ALL: &[&Metric] = &[$(&$name),*];
    };
}

metrics! {
    Flows FLOWS = counter("hubble_flows_total", "{flow}", "Flows that Hubble reported, each at every point where it was observed.", ends!("protocol", "verdict", "type"));
    FlowsProcessed FLOWS_PROCESSED = counter("hubble_flows_processed_total", "{flow}", "The same flows as Cilium's exporter names and labels them (labels.cilium).", ends!("protocol", "type", "subtype", "verdict"));
    TcpFlags TCP_FLAGS = counter("hubble_tcp_flags_total", "{flow}", "Forwarded flows of TCP with a FIN, SYN, SYN-ACK or RST, as Cilium's exporter counts them (labels.cilium).", ends!("flag", "family"));
    PortDistribution PORT_DISTRIBUTION = counter("hubble_port_distribution_total", "{flow}", "Forwarded flows that are no replies by destination port, as Cilium's exporter counts them (labels.cilium).", ends!("protocol", "port"));
    Icmp ICMP = counter("hubble_icmp_total", "{message}", "Messages of ICMP by what they say, as Cilium's exporter counts them (labels.cilium).", ends!("family", "type"));
    FlowsToWorld FLOWS_TO_WORLD = counter("hubble_flows_to_world_total", "{flow}", "Flows to what is outside of the cluster that are no replies and that nothing but a policy dropped, as Cilium's exporter counts them (labels.cilium).", ends!("protocol", "verdict"));
    TcpConnections TCP_CONNECTIONS = counter("hubble_tcp_connections_total", "{connection}", "TCP connections whose beginning Hubble reported, each once.", ends!());
    TcpDuration TCP_DURATION = histogram("hubble_tcp_connection_duration_seconds", "s", "Time from the beginning of a TCP connection to its first FIN or RST.", ends!(), CONNECTION_BOUNDS);
    UdpFlows UDP_FLOWS = counter("hubble_udp_flows_total", "{flow}", "Flows of UDP that Hubble reported.", ends!());
    HttpRequests HTTP_REQUESTS = counter("hubble_http_requests_total", "{request}", "HTTP requests, by the end whose proxy saw them.", ends!("http.request.method", "protocol", "reporter", "method", "status"));
    HttpResponses HTTP_RESPONSES = counter("hubble_http_responses_total", "{response}", "HTTP responses, by the end whose proxy saw them.", ends!("http.request.method", "http.response.status_code", "reporter"));
    HttpDuration HTTP_DURATION = histogram("hubble_http_request_duration_seconds", "s", "Time from an HTTP request to its response, where the proxy told.", ends!("http.request.method", "reporter", "method"), SECOND_BOUNDS);
    GrpcRequests GRPC_REQUESTS = counter("hubble_grpc_requests_total", "{request}", "Requests of gRPC, as far as the proxy logged their headers.", ends!("rpc.service", "rpc.method", "reporter"));
    GrpcDuration GRPC_DURATION = histogram("hubble_grpc_request_duration_seconds", "s", "Time from a request of gRPC to its response, where the proxy told.", ends!("rpc.service", "rpc.method", "rpc.response.status_code", "reporter"), SECOND_BOUNDS);
    DnsQueries DNS_QUERIES = counter("hubble_dns_queries_total", "{query}", "DNS queries that Cilium's proxy saw, by each type asked for.", ends!("qtype", "rcode", "qtypes", "ips_returned"));
    DnsResponses DNS_RESPONSES = counter("hubble_dns_responses_total", "{response}", "DNS responses that Cilium's proxy saw.", ends!("rcode", "qtypes", "ips_returned"));
    DnsResponseTypes DNS_RESPONSE_TYPES = counter("hubble_dns_response_types_total", "{record}", "Types of the records in DNS responses, as Cilium's exporter counts them (labels.cilium).", ends!("type", "qtypes"));
    KafkaRequests KAFKA_REQUESTS = counter("hubble_kafka_requests_total", "{request}", "Requests to Kafka that a proxy saw.", ends!("api_key", "topic", "reporter"));
    FlowBytes FLOW_BYTES = counter("hubble_flow_bytes_total", "By", "Bytes that sockets of this node sent, or received from outside of the cluster, by the table of the collector connection, whose addresses flows have named.", ends!());
    Drops DROPS = counter("hubble_drop_total", "{packet}", "Packets that the data path dropped.", ends!("reason", "protocol"));
    DropBytes DROP_BYTES = counter("hubble_drop_bytes_total", "By", "Bytes of packets that the data path dropped: as many as those have that their connection sent, on average, by the table of the collector connection.", ends!("reason", "protocol"));
    PolicyVerdicts POLICY_VERDICTS = counter("hubble_policy_verdicts_total", "{verdict}", "What network policies said of new connections.", ends!("verdict", "direction", "match", "action"));
    PolicyMatches POLICY_MATCHES = counter("hubble_policy_match_total", "{verdict}", "How network policies matched; L7 are requests that a proxy judged.", ends!("match", "verdict"));
    ServiceRequests SERVICE_REQUESTS = counter("hubble_service_requests_total", "{request}", "HTTP requests to services.", ends!("service", "reporter"));
    ServiceErrors SERVICE_ERRORS = counter("hubble_service_errors_total", "{response}", "HTTP responses of services with a status of 500 or more, or a gRPC status other than 0.", ends!("service", "reporter"));
    ServiceDuration SERVICE_DURATION = histogram("hubble_service_request_duration_seconds", "s", "Time from an HTTP request to a service to its response, where the proxy told.", ends!("service", "reporter"), SECOND_BOUNDS);
}

/// 1 ms (2^-10) to 18 h (2^16), each 16 times the one before.
const CONNECTION_BOUNDS: &[i8] = &[-10, -6, -2, 2, 6, 10, 14, 16];

impl Of {
    pub fn metric(self) -> &'static Metric {
        ALL[self as usize]
    }
}

pub static LOST_EVENTS: Metric = Metric::counter(
    "hubble_lost_events_total",
    "{event}",
    "Events that were lost before Hubble could report them, by where.",
    &["k8s.node.name", "source"],
);

pub static CONNECTED: Metric =
    Metric::gauge("telesonde_hubble_connected", "{connection}", "1 while the server answers and flows may come.", &[]);

pub static LEADER: Metric =
    Metric::gauge("telesonde_hubble_leader", "{agent}", "1 for the agent that was elected to read the relay.", &[]);

pub static UNREAD: Metric = Metric::counter(
    "telesonde_hubble_unread_seconds",
    "s",
    "Time in which nobody read flows: the server was not to be reached, or no agent was elected.",
    &[],
);

pub static MISSED: Metric = Metric::counter(
    "telesonde_hubble_flows_missed",
    "{flow}",
    "Flows that the server saw while nobody read them, as far as its own number of flows tells.",
    &[],
);

pub static RECEIVED: Metric =
    Metric::counter("telesonde_hubble_flows_received", "{flow}", "Flows that came from the server.", &[]);

pub static OUTCOMES: Metric = Metric::counter(
    "telesonde_hubble_flows",
    "{flow}",
    "What became of the flows that came, once each: counted, filtered, sampled_out, or dropped for a reason.",
    &["outcome", "reason"],
);

pub static STREAM_ENDS: Metric = Metric::counter(
    "telesonde_hubble_stream_ends",
    "{stream}",
    "Streams of flows that ended or could not begin.",
    &["reason"],
);

pub static NODES: Metric =
    Metric::gauge("telesonde_hubble_nodes", "{node}", "Nodes as the relay last spoke of them.", &["state"]);

pub static NAMES_REFUSED: Metric = Metric::counter(
    "telesonde_hubble_names_refused",
    "{flow}",
    "Ends of flows whose DNS name is no label because there are labels.max_names of them already.",
    &[],
);

pub static UNMATCHED_BYTES: Metric = Metric::counter(
    "telesonde_hubble_unmatched_bytes",
    "By",
    "Bytes of the table of connections that are not in hubble_flow_bytes_total: no flow told of one of their addresses in time.",
    &[],
);

pub static UNMATCHED_DROPS: Metric = Metric::counter(
    "telesonde_hubble_unmatched_drops",
    "{packet}",
    "Dropped packets that are not in hubble_drop_bytes_total: no socket of this node is known to have sent them.",
    &[],
);

pub static EVICTED: Metric = Metric::counter(
    "telesonde_hubble_connections_evicted",
    "{connection}",
    "TCP connections that were forgotten before their end: nothing was seen of them for too long, or there were too many.",
    &["reason"],
);
