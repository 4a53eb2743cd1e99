//! The messages of flows as a server makes them: packages `observer`, `flow` and `relay`.

use bytes::Bytes;
use prost::{Message, Oneof};

/// `observer.GetFlowsResponse`.
#[derive(Clone, PartialEq, Message)]
pub struct GetFlowsResponse {
    /// What it is about.
    #[prost(oneof = "Content", tags = "1, 2, 3")]
    pub content: Option<Content>,
    /// The node that it was observed on.
    #[prost(string, tag = "1000")]
    pub node_name: String,
    /// When.
    #[prost(message, optional, tag = "1001")]
    pub time: Option<Timestamp>,
}

/// What a message is about.
#[derive(Clone, PartialEq, Oneof)]
#[expect(clippy::large_enum_variant, reason = "most of them are flows")]
pub enum Content {
    /// A flow.
    #[prost(message, tag = "1")]
    Flow(Flow),
    /// Nodes whose state has changed.
    #[prost(message, tag = "2")]
    NodeStatus(NodeStatusEvent),
    /// Lost events.
    #[prost(message, tag = "3")]
    Lost(LostEvent),
}

macro_rules! message {
    ($(#[$doc:meta])* $name:ident { $($field:ident: $type:ty = [$($kind:tt)*]),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Message)]
        pub struct $name { $(#[doc = concat!("The field `", stringify!($field), "`.")] #[prost($($kind)*)] pub $field: $type),* }
    };
}

message! {
    /// `google.protobuf.Timestamp`.
    Timestamp { seconds: i64 = [int64, tag = "1"], nanos: i32 = [int32, tag = "2"] }
}
message! {
    /// `flow.Flow`.
    Flow {
        time: Option<Timestamp> = [message, optional, tag = "1"],
        verdict: i32 = [int32, tag = "2"],
        drop_reason: u32 = [uint32, tag = "3"],
        ip: Option<Ip> = [message, optional, tag = "5"],
        l4: Option<Layer4> = [message, optional, tag = "6"],
        source: Option<Endpoint> = [message, optional, tag = "8"],
        destination: Option<Endpoint> = [message, optional, tag = "9"],
        kind: i32 = [int32, tag = "10"],
        node_name: String = [string, tag = "11"],
        source_names: Vec<String> = [string, repeated, tag = "13"],
        destination_names: Vec<String> = [string, repeated, tag = "14"],
        l7: Option<Layer7> = [message, optional, tag = "15"],
        event_type: Option<EventType> = [message, optional, tag = "19"],
        source_service: Option<Service> = [message, optional, tag = "20"],
        destination_service: Option<Service> = [message, optional, tag = "21"],
        traffic_direction: i32 = [int32, tag = "22"],
        policy_match_type: u32 = [uint32, tag = "23"],
        trace_observation_point: i32 = [int32, tag = "24"],
        drop_reason_desc: i32 = [int32, tag = "25"],
        is_reply: Option<bool> = [message, optional, tag = "26"],
        uuid: String = [string, tag = "34"],
        trace_reason: i32 = [int32, tag = "36"],
        aggregate: Option<Aggregate> = [message, optional, tag = "21007"],
    }
}
message! {
    /// `flow.Aggregate`.
    Aggregate {
        ingress_flow_count: u32 = [uint32, tag = "1"],
        egress_flow_count: u32 = [uint32, tag = "2"],
        unknown_direction_flow_count: u32 = [uint32, tag = "3"],
    }
}
message! {
    /// `flow.IP`.
    Ip { source: String = [string, tag = "1"], destination: String = [string, tag = "2"] }
}
message! {
    /// `flow.Endpoint`.
    Endpoint {
        id: u32 = [uint32, tag = "1"],
        identity: u32 = [uint32, tag = "2"],
        namespace: String = [string, tag = "3"],
        labels: Vec<String> = [string, repeated, tag = "4"],
        pod_name: String = [string, tag = "5"],
        workloads: Vec<Workload> = [message, repeated, tag = "6"],
    }
}
message! {
    /// `flow.Workload`.
    Workload { name: String = [string, tag = "1"], kind: String = [string, tag = "2"] }
}
message! {
    /// `flow.Service`.
    Service { name: String = [string, tag = "1"], namespace: String = [string, tag = "2"] }
}
message! {
    /// `flow.CiliumEventType`.
    EventType { kind: i32 = [int32, tag = "1"], sub_type: i32 = [int32, tag = "2"] }
}
message! {
    /// `flow.Layer4`.
    Layer4 { protocol: Option<Protocol> = [oneof = "Protocol", tags = "1, 2, 3, 4, 5"] }
}

/// The protocol of a [`Layer4`].
#[derive(Clone, PartialEq, Oneof)]
pub enum Protocol {
    /// TCP.
    #[prost(message, tag = "1")]
    Tcp(Tcp),
    /// UDP.
    #[prost(message, tag = "2")]
    Udp(Ports),
    /// ICMP of IPv4.
    #[prost(message, tag = "3")]
    Icmp4(Icmp),
    /// ICMP of IPv6.
    #[prost(message, tag = "4")]
    Icmp6(Icmp),
    /// SCTP.
    #[prost(message, tag = "5")]
    Sctp(Ports),
}

message! {
    /// `flow.TCP`.
    Tcp {
        source_port: u32 = [uint32, tag = "1"],
        destination_port: u32 = [uint32, tag = "2"],
        flags: Option<TcpFlags> = [message, optional, tag = "3"],
    }
}
message! {
    /// `flow.TCPFlags`.
    TcpFlags {
        fin: bool = [bool, tag = "1"],
        syn: bool = [bool, tag = "2"],
        rst: bool = [bool, tag = "3"],
        psh: bool = [bool, tag = "4"],
        ack: bool = [bool, tag = "5"],
    }
}
message! {
    /// `flow.UDP` and `flow.SCTP`.
    Ports { source_port: u32 = [uint32, tag = "1"], destination_port: u32 = [uint32, tag = "2"] }
}
message! {
    /// `flow.ICMPv4` and `flow.ICMPv6`.
    Icmp { kind: u32 = [uint32, tag = "1"], code: u32 = [uint32, tag = "2"] }
}
message! {
    /// `flow.Layer7`.
    Layer7 {
        kind: i32 = [int32, tag = "1"],
        latency_ns: u64 = [uint64, tag = "2"],
        record: Option<Record> = [oneof = "Record", tags = "100, 101, 102"],
    }
}

/// The record of a [`Layer7`].
#[derive(Clone, PartialEq, Oneof)]
pub enum Record {
    /// DNS.
    #[prost(message, tag = "100")]
    Dns(Dns),
    /// HTTP.
    #[prost(message, tag = "101")]
    Http(Http),
    /// Kafka.
    #[prost(message, tag = "102")]
    Kafka(Kafka),
}

message! {
    /// `flow.DNS`.
    Dns {
        query: String = [string, tag = "1"],
        ips: Vec<String> = [string, repeated, tag = "2"],
        rcode: u32 = [uint32, tag = "6"],
        qtypes: Vec<String> = [string, repeated, tag = "7"],
        rrtypes: Vec<String> = [string, repeated, tag = "8"],
    }
}
message! {
    /// `flow.HTTP`.
    Http {
        code: u32 = [uint32, tag = "1"],
        method: String = [string, tag = "2"],
        url: String = [string, tag = "3"],
        protocol: String = [string, tag = "4"],
        headers: Vec<Header> = [message, repeated, tag = "5"],
    }
}
message! {
    /// `flow.HTTPHeader`.
    Header { key: String = [string, tag = "1"], value: String = [string, tag = "2"] }
}
message! {
    /// `flow.Kafka`.
    Kafka {
        error_code: i32 = [int32, tag = "1"],
        api_key: String = [string, tag = "3"],
        topic: String = [string, tag = "5"],
    }
}
message! {
    /// `flow.LostEvent`.
    LostEvent { source: i32 = [int32, tag = "1"], num_events_lost: u64 = [uint64, tag = "2"] }
}
message! {
    /// `relay.NodeStatusEvent`.
    NodeStatusEvent {
        state_change: i32 = [int32, tag = "1"],
        node_names: Vec<String> = [string, repeated, tag = "2"],
        message: String = [string, tag = "3"],
    }
}

impl Flow {
    /// Gives the flow as a message of the stream.
    pub fn response(self) -> Bytes {
        let (node_name, time) = (self.node_name.clone(), self.time.clone());
        GetFlowsResponse { content: Some(Content::Flow(self)), node_name, time }.encode_to_vec().into()
    }
}
