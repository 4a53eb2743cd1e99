//! Another configuration for the running collectors: those that it concerns are read once more, detached and made anew;
//! all others go on as if nothing had happened.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::{ATTACH, DETACH, Engine, Message, Phase};
use crate::clock::Clock;
use crate::health::State;
use crate::manager::Selection;
use crate::own::collector;
use crate::series::Limits;
use crate::setup::Platform;
use crate::worker::{Post, Worker};

/// What is to be otherwise.
pub struct Change {
    /// What the configuration says now of each collector.
    pub selections: Vec<Selection>,
    /// What collectors that are made from now on share.
    pub platform: Arc<Platform>,
    /// Collectors that are made anew although nothing is said otherwise of themselves.
    pub anew: Vec<&'static str>,
    /// How many series there may be and how long they live.
    pub limits: Limits,
    /// How often a gather takes place at least.
    pub housekeeping: Duration,
}

/// A change and who waits for it.
pub(crate) type Wish = (Change, oneshot::Sender<Vec<&'static str>>);

/// A change whose collectors are being made.
pub(super) struct Changing {
    slots: Vec<usize>,
    /// When it is over even if some are not made.
    pub until: Instant,
    reply: oneshot::Sender<Vec<&'static str>>,
}

/// What starting a worker takes.
pub(crate) struct Starter {
    pub platform: Arc<Platform>,
    pub runtime: Handle,
    pub clock: Clock,
    pub reports: Sender<Message>,
}

impl Starter {
    pub fn start(&self, from: Post, selection: &Selection) -> std::io::Result<Worker> {
        let (platform, runtime, clock) = (Arc::clone(&self.platform), self.runtime.clone(), self.clock.clone());
        let section = selection.section.clone();
        Worker::start(from, selection.descriptor, section, platform, (runtime, clock), self.reports.clone())
    }
}

/// Gives the collectors of which something else is said than `before`, those that are made `anew` all the same, and those
/// that are made together with them.
pub fn concerned<'s>(
    before: impl IntoIterator<Item = &'s Selection>,
    now: &[Selection],
    anew: &[&str],
    together: &[&[&str]],
) -> Vec<&'static str> {
    let differs = |was: &&Selection| {
        let name = was.descriptor.name;
        let now = now.iter().find(|selection| selection.descriptor.name == name);
        now.is_some_and(|now| {
            let runs = was.enabled && now.enabled;
            was.enabled != now.enabled || runs && (was.section != now.section || anew.contains(&name))
        })
    };
    let name = |selection: &Selection| selection.descriptor.name;
    let mut all: Vec<&str> = before.into_iter().filter(differs).map(name).collect();
    let groups = together.iter().filter(|group| group.iter().any(|name| all.contains(name)));
    let others: Vec<&str> = groups.flat_map(|group| group.iter().copied()).collect();
    let joins = |now: &&Selection| now.enabled && others.contains(&name(now)) && !all.contains(&name(now));
    let joining: Vec<&str> = now.iter().filter(joins).map(name).collect();
    all.extend(joining);
    all
}

impl Engine {
    /// Begins the next change when none is under way, and ends one whose collectors have been tried.
    pub(super) fn change(&mut self, inbox: &Receiver<Message>) {
        self.conclude();
        if self.changing.is_none()
            && let Some((change, reply)) = self.wishes.pop_front()
        {
            let slots = self.begin_change(change, inbox);
            self.changing = Some(Changing { slots, until: Instant::now() + ATTACH, reply });
            self.conclude();
        }
    }

    /// Takes a change over; gives the collectors that it concerns.
    fn begin_change(&mut self, change: Change, inbox: &Receiver<Message>) -> Vec<usize> {
        let Change { selections, platform, anew, limits, housekeeping } = change;
        let concerned = self.concerned(&selections, &anew);
        if !concerned.is_empty() {
            // What they have counted until now is kept.
            self.gather(inbox);
            self.detach(&concerned, inbox);
        }
        self.store.limit(limits);
        (self.options.limits, self.options.housekeeping) = (limits, housekeeping);
        self.starter.platform = platform;
        for selection in selections {
            let name = selection.descriptor.name;
            if let Some(slot) = self.slots.iter_mut().find(|slot| slot.name == name) {
                self.shared.health.renew(name, selection.required, None);
                slot.selection = selection;
            }
        }
        for &at in &concerned {
            let slot = &mut self.slots[at];
            if !slot.selection.enabled {
                self.shared.health.set(slot.name, State::Disabled);
                continue;
            }
            let state = State::Failed("not attached yet".to_owned());
            self.shared.health.renew(slot.name, slot.selection.required, Some(state));
            if let Err(error) = slot.start(at, &self.starter) {
                slot.phase = Phase::Away;
                self.shared.health.set(slot.name, State::Failed(format!("cannot start its thread: {error}")));
            }
        }
        concerned
    }

    /// Gives the collectors that a change concerns.
    fn concerned(&self, selections: &[Selection], anew: &[&str]) -> Vec<usize> {
        let before = self.slots.iter().map(|slot| &slot.selection);
        let names = concerned(before, selections, anew, self.options.together);
        (0..self.slots.len()).filter(|&at| names.contains(&self.slots[at].name)).collect()
    }

    /// Detaches collectors. One that hangs is left behind.
    pub(super) fn detach(&mut self, which: &[usize], inbox: &Receiver<Message>) {
        for &at in which {
            if let Some(worker) = &self.slots[at].worker {
                worker.stop();
            }
        }
        let until = Instant::now() + DETACH;
        let remain = |engine: &Self| which.iter().any(|&at| engine.slots[at].phase != Phase::Stopped);
        while remain(self) && self.receive(inbox, until) {}
        for &at in which {
            let slot = &mut self.slots[at];
            if slot.phase != Phase::Stopped {
                tracing::warn!(collector = slot.name, "collector did not detach in time");
            }
            if slot.worker.take().is_some() {
                // Whatever it still says is of a collector that is gone.
                (slot.number, slot.phase, slot.asked) = (slot.number + 1, Phase::Stopped, None);
                slot.ended = true;
                self.instruments.load_status.record(0, &[collector(slot.name)]);
                let name = slot.name;
                self.set_watches(name, Vec::new());
                self.unkeep(at);
            }
        }
        self.rounds.retain(|round| !which.contains(&round.slot));
    }

    fn conclude(&mut self) {
        let done = |changing: &mut Changing| {
            let is_new = |at: &usize| self.slots[*at].phase == Phase::New;
            !changing.slots.iter().any(is_new) || Instant::now() >= changing.until
        };
        let Some(changing) = self.changing.take_if(done) else { return };
        for &at in changing.slots.iter().filter(|at| self.slots[**at].phase == Phase::New) {
            let why = format!("has not attached within {} s", ATTACH.as_secs());
            self.shared.health.set(self.slots[at].name, State::Failed(why));
        }
        self.starter.platform.forget_types();
        // Who asked may be gone.
        drop(changing.reply.send(changing.slots.iter().map(|&at| self.slots[at].name).collect()));
    }
}
