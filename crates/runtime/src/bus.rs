//! The way of events from the collectors to the sinks: named, limited by workload, and handed to every sink's own
//! bounded queue. Nothing here waits for a sink, and every event that is not handed on is counted.

mod limit;
mod queue;

use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use model::event::{Event, EventKind, Feed, Record};
use model::{Answer, Attributes, Metric, Resolver, Subject, Text};

use crate::collector::Scrape;
use crate::headroom::Headroom;
use crate::own::EVENTS_LOST;
pub use limit::Limit;
use limit::Limiter;
use queue::Queue;

/// Events that were handed to the sinks.
pub static EVENTS_EMITTED: Metric = Metric::counter(
    "telesonde_events_emitted",
    "{event}",
    "Events that the collector handed to every sink.",
    &["collector"],
);

/// The most events that wait for their workload's names, and how long one waits at most.
const WAITING: usize = 4096;
const PATIENCE: Duration = Duration::from_secs(2);
/// The most workloads whose limited events are told apart.
const TOLD_APART: usize = 1024;

/// All sinks, and who knows the names.
pub struct Bus {
    resolver: Arc<dyn Resolver>,
    sinks: RwLock<Vec<Arc<Queue>>>,
    headroom: Arc<Headroom>,
    next: AtomicU64,
}

impl Bus {
    /// Makes a bus for so many sinks, each with room for `capacity` events.
    pub fn new(resolver: Arc<dyn Resolver>, sinks: usize, capacity: usize) -> Self {
        // Another beginning in each run, so that ids of two runs differ.
        let first = std::hash::RandomState::new().hash_one(std::process::id());
        let headroom = Arc::<Headroom>::default();
        let sinks: Vec<_> = (0..sinks).map(|_| Arc::new(Queue::new(capacity, &headroom))).collect();
        Self { resolver, sinks: RwLock::new(sinks), headroom, next: AtomicU64::new(first) }
    }

    /// Says whether anybody takes events; if not, no collector needs to make them.
    pub fn is_wanted(&self) -> bool {
        !self.sinks().is_empty()
    }

    /// Gives how much memory may still be taken: while that is little, the queues are short.
    pub fn headroom(&self) -> &Arc<Headroom> {
        &self.headroom
    }

    /// Cuts the queues to what they may have now.
    pub fn cut(&self) {
        for sink in self.sinks().iter() {
            sink.cut();
        }
    }

    /// Gives the queues of the sinks.
    pub fn feeds(&self) -> Vec<Arc<dyn Feed>> {
        self.sinks().iter().map(|queue| Arc::clone(queue) as Arc<dyn Feed>).collect()
    }

    /// Takes a sink on, with room for `capacity` events, in the place of another one or beside all others. The other one
    /// gets no more events: every event goes to one of the two.
    pub fn open(&self, capacity: usize, instead: Option<&Arc<dyn Feed>>) -> Arc<dyn Feed> {
        let queue = Arc::new(Queue::new(capacity, &self.headroom));
        let mut sinks = self.sinks.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(old) = instead {
            retire(&mut sinks, old);
        }
        sinks.push(Arc::clone(&queue));
        queue
    }

    /// Gives a sink no more events; it ends with those that it has.
    pub fn retire(&self, sink: &Arc<dyn Feed>) {
        retire(&mut self.sinks.write().unwrap_or_else(PoisonError::into_inner), sink);
    }

    fn sinks(&self) -> RwLockReadGuard<'_, Vec<Arc<Queue>>> {
        self.sinks.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the sinks that no more events will come.
    pub fn close(&self) {
        for sink in self.sinks().iter() {
            sink.close();
        }
    }

    /// Makes the entrance of a collector, with the limits of the kinds that have one.
    pub fn entrance(self: &Arc<Self>, collector: &'static str, limits: HashMap<EventKind, Limit>) -> Entrance {
        Entrance {
            bus: Arc::clone(self),
            collector,
            ledger: Arc::new(Ledger { collector, ..Ledger::default() }),
            limiter: Limiter::new(limits),
            waiting: VecDeque::new(),
            batch: Vec::new(),
        }
    }

    /// Gives every event its own number, well spread.
    fn id(&self) -> u64 {
        let mixed = self.next.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mixed = (mixed ^ (mixed >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
        mixed ^ (mixed >> 32)
    }
}

fn retire(sinks: &mut Vec<Arc<Queue>>, sink: &Arc<dyn Feed>) {
    let gone = |queue: &mut Arc<Queue>| std::ptr::addr_eq(Arc::as_ptr(queue), Arc::as_ptr(sink));
    for queue in sinks.extract_if(.., gone) {
        queue.close();
    }
}

/// What became of a collector's events on the bus.
#[derive(Debug, Default)]
pub struct Ledger {
    collector: &'static str,
    emitted: AtomicU64,
    excluded: AtomicU64,
    limited: Mutex<HashMap<Subject, u64>>,
}

impl Ledger {
    /// Gives how many events every sink was handed.
    pub fn emitted(&self) -> u64 {
        self.emitted.load(Ordering::Relaxed)
    }

    /// Gives how many events belonged to workloads that the configuration leaves out.
    pub fn excluded(&self) -> u64 {
        self.excluded.load(Ordering::Relaxed)
    }

    /// Gives how many events the rate limits dropped.
    pub fn limited(&self) -> u64 {
        self.limited.lock().unwrap_or_else(PoisonError::into_inner).values().sum()
    }

    /// Records what was emitted, and what each workload lost by its limits.
    pub fn record(&self, scrape: &mut Scrape) {
        scrape.record(&EVENTS_EMITTED, Subject::Node, [Text::Static(self.collector)], self.emitted());
        let limited = self.limited.lock().unwrap_or_else(PoisonError::into_inner);
        for (subject, count) in limited.iter() {
            let values = [Text::Static(self.collector), Text::Static("rate_limit")];
            scrape.record(&EVENTS_LOST, *subject, values, *count);
        }
    }

    fn limit(&self, subject: Subject) {
        let mut limited = self.limited.lock().unwrap_or_else(PoisonError::into_inner);
        let known = limited.len() < TOLD_APART || limited.contains_key(&subject);
        *limited.entry(if known { subject } else { Subject::Overflow }).or_default() += 1;
    }
}

/// Where a collector puts its events. It belongs to the task that reads them from the kernel.
pub struct Entrance {
    bus: Arc<Bus>,
    collector: &'static str,
    ledger: Arc<Ledger>,
    limiter: Limiter,
    waiting: VecDeque<(Instant, Event)>,
    batch: Vec<Arc<Record>>,
}

impl Entrance {
    /// Gives the account of this entrance.
    pub fn ledger(&self) -> Arc<Ledger> {
        Arc::clone(&self.ledger)
    }

    /// Makes another entrance of the same collector and on the same account, with limits of its own.
    #[must_use]
    pub fn beside(&self, limits: HashMap<EventKind, Limit>) -> Self {
        Self { ledger: self.ledger(), ..self.bus.entrance(self.collector, limits) }
    }

    /// Takes an event; it goes out with the next [`Entrance::flush`].
    pub fn put(&mut self, event: Event) {
        let answer = self.bus.resolver.resolve(event.subject);
        if matches!(answer, Answer::Pending) && self.waiting.len() < WAITING {
            self.waiting.push_back((Instant::now(), event));
            return;
        }
        self.admit(event, answer);
    }

    /// Takes an event whose workload the collector itself can name. Its limit goes by the address of the names: equal
    /// workloads have to come with one set.
    pub fn put_named(&mut self, event: Event, workload: Arc<Attributes>) {
        self.admit(event, Answer::Known(workload));
    }

    /// Hands everything that is named to the sinks; says whether events wait for their names.
    pub fn flush(&mut self) -> bool {
        if !self.waiting.is_empty() {
            self.look_again(Instant::now());
        }
        if !self.batch.is_empty() {
            // First, for a sink may be quick: nothing is delivered that was not emitted.
            self.ledger.emitted.fetch_add(self.batch.len() as u64, Ordering::Relaxed);
            for sink in self.bus.sinks().iter() {
                sink.put(&self.batch);
            }
            self.batch.clear();
        }
        !self.waiting.is_empty()
    }

    /// Hands everything to the sinks, named or not.
    pub fn finish(&mut self) {
        for (_, event) in std::mem::take(&mut self.waiting) {
            let answer = self.bus.resolver.resolve(event.subject);
            self.admit(event, answer);
        }
        self.flush();
    }

    fn look_again(&mut self, now: Instant) {
        for (since, event) in std::mem::take(&mut self.waiting) {
            let answer = self.bus.resolver.resolve(event.subject);
            if matches!(answer, Answer::Pending) && now.duration_since(since) < PATIENCE {
                self.waiting.push_back((since, event));
            } else {
                self.admit(event, answer);
            }
        }
    }

    fn admit(&mut self, event: Event, answer: Answer) {
        let answer = if let Answer::Pending = answer { self.bus.resolver.resolve_now(event.subject) } else { answer };
        let workload = match answer {
            Answer::Known(workload) | Answer::Unknown(workload, _) => workload,
            Answer::Pending => Arc::default(),
            Answer::Excluded => {
                self.ledger.excluded.fetch_add(1, Ordering::Relaxed);
                return;
            }
        };
        if !self.limiter.admits(event.kind(), &workload, event.time) {
            self.ledger.limit(event.subject);
            return;
        }
        let (id, collector) = (self.bus.id(), self.collector);
        self.batch.push(Arc::new(Record { id, collector, event, workload }));
    }
}

#[cfg(test)]
mod tests;
