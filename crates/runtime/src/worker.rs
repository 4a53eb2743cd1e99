//! One collector's thread: it makes the collector, asks it for readings, and keeps whatever happens to itself.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use crate::clock::Clock;
use crate::collector::{Collector, Descriptor, MakeError, Scrape};
use crate::descriptors::Room;
use crate::health::State;
use crate::setup::{Platform, Setup};

/// The pause before a failed collector is made again doubles from the first to the last of these.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_mins(1);
/// So many failed rounds in a row mean that the collector is made anew.
const ROUNDS: u32 = 3;

/// Which worker of which collector: `slot` is the collector's place in the manager.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Post {
    pub slot: usize,
    pub worker: u32,
}

/// What a worker tells the gather thread.
pub(crate) struct Report {
    pub from: Post,
    pub news: News,
}

pub(crate) enum News {
    /// Attached, in `took`; `kept` is what became of its pins.
    Made {
        incarnation: u32,
        kept: Option<bpf::Kept>,
        watches: Vec<bpf::Watch>,
        reins: Vec<bpf::Reins>,
        degraded: Option<String>,
        took: Duration,
    },
    /// Not attached; it stays so unless the state is Failed.
    NotMade { state: State, took: Duration },
    /// Answered. `incarnation` counts how often it was made, `attached` is when, in Unix nanoseconds; `took` is how
    /// long it was at it, and how long on a CPU.
    Round { incarnation: u32, attached: u64, scrape: Scrape, result: Result<(), String>, took: (Duration, Duration) },
    /// Detached after a panic or too many failed rounds.
    Dropped { why: String, panicked: bool },
    /// Ended because it was told to.
    Stopped,
}

enum Command {
    Collect(Scrape),
    Stop,
}

/// The gather thread's end of a worker.
pub(crate) struct Worker {
    commands: Sender<Command>,
}

impl Worker {
    /// Starts the thread of a collector; its reports go to `reports`.
    pub fn start<M: From<Report> + Send + 'static>(
        from: Post,
        descriptor: &'static Descriptor,
        section: serde_json::Value,
        platform: Arc<Platform>,
        (runtime, clock): (Handle, Clock),
        reports: Sender<M>,
    ) -> std::io::Result<Self> {
        let (commands, inbox) = channel();
        let report = move |news| reports.send(Report { from, news }.into()).is_ok();
        // Linux shows 15 bytes of a thread's name.
        let thread = std::thread::Builder::new().name(format!("c/{}", descriptor.name));
        thread.spawn(move || {
            let (tried, room) = (std::cell::Cell::new(false), Room::new(platform.facts.open_files));
            let make = || {
                let mut setup = Setup::new(descriptor.name, section.clone(), Arc::clone(&platform), runtime.clone());
                if let Some(why) = platform.sealed.get().filter(|_| !descriptor.needs.is_empty()) {
                    return (Err(MakeError::Unsupported((*why).to_owned())), setup);
                }
                let made = room.make(|| {
                    let made = catch_unwind(AssertUnwindSafe(|| (descriptor.make)(&mut setup)));
                    // The first time the manager does it, when all collectors have been made.
                    if tried.replace(true) {
                        platform.forget_types();
                    }
                    made.unwrap_or_else(|panic| Err(MakeError::Failed(panic_message(&*panic))))
                });
                (made, setup)
            };
            Life { inbox, runtime: &runtime, clock: &clock, report: &report, incarnation: 0 }.live(make);
            report(News::Stopped);
        })?;
        Ok(Self { commands })
    }

    /// Asks for a round, to be recorded into `scrape`.
    pub fn collect(&self, scrape: Scrape) -> bool {
        self.commands.send(Command::Collect(scrape)).is_ok()
    }

    /// Tells the collector to detach and the thread to end.
    pub fn stop(&self) {
        drop(self.commands.send(Command::Stop));
    }
}

struct Life<'a, R> {
    inbox: Receiver<Command>,
    runtime: &'a Handle,
    clock: &'a Clock,
    report: &'a R,
    incarnation: u32,
}

/// Whether a life goes on.
#[derive(PartialEq)]
enum Next {
    Again,
    Stop,
}

impl<R: Fn(News) -> bool> Life<'_, R> {
    fn live(mut self, make: impl Fn() -> (Result<Box<dyn Collector>, MakeError>, Setup)) {
        let mut pause = FIRST_PAUSE;
        loop {
            let begun = Instant::now();
            let (result, setup) = make();
            let took = begun.elapsed();
            let next = match result {
                Ok(collector) => {
                    self.incarnation += 1;
                    let kept = setup.kept();
                    let since = kept.as_ref().filter(|kept| kept.adopted).map(|kept| kept.since);
                    let attached = since.unwrap_or_else(|| self.clock.read().unix);
                    let incarnation = self.incarnation;
                    let Setup { watches, reins, degraded, .. } = setup;
                    (self.report)(News::Made { incarnation, kept, watches, reins, degraded, took });
                    let next = self.serve(collector, attached);
                    if begun.elapsed() > LAST_PAUSE {
                        pause = FIRST_PAUSE;
                    }
                    next
                }
                Err(error) => {
                    let state = match error {
                        MakeError::Failed(why) => State::Failed(why),
                        MakeError::Unsupported(why) => State::Unsupported(why),
                        MakeError::Idle(why) => State::Idle(why),
                    };
                    let retry = matches!(state, State::Failed(_));
                    (self.report)(News::NotMade { state, took });
                    if !retry {
                        self.wait(None);
                        return;
                    }
                    Next::Again
                }
            };
            if next == Next::Stop || self.wait(Some(pause)) == Next::Stop {
                return;
            }
            pause = (pause * 2).min(LAST_PAUSE);
        }
    }

    /// Answers until the collector fails or is told to stop; the collector is dropped here.
    fn serve(&self, mut collector: Box<dyn Collector>, attached: u64) -> Next {
        let mut failed = 0;
        loop {
            let Ok(Command::Collect(mut scrape)) = self.inbox.recv() else {
                let end = AssertUnwindSafe(|| self.runtime.block_on(collector.shutdown()));
                if let Err(panic) = catch_unwind(end) {
                    tracing::warn!("a collector's shutdown: {}", panic_message(&*panic));
                }
                return Next::Stop;
            };
            scrape.clear();
            let (begun, before) = (Instant::now(), bpf::clock::of_thread());
            let round = AssertUnwindSafe(|| self.runtime.block_on(collector.collect(&mut scrape)));
            let (result, panicked) = match catch_unwind(round) {
                Ok(Ok(())) => (scrape.fault.take().map_or(Ok(()), Err), false),
                Ok(Err(error)) => (Err(error.to_string()), false),
                Err(panic) => (Err(panic_message(&*panic)), true),
            };
            failed = if result.is_ok() { 0 } else { failed + 1 };
            let why = result.as_ref().err().cloned();
            // What a panic left behind may be half of a reading.
            if !panicked {
                let took = (begun.elapsed(), bpf::clock::of_thread().saturating_sub(before));
                let incarnation = self.incarnation;
                (self.report)(News::Round { incarnation, attached, scrape, result, took });
            }
            if let Some(why) = why.filter(|_| panicked || failed >= ROUNDS) {
                drop(catch_unwind(AssertUnwindSafe(|| drop(collector))));
                (self.report)(News::Dropped { why, panicked });
                return Next::Again;
            }
        }
    }

    /// Waits until told to stop, or for a pause.
    fn wait(&self, pause: Option<Duration>) -> Next {
        let until = pause.map(|pause| Instant::now() + pause);
        loop {
            let command = match until {
                Some(until) => self.inbox.recv_timeout(until.saturating_duration_since(Instant::now())),
                None => self.inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match command {
                Ok(Command::Collect(_)) => {}
                Ok(Command::Stop) | Err(RecvTimeoutError::Disconnected) => return Next::Stop,
                Err(RecvTimeoutError::Timeout) => return Next::Again,
            }
        }
    }
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("panicked: {}", text.unwrap_or("without a message"))
}
