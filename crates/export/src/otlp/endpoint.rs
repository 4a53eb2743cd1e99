//! One endpoint at work: a snapshot each interval, delivered part by part, until shutdown.
//!
//! Cumulative values need no queue: when a delivery has not succeeded by the time of the next export, that export's
//! newer values take its place. Differences need none either: they reach back to what was acknowledged.

use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};
use std::{io, mem};

use bytes::Bytes;
use model::{Snapshot, Source};
use opentelemetry::metrics::Meter;
use tokio::sync::watch;
use tokio::time::Instant;

use super::delta::Baselines;
use super::encode::{Cursor, Encoder, Layout, Part};
use super::error::{Failure, Remedy};
use super::phase::{self, phase};
use super::request::{self, Courier};
use super::retry::Backoff;
use super::telemetry::Instruments;
use super::{Error, Options, Temporality};

/// The oldest snapshot that an export takes instead of a new gather.
const MAX_AGE: Duration = Duration::from_millis(500);

/// The longest duration that a setting may have.
const LONGEST: Duration = Duration::from_hours(365 * 24);

/// How an endpoint fares.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// The endpoint's name.
    pub name: String,
    /// The endpoint's URL, without its query.
    pub url: String,
    /// Whether there is a connection.
    pub connected: bool,
    /// When a whole snapshot was last acknowledged.
    pub last_success: Option<SystemTime>,
    /// When an attempt last failed.
    pub last_failure: Option<SystemTime>,
    /// Why, and what to do about it.
    pub last_error: Option<String>,
    /// Failed attempts since the last success.
    pub consecutive_failures: u64,
}

/// What is worked with off the event loop.
struct Press {
    encoder: Encoder,
    baselines: Option<Baselines>,
}

/// A part that is ready to go; one without points needs no request.
struct Sheet {
    part: Part,
    body: Option<Bytes>,
}

/// What an endpoint that has ended leaves to the one that takes its place: what the receiver has acknowledged.
#[derive(Default)]
pub struct Remains(Option<Baselines>);

/// An OTLP reader: one receiver and how to deliver to it.
pub struct Endpoint {
    options: Options,
    source: Arc<dyn Source>,
    courier: Courier,
    press: Arc<Mutex<Press>>,
    instruments: Instruments,
    status: watch::Sender<Status>,
    backoff: Backoff,
    not_before: Instant,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Delivery {
    Acknowledged,
    Refused,
    Late,
}

impl Endpoint {
    /// Checks the settings and reads the certificates; nothing is sent before [`Endpoint::run`].
    ///
    /// # Errors
    /// When a setting is unusable; the error names it and what to change.
    pub fn new(options: Options, source: Arc<dyn Source>, meter: &Meter) -> Result<Self, Error> {
        let wrong = |key, reason| Error::Range { name: options.name.clone(), key, reason };
        let durations = [
            ("interval", options.interval),
            ("timeout", options.timeout),
            ("max_connection_age", options.max_connection_age),
            ("retry.initial", options.retry.initial),
        ];
        for (key, value) in durations {
            if value.is_zero() || value > LONGEST {
                return Err(wrong(key, "must be longer than 0s and not longer than 365 days"));
            }
        }
        if options.request_limit == 0 || options.request_limit > 1 << 26 {
            return Err(wrong("request_limit", "must be between 1 B and 64 MiB"));
        }
        let courier = Courier::new(&options)?;
        let layout = Layout { histogram: options.histogram, workload: options.workload, limit: options.request_limit };
        let baselines = (options.temporality == Temporality::Delta).then(Baselines::default);
        let press = Press { encoder: Encoder::new(layout), baselines };
        let status = Status { name: options.name.clone(), url: courier.url().to_owned(), ..Status::default() };
        Ok(Self {
            instruments: Instruments::new(meter, &options.name),
            backoff: Backoff::new(options.retry),
            press: Arc::new(Mutex::new(press)),
            status: watch::Sender::new(status),
            not_before: Instant::now(),
            options,
            source,
            courier,
        })
    }

    /// Gives a view of how the endpoint fares; it stays valid while the endpoint runs.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    /// Goes on where another endpoint has ended: differences reach back to what that one's receiver acknowledged.
    pub fn inherit(&self, remains: Remains) {
        if let (Some(baselines), Some(known)) = (&mut self.lock().baselines, remains.0) {
            *baselines = known;
        }
    }

    /// Exports at the interval until `shutdown` is done, then once more, all within `flush_deadline` from then.
    ///
    /// A request that is under way at shutdown gets half of that time, so that a receiver that is merely slow is not
    /// sent the same differences twice. A receiver that was failing before gets a single attempt.
    pub async fn run(mut self, shutdown: impl Future<Output = ()> + Send, flush_deadline: Duration) -> Remains {
        let reader = self.source.register();
        let stop = watch::Sender::new(false);
        let deadline = {
            let stopped = stop.subscribe();
            let mut work = pin!(self.work(reader, stopped));
            let mut shutdown = pin!(shutdown);
            tokio::select! {
                () = &mut shutdown => {
                    let now = Instant::now();
                    stop.send_replace(true);
                    let _ = tokio::time::timeout_at(now + flush_deadline / 2, work).await;
                    now + flush_deadline
                }
                // It ends when told to, not before.
                () = &mut work => Instant::now() + flush_deadline,
            }
        };
        let failing = self.status.borrow().consecutive_failures > 0;
        let patience = if failing { Instant::now() } else { deadline };
        let running = watch::Sender::new(false);
        let last = self.export(reader, Duration::ZERO, patience, running.subscribe());
        if tokio::time::timeout_at(deadline, last).await.is_err() {
            tracing::warn!(endpoint = self.options.name, "the last export did not end before the shutdown's deadline");
        }
        // Nobody waits any longer for what this receiver has not confirmed.
        self.source.acknowledge(reader, u64::MAX);
        Remains(self.lock().baselines.take())
    }

    async fn work(&mut self, reader: usize, mut stopped: watch::Receiver<bool>) {
        let interval = self.options.interval;
        let phase = phase(&self.options.phase_seed, interval);
        let mut next = Instant::now() + phase::until(phase, interval, SystemTime::now());
        loop {
            if sleep(next.max(self.not_before), &mut stopped).await.is_err() {
                return;
            }
            let late = Instant::now().saturating_duration_since(next).as_nanos() / interval.as_nanos();
            next += interval.saturating_mul(u32::try_from(late + 1).unwrap_or(u32::MAX));
            self.export(reader, MAX_AGE.min(interval / 2), next, stopped.clone()).await;
            if *stopped.borrow() {
                return;
            }
        }
    }

    /// Delivers one snapshot. What has not succeeded by `patience` is left to the next one.
    async fn export(&mut self, reader: usize, max_age: Duration, patience: Instant, stopped: watch::Receiver<bool>) {
        let snapshot = self.source.snapshot(max_age).await;
        if let Err(error) = self.courier.renew_certificates().await {
            tracing::warn!(endpoint = self.options.name, %error, "keeping the certificates that were read before");
        }
        let mut cursor = self.lock().encoder.begin(&snapshot);
        let mut complete = true;
        loop {
            let (sheet, rest) = match self.next(&snapshot, cursor).await {
                Ok(Some(next)) => next,
                Ok(None) => break,
                Err(error) => {
                    tracing::error!(endpoint = self.options.name, %error, "cannot encode a snapshot");
                    return;
                }
            };
            cursor = rest;
            let delivery = match &sheet.body {
                Some(body) => self.deliver(sheet.part.points, body, patience, stopped.clone()).await,
                None => Delivery::Acknowledged,
            };
            match delivery {
                Delivery::Acknowledged => {
                    if let Some(baselines) = &mut self.lock().baselines {
                        baselines.acknowledge(&snapshot, &sheet.part.covered);
                    }
                }
                Delivery::Refused => complete = false,
                Delivery::Late => return,
            }
        }
        if complete {
            if let Some(baselines) = &mut self.lock().baselines {
                baselines.sweep(&snapshot);
            }
            self.source.acknowledge(reader, snapshot.number);
            let connected = self.courier.is_connected();
            self.status.send_modify(|status| {
                status.connected = connected;
                status.last_success = Some(SystemTime::now());
            });
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Press> {
        self.press.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Encodes and compresses the next part off the event loop; nothing when the snapshot is done.
    async fn next(&self, snapshot: &Arc<Snapshot>, mut cursor: Cursor) -> io::Result<Option<(Sheet, Cursor)>> {
        let (press, snapshot) = (Arc::clone(&self.press), Arc::clone(snapshot));
        let (protocol, compression) = (self.options.protocol, self.options.compression);
        let work = tokio::task::spawn_blocking(move || {
            let mut press = press.lock().unwrap_or_else(PoisonError::into_inner);
            let Press { encoder, baselines } = &mut *press;
            let Some(mut part) = encoder.part(&snapshot, &mut cursor, baselines.as_ref()) else { return Ok(None) };
            let body = mem::take(&mut part.body);
            let body = (part.points > 0).then(|| request::pack(&body, protocol, compression)).transpose()?;
            Ok(Some((Sheet { part, body }, cursor)))
        });
        work.await.map_err(io::Error::other)?
    }

    async fn deliver(
        &mut self,
        points: u64,
        body: &Bytes,
        patience: Instant,
        mut stopped: watch::Receiver<bool>,
    ) -> Delivery {
        loop {
            let began = Instant::now();
            let result = self.courier.attempt(body).await;
            let outcome = match &result {
                Ok(accepted) if accepted.rejected > 0 => "partial_success",
                Ok(_) => "success",
                Err(Failure { remedy: Remedy::Retry(_), .. }) => "retryable_error",
                Err(Failure { remedy: Remedy::Drop, .. }) => "permanent_error",
            };
            self.instruments.request(outcome, body.len(), began.elapsed());
            let failure = match result {
                Ok(accepted) => {
                    let rejected = accepted.rejected.min(points);
                    self.instruments.points(points - rejected, rejected);
                    self.accepted(rejected, &accepted.message);
                    return Delivery::Acknowledged;
                }
                Err(failure) => failure,
            };
            self.failed(&failure.cause);
            let Remedy::Retry(asked) = failure.remedy else {
                self.instruments.points(0, points);
                return Delivery::Refused;
            };
            self.not_before = Instant::now() + self.backoff.failed(asked);
            if self.not_before >= patience || sleep(self.not_before, &mut stopped).await.is_err() {
                return Delivery::Late;
            }
        }
    }

    fn accepted(&mut self, rejected: u64, message: &str) {
        self.backoff.succeeded();
        let endpoint = &self.options.name;
        if rejected > 0 {
            tracing::warn!(endpoint, rejected, message, "the receiver refused some points");
        } else if !message.is_empty() {
            tracing::warn!(endpoint, message, "the receiver sent a warning");
        }
        let mut failures = 0;
        self.status.send_modify(|status| {
            status.connected = true;
            failures = mem::take(&mut status.consecutive_failures);
        });
        if failures > 0 {
            tracing::info!(endpoint, failures, "exports succeed again");
        }
    }

    fn failed(&mut self, cause: &str) {
        let error = format!("otlp endpoint {} ({}): {cause}", self.options.name, self.courier.url());
        let connected = self.courier.is_connected();
        let mut news = false;
        self.status.send_modify(|status| {
            status.connected = connected;
            status.last_failure = Some(SystemTime::now());
            status.consecutive_failures += 1;
            // One line when it begins, one when the cause changes.
            news = status.consecutive_failures == 1 || status.last_error.as_ref() != Some(&error);
            if news {
                status.last_error = Some(error.clone());
            }
        });
        if news {
            tracing::warn!("{error}");
        }
    }
}

/// Waits until `deadline`, or gives an error as soon as the endpoint is to stop.
async fn sleep(deadline: Instant, stopped: &mut watch::Receiver<bool>) -> Result<(), ()> {
    tokio::select! {
        biased;
        _ = stopped.wait_for(|stopped| *stopped) => Err(()),
        () = tokio::time::sleep_until(deadline) => Ok(()),
    }
}
