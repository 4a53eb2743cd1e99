//! Exact DNS queries, answers and timeouts: a real resolver and server, and messages that no resolver would send.

mod hostile;
pub mod message;
mod named;
mod reported;
mod servers;

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::harness::agent::{Agent, Wish};
use crate::harness::cgroup::Cgroup;
use crate::harness::line::Line;
use crate::harness::netns::{Netns, Pair};
use crate::harness::scrape::Scrape;
use crate::harness::{eventually, live, skipped, stimulus};
use message::{action, answer, prefixed, query, serve};

const QUERIES: &str = "ebpf_dns_queries_total";
const RESPONSES: &str = "ebpf_dns_responses_total";
const TIMEOUTS: &str = "ebpf_dns_timeouts_total";
const TIMED: &str = "ebpf_dns_latency_ns_count";

/// A section whose answers are awaited for a time that no answer takes here.
const SECTION: &str = "dns: {enabled: require, timeout: 3s}";

fn agent() -> Agent {
    Agent::start(Wish { collectors: &[SECTION], ..Wish::default() })
}

/// Gives what a cgroup's counter says by the values of a label.
fn by(scrape: &Scrape, name: &str, label: &str, cgroup: &Cgroup) -> Vec<(String, f64)> {
    let path = [("cgroup_path", cgroup.path())];
    let mut found: Vec<_> = scrape.all(name, &path).map(|s| (s.labels[label].clone(), s.value)).collect();
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found
}

/// Waits until every query of a cgroup was answered or is overdue, and compares what was counted.
fn check(agent: &Agent, cgroup: &Cgroup, queries: &[(&str, u32)], responses: &[(&str, u32)]) -> Scrape {
    let total = |of: &[(&str, u32)]| of.iter().map(|(_, count)| f64::from(*count)).sum::<f64>();
    let timeouts = total(queries) - total(responses);
    let path = [("cgroup_path", cgroup.path())];
    let scrape = agent.until("every query is answered or overdue", |scrape| {
        let settled = scrape.sum(RESPONSES, &path) + scrape.sum(TIMEOUTS, &path);
        (settled >= total(queries)).then(|| scrape.clone())
    });
    let expect = |of: &[(&str, u32)]| of.iter().map(|(k, n)| ((*k).to_owned(), f64::from(*n))).collect::<Vec<_>>();
    assert_eq!(by(&scrape, QUERIES, "dns_question_type", cgroup), expect(queries));
    assert_eq!(by(&scrape, RESPONSES, "dns_response_code", cgroup), expect(responses));
    assert_eq!(scrape.sum(TIMEOUTS, &path), timeouts);
    assert_eq!(scrape.sum(TIMED, &path), total(responses), "every answer is timed");
    assert_eq!(scrape.sum("telesonde_bpf_map_overflow_total", &[]), 0.0, "a map was full");
    assert_eq!(scrape.sum("telesonde_events_lost_total", &[("collector", "dns")]), 0.0, "messages were not read");
    scrape
}

/// A server that is killed when the test is done.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a program in a cgroup.
fn within(cgroup: &Cgroup, program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("sh");
    let procs = cgroup.directory().join("cgroup.procs");
    command.args(["-c", "echo $$ > \"$0\" && exec \"$@\""]).arg(procs).arg(program).args(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

const BIG: &str = concat!(
    "--txt-record=big.test",
    ",0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789",
    ",0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789",
    ",0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789",
    ",0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789",
    ",0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789",
    ",0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789",
);

/// Starts dnsmasq on both addresses; it forwards `dead.test` to an address where nobody answers.
fn dnsmasq(netns: &Netns, cgroup: &Cgroup) -> Server {
    let arguments = [
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--no-resolv",
        "--no-hosts",
        "--pid-file=",
        "--user=root",
        "--listen-address=10.99.0.2,fd00::2",
        "--bind-interfaces",
        "--local=/test/",
        "--server=/dead.test/10.99.0.9",
        "--host-record=www.test,192.0.2.1,2001:db8::1",
        "--txt-record=www.test,hello",
        // Too long for a datagram without EDNS.
        BIG,
        "--mx-host=www.test,mail.test,10",
        "--srv-host=_http._tcp.test,www.test,80",
    ];
    let child = netns.run(|| within(cgroup, "dnsmasq", &arguments).spawn().unwrap());
    let mut server = Server(child);
    // Connecting asks nothing.
    eventually("dnsmasq listens", || {
        if let Some(status) = server.0.try_wait().unwrap() {
            let mut text = String::new();
            server.0.stderr.take().unwrap().read_to_string(&mut text).unwrap();
            panic!("dnsmasq ended with {status}: {text}");
        }
        netns.run(|| std::net::TcpStream::connect((Pair::SERVER_V6, 53)).ok())
    });
    server
}

/// Says which of these programs this machine lacks.
fn lacking(programs: &[&str]) -> Option<String> {
    let there = |program: &&str| {
        Command::new("sh").args(["-c", &format!("command -v {program}")]).output().is_ok_and(|o| o.status.success())
    };
    programs
        .iter()
        .find(|program| !there(program))
        .map(|program| format!("{program} is not installed: cargo xtask setup"))
}

/// Asks with dig; gives the status that it prints, or nothing when there was no answer.
fn dig(netns: &Netns, cgroup: &Cgroup, arguments: &[&str]) -> Option<String> {
    let text = dig_text(netns, cgroup, arguments);
    Some(text.split_once("status: ")?.1.split_once(',')?.0.to_owned())
}

fn dig_text(netns: &Netns, cgroup: &Cgroup, arguments: &[&str]) -> String {
    let all = [&["+tries=1", "+timeout=1", "+noall", "+comments"], arguments].concat();
    let output = netns.run(|| within(cgroup, "dig", &all).output().unwrap());
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_resolver_and_a_server_on_one_node_count_once() {
    let _kernel = live!();
    if let Some(reason) = lacking(&["dnsmasq", "dig"]) {
        skipped(&reason);
        return;
    }
    let agent = agent();
    let pair = Pair::new();
    let (client, host) = (Cgroup::new("dns-client"), Cgroup::new("dns-server"));
    let _server = dnsmasq(&pair.server, &host);
    let ask = |arguments: &[&str]| dig(&pair.client, &client, arguments);
    for server in ["@10.99.0.2", "@fd00::2"] {
        for transport in ["+notcp", "+tcp"] {
            for (name, kind) in [("www.test", "A"), ("www.test", "AAAA"), ("www.test", "TXT"), ("www.test", "MX")] {
                assert_eq!(ask(&[server, transport, name, kind]).as_deref(), Some("NOERROR"));
            }
            assert_eq!(ask(&[server, transport, "_http._tcp.test", "SRV"]).as_deref(), Some("NOERROR"));
            assert_eq!(ask(&[server, transport, "none.test", "A"]).as_deref(), Some("NXDOMAIN"));
            // Without EDNS; and a type that has a number only.
            assert_eq!(ask(&[server, transport, "+noedns", "www.test", "A"]).as_deref(), Some("NOERROR"));
            assert_eq!(ask(&[server, transport, "none.test", "TYPE4711"]).as_deref(), Some("NXDOMAIN"));
        }
    }
    for server in ["@10.99.0.2", "@fd00::2"] {
        // EDNS makes room for all of it; without, the answer is cut, and asked for again over TCP unless that is barred.
        for (flags, truncated) in
            [(&["+bufsize=1232"][..], false), (&["+noedns", "+ignore"], true), (&["+noedns"], false)]
        {
            let output = dig_text(&pair.client, &client, &[&[server, "+notcp"], flags, &["big.test", "TXT"]].concat());
            assert!(output.contains("status: NOERROR"), "{flags:?}: {output}");
            let flag = output.lines().find(|line| line.starts_with(";; flags:")).unwrap();
            assert_eq!(flag.contains(" tc"), truncated, "{flags:?}: {output}");
        }
    }
    for _ in 0..3 {
        assert_eq!(ask(&["@10.99.0.2", "dead.test", "A"]), None);
    }
    // An address where nobody is, and a port where nobody listens.
    assert_eq!(ask(&["@10.99.0.9", "www.test", "PTR"]), None);
    assert_eq!(dig(&pair.server, &client, &["@10.99.0.1", "www.test", "A"]), None);

    let queries =
        [("A", 4 * 3 + 4), ("AAAA", 4), ("MX", 4), ("PTR", 1), ("SRV", 4), ("TXT", 4 + 2 * 4), ("TYPE-other", 4)];
    let scrape = check(&agent, &client, &queries, &[("NOERROR", 24 + 2 * 4), ("NXDOMAIN", 8)]);
    // The server is a client itself where it forwards, and only there.
    let forwarded = by(&scrape, QUERIES, "dns_question_type", &host);
    assert!(matches!(&forwarded[..], [(kind, 1.0..)] if kind == "A"), "{forwarded:?}");
    assert_eq!(by(&scrape, RESPONSES, "dns_response_code", &host), []);
    agent.stop();
}

#[test]
fn many_questions_on_one_socket_are_answered_out_of_order() {
    const GROUP: u16 = 40;
    let _kernel = live!();
    let agent = agent();
    let pair = Pair::new();
    // Last come, first served; every fourth is refused, every fifth answered twice.
    let answers = |queries: Vec<Vec<u8>>| {
        let mut answers = Vec::new();
        for (at, query) in queries.iter().enumerate().rev() {
            let reply = answer(query, if at % 4 == 0 { 5 } else { 0 });
            answers.extend(std::iter::repeat_n(reply, if at % 5 == 0 { 2 } else { 1 }));
        }
        answers
    };
    let received = GROUP + GROUP / 5;
    for address in [Pair::SERVER_V4, Pair::SERVER_V6] {
        serve(&pair.server, address, answers, usize::from(GROUP));
    }
    let cgroup = Cgroup::new("dns-many");
    let mut groups = 0;
    for address in [Pair::SERVER_V4, Pair::SERVER_V6] {
        for kind in ["udp", "loose", "tcp"] {
            let messages = (0..GROUP).map(|id| query(id, &["a", "long-label-of-a-name", "test"], 28));
            let mut actions = vec![format!("{kind}={address}")];
            if kind == "tcp" {
                // In one piece, byte by byte, and with each length in a segment of its own.
                let messages: Vec<_> = messages.collect();
                let all: Vec<u8> = messages.iter().flat_map(|message| prefixed(message)).collect();
                actions.extend([action("send", &all), format!("receive={received}")]);
                actions.extend(all.iter().map(|byte| action("send", &[*byte])));
                actions.push(format!("receive={received}"));
                for message in &messages {
                    let (length, rest) = (prefixed(message)[..2].to_vec(), message);
                    actions.extend([action("send", &length), action("send", rest)]);
                }
                groups += 3;
            } else {
                actions.extend(messages.map(|message| action("send", &message)));
                groups += 1;
            }
            actions.extend([format!("receive={received}"), "leave".to_owned()]);
            pair.client.run(|| stimulus::dns(&cgroup, &actions));
        }
    }
    let all = u32::from(GROUP) * groups;
    check(&agent, &cgroup, &[("AAAA", all)], &[("NOERROR", all / 4 * 3), ("REFUSED", all / 4)]);
    agent.stop();
}

#[test]
fn latency_is_the_lines_delay() {
    const ASKED: u16 = 20;
    let _kernel = live!();
    let agent = agent();
    let line = Line::new(Duration::from_millis(25));
    let answers = |queries: Vec<Vec<u8>>| queries.iter().map(|query| answer(query, 0)).collect();
    serve(&line.server, Pair::SERVER_V4, answers, 1);
    for kind in ["udp", "tcp"] {
        let cgroup = Cgroup::new(&format!("dns-late-{kind}"));
        let mut actions = vec![format!("{kind}={}", Pair::SERVER_V4)];
        for id in 0..ASKED {
            let message = query(id, &["late", "test"], 1);
            actions.push(action("ask", &if kind == "tcp" { prefixed(&message) } else { message }));
        }
        let done = line.client.run(|| stimulus::dns(&cgroup, &actions));
        let asked = u32::from(ASKED);
        let scrape = check(&agent, &cgroup, &[("A", asked)], &[("NOERROR", asked)]);
        let sum = scrape.value("ebpf_dns_latency_ns_sum", &[("cgroup_path", cgroup.path())]).unwrap();
        // Both ways of the line at least, and no longer than the client has waited.
        let (least, most) = (f64::from(asked) * 50e6, done["waited"].as_f64().unwrap());
        assert!((least..=most).contains(&sum), "{least} <= {sum} <= {most} over {kind}");
    }
    agent.stop();
}

#[test]
fn what_finds_no_room_is_said() {
    const KINDS: u16 = 7;
    let _kernel = live!();
    let section =
        "dns: {enabled: require, timeout: 3s, max_queries: 1, max_responses: 1, max_latencies: 1, max_pending: 3}";
    let agent = Agent::start(Wish { collectors: &[section], ..Wish::default() });
    let pair = Pair::new();
    let cgroup = Cgroup::new("dns-full");
    let answers = |queries: Vec<Vec<u8>>| {
        let codes = queries.iter().enumerate();
        codes.map(|(at, query)| answer(query, at as u8)).collect()
    };
    serve(&pair.server, Pair::SERVER_V4, answers, usize::from(KINDS));
    let mut actions = vec![format!("udp={}", Pair::SERVER_V4)];
    for kind in [1, 2, 5, 6, 12, 15, 16] {
        actions.push(action("send", &query(kind, &["test"], kind)));
    }
    actions.push(format!("receive={KINDS}"));
    pair.client.run(|| stimulus::dns(&cgroup, &actions));
    let full = |scrape: &Scrape, map: &str| scrape.value("telesonde_bpf_map_overflow_total", &[("map", map)]).unwrap();
    let scrape = agent.until("the queries are counted", |scrape| {
        (full(scrape, "dns_queries") >= f64::from(KINDS - 1)).then(|| scrape.clone())
    });
    let (asked, got) = (full(&scrape, "dns_queries"), full(&scrape, "dns_responses"));
    // Others on this machine may ask meanwhile, and take what room there is.
    let overflow = [("otel_metric_overflow", "true")];
    assert_eq!(scrape.sum(QUERIES, &overflow), asked, "what was not told apart is in the overflow series");
    assert_eq!(scrape.sum(RESPONSES, &overflow), got);
    assert!(full(&scrape, "dns_pending") >= f64::from(KINDS - 3), "answers that nobody awaits are told");
    assert!(by(&scrape, QUERIES, "dns_question_type", &cgroup).len() <= 1);
    agent.stop();
}
