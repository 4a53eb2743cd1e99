//! What sinks of events have in common: the account of what became of each event.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use model::Metric;
use model::event::Feed;
use opentelemetry::KeyValue;
use opentelemetry::metrics::Meter;

/// What became of the events that a sink was handed.
pub static EVENTS: Metric = Metric::counter(
    "telesonde_export_events",
    "{event}",
    "Events by what became of them: delivered, queue_full, memory_limit (dropped while the agent's memory limit was close), refused by the receiver or failed to reach it in time.",
    &["exporter", "outcome"],
);

/// All of the above.
pub static METRICS: [&Metric; 1] = [&EVENTS];

/// How a sink takes its events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// The most events of one delivery.
    pub batch: usize,
    /// How long an event may wait for others to go with it.
    pub linger: Duration,
    /// How long the delivery of one batch may take, repeated attempts included.
    pub patience: Duration,
}

/// A sink's account. With what its queue dropped it adds up to what the bus emitted.
#[derive(Debug, Default)]
pub struct Account {
    delivered: AtomicU64,
    refused: AtomicU64,
    failed: AtomicU64,
}

impl Account {
    /// Counts events that the receiver took.
    pub fn delivered(&self, events: usize) {
        self.delivered.fetch_add(events as u64, Ordering::Relaxed);
    }

    /// Counts events that the receiver will never take.
    pub fn refused(&self, events: usize) {
        self.refused.fetch_add(events as u64, Ordering::Relaxed);
    }

    /// Counts events that could not be delivered in time.
    pub fn failed(&self, events: usize) {
        self.failed.fetch_add(events as u64, Ordering::Relaxed);
    }

    /// Gives all outcomes with their events.
    pub fn outcomes(&self) -> [(&'static str, u64); 3] {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        [("delivered", load(&self.delivered)), ("refused", load(&self.refused)), ("failed", load(&self.failed))]
    }
}

/// A sink as self-telemetry sees it.
#[derive(Clone, Debug)]
pub struct Sink {
    /// Its name: `stdout`, or that of the OTLP endpoint.
    pub name: String,
    /// Where its events come from, and came from before it was set up otherwise.
    pub feeds: Vec<Arc<dyn Feed>>,
    /// What became of them.
    pub account: Arc<Account>,
}

/// Exports the accounts of all sinks, those that have ended included.
pub fn observe(meter: &Meter, sinks: Arc<Mutex<Vec<Sink>>>) {
    meter
        .u64_observable_counter(&*EVENTS.name)
        .with_unit(&*EVENTS.unit)
        .with_description(&*EVENTS.help)
        .with_callback(move |observer| {
            for Sink { name, feeds, account } in sinks.lock().unwrap_or_else(PoisonError::into_inner).iter() {
                let observe = |outcome, events| {
                    let attributes = [KeyValue::new("exporter", name.clone()), KeyValue::new("outcome", outcome)];
                    observer.observe(events, &attributes);
                };
                let dropped = [
                    ("queue_full", feeds.iter().map(|feed| feed.overflowed()).sum()),
                    ("memory_limit", feeds.iter().map(|feed| feed.cut()).sum()),
                ];
                for (outcome, events) in account.outcomes().into_iter().chain(dropped) {
                    observe(outcome, events);
                }
            }
        })
        .build();
}
