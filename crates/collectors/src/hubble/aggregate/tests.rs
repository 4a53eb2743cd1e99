use hubble::server::messages::Flow;

use super::*;

#[path = "../../../tests/hubble/flows.rs"]
mod flows;

use flows::{dns, flow, http, kafka, l7, pod, remote, reply, seen, service, tcp, udp, world};

/// One flow of each kind that comes often.
fn kinds() -> Vec<Flow> {
    let between = || flow(pod("shop", "web", 1), pod("shop", "api", 2), 5);
    let call = || Flow { destination_service: Some(service("shop", "api")), ..tcp(between(), (40_000, 80), "") };
    let grpc = [("content-type", "application/grpc"), ("grpc-status", "0")];
    vec![
        seen(tcp(between(), (40_000, 80), "A"), 101, 2),
        seen(reply(tcp(between(), (80, 40_000), "AP")), 3, 3),
        seen(tcp(between(), (40_000, 80), "S"), 101, 1),
        udp(flow(pod("shop", "web", 1), world(), 9)),
        udp(flow(remote("shop", "cart"), pod("shop", "api", 2), 9)),
        l7(call(), 1, 0, http("GET", "/cart", 0, "HTTP/1.1", &[])),
        l7(reply(call()), 2, 5_000_000, http("GET", "/cart", 200, "HTTP/1.1", &[])),
        l7(call(), 1, 0, http("POST", "/cart.Cart/Add", 0, "HTTP/2", &grpc)),
        l7(reply(call()), 2, 5_000_000, http("POST", "/cart.Cart/Add", 200, "HTTP/2", &grpc)),
        l7(udp(between()), 1, 0, dns(&["A"], 0)),
        l7(reply(udp(between())), 2, 0, dns(&["A"], 3)),
        l7(call(), 1, 0, kafka("produce", "orders")),
    ]
}

/// Who takes what is passed on of addresses, and forgets it.
struct Nobody;

impl model::Learner for Nobody {
    fn limit(&self, _: usize, _: Duration) {}

    fn learn(&self, _: IpAddr, who: model::Attributes) {
        assert!(!who.is_empty());
    }
}

/// Gives an aggregator that does all that one can do.
fn busy(config: Config) -> Aggregator {
    let learner: std::sync::Arc<dyn model::Learner> = std::sync::Arc::new(Nobody);
    let teacher = Teacher::new(&config, Some(&learner), true);
    let mut counters = Aggregator::new(config, true);
    counters.teach(teacher);
    counters.join();
    counters
}

#[test]
fn a_flow_of_known_ends_costs_no_allocation() {
    let mut counters = busy(Config::default());
    let messages: Vec<_> = kinds().into_iter().map(Flow::response).collect();
    for message in &messages {
        assert_eq!(counters.take(message, &mut |_| ()), Outcome::Counted);
    }
    for (message, kind) in messages.iter().zip(kinds()) {
        let cost = allocation_counter::measure(|| {
            for _ in 0..100 {
                counters.take(message, &mut |_| ());
            }
        });
        assert_eq!(cost.count_total, 0, "{kind:?}");
    }
}

/// A generator that gives the same numbers in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
}

#[test]
fn nothing_that_comes_makes_it_panic_or_grow_beyond_its_bounds() {
    let config = Config { max_series: 100, max_connections: 16, ..Config::default() };
    let mut counters = busy(config);
    let seeds: Vec<_> = kinds().into_iter().map(Flow::response).collect();
    // Other messages, and more of them, by choice: CONTRIBUTING.md.
    let wish = |key: &str| std::env::var(key).ok().and_then(|value| value.parse::<u64>().ok());
    let mut random = Random(wish("TELESONDE_FUZZ_SEED").unwrap_or(0x7e1e_50de).max(1));
    let mut outcomes = [0_u64; 3];
    for round in 0..wish("TELESONDE_FUZZ_ROUNDS").unwrap_or(60_000).max(60_000) {
        let mut message = seeds[random.below(seeds.len())].to_vec();
        for _ in 0..=random.below(4) {
            let at = random.below(message.len());
            match random.below(5) {
                0 => message[at] = random.next() as u8,
                1 => message[at] ^= 1 << random.below(8),
                2 => message.truncate(at + 1),
                3 => drop(message.remove(at)),
                _ => {
                    let other = &seeds[random.below(seeds.len())];
                    let part = other[random.below(other.len())..].to_vec();
                    message.splice(at..at, part);
                }
            }
            if message.is_empty() {
                message.push(0);
            }
        }
        outcomes[counters.take(&message, &mut |_| ()) as usize] += 1;
        if round % 10_000 == 0 {
            let mut scrape = Scrape::default();
            while counters.record(&mut scrape, 64) {}
            counters.finish(&mut scrape);
            counters.forget();
        }
    }
    assert!(
        outcomes[Outcome::Counted as usize] > 1_000 && outcomes[Outcome::Malformed as usize] > 1_000,
        "{outcomes:?}"
    );
    assert!(counters.connections.ends().count() <= 16);
}

#[test]
fn what_is_forgotten_is_found_again() {
    let mut counters = Aggregator::new(Config::default(), true);
    let messages: Vec<_> = kinds().into_iter().map(Flow::response).collect();
    let take = |counters: &mut Aggregator| {
        for message in &messages {
            assert_eq!(counters.take(message, &mut |_| ()), Outcome::Counted);
        }
    };
    let readings = |counters: &mut Aggregator| {
        let mut scrape = Scrape::default();
        while counters.record(&mut scrape, 64) {}
        scrape.len()
    };
    take(&mut counters);
    let series = readings(&mut counters);
    counters.forget();
    assert_eq!(readings(&mut counters), 0);
    take(&mut counters);
    // The connection that has begun is known still, and is no new one.
    assert_eq!(readings(&mut counters), series - 1, "the same series again");
    // All of them end, and nothing of them stays.
    counters.series.now = u32::MAX;
    counters.finish(&mut Scrape::default());
    counters.connections = Connections::new(1, Duration::from_secs(1));
    counters.forget();
    assert_eq!(counters.peers.len(), 1);
    take(&mut counters);
    assert_eq!(readings(&mut counters), series);
}
