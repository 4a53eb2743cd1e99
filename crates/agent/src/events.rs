//! The sinks of events, as the configuration names them: they begin before the collectors and end after them.

use std::sync::Arc;

use config::Config;
use export::events::{Account, Pace, Sink, observe};
use export::otlp::logs::{Identity, Logs};
use export::stdout;
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

/// The running sinks.
pub struct Sinks {
    bus: Arc<Bus>,
    tasks: JoinSet<()>,
    /// Where events go, a line for each sink.
    pub places: Vec<String>,
}

impl Sinks {
    /// Starts all sinks on a bus that was made for [`count`] of them.
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
        let section = &config.exporters.events;
        let pace = Pace { batch: section.batch, linger: section.schedule_delay, patience: section.export_timeout };
        let mut tasks = JoinSet::new();
        let mut feeds = bus.feeds().into_iter();
        let mut sinks = Vec::new();
        let mut places = Vec::new();
        if let Some(endpoint) = wiring::logs(config)
            && let Some(feed) = feeds.next()
        {
            let name = format!("{}/events", endpoint.name);
            places.push(format!("send events to {} at {}", endpoint.name, endpoint.endpoint));
            let identity = Identity {
                resource: Arc::clone(&options.resource),
                version: options.version.clone(),
                schema_url: options.schema_url.clone(),
            };
            let logs = Logs::new(endpoint, identity, meter)
                .map_err(|error| Failure::new(Exit::Configuration, error.to_string()))?;
            let account = Arc::<Account>::default();
            tasks.spawn(logs.run(Arc::clone(&feed), Arc::clone(&account), pace, stopping.clone()));
            sinks.push(Sink { name, feed, account });
        }
        if section.stdout
            && let Some(feed) = feeds.next()
        {
            let account = Arc::<Account>::default();
            let node = options.resource.get("k8s.node.name").map(str::to_owned);
            let end = stdout::start(Arc::clone(&feed), Arc::clone(&account), pace, node, std::io::stdout())
                .map_err(|error| Failure::new(Exit::Failure, format!("cannot start the events' thread: {error}")))?;
            tasks.spawn(async {
                // An error means that the thread is gone, which is as good an end.
                let _ = end.await;
            });
            sinks.push(Sink { name: STDOUT.to_owned(), feed, account });
        }
        if !sinks.is_empty() {
            observe(meter, sinks);
        }
        Ok(Self { bus: Arc::clone(bus), tasks, places })
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
