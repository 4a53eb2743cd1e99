//! From a flow to counters. The rules: every flow counts once in `hubble_flows_total`; what is dropped counts at the
//! drop, not at the verdict that says so, too; responses are turned round, so that the source is who asked.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use hubble::flow::{Content, Flow, Http, L4, L7, Protocol, Record, Response};
use runtime::Scrape;

use super::addresses::Teacher;
use super::config::Config;
use super::connections::{Connections, Open};
use super::join::{Drop, Join, Told};
use super::metrics::{EVICTED, NAMES_REFUSED, Of};
use super::names;
use super::peers::{Kind, Peer, Peers};
use super::series::{Ends, Series};
use super::symbols::{NONE, Symbol, Symbols};
use crate::dns::names as dns;

/// What became of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is in the counters.
    Counted,
    /// The configuration leaves its namespaces out.
    Filtered,
    /// It is no flow, or none that can be read.
    Malformed,
}

const TO_HOST: i32 = 2;
const TO_STACK: i32 = 3;
const TO_OVERLAY: i32 = 4;
const TO_NETWORK: i32 = 11;
const TO_ENDPOINT: i32 = 101;
const REQUEST: i32 = 1;
const RESPONSE: i32 = 2;
/// A connection that is said to have lasted longer has a wrong clock at one end.
const LONGEST: Duration = Duration::from_hours(24 * 366);

/// All counters of flows.
pub struct Aggregator {
    config: Config,
    /// Whether flows of several nodes come: then each series says of which it is.
    relay: bool,
    symbols: Symbols,
    peers: Peers,
    series: Series,
    connections: Connections,
    /// Who passes on whose addresses are, where somebody wants to know.
    teacher: Option<Teacher>,
    /// What waits for the table of connections, where bytes are joined.
    join: Option<Join>,
    /// What a text is put together in.
    scratch: Vec<u8>,
    begun: Instant,
    swept: u32,
}

impl Aggregator {
    pub fn new(config: Config, relay: bool) -> Self {
        let connections = Connections::new(config.max_connections, config.connection_idle_timeout.0);
        Self {
            peers: Peers::new(&config),
            series: Series::new(config.max_series, config.flow_sample_rate),
            symbols: Symbols::default(),
            connections,
            teacher: None,
            join: None,
            scratch: Vec::new(),
            config,
            relay,
            begun: Instant::now(),
            swept: 0,
        }
    }

    /// Has what flows tell of addresses passed on.
    pub fn teach(&mut self, teacher: Option<Teacher>) {
        self.teacher = teacher;
    }

    /// Has bytes joined.
    pub fn join(&mut self) {
        self.join = Some(Join::default());
    }

    /// Counts the bytes that the table of connections tells of.
    pub fn count_bytes(&mut self, mut told: Told) {
        let (Some(join), Some(teacher)) = (&mut self.join, &self.teacher) else { return };
        let (series, peers) = (&mut self.series, &self.peers);
        let patience = self.config.aggregation_window.0.as_secs() as u32;
        let now = series.now;
        if self.config.collect_flows {
            join.bytes(&mut told, now, patience, |local, remote, bytes| {
                let (Some(local), Some(remote)) = (teacher.find(local), teacher.find(remote)) else { return false };
                if peers.leaves_out(local, remote) {
                    return true;
                }
                let mut count = |source: Peer, destination: Peer, bytes| {
                    let ends = Ends { node: NONE, source: source.set, destination: destination.set };
                    if bytes > 0 {
                        series.count_all(Of::FlowBytes, ends, [], bytes);
                    }
                };
                count(local, remote, bytes.sent);
                // What others send counts on their nodes, as far as they have one.
                if remote.kind == Kind::World {
                    count(remote, local, bytes.received);
                }
                true
            });
        }
        join.dropped(&told, now, patience, |drop, bytes| series.count(Of::DropBytes, drop.ends, drop.own, bytes));
    }

    /// Counts the flow of a message; shows it to whoever makes events.
    pub fn take(&mut self, message: &[u8], show: &mut impl FnMut(&Flow<'_>)) -> Outcome {
        let Ok(response) = Response::read(message) else { return Outcome::Malformed };
        let Content::Flow(flow) = response.content else { return Outcome::Malformed };
        let found =
            (self.peers.find(flow.source, &mut self.symbols), self.peers.find(flow.destination, &mut self.symbols));
        let (Ok(source), Ok(destination)) = found else { return Outcome::Malformed };
        let (source, destination) = if source.dns || destination.dns {
            (
                self.peers.named(source, flow.source_names, &mut self.symbols),
                self.peers.named(destination, flow.destination_names, &mut self.symbols),
            )
        } else {
            (source, destination)
        };
        if self.peers.leaves_out(source, destination) {
            return Outcome::Filtered;
        }
        show(&flow);
        if let Some(teacher) = &mut self.teacher {
            teacher.see(&flow, source, destination, self.series.now);
        }
        let name = if flow.node_name.is_empty() { response.node_name } else { flow.node_name };
        let node = if self.relay { self.symbols.intern(name) } else { NONE };
        let ends = Ends { node, source: source.set, destination: destination.set };
        if self.config.collect_flows {
            self.flow(&flow, ends, destination.kind == Kind::World);
            if flow.l4.protocol == Protocol::Tcp && flow.event == names::TRACE {
                self.connection(&flow, name, ends, source, destination);
            }
        }
        match flow.event {
            names::DROP if self.config.collect_drops => {
                let reason = self.symbols.word(names::drop_reason(flow.drop_reason));
                let protocol = self.symbols.word(names::transport(flow.l4.protocol).into());
                self.series.count(Of::Drops, ends, [reason, protocol], flow.count);
                self.dropped(&flow, ends, [reason, protocol]);
            }
            names::POLICY_VERDICT if self.config.collect_policies => {
                let verdict = self.symbols.word(names::decision(flow.verdict));
                let direction = self.symbols.word(names::direction(flow.direction));
                let matched = self.symbols.word(names::policy_match(flow.policy_match));
                let own = if self.config.labels.cilium {
                    self.cilium_verdict(&flow, direction)
                } else {
                    [verdict, direction, NONE, NONE]
                };
                self.series.count(Of::PolicyVerdicts, ends, own, flow.count);
                self.series.count(Of::PolicyMatches, ends, [matched, verdict], flow.count);
            }
            _ => {}
        }
        if let Some(l7) = &flow.l7 {
            self.application(&flow, l7, ends);
        }
        Outcome::Counted
    }

    /// Keeps a drop until the table of connections tells its size.
    fn dropped(&mut self, flow: &Flow<'_>, ends: Ends, own: [Symbol; 2]) {
        let Some(join) = &mut self.join else { return };
        let transport = match flow.l4.protocol {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Icmp4 => 1,
            Protocol::Icmp6 => 58,
            Protocol::Sctp => 132,
            Protocol::Unknown | Protocol::Vrrp | Protocol::Igmp => return,
        };
        if let (Some(from), Some(to)) = (address(flow.source_ip), address(flow.destination_ip)) {
            let (from, to) = ((from, flow.l4.source), (to, flow.l4.destination));
            join.add(Drop { from, to, transport, ends, own, count: flow.count, since: self.series.now });
        }
    }

    fn flow(&mut self, flow: &Flow<'_>, ends: Ends, leaves: bool) {
        let protocol = self.symbols.word(names::protocol(flow).into());
        let verdict = self.symbols.word(names::verdict(flow.verdict));
        let event = self.symbols.word(names::event(flow.event));
        if self.config.labels.cilium {
            self.cilium_flow(flow, ends, [protocol, verdict, event], leaves);
        } else {
            self.series.count(Of::Flows, ends, [protocol, verdict, event], flow.count);
        }
        if flow.l4.protocol == Protocol::Udp {
            self.series.count(Of::UdpFlows, ends, [], flow.count);
        }
    }

    /// Counts the beginning of a connection where it reaches a pod, or where it leaves its node for what is none.
    fn connection(&mut self, flow: &Flow<'_>, node: &[u8], ends: Ends, source: Peer, destination: Peer) {
        let (from, to) =
            ((address(flow.source_ip), flow.l4.source), (address(flow.destination_ip), flow.l4.destination));
        let ((Some(from), from_port), (Some(to), to_port)) = (from, to) else { return };
        let (from, to) = ((from, from_port), (to, to_port));
        let reply = flow.is_reply == Some(true);
        let (client, server) = if reply { (to, from) } else { (from, to) };
        let key = self.connections.key(node, client, server);
        let flags = flow.l4.flags;
        if flags & (L4::FIN | L4::RST) != 0 {
            let Some(Open { since, ends }) = self.connections.end(key) else { return };
            let lasted = flow.time.filter(|_| since != 0).and_then(|time| time.checked_sub(since));
            if let Some(lasted) = lasted.filter(|lasted| u128::from(*lasted) <= LONGEST.as_nanos()) {
                self.series.time(Of::TcpDuration, ends, [], lasted);
            }
            return;
        }
        let begins = flags & (L4::SYN | L4::ACK) == L4::SYN && flow.is_reply == Some(false) && flow.trace_reason <= 1;
        if !begins {
            self.connections.seen(key);
            return;
        }
        let sampled = self.config.flow_sample_rate > 1;
        let here = if destination.kind == Kind::Pod {
            flow.point == TO_ENDPOINT
        } else {
            // It may be seen at several of these: which is known only where every flow is looked at.
            source.local && !sampled && matches!(flow.point, TO_HOST | TO_STACK | TO_OVERLAY | TO_NETWORK)
        };
        if !here {
            return;
        }
        if sampled {
            self.series.count(Of::TcpConnections, ends, [], flow.count);
            return;
        }
        let open = Open { since: flow.time.unwrap_or(0), ends };
        if self.connections.begin(key, open, self.config.aggregation_window.nanos()) {
            self.series.count(Of::TcpConnections, ends, [], flow.count);
        }
    }

    /// Counts what a proxy saw.
    fn application(&mut self, flow: &Flow<'_>, l7: &L7<'_>, ends: Ends) {
        let response = l7.kind == RESPONSE;
        let turned = Ends { node: ends.node, source: ends.destination, destination: ends.source };
        let ends = if response { turned } else { ends };
        if l7.kind == REQUEST && self.config.collect_policies {
            let (matched, verdict) = (self.symbols.word("L7".into()), self.symbols.word(names::decision(flow.verdict)));
            self.series.count(Of::PolicyMatches, ends, [matched, verdict], flow.count);
        }
        let reporter = self.symbols.word(names::reporter(flow.direction).into());
        match l7.record {
            Record::Http(http) => {
                if self.config.collect_l7_flows {
                    self.http(flow, l7, &http, ends, reporter);
                }
                if self.config.collect_services {
                    self.service(flow, l7, &http, ends, reporter);
                }
            }
            Record::Dns { .. } if self.config.collect_l7_flows && self.config.labels.cilium => {
                self.cilium_dns(flow, l7, ends);
            }
            Record::Dns { rcode, types, .. } if self.config.collect_l7_flows => match l7.kind {
                REQUEST => {
                    for kind in types.iter() {
                        let kind = self.symbols.word(dns::question_named(kind).into());
                        self.series.count(Of::DnsQueries, ends, [kind], flow.count);
                    }
                }
                RESPONSE => {
                    let rcode = self.symbols.word(dns::extended_response(rcode));
                    self.series.count(Of::DnsResponses, ends, [rcode], flow.count);
                }
                _ => {}
            },
            Record::Kafka { key, topic, .. } if self.config.collect_l7_flows && l7.kind == REQUEST => {
                let own = [self.symbols.intern(key), self.symbols.intern(topic), reporter];
                self.series.count(Of::KafkaRequests, ends, own, flow.count);
            }
            Record::Unknown | Record::Dns { .. } | Record::Kafka { .. } => {}
        }
    }

    fn http(&mut self, flow: &Flow<'_>, l7: &L7<'_>, http: &Http<'_>, ends: Ends, reporter: Symbol) {
        let method = self.symbols.word(names::method(http.method).into());
        let call = grpc(http).map(|(service, name)| (self.symbols.intern(service), self.symbols.intern(name)));
        match l7.kind {
            REQUEST => {
                let protocol = self.symbols.intern(http.protocol);
                if !self.config.labels.cilium {
                    self.series.count(Of::HttpRequests, ends, [method, protocol, reporter], flow.count);
                }
                if let Some((service, name)) = call {
                    self.series.count(Of::GrpcRequests, ends, [service, name, reporter], flow.count);
                }
            }
            RESPONSE => {
                let code = self.symbols.number(http.code);
                let mut timed = [method, reporter, NONE];
                if self.config.labels.cilium {
                    // Its exporter counts a request when it is answered: only then there is a status.
                    let own = [NONE, self.symbols.intern(http.protocol), reporter, method, code];
                    self.series.count(Of::HttpRequests, ends, own, flow.count);
                    timed = [NONE, reporter, method];
                } else {
                    self.series.count(Of::HttpResponses, ends, [method, code, reporter], flow.count);
                }
                if l7.latency != 0 {
                    self.series.time(Of::HttpDuration, ends, timed, l7.latency);
                    if let Some((service, name)) = call {
                        let status = http.header("grpc-status").map_or(NONE, |status| self.symbols.intern(status));
                        self.series.time(Of::GrpcDuration, ends, [service, name, status, reporter], l7.latency);
                    }
                }
            }
            _ => {}
        }
    }

    fn service(&mut self, flow: &Flow<'_>, l7: &L7<'_>, http: &Http<'_>, ends: Ends, reporter: Symbol) {
        let service = if l7.kind == RESPONSE { flow.source_service } else { flow.destination_service };
        if service.name.is_empty() {
            return;
        }
        self.scratch.clear();
        for part in [service.namespace, b"/", service.name] {
            self.scratch.extend_from_slice(part);
        }
        let service = self.symbols.intern(&self.scratch);
        match l7.kind {
            REQUEST => self.series.count(Of::ServiceRequests, ends, [service, reporter], flow.count),
            RESPONSE => {
                let failed = http.code >= 500 || http.header("grpc-status").is_some_and(|status| status != b"0");
                if failed {
                    self.series.count(Of::ServiceErrors, ends, [service, reporter], flow.count);
                }
                if l7.latency != 0 {
                    self.series.time(Of::ServiceDuration, ends, [service, reporter], l7.latency);
                }
            }
            _ => {}
        }
    }

    /// Takes note of the time.
    pub fn tick(&mut self) {
        self.series.now = self.begun.elapsed().as_secs() as u32;
    }

    /// Records at most so many of the series that have changed; says whether there are more.
    pub fn record(&mut self, scrape: &mut Scrape, most: usize) -> bool {
        self.series.record(scrape, most, &self.symbols, &self.peers)
    }

    /// Records what there is but once, and ends what nothing was seen of for long.
    pub fn finish(&mut self, scrape: &mut Scrape) {
        self.series.record_overflow(scrape);
        self.connections.turn(Instant::now());
        if let Some(join) = &self.join {
            join.record(scrape);
        }
        if self.config.labels.wants_dns() {
            scrape.record(&NAMES_REFUSED, model::Subject::Node, [], self.peers.refused);
        }
        let evicted = self.connections.evicted;
        for (reason, count) in [("idle", evicted.idle), ("full", evicted.full)] {
            scrape.record(&EVICTED, model::Subject::Node, [reason.into()], count);
        }
        let idle = self.config.series_idle_timeout.0.as_secs() as u32;
        if self.series.now.saturating_sub(self.swept) >= idle / 4 {
            self.swept = self.series.now;
            self.series.expire(idle, scrape, &self.symbols, &self.peers);
            self.forget();
        }
    }

    /// Forgets the texts and labels that no series has any more.
    fn forget(&mut self) {
        let (mut symbols, mut sets) = (vec![false; self.symbols.len()], vec![false; self.peers.len()]);
        self.series.mark(&mut symbols, &mut sets);
        for Ends { node, source, destination } in self.connections.ends() {
            symbols[node as usize] = true;
            sets[source as usize] = true;
            sets[destination as usize] = true;
        }
        let drops = || self.join.iter().flat_map(|join| &join.drops);
        for Drop { ends, own, .. } in drops() {
            own.iter().chain([&ends.node]).for_each(|symbol| symbols[*symbol as usize] = true);
            sets[ends.source as usize] = true;
            sets[ends.destination as usize] = true;
        }
        if let Some(teacher) = &mut self.teacher {
            teacher.keep(self.series.now).for_each(|set| sets[set as usize] = true);
        }
        let numbers = self.peers.keep(&sets);
        if let Some(teacher) = &mut self.teacher {
            teacher.renumber(&numbers);
        }
        for Drop { ends, .. } in self.join.iter_mut().flat_map(|join| &mut join.drops) {
            *ends = ends.renumbered(&numbers);
        }
        self.series.renumber(&numbers);
        self.connections.renumber(&numbers);
        for set in 0..self.peers.len() as u32 {
            for symbol in self.peers.set(set) {
                symbols[symbol as usize] = true;
            }
        }
        self.symbols.keep(&symbols);
    }
}

fn address(text: &[u8]) -> Option<IpAddr> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Gives the service and the method of a request of gRPC.
fn grpc<'a>(http: &Http<'a>) -> Option<(&'a [u8], &'a [u8])> {
    if http.method != b"POST" || !http.protocol.starts_with(b"HTTP/2") {
        return None;
    }
    let mut path = http.url;
    if let Some(at) = path.windows(3).position(|part| part == b"://") {
        path = &path[at + 3..];
        path = &path[path.iter().position(|byte| *byte == b'/')?..];
    }
    let mut parts = path.strip_prefix(b"/")?.split(|byte| *byte == b'/');
    let (service, method) = (parts.next()?, parts.next()?);
    let word = |part: &[u8]| {
        !part.is_empty() && part.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.'))
    };
    if parts.next().is_some() || !word(service) || !word(method) {
        return None;
    }
    http.header("content-type")?.starts_with(b"application/grpc").then_some((service, method))
}

mod cilium;
#[cfg(test)]
mod tests;
