//! Events: programs that start, processes that end or are killed for memory, TCP connections that open, are accepted
//! or fail. It hooks `sched_process_exec`, `sched_process_exit` and `inet_sock_set_state`, and nothing at all while
//! nobody takes events. What it cannot see stands in its descriptor.

mod config;
mod decode;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bpf::abi::process::{EVENT_ACCEPTED, EVENT_EXEC, EVENT_EXIT, EVENT_FAILED, EVENT_OOM_KILL, EVENT_OPENED};
use bpf::{Events, Loader, Object, PerCpuCells, Types};
use model::{Subject, Text};
use runtime::bus::EVENTS_EMITTED;
use runtime::own::EVENTS_LOST;
use runtime::{
    CollectError, Collector, Descriptor, Entrance, Ledger, MakeError, Need, Plan, Platform, Scrape, Section, Setup,
};
use tokio::sync::{mpsc, oneshot};

use crate::filter;
use config::Config;
pub use decode::Decoder;

/// The collector.
pub static DESCRIPTOR: Descriptor = Descriptor {
    name: "process",
    summary: "Events: programs that start, processes that end, OOM kills, TCP connections that open or fail",
    limits: &[
        "It is disabled until exporters.events names a sink: an OTLP endpoint that exists, or stdout.",
        "A connection belongs to the process that connects or listens, not to one that it passes the socket to.",
        "An OOM kill is reported when the victim ends, which is soon after.",
        "The program's path is missing under lockdown=confidentiality.",
        "On kernels before 5.11 there are no connection events.",
    ],
    metrics: &[&EVENTS_EMITTED, &EVENTS_LOST],
    needs: &[
        Need::Btf,
        Need::Tracepoint("sched_process_exec"),
        Need::Tracepoint("sched_process_exit"),
        Need::Tracepoint("inet_sock_set_state"),
        Need::Capability("CAP_BPF"),
        Need::Capability("CAP_PERFMON"),
    ],
    section: Section::of::<Config>(),
    plan: |_, _| Plan {
        maps: vec![("events", u64::from(crate::ring::bytes(crate::ring::DEFAULT)))],
        samples_per_workload: 0,
    },
    make,
};

/// How long a round waits until the events so far have been passed on.
const FLUSH: Duration = Duration::from_millis(500);
/// How often events that wait for their workload's names are looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

struct Process {
    /// What keeps the programs attached; nothing once the last events are being read.
    object: Option<Object>,
    drops: PerCpuCells<u64>,
    ledger: Arc<Ledger>,
    reader: mpsc::Sender<oneshot::Sender<u64>>,
}

fn make(setup: &mut Setup) -> Result<Box<dyn Collector>, MakeError> {
    let config: Config = setup.section()?;
    let platform = Arc::clone(setup.platform());
    if !platform.bus.is_wanted() {
        let why = "no sink takes events: set exporters.events.otlp to the name of an OTLP endpoint, or \
                   exporters.events.stdout to true";
        return Err(MakeError::Idle(why.to_owned()));
    }
    let types = setup.types()?;
    let mut object = load(&config, &platform, &types)?;
    let runtime = setup.runtime().clone();
    let events = {
        let _inside = runtime.enter();
        object.events("events", platform.perf_bytes).map_err(crate::refused)?
    };
    attach(&config, &mut object, &types, setup)?;
    setup.watch(object.watch());
    let drops = object.per_cpu_cells("drops").map_err(crate::refused)?;
    let entrance = platform.bus.entrance(DESCRIPTOR.name, config.limits());
    let ledger = entrance.ledger();
    let (reader, wishes) = mpsc::channel(1);
    runtime.spawn(Reader { events, wishes, entrance, decoder: Decoder::default() }.run());
    Ok(Box::new(Process { object: Some(object), drops, ledger, reader }))
}

/// Loads the programs for the way that events take.
fn load(config: &Config, platform: &Platform, types: &Types) -> Result<Object, MakeError> {
    let variant = if crate::ring::wants_perf(platform)? { "process_perf" } else { "process" };
    let mut loader = Loader::new(variant)
        .constant("hierarchy", &(platform.facts.cgroups.primary as u32))
        .constant("kinds", &kinds(config))
        .constant("sample_every", &platform.sample_every);
    if variant == "process" {
        loader = loader.max_entries("events", crate::ring::bytes(platform.ring_bytes));
    }
    let object = filter::tune(loader, platform).load(types).map_err(crate::refused)?;
    filter::fill(platform, &object)?;
    Ok(object)
}

/// Gives the programs' bits of the events that are wanted.
fn kinds(config: &Config) -> u32 {
    let wanted = |on: bool, kinds: &[u32]| if on { kinds.iter().fold(0, |bits, kind| bits | 1 << kind) } else { 0_u32 };
    wanted(config.exec.enabled, &[EVENT_EXEC])
        | wanted(config.exit.enabled, &[EVENT_EXIT])
        | wanted(config.oom_kill.enabled, &[EVENT_OOM_KILL])
        | wanted(config.connection.enabled, &[EVENT_OPENED, EVENT_ACCEPTED, EVENT_FAILED])
}

/// Attaches what the wanted events need, and nothing else.
fn attach(config: &Config, object: &mut Object, types: &Types, setup: &mut Setup) -> Result<(), MakeError> {
    if config.exec.enabled
        && let Err(error) = object.attach("sched_process_exec", types)
    {
        object.attach("sched_process_exec__bare", types).map_err(crate::refused)?;
        setup.degrade(format!("the kernel gives no paths of programs ({error})"));
    }
    if config.exit.enabled || config.oom_kill.enabled {
        object.attach("sched_process_exit", types).map_err(crate::refused)?;
    }
    if config.connection.enabled {
        let connections = object.attach("inet_sock_set_state", types).and_then(|()| seed(object, types));
        if let Err(error) = connections {
            setup.degrade(format!("the kernel gives no connection events, or lacks older sockets' ({error})"));
        }
    }
    Ok(())
}

/// Notes the owners of sockets that were there before us.
fn seed(object: &mut Object, types: &Types) -> Result<(), bpf::Error> {
    object.load_iterator("seed", "task_file", types)?;
    object.walk("seed", &mut Vec::new())
}

#[async_trait]
impl Collector for Process {
    async fn collect(&mut self, scrape: &mut Scrape) -> Result<(), CollectError> {
        let broken = self.flush().await?;
        let drops = self.drops.get(0).map_err(|error| CollectError(error.to_string()))?;
        self.ledger.record(scrape);
        for (reason, events) in [("ring_full", drops.iter().sum()), ("unreadable", broken)] {
            let values = [Text::Static(DESCRIPTOR.name), Text::Static(reason)];
            scrape.record(&EVENTS_LOST, Subject::Node, values, events);
        }
        Ok(())
    }

    async fn shutdown(&mut self) {
        // Detached first: what is in the ring then is all there will be.
        self.object = None;
        if let Err(error) = self.flush().await {
            tracing::warn!("the last events: {error}");
        }
    }
}

impl Process {
    /// Passes on everything that happened before; gives how many records made no sense.
    async fn flush(&self) -> Result<u64, CollectError> {
        let (done, wait) = oneshot::channel();
        let flushed = async { if self.reader.send(done).await.is_ok() { wait.await.ok() } else { None } };
        let answer = tokio::time::timeout(FLUSH, flushed).await.ok().flatten();
        answer.ok_or_else(|| CollectError("nobody reads the events of the kernel any more".to_owned()))
    }
}

/// What reads the kernel's events, until the collector is dropped.
struct Reader {
    events: Events,
    wishes: mpsc::Receiver<oneshot::Sender<u64>>,
    entrance: Entrance,
    decoder: Decoder,
}

impl Reader {
    async fn run(mut self) {
        let mut waiting = false;
        loop {
            let (decoder, entrance) = (&mut self.decoder, &mut self.entrance);
            tokio::select! {
                biased;
                wish = self.wishes.recv() => {
                    self.decoder.look_at_clock();
                    while self.events.drain(|record| self.decoder.pass_on(record, &mut self.entrance)) > 0 {
                        self.entrance.flush();
                    }
                    let Some(done) = wish else {
                        self.entrance.finish();
                        return;
                    };
                    waiting = self.entrance.flush();
                    // The collector may have stopped waiting.
                    let _ = done.send(self.decoder.broken());
                }
                batch = self.events.batch(|record| decoder.pass_on(record, entrance)) => {
                    if let Err(error) = batch {
                        tracing::warn!("the kernel's events: {error}");
                        return;
                    }
                    self.decoder.look_at_clock();
                    waiting = self.entrance.flush();
                    // A flood must not keep a thread from everything else.
                    tokio::task::yield_now().await;
                }
                () = tokio::time::sleep(LOOK_AGAIN), if waiting => waiting = self.entrance.flush(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_wanted_kinds_have_bits() {
        let mut config = Config::default();
        assert_eq!(kinds(&config), 0b111_1110);
        config.connection.enabled = false;
        config.exit.enabled = false;
        assert_eq!(kinds(&config), 1 << EVENT_EXEC | 1 << EVENT_OOM_KILL);
        assert_eq!(config.limits().len(), 4, "a limit each");
    }
}
