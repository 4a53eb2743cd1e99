//! The governor's hands: they measure what each collector costs, lead it down its ladder and up again, and say so.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use model::Subject;
use model::event::{Detail, Event, Throttle};
use opentelemetry::KeyValue;

use super::{Engine, Message, Phase, Slot};
use crate::bus::Entrance;
use crate::collector::Scrape;
use crate::governor::{Budget, Governed, Governor, Spent, Step, THINNING, Turn, Window};
use crate::health::State;
use crate::own::collector;
use crate::series::{Moment, Origin};
use std::sync::mpsc::Receiver;

/// The name under which the governor's events are.
const NAME: &str = "governor";

/// What a collector costs, and what was made of that.
pub(super) struct Costs {
    pub governed: Governed,
    reins: Vec<bpf::Reins>,
    /// Since the last window.
    spent: Spent,
    /// Why it does less than it could.
    pub why: Option<String>,
    /// It is detached because another one is that shares its programs.
    follows: bool,
}

/// What the governor keeps from window to window.
pub(super) struct Governance {
    governor: Governor,
    since: Instant,
    entrance: Option<Entrance>,
    scrape: Scrape,
}

impl Governance {
    pub fn new() -> Self {
        Self { governor: Governor::default(), since: Instant::now(), entrance: None, scrape: Scrape::default() }
    }
}

impl Slot {
    /// Begins to measure, where the collector is to keep within a budget.
    pub(super) fn begin_costs(&mut self, budget: &Budget) {
        let ladder = budget.ladder(self.selection.descriptor.ladder);
        self.costs = budget.governs(self.name).then(|| Costs {
            governed: Governed::new(ladder),
            reins: Vec::new(),
            spent: Spent::default(),
            why: None,
            follows: false,
        });
    }

    /// Takes the reins of the collector's programs, which begin where it stands.
    pub(super) fn take_reins(&mut self, reins: Vec<bpf::Reins>) {
        let Some(costs) = &mut self.costs else { return };
        costs.reins = reins;
        costs.turn(costs.governed.step());
    }

    /// Says why the collector does less than it could, for its budget.
    pub(super) fn throttled(&self) -> Option<&str> {
        self.costs.as_ref()?.why.as_deref()
    }
}

impl Costs {
    fn turn(&mut self, step: Step) {
        for reins in &mut self.reins {
            if let Err(error) = reins.set(step.every()) {
                tracing::warn!("a collector cannot be led: {error}");
            }
        }
    }
}

impl Engine {
    /// Adds the CPU time of a part of a round.
    pub(super) fn add_cost(&mut self, at: usize, took: Duration) {
        let Some(slot) = self.slots.get_mut(at) else { return };
        let Some(costs) = &mut slot.costs else { return };
        costs.spent.rounds += took.as_secs_f64();
        let attributes = [collector(slot.name), KeyValue::new("part", "rounds")];
        self.instruments.collector_cpu.add(took.as_secs_f64(), &attributes);
    }

    /// Reads what the programs have cost since they were last read.
    fn read_costs(&mut self) {
        for slot in &mut self.slots {
            let Some(costs) = &mut slot.costs else { continue };
            for reins in &mut costs.reins {
                // A map that is held here can be read.
                let Ok((runs, seconds)) = reins.spent() else { continue };
                costs.spent.runs += runs;
                costs.spent.programs += seconds;
                let attributes = [collector(slot.name), KeyValue::new("part", "programs")];
                self.instruments.collector_cpu.add(seconds, &attributes);
            }
            for step in Step::ALL {
                let attributes = [collector(slot.name), KeyValue::new("step", step.name())];
                self.instruments.collector_step.record(u64::from(costs.governed.step() == step), &attributes);
            }
        }
    }

    /// Records what became of the governor's events.
    pub(super) fn record_events(&mut self, moment: Moment) {
        let Some(entrance) = &mut self.governance.entrance else { return };
        entrance.flush();
        let scrape = &mut self.governance.scrape;
        scrape.clear();
        entrance.ledger().record(scrape);
        let origin = Origin { collector: self.slots.len() as u16, attached: moment.now, superseded: false };
        if let Err(metric) = self.store.merge(origin, scrape, moment, &*self.resolver) {
            tracing::error!("the governor records {metric}");
        }
    }

    /// Ends a window when it is over, and has collectors go where that leads them.
    pub(super) fn govern(&mut self, inbox: &Receiver<Message>) {
        if self.slots.iter().all(|slot| slot.costs.is_none()) || self.changing.is_some() || self.stop {
            return;
        }
        self.read_costs();
        let (budget, seconds) = (self.starter.platform.budget.clone(), self.governance.since.elapsed());
        if seconds < budget.window {
            return;
        }
        self.governance.since = Instant::now();
        let mut places = Vec::new();
        let mut windows = Vec::new();
        let mut governed = Vec::new();
        for (at, slot) in self.slots.iter_mut().enumerate() {
            let Some(costs) = slot.costs.as_mut().filter(|_| slot.selection.enabled) else { continue };
            places.push(at);
            windows.push(Window { name: slot.name, spent: std::mem::take(&mut costs.spent) });
            governed.push(&mut costs.governed);
        }
        let turns = self.governance.governor.judge(&budget, seconds.as_secs_f64(), &windows, &mut governed);
        for turn in turns {
            self.turn(Turn { at: places[turn.at], ..turn }, inbox);
        }
    }

    /// Has a collector go to a step of its ladder.
    fn turn(&mut self, turn: Turn, inbox: &Receiver<Message>) {
        let Turn { at, step, why } = turn;
        let phase = self.slots[at].phase;
        let said = match step {
            Step::Full => format!("as configured again: {why}"),
            Step::Sampling => format!("of what it would time one in {THINNING} is timed: {why}"),
            Step::Counting => format!("it counts and times nothing: {why}"),
            Step::Paused => format!("it is paused: {why}"),
        };
        if let Some(costs) = &mut self.slots[at].costs {
            costs.why = (step != Step::Full).then(|| said.clone());
            costs.turn(step);
        }
        self.tell(self.slots[at].name, step, why);
        if step == Step::Paused {
            self.pause(at, inbox);
        } else if phase == Phase::Stopped {
            self.resume(at);
        } else if phase == Phase::Attached {
            let slot = &self.slots[at];
            self.shared.health.set(slot.name, slot.state(None));
        }
    }

    /// Gives those that share programs with a collector, itself among them.
    fn company(&self, at: usize) -> Vec<usize> {
        let name = self.slots[at].name;
        let group = self.options.together.iter().find(|group| group.contains(&name));
        let shares = |slot: &Slot| slot.name == name || group.is_some_and(|group| group.contains(&slot.name));
        (0..self.slots.len())
            .filter(|&other| self.slots[other].selection.enabled && shares(&self.slots[other]))
            .collect()
    }

    /// Detaches a collector, and those that share its programs; what it has counted stays.
    fn pause(&mut self, at: usize, inbox: &Receiver<Message>) {
        let name = self.slots[at].name;
        let all = self.company(at);
        self.detach(&all, inbox);
        for other in all {
            let slot = &mut self.slots[other];
            let Some(costs) = &mut slot.costs else { continue };
            costs.reins.clear();
            if other != at {
                costs.follows = true;
                costs.why = Some(format!("it is paused, as {name} is, whose programs it shares"));
            }
            let why = costs.why.clone().unwrap_or_default();
            self.shared.health.set(slot.name, State::Degraded(why));
        }
    }

    /// Makes a collector again that was paused, and those that were paused with it.
    fn resume(&mut self, at: usize) {
        let all = self.company(at);
        for other in all {
            let slot = &mut self.slots[other];
            let Some(mut costs) = slot.costs.take() else { continue };
            if std::mem::take(&mut costs.follows) {
                costs.why = None;
            }
            let governs = Some(costs);
            let begun = slot.start(other, &self.starter);
            slot.costs = governs;
            if let Err(error) = begun {
                slot.phase = Phase::Away;
                self.shared.health.set(slot.name, State::Failed(format!("cannot start its thread: {error}")));
            }
        }
    }

    /// Tells whoever takes events.
    fn tell(&mut self, name: &'static str, step: Step, why: String) {
        let bus = &self.starter.platform.bus;
        let entrance = self.governance.entrance.get_or_insert_with(|| bus.entrance(NAME, HashMap::new()));
        let detail = Detail::Throttle(Box::new(Throttle { collector: name, step: step.name(), reason: why.into() }));
        let time = self.options.clock.read().unix;
        entrance.put(Event { time, subject: Subject::Node, pid: 0, command: [0; 16], detail });
        entrance.flush();
    }
}
