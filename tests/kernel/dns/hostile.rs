//! Messages that no resolver would send, and packets that are none.

use std::collections::BTreeSet;

use super::message::{action, answer, query, serve};
use super::{QUERIES, RESPONSES, by};
use crate::harness::agent::{Agent, Wish};
use crate::harness::cgroup::Cgroup;
use crate::harness::netns::Pair;
use crate::harness::otlp::Receiver;
use crate::harness::scrape::Scrape;
use crate::harness::{live, stimulus};

/// Numbers that look random and are the same in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// Puts a datagram to port 53 into an IPv4 packet, with a header as long as asked for.
fn packet(words: u8, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x40 | words, 0, 0, 0, 0, 1, 0, 0, 64, protocol, 0, 0, 10, 99, 0, 1, 10, 99, 0, 2];
    packet.resize(usize::from(words.max(5)) * 4, 1);
    packet.extend([0x30, 0x39, 0, 53]);
    packet.extend((payload.len() as u16 + 8).to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(payload);
    packet
}

#[test]
fn hostile_packets_are_counted_and_do_no_harm() {
    let _kernel = live!();
    let receiver = Receiver::start();
    let otlp = Some(receiver.address());
    // Once with little, once with all that there is by choice.
    for choice in ["", ", servers: true, names: true, max_names: 64, events: {enabled: true, rate: 0}"] {
        let section = format!("dns: {{enabled: require, timeout: 3s{choice}}}");
        let wish = Wish { collectors: &[&section], otlp, events: "otlp: test", ..Wish::default() };
        send_hostile_packets(&Agent::start(wish), !choice.is_empty());
    }
}

fn send_hostile_packets(agent: &Agent, by_name: bool) {
    let pair = Pair::new();
    let cgroup = Cgroup::new(&format!("dns-hostile-{by_name}"));
    let whole = query(7, &["www", "test"], 1);
    let with_name = |name: &[u8]| [&whole[..12], name, &[0, 1, 0, 1]].concat();
    // Queries whose question nobody can read, or of a type that nobody knows.
    let mut queries = vec![
        with_name(&[0x40, b'a', 0]),
        with_name(&[0x80, 0]),
        with_name(&[63; 64].repeat(5)),
        with_name(&[1; 600]),
        with_name(&[0xbf, 0]),
        query(8, &["www", "test"], 0),
        query(9, &["www", "test"], 65535),
        query(10, &["www", "test"], 320),
        [&whole[..4], &[0; 8]].concat(),
    ];
    queries.extend((12..whole.len() - 3).map(|length| whole[..length].to_vec()));
    // What is none: too short, an answer, a notification.
    let mut others: Vec<_> = (0..12).map(|length| whole[..length].to_vec()).collect();
    others.push(answer(&whole, 0));
    others.push([&whole[..2], &[0x20], &whole[3..]].concat());
    // A pointer instead of a name is read past, as far as it goes.
    let pointer = with_name(&[0xc0, 12]);

    let mut unreadable = queries.len() as u32;
    let mut random = Random(0x1234_5678_9abc_def1);
    for _ in 0..400 {
        let size = 12 + random.next() % 90;
        let mut noise: Vec<u8> = (0..size).map(|_| random.next() as u8).collect();
        // A standard query, with a question of a type that nobody knows wherever the name may end.
        noise[2] &= 0x07;
        for byte in &mut noise[12..] {
            *byte |= 1;
        }
        unreadable += 1;
        queries.push(noise);
    }
    let mut actions = vec![format!("udp={}", Pair::SERVER_V4)];
    actions.extend(queries.iter().chain(&others).chain([&pointer]).map(|message| action("send", message)));
    actions.push("leave".to_owned());
    // Raw packets: every length of header, every protocol's number, and rests of packets.
    let raw: Vec<_> = (5..=15).map(|words| packet(words, 17, &whole)).collect();
    // One more is the message of the largest length, below.
    let readable = raw.len() as u32 + 2;
    actions.extend(raw.iter().map(|packet| action("raw", packet)));
    actions.extend(
        (0..=255).filter(|protocol| *protocol != 17).map(|protocol| action("raw", &packet(5, protocol, &[0xff; 40]))),
    );
    actions.extend((20..31).map(|size| action("raw", &packet(5, 17, &whole)[..size])));
    // Over TCP: messages without an end, without a beginning, and more of them than are read at once.
    serve(&pair.server, Pair::SERVER_V4, |_| vec![vec![0; 12]], usize::MAX);
    let streams = [
        vec![0; 5000],
        vec![0xff; 70_000],
        vec![0, 1, 2],
        [&[0xff, 0xff][..], &whole].concat(),
        (0..60_000).map(|_| random.next() as u8 | 0x80).collect(),
    ];
    for stream in &streams {
        actions.push(format!("tcp={}", Pair::SERVER_V4));
        actions.extend(stream.chunks(20_000).map(|chunk| action("send", chunk)));
        actions.push("leave".to_owned());
    }
    pair.client.run(|| stimulus::dns(&cgroup, &actions));
    let label = "dns_question_type";
    let counted = |scrape: &Scrape, kind: &str| scrape.sum(QUERIES, &[("cgroup_path", cgroup.path()), (label, kind)]);
    let scrape = agent.until("the datagrams are counted", |scrape| {
        (counted(scrape, "TYPE-other") >= f64::from(unreadable)).then(|| scrape.clone())
    });
    assert_eq!(counted(&scrape, "TYPE-other"), f64::from(unreadable));
    assert_eq!(counted(&scrape, "A"), f64::from(readable));
    let kinds: BTreeSet<_> = by(&scrape, QUERIES, label, &cgroup).into_iter().map(|(kind, _)| kind).collect();
    assert_eq!(kinds.len(), 2, "no types beyond these");
    let path = [("cgroup_path", cgroup.path())];
    for sample in scrape.all(QUERIES, &path) {
        let name = sample.labels.get("dns_question_name");
        assert!(by_name || name.is_none(), "{sample:?}");
        // Whatever bytes there were, a label is short and printable.
        let printable = |name: &String| name.len() <= 1020 && name.bytes().all(|byte| byte.is_ascii_graphic());
        assert!(name.is_none_or(printable), "{sample:?}");
    }
    assert!(scrape.all(QUERIES, &path).count() <= 64 + 2, "no more names than were allowed");
    assert_eq!(by(&scrape, RESPONSES, "dns_response_code", &cgroup), [], "nobody has answered");
    let unread = [("collector", "dns"), ("reason", "tcp_unread")];
    assert!(scrape.value("telesonde_events_lost_total", &unread).unwrap() >= 1.0, "what was not read is said");
    assert_eq!(scrape.sum("telesonde_bpf_map_overflow_total", &[("map", "dns_queries")]), 0.0);
}
