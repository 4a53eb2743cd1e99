//! The ends of connections as events: what they carried, and where those are that nobody is told of.

use std::time::Duration;

use super::{ACTIVE, BYTES, ENDS, FAMILIES, expect, from, lacks, to};
use crate::harness::agent::{Agent, Wish};
use crate::harness::cgroup::Cgroup;
use crate::harness::netns::Pair;
use crate::harness::otlp::{Event, Receiver};
use crate::harness::peer::Peer;
use crate::harness::scrape::Scrape;
use crate::harness::traffic::Traffic;
use crate::harness::{eventually, live};

const EMITTED: &str = "telesonde_events_emitted_total";
const LOST: &str = "telesonde_events_lost_total";
/// After so long a flow is over that ends by a second of silence.
const SILENCE: Duration = Duration::from_millis(1600);

/// Starts an agent that sends events, and gathers by itself once in an hour.
fn start(events: &Receiver, section: &str, ebpf: &[&str]) -> Agent {
    let section = format!("connection: {{enabled: require{section}}}");
    Agent::start(Wish {
        collectors: &[&section, "network: {enabled: require}"],
        ebpf: &[&["scrape_interval: 1h"], ebpf].concat(),
        otlp: Some(events.address()),
        endpoint: "interval: 1h",
        events: "otlp: test, schedule_delay: 50ms",
        alone: true,
        ..Wish::default()
    })
}

/// Gives what was told of the ends of a workload's connections.
fn told(events: &Receiver, cgroup: &Cgroup) -> Vec<Event> {
    let wanted =
        [("event_name", "connection"), ("cgroup.path", cgroup.path()), ("network.connection.change", "closed")];
    events.events(&wanted)
}

fn number(event: &Event, key: &str) -> f64 {
    event[key].parse().unwrap()
}

/// Each end tells what it carried, as the metrics have it; beyond the limit they are counted.
#[test]
fn an_end_is_an_event_with_bytes_and_duration() {
    let _kernel = live!();
    let events = Receiver::start();
    let agent = start(&events, ", interval: 100ms, closed: {rate: 1, burst: 2}", &[]);
    if lacks(&agent, ENDS) {
        return agent.stop();
    }
    let pair = Pair::new();
    let (sender, receiver) = (Cgroup::new("ending"), Cgroup::new("ending-server"));
    let server = Pair::SERVER_V4.to_string();
    let receiving = Traffic::ready(&pair.server, &receiver, &["tcp_receive", &server, "7000"]);
    Traffic::run(&pair.client, &sender, &["tcp_send", &server, "7000", "500000"]);
    receiving.finish();
    let told = |cgroup| told(&events, cgroup);
    let both = eventually("both ends are reported", || Some([told(&sender).pop()?, told(&receiver).pop()?]));
    let sent = |cgroup| {
        let labels = [from(cgroup)];
        agent.until("the metrics are at rest", |scrape| Some(scrape.sum(BYTES, &labels)).filter(|bytes| *bytes > 0.0))
    };
    for (event, cgroup, other) in [(&both[0], &sender, &receiver), (&both[1], &receiver, &sender)] {
        assert_eq!(number(event, "connection.bytes_sent"), sent(cgroup), "{event:?}");
        assert!(number(event, "connection.duration_ns") > 0.0);
        // The last segments of all may find the other socket gone.
        assert!(number(event, "connection.bytes_received") <= sent(other), "{event:?}");
    }
    assert_eq!((&*both[0]["network.peer.port"], &*both[1]["network.local.port"]), ("7000", "7000"));
    // More than the limit lets pass: what it drops is counted.
    let serving = Traffic::ready(&pair.server, &receiver, &["tcp_serve", &server, "7001", "100", "20"]);
    for port in 6000..6020 {
        Traffic::run(&pair.client, &sender, &["tcp_fetch", &server, "7001", &port.to_string()]);
    }
    serving.finish();
    agent.until("each is reported or counted as dropped", |scrape| {
        let labels = [("cgroup_path", sender.path()), ("collector", "connection"), ("reason", "rate_limit")];
        let lost = scrape.sum("telesonde_events_lost_total", &labels);
        let all = told(&sender).len() as f64 + lost;
        assert!(all <= 21.0, "{all} of 21");
        (all == 21.0 && lost > 0.0).then_some(())
    });
    agent.stop();
}

/// Its socket stays open. What it carried is told once nothing more comes, its slot is another's then, and what it
/// carries later is another flow's.
#[test]
fn a_silent_flow_ends_and_its_amounts_stay() {
    const COUNT: u32 = 101;
    let _kernel = live!();
    let events = Receiver::start();
    let agent = start(&events, ", directions: both, ports: [7000], idle_timeout: 1s, interval: 100ms", &[]);
    let pair = Pair::new();
    let flows = FAMILIES.map(|(server, family)| {
        let cgroup = |name: &str| Cgroup::new(&format!("{name}-{family}"));
        let (sender, receiver, server) = (cgroup("falls-silent"), cgroup("hears-nothing"), server.to_string());
        let (all, some, directory) = ((2 * COUNT).to_string(), COUNT.to_string(), sender.directory().to_str().unwrap());
        let receiving = Traffic::ready(&pair.server, &receiver, &["udp_receive", &server, "7000", &all]);
        let sending = Traffic::ready(&pair.client, &sender, &["udp_move", &server, "7000", &some, "300", directory]);
        let header = if family == "ipv4" { 28 } else { 48 };
        (sender, receiver, sending, receiving, f64::from(COUNT * (300 + header)))
    });
    let settled = |sender: &Cgroup, receiver: &Cgroup, bytes: f64, packets: u32| {
        // Nobody scrapes: the collector looks through its table by itself.
        for (cgroup, key) in [(sender, "connection.bytes_sent"), (receiver, "connection.bytes_received")] {
            eventually("all of it is told", || {
                let all = told(&events, cgroup);
                let sum: f64 = all.iter().map(|event| number(event, key)).sum();
                assert!(sum <= bytes, "{sum} of {bytes}: {all:?}");
                assert!(all.iter().all(|event| event["network.transport"] == "udp"), "{all:?}");
                (sum == bytes).then_some(())
            });
        }
        agent.until("none is alive", |scrape| {
            let alive = |cgroup: &Cgroup| scrape.sum(ACTIVE, &[("cgroup_path", cgroup.path())]);
            (alive(sender) + alive(receiver) == 0.0).then_some(())
        });
        for direction in ["transmit", "receive"] {
            let labels = [from(sender), to(receiver), ("server_port", "7000"), ("network_io_direction", direction)];
            expect(&agent, &labels, (bytes, f64::from(packets)));
        }
    };
    for (sender, receiver, _, _, bytes) in &flows {
        settled(sender, receiver, *bytes, COUNT);
    }
    for (sender, receiver, mut sending, receiving, bytes) in flows {
        sending.go_on();
        sending.finish();
        receiving.finish();
        settled(&sender, &receiver, 2.0 * bytes, 2 * COUNT);
        assert!(told(&events, &sender).len() >= 2, "what came later is another flow");
        let ports = |event: &Event| [&event["network.peer.port"], &event["network.local.port"]].map(Clone::clone);
        assert!(told(&events, &sender).iter().all(|event| ports(event)[0] == "7000"));
        assert!(told(&events, &receiver).iter().all(|event| ports(event)[1] == "7000"));
    }
    agent.stop();
}

/// Until somebody gathers or the interval is over, what has ended stays where it is.
#[test]
fn the_table_is_looked_through_in_its_interval() {
    let _kernel = live!();
    let events = Receiver::start();
    let agent = start(&events, ", idle_timeout: 1s, interval: 1h", &[]);
    let (pair, sender) = (Pair::new(), Cgroup::new("ends-unseen"));
    Traffic::run(&pair.client, &sender, &["udp_send", "10.99.0.2", "7000", "7", "72"]);
    std::thread::sleep(SILENCE);
    assert_eq!(told(&events, &sender), Vec::<Event>::new(), "nobody has looked");
    agent.until("who gathers looks", |_| told(&events, &sender).pop());
    expect(&agent, &[from(&sender)], (700.0, 7.0));
    agent.stop();
}

/// What became of the ends of a workload that alone is observed: told, left out by sampling, or beyond the limit.
fn ledger(scrape: &Scrape) -> [f64; 3] {
    let own = ("collector", "connection");
    let lost = |reason| scrape.sum(LOST, &[own, ("reason", reason)]);
    [scrape.sum(EMITTED, &[own]), lost("sampling"), lost("rate_limit")]
}

#[test]
fn each_end_is_told_sampled_out_or_beyond_the_limit() {
    const CONTAINER: &str = "5e9d1c7b3a2f4860b7d1f3a5c9e82640a1b2c3d4e5f60718293a4b5c6d7e8f90";
    const FLOWS: u32 = 200;
    const CALLS: u32 = 25;
    let _kernel = live!();
    let (events, pair) = (Receiver::start(), Pair::new());
    // Others on this machine end connections, too.
    let filter = format!("container_filter: [{}]", &CONTAINER[..12]);
    // Nobody looks for what is silent but who gathers: the flows end at once, however long it took to make them.
    let limits = ", idle_timeout: 1s, interval: 1h, closed: {rate: 1, burst: 3}, closed_udp: {rate: 1, burst: 10}";
    let agent = start(&events, limits, &[&filter, "sample_rate: 25"]);
    let above = Cgroup::new("told");
    let observed = above.child(&format!("crio-{CONTAINER}"));
    let ended = [("network.connection.change", "closed"), ("container.id", CONTAINER)];
    let delivered = || events.events(&ended).len() as f64;
    // Nobody has that address: the other end drops what comes.
    let nobody = ["lladdr", "02:00:00:00:00:02", "dev", "veth", "nud", "permanent"];
    pair.client.ip(&[&["neighbour", "add", "10.99.0.9"], &nobody[..]].concat());
    Traffic::run(&pair.client, &observed, &["udp_scatter", "10.99.0.9", "5000", "1", &FLOWS.to_string()]);
    std::thread::sleep(SILENCE);
    let flows = f64::from(FLOWS);
    let found = agent.until("all flows have ended", |scrape| {
        let found = ledger(scrape);
        let sum: f64 = found.iter().sum();
        assert!(sum <= flows, "{found:?}");
        (sum == flows).then_some(found)
    });
    let [emitted, sampled, limited] = found;
    println!("of {FLOWS} flows: {emitted} told, {sampled} left out by sampling, {limited} by the limit");
    assert_eq!(sampled, flows * 3.0 / 4.0, "one in four is made");
    assert!(emitted >= 10.0 && limited > 0.0, "{found:?}");
    eventually("what was told arrives", || (delivered() == emitted).then_some(()));

    if lacks(&agent, ENDS) {
        return agent.stop();
    }
    let (mut before, mut hidden) = (found, 0.0);
    for round in 1.. {
        let (mut server, mut client) = (Peer::start(&observed, &pair.server), Peer::start(&observed, &pair.client));
        let port = 7000 + round;
        server.ask(&format!("listen 10.99.0.2 {port} 64"));
        server.tell(&format!("serve {CALLS}"));
        client.ask(&format!("cycle 10.99.0.2 {port} {CALLS}"));
        server.answer();
        drop((server, client));
        // Both ends of each. Where the kernel hid an end from us, it is still open, and all is done once more.
        let ends = f64::from(2 * CALLS);
        let mut steady = (0, ends);
        let (now, open) = agent.until("all connections have ended", |scrape| {
            let (now, open) = (ledger(scrape), scrape.sum(ACTIVE, &[("network_transport", "tcp")]));
            let ended: f64 = now.iter().zip(before).map(|(now, before)| now - before).sum();
            let all = ends + hidden;
            assert!(ended <= all, "{now:?}, {before:?}");
            steady = (if open == steady.1 { steady.0 + 1 } else { 0 }, open);
            (ended + open == all && (open == 0.0 || steady.0 > 40)).then_some((now, open))
        });
        println!("{ends} ends of connections: {now:?} after {before:?}, {open} hidden");
        eventually("what was told arrives", || (delivered() == now[0]).then_some(()));
        if open == 0.0 {
            assert!(now.iter().zip(before).all(|(now, before)| *now > before), "{now:?}, {before:?}");
            break;
        }
        assert!(round < 5 && open <= 2.0 * f64::from(round), "{open} of {ends} ends were hidden");
        (before, hidden) = (now, open);
    }
    agent.stop();
}
