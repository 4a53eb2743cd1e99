//! Queries that are under way while agents come and go, and what was counted of others before.

use std::net::UdpSocket;

use super::{kill, outcome, since};
use crate::harness::agent::{Agent, Wish};
use crate::harness::bpffs::BpfFs;
use crate::harness::cgroup::Cgroup;
use crate::harness::netns::Pair;
use crate::harness::otlp::Receiver;
use crate::harness::{live, stimulus};
use crate::kernel::dns::message::{action, answer, query};

/// Queries, answers, answers that were timed, and queries without an answer.
const METRICS: [&str; 4] =
    ["ebpf_dns_queries_total", "ebpf_dns_responses_total", "ebpf_dns_latency_ns_count", "ebpf_dns_timeouts_total"];

/// Takes so many queries as they come; gives what answers the last one.
fn await_queries(server: &UdpSocket, queries: u32) -> impl FnOnce() {
    let mut buffer = [0; 512];
    let (mut size, mut from) = server.recv_from(&mut buffer).unwrap();
    for _ in 1..queries {
        (size, from) = server.recv_from(&mut buffer).unwrap();
    }
    let message = answer(&buffer[..size], 0);
    move || assert_eq!(server.send_to(&message, from).unwrap(), size)
}

/// Takes so many queries as they come, and answers the last one.
fn serve(server: &UdpSocket, queries: u32) {
    await_queries(server, queries)();
}

fn until(agent: &Agent, cgroup: &str, expected: [f64; 4]) {
    let read =
        |scrape: &crate::harness::scrape::Scrape| METRICS.map(|name| scrape.sum(name, &[("cgroup_path", cgroup)]));
    let what = format!("{cgroup} has {expected:?} queries, answers, timed ones and timeouts");
    assert_eq!(agent.at_rest(&what, read, |found| *found == expected), expected, "{cgroup}");
}

#[test]
fn queries_await_their_answers_over_a_restart() {
    let _kernel = live!();
    let (bpffs, receiver, pair) = (BpfFs::mount(), Receiver::start(), Pair::new());
    let key = bpffs.key();
    let ebpf = [key.as_str()];
    // No query is overdue here: one that is asked again before it is answered has no answer.
    let collectors = ["dns: {enabled: require, servers: true, names: true, timeout: 5m}"];
    let otlp = Some(receiver.address());
    let wish = Wish { alone: true, ebpf: &ebpf, collectors: &collectors, otlp, ..Wish::default() };
    let [stays, ends] = ["stays", "ends"].map(Cgroup::new);
    let udp = format!("udp={}", Pair::SERVER_V4);
    let send = |id: u16| action("send", &query(id, &["kept", "test"], 1));
    let receive = "receive=1".to_owned();

    let first = Agent::start(wish);
    assert_eq!(outcome(&first, "dns").as_deref(), Some("absent"));
    let server = pair.server.run(|| UdpSocket::bind((Pair::SERVER_V4, 53)).unwrap());
    let ask = |cgroup: &Cgroup, actions: &[&String]| {
        let actions: Vec<String> = actions.iter().map(|&action| action.clone()).collect();
        pair.client.run(|| stimulus::dns(cgroup, &actions));
    };
    // All but the first and the last of these are asked twice, and answered once.
    let [one, two, three, four] = [1, 2, 3, 4].map(send);
    std::thread::scope(|scope| {
        scope.spawn(|| ask(&ends, &[&udp, &two, &two, &receive]));
        serve(&server, 2);
    });
    let dead = ends.path().to_owned();
    until(&first, &dead, [2.0, 1.0, 1.0, 1.0]);
    drop(ends);
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            ask(&stays, &[&udp, &one, &receive, &two, &two, &receive, &three, &three, &receive, &four, &receive]);
        });
        serve(&server, 1);
        serve(&server, 2);
        let early = await_queries(&server, 2);
        until(&first, stays.path(), [5.0, 2.0, 2.0, 1.0]);
        let of = [("cgroup.path", stays.path())];
        let began = since(&receiver, "ebpf_dns_latency_ns", &of, 2);
        kill(first);

        // Nobody is there but the kernel: it sees an answer, and the next query.
        early();
        let late = await_queries(&server, 1);
        let second = Agent::start(wish);
        assert_eq!(outcome(&second, "dns").as_deref(), Some("adopted"), "{}", second.log());
        late();
        asking.join().unwrap();
        until(&second, stays.path(), [6.0, 4.0, 4.0, 2.0]);
        until(&second, &dead, [2.0, 1.0, 1.0, 1.0]);
        assert_eq!(since(&receiver, "ebpf_dns_latency_ns", &of, 4), began, "start times");
        second.stop();
    });
}
