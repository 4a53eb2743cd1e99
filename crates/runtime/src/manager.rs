//! The integration manager: makes every selected collector, contains its failures, and gives snapshots.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use model::source::Pending;
use model::{Attributes, Resolver, Scope, Snapshot, Source};
use thiserror::Error;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::clock::Clock;
use crate::collector::Descriptor;
pub use crate::gather::{Change, concerned};
use crate::gather::{Engine, Keeper, Message, Request, Slot, Starter};
use crate::health::{Health, State, Status};
use crate::own::{Own, SCOPE, SHARED};
use crate::series::{Limits, Store};
use crate::setup::Platform;

/// How the manager works.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long a gather waits for a collector before it goes on without it.
    pub collect_timeout: Duration,
    /// A gather takes place at least this often, whether a reader asks or not.
    pub housekeeping: Duration,
    /// How many series there may be and how long they live.
    pub limits: Limits,
    /// The agent's version, as the scopes show it.
    pub version: String,
    /// The schema URL of the scopes.
    pub schema_url: String,
    /// The identity of the agent and its node.
    pub resource: Arc<Attributes>,
    /// Where the time comes from.
    pub clock: Clock,
    /// Collectors that share programs: whenever one is made anew, so are the others.
    pub together: &'static [&'static [&'static str]],
}

/// A collector of the registry and what the configuration says of it.
#[derive(Clone, Debug)]
pub struct Selection {
    /// The collector.
    pub descriptor: &'static Descriptor,
    /// The key of its section.
    pub key: String,
    /// Whether it is to run.
    pub enabled: bool,
    /// Whether the agent may run without it.
    pub required: bool,
    /// Its configuration section.
    pub section: serde_json::Value,
}

/// Why the manager could not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// A collector that the configuration calls indispensable does not run.
    #[error("{key}.enabled is `require`, but the collector is {state}")]
    Required {
        /// The key of its section.
        key: String,
        /// The state it came into instead.
        state: State,
    },
    /// The system gave no thread.
    #[error("cannot start the thread of {name}: {source}")]
    Thread {
        /// Whose thread.
        name: &'static str,
        /// Why.
        source: std::io::Error,
    },
}

/// The collectors' maps and programs, by collector, for self-telemetry and the status page.
pub type Watches = Arc<RwLock<Vec<(&'static str, Vec<bpf::Watch>)>>>;

/// What readers and the gather thread share.
#[derive(Default)]
pub(crate) struct Shared {
    pub health: Arc<Health>,
    pub latest: RwLock<Option<(Instant, Arc<Snapshot>)>>,
    /// The last snapshot that each confirming reader has.
    pub acknowledged: Mutex<Vec<u64>>,
    pub watches: Watches,
}

impl Shared {
    /// Gives the last snapshot that every confirming reader has; `u64::MAX` where there is none.
    pub fn acknowledged(&self) -> u64 {
        let all = self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().copied().min().unwrap_or(u64::MAX)
    }
}

/// A running manager.
pub struct Manager {
    shared: Arc<Shared>,
    messages: Sender<Message>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Manager {
    /// Makes the selected collectors, waits until each has been tried once, and takes the first gather.
    ///
    /// # Errors
    /// Fails when an indispensable collector does not run; all others are detached again.
    pub fn start(
        options: Options,
        selections: Vec<Selection>,
        platform: &Arc<Platform>,
        resolver: Arc<dyn Resolver>,
        own: Own,
        runtime: &Handle,
    ) -> Result<Self, StartError> {
        let (messages, inbox) = channel();
        let shared = Arc::new(Shared::default());
        let mut store = Store::new(options.limits);
        let scope = |name: String| {
            let (version, schema_url) = (options.version.clone(), options.schema_url.clone());
            Arc::new(Scope { name, version, schema_url })
        };
        let (platform_of, clock) = (Arc::clone(platform), options.clock.clone());
        let starter = Starter { platform: platform_of, runtime: runtime.clone(), clock, reports: messages.clone() };
        // Read before collectors are made, which take their parts of it.
        let keeper = platform.pins.clone().map(Keeper::new);
        let mut slots = Vec::new();
        let mut indispensable = Vec::new();
        for selection in selections {
            let Selection { descriptor, enabled, required, .. } = selection;
            if required {
                indispensable.push((descriptor.name, selection.key.clone()));
            }
            let state = if enabled { State::Failed("not attached yet".to_owned()) } else { State::Disabled };
            shared.health.add(descriptor.name, required, state);
            store.declare(descriptor.metrics, &scope(format!("{SCOPE}.{}", descriptor.name)));
            let mut slot = Slot::new(selection);
            if enabled {
                let begun = slot.start(slots.len(), &starter);
                begun.map_err(|source| StartError::Thread { name: descriptor.name, source })?;
            }
            slots.push(slot);
        }
        store.declare(SHARED, &scope(SCOPE.to_owned()));
        let engine = Engine::new(options, store, (slots, starter, keeper), resolver, own, Arc::clone(&shared));
        let manager = Self { shared, messages, thread: Mutex::new(None) };
        let (ready, made) = std::sync::mpsc::sync_channel(1);
        let thread = std::thread::Builder::new()
            .name("gather".to_owned())
            .spawn(move || run(engine, &inbox, &ready))
            .map_err(|source| StartError::Thread { name: "gather", source })?;
        *manager.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
        // Without an answer the gather thread is gone, and the states below say that nothing is attached.
        let _ = made.recv();
        platform.forget_types();
        let lacking = manager.status().into_iter().find(|status| status.required && !status.state.is_attached());
        if let Some(Status { name, state, .. }) = lacking {
            manager.stop();
            let key = indispensable.into_iter().find(|(known, _)| *known == name).map(|(_, key)| key);
            return Err(StartError::Required { key: key.unwrap_or_default(), state });
        }
        Ok(manager)
    }

    /// Applies another configuration to the running collectors; gives those that it concerned, each tried once.
    pub async fn change(&self, change: Change) -> Vec<&'static str> {
        let (reply, answer) = oneshot::channel();
        let sent = self.messages.send(Message::Change(Box::new(change), reply));
        // Without an answer the manager is stopping.
        if sent.is_ok() { answer.await.unwrap_or_default() } else { Vec::new() }
    }

    /// Gives the states of all collectors.
    pub fn status(&self) -> Vec<Status> {
        self.shared.health.all()
    }

    /// Gives the latest snapshot and when it was taken.
    pub fn latest(&self) -> Option<(Instant, Arc<Snapshot>)> {
        self.shared.latest.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Gives the maps and programs of the collectors that are attached.
    pub fn watches(&self) -> Watches {
        Arc::clone(&self.shared.watches)
    }

    /// Detaches all collectors and ends their threads. A collector that hangs is left behind after a second.
    pub fn stop(&self) {
        drop(self.messages.send(Message::Stop));
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the gather thread panicked");
        }
    }
}

fn run(mut engine: Engine, inbox: &Receiver<Message>, ready: &std::sync::mpsc::SyncSender<()>) {
    engine.wait_until_made(inbox);
    engine.gather(inbox);
    let _ = ready.send(());
    engine.serve(inbox);
    engine.stop(inbox);
}

impl Drop for Manager {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Source for Manager {
    fn snapshot(&self, max_age: Duration) -> Pending<'_> {
        Box::pin(async move {
            if let Some((taken, snapshot)) = self.latest()
                && taken.elapsed() <= max_age
            {
                return snapshot;
            }
            let (reply, answer) = oneshot::channel();
            let asked = Instant::now();
            let sent = self.messages.send(Message::Request(Request { asked, max_age, reply }));
            if sent.is_ok()
                && let Ok(snapshot) = answer.await
            {
                return snapshot;
            }
            // The manager has stopped: its last gather is what there is.
            self.latest().map_or_else(empty, |(_, snapshot)| snapshot)
        })
    }

    fn register(&self) -> usize {
        let mut acknowledged = self.shared.acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
        acknowledged.push(0);
        acknowledged.len() - 1
    }

    fn acknowledge(&self, reader: usize, number: u64) {
        let mut acknowledged = self.shared.acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = acknowledged.get_mut(reader) {
            *known = number.max(*known);
        }
    }
}

fn empty() -> Arc<Snapshot> {
    Arc::new(Snapshot { number: 0, time: 0, resource: Arc::default(), families: Vec::new() })
}
