//! Reads a collector's events out of the kernel, has them decoded, and passes them on to the bus.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use bpf::abi::event::{FAMILY_INET, FAMILY_INET6};
use bpf::{Events, Object, PerCpuCells};
use model::event::{Event, EventKind};
use model::{Subject, Text};
use runtime::own::EVENTS_LOST;
use runtime::{CollectError, Entrance, Ledger, Limit, MakeError, Scrape, Setup};

use crate::flush::{Flush, Wishes};

/// How often events that wait for their workload's names are looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Why a record is no event.
#[derive(Debug, PartialEq)]
pub enum Left {
    /// It makes no sense.
    Broken,
    /// It says again what one before said.
    Repeated,
}

/// Turns the records of one map into events.
pub trait Decode: Send + 'static {
    /// Decodes a record; its time plus `offset` is that of the Unix clock.
    ///
    /// # Errors
    /// Says why a record is no event.
    fn decode(&mut self, record: &[u8], offset: i64) -> Result<Event, Left>;
}

/// Gives an address as records have it; nothing where its family is none of IP's.
pub fn ip(family: u16, bytes: [u8; 16]) -> Option<IpAddr> {
    match family {
        FAMILY_INET => Some(IpAddr::V4(Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]))),
        // An IPv4 peer of an IPv6 socket is shown as what it is.
        FAMILY_INET6 => Some(Ipv6Addr::from(bytes).to_canonical()),
        _ => None,
    }
}

/// The reader as its collector has it.
pub struct Reader {
    collector: &'static str,
    drops: PerCpuCells<u64>,
    ledger: Arc<Ledger>,
    flush: Flush<u64>,
}

impl Reader {
    /// Reads the map `events` of an object (`bpf/lib/ring.bpf.h`) until this is dropped.
    ///
    /// # Errors
    /// Fails when the object has no such map.
    pub fn start(
        setup: &Setup,
        collector: &'static str,
        object: &mut Object,
        limits: HashMap<EventKind, Limit>,
        decoder: impl Decode,
    ) -> Result<Self, MakeError> {
        let runtime = setup.runtime();
        let events = {
            let _inside = runtime.enter();
            object.events("events", setup.platform().perf_bytes).map_err(crate::refused)?
        };
        let drops = object.per_cpu_cells("drops").map_err(crate::refused)?;
        let entrance = setup.platform().bus.entrance(collector, limits);
        let ledger = entrance.ledger();
        let (flush, inbox) = Flush::new("nobody reads the events of the kernel any more");
        runtime.spawn(Task { events, inbox, entrance, decoder: Clock::new(decoder) }.run());
        Ok(Self { collector, drops, ledger, flush })
    }

    /// Records what was emitted and what was lost, once everything that happened before has been passed on.
    ///
    /// # Errors
    /// Fails when the reading end is gone.
    pub async fn record(&self, scrape: &mut Scrape) -> Result<(), CollectError> {
        let broken = self.flush().await?;
        let drops = self.drops.get(0).map_err(|error| CollectError(error.to_string()))?;
        self.ledger.record(scrape);
        for (reason, events) in [("ring_full", drops.iter().sum()), ("unreadable", broken)] {
            let values = [Text::Static(self.collector), Text::Static(reason)];
            scrape.record(&EVENTS_LOST, Subject::Node, values, events);
        }
        Ok(())
    }

    /// Passes on everything that happened before; gives how many records made no sense.
    ///
    /// # Errors
    /// Fails when the reading end is gone.
    pub async fn flush(&self) -> Result<u64, CollectError> {
        self.flush.wait().await
    }
}

/// A decoder with the Unix clock, which may be set, and the number of records that made no sense.
#[derive(Debug)]
pub struct Clock<D> {
    decoder: D,
    offset: i64,
    broken: u64,
}

impl<D: Decode + Default> Default for Clock<D> {
    fn default() -> Self {
        Self::new(D::default())
    }
}

impl<D: Decode> Clock<D> {
    fn new(decoder: D) -> Self {
        Self { decoder, offset: bpf::clock::unix_offset(), broken: 0 }
    }

    /// Follows the Unix clock.
    pub fn look_at_clock(&mut self) {
        self.offset = bpf::clock::unix_offset();
    }

    /// Gives how many records made no sense.
    pub fn broken(&self) -> u64 {
        self.broken
    }

    /// Decodes a record and puts it on the bus.
    pub fn pass_on(&mut self, record: &[u8], entrance: &mut Entrance) {
        match self.decoder.decode(record, self.offset) {
            Ok(event) => entrance.put(event),
            Err(Left::Repeated) => {}
            Err(Left::Broken) => self.broken += 1,
        }
    }
}

/// What reads the kernel's events, until the collector is dropped.
struct Task<D> {
    events: Events,
    inbox: Wishes<u64>,
    entrance: Entrance,
    decoder: Clock<D>,
}

impl<D: Decode> Task<D> {
    async fn run(mut self) {
        let mut waiting = false;
        loop {
            let (decoder, entrance) = (&mut self.decoder, &mut self.entrance);
            tokio::select! {
                biased;
                wish = self.inbox.recv() => {
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
