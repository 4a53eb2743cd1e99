//! The sinks of events, as the configuration names them: they begin before the collectors and end after them.

use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};

use config::Config;
use export::events::{Account, Pace, Sink, observe};
use export::otlp;
use export::otlp::logs::{Identity, Logs};
use export::stdout;
use model::event::Feed;
use opentelemetry::metrics::Meter;
use runtime::{Bus, Options};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::exit::{Exit, Failure};
use crate::wiring;

/// The name of the sink that writes lines.
const STDOUT: &str = "stdout";

/// Gives how many sinks the configuration has.
pub fn count(config: &Config) -> usize {
    usize::from(wiring::logs(config).is_some()) + usize::from(config.exporters.events.stdout)
}

/// How one sink is set up.
#[derive(Clone, PartialEq)]
struct Form {
    /// The endpoint; nothing for standard output.
    endpoint: Option<otlp::Options>,
    queue: usize,
    pace: Pace,
}

impl Form {
    fn name(&self) -> String {
        self.endpoint.as_ref().map_or_else(|| STDOUT.to_owned(), |endpoint| format!("{}/events", endpoint.name))
    }
}

/// A sink that takes events.
struct Running {
    form: Form,
    feed: Arc<dyn Feed>,
}

/// The running sinks.
pub struct Sinks {
    bus: Arc<Bus>,
    identity: Identity,
    meter: Meter,
    stopping: watch::Receiver<bool>,
    running: Vec<Running>,
    /// All accounts since the start, by the name of the sink.
    accounts: Arc<Mutex<Vec<Sink>>>,
    tasks: JoinSet<()>,
}

impl Sinks {
    /// Starts all sinks on a bus that has none yet.
    ///
    /// # Errors
    /// Fails when the OTLP endpoint has a setting that cannot be used.
    pub fn start(
        config: &Config,
        options: &Options,
        bus: &Arc<Bus>,
        meter: &Meter,
        stopping: &watch::Receiver<bool>,
    ) -> Result<Self, Failure> {
        let (version, schema_url) = (options.version.clone(), options.schema_url.clone());
        let accounts = Arc::<Mutex<Vec<Sink>>>::default();
        let mut sinks = Self {
            bus: Arc::clone(bus),
            identity: Identity { resource: Arc::clone(&options.resource), version, schema_url },
            meter: meter.clone(),
            stopping: stopping.clone(),
            running: Vec::new(),
            accounts,
            tasks: JoinSet::new(),
        };
        sinks.apply(config)?;
        Ok(sinks)
    }

    /// Says where events go, a line for each sink.
    pub fn places(&self) -> Vec<String> {
        let endpoints = self.running.iter().filter_map(|running| running.form.endpoint.as_ref());
        endpoints.map(|endpoint| format!("send events to {} at {}", endpoint.name, endpoint.endpoint)).collect()
    }

    /// Starts what the configuration has and is not there, ends what is there and it has not.
    ///
    /// # Errors
    /// Fails when the OTLP endpoint has a setting that cannot be used; then nothing is changed.
    pub fn apply(&mut self, config: &Config) -> Result<(), Failure> {
        let section = &config.exporters.events;
        let pace = Pace { batch: section.batch, linger: section.schedule_delay, patience: section.export_timeout };
        let endpoint = wiring::logs(config).map(Some).into_iter();
        let wanted = endpoint.chain(section.stdout.then_some(None));
        let wanted: Vec<Form> = wanted.map(|endpoint| Form { endpoint, queue: section.queue, pace }).collect();
        let is_new = |form: &&Form| !self.running.iter().any(|running| running.form == **form);
        let mut fresh = Vec::new();
        for form in wanted.iter().filter(is_new) {
            let logs = form.endpoint.clone().map(|options| Logs::new(options, self.identity.clone(), &self.meter));
            let logs = logs.transpose().map_err(|error| Failure::new(Exit::Configuration, error.to_string()))?;
            fresh.push((form.clone(), logs));
        }
        let stay = |running: &mut Running| wanted.contains(&running.form);
        let mut leaving: Vec<Running> = self.running.extract_if(.., |running| !stay(running)).collect();
        for (form, logs) in fresh {
            let before = leaving.iter().position(|running| running.form.name() == form.name());
            let before = before.map(|at| leaving.swap_remove(at).feed);
            let feed = self.bus.open(form.queue, before.as_ref());
            self.begin(&form, logs, &feed)?;
            self.running.push(Running { form, feed });
        }
        for running in leaving {
            self.bus.retire(&running.feed);
        }
        Ok(())
    }

    fn begin(&mut self, form: &Form, logs: Option<Logs>, feed: &Arc<dyn Feed>) -> Result<(), Failure> {
        let account = self.account(form.name(), feed);
        let feed = Arc::clone(feed);
        if let Some(logs) = logs {
            self.tasks.spawn(logs.run(feed, account, form.pace, self.stopping.clone()));
            return Ok(());
        }
        let node = self.identity.resource.get("k8s.node.name").map(str::to_owned);
        // Without the standard library's buffer, which would keep what a full disk has refused, and write it later.
        let output = std::io::stdout().as_fd().try_clone_to_owned().map(std::fs::File::from);
        let started = output.and_then(|output| stdout::start(feed, account, form.pace, node, output));
        let end = started
            .map_err(|error| Failure::new(Exit::Failure, format!("cannot start the events' thread: {error}")))?;
        self.tasks.spawn(async {
            // An error means that the thread is gone, which is as good an end.
            let _ = end.await;
        });
        Ok(())
    }

    /// Gives the account of a sink's name, which is one however often the sink is set up otherwise.
    fn account(&self, name: String, feed: &Arc<dyn Feed>) -> Arc<Account> {
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = accounts.iter_mut().find(|sink| sink.name == name) {
            known.feeds.push(Arc::clone(feed));
            return Arc::clone(&known.account);
        }
        if accounts.is_empty() {
            observe(&self.meter, Arc::clone(&self.accounts));
        }
        let account = Arc::<Account>::default();
        accounts.push(Sink { name, feeds: vec![Arc::clone(feed)], account: Arc::clone(&account) });
        account
    }

    /// Lets the sinks deliver what they have, and waits for them.
    pub async fn finish(mut self, deadline: Instant) {
        self.bus.close();
        let finished = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout_at(deadline, finished).await.is_err() {
            tracing::warn!("not all events were delivered before the shutdown's deadline");
        }
    }
}
