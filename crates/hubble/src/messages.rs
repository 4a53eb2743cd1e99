//! The messages of Hubble's API that are written, or so rare that they may be decoded whole: our own minimal
//! definitions of the wire contract. Packages: `observer`, `flow`, `relay`, `google.protobuf`.

use prost::Message;

/// The path of the call that streams flows.
pub const GET_FLOWS: &str = "/observer.Observer/GetFlows";
/// The path of the call that asks how the server is.
pub const SERVER_STATUS: &str = "/observer.Observer/ServerStatus";

/// `observer.GetFlowsRequest`.
#[derive(Clone, PartialEq, Message)]
pub struct GetFlowsRequest {
    /// Whether the server keeps sending.
    #[prost(bool, tag = "3")]
    pub follow: bool,
    /// What is left out: flows that match any of these.
    #[prost(message, repeated, tag = "5")]
    pub blacklist: Vec<FlowFilter>,
    /// What is sent: flows that match any of these; all where there is none.
    #[prost(message, repeated, tag = "6")]
    pub whitelist: Vec<FlowFilter>,
    /// The fields of flows that are sent; all where there is none. Servers before 1.17 send all.
    #[prost(message, optional, tag = "10")]
    pub field_mask: Option<FieldMask>,
}

/// `flow.FlowFilter`: every field that is given must match, by any of its values.
#[derive(Clone, PartialEq, Message)]
pub struct FlowFilter {
    /// Prefixes of `NAMESPACE/POD`.
    #[prost(string, repeated, tag = "2")]
    pub source_pod: Vec<String>,
    /// Prefixes of `NAMESPACE/POD`.
    #[prost(string, repeated, tag = "4")]
    pub destination_pod: Vec<String>,
    /// Kinds of events.
    #[prost(message, repeated, tag = "6")]
    pub event_type: Vec<EventTypeFilter>,
}

/// `flow.EventTypeFilter`.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct EventTypeFilter {
    /// The kind.
    #[prost(int32, tag = "1")]
    pub kind: i32,
}

/// `google.protobuf.FieldMask`.
#[derive(Clone, PartialEq, Message)]
pub struct FieldMask {
    /// Names of fields.
    #[prost(string, repeated, tag = "1")]
    pub paths: Vec<String>,
}

/// `observer.ServerStatusResponse`.
#[derive(Clone, PartialEq, Message)]
pub struct ServerStatus {
    /// Flows in the server's ring.
    #[prost(uint64, tag = "1")]
    pub num_flows: u64,
    /// The room of that ring.
    #[prost(uint64, tag = "2")]
    pub max_flows: u64,
    /// Flows since the server started.
    #[prost(uint64, tag = "3")]
    pub seen_flows: u64,
    /// How long it has been running.
    #[prost(uint64, tag = "4")]
    pub uptime_ns: u64,
    /// The nodes that a relay is connected to; absent where the server is a node's.
    #[prost(message, optional, tag = "5")]
    pub num_connected_nodes: Option<u32>,
    /// The nodes that a relay cannot reach.
    #[prost(message, optional, tag = "6")]
    pub num_unavailable_nodes: Option<u32>,
    /// The server's version.
    #[prost(string, tag = "8")]
    pub version: String,
}

impl GetFlowsRequest {
    /// Makes a request for everything from now on.
    pub fn follow() -> Self {
        Self { follow: true, ..Self::default() }
    }
}
