//! Collectors that do what their section says, round by round, and the world in which a test watches them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, LazyLock, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use model::{Metric, Subject};
use serde::{Deserialize, Serialize};
use telesonde_runtime::{CollectError, Collector, Descriptor, MakeError, Plan, Scrape, Section, Setup};

/// What each counting round adds.
pub const STEP: u64 = 5;
/// What the gauge always shows.
pub const DEPTH: u64 = 7;
/// How long a round waits at most for its gate.
const PATIENCE: Duration = Duration::from_secs(30);

pub static STEADY: Metric = Metric::counter("steady", "{event}", "Counts on.", &[]);
pub static FIRST: Metric = Metric::counter("first", "{event}", "Counts as the script says.", &[]);
pub static FIRST_DEPTH: Metric = Metric::gauge("first_depth", "{event}", "Shows a constant.", &[]);
pub static SECOND: Metric = Metric::counter("second", "{event}", "Counts as the script says.", &[]);
pub static SECOND_DEPTH: Metric = Metric::gauge("second_depth", "{event}", "Shows a constant.", &[]);
static STRANGE: Metric = Metric::counter("strange", "{event}", "Nobody declares it.", &[]);

/// Counts in every round, whatever happens to the others.
pub static STEADY_COLLECTOR: Descriptor = describe("steady", &[&STEADY], |setup| make(setup, &STEADY, None));
/// Follows its script.
pub static FIRST_COLLECTOR: Descriptor =
    describe("first", &[&FIRST, &FIRST_DEPTH], |setup| make(setup, &FIRST, Some(&FIRST_DEPTH)));
/// Follows its script too.
pub static SECOND_COLLECTOR: Descriptor =
    describe("second", &[&SECOND, &SECOND_DEPTH], |setup| make(setup, &SECOND, Some(&SECOND_DEPTH)));

const fn describe(
    name: &'static str,
    metrics: &'static [&'static Metric],
    make: fn(&mut Setup) -> Result<Box<dyn Collector>, MakeError>,
) -> Descriptor {
    Descriptor {
        name,
        summary: "Does what its section says.",
        limits: &[],
        metrics,
        needs: &[],
        ladder: &[],
        section: Section::of::<Script>(),
        plan: |_, _| Plan::default(),
        make,
    }
}

/// What to do in one round.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Act {
    /// Add [`STEP`] and record.
    Count,
    /// Wait for the gate, then count.
    Hang,
    /// Add, record for the last time, and begin at 0.
    Close,
    /// Record nothing and fail.
    Fail,
    /// Record, then panic.
    Panic,
    /// Record a metric that was not declared.
    Stray,
}

/// What to do when it is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Birth {
    #[default]
    Fine,
    Degraded,
    Panic,
    Unsupported,
}

/// One life of a collector: its birth and its rounds; the last round repeats.
#[derive(Clone, Debug, Default, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Life {
    pub birth: Birth,
    pub rounds: Vec<Act>,
}

/// The section of a scripted collector; the last life repeats.
#[derive(Clone, Debug, Default, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Script {
    pub world: String,
    pub lives: Vec<Life>,
}

/// What a test sees of a scripted collector, by the name in its section.
#[derive(Default)]
pub struct World {
    pub made: AtomicU64,
    pub dropped: AtomicU64,
    pub entered: AtomicU64,
    pub left: AtomicU64,
    gate: Mutex<bool>,
    opened: Condvar,
}

impl World {
    pub fn of(name: &str) -> Arc<Self> {
        static ALL: LazyLock<Mutex<HashMap<String, Arc<World>>>> = LazyLock::new(Mutex::default);
        Arc::clone(ALL.lock().unwrap().entry(name.to_owned()).or_default())
    }

    pub fn open(&self) {
        *self.gate.lock().unwrap() = true;
        self.opened.notify_all();
    }

    fn wait(&self) {
        let gate = self.gate.lock().unwrap();
        drop(self.opened.wait_timeout_while(gate, PATIENCE, |open| !*open).unwrap());
    }
}

struct Scripted {
    world: Arc<World>,
    rounds: Vec<Act>,
    round: usize,
    counter: &'static Metric,
    gauge: Option<&'static Metric>,
    total: u64,
}

fn make(
    setup: &mut Setup,
    counter: &'static Metric,
    gauge: Option<&'static Metric>,
) -> Result<Box<dyn Collector>, MakeError> {
    let script: Script = setup.section()?;
    let world = World::of(&script.world);
    let life = world.made.fetch_add(1, Ordering::SeqCst) as usize;
    let Some(life) = script.lives.get(life).or(script.lives.last()).cloned() else {
        return Err(MakeError::Failed("the script has no life".to_owned()));
    };
    match life.birth {
        Birth::Fine => {}
        Birth::Degraded => setup.degrade("sees less here"),
        Birth::Panic => panic!("born badly"),
        Birth::Unsupported => return Err(MakeError::Unsupported("needs another kernel".to_owned())),
    }
    Ok(Box::new(Scripted { world, rounds: life.rounds, round: 0, counter, gauge, total: 0 }))
}

#[async_trait]
impl Collector for Scripted {
    async fn collect(&mut self, scrape: &mut Scrape) -> Result<(), CollectError> {
        self.world.entered.fetch_add(1, Ordering::SeqCst);
        let act = self.rounds.get(self.round).or(self.rounds.last()).copied().unwrap_or(Act::Count);
        self.round += 1;
        if act == Act::Hang {
            self.world.wait();
        }
        if act == Act::Fail {
            return Err(CollectError("the kernel said no".to_owned()));
        }
        self.total += STEP;
        if let Some(gauge) = self.gauge {
            scrape.record(gauge, Subject::Node, [], DEPTH);
        }
        match act {
            Act::Close => {
                scrape.close(self.counter, Subject::Node, [], self.total);
                self.total = 0;
            }
            Act::Stray => scrape.record(&STRANGE, Subject::Node, [], self.total),
            _ => scrape.record(self.counter, Subject::Node, [], self.total),
        }
        assert!(act != Act::Panic, "the script says so");
        self.world.left.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.world.dropped.fetch_add(1, Ordering::SeqCst);
    }
}
