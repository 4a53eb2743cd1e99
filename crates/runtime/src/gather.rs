//! The gather thread: one round of all collectors at a time, merged into series, published as a snapshot.

mod change;
mod govern;
mod keep;

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use model::{Resolver, Snapshot};
use opentelemetry::KeyValue;
use opentelemetry::metrics::MeterProvider;
use tokio::sync::oneshot;

use crate::clock::{Jump, Timeline};
use crate::collector::Scrape;
use crate::health::State;
use crate::manager::{Options, Selection, Shared};
use crate::own::{Instruments, Own, SCOPE, collector};
use crate::series::{Moment, Origin, Store};
use crate::watch;
use crate::worker::{News, Post, Report, Worker};
pub(crate) use change::Starter;
pub use change::{Change, concerned};
use change::{Changing, Wish};
use govern::{Costs, Governance};
pub(crate) use keep::Keeper;

/// How long start-up waits for a collector to attach before it goes on without it.
const ATTACH: Duration = Duration::from_secs(30);
/// How long a stop waits for the collectors to detach.
const DETACH: Duration = Duration::from_secs(1);

/// What the gather thread is told.
pub(crate) enum Message {
    Request(Request),
    Report(Box<Report>),
    Change(Box<Change>, oneshot::Sender<Vec<&'static str>>),
    Stop,
}

impl From<Report> for Message {
    fn from(report: Report) -> Self {
        Self::Report(Box::new(report))
    }
}

/// A reader that waits for a snapshot.
pub(crate) struct Request {
    pub asked: Instant,
    pub max_age: Duration,
    pub reply: oneshot::Sender<Arc<Snapshot>>,
}

/// How far a collector has come.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    /// Being made for the first time.
    New,
    Attached,
    /// Impossible, or to be made again.
    Away,
    /// Without a worker.
    Stopped,
}

/// A collector as the gather thread sees it.
pub(crate) struct Slot {
    name: &'static str,
    selection: Selection,
    worker: Option<Worker>,
    /// The number of its worker: what an earlier one says is not heard.
    number: u32,
    phase: Phase,
    /// Since when it owes a round.
    asked: Option<Instant>,
    incarnation: u32,
    /// Its last incarnation is over: what its cells saw last means nothing to the next one.
    ended: bool,
    degraded: Option<String>,
    /// What it costs, where it is to keep within a budget.
    costs: Option<Costs>,
    spare: Scrape,
}

impl Slot {
    pub fn new(selection: Selection) -> Self {
        Self {
            name: selection.descriptor.name,
            selection,
            worker: None,
            number: 0,
            phase: Phase::Stopped,
            asked: None,
            incarnation: 0,
            ended: false,
            degraded: None,
            costs: None,
            spare: Scrape::default(),
        }
    }

    /// Gives it a worker.
    pub fn start(&mut self, at: usize, starter: &Starter) -> std::io::Result<()> {
        self.number += 1;
        (self.incarnation, self.asked, self.degraded) = (0, None, None);
        self.begin_costs(&starter.platform.budget);
        self.worker = Some(starter.start(Post { slot: at, worker: self.number }, &self.selection)?);
        self.phase = Phase::New;
        Ok(())
    }

    /// Gives the state of what is attached; `more` is what the last round said of it.
    fn state(&self, more: Option<&str>) -> State {
        let all: Vec<&str> = [self.throttled(), more.or(self.degraded.as_deref())].into_iter().flatten().collect();
        if all.is_empty() { State::Running } else { State::Degraded(all.join("; ")) }
    }
}

/// A round that is still to be merged.
struct Round {
    slot: usize,
    incarnation: u32,
    attached: u64,
    scrape: Scrape,
    result: Result<(), String>,
}

/// The gather thread's state.
pub(crate) struct Engine {
    options: Options,
    store: Store,
    slots: Vec<Slot>,
    starter: Starter,
    resolver: Arc<dyn Resolver>,
    own: Own,
    instruments: Instruments,
    shared: Arc<Shared>,
    requests: Vec<Request>,
    /// What is still to be changed, and what is being changed.
    wishes: VecDeque<Wish>,
    changing: Option<Changing>,
    rounds: Vec<Round>,
    timeline: Timeline,
    governance: Governance,
    keeper: Option<Keeper>,
    number: u64,
    before: u64,
    /// Whether a jump of the clock has been logged, by its direction.
    jumped: [bool; 2],
    stop: bool,
}

impl Engine {
    pub fn new(
        options: Options,
        store: Store,
        (slots, starter, keeper): (Vec<Slot>, Starter, Option<Keeper>),
        resolver: Arc<dyn Resolver>,
        mut own: Own,
        shared: Arc<Shared>,
    ) -> Self {
        own.describe(&options.version, &options.schema_url);
        let meter = own.provider().meter(SCOPE);
        watch::observe(&meter, &shared.watches);
        let instruments = Instruments::new(&meter);
        let (requests, rounds, timeline) = (Vec::new(), Vec::new(), Timeline::new(options.clock.clone()));
        Self {
            options,
            store,
            slots,
            starter,
            resolver,
            own,
            instruments,
            shared,
            requests,
            wishes: VecDeque::new(),
            changing: None,
            rounds,
            timeline,
            governance: Governance::new(),
            keeper,
            number: 0,
            before: 0,
            jumped: [false; 2],
            stop: false,
        }
    }

    /// Waits until every collector has been tried once.
    pub fn wait_until_made(&mut self, inbox: &Receiver<Message>) {
        let until = Instant::now() + ATTACH;
        while self.slots.iter().any(|slot| slot.phase == Phase::New) && !self.stop && self.receive(inbox, until) {}
        for slot in self.slots.iter().filter(|slot| slot.phase == Phase::New) {
            let why = format!("has not attached within {} s", ATTACH.as_secs());
            self.shared.health.set(slot.name, State::Failed(why));
        }
        self.sweep_pins();
    }

    /// Serves requests, and gathers on its own when none came for the housekeeping period.
    pub fn serve(&mut self, inbox: &Receiver<Message>) {
        let mut last = Instant::now();
        while !self.stop {
            self.change(inbox);
            let due = last + self.options.housekeeping;
            let until = self.changing.as_ref().map_or(due, |changing| changing.until.min(due));
            if self.requests.is_empty() && self.receive(inbox, until) {
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
        let (now, steady) = self.look();
        let moment = Moment { number: self.number, now, before: self.before, steady };
        for slot in &mut self.slots {
            if slot.phase == Phase::Attached
                && slot.asked.is_none()
                && slot.worker.as_ref().is_some_and(|worker| worker.collect(std::mem::take(&mut slot.spare)))
            {
                slot.asked = Some(begun);
            }
        }
        let until = begun + self.options.collect_timeout;
        let late = |slot: &Slot| slot.asked == Some(begun);
        while !self.stop && self.slots.iter().any(late) && self.receive(inbox, until) {}
        let scarce = self.starter.platform.bus.headroom().is_close();
        self.store.spare(scarce);
        self.store.begin(moment, &*self.resolver);
        let mut readings = 0;
        let mut rounds = std::mem::take(&mut self.rounds).into_iter();
        while let Some(round) = rounds.next() {
            readings += round.scrape.len();
            let superseded = rounds.as_slice().iter().any(|later| later.slot == round.slot);
            self.merge(round, superseded, moment);
        }
        self.settle(begun, moment);
        self.record_events(moment);
        let mut families = self.store.finish(moment, self.shared.acknowledged());
        self.record(readings);
        families.extend(self.own.collect(moment));
        let (number, (time, _), resource) = (self.number, self.look(), Arc::clone(&self.options.resource));
        let snapshot = Arc::new(Snapshot { number, time, resource, families });
        *self.shared.latest.write().unwrap_or_else(PoisonError::into_inner) = Some((begun, snapshot));
        self.before = moment.now;
        self.write_checkpoint(moment);
        self.govern(inbox);
    }

    /// Gives the time in Unix and in steady nanoseconds, and counts how often the former was set.
    fn look(&mut self) -> (u64, u64) {
        let tick = self.timeline.tick();
        if let Some(jump) = tick.jump {
            self.instruments.clock_jumps.add(1, &[KeyValue::new("direction", jump.name())]);
            if !std::mem::replace(&mut self.jumped[jump as usize], true) {
                match jump {
                    Jump::Forward => {
                        tracing::warn!("the system's clock was set forward; further times are only counted");
                    }
                    Jump::Back => tracing::warn!(
                        "the system's clock was set back: until it has caught up, the times of snapshots pass at half \
                         its pace (a restart follows it at once); further times are only counted"
                    ),
                }
            }
        }
        (tick.time, tick.steady)
    }

    /// Detaches every collector, but leaves what outlives the agent.
    pub fn stop(&mut self, inbox: &Receiver<Message>) {
        self.leave_pins();
        self.detach(&(0..self.slots.len()).collect::<Vec<_>>(), inbox);
        self.answer_all();
    }

    fn merge(&mut self, round: Round, superseded: bool, moment: Moment) {
        let Round { slot: at, incarnation, attached, mut scrape, result } = round;
        let Some(slot) = self.slots.get_mut(at) else { return };
        if incarnation != slot.incarnation {
            self.store.forget(at as u16, moment.steady);
            (slot.incarnation, slot.ended) = (incarnation, false);
        }
        let origin = Origin { collector: at as u16, attached, superseded };
        let (before, whole) = (bpf::clock::of_thread(), result.is_ok());
        let merged = self.store.merge(origin, &scrape, moment, &*self.resolver);
        self.add_cost(at, bpf::clock::of_thread().saturating_sub(before));
        self.take_bequest(at, &mut scrape);
        if whole {
            self.store.end_resuming(at as u16);
        }
        let Some(slot) = self.slots.get_mut(at) else { return };
        if slot.phase == Phase::Attached {
            let state = match result.and(merged) {
                Err(why) => State::Degraded(why),
                Ok(()) => slot.state(scrape.degraded.as_deref()),
            };
            self.shared.health.set(slot.name, state);
        }
        self.shared.health.set_readings(slot.name, scrape.len());
        if !self.starter.platform.bus.headroom().is_close() {
            slot.spare = scrape;
        }
    }

    /// Notes who owes the round that was asked for at `begun`, and lets go of what ended collectors counted.
    fn settle(&mut self, begun: Instant, moment: Moment) {
        for (at, slot) in self.slots.iter_mut().enumerate() {
            if slot.asked == Some(begun) && !self.stop {
                let attributes = [collector(slot.name), KeyValue::new("error.type", "timeout")];
                self.instruments.collector_errors.add(1, &attributes);
            }
            if slot.asked.is_some() {
                let why = format!("has not answered within {:?}", self.options.collect_timeout);
                self.shared.health.set(slot.name, State::Degraded(why));
            }
            if std::mem::take(&mut slot.ended) {
                self.store.forget(at as u16, moment.steady);
            }
        }
    }

    /// Takes one message; says whether there was one before `until`.
    fn receive(&mut self, inbox: &Receiver<Message>, until: Instant) -> bool {
        match inbox.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(Message::Request(request)) => self.requests.push(request),
            Ok(Message::Report(report)) => {
                if self.slots.get(report.from.slot).is_some_and(|slot| slot.number == report.from.worker) {
                    self.note(report.from.slot, report.news);
                }
            }
            Ok(Message::Change(change, reply)) => self.wishes.push_back((*change, reply)),
            Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => self.stop = true,
            Err(RecvTimeoutError::Timeout) => return false,
        }
        true
    }

    fn note(&mut self, at: usize, news: News) {
        let Some(slot) = self.slots.get_mut(at) else { return };
        let (name, health, i) = (slot.name, &self.shared.health, &self.instruments);
        match news {
            News::Made { incarnation, kept, watches, reins, degraded, took } => {
                (slot.phase, slot.asked) = (Phase::Attached, None);
                if kept.as_ref().is_some_and(|kept| kept.adopted) {
                    // What it reads goes on from what the agent before has read.
                    slot.incarnation = incarnation;
                }
                slot.degraded = degraded;
                slot.take_reins(reins);
                health.set(name, slot.state(None));
                i.load_attempts.add(1, &[collector(name)]);
                i.load_status.record(1, &[collector(name)]);
                i.load_duration.record(took.as_secs_f64(), &[collector(name)]);
                self.set_watches(name, watches);
                self.keep(at, kept);
                if !self.slots.iter().any(|slot| slot.phase == Phase::New) {
                    self.starter.platform.forget_types();
                }
            }
            News::NotMade { state: state @ State::Idle(_), .. } => {
                slot.phase = Phase::Away;
                health.set(name, state);
            }
            News::NotMade { state, took } => {
                slot.phase = Phase::Away;
                i.load_attempts.add(1, &[collector(name)]);
                i.load_status.record(0, &[collector(name)]);
                i.load_duration.record(took.as_secs_f64(), &[collector(name)]);
                let kind = if matches!(state, State::Failed(_)) { "attach" } else { "unsupported" };
                i.bpf_errors.add(1, &[collector(name), KeyValue::new("error.type", kind)]);
                health.set(name, state);
            }
            News::Round { incarnation, attached, scrape, result, took } => {
                slot.asked = None;
                i.collection_duration.record(took.0.as_secs_f64(), &[collector(name)]);
                if result.is_err() {
                    i.collector_errors.add(1, &[collector(name), KeyValue::new("error.type", "collect")]);
                }
                self.rounds.push(Round { slot: at, incarnation, attached, scrape, result });
                self.add_cost(at, took.1);
            }
            News::Dropped { why, panicked } => {
                (slot.phase, slot.asked, slot.ended) = (Phase::Away, None, true);
                i.load_status.record(0, &[collector(name)]);
                if panicked {
                    i.collector_errors.add(1, &[collector(name), KeyValue::new("error.type", "panic")]);
                }
                health.set(name, State::Failed(why));
                self.set_watches(name, Vec::new());
                self.unkeep(at);
            }
            News::Stopped => slot.phase = Phase::Stopped,
        }
    }

    fn set_watches(&self, name: &'static str, watches: Vec<bpf::Watch>) {
        let mut all = self.shared.watches.write().unwrap_or_else(PoisonError::into_inner);
        all.retain(|(other, _)| *other != name);
        all.push((name, watches));
    }

    fn record(&mut self, readings: usize) {
        let i = &self.instruments;
        i.batch_size.record(readings as u64, &[]);
        for (metric, series, folded) in self.store.sizes() {
            let attributes = [KeyValue::new("metric", metric.to_owned())];
            i.series.record(series as u64, &attributes);
            i.series_folded.add(folded, &attributes);
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
