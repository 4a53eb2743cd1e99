//! Names as a label, with a budget of its own.

use std::collections::BTreeMap;

use super::message::{action, answer, query, serve};
use super::{QUERIES, RESPONSES, dig, dnsmasq, lacking};
use crate::harness::agent::{Agent, Wish};
use crate::harness::cgroup::Cgroup;
use crate::harness::netns::Pair;
use crate::harness::scrape::Scrape;
use crate::harness::{live, skipped, stimulus};

/// Gives what a cgroup's counter says by name and another label.
fn by_name(scrape: &Scrape, name: &str, label: &str, cgroup: &Cgroup) -> BTreeMap<(String, String), f64> {
    let path = [("cgroup_path", cgroup.path())];
    let value = |sample: &crate::harness::scrape::Sample, label: &str| sample.labels.get(label).cloned();
    let key = |sample| (value(sample, "dns_question_name").unwrap_or_default(), value(sample, label).unwrap());
    scrape.all(name, &path).map(|sample| (key(sample), sample.value)).collect()
}

fn expected<const N: usize>(of: [(&str, &str, u32); N]) -> BTreeMap<(String, String), f64> {
    of.map(|(name, label, count)| ((name.to_owned(), label.to_owned()), f64::from(count))).into()
}

#[test]
fn names_are_told_apart_where_that_is_wanted() {
    let _kernel = live!();
    if let Some(reason) = lacking(&["dnsmasq", "dig"]) {
        skipped(&reason);
        return;
    }
    let section = "dns: {enabled: require, timeout: 3s, names: true}";
    let agent = Agent::start(Wish { collectors: &[section], ..Wish::default() });
    let pair = Pair::new();
    let (client, host) = (Cgroup::new("dns-named"), Cgroup::new("dns-namer"));
    let _server = dnsmasq(&pair.server, &host);
    for server in ["@10.99.0.2", "@fd00::2"] {
        for transport in ["+notcp", "+tcp"] {
            // Resolvers play with capitals to tell forgeries.
            for (kind, name) in [("A", "www.test"), ("A", "wWw.TeSt"), ("MX", "WWW.TEST"), ("A", "none.test")] {
                dig(&pair.client, &client, &[server, transport, name, kind]).unwrap();
            }
        }
    }
    // What no host has as a name, a name that a pointer ends, the longest one, one that is longer, and the root.
    let pointing = [&query(1, &[], 1)[..12], &[1, b'x', 0xc0, 12, 0, 1, 0, 1]].concat();
    let (half, long) = ("h".repeat(61), "l".repeat(63));
    let longest = query(2, &[&long, &long, &long, &half], 1);
    let longer = query(3, &[&long, &long, &long, &half, "x"], 1);
    let odd = query(4, &["a.b\\c", "\u{e9} \"{}\n"], 1);
    let mut actions = vec![format!("udp={}", Pair::SERVER_V4)];
    actions.extend([&pointing, &longest, &longer, &odd, &query(5, &[], 1)].map(|message| action("send", message)));
    pair.client.run(|| stimulus::dns(&client, &actions));

    let scrape = agent.until("all are counted", |scrape| {
        (scrape.sum(QUERIES, &[("cgroup_path", client.path())]) >= 21.0).then(|| scrape.clone())
    });
    let longest = format!("{long}.{long}.{long}.{half}");
    let queries = expected([
        ("www.test", "A", 8),
        ("www.test", "MX", 4),
        ("none.test", "A", 4),
        (&longest, "A", 1),
        ("a\\.b\\\\c.\\195\\169\\032\"{}\\010", "A", 1),
        (".", "A", 1),
        ("", "A", 1),
        ("", "TYPE-other", 1),
    ]);
    assert_eq!(by_name(&scrape, QUERIES, "dns_question_type", &client), queries);
    let mut answers = by_name(&scrape, RESPONSES, "dns_response_code", &client);
    // What the server makes of odd names is its own affair.
    answers.retain(|(name, _), _| ["www.test", "none.test"].contains(&name.as_str()));
    assert_eq!(answers, expected([("www.test", "NOERROR", 12), ("none.test", "NXDOMAIN", 4)]));
    assert_eq!(scrape.sum("telesonde_bpf_map_overflow_total", &[]), 0.0);
    agent.stop();
}

#[test]
fn names_have_a_budget_and_idle_ones_make_room() {
    const MOST: u32 = 12;
    const NAMES: u32 = 300;
    let _kernel = live!();
    let section = format!("dns: {{enabled: require, timeout: 3s, names: true, max_names: {MOST}}}");
    let agent = Agent::start(Wish { collectors: &[&section], ..Wish::default() });
    let pair = Pair::new();
    let cgroup = Cgroup::new("dns-budget");
    let answers = |queries: Vec<Vec<u8>>| queries.iter().map(|query| answer(query, 0)).collect();
    serve(&pair.server, Pair::SERVER_V4, answers, 1);
    let flood = |first: u32, count: u32| {
        let mut actions = vec![format!("udp={}", Pair::SERVER_V4)];
        for number in first..first + count {
            actions.push(action("ask", &query(number as u16, &[&format!("n{number}"), "test"], 1)));
        }
        pair.client.run(|| stimulus::dns(&cgroup, &actions));
    };
    let path = [("cgroup_path", cgroup.path())];
    let all = |scrape: &Scrape, count: u32| {
        let sums = [QUERIES, RESPONSES].map(|name| scrape.sum(name, &path));
        assert!(sums.iter().all(|&sum| sum <= f64::from(count)), "{sums:?} of {count}");
        (sums == [f64::from(count); 2]).then(|| scrape.clone())
    };
    let named = |scrape: &Scrape| {
        let labelled = [QUERIES, RESPONSES].map(|name| {
            scrape.all(name, &path).filter(|sample| sample.labels.contains_key("dns_question_name")).count()
        });
        labelled.iter().sum::<usize>()
    };
    flood(0, NAMES);
    let scrape = agent.until("every one is counted once", |scrape| all(scrape, NAMES));
    assert!(named(&scrape) <= MOST as usize, "{}", named(&scrape));
    let overflow = scrape.value("telesonde_bpf_map_overflow_total", &[("map", "dns_names")]).unwrap();
    assert!(overflow >= f64::from(2 * NAMES - MOST), "{overflow} counted without their name");
    // A name that comes now has room once the others have been idle for some rounds.
    let mut asked = NAMES;
    let mut before = scrape;
    let name = ("dns_question_name", "n9999.test");
    agent.until("an idle name makes room", |scrape| {
        assert_eq!(scrape.fallen(&before), []);
        before = scrape.clone();
        if scrape.sum(QUERIES, &[path[0], name]) > 0.0 {
            return Some(());
        }
        flood(9999, 1);
        asked += 1;
        None
    });
    agent.until("still every one is counted once", |scrape| {
        assert_eq!(scrape.fallen(&before), []);
        all(scrape, asked)
    });
    agent.stop();
}
