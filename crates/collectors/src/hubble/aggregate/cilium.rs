//! What Cilium's own exporter counts, by its names and labels and when it counts it, so that its dashboards work.

use hubble::flow::{Flow, L4, L7, Protocol, Record};

use super::{Aggregator, RESPONSE};
use crate::dns::names as dns;
use crate::hubble::icmp;
use crate::hubble::metrics::Of;
use crate::hubble::names;
use crate::hubble::series::Ends;
use crate::hubble::symbols::{NONE, Symbol};

const FORWARDED: i32 = 1;
const DROPPED: i32 = 2;
const REDIRECTED: i32 = 5;
/// Why a policy drops.
const POLICY_DENIED: u32 = 133;

impl Aggregator {
    /// Counts a flow, whose protocol, verdict and type have these names, and which may leave the cluster.
    pub(super) fn cilium_flow(
        &mut self,
        flow: &Flow<'_>,
        ends: Ends,
        [protocol, verdict, event]: [Symbol; 3],
        leaves: bool,
    ) {
        let kind = match flow.event {
            names::TRACE => self.symbols.word(names::point(flow.point)),
            names::L7 if flow.l7.is_some_and(|l7| !matches!(l7.record, Record::Unknown)) => protocol,
            _ => NONE,
        };
        self.series.count(Of::FlowsProcessed, ends, [protocol, event, kind, verdict], flow.count);
        if flow.verdict == FORWARDED && flow.l4.protocol == Protocol::Tcp {
            let family = if flow.source_ip.contains(&b':') { "IPv6" } else { "IPv4" };
            let family = self.symbols.word(family.into());
            let has = |flag| flow.l4.flags & flag != 0;
            let opening = if has(L4::ACK) { "SYN-ACK" } else { "SYN" };
            for (flag, _) in
                [("FIN", L4::FIN), (opening, L4::SYN), ("RST", L4::RST)].iter().filter(|(_, bit)| has(*bit))
            {
                let flag = self.symbols.word((*flag).into());
                self.series.count(Of::TcpFlags, ends, [flag, family], flow.count);
            }
        }
        let icmp = match flow.l4.protocol {
            Protocol::Icmp4 => Some(("IPv4", icmp::version_4(flow.l4.message))),
            Protocol::Icmp6 => Some(("IPv6", icmp::version_6(flow.l4.message))),
            _ => None,
        };
        if let Some((family, kind)) = icmp {
            let own = [self.symbols.word(family.into()), self.symbols.word(kind)];
            self.series.count(Of::Icmp, ends, own, flow.count);
        }
        let told = flow.event != 0 && flow.l4.protocol != Protocol::Unknown;
        let denied = flow.verdict == DROPPED && flow.drop_reason == POLICY_DENIED;
        let asks = flow.verdict != DROPPED && flow.is_reply != Some(true);
        if leaves && told && (denied || asks) {
            self.series.count(Of::FlowsToWorld, ends, [protocol, verdict], flow.count);
        }
        let through = matches!(flow.verdict, FORWARDED | REDIRECTED) && flow.is_reply == Some(false);
        if through && flow.l4.protocol != Protocol::Unknown {
            let own = [
                self.symbols.word(names::transport(flow.l4.protocol).into()),
                self.symbols.number(flow.l4.destination.into()),
            ];
            self.series.count(Of::PortDistribution, ends, own, flow.count);
        }
    }

    /// Counts a query or a response of DNS.
    pub(super) fn cilium_dns(&mut self, flow: &Flow<'_>, l7: &L7<'_>, ends: Ends) {
        let Record::Dns { rcode, types, ips, answers, .. } = l7.record else { return };
        self.scratch.clear();
        for kind in types.iter() {
            if !self.scratch.is_empty() {
                self.scratch.push(b',');
            }
            self.scratch.extend_from_slice(dns::question_named(kind).as_bytes());
        }
        let kinds = self.symbols.intern(&self.scratch);
        let addresses = self.symbols.number(ips.iter().count() as u32);
        if l7.kind == RESPONSE && flow.verdict != DROPPED {
            let rcode = self.symbols.word(names::rcode(rcode));
            self.series.count(Of::DnsResponses, ends, [rcode, kinds, addresses], flow.count);
            for kind in answers.iter() {
                let kind = self.symbols.word(dns::question_named(kind).into());
                self.series.count(Of::DnsResponseTypes, ends, [kind, kinds], flow.count);
            }
        } else {
            let rcode = if flow.verdict == DROPPED { self.symbols.word("Policy denied".into()) } else { NONE };
            self.series.count(Of::DnsQueries, ends, [NONE, rcode, kinds, addresses], flow.count);
        }
    }

    /// Gives what a policy's verdict is told apart by.
    pub(super) fn cilium_verdict(&mut self, flow: &Flow<'_>, direction: Symbol) -> [Symbol; 4] {
        let lower = |word: &str| word.to_ascii_lowercase().into();
        let matched = self.symbols.word(lower(&names::policy_match(flow.policy_match)));
        let action = self.symbols.word(lower(&names::verdict(flow.verdict)));
        [NONE, direction, matched, action]
    }
}
