//! What has been counted, by metric and labels: cumulative, bounded, and forgotten when nothing comes any more.

use std::hash::BuildHasher;

use foldhash::fast::RandomState;
use hashbrown::HashTable;
use model::{Kind, Subject, Text};
use runtime::own::SAMPLE_INTERVAL;
use runtime::{Distribution, Scrape};

use super::metrics::{ENDS, Of};
use super::peers::Peers;
use super::symbols::{NONE, Symbol, Symbols};

/// Who speaks to whom, and which node says so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Ends {
    /// The node; nothing where all flows are of the agent's own.
    pub node: Symbol,
    /// The labels of the source.
    pub source: u32,
    /// The labels of the destination.
    pub destination: u32,
}

impl Ends {
    /// Gives the same ends, whose labels have new numbers.
    pub fn renumbered(self, numbers: &[u32]) -> Self {
        let new = |number: u32| numbers.get(number as usize).copied().unwrap_or(0);
        Self { node: self.node, source: new(self.source), destination: new(self.destination) }
    }
}

/// The most attributes that a metric has of its own.
pub const OWN: usize = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    of: Of,
    ends: Ends,
    own: [Symbol; OWN],
}

#[derive(Clone, Debug)]
enum Total {
    Number(u64),
    /// The sum in nanoseconds and how many there were by duration.
    Durations {
        sum: u64,
        counts: Box<[u32]>,
    },
}

#[derive(Debug)]
struct Row {
    key: Key,
    total: Total,
    /// Whether it has changed since it was last recorded.
    changed: bool,
    /// The second in which it last changed.
    touched: u32,
}

/// Four buckets a doubling.
const SCALE: i8 = 2;

/// The exponents of two, in seconds, between which a metric tells durations apart.
fn range(of: Of) -> (i32, i32) {
    if of == Of::TcpDuration { (-10, 17) } else { (-17, 7) }
}

impl Total {
    fn new(of: Of) -> Self {
        if of.metric().kind == Kind::Histogram {
            let (low, high) = range(of);
            let counts = vec![0; (((high - low) << SCALE) + 1) as usize].into();
            Self::Durations { sum: 0, counts }
        } else {
            Self::Number(0)
        }
    }

    fn count(&mut self, by: u64) {
        if let Self::Number(total) = self {
            *total = total.wrapping_add(by);
        }
    }

    fn time(&mut self, of: Of, nanos: u64) {
        if let Self::Durations { sum, counts } = self {
            *sum = sum.wrapping_add(nanos);
            let slot = ((nanos as f64 * 1e-9).log2() * f64::from(1 << SCALE)).ceil() as i32 - (range(of).0 << SCALE);
            let slot = usize::try_from(slot).unwrap_or(0).min(counts.len() - 1);
            counts[slot] = counts[slot].wrapping_add(1);
        }
    }
}

/// Everything that has been counted.
#[derive(Debug)]
pub struct Series {
    rows: Vec<Option<Row>>,
    index: HashTable<u32>,
    free: Vec<u32>,
    changed: Vec<u32>,
    hasher: RandomState,
    overflow: Vec<Option<Total>>,
    most: usize,
    /// For how many flows each stands.
    rate: u32,
    /// The present second.
    pub now: u32,
}

impl Series {
    /// Makes room for so many series, of flows of which one in `rate` is taken.
    pub fn new(most: usize, rate: u32) -> Self {
        Self {
            rows: Vec::new(),
            index: HashTable::new(),
            free: Vec::new(),
            changed: Vec::new(),
            hasher: RandomState::default(),
            overflow: vec![None; Of::ALL.len()],
            most,
            rate,
            now: 0,
        }
    }

    /// Counts.
    pub fn count<const N: usize>(&mut self, of: Of, ends: Ends, own: [Symbol; N], by: u64) {
        let by = by.saturating_mul(self.rate.into());
        self.total(of, ends, own).count(by);
    }

    /// Counts what is no sample, whatever part of the flows is taken.
    pub fn count_all<const N: usize>(&mut self, of: Of, ends: Ends, own: [Symbol; N], by: u64) {
        self.total(of, ends, own).count(by);
    }

    /// Takes note of a duration.
    pub fn time<const N: usize>(&mut self, of: Of, ends: Ends, own: [Symbol; N], nanos: u64) {
        self.total(of, ends, own).time(of, nanos);
    }

    fn total<const N: usize>(&mut self, of: Of, ends: Ends, own: [Symbol; N]) -> &mut Total {
        const { assert!(N <= OWN) };
        let mut key = Key { of, ends, own: [NONE; OWN] };
        key.own[..N].copy_from_slice(&own);
        let hash = self.hasher.hash_one(key);
        let rows = &self.rows;
        let same = |&at: &u32| rows[at as usize].as_ref().is_some_and(|row| row.key == key);
        let at = match self.index.find(hash, same) {
            Some(&at) => at,
            None if self.index.len() >= self.most => {
                return self.overflow[of as usize].get_or_insert_with(|| Total::new(of));
            }
            None => self.insert(hash, key),
        };
        let (rows, changed, now) = (&mut self.rows, &mut self.changed, self.now);
        let row = rows[at as usize].get_or_insert_with(|| Row::new(key));
        row.touched = now;
        if !std::mem::replace(&mut row.changed, true) {
            changed.push(at);
        }
        &mut row.total
    }

    fn insert(&mut self, hash: u64, key: Key) -> u32 {
        let at = self.free.pop().unwrap_or_else(|| {
            self.rows.push(None);
            (self.rows.len() - 1) as u32
        });
        self.rows[at as usize] = Some(Row::new(key));
        let (rows, hasher) = (&self.rows, &self.hasher);
        let rehash = |&at: &u32| rows[at as usize].as_ref().map_or(0, |row| hasher.hash_one(row.key));
        self.index.insert_unique(hash, at, rehash);
        at
    }

    /// Records at most so many of the series that have changed; says whether there are more.
    pub fn record(&mut self, scrape: &mut Scrape, most: usize, symbols: &Symbols, peers: &Peers) -> bool {
        for _ in 0..most {
            let Some(at) = self.changed.pop() else { break };
            if let Some(row) = &mut self.rows[at as usize] {
                row.changed = false;
                let values = row.key.values(symbols, peers);
                row.total.record(row.key.of, Subject::Node, values, self.rate, false, scrape);
            }
        }
        !self.changed.is_empty()
    }

    /// Records what found no room, and for how many flows each stands where that is not one.
    pub fn record_overflow(&self, scrape: &mut Scrape) {
        for (&of, total) in Of::ALL.iter().zip(&self.overflow) {
            let Some(total) = total else { continue };
            let values = std::iter::repeat_n(Text::Static(""), of.metric().attributes.len());
            total.record(of, Subject::Overflow, values, self.rate, false, scrape);
        }
        // A duration takes two flows of one connection: it is measured where every flow is looked at. Bytes are the
        // kernel's.
        let scaled = |of: &&Of| self.rate > 1 && !matches!(of, Of::TcpDuration | Of::FlowBytes);
        for of in Of::ALL.iter().filter(scaled) {
            let name = Text::from(of.metric().name.clone());
            scrape.record(&SAMPLE_INTERVAL, Subject::Node, [name], u64::from(self.rate));
        }
    }

    /// Ends the series that have not changed for so many seconds; says whether there were any.
    pub fn expire(&mut self, idle: u32, scrape: &mut Scrape, symbols: &Symbols, peers: &Peers) -> bool {
        let before = self.free.len();
        for at in 0..self.rows.len() as u32 {
            let stale = |row: &mut Row| self.now.saturating_sub(row.touched) >= idle && !row.changed;
            let Some(row) = self.rows[at as usize].take_if(stale) else { continue };
            let values = row.key.values(symbols, peers);
            row.total.record(row.key.of, Subject::Node, values, self.rate, true, scrape);
            if let Ok(found) = self.index.find_entry(self.hasher.hash_one(row.key), |&other| other == at) {
                found.remove();
            }
            self.free.push(at);
        }
        self.free.len() > before
    }

    /// Marks the texts and labels that are in use.
    pub fn mark(&self, symbols: &mut [bool], sets: &mut [bool]) {
        let mark = |used: &mut [bool], at: u32| {
            if let Some(used) = used.get_mut(at as usize) {
                *used = true;
            }
        };
        for row in self.rows.iter().flatten() {
            mark(symbols, row.key.ends.node);
            row.key.own.iter().for_each(|symbol| mark(symbols, *symbol));
            mark(sets, row.key.ends.source);
            mark(sets, row.key.ends.destination);
        }
    }

    /// Gives labels their new numbers.
    pub fn renumber(&mut self, numbers: &[u32]) {
        for row in self.rows.iter_mut().flatten() {
            row.key.ends = row.key.ends.renumbered(numbers);
        }
        self.index.clear();
        let (rows, hasher) = (&self.rows, &self.hasher);
        let hash = |&at: &u32| rows[at as usize].as_ref().map_or(0, |row| hasher.hash_one(row.key));
        for (at, _) in rows.iter().enumerate().filter(|(_, row)| row.is_some()) {
            self.index.insert_unique(hash(&(at as u32)), at as u32, hash);
        }
    }
}

impl Row {
    fn new(key: Key) -> Self {
        Self { key, total: Total::new(key.of), changed: false, touched: 0 }
    }
}

impl Key {
    fn values<'a>(&self, symbols: &'a Symbols, peers: &Peers) -> impl Iterator<Item = Text> + 'a {
        let own = self.of.metric().attributes.len() - ENDS;
        let (source, destination, all) = (peers.set(self.ends.source), peers.set(self.ends.destination), self.own);
        let ends = [self.ends.node].into_iter().chain(source).chain(destination);
        ends.chain(all.into_iter().take(own)).map(|symbol| symbols.text(symbol))
    }
}

impl Total {
    fn record(
        &self,
        of: Of,
        subject: Subject,
        values: impl IntoIterator<Item = Text>,
        rate: u32,
        last: bool,
        scrape: &mut Scrape,
    ) {
        let metric = of.metric();
        match self {
            Self::Number(number) if last => scrape.close(metric, subject, values, *number),
            Self::Number(number) => scrape.record(metric, subject, values, *number),
            Self::Durations { sum, counts } => {
                let (first, unit) = (range(of).0 << SCALE, 1e-9);
                let distribution = Distribution { sum: *sum, unit, zero: 0, scale: SCALE, first, counts, weight: rate };
                if last {
                    scrape.close_histogram(metric, subject, values, distribution);
                } else {
                    scrape.record_histogram(metric, subject, values, distribution);
                }
            }
        }
    }
}
