//! What outlives the agent: collectors whose pins were taken over go on with the series of the agent before, and after
//! each gather is written what the next one has to know.

use std::collections::HashMap;

use bpf::{Kept, Pins};
use opentelemetry::KeyValue;
use tokio::sync::oneshot;

use super::Engine;
use crate::collector::Scrape;
use crate::own::collector;
use crate::series::{Checkpoint, Moment, Saving};

/// Said of collectors whose maps and programs end with the agent.
const ENDS: &str = "not kept over restarts";

/// What the gather thread keeps for the next agent.
pub(crate) struct Keeper {
    pins: Pins,
    place: bpf::Checkpoint,
    /// What the agent before has left.
    saved: Option<Checkpoint>,
    /// When the maps were made of those whose series are kept, by slot.
    since: Vec<(usize, u64)>,
    /// What they know besides their maps, by slot.
    bequests: HashMap<usize, Vec<u8>>,
    /// Who waits until what it knows is written, by slot.
    waiting: Vec<(usize, oneshot::Sender<()>)>,
    /// Whether it was logged that nothing can be written.
    failed: bool,
}

impl Keeper {
    /// Reads what the agent before has left.
    pub fn new(pins: Pins) -> Self {
        let mut place = pins.checkpoint();
        let saved: Option<Checkpoint> = place.read().and_then(|bytes| {
            let decoded = postcard::from_bytes(&bytes);
            decoded.inspect_err(|error| tracing::warn!("the checkpoint of the agent before: {error}")).ok()
        });
        for part in saved.iter().flat_map(|saved| &saved.parts) {
            pins.hand_down(&part.collector, part.since, part.bequest.clone());
        }
        Self { pins, place, saved, since: Vec::new(), bequests: HashMap::new(), waiting: Vec::new(), failed: false }
    }
}

impl Keeper {
    fn forget(&mut self, at: usize) {
        self.bequests.remove(&at);
        self.waiting.retain(|(other, _)| *other != at);
    }
}

impl Engine {
    /// Takes note of what became of the pins of a collector that was made.
    pub(super) fn keep(&mut self, at: usize, kept: Option<Kept>) {
        let Some(keeper) = &mut self.keeper else { return };
        let slot = &mut self.slots[at];
        let name = slot.name;
        keeper.since.retain(|(other, _)| *other != at);
        keeper.forget(at);
        let Some(Kept { adopted, since, refused }) = kept else {
            self.shared.health.set_kept(name, ENDS.to_owned());
            return;
        };
        keeper.since.push((at, since));
        let outcome = if adopted {
            tracing::info!(collector = name, "goes on with the maps and programs of the agent before");
            self.shared.health.set_kept(name, "kept over restarts; taken over from the agent before".to_owned());
            "adopted"
        } else if let Some(why) = refused {
            tracing::warn!(collector = name, "begins afresh: what the agent before has left does not fit: {why}");
            self.shared.health.set_kept(name, format!("kept over restarts; began afresh: {why}"));
            "refused"
        } else {
            self.shared.health.set_kept(name, "kept over restarts".to_owned());
            "absent"
        };
        self.instruments.pin_takeovers.add(1, &[collector(name), KeyValue::new("outcome", outcome)]);
        if let Some(saved) = keeper.saved.as_ref().filter(|_| adopted) {
            // Until its first round is there, what the agent before knew is what belongs to these series.
            if let Some(part) = saved.parts.iter().find(|part| part.collector == name && part.since == since) {
                keeper.bequests.insert(at, part.bequest.clone());
            }
            let metrics = slot.selection.descriptor.metrics;
            let saving = Saving { collector: at as u16, name, since, metrics, bequest: &[] };
            let steady = self.timeline.tick().steady;
            self.store.resume(saved, &saving, steady, &*self.resolver);
            self.before = self.before.max(saved.time);
        }
    }

    /// Removes the pins of collectors that are not to run any more; what collectors share is pinned under the name of one.
    pub(super) fn sweep_pins(&mut self) {
        if let Some(keeper) = &self.keeper {
            let enabled = self.slots.iter().filter(|slot| slot.selection.enabled).map(|slot| slot.name);
            let mut names: Vec<&str> = enabled.collect();
            for group in self.options.together {
                if group.iter().any(|name| names.contains(name)) {
                    names.extend(*group);
                }
            }
            keeper.pins.sweep(&names);
        }
    }

    /// Takes what a collector knows besides its maps as of the readings that were just merged.
    pub(super) fn take_bequest(&mut self, at: usize, scrape: &mut Scrape) {
        if let (Some(keeper), Some(bequest)) = (&mut self.keeper, scrape.bequest.take()) {
            keeper.bequests.insert(at, bequest);
            keeper.waiting.extend(scrape.waiting.take().map(|waiting| (at, waiting)));
        }
    }

    /// Forgets about a collector whose maps are gone.
    pub(super) fn unkeep(&mut self, at: usize) {
        if let Some(keeper) = &mut self.keeper {
            keeper.since.retain(|(other, _)| *other != at);
            keeper.forget(at);
        }
    }

    /// Writes what the next agent has to know.
    pub(super) fn write_checkpoint(&mut self, moment: Moment) {
        let Some(keeper) = &mut self.keeper else { return };
        keeper.saved = None;
        let saving = |&(at, since): &(usize, u64)| {
            let slot = &self.slots[at];
            let metrics = slot.selection.descriptor.metrics;
            let bequest = keeper.bequests.get(&at).map_or(&[][..], Vec::as_slice);
            Saving { collector: at as u16, name: slot.name, since, metrics, bequest }
        };
        let saving: Vec<Saving<'_>> = keeper.since.iter().map(saving).collect();
        let bytes = postcard::to_allocvec(&self.store.save(moment.now, &saving, &*self.resolver))
            .map_err(|error| error.to_string());
        let written = bytes.and_then(|bytes| keeper.place.write(&bytes).map_err(|error| error.to_string()));
        match written {
            Ok(()) => keeper.failed = false,
            Err(why) if !std::mem::replace(&mut keeper.failed, true) => {
                tracing::warn!("cannot write what the next agent has to know: {why}");
            }
            Err(_) => {}
        }
        // Where it cannot be written they need not wait for it, either.
        for (_, waiting) in keeper.waiting.drain(..) {
            let _ = waiting.send(());
        }
    }

    /// Leaves all pins to the next agent.
    pub(super) fn leave_pins(&self) {
        if let Some(keeper) = &self.keeper {
            keeper.pins.leave();
        }
    }
}
