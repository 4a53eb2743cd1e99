//! The gather thread: one round of all collectors at a time, merged into series, published as a snapshot.

use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use model::{Resolver, Snapshot};
use opentelemetry::KeyValue;
use opentelemetry::metrics::MeterProvider;
use tokio::sync::oneshot;

use crate::collector::Scrape;
use crate::health::State;
use crate::manager::{Options, Shared};
use crate::own::{Instruments, Own, SCOPE, collector};
use crate::series::{Moment, Store};
use crate::watch;
use crate::worker::{News, Report, Worker, unix_nanos};

/// How long start-up waits for a collector to attach before it goes on without it.
const ATTACH: Duration = Duration::from_secs(30);
/// How long a stop waits for the collectors to detach.
const DETACH: Duration = Duration::from_secs(1);

/// What the gather thread is told.
pub(crate) enum Message {
    Request(Request),
    Report(Report),
    Stop,
}

impl From<Report> for Message {
    fn from(report: Report) -> Self {
        Self::Report(report)
    }
}

/// A reader that waits for a snapshot.
pub(crate) struct Request {
    pub asked: Instant,
    pub max_age: Duration,
    pub reply: oneshot::Sender<Arc<Snapshot>>,
}

/// A collector as the gather thread sees it.
pub(crate) struct Slot {
    name: &'static str,
    worker: Worker,
    /// Made at least once or found impossible.
    tried: bool,
    attached: bool,
    stopped: bool,
    /// Since when it owes a round.
    asked: Option<Instant>,
    incarnation: u32,
    degraded: Option<String>,
    spare: Scrape,
}

impl Slot {
    pub fn new(name: &'static str, worker: Worker) -> Self {
        let spare = Scrape::default();
        let (tried, attached, stopped) = (false, false, false);
        Self { name, worker, tried, attached, stopped, asked: None, incarnation: 0, degraded: None, spare }
    }
}

/// A round that is still to be merged.
struct Round {
    slot: usize,
    incarnation: u32,
    attached: u64,
    scrape: Scrape,
}

/// The gather thread's state.
pub(crate) struct Engine {
    options: Options,
    store: Store,
    slots: Vec<Slot>,
    resolver: Arc<dyn Resolver>,
    own: Own,
    instruments: Instruments,
    shared: Arc<Shared>,
    requests: Vec<Request>,
    rounds: Vec<Round>,
    number: u64,
    before: u64,
    stop: bool,
}

impl Engine {
    pub fn new(
        options: Options,
        store: Store,
        slots: Vec<Slot>,
        resolver: Arc<dyn Resolver>,
        own: Own,
        shared: Arc<Shared>,
    ) -> Self {
        let meter = own.provider().meter(SCOPE);
        watch::observe(&meter, &shared.watches);
        let instruments = Instruments::new(&meter);
        let (requests, rounds) = (Vec::new(), Vec::new());
        Self {
            options,
            store,
            slots,
            resolver,
            own,
            instruments,
            shared,
            requests,
            rounds,
            number: 0,
            before: 0,
            stop: false,
        }
    }

    /// Waits until every collector has been tried once.
    pub fn wait_until_made(&mut self, inbox: &Receiver<Message>) {
        let until = Instant::now() + ATTACH;
        while self.slots.iter().any(|slot| !slot.tried) && !self.stop && self.receive(inbox, until) {}
        for slot in self.slots.iter().filter(|slot| !slot.tried) {
            let why = format!("has not attached within {} s", ATTACH.as_secs());
            self.shared.health.set(slot.name, State::Failed(why));
        }
    }

    /// Serves requests, and gathers on its own when none came for the housekeeping period.
    pub fn serve(&mut self, inbox: &Receiver<Message>) {
        let mut last = Instant::now();
        while !self.stop {
            let due = last + self.options.housekeeping;
            if self.requests.is_empty() && self.receive(inbox, due) {
                continue;
            }
            self.answer();
            if !self.requests.is_empty() || Instant::now() >= due {
                self.gather(inbox);
                last = Instant::now();
                self.answer();
            }
        }
    }

    /// Takes one gather: asks every collector, waits for the answers, publishes the snapshot.
    pub fn gather(&mut self, inbox: &Receiver<Message>) {
        let begun = Instant::now();
        self.number += 1;
        let moment = Moment { number: self.number, now: unix_nanos(), before: self.before };
        for slot in &mut self.slots {
            if slot.attached && slot.asked.is_none() && slot.worker.collect(std::mem::take(&mut slot.spare)) {
                slot.asked = Some(begun);
            }
        }
        let until = begun + self.options.collect_timeout;
        while self.slots.iter().any(|slot| slot.asked == Some(begun)) && self.receive(inbox, until) {}
        for slot in &self.slots {
            if let Some(asked) = slot.asked {
                let why = format!("has not answered for {:.1} s", asked.elapsed().as_secs_f64());
                self.shared.health.set(slot.name, State::Degraded(why));
            }
        }
        self.store.begin(moment, &*self.resolver);
        let mut readings = 0;
        for round in std::mem::take(&mut self.rounds) {
            readings += round.scrape.len();
            self.merge(round, moment);
        }
        let acknowledged = self.shared.acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
        let acknowledged = acknowledged.iter().copied().min().unwrap_or(u64::MAX);
        let mut families = self.store.finish(moment, acknowledged);
        self.record(readings);
        families.extend(self.own.collect(moment));
        let (number, time, resource) = (self.number, unix_nanos(), Arc::clone(&self.options.resource));
        let snapshot = Arc::new(Snapshot { number, time, resource, families });
        *self.shared.latest.write().unwrap_or_else(PoisonError::into_inner) = Some((begun, snapshot));
        self.shared.gathers.store(number, Ordering::Release);
        self.before = moment.now;
    }

    /// Detaches every collector.
    pub fn stop(&mut self, inbox: &Receiver<Message>) {
        for slot in &self.slots {
            slot.worker.stop();
        }
        let until = Instant::now() + DETACH;
        while self.slots.iter().any(|slot| !slot.stopped) && self.receive(inbox, until) {}
        for slot in self.slots.iter().filter(|slot| !slot.stopped) {
            tracing::warn!(collector = slot.name, "collector did not detach in time");
        }
        self.answer_all();
    }

    fn merge(&mut self, round: Round, moment: Moment) {
        let Round { slot: at, incarnation, attached, scrape } = round;
        let Some(slot) = self.slots.get_mut(at) else { return };
        if incarnation != slot.incarnation {
            self.store.forget(at as u16, moment.now);
            slot.incarnation = incarnation;
        }
        let merged = self.store.merge(at as u16, &scrape, attached, moment, &*self.resolver);
        if let Err(why) = merged {
            self.shared.health.set(slot.name, State::Degraded(why));
        }
        self.shared.health.set_readings(slot.name, scrape.len());
        slot.spare = scrape;
    }

    /// Takes one message; says whether there was one before `until`.
    fn receive(&mut self, inbox: &Receiver<Message>, until: Instant) -> bool {
        match inbox.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(Message::Request(request)) => self.requests.push(request),
            Ok(Message::Report(Report { slot, news })) => self.note(slot, news),
            Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => self.stop = true,
            Err(RecvTimeoutError::Timeout) => return false,
        }
        true
    }

    fn note(&mut self, at: usize, news: News) {
        let Some(slot) = self.slots.get_mut(at) else { return };
        let (name, health, i) = (slot.name, &self.shared.health, &self.instruments);
        match news {
            News::Made { watches, degraded, took } => {
                (slot.tried, slot.attached, slot.asked) = (true, true, None);
                slot.degraded = degraded;
                health.set(name, slot.state());
                i.load_attempts.add(1, &[collector(name)]);
                i.load_status.record(1, &[collector(name)]);
                i.load_duration.record(took.as_secs_f64(), &[collector(name)]);
                self.set_watches(name, watches);
            }
            News::NotMade { why, retry, took } => {
                (slot.tried, slot.attached) = (true, false);
                i.load_attempts.add(1, &[collector(name)]);
                i.load_status.record(0, &[collector(name)]);
                i.load_duration.record(took.as_secs_f64(), &[collector(name)]);
                let kind = if retry { "attach" } else { "unsupported" };
                i.bpf_errors.add(1, &[collector(name), KeyValue::new("error.type", kind)]);
                health.set(name, if retry { State::Failed(why) } else { State::Unsupported(why) });
            }
            News::Round { incarnation, attached, scrape, result, took } => {
                slot.asked = None;
                i.collection_duration.record(took.as_secs_f64(), &[collector(name)]);
                match result {
                    Ok(()) => health.set(name, slot.state()),
                    Err(why) => {
                        i.collector_errors.add(1, &[collector(name), KeyValue::new("error.type", "collect")]);
                        health.set(name, State::Degraded(why));
                    }
                }
                self.rounds.push(Round { slot: at, incarnation, attached, scrape });
            }
            News::Dropped { why, panicked } => {
                slot.attached = false;
                i.load_status.record(0, &[collector(name)]);
                if panicked {
                    i.collector_errors.add(1, &[collector(name), KeyValue::new("error.type", "panic")]);
                }
                health.set(name, State::Failed(why));
                self.set_watches(name, Vec::new());
            }
            News::Stopped => (slot.attached, slot.stopped) = (false, true),
        }
    }

    fn set_watches(&self, name: &'static str, watches: Vec<bpf::Watch>) {
        let mut all = self.shared.watches.write().unwrap_or_else(PoisonError::into_inner);
        all.retain(|(other, _)| *other != name);
        all.push((name, watches));
    }

    fn record(&self, readings: usize) {
        let i = &self.instruments;
        i.batch_size.record(readings as u64, &[]);
        for (metric, series, folded) in self.store.sizes() {
            let attributes = [KeyValue::new("metric", metric.to_owned())];
            i.series.record(series as u64, &attributes);
            i.series_folded.record(u64::from(folded), &attributes);
        }
        for status in self.shared.health.all() {
            for state in ["disabled", "unsupported", "running", "degraded", "failed"] {
                let attributes = [collector(status.name), KeyValue::new("state", state)];
                i.collector_state.record(u64::from(status.state.name() == state), &attributes);
            }
        }
    }

    /// Answers the requests that the latest snapshot is young enough for.
    fn answer(&mut self) {
        let latest = self.shared.latest.read().unwrap_or_else(PoisonError::into_inner).clone();
        let Some((taken, snapshot)) = latest else { return };
        let fresh = |r: &mut Request| taken >= r.asked || r.asked.duration_since(taken) <= r.max_age;
        for request in self.requests.extract_if(.., fresh) {
            drop(request.reply.send(Arc::clone(&snapshot)));
        }
    }

    fn answer_all(&mut self) {
        let latest = self.shared.latest.read().unwrap_or_else(PoisonError::into_inner).clone();
        for request in self.requests.drain(..) {
            if let Some((_, snapshot)) = &latest {
                drop(request.reply.send(Arc::clone(snapshot)));
            }
        }
    }
}

impl Slot {
    fn state(&self) -> State {
        self.degraded.clone().map_or(State::Running, State::Degraded)
    }
}
