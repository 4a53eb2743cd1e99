//! Counts the flows that Cilium's Hubble reports, of this node or, through the relay, of the cluster. It owns no kernel
//! object: what it knows comes over a connection. What it cannot tell stands in its descriptor.

mod addresses;
mod aggregate;
mod config;
mod connections;
mod election;
mod events;
mod icmp;
mod join;
mod metrics;
mod names;
mod peers;
mod reader;
mod request;
mod series;
mod symbols;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use hubble::Options;
use hubble::flow::Flow;
use model::Metric;
use model::standing::Party;
use runtime::bus::EVENTS_EMITTED;
use runtime::own::{EVENTS_LOST, SAMPLE_INTERVAL};
use runtime::{CollectError, Collector, Descriptor, MakeError, Plan, Scrape, Section, Setup};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use addresses::Teacher;
use aggregate::Aggregator;
use config::{Config, Mode};
use events::{Events, Notable};
use join::Source;
use reader::{Ledger, Reader};

/// The collector.
pub static DESCRIPTOR: Descriptor = Descriptor {
    name: "hubble",
    summary: "Network flows of Cilium from Hubble: flows, connections, requests, drops and policy verdicts by workload",
    limits: &[
        "A flow is an event, not a packet or a connection: Cilium reports most packets of a connection not at all and \
         others at several points, and what monitor aggregation hides is not seen here either.",
        "No flow says how many bytes it had: hubble_flow_bytes_total and hubble_drop_bytes_total come from the table of the \
         collector connection and are absent where that does not run, and with the relay. Dropped packets are taken for as \
         large as the others of their connection; those that no socket of this node sent have no bytes.",
        "No flow says which endpoints are ready: hubble_endpoint_count and hubble_endpoint_ready are absent.",
        "The workload of a pod on another node is not known to Hubble: there its app label stands in (labels.workload).",
        "Requests of HTTP, gRPC, DNS and Kafka are seen where a policy sends them through Cilium's proxy. Those of gRPC \
         are known by the content type, the status by grpc-status, where the proxy logs these headers.",
        "A TCP connection counts where it reaches a pod, or where it leaves the node of its pod for what is none. \
         One whose beginning or end was not reported has no duration.",
        "With flow_sample_rate above 1 only connections that reach pods are counted, and durations of connections are absent.",
        "What happens while the server cannot be reached, or between two elections, is not counted: \
         telesonde_hubble_unread_seconds tells for how long, \
         and telesonde_hubble_flows_missed how many flows the server saw meanwhile, where no filters are asked for, the relay \
         has as many nodes as before and none began anew; what an elected agent read in the last second and a half before \
         it was killed is among them.",
    ],
    metrics: &METRICS,
    needs: &[],
    ladder: &[],
    section: Section {
        defaults: Section::of::<Config>().defaults,
        schema: Section::of::<Config>().schema,
        check: Config::check,
    },
    plan: |_, _| Plan::default(),
    make,
};

static METRICS: [&Metric; metrics::ALL.len() + 16] = {
    let mut all: [&Metric; metrics::ALL.len() + 16] = [&metrics::LOST_EVENTS; _];
    let mut at = 0;
    while at < metrics::ALL.len() {
        all[at] = metrics::ALL[at];
        at += 1;
    }
    all[at + 1] = &metrics::CONNECTED;
    all[at + 2] = &metrics::RECEIVED;
    all[at + 3] = &metrics::OUTCOMES;
    all[at + 4] = &metrics::STREAM_ENDS;
    all[at + 5] = &metrics::NODES;
    all[at + 6] = &metrics::EVICTED;
    all[at + 7] = &SAMPLE_INTERVAL;
    all[at + 8] = &EVENTS_EMITTED;
    all[at + 9] = &EVENTS_LOST;
    all[at + 10] = &metrics::LEADER;
    all[at + 11] = &metrics::UNREAD;
    all[at + 12] = &metrics::NAMES_REFUSED;
    all[at + 13] = &metrics::UNMATCHED_BYTES;
    all[at + 14] = &metrics::UNMATCHED_DROPS;
    all[at + 15] = &metrics::MISSED;
    all
};

/// How many flows, or series, are dealt with before somebody else may have the counters.
const AT_ONCE: usize = 256;

struct Hubble {
    counters: Arc<Mutex<Aggregator>>,
    ledger: Arc<Ledger>,
    /// What became of events, where somebody takes them.
    events: Option<Arc<runtime::Ledger>>,
    /// The bytes that flows lack.
    bytes: Option<Source>,
    relay: bool,
    tasks: [AbortHandle; 2],
}

fn make(setup: &mut Setup) -> Result<Box<dyn Collector>, MakeError> {
    let config: Config = setup.section()?;
    if !config.wants_something() {
        return Err(MakeError::Idle("nothing is collected: every collect_ key of cilium is false".to_owned()));
    }
    let wrong = |error| MakeError::Failed(format!("integrations.ebpf.cilium.{error}"));
    let relay = match config.mode {
        Mode::Node => false,
        Mode::Relay => true,
        Mode::Auto => !is_local(&config, setup.runtime()).map_err(wrong)?,
    };
    let auto = config.mode == Mode::Auto;
    let elections = setup.platform().elections.clone().filter(|_| (relay || auto) && config.kubernetes_enabled);
    if relay && config.kubernetes_enabled && elections.is_none() && in_kubernetes() {
        return Err(MakeError::Unsupported(
            "every agent of the cluster would count what the relay says: let the Kubernetes API elect one \
             (enrich.kubernetes.enabled), set integrations.ebpf.cilium.mode: node, or, for a single agent, \
             kubernetes_enabled: false"
                .to_owned(),
        ));
    }
    let address = config.address(relay).map_err(wrong)?;
    let options = Options { tls: config.tls(&address), ..Options::new(address, request::request(&config)) };
    // Where filters leave flows out, the server's number of those that it saw says nothing.
    let all = options.request.whitelist.is_empty() && options.request.blacklist.is_empty();
    let ledger = Arc::new(Ledger::new(all));
    // Where all decide for themselves, those who read their own nodes and the one who reads all of them keep each other
    // from it: no flow counts twice.
    let party = if relay { Party::One } else { Party::Many };
    let standing = elections.map(|elections| {
        let ledger = Arc::clone(&ledger);
        let note = move || if relay { ledger.note_of_position() } else { String::new() };
        elections.stand(&config.relay_lease, party, Arc::new(note))
    });
    let own = (auto && relay).then(|| config.clone());
    let (mut reader, flows) = Reader::new(&config, options.address.to_string(), Arc::clone(&ledger));
    let events = Events::open(&config, &setup.platform().bus, DESCRIPTOR.name);
    let told = events.as_ref().map(Events::ledger);
    // The table is one node's: with the relay it would speak for the leader's alone.
    let bytes = (!relay && (config.collect_flows || config.collect_drops)).then(|| Source::open(setup.platform()));
    let teacher = Teacher::new(&config, setup.platform().learner.as_ref(), bytes.is_some());
    let mut counters = Aggregator::new(config, relay);
    counters.teach(teacher);
    if bytes.is_some() {
        counters.join();
    }
    let counters = Arc::new(Mutex::new(counters));
    let runtime = setup.runtime();
    let reading = runtime.spawn(async move {
        match standing {
            Some(standing) => tokio::select! {
                () = election::follow(options, &mut reader, standing, party) => {}
                () = election::until_own(own) => tracing::info!("the node's own Hubble answers now: it is read instead"),
            },
            None => hubble::follow(options, &mut reader).await,
        }
    });
    let counting = runtime.spawn(count(flows, Arc::clone(&counters), Arc::clone(&ledger), events));
    let tasks = [reading.abort_handle(), counting.abort_handle()];
    Ok(Box::new(Hubble { counters, ledger, events: told, bytes, relay, tasks }))
}

/// Says whether this node has a Hubble of its own, as [`election::is_own`] does.
fn is_local(config: &Config, runtime: &Handle) -> Result<bool, String> {
    // On a thread of its own: the caller's may belong to the runtime.
    let ask = || runtime.block_on(election::is_own(config));
    let answer = std::thread::scope(|scope| scope.spawn(ask).join());
    answer.map_err(|_| "hubble_node_address: asking it panicked".to_owned())?
}

fn in_kubernetes() -> bool {
    std::env::var_os("KUBERNETES_SERVICE_HOST").is_some()
}

/// Counts flows as they are handed on.
async fn count(
    mut flows: mpsc::Receiver<Bytes>,
    counters: Arc<Mutex<Aggregator>>,
    ledger: Arc<Ledger>,
    mut events: Option<Events>,
) {
    let mut batch = Vec::with_capacity(AT_ONCE);
    while flows.recv_many(&mut batch, AT_ONCE).await > 0 {
        let mut counters = lock(&counters);
        counters.tick();
        let mut show = |flow: &Flow<'_>| {
            if let Some(events) = &mut events
                && let Some(notable) = Notable::of(flow)
            {
                events.see(flow, notable);
            }
        };
        for message in batch.drain(..) {
            ledger.note(counters.take(&message, &mut show));
        }
        drop(counters);
        if let Some(events) = &mut events {
            events.flush();
        }
    }
}

fn lock(counters: &Mutex<Aggregator>) -> MutexGuard<'_, Aggregator> {
    counters.lock().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait]
impl Collector for Hubble {
    async fn collect(&mut self, scrape: &mut Scrape) -> Result<(), CollectError> {
        if self.tasks.iter().any(AbortHandle::is_finished) {
            return Err(CollectError("nobody reads flows any more: it begins anew".to_owned()));
        }
        if self.relay {
            scrape.of_cluster(metrics::ALL.iter().copied().chain([&metrics::LOST_EVENTS]));
        }
        self.ledger.record(scrape, self.relay);
        if let Some(events) = &self.events {
            events.record(scrape);
        }
        if let Some(bytes) = &self.bytes
            && let Some(told) = bytes.read().await?
        {
            let mut counters = lock(&self.counters);
            counters.tick();
            counters.count_bytes(told);
        }
        // In portions, so that flows need not wait for all of them.
        while lock(&self.counters).record(scrape, AT_ONCE) {
            std::thread::yield_now();
        }
        let mut counters = lock(&self.counters);
        counters.tick();
        counters.finish(scrape);
        Ok(())
    }
}

impl Drop for Hubble {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}
