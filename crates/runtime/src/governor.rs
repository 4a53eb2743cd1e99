//! The overhead governor: what collectors cost, against what the configuration allows, and how far each goes for that.
//!
//! It knows nothing of threads and kernels: numbers of a window come in, steps go out.

use std::collections::HashMap;
use std::time::Duration;

/// How far a collector goes. What it declares as its ladder leads down from [`Step::Full`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// As it is configured.
    Full,
    /// Of what it would time, it times one in [`THINNING`].
    Sampling,
    /// It counts, and times nothing.
    Counting,
    /// It is detached.
    Paused,
}

/// Of what a collector would time, so many times fewer are timed on the step that samples.
pub const THINNING: u32 = 16;

/// The whole ladder, for collectors that time what happens often.
pub const LADDER: &[Step] = &[Step::Sampling, Step::Counting, Step::Paused];

impl Step {
    /// All steps, from the top.
    pub const ALL: [Self; 4] = [Self::Full, Self::Sampling, Self::Counting, Self::Paused];

    /// Gives the step's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Sampling => "sampling",
            Self::Counting => "counting",
            Self::Paused => "paused",
        }
    }

    /// Gives of how many operations that would be timed one is; 0 where none is.
    pub(crate) fn every(self) -> u32 {
        match self {
            Self::Full => 1,
            Self::Sampling => THINNING,
            Self::Counting | Self::Paused => 0,
        }
    }
}

/// What collectors may cost, in percent of one CPU.
#[derive(Clone, Debug, PartialEq)]
pub struct Budget {
    /// All of them together.
    pub whole: Option<f64>,
    /// Each by itself.
    pub each: HashMap<String, f64>,
    /// Over how long the cost is measured before anything is done.
    pub window: Duration,
    /// Whether a collector may be detached for it: that takes somebody who can attach it again.
    pub pauses: bool,
}

impl Default for Budget {
    fn default() -> Self {
        Self { whole: None, each: HashMap::new(), window: Duration::from_secs(10), pauses: true }
    }
}

impl Budget {
    /// Says whether what a collector costs is measured.
    pub fn governs(&self, collector: &str) -> bool {
        self.whole.is_some() || self.each.contains_key(collector)
    }

    /// Gives how much of a collector's ladder leads anywhere.
    pub(crate) fn ladder(&self, whole: &'static [Step]) -> &'static [Step] {
        if self.pauses { whole } else { whole.strip_suffix(&[Step::Paused]).unwrap_or(whole) }
    }
}

/// What a collector did in a window.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Spent {
    /// How often its programs ran.
    pub runs: f64,
    /// Seconds of CPU time in its programs.
    pub programs: f64,
    /// Seconds of CPU time of its rounds.
    pub rounds: f64,
}

impl Spent {
    fn sum(self) -> f64 {
        self.programs + self.rounds
    }
}

/// So many windows above the budget lead a step down.
const ABOVE: u32 = 2;
/// So many windows within it lead a step up, at first.
const BELOW: u32 = 3;
/// The most windows that are waited for a step up, after it has led down again and again.
const LONGEST: u32 = 96;
/// A step up must leave the cost below so much of the budget.
const ROOM: f64 = 0.8;

/// A collector as the governor sees it.
#[derive(Clone, Debug)]
pub(crate) struct Governed {
    ladder: &'static [Step],
    /// How many steps of the ladder it is down.
    depth: usize,
    above: u32,
    below: u32,
    /// How many windows within the budget lead up: twice as many each time when a step up was too much.
    patience: u32,
    /// How many windows ago it last went up.
    risen: u32,
    /// What a run cost where it has been, in seconds: by depth.
    run: [Option<f64>; Step::ALL.len()],
    last: Spent,
}

/// Where a window led to, and why.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Turn {
    /// Which of the collectors.
    pub at: usize,
    /// Where it goes.
    pub step: Step,
    /// What is to be said of it.
    pub why: String,
}

impl Governed {
    pub fn new(ladder: &'static [Step]) -> Self {
        Self {
            ladder,
            depth: 0,
            above: 0,
            below: 0,
            patience: BELOW,
            risen: LONGEST,
            run: [None; Step::ALL.len()],
            last: Spent::default(),
        }
    }

    /// Gives where it is.
    pub fn step(&self) -> Step {
        self.depth.checked_sub(1).map_or(Step::Full, |at| self.ladder[at])
    }

    fn note(&mut self, spent: Spent) {
        if self.step() != Step::Paused {
            self.last = spent;
            if spent.runs > 0.0 && spent.programs > 0.0 {
                self.run[self.depth] = Some(spent.programs / spent.runs);
            }
        }
        self.risen = self.risen.saturating_add(1);
        // What has gone well for long is trusted again.
        if self.risen > LONGEST {
            self.patience = BELOW;
        }
    }

    /// Gives the seconds that a window like the last would cost a step further up; nothing where that cannot be known.
    fn higher(&self) -> Option<f64> {
        let run = self.run[self.depth.checked_sub(1)?].or(self.run[self.depth]).unwrap_or_default();
        (self.step() != Step::Paused).then_some(run * self.last.runs + self.last.rounds)
    }

    fn can_go_down(&self) -> bool {
        self.depth < self.ladder.len()
    }

    fn down(&mut self) -> Step {
        self.depth += 1;
        (self.above, self.below) = (0, 0);
        // It was too much to go up.
        if self.risen <= self.patience {
            self.patience = (2 * self.patience).min(LONGEST);
        }
        self.step()
    }

    fn up(&mut self) -> Step {
        self.depth -= 1;
        (self.above, self.below, self.risen) = (0, 0, 0);
        self.step()
    }
}

/// A collector in a window.
pub(crate) struct Window {
    pub name: &'static str,
    pub spent: Spent,
}

/// Judges windows, one after another.
#[derive(Debug, Default)]
pub(crate) struct Governor {
    /// How many windows in a row all together were above the budget.
    above: u32,
}

impl Governor {
    /// Judges a window of so many seconds: every collector that has a budget of its own, then all together.
    pub fn judge(&mut self, budget: &Budget, seconds: f64, windows: &[Window], all: &mut [&mut Governed]) -> Vec<Turn> {
        let percent = |spent: f64| 100.0 * spent / seconds;
        let took: Vec<f64> = windows.iter().map(|window| percent(window.spent.sum())).collect();
        let whole: f64 = took.iter().sum();
        let mut turns = Vec::new();
        for (at, (window, governed)) in windows.iter().zip(all.iter_mut()).enumerate() {
            governed.note(window.spent);
            let Some(&allowed) = budget.each.get(window.name) else { continue };
            governed.above = if took[at] > allowed { governed.above + 1 } else { 0 };
            if governed.above >= ABOVE && governed.can_go_down() {
                let why =
                    format!("it took {:.3} % of a CPU, budget.collectors.{} is {allowed} %", took[at], window.name);
                turns.push(Turn { at, step: governed.down(), why });
            }
        }
        self.above = if budget.whole.is_some_and(|allowed| whole > allowed) { self.above + 1 } else { 0 };
        if let Some(allowed) = budget.whole.filter(|_| self.above >= ABOVE && turns.is_empty()) {
            let able = (0..all.len()).filter(|&at| all[at].can_go_down() && took[at] > 0.0);
            if let Some(at) = able.max_by(|&a, &b| took[a].total_cmp(&took[b])) {
                let why =
                    format!("of {whole:.3} % of a CPU it took {:.3} %, budget.cpu_percent is {allowed} %", took[at]);
                turns.push(Turn { at, step: all[at].down(), why });
                self.above = 0;
            }
        }
        if turns.is_empty() {
            turns.extend(rise(budget, (percent, whole), windows, &took, all));
        }
        turns
    }
}

/// Lets the one go up that has had room for longest.
fn rise(
    budget: &Budget,
    (percent, whole): (impl Fn(f64) -> f64, f64),
    windows: &[Window],
    took: &[f64],
    all: &mut [&mut Governed],
) -> Option<Turn> {
    for (at, governed) in all.iter_mut().enumerate().filter(|(_, governed)| governed.depth > 0) {
        // Of what is paused nothing is known: it is tried.
        let then = governed.higher().map_or(took[at], &percent);
        let room = |allowed: Option<f64>, then: f64| allowed.is_none_or(|allowed| then <= ROOM * allowed);
        let fits =
            room(budget.each.get(windows[at].name).copied(), then) && room(budget.whole, whole - took[at] + then);
        governed.below = if fits { governed.below + 1 } else { 0 };
    }
    let able = (0..all.len()).filter(|&at| all[at].depth > 0 && all[at].below >= all[at].patience);
    let at = able.max_by_key(|&at| all[at].below)?;
    let why = format!("it took {:.3} % of a CPU for {} windows", took[at], all[at].below);
    Some(Turn { at, step: all[at].up(), why })
}

#[cfg(test)]
mod tests;
