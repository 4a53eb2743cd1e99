//! Exact DNS queries, answers and timeouts: a real resolver and server, and messages that no resolver would send.

use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::harness::agent::{Agent, Wish};
use crate::harness::cgroup::Cgroup;
use crate::harness::line::Line;
use crate::harness::netns::{Netns, Pair};
use crate::harness::scrape::Scrape;
use crate::harness::{eventually, live, stimulus};

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

/// Writes a query with a name, one label after the other.
fn query(id: u16, labels: &[&str], kind: u16) -> Vec<u8> {
    let mut message = [&id.to_be_bytes()[..], &[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]].concat();
    for label in labels {
        message.push(label.len() as u8);
        message.extend(label.as_bytes());
    }
    message.push(0);
    message.extend(kind.to_be_bytes());
    message.extend([0, 1]);
    message
}

/// Makes an answer of a query.
fn answer(query: &[u8], code: u8) -> Vec<u8> {
    let mut message = query.to_vec();
    message[2] |= 0x80;
    message[3] = 0x80 | code;
    message
}

fn prefixed(message: &[u8]) -> Vec<u8> {
    [&(message.len() as u16).to_be_bytes()[..], message].concat()
}

fn action(name: &str, bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(format!("{name}="), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
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
    let all = [&["+tries=1", "+timeout=1", "+noall", "+comments"], arguments].concat();
    let output = netns.run(|| within(cgroup, "dig", &all).output().unwrap());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Some(text.split_once("status: ")?.1.split_once(',')?.0.to_owned())
}

#[test]
fn a_resolver_and_a_server_on_one_node_count_once() {
    let _kernel = live!();
    if let Some(reason) = lacking(&["dnsmasq", "dig"]) {
        println!("SKIPPED kernel::dns::a_resolver_and_a_server_on_one_node_count_once: {reason}");
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
    for _ in 0..3 {
        assert_eq!(ask(&["@10.99.0.2", "dead.test", "A"]), None);
    }
    // An address where nobody is, and a port where nobody listens.
    assert_eq!(ask(&["@10.99.0.9", "www.test", "PTR"]), None);
    assert_eq!(dig(&pair.server, &client, &["@10.99.0.1", "www.test", "A"]), None);

    let queries = [("A", 4 * 3 + 4), ("AAAA", 4), ("MX", 4), ("PTR", 1), ("SRV", 4), ("TXT", 4), ("TYPE-other", 4)];
    let scrape = check(&agent, &client, &queries, &[("NOERROR", 24), ("NXDOMAIN", 8)]);
    // The server is a client itself where it forwards, and only there.
    let forwarded = by(&scrape, QUERIES, "dns_question_type", &host);
    assert!(matches!(&forwarded[..], [(kind, 1.0..)] if kind == "A"), "{forwarded:?}");
    assert_eq!(by(&scrape, RESPONSES, "dns_response_code", &host), []);
    agent.stop();
}

/// Answers queries as they come over both transports of an address, until the process ends.
fn serve(
    netns: &Netns,
    address: IpAddr,
    answers: impl Fn(Vec<Vec<u8>>) -> Vec<Vec<u8>> + Send + Copy + 'static,
    group: usize,
) {
    let (datagrams, listener) =
        netns.run(|| (UdpSocket::bind((address, 53)).unwrap(), TcpListener::bind((address, 53)).unwrap()));
    std::thread::spawn(move || {
        loop {
            let mut queries = Vec::new();
            let mut from = None;
            while queries.len() < group {
                let mut buffer = [0; 2048];
                let Ok((size, peer)) = datagrams.recv_from(&mut buffer) else { return };
                queries.push(buffer[..size].to_vec());
                from = Some(peer);
            }
            for answer in answers(queries) {
                datagrams.send_to(&answer, from.unwrap()).unwrap();
            }
        }
    });
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            stream.set_nodelay(true).unwrap();
            std::thread::spawn(move || {
                loop {
                    let mut queries = Vec::new();
                    while queries.len() < group {
                        let mut length = [0; 2];
                        if stream.read_exact(&mut length).is_err() {
                            return;
                        }
                        let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
                        if stream.read_exact(&mut message).is_err() {
                            return;
                        }
                        queries.push(message);
                    }
                    // The first answer byte by byte, each in a segment of its own; the others in one.
                    let answers: Vec<_> = answers(queries).iter().map(|answer| prefixed(answer)).collect();
                    for byte in &answers[0] {
                        stream.write_all(&[*byte]).unwrap();
                    }
                    stream.write_all(&answers[1..].concat()).unwrap();
                }
            });
        }
    });
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
    let agent = agent();
    let pair = Pair::new();
    let cgroup = Cgroup::new("dns-hostile");
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
    let counted = |scrape: &Scrape, kind: &str| scrape.value(QUERIES, &[("cgroup_path", cgroup.path()), (label, kind)]);
    let scrape =
        agent.until("the datagrams are counted", |scrape| counted(scrape, "TYPE-other").map(|_| scrape.clone()));
    assert_eq!(counted(&scrape, "TYPE-other"), Some(f64::from(unreadable)));
    assert_eq!(counted(&scrape, "A"), Some(f64::from(readable)));
    assert_eq!(by(&scrape, QUERIES, label, &cgroup).len(), 2, "no labels beyond these");
    assert_eq!(by(&scrape, RESPONSES, "dns_response_code", &cgroup), [], "nobody has answered");
    let unread = [("collector", "dns"), ("reason", "tcp_unread")];
    assert!(scrape.value("telesonde_events_lost_total", &unread).unwrap() >= 1.0, "what was not read is said");
    agent.stop();
}
