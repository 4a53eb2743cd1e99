//! Where flows arrive. Nothing here waits: what cannot be taken on is dropped here, and nowhere else, and counted.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hubble::flow::{Content, Response, is_flow};
use hubble::messages::ServerStatus;
use hubble::{Failure, Kind, Sink};
use model::standing::Party;
use model::{Standing, Subject, Text};
use runtime::Scrape;
use tokio::sync::mpsc;

use super::aggregate::Outcome;
use super::config::Config;
use super::metrics::{CONNECTED, LEADER, LOST_EVENTS, MISSED, NODES, OUTCOMES, RECEIVED, STREAM_ENDS, UNREAD};
use super::names;
use super::symbols::presentable;

/// What became of all flows: what came is what is in the other fields, and what waits.
#[derive(Debug, Default)]
pub struct Ledger {
    received: AtomicU64,
    counted: AtomicU64,
    filtered: AtomicU64,
    sampled_out: AtomicU64,
    queue_full: AtomicU64,
    rate_limit: AtomicU64,
    malformed: AtomicU64,
    /// Whether the server sends all flows that it sees.
    all: bool,
    link: Mutex<Link>,
}

/// How far a server has been read: how many flows it had seen, by its own number, and of how many nodes they are where it
/// is a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Position {
    seen: u64,
    nodes: Option<u32>,
}

impl Position {
    /// Gives how many flows the server has seen between here and where it is `now`; nothing where the two cannot be
    /// compared.
    fn until(self, now: Self) -> u64 {
        match now.seen.checked_sub(self.seen) {
            _ if now.nodes != self.nodes => 0,
            Some(missed) => missed,
            // A node that has begun anew; of a relay's nodes only one may have.
            None if now.nodes.is_none() => now.seen,
            None => 0,
        }
    }

    /// Reads what [`Ledger::note_of_position`] wrote.
    fn read(note: &str) -> Option<Self> {
        let (seen, nodes) = note.split_once('/')?;
        let nodes = if nodes.is_empty() { None } else { Some(nodes.parse().ok()?) };
        Some(Self { seen: seen.parse().ok()?, nodes })
    }
}

/// What the server says beside flows, and how the connection is.
#[derive(Debug)]
struct Link {
    /// Why no flows come, where they do not.
    down: Option<String>,
    /// Since when none come that did, and for how long none came before.
    since: Option<Instant>,
    unread: Duration,
    /// Whether this agent was elected to read, where there is an election.
    leads: Option<bool>,
    /// Whether somebody else was: then all is well without flows.
    waits: bool,
    /// How far the server was read when the present stream began, or the last one; how many flows had come by then, and
    /// how many it has said to have lost since.
    position: Option<(Position, u64, u64)>,
    missed: u64,
    ends: BTreeMap<Kind, u64>,
    lost: BTreeMap<(Text, Text), u64>,
    nodes: BTreeMap<Text, i32>,
    /// What was dropped when the state was last asked for.
    dropped: [u64; 2],
}

const YIELDED: &str = "another agent read the relay when that could last be asked, and may do so still";
/// The most nodes that are told apart.
const NODES_MOST: usize = 10_000;

impl Default for Link {
    fn default() -> Self {
        let down = Some("the server has not answered yet".to_owned());
        Self {
            down,
            since: None,
            unread: Duration::ZERO,
            leads: None,
            waits: false,
            position: None,
            missed: 0,
            ends: BTreeMap::new(),
            lost: BTreeMap::new(),
            nodes: BTreeMap::new(),
            dropped: [0; 2],
        }
    }
}

impl Ledger {
    /// Opens it; `all` says whether the server sends every flow that it sees.
    pub fn new(all: bool) -> Self {
        Self { all, ..Self::default() }
    }

    /// Gives how far the server has been read, for whoever goes on from there; nothing where that is not known.
    pub fn note_of_position(&self) -> String {
        let position = self.position(&self.link());
        position.map_or_else(String::new, |Position { seen, nodes }| {
            format!("{seen}/{}", nodes.map_or_else(String::new, |nodes| nodes.to_string()))
        })
    }

    fn position(&self, link: &Link) -> Option<Position> {
        let (begin, received, lost) = link.position?;
        let came = self.received.load(Ordering::Relaxed).saturating_sub(received);
        Some(Position { seen: begin.seen.saturating_add(came).saturating_add(lost), ..begin })
    }

    /// Takes note of what became of flows that were taken on.
    pub fn note(&self, outcome: Outcome) {
        let counter = match outcome {
            Outcome::Counted => &self.counted,
            Outcome::Filtered => &self.filtered,
            Outcome::Malformed => &self.malformed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn link(&self) -> MutexGuard<'_, Link> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records everything; the collector gives less than it should while nothing comes or something is dropped.
    pub fn record(&self, scrape: &mut Scrape, relay: bool) {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let mut link = self.link();
        let (full, limit) = (get(&self.queue_full), get(&self.rate_limit));
        let before = std::mem::replace(&mut link.dropped, [full, limit]);
        if let Some(why) = link.down.as_ref().filter(|_| !link.waits) {
            scrape.degrade(why.clone());
        } else if full > before[0] {
            scrape.degrade(format!(
                "{} flows found the queue full: raise flow_buffer_size, or flow_sample_rate",
                full - before[0]
            ));
        } else if limit > before[1] {
            scrape.degrade(format!(
                "{} flows came beyond max_flows_per_second: raise it, or flow_sample_rate",
                limit - before[1]
            ));
        }
        if !link.waits {
            scrape.record(&CONNECTED, Subject::Node, [], u64::from(link.down.is_none()));
        }
        if let Some(leads) = link.leads {
            scrape.record(&LEADER, Subject::Node, [], u64::from(leads));
        }
        let unread = link.unread + link.since.map_or(Duration::ZERO, |since| since.elapsed());
        scrape.record(&UNREAD, Subject::Node, [], unread.as_secs_f64());
        if self.all {
            scrape.record(&MISSED, Subject::Node, [], link.missed);
        }
        let outcomes = [
            ("counted", "", get(&self.counted)),
            ("filtered", "", get(&self.filtered)),
            ("sampled_out", "", get(&self.sampled_out)),
            ("dropped", "queue_full", full),
            ("dropped", "rate_limit", limit),
            ("dropped", "malformed", get(&self.malformed)),
        ];
        for (outcome, reason, count) in outcomes {
            scrape.record(&OUTCOMES, Subject::Node, [outcome.into(), reason.into()], count);
        }
        scrape.record(&RECEIVED, Subject::Node, [], get(&self.received));
        for (kind, count) in &link.ends {
            scrape.record(&STREAM_ENDS, Subject::Node, [kind.name().into()], *count);
        }
        for ((node, source), events) in &link.lost {
            let node = if relay { node.clone() } else { Text::Static("") };
            scrape.record(&LOST_EVENTS, Subject::Node, [node, source.clone()], *events);
        }
        let mut states = BTreeMap::<i32, u64>::new();
        for state in link.nodes.values() {
            *states.entry(*state).or_default() += 1;
        }
        for (state, nodes) in states {
            scrape.record(&NODES, Subject::Node, [names::node_state(state).into()], nodes);
        }
    }
}

/// Takes one flow in so many, one at random of each so many in a row: what follows a rhythm is not taken or left by it.
#[derive(Debug)]
struct Sample {
    rate: u64,
    at: u64,
    chosen: u64,
    random: u64,
}

impl Sample {
    fn new(rate: u32) -> Self {
        use std::hash::BuildHasher;
        let random = std::hash::RandomState::new().hash_one(rate) | 1;
        let mut sample = Self { rate: rate.into(), at: 0, chosen: 0, random };
        sample.choose();
        sample
    }

    fn choose(&mut self) {
        // xorshift64
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.chosen = self.random % self.rate;
    }

    fn takes(&mut self) -> bool {
        if self.rate == 1 {
            return true;
        }
        let taken = self.at == self.chosen;
        self.at += 1;
        if self.at == self.rate {
            self.at = 0;
            self.choose();
        }
        taken
    }
}

/// Lets so many through a second, those of one second at once if need be.
#[derive(Debug)]
struct Rate {
    most: u64,
    left: u64,
    since: Instant,
}

impl Rate {
    fn admits(&mut self) -> bool {
        if self.left == 0 {
            // The clock is asked only where there is nothing left.
            let grown = (self.since.elapsed().as_secs_f64() * self.most as f64) as u64;
            if grown == 0 {
                return false;
            }
            self.left = grown.min(self.most);
            self.since = Instant::now();
        }
        self.left -= 1;
        true
    }
}

/// Takes what comes and hands flows on.
pub struct Reader {
    ledger: Arc<Ledger>,
    queue: mpsc::Sender<Bytes>,
    sample: Sample,
    rate: Rate,
    address: String,
}

impl Reader {
    /// Makes a reader and gives the flows that it takes on.
    pub fn new(config: &Config, address: String, ledger: Arc<Ledger>) -> (Self, mpsc::Receiver<Bytes>) {
        let (queue, flows) = mpsc::channel(config.flow_buffer_size);
        let most = u64::from(config.max_flows_per_second);
        let rate = Rate { most, left: most, since: Instant::now() };
        (Self { ledger, queue, sample: Sample::new(config.flow_sample_rate), rate, address }, flows)
    }

    /// Takes note of how the agent stands, and whether another was to read the relay. Of many, each goes on from where it was.
    pub fn stands(&self, standing: &Standing, party: Party, yielded: bool) {
        let mut link = self.ledger.link();
        link.waits = *standing == Standing::Waits;
        if party == Party::Many {
            link.down = match standing {
                Standing::Waits => Some("another agent reads the relay".to_owned()),
                Standing::Unknown(why) if yielded => Some(format!("{YIELDED}: {why}")),
                _ => link.down.as_ref().map(|_| "the server has not answered yet".to_owned()),
            };
            if link.waits {
                (link.since, link.position) = (None, None);
            } else if let (Standing::Leads { vacant, .. }, true) = (standing, yielded) {
                link.unread += *vacant;
            }
            return;
        }
        let leads = matches!(standing, Standing::Leads { .. });
        if link.leads == Some(true) && !leads {
            tracing::warn!("another agent may read the relay now: this one does not");
        }
        link.leads = Some(leads);
        let why = match standing {
            Standing::Pending => "no agent is elected yet",
            Standing::Waits => "another agent reads the relay",
            Standing::Barred => {
                "other agents read their own nodes: this one's flows are read by nobody until hubble_node_address answers"
            }
            Standing::Unknown(why) => why,
            Standing::Leads { vacant, note } => {
                let received = self.ledger.received.load(Ordering::Relaxed);
                link.position = Position::read(note).map(|position| (position, received, 0));
                tracing::info!(vacant = vacant.as_secs_f64(), "elected to read the relay");
                link.unread += *vacant;
                link.since = Some(Instant::now());
                "the server has not answered yet"
            }
        };
        if !leads {
            // Whoever leads next counts the time from when this one last said that it does.
            link.since = None;
        }
        link.down = Some(why.to_owned());
    }

    /// Takes note of what is said beside flows.
    fn hear(&self, message: &[u8]) {
        let Ok(response) = Response::read(message) else { return };
        let mut link = self.ledger.link();
        let text = |bytes: &[u8]| Text::from(presentable(bytes).into_owned());
        match response.content {
            Content::Lost(lost) => {
                // Those were seen; others were lost before.
                if lost.source == names::LOST_IN_RING
                    && let Some((_, _, events)) = &mut link.position
                {
                    *events = events.saturating_add(lost.events);
                }
                let source = names::lost(lost.source).into();
                let mut key = (text(response.node_name), source);
                if link.lost.len() >= NODES_MOST && !link.lost.contains_key(&key) {
                    key.0 = Text::Static("");
                }
                let events = link.lost.entry(key).or_default();
                *events = events.saturating_add(lost.events);
            }
            Content::NodeStatus(status) => {
                tracing::debug!(state = status.state, "nodes: {}", presentable(status.message));
                for node in status.nodes.iter().map(text) {
                    if link.nodes.len() < NODES_MOST || link.nodes.contains_key(&node) {
                        link.nodes.insert(node, status.state);
                    }
                }
            }
            Content::Unknown | Content::Flow(_) => {}
        }
    }
}

impl Sink for Reader {
    fn message(&mut self, message: Bytes) {
        if !is_flow(&message) {
            return self.hear(&message);
        }
        let ledger = &self.ledger;
        ledger.received.fetch_add(1, Ordering::Relaxed);
        if !self.sample.takes() {
            ledger.sampled_out.fetch_add(1, Ordering::Relaxed);
        } else if !self.rate.admits() {
            ledger.rate_limit.fetch_add(1, Ordering::Relaxed);
        } else if self.queue.try_send(message).is_err() {
            ledger.queue_full.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn connected(&mut self, status: &ServerStatus) {
        let mut link = self.ledger.link();
        link.down = None;
        let unread = link.since.take().map_or(Duration::ZERO, |since| since.elapsed());
        link.unread += unread;
        if self.ledger.all {
            let now = Position { seen: status.seen_flows, nodes: status.num_connected_nodes };
            link.missed += self.ledger.position(&link).map_or(0, |before| before.until(now));
            link.position = Some((now, self.ledger.received.load(Ordering::Relaxed), 0));
        }
        // Those that it is connected to will be named again.
        link.nodes.clear();
        let version = presentable(status.version.as_bytes()).into_owned();
        tracing::info!(version, "reading flows from {}", self.address);
    }

    fn ended(&mut self, failure: &Failure) {
        let mut link = self.ledger.link();
        *link.ends.entry(failure.kind).or_default() += 1;
        // The same failure again and again is said once.
        let why = format!("{}: {failure}", self.address);
        if link.down.as_ref() != Some(&why) {
            tracing::warn!("no flows from {why}");
        }
        if link.down.is_none() {
            link.since = Some(Instant::now());
        }
        link.down = Some(why);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_one_of_each_so_many() {
        let mut sample = Sample::new(10);
        let taken: Vec<usize> = (0..1_000).filter(|_| sample.takes()).collect();
        assert_eq!(taken.len(), 100);
        assert!(taken.iter().enumerate().all(|(nth, at)| at / 10 == nth));
        assert!(taken.iter().any(|at| at % 10 != taken[0] % 10), "always the same one");
        assert!((0..100).all(|_| Sample::new(1).takes()));
    }

    #[test]
    fn no_more_than_allowed_is_let_through() {
        let mut rate = Rate { most: 50, left: 50, since: Instant::now() };
        let admitted = (0..10_000).filter(|_| rate.admits()).count();
        let most = 50 + (rate.since.elapsed().as_secs_f64() * 50.0) as usize + 50;
        assert!((50..=most).contains(&admitted), "{admitted}");
    }

    #[test]
    fn what_was_missed_is_what_the_server_says_and_no_guess() {
        let at = |seen, nodes| Position { seen, nodes };
        assert_eq!(at(10, None).until(at(35, None)), 25);
        assert_eq!(at(10, None).until(at(7, None)), 7, "it began anew");
        assert_eq!(at(10, Some(3)).until(at(12, Some(3))), 2);
        assert_eq!(at(10, Some(3)).until(at(7, Some(3))), 0);
        assert_eq!(at(10, Some(3)).until(at(99, Some(4))), 0);
        for (note, position) in
            [("5/3", Some(at(5, Some(3)))), ("5/", Some(at(5, None))), ("", None), ("x/3", None), ("5/-1", None)]
        {
            assert_eq!(Position::read(note), position, "{note}");
        }
    }
}
