//! What the programs of an object cost, and how far they go: `bpf/lib/cost.bpf.h`, where a collector has a budget.

use crate::abi::cost::{Cost, Stage};
use crate::clock;
use crate::error::Error;
use crate::table::{Cells, PerCpuCells};

/// The reins of an object's programs.
pub struct Reins {
    costs: PerCpuCells<Cost>,
    stages: Cells<Stage>,
    every: u32,
    last: Cost,
    /// What a run cost when it was last known, in nanoseconds.
    run: f64,
}

impl Reins {
    /// Takes the reins: everything is done at first.
    pub(crate) fn new(costs: PerCpuCells<Cost>, stages: Cells<Stage>) -> Result<Self, Error> {
        let mut reins = Self { costs, stages, every: 1, last: Cost::default(), run: 0.0 };
        reins.set(1)?;
        Ok(reins)
    }

    /// Gives how often the programs have run since the last time, and the seconds that they took, by some of the runs.
    ///
    /// # Errors
    /// Fails when the kernel refuses to read the map.
    pub fn spent(&mut self) -> Result<(f64, f64), Error> {
        let mut now = Cost::default();
        for cost in self.costs.get(0)? {
            now.runs += cost.runs;
            now.samples += cost.samples;
            now.time += cost.time;
        }
        let since = |now: u64, last: u64| now.saturating_sub(last) as f64;
        let (runs, samples) = (since(now.runs, self.last.runs), since(now.samples, self.last.samples));
        if samples > 0.0 {
            self.run = since(now.time, self.last.time) / samples;
        }
        self.last = now;
        Ok((runs, runs * self.run / 1e9))
    }

    /// Has the programs time one in so many of what they would time; 0 for nothing.
    ///
    /// # Errors
    /// Fails when the kernel refuses to write the map.
    pub fn set(&mut self, every: u32) -> Result<(), Error> {
        self.stages.set(0, &Stage { since: clock::monotonic(), every, before: self.every })?;
        self.every = every;
        Ok(())
    }
}
