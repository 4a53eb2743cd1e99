//! Flows that somebody should hear of one by one: what was dropped, what a policy denied, and requests that failed.
//!
//! A packet that a policy denied is one event, by its drop; the verdict that says the same makes none.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use foldhash::fast::RandomState;
use hubble::flow::{Endpoint, Flow, L7, Protocol, Record};
use model::event::{Address, Detail, Event, EventKind, Refusal, RefusedFlow};
use model::{Attributes, Subject};
use runtime::{Bus, Entrance, Ledger};

use super::config::Config;
use super::names;
use super::peers::reserved;
use super::symbols::presentable;
use crate::dns::names as dns;

/// The most workloads whose names are remembered.
const MOST: usize = 4_096;

/// Why a flow is worth an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notable {
    /// The data path dropped it.
    Drop,
    /// A policy denied it, or would have.
    Policy,
    /// A server answered that it failed.
    Failure,
}

impl Notable {
    /// Says whether a flow is worth an event.
    pub fn of(flow: &Flow<'_>) -> Option<Self> {
        const AUDIT: i32 = 4;
        match flow.event {
            // POLICY_DENIED, POLICY_DENY, AUTH_REQUIRED
            names::DROP if matches!(flow.drop_reason, 133 | 181 | 189) => Some(Self::Policy),
            names::DROP => Some(Self::Drop),
            names::POLICY_VERDICT if flow.verdict == AUDIT => Some(Self::Policy),
            _ => match &flow.l7 {
                Some(l7) if l7.kind == 1 && flow.verdict == 2 => Some(Self::Policy),
                Some(l7) => failure(l7).map(|_| Self::Failure),
                None => None,
            },
        }
    }
}

/// Gives how a request failed, if this is the response that says so.
fn failure(l7: &L7<'_>) -> Option<String> {
    if l7.kind != 2 {
        return None;
    }
    match &l7.record {
        Record::Http(http) => {
            let status = http.header("grpc-status").filter(|status| *status != b"0");
            let status = status.map(|status| format!("grpc {}", presentable(status)));
            status.or_else(|| (http.code >= 500).then(|| format!("http {}", http.code)))
        }
        // A name that does not exist is an answer, too.
        Record::Dns { rcode, .. } if !matches!(rcode, 0 | 3) => Some(format!("dns {}", dns::extended_response(*rcode))),
        Record::Kafka { error, .. } if *error != 0 => Some(format!("kafka {error}")),
        Record::Dns { .. } | Record::Kafka { .. } | Record::Unknown => None,
    }
}

/// A namespace and a pod.
type Pod = (Box<[u8]>, Box<[u8]>);

/// Makes events of flows.
pub struct Events {
    entrance: Entrance,
    wanted: [bool; 3],
    workloads: HashMap<Pod, Arc<Attributes>, RandomState>,
}

impl Events {
    /// Opens the way to the sinks; nothing where nobody takes events, or none is wanted.
    pub fn open(config: &Config, bus: &Arc<Bus>, collector: &'static str) -> Option<Self> {
        let kinds = [
            (config.collect_drops, &config.events.drop, EventKind::FlowDrop),
            (config.collect_policies, &config.events.policy, EventKind::FlowPolicy),
            (config.collect_l7_flows, &config.events.l7_error, EventKind::FlowError),
        ];
        let wanted = kinds.map(|(collected, kind, _)| collected && kind.enabled);
        if !bus.is_wanted() || wanted == [false; 3] {
            return None;
        }
        let limits = kinds.into_iter().filter_map(|(_, kind, name)| Some((name, kind.limit()?))).collect();
        Some(Self { entrance: bus.entrance(collector, limits), wanted, workloads: HashMap::default() })
    }

    /// Gives the account of the events.
    pub fn ledger(&self) -> Arc<Ledger> {
        self.entrance.ledger()
    }

    /// Hands on what was seen.
    pub fn flush(&mut self) {
        self.entrance.flush();
    }

    /// Makes the event of a flow that is worth one.
    pub fn see(&mut self, flow: &Flow<'_>, notable: Notable) {
        if !self.wanted[notable as usize] {
            return;
        }
        let (Ok(mut source), Ok(mut destination)) = (Endpoint::read(flow.source), Endpoint::read(flow.destination))
        else {
            return;
        };
        let address = |ip: &[u8], port| {
            let ip: Option<IpAddr> = std::str::from_utf8(ip).ok().and_then(|ip| ip.parse().ok());
            ip.map(|ip| Address { ip, port })
        };
        let mut from = address(flow.source_ip, flow.l4.source);
        let mut to = address(flow.destination_ip, flow.l4.destination);
        // Who asked is the source, also of the answer.
        if notable == Notable::Failure {
            (source, destination) = (destination, source);
            (from, to) = (to, from);
        }
        let (refusal, reason) = match notable {
            Notable::Drop => (Refusal::Dropped, names::drop_reason(flow.drop_reason).into_owned()),
            Notable::Policy if flow.event == names::DROP => {
                (Refusal::Denied, names::drop_reason(flow.drop_reason).into_owned())
            }
            Notable::Policy => (Refusal::Denied, names::decision(flow.verdict).into_owned()),
            Notable::Failure => (Refusal::Failed, flow.l7.as_ref().and_then(failure).unwrap_or_default()),
        };
        // What comes in is the receiver's.
        let ingress = flow.direction == 1 && notable != Notable::Failure;
        let (own, peer) = if ingress { (&destination, &source) } else { (&source, &destination) };
        let detail = RefusedFlow {
            refusal,
            reason: reason.into(),
            source: from,
            destination: to,
            peer: name(peer).into(),
            direction: if flow.direction == 1 { "ingress" } else { "egress" },
            transport: match flow.l4.protocol {
                Protocol::Tcp => "tcp",
                Protocol::Udp => "udp",
                Protocol::Sctp => "sctp",
                Protocol::Icmp4 | Protocol::Icmp6 => "icmp",
                Protocol::Unknown | Protocol::Vrrp | Protocol::Igmp => "",
            },
            node: presentable(flow.node_name).into_owned().into(),
        };
        let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |now| now.as_nanos() as u64);
        let event = Event {
            time: flow.time.unwrap_or_else(now),
            subject: Subject::Node,
            pid: 0,
            command: [0; 16],
            detail: Detail::Flow(Box::new(detail)),
        };
        let workload = self.workload(own);
        self.entrance.put_named(event, workload);
    }

    /// Gives the names of a workload: the same set for the same pod, so that its limit is one.
    fn workload(&mut self, endpoint: &Endpoint<'_>) -> Arc<Attributes> {
        let key = (endpoint.namespace.into(), endpoint.pod.into());
        if let Some(known) = self.workloads.get(&key) {
            return Arc::clone(known);
        }
        if self.workloads.len() >= MOST {
            self.workloads.clear();
        }
        let text = |bytes| presentable(bytes).into_owned().into();
        let pairs =
            [("k8s.namespace.name".into(), text(endpoint.namespace)), ("k8s.pod.name".into(), text(endpoint.pod))];
        let made = Arc::new(Attributes::new(pairs));
        self.workloads.insert(key, Arc::clone(&made));
        made
    }
}

/// Names an end in one word.
fn name(endpoint: &Endpoint<'_>) -> String {
    match (endpoint.namespace, endpoint.pod) {
        ([], []) => reserved(endpoint).map_or_else(String::new, |name| presentable(name).into_owned()),
        (namespace, []) => presentable(namespace).into_owned(),
        (namespace, pod) => format!("{}/{}", presentable(namespace), presentable(pod)),
    }
}
