//! What servers on this host are asked, where that is wanted.

use bpf::probe::Facts;

use super::message::{action, query};
use super::{QUERIES, RESPONSES, TIMED, TIMEOUTS, check, dig, dnsmasq, lacking};
use crate::harness::agent::{Agent, Wish};
use crate::harness::cgroup::Cgroup;
use crate::harness::netns::Pair;
use crate::harness::scrape::Scrape;
use crate::harness::{live, skipped, stimulus};

const SECTION: &str = "dns: {enabled: require, timeout: 3s, servers: true}";

/// Gives what a server's counter says by the values of a label.
fn served(scrape: &Scrape, name: &str, label: &str, host: &Cgroup) -> Vec<(String, f64)> {
    let labels = [("cgroup_path", host.path()), ("role", "server")];
    let mut found: Vec<_> = scrape.all(name, &labels).map(|s| (s.labels[label].clone(), s.value)).collect();
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found
}

#[test]
fn servers_are_counted_where_that_is_wanted() {
    const SOCKETS: u16 = 40;
    let _kernel = live!();
    if let Some(reason) = lacking(&["dnsmasq", "dig"]) {
        skipped(&reason);
        return;
    }
    // One server is older than the agent; where the kernel does not show its sockets it is found when it answers.
    let sees_older = !Facts::gather().is_legacy();
    for older in [false, true].into_iter().filter(|older| sees_older || !older) {
        let pair = Pair::new();
        let (client, host) = (Cgroup::new("dns-asks"), Cgroup::new("dns-serves"));
        let early = older.then(|| dnsmasq(&pair.server, &host));
        let agent = Agent::start(Wish { collectors: &[SECTION], ..Wish::default() });
        let _server = early.unwrap_or_else(|| dnsmasq(&pair.server, &host));
        for server in ["@10.99.0.2", "@fd00::2"] {
            for transport in ["+notcp", "+tcp"] {
                for (kind, name, status) in
                    [("A", "www.test", "NOERROR"), ("MX", "www.test", "NOERROR"), ("AAAA", "none.test", "NXDOMAIN")]
                {
                    let got = dig(&pair.client, &client, &[server, transport, name, kind]);
                    assert_eq!(got.as_deref(), Some(status));
                }
            }
        }
        // It asks another one, from whom no answer comes: nor does one from it.
        assert_eq!(dig(&pair.client, &client, &["@10.99.0.2", "dead.test", "TXT"]), None);
        // Many clients with one id; each waits for its own answer only after all have asked.
        let mut actions = Vec::new();
        for _ in 0..SOCKETS {
            actions.push(format!("udp={}", Pair::SERVER_V4));
            actions.push(action("send", &query(7, &["www", "test"], 16)));
        }
        actions.push("receive=1".to_owned());
        pair.client.run(|| stimulus::dns(&client, &actions));

        let texts = u32::from(SOCKETS) + 1;
        let queries = [("A", 4), ("AAAA", 4), ("MX", 4), ("TXT", texts)];
        let answers = [("NOERROR", 8 + u32::from(SOCKETS)), ("NXDOMAIN", 4)];
        let scrape = check_both(&agent, &client, &host, &queries, &answers);
        // What the server itself asks is a client's, as ever.
        assert!(scrape.sum(QUERIES, &[("cgroup_path", host.path()), ("dns_question_type", "TXT")]) > f64::from(texts));
        agent.stop();
    }
}

/// Compares what both sides count; a client has no role.
fn check_both(
    agent: &Agent,
    client: &Cgroup,
    host: &Cgroup,
    queries: &[(&str, u32)],
    answers: &[(&str, u32)],
) -> Scrape {
    let server = [("cgroup_path", host.path()), ("role", "server")];
    let all = |of: &[(&str, u32)]| of.iter().map(|(_, count)| f64::from(*count)).sum::<f64>();
    agent.until("the server's queries are answered or overdue", |scrape| {
        (scrape.sum(RESPONSES, &server) + scrape.sum(TIMEOUTS, &server) >= all(queries)).then_some(())
    });
    let scrape = check(agent, client, queries, answers);
    assert_eq!(scrape.sum(QUERIES, &[("cgroup_path", client.path()), ("role", "server")]), 0.0);
    let expect = |of: &[(&str, u32)]| of.iter().map(|(k, n)| ((*k).to_owned(), f64::from(*n))).collect::<Vec<_>>();
    assert_eq!(served(&scrape, QUERIES, "dns_question_type", host), expect(queries));
    assert_eq!(served(&scrape, RESPONSES, "dns_response_code", host), expect(answers));
    assert_eq!(scrape.sum(TIMEOUTS, &server), all(queries) - all(answers));
    assert_eq!(scrape.sum(TIMED, &server), all(answers));
    scrape
}
