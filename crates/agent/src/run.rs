//! The main job: attach, serve, push, until a signal says to stop.

use std::sync::{Arc, Mutex, PoisonError};

use bpf::probe::Facts;
use config::sections::agent::Privileges;
use config::{Loaded, Sources};
use enrich::{Learned, Pairs, Workloads};
use model::Source;
use opentelemetry::KeyValue;
use opentelemetry::metrics::{Meter, MeterProvider};
use runtime::own::{SCOPE, metrics};
use runtime::{Bus, Descriptor, Manager, Own, Platform};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::admin::{Admin, Identity, Shown};
use crate::events::Sinks;
use crate::exit::{Exit, Failure};
use crate::lock::Lock;
use crate::outlets::Outlets;
use crate::reload::{Outcome, Parts, Reloader};
use crate::sandbox::Sandbox;
use crate::shutdown::{Signals, stopped};
use crate::{check, memory, privileges, summary, wiring};

/// Runs the agent until a signal ends it.
///
/// # Errors
/// Fails with the exit code of the first thing that cannot be had.
pub async fn run(
    registry: &[&'static Descriptor],
    sources: Sources,
    loaded: Loaded,
    (facts, sandbox): (Facts, Sandbox),
    quiet: bool,
) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::new(Exit::Failure, format!("cannot take over signals: {error}"));
    let mut signals = Signals::take().map_err(failed)?;
    let config = &loaded.config;
    if let Some(obstacle) = check::obstacle(&facts, wiring::given(&config.integrations.ebpf.btf_path).as_deref()) {
        return Err(obstacle);
    }
    let _lock = Lock::take(&config.admin.socket)?;
    let warnings: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
    for warning in &warnings {
        tracing::warn!("{warning}");
    }

    for (what, part) in [("seccomp", &sandbox.seccomp), ("Landlock", &sandbox.landlock)] {
        match part {
            Ok(says) => tracing::info!("the agent is confined by {what}: {says}"),
            Err(why) => tracing::info!("the agent is not confined by {what}: {why}"),
        }
    }
    let pins = wiring::pins(config)?;
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
    let bus = Arc::new(Bus::new(Arc::clone(&resolver), 0, 0));
    let (stop, stopping) = watch::channel(false);
    memory::guard(&meter, &bus, &workloads, stopping.clone());
    let headroom = Arc::clone(bus.headroom());
    let sinks = Sinks::start(config, &options, &bus, &meter, &stopping)?;
    let handle = Handle::current();
    let elections = wiring::elections(config, Some(handle.clone()))?;
    let parties = (&workloads, &peers, Arc::clone(&learned), elections);
    let platform = wiring::platform(&loaded, registry, facts, parties, (executables, pins), meters, bus);
    let started =
        tokio::task::block_in_place(|| Manager::start(options, selections, &platform, resolver, own, &handle));
    let manager = Arc::new(started.map_err(|error| Failure::new(Exit::Required, error.to_string()))?);

    let identity = Identity { resource, known };
    let (reload, wishes) = mpsc::channel(1);
    let shown = Mutex::new(Shown { warnings, ..Shown::default() });
    let admin =
        Arc::new(Admin { manager: Arc::clone(&manager), workloads, headroom, identity, sandbox, reload, shown });
    let (source, ready) = (Arc::clone(&manager) as Arc<dyn Source>, Arc::new(readiness(&admin)));
    let started = Outlets::start(config, source, &meter, ready, Arc::clone(&admin));
    // What is attached and listened on stays so.
    let outlets = match started.and_then(|outlets| seal(config, &platform).map(|()| outlets)) {
        Ok(outlets) => outlets,
        Err(failure) => {
            tokio::task::block_in_place(|| manager.stop());
            return Err(failure);
        }
    };
    let mut places = outlets.places();
    places.push(format!("status: {}", config.admin.socket.display()));
    places.extend(sinks.places());
    // Events alone may be on standard output: whoever reads them expects one on each line.
    if !quiet && !config.exporters.events.stdout {
        let (manager, stopping) = (Arc::clone(&manager), stopping.clone());
        drop(tokio::spawn(async move {
            tokio::select! {
                () = summary::show(manager, places) => {}
                () = stopped(stopping) => {}
            }
        }));
    }
    let registry = registry.to_vec();
    let parts = Parts { sources, registry, loaded, manager, platform, admin, outlets, sinks };
    let mut reloader = Reloader::new(parts, &meter, wishes).map_err(failed)?;
    tokio::select! {
        _ = signals.next() => {}
        () = reloader.run() => {}
    }
    let Parts { loaded, manager, outlets, sinks, .. } = reloader.into_parts();
    let timeout = loaded.config.shutdown_timeout;
    tracing::info!("stopping: final gather and flush within {timeout:?}");
    signals.exit_on_next();
    let deadline = Instant::now() + timeout;
    let _ = stop.send(true);
    if tokio::time::timeout_at(deadline, outlets.finish()).await.is_err() {
        tracing::warn!("some exporter did not finish within {timeout:?}");
    }
    tokio::task::block_in_place(|| manager.stop());
    sinks.finish(deadline).await;
    tracing::info!("stopped");
    Ok(())
}

/// Gives the capabilities up that it took to come so far, where that is wanted.
fn seal(config: &config::Config, platform: &Platform) -> Result<(), Failure> {
    if config.agent.privileges == Privileges::Keep {
        return Ok(());
    }
    let _ = platform.sealed.set(privileges::GIVEN_UP);
    tokio::task::block_in_place(|| privileges::give_up(&platform.facts))
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
    meter
        .u64_observable_counter(&*metrics::LOG_LOST.name)
        .with_unit(&*metrics::LOG_LOST.unit)
        .with_description(&*metrics::LOG_LOST.help)
        .with_callback(|observer| observer.observe(crate::logging::lost(), &[]))
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

/// Ready means: the first gather is done and the indispensable collectors run. What a reload could not take over is said
/// beside it: the agent goes on with what it had, so it is no reason to take it out of service.
fn readiness(admin: &Arc<Admin>) -> impl Fn() -> Result<Vec<String>, Vec<String>> + Send + Sync + use<> {
    let admin = Mutex::new(Arc::downgrade(admin));
    move || {
        let Some(admin) = admin.lock().unwrap_or_else(PoisonError::into_inner).upgrade() else {
            return Err(vec!["the agent is stopping".to_owned()]);
        };
        let mut reasons = Vec::new();
        if admin.manager.latest().is_none() {
            reasons.push("the first gather is not done".to_owned());
        }
        let lame = admin.manager.status().into_iter().filter(|status| status.required && !status.state.is_attached());
        reasons.extend(lame.map(|status| format!("{} is {}", status.name, status.state)));
        let remarks = admin.shown().reload.iter().flat_map(Outcome::remarks).chain(admin.headroom.remark()).collect();
        if reasons.is_empty() { Ok(remarks) } else { Err(reasons) }
    }
}
