//! The configuration is read again: on SIGHUP, when one of its files has changed, and when the admin socket is asked to.
//! What differs is applied to what runs; an invalid configuration changes nothing.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use config::{Loaded, Sources};
use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Meter};
use runtime::own::metrics::CONFIG_RELOADS;
use runtime::{Change, Descriptor, Manager, Platform, Selection, concerned};
use serde_json::{Value, json};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

use crate::admin::Admin;
use crate::events::Sinks;
use crate::exit::{Exit, Failure};
use crate::files::Files;
use crate::outlets::Outlets;
use crate::{events, logging, wiring};

/// Keys that only a restart changes, each with all that is below it.
pub const RESTART: &[&str] = &[
    "admin.socket",
    "agent",
    "enrich",
    "host",
    "integrations.ebpf.container_filter",
    "integrations.ebpf.granularity",
    "integrations.ebpf.namespace_filter",
    "integrations.ebpf.pin_path",
    "integrations.ebpf.pod_selector",
    "integrations.ebpf.programs_path",
    "log.format",
];

/// What became of a configuration that was read again.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// `success`, `invalid` or `failed`.
    pub name: &'static str,
    /// The keys whose values are others now.
    changed: Vec<String>,
    /// The keys whose values wait for a restart.
    restart: Vec<String>,
    /// The collectors that were made anew or ended, with their states.
    collectors: Vec<(&'static str, String)>,
    /// What is wrong, a line each.
    errors: Vec<String>,
    /// What was found wrong is a failure of this kind.
    exit: Option<Exit>,
    when: Option<SystemTime>,
}

impl Outcome {
    /// Gives it as JSON.
    pub fn json(&self) -> Value {
        let collectors: serde_json::Map<_, _> =
            self.collectors.iter().map(|(name, state)| ((*name).to_owned(), json!(state))).collect();
        json!({
            "outcome": self.name,
            "time": self.when.map(crate::admin::seconds),
            "changed": self.changed,
            "needs_restart": self.restart,
            "collectors": collectors,
            "errors": self.errors,
            "exit_code": self.exit.unwrap_or(Exit::Success) as u8,
        })
    }

    /// Gives what is to be said of a configuration that is not the one that runs.
    pub fn remarks(&self) -> impl Iterator<Item = String> {
        let wrong = self.errors.iter().map(|error| format!("the configuration was not taken over: {error}"));
        let waiting = self.restart.iter().map(|key| format!("{key} waits for a restart"));
        wrong.chain(waiting)
    }
}

/// Whoever asks for a reload, and where the answer goes.
pub type Wish = oneshot::Sender<Outcome>;

/// Why the configuration is read again.
enum Cause {
    Signal,
    Files,
    Request(Wish),
}

/// What a configuration is applied to.
pub struct Parts {
    pub sources: Sources,
    pub registry: Vec<&'static Descriptor>,
    pub loaded: Loaded,
    pub manager: Arc<Manager>,
    pub platform: Arc<Platform>,
    pub admin: Arc<Admin>,
    pub outlets: Outlets,
    pub sinks: Sinks,
}

/// Reads the configuration again and applies it.
pub struct Reloader {
    parts: Parts,
    /// The configuration with which the agent was started.
    started: Loaded,
    /// To what share of their sizes the maps of collectors were cut.
    scales: HashMap<&'static str, f64>,
    reloads: Counter<u64>,
    hangups: Signal,
    files: Files,
    wishes: mpsc::Receiver<Wish>,
    last: Outcome,
}

impl Reloader {
    /// Takes over SIGHUP and watches the configuration's files.
    ///
    /// # Errors
    /// Fails when the system refuses a handler.
    pub fn new(parts: Parts, meter: &Meter, wishes: mpsc::Receiver<Wish>) -> std::io::Result<Self> {
        let reloads = meter
            .u64_counter(&*CONFIG_RELOADS.name)
            .with_unit(&*CONFIG_RELOADS.unit)
            .with_description(&*CONFIG_RELOADS.help)
            .build();
        for outcome in ["success", "invalid", "failed"] {
            reloads.add(0, &[KeyValue::new("outcome", outcome)]);
        }
        let scale = parts.platform.map_scale;
        Ok(Self {
            started: parts.loaded.clone(),
            scales: parts.registry.iter().map(|descriptor| (descriptor.name, scale)).collect(),
            reloads,
            hangups: signal(SignalKind::hangup())?,
            files: Files::watch(parts.sources.places()),
            wishes,
            last: Outcome::default(),
            parts,
        })
    }

    /// Reloads whenever there is cause to; it never ends.
    pub async fn run(&mut self) {
        loop {
            let cause = tokio::select! {
                Some(()) = self.hangups.recv() => Cause::Signal,
                Some(wish) = self.wishes.recv() => Cause::Request(wish),
                () = self.files.changed() => Cause::Files,
            };
            self.reload(cause).await;
        }
    }

    /// Gives what has to be ended, and what the configuration says now.
    pub fn into_parts(self) -> Parts {
        self.parts
    }

    async fn reload(&mut self, cause: Cause) {
        let asked = !matches!(cause, Cause::Files);
        let loaded = tokio::task::block_in_place(|| wiring::load(&self.parts.sources, &self.parts.registry));
        let mut outcome = match loaded {
            Ok(loaded) => self.apply(loaded).await,
            Err(failure) => refused("invalid", &failure),
        };
        outcome.when = Some(SystemTime::now());
        // A file that was touched is nothing to speak of.
        let news = outcome.errors != self.last.errors || outcome.restart != self.last.restart;
        if asked || news || !outcome.changed.is_empty() {
            self.tell(&outcome);
            self.parts.admin.shown().reload = Some(outcome.clone());
            self.last = outcome.clone();
        }
        if let Cause::Request(wish) = cause {
            // Who asked may be gone.
            drop(wish.send(outcome));
        }
    }

    fn tell(&self, outcome: &Outcome) {
        self.reloads.add(1, &[KeyValue::new("outcome", outcome.name)]);
        for error in &outcome.errors {
            tracing::error!("the configuration was read again and nothing was changed: {error}");
        }
        for key in &outcome.restart {
            tracing::warn!("the configuration was read again: {key} waits for a restart");
        }
        if outcome.errors.is_empty() {
            let collectors: Vec<&str> = outcome.collectors.iter().map(|(name, _)| *name).collect();
            let (changed, collectors) = (outcome.changed.join(", "), collectors.join(", "));
            tracing::info!(changed, collectors, "the configuration was read again and taken over");
        }
    }

    async fn apply(&mut self, loaded: Loaded) -> Outcome {
        let restart = loaded.differences(&self.started).into_iter().filter(|key| waits(key)).collect();
        let warnings: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
        let loaded = match loaded.keeping(&self.started, RESTART) {
            Ok(loaded) => loaded,
            Err(errors) => return refused("invalid", &Failure::new(Exit::Configuration, errors.to_string())),
        };
        let changed = loaded.differences(&self.parts.loaded);
        let config = &loaded.config;
        let change = self.plan(&loaded);
        if let Some(failure) = self.refusal(&change) {
            return refused("failed", &failure);
        }
        let applied = self.parts.outlets.apply(config).and_then(|()| self.parts.sinks.apply(config));
        if let Err(failure) = applied {
            // What was taken over before the failure goes back to what it was: that could be had a moment ago.
            let back = &self.parts.loaded.config;
            if let Err(lost) = self.parts.outlets.apply(back).and_then(|()| self.parts.sinks.apply(back)) {
                tracing::error!("{lost}");
            }
            return refused(if failure.exit == Exit::Configuration { "invalid" } else { "failed" }, &failure);
        }
        logging::set_level(wiring::log(config).0);
        for warning in warnings.iter().filter(|warning| !self.parts.admin.shown().warnings.contains(warning)) {
            tracing::warn!("{warning}");
        }
        self.parts.admin.shown().warnings = warnings;
        let collectors = self.change(change).await;
        self.parts.loaded = loaded;
        Outcome { name: "success", changed, restart, collectors, ..Outcome::default() }
    }

    /// Gives what a configuration changes of the collectors.
    fn plan(&self, loaded: &Loaded) -> Change {
        let Parts { registry, platform, .. } = &self.parts;
        let before = wiring::selections(&self.parts.loaded, registry);
        let selections = wiring::selections(loaded, registry);
        let mut retuned = platform.again();
        wiring::tune(&mut retuned, loaded, &selections);
        let (config, cpus) = (&loaded.config, platform.facts.possible_cpus);
        let mut all = !retuned.is_tuned_as(platform);
        let same_limit = config.limits.map_memory == self.parts.loaded.config.limits.map_memory;
        let spare = (same_limit && !all)
            .then(|| wiring::spare_scale(config, &selections, (before.as_slice(), &self.scales), cpus));
        retuned.map_scale = spare.flatten().unwrap_or_else(|| {
            let even = wiring::even_scale(config, &selections, cpus);
            all |= self.scales.values().any(|scale| scale.to_bits() != even.to_bits());
            even
        });
        let names = selections.iter().map(|selection| selection.descriptor.name);
        // Whether programs are measured is a constant of theirs.
        let remeasured = |name: &str| platform.budget.governs(name) != retuned.budget.governs(name);
        // There is somebody now who takes events, or nobody any more.
        let reporting = platform.bus.is_wanted() != (events::count(config) > 0);
        let reports = |name: &&str| reporting && collectors::REPORTERS.contains(name);
        let anew = names.filter(|name| all || remeasured(name) || reports(name)).collect();
        let (limits, housekeeping) = (wiring::limits(config), config.integrations.ebpf.scrape_interval);
        Change { selections, platform: Arc::new(retuned), anew, limits, housekeeping }
    }

    /// Says why a change cannot be made, where what it takes to attach has been given up.
    fn refusal(&self, change: &Change) -> Option<Failure> {
        let why = self.parts.platform.sealed.get()?;
        let before = wiring::selections(&self.parts.loaded, &self.parts.registry);
        let concerned = concerned(&before, &change.selections, &change.anew, collectors::TOGETHER);
        let attaches = |selection: &&Selection| {
            let Descriptor { name, needs, .. } = selection.descriptor;
            selection.enabled && !needs.is_empty() && concerned.contains(name)
        };
        let all: Vec<&str> = change.selections.iter().filter(attaches).map(|one| one.descriptor.name).collect();
        let message = format!("{} would be attached anew: {why}", all.join(", "));
        (!all.is_empty()).then(|| Failure::new(Exit::Privileges, message))
    }

    /// Applies a change to the collectors; gives those that were concerned.
    async fn change(&mut self, change: Change) -> Vec<(&'static str, String)> {
        let (manager, retuned) = (&self.parts.manager, Arc::clone(&change.platform));
        let concerned = manager.change(change).await;
        for name in &concerned {
            self.scales.insert(name, retuned.map_scale);
        }
        let all = manager.status();
        let state = |name: &&'static str| {
            let status = all.iter().find(|status| status.name == *name)?;
            Some((*name, status.state.to_string()))
        };
        let concerned = concerned.iter().filter_map(state).collect();
        self.parts.platform = retuned;
        concerned
    }
}

fn waits(key: &str) -> bool {
    RESTART.iter().any(|prefix| key.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')))
}

fn refused(name: &'static str, failure: &Failure) -> Outcome {
    let errors = failure.message.lines().map(str::to_owned).collect();
    Outcome { name, errors, exit: Some(failure.exit), ..Outcome::default() }
}
