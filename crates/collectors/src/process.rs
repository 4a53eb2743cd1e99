//! Events: programs that start, processes that end or are killed for memory, TCP connections that open, are accepted
//! or fail. It hooks `sched_process_exec`, `sched_process_exit` and `inet_sock_set_state`, and nothing at all while
//! nobody takes events. What it cannot see stands in its descriptor.

pub(crate) mod config;
mod decode;

use std::sync::Arc;

use async_trait::async_trait;
use bpf::abi::process::{EVENT_ACCEPTED, EVENT_EXEC, EVENT_EXIT, EVENT_FAILED, EVENT_OOM_KILL, EVENT_OPENED};
use bpf::{Loader, Object, Types};
use runtime::bus::EVENTS_EMITTED;
use runtime::own::EVENTS_LOST;
use runtime::{CollectError, Collector, Descriptor, MakeError, Need, Plan, Platform, Scrape, Section, Setup};

use crate::filter;
use crate::reader::Reader;
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
        Need::HostPid,
    ],
    ladder: &[],
    section: Section::of::<Config>(),
    plan: |_, _| Plan {
        maps: vec![("events", u64::from(crate::ring::bytes(crate::ring::DEFAULT)))],
        numbers: 0,
        histograms: 0,
    },
    make,
};

struct Process {
    /// What keeps the programs attached; nothing once the last events are being read.
    object: Option<Object>,
    reader: Reader,
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
    let reader = Reader::start(setup, DESCRIPTOR.name, &mut object, config.limits(), Decoder::default())?;
    attach(&config, &mut object, &types, setup)?;
    setup.watch(object.watch());
    Ok(Box::new(Process { object: Some(object), reader }))
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
        self.reader.record(scrape).await
    }

    async fn shutdown(&mut self) {
        // Detached first: what is in the ring then is all there will be.
        self.object = None;
        if let Err(error) = self.reader.flush().await {
            tracing::warn!("the last events: {error}");
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
