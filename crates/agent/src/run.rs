//! The main job: attach, serve, push, until a signal says to stop.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bpf::probe::Facts;
use config::Loaded;
use enrich::{Learned, Pairs, Workloads};
use export::http::{Limits, Listener, Server};
use export::{health, otlp, prometheus};
use model::Source;
use opentelemetry::KeyValue;
use opentelemetry::metrics::{Meter, MeterProvider};
use runtime::own::{SCOPE, metrics};
use runtime::{Bus, Descriptor, Manager, Own};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::admin::{Admin, Identity};
use crate::events::{self, Sinks};
use crate::exit::{Exit, Failure};
use crate::lock::Lock;
use crate::shutdown::{Signals, stopped};
use crate::{check, summary, wiring};

/// Runs the agent until a signal ends it.
///
/// # Errors
/// Fails with the exit code of the first thing that cannot be had.
pub async fn run(registry: &[&'static Descriptor], loaded: Loaded, quiet: bool) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::new(Exit::Failure, format!("cannot take over signals: {error}"));
    let mut signals = Signals::take().map_err(failed)?;
    let config = &loaded.config;
    let facts = wiring::facts(config);
    if let Some(obstacle) = check::obstacle(&facts, wiring::given(&config.integrations.ebpf.btf_path).as_deref()) {
        return Err(obstacle);
    }
    let _lock = Lock::take(&config.admin.socket)?;
    let warnings: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
    for warning in &warnings {
        tracing::warn!("{warning}");
    }

    let executables = wiring::executables(&loaded)?;
    let workloads = wiring::workloads(config, &facts, executables.as_ref())?;
    let own = Own::new();
    let meters = own.provider();
    let meter = meters.meter(SCOPE);
    let learned = Arc::<Learned>::default();
    observe(&meter, &facts, config, &workloads);
    observe_learned(&meter, &learned);
    let known = wiring::identify(config).await?;
    for (key, why) in known.iter().filter_map(|(key, uid)| Some((key, uid.as_ref().err()?))) {
        tracing::info!("the resource has no {key}: {why}");
    }
    let (options, selections) = (wiring::options(config, &known), wiring::selections(&loaded, registry));
    let resource = Arc::clone(&options.resource);
    let peers = wiring::peers(config, &workloads, &learned)?;
    let resolver: Arc<dyn model::Resolver> = Arc::new(Pairs::new(Arc::clone(&workloads) as _, Arc::clone(&peers)));
    let bus = Arc::new(Bus::new(Arc::clone(&resolver), events::count(config), config.exporters.events.queue));
    let (stop, stopping) = watch::channel(false);
    let sinks = Sinks::start(config, &options, &bus, &meter, &stopping)?;
    let handle = Handle::current();
    let elections = wiring::elections(config, Some(handle.clone()))?;
    let parties = (&workloads, &peers, Arc::clone(&learned), elections);
    let platform = wiring::platform(&loaded, registry, facts, parties, executables, meters, bus);
    let started =
        tokio::task::block_in_place(|| Manager::start(options, selections, &platform, resolver, own, &handle));
    let manager = Arc::new(started.map_err(|error| Failure::new(Exit::Required, error.to_string()))?);

    let identity = Identity { resource, known };
    let outlets =
        Outlets { loaded: &loaded, manager: &manager, workloads: &workloads, meter: &meter, warnings, identity };
    let running = outlets.start(&stopping);
    let (mut tasks, mut places) = match running {
        Ok(running) => running,
        Err(failure) => {
            tokio::task::block_in_place(|| manager.stop());
            return Err(failure);
        }
    };
    places.extend(sinks.places.iter().cloned());
    // Events alone may be on standard output: whoever reads them expects one on each line.
    if !quiet && !config.exporters.events.stdout {
        tasks.spawn({
            let (manager, stopping) = (Arc::clone(&manager), stopping.clone());
            async move {
                tokio::select! {
                    () = summary::show(manager, places) => {}
                    () = stopped(stopping) => {}
                }
            }
        });
    }

    signals.next().await;
    tracing::info!("stopping: final gather and flush within {:?}", config.shutdown_timeout);
    signals.exit_on_next();
    let deadline = Instant::now() + config.shutdown_timeout;
    let _ = stop.send(true);
    let flushed = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout_at(deadline, flushed).await.is_err() {
        tracing::warn!("some exporter did not finish within {:?}", config.shutdown_timeout);
    }
    tokio::task::block_in_place(|| manager.stop());
    sinks.finish(deadline).await;
    tracing::info!("stopped");
    Ok(())
}

/// Makes the instruments that need more than the manager knows.
fn observe(meter: &Meter, facts: &Facts, config: &config::Config, workloads: &Arc<Workloads>) {
    let mut info = vec![
        KeyValue::new("version", env!("CARGO_PKG_VERSION")),
        KeyValue::new("kernel", facts.release.clone()),
        KeyValue::new("arch", facts.arch.clone()),
    ];
    info.extend(option_env!("TELESONDE_REVISION").map(|revision| KeyValue::new("revision", revision)));
    // In the resource the agent's own pod would be taken for that of whatever is measured.
    let pod = [("k8s.namespace.name", &config.agent.pod_namespace), ("k8s.pod.name", &config.agent.pod_name)];
    let pod = pod.into_iter().filter(|(_, name)| !name.is_empty());
    info.extend(pod.map(|(key, name)| KeyValue::new(key, name.clone())));
    meter
        .u64_observable_gauge(&*metrics::INFO.name)
        .with_unit(&*metrics::INFO.unit)
        .with_description(&*metrics::INFO.help)
        .with_callback(move |observer| observer.observe(1, &info))
        .build();
    let hits = Arc::clone(workloads);
    meter
        .u64_observable_counter(&*metrics::ENRICHMENT_HITS.name)
        .with_unit(&*metrics::ENRICHMENT_HITS.unit)
        .with_description(&*metrics::ENRICHMENT_HITS.help)
        .with_callback(move |observer| observer.observe(hits.stats().hits, &[]))
        .build();
    let failed = Arc::clone(workloads);
    meter
        .u64_observable_counter(&*metrics::ENRICHMENT_ERRORS.name)
        .with_unit(&*metrics::ENRICHMENT_ERRORS.unit)
        .with_description(&*metrics::ENRICHMENT_ERRORS.help)
        .with_callback(move |observer| {
            for source in failed.sources() {
                for (kind, count) in source.errors {
                    observer.observe(count, &[KeyValue::new("source", source.name), KeyValue::new("error.type", kind)]);
                }
            }
        })
        .build();
    let missed = Arc::clone(workloads);
    meter
        .u64_observable_counter(&*metrics::ENRICHMENT_MISSES.name)
        .with_unit(&*metrics::ENRICHMENT_MISSES.unit)
        .with_description(&*metrics::ENRICHMENT_MISSES.help)
        .with_callback(move |observer| {
            for (reason, count) in crate::admin::misses(&missed.stats()) {
                observer.observe(count, &[KeyValue::new("reason", reason)]);
            }
        })
        .build();
}

/// Makes the instruments of what was learned of addresses, for where something is.
fn observe_learned(meter: &Meter, learned: &Arc<Learned>) {
    let asked = Arc::clone(learned);
    meter
        .u64_observable_counter(&*metrics::PEER_LOOKUPS.name)
        .with_unit(&*metrics::PEER_LOOKUPS.unit)
        .with_description(&*metrics::PEER_LOOKUPS.help)
        .with_callback(move |observer| {
            let (hits, misses) = asked.lookups();
            for (outcome, count) in [("hit", hits), ("miss", misses)].into_iter().filter(|_| asked.is_used()) {
                observer.observe(count, &[KeyValue::new("outcome", outcome)]);
            }
        })
        .build();
    let known = Arc::clone(learned);
    meter
        .u64_observable_gauge(&*metrics::PEER_ADDRESSES.name)
        .with_unit(&*metrics::PEER_ADDRESSES.unit)
        .with_description(&*metrics::PEER_ADDRESSES.help)
        .with_callback(move |observer| {
            if known.is_used() {
                observer.observe(known.len() as u64, &[]);
            }
        })
        .build();
}

/// Everything through which telemetry and status leave.
struct Outlets<'a> {
    loaded: &'a Loaded,
    manager: &'a Arc<Manager>,
    workloads: &'a Arc<Workloads>,
    meter: &'a Meter,
    warnings: Vec<String>,
    identity: Identity,
}

impl Outlets<'_> {
    /// Binds all listeners and starts all readers; gives their tasks and where to find them.
    fn start(self, stopping: &watch::Receiver<bool>) -> Result<(JoinSet<()>, Vec<String>), Failure> {
        let config = &self.loaded.config;
        let source = Arc::clone(self.manager) as Arc<dyn Source>;
        let mut tasks = JoinSet::new();
        let mut listeners = BTreeMap::new();
        let mut places = Vec::new();
        let listen = |error: export::http::Error| Failure::new(Exit::Listen, error.to_string());
        let serve = |tasks: &mut JoinSet<()>, server: Server| {
            let stopping = stopping.clone();
            tasks.spawn(async move {
                if let Err(error) = server.run(stopped(stopping)).await {
                    tracing::error!("{error}");
                }
            });
        };

        if let Some(options) = wiring::prometheus(config)? {
            let scheme = if options.tls.is_some() { "https" } else { "http" };
            let path = options.path.clone();
            let server = prometheus::bind(options, Arc::clone(&source), self.meter).map_err(listen)?;
            if let Some(address) = server.local_addr() {
                listeners.insert("prometheus", address.to_string());
                places.push(format!("scrape {scheme}://{address}{path}"));
            }
            serve(&mut tasks, server);
        }
        let ready = Arc::new(readiness(self.manager));
        let server = health::bind(config.health.listen, "health.listen", ready).map_err(listen)?;
        if let Some(address) = server.local_addr() {
            listeners.insert("health", address.to_string());
        }
        serve(&mut tasks, server);

        let mut endpoints = Vec::new();
        for options in wiring::endpoints(config) {
            let (name, url, interval) = (options.name.clone(), options.endpoint.clone(), options.interval);
            let endpoint = otlp::Endpoint::new(options, Arc::clone(&source), self.meter)
                .map_err(|error| Failure::new(Exit::Configuration, error.to_string()))?;
            places.push(format!("push {name} to {url} every {interval:?}"));
            endpoints.push(endpoint.status());
            let (stopping, deadline) = (stopping.clone(), config.shutdown_timeout);
            tasks.spawn(endpoint.run(stopped(stopping), flush_time(deadline)));
        }
        if endpoints.is_empty() {
            places.push("push over OTLP: off until exporters.otlp.main.endpoint is set".to_owned());
        }

        places.push(format!("status: {}", config.admin.socket.display()));
        let admin = Arc::new(Admin {
            manager: Arc::clone(self.manager),
            endpoints,
            listeners,
            workloads: Arc::clone(self.workloads),
            warnings: self.warnings,
            identity: self.identity,
        });
        let socket = Listener::unix(&config.admin.socket, "admin.socket").map_err(listen)?;
        let server = Server::new(socket, None, admin.clone(), Arc::new(()), Limits::default()).map_err(listen)?;
        serve(&mut tasks, server);
        if let Some(address) = config.admin.listen {
            let socket = Listener::tcp(address, "admin.listen").map_err(listen)?;
            serve(&mut tasks, Server::new(socket, None, admin, Arc::new(()), Limits::default()).map_err(listen)?);
        }
        Ok((tasks, places))
    }
}

/// Leaves a little of the deadline for detaching.
fn flush_time(deadline: Duration) -> Duration {
    deadline.saturating_sub(deadline / 10)
}

/// Ready means: the first gather is done and the indispensable collectors run.
fn readiness(manager: &Arc<Manager>) -> impl Fn() -> Result<(), Vec<String>> + Send + Sync + use<> {
    let manager = Mutex::new(Arc::downgrade(manager));
    move || {
        let Some(manager) = manager.lock().unwrap_or_else(PoisonError::into_inner).upgrade() else {
            return Err(vec!["the agent is stopping".to_owned()]);
        };
        let mut reasons = Vec::new();
        if manager.latest().is_none() {
            reasons.push("the first gather is not done".to_owned());
        }
        let lame = manager.status().into_iter().filter(|status| status.required && !status.state.is_attached());
        reasons.extend(lame.map(|status| format!("{} is {}", status.name, status.state)));
        if reasons.is_empty() { Ok(()) } else { Err(reasons) }
    }
}
