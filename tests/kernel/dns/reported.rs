//! Answers as events, with the name asked for.

use std::collections::BTreeMap;

use bpf::probe::Facts;

use super::message::{action, answer, prefixed, query, serve};
use super::{RESPONSES, dig, dnsmasq, lacking};
use crate::harness::agent::{Agent, Wish};
use crate::harness::cgroup::Cgroup;
use crate::harness::netns::Pair;
use crate::harness::otlp::{Event, Receiver};
use crate::harness::{eventually, live, skipped, stimulus};

const EVENTS: &str = "otlp: test, schedule_delay: 50ms";
const SECTION: &str = "dns: {enabled: require, timeout: 3s, events: {enabled: true, rate: 0}}";

fn start(receiver: &Receiver, ebpf: &[&str]) -> Agent {
    let otlp = Some(receiver.address());
    Agent::start(Wish {
        collectors: &[SECTION, "process: {enabled: false}"],
        ebpf,
        otlp,
        events: EVENTS,
        ..Wish::default()
    })
}

/// Counts events by these attributes.
fn count(events: &[Event], keys: &[&str]) -> BTreeMap<Vec<String>, u32> {
    let mut counts = BTreeMap::new();
    for event in events {
        let values = keys.iter().map(|&key| event.get(key).cloned().unwrap_or_default()).collect();
        *counts.entry(values).or_default() += 1;
    }
    counts
}

/// Everything that was emitted was delivered, nothing was lost, and each answer that was counted is an event.
fn assert_whole(agent: &Agent) {
    agent.until("the account is closed", |scrape| {
        let emitted = scrape.value("telesonde_events_emitted_total", &[("collector", "dns")])?;
        let delivered = scrape.value("telesonde_export_events_total", &[("outcome", "delivered")])?;
        (emitted == delivered && emitted == scrape.sum(RESPONSES, &[])).then_some(())
    });
    assert_eq!(agent.scrape().sum("telesonde_events_lost_total", &[("collector", "dns")]), 0.0);
}

#[test]
fn every_answer_is_reported_with_the_name_asked_for() {
    let _kernel = live!();
    if let Some(reason) = lacking(&["dnsmasq", "dig"]) {
        skipped(&reason);
        return;
    }
    let buffers: &[&str] = if Facts::gather().is_legacy() { &["auto"] } else { &["auto", "perf"] };
    for buffer in buffers {
        let receiver = Receiver::start();
        let agent = start(&receiver, &[&format!("events: {{buffer: {buffer}}}")]);
        let pair = Pair::new();
        let (client, host) = (Cgroup::new("dns-event"), Cgroup::new("dns-event-server"));
        let _server = dnsmasq(&pair.server, &host);
        for server in ["@10.99.0.2", "@fd00::2"] {
            for transport in ["+notcp", "+tcp"] {
                for (kind, name) in [("A", "www.test"), ("TXT", "www.test"), ("AAAA", "none.test")] {
                    dig(&pair.client, &client, &[server, transport, name, kind]).unwrap();
                }
            }
        }
        let events = || receiver.events(&[("event_name", "dns.response"), ("cgroup.path", client.path())]);
        eventually("all answers are there", || (events().len() >= 12).then_some(()));
        let names = ["dns.question.name", "dns.question.type", "dns.response_code", "severity_text"];
        let of = |values: [&str; 4], number| (values.map(ToOwned::to_owned).to_vec(), number);
        let expected = [
            of(["www.test", "A", "NOERROR", "INFO"], 4),
            of(["www.test", "TXT", "NOERROR", "INFO"], 4),
            of(["none.test", "AAAA", "NXDOMAIN", "INFO"], 4),
        ];
        assert_eq!(count(&events(), &names), expected.into(), "{buffer}");
        let ways = count(&events(), &["network.transport", "network.type", "network.peer.address"]);
        let way = |values: [&str; 3]| (values.map(ToOwned::to_owned).to_vec(), 3);
        let expected = ["udp", "tcp"]
            .map(|transport| [way([transport, "ipv4", "10.99.0.2"]), way([transport, "ipv6", "fd00::2"])]);
        assert_eq!(ways, expected.into_iter().flatten().collect());
        for event in events() {
            assert!(event["dns.latency_ns"].parse::<u64>().unwrap() > 0, "{event:?}");
            assert!(event["process.pid"].parse::<u32>().unwrap() > 0, "{event:?}");
            // The threads of dig have other names than the program.
            assert!(!event["process.executable.name"].is_empty(), "{event:?}");
        }
        assert_whole(&agent);
        agent.stop();
    }
}

#[test]
fn an_answer_whose_name_cannot_be_read_has_none() {
    let _kernel = live!();
    let receiver = Receiver::start();
    let agent = start(&receiver, &[]);
    let pair = Pair::new();
    let cgroup = Cgroup::new("dns-nameless");
    // The first answer of a stream comes byte by byte; of the datagrams one repeats no question, one a broken name, and
    // one is cut within it.
    let answers = |queries: Vec<Vec<u8>>| {
        let reply = |query: &Vec<u8>| {
            let mut reply = answer(query, 2);
            match query[1] {
                1 => {
                    reply[5] = 0;
                    reply.truncate(12);
                }
                2 => reply[12] = 0x80,
                3 => reply.truncate(15),
                _ => {}
            }
            reply
        };
        queries.iter().map(reply).collect()
    };
    serve(&pair.server, Pair::SERVER_V4, answers, 1);
    let message = |id| query(id, &["some", "test"], 1);
    let mut actions = vec![format!("udp={}", Pair::SERVER_V4)];
    actions.extend((0..4).map(|id| action("ask", &message(id))));
    actions.push(format!("tcp={}", Pair::SERVER_V4));
    actions.push(action("ask", &prefixed(&message(0))));
    pair.client.run(|| stimulus::dns(&cgroup, &actions));
    let events = || receiver.events(&[("event_name", "dns.response"), ("cgroup.path", cgroup.path())]);
    eventually("all answers are there", || (events().len() >= 5).then_some(()));
    let of = |name: &str, transport: &str, number| {
        (["SERVFAIL", "WARN", name, transport].map(ToOwned::to_owned).to_vec(), number)
    };
    let keys = ["dns.response_code", "severity_text", "dns.question.name", "network.transport"];
    assert_eq!(count(&events(), &keys), [of("some.test", "udp", 1), of("", "udp", 3), of("", "tcp", 1)].into());
    assert_whole(&agent);
    agent.stop();
}

#[test]
fn without_a_sink_the_collector_says_that_nobody_gets_its_events() {
    let _kernel = live!();
    let agent = Agent::start(Wish { collectors: &["dns: {events: {enabled: true}}"], ..Wish::default() });
    let status = agent.status().unwrap().to_string();
    assert!(status.contains("exporters.events.stdout"), "{status}");
    assert_eq!(agent.scrape().sum("telesonde_events_emitted_total", &[("collector", "dns")]), 0.0);
    agent.stop();
}
