//! The ladder goes down for what costs too much, and up again when it fits.

use super::*;

/// So many seconds have the windows here.
const SECONDS: f64 = 10.0;

struct Scene {
    budget: Budget,
    governor: Governor,
    all: Vec<(&'static str, Governed)>,
}

impl Scene {
    fn new(whole: Option<f64>, each: &[(&'static str, f64)], ladders: &[(&'static str, &'static [Step])]) -> Self {
        let each = each.iter().map(|&(name, allowed)| (name.to_owned(), allowed)).collect();
        let all = ladders.iter().map(|&(name, ladder)| (name, Governed::new(ladder))).collect();
        Self { budget: Budget { whole, each, ..Budget::default() }, governor: Governor::default(), all }
    }

    /// Passes a window in which each collector ran so often, at so many nanoseconds; gives who went where.
    fn pass(&mut self, runs: &[(f64, f64)]) -> Vec<(&'static str, Step)> {
        let windows: Vec<Window> = self
            .all
            .iter()
            .zip(runs)
            .map(|((name, governed), &(runs, ns))| {
                let paused = governed.step() == Step::Paused;
                let spent = Spent { runs, programs: runs * ns / 1e9, rounds: 0.0 };
                Window { name, spent: if paused { Spent::default() } else { spent } }
            })
            .collect();
        let mut governed: Vec<&mut Governed> = self.all.iter_mut().map(|(_, governed)| governed).collect();
        let turns = self.governor.judge(&self.budget, SECONDS, &windows, &mut governed);
        turns.into_iter().map(|turn| (windows[turn.at].name, turn.step)).collect()
    }

    /// Passes windows until somebody goes somewhere; gives how many that took and who went.
    fn next(&mut self, runs: &[(f64, f64)]) -> (u32, Vec<(&'static str, Step)>) {
        for windows in 1..1000 {
            let turns = self.pass(runs);
            if !turns.is_empty() {
                return (windows, turns);
            }
        }
        (0, Vec::new())
    }
}

/// A million runs in a window, of 1 microsecond: 10 % of a CPU.
const BUSY: (f64, f64) = (1e6, 1000.0);
const QUIET: (f64, f64) = (1e3, 1000.0);

#[test]
fn a_budget_of_its_own_leads_down_step_by_step_and_up_again() {
    let mut scene = Scene::new(None, &[("busy", 5.0)], &[("busy", LADDER), ("other", LADDER)]);
    for step in [Step::Sampling, Step::Counting, Step::Paused] {
        assert_eq!(scene.next(&[BUSY, BUSY]), (ABOVE, vec![("busy", step)]));
    }
    // What is paused is tried: it goes down again, and the next time it takes longer.
    let mut before = 0;
    for _ in 0..3 {
        let (windows, turns) = scene.next(&[BUSY, BUSY]);
        assert_eq!(turns, [("busy", Step::Counting)]);
        assert!(windows > before, "{windows} windows after {before}");
        before = windows;
        assert_eq!(scene.next(&[BUSY, BUSY]), (ABOVE, vec![("busy", Step::Paused)]));
    }
    for step in [Step::Counting, Step::Sampling, Step::Full] {
        assert_eq!(scene.next(&[QUIET, BUSY]).1, [("busy", step)]);
    }
    assert_eq!(scene.next(&[QUIET, BUSY]), (0, vec![]), "and there it stays");
}

#[test]
fn a_step_up_that_would_cost_too_much_is_not_taken() {
    let mut scene = Scene::new(None, &[("busy", 5.0)], &[("busy", LADDER)]);
    assert_eq!(scene.next(&[BUSY]).1, [("busy", Step::Sampling)]);
    // It fits now, but only because a run costs less here.
    let cheaper = (1e6, 100.0);
    assert_eq!(scene.next(&[cheaper]), (0, vec![]));
    // Half as many runs are 5 % further up: no room to spare. A third is.
    assert_eq!(scene.next(&[(5e5, 100.0)]), (0, vec![]));
    assert_eq!(scene.next(&[(3e5, 100.0)]), (BELOW, vec![("busy", Step::Full)]));
}

#[test]
fn all_together_the_costliest_goes_first_and_who_cannot_is_left_alone() {
    let ladders: [(&'static str, &'static [Step]); 3] = [("small", LADDER), ("large", &[Step::Paused]), ("fixed", &[])];
    let mut scene = Scene::new(Some(10.0), &[], &ladders);
    let runs = [(5e5, 1000.0), (8e5, 1000.0), (9e5, 1000.0)];
    assert_eq!(scene.next(&runs), (ABOVE, vec![("large", Step::Paused)]));
    assert_eq!(scene.next(&runs), (ABOVE, vec![("small", Step::Sampling)]));
    // 6 % of 10 and none of it can be saved elsewhere; there is no room for what is paused.
    let runs = [(1e3, 100.0), (8e5, 1000.0), (9e5, 1000.0)];
    assert_eq!(scene.next(&runs), (0, vec![]));
    let runs = [(1e3, 100.0), (1e5, 1000.0), (1e5, 1000.0)];
    let mut risen = [scene.next(&runs).1, scene.next(&runs).1].concat();
    risen.sort_by_key(|(name, _)| *name);
    assert_eq!(risen, [("large", Step::Full), ("small", Step::Full)]);
}

#[test]
fn one_window_is_no_reason() {
    let mut scene = Scene::new(Some(5.0), &[("busy", 5.0)], &[("busy", LADDER)]);
    for _ in 0..10 {
        assert_eq!(scene.pass(&[BUSY]), []);
        assert_eq!(scene.pass(&[QUIET]), []);
    }
}
