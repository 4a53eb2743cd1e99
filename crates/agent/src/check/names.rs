//! What `check` says of names: how their sources fare, what workloads would be called now, and how often an agent that
//! runs already found names.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use enrich::kubernetes::Known;
use enrich::{Reason, State, Workloads};
use model::{Answer, Resolver, Subject};
use serde_json::{Value, json};

use super::{Finding, Grade};
use crate::admin;

/// How long a source of names may take until it has told something, and then workloads until they have their names.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long it is waited between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// Says how the sources of names fare, each of which has a while to tell something.
pub fn sources(names: &Workloads) -> Vec<Finding> {
    let until = Instant::now() + PATIENCE;
    let starting = || names.sources().iter().any(|source| source.state == State::Starting);
    while starting() && Instant::now() < until {
        std::thread::sleep(PAUSE);
    }
    let finding = |source: enrich::Source| {
        let (found, grade, fix) = match source.state {
            State::Off(why) => (format!("off: {why}"), Grade::Good, String::new()),
            State::Running => ("names workloads".to_owned(), Grade::Good, String::new()),
            State::Starting => {
                let fix = "look at its log, or run check again".to_owned();
                (format!("nothing heard within {} s", PATIENCE.as_secs()), Grade::Less, fix)
            }
            State::Degraded(why) => ("workloads may lack names".to_owned(), Grade::Less, why),
        };
        Finding { what: source.name, found, grade, fix }
    };
    names.sources().into_iter().map(finding).collect()
}

/// Says what tells the node and its cluster apart beyond names; the agent runs as well without.
pub fn node(known: &[Known]) -> Option<Finding> {
    let say = |(key, uid): &Known| match uid {
        Ok(uid) => format!("{key} {uid}"),
        Err(why) => format!("no {key}: {why}"),
    };
    let found: Vec<String> = known.iter().map(say).collect();
    let found = found.join("; ");
    (!known.is_empty()).then_some(Finding { what: "node identity", found, grade: Grade::Good, fix: String::new() })
}

/// How many workloads have names.
pub struct Enrichment {
    /// The cgroups that have tasks now and are not filtered out, those of them that have their names, and why others have none.
    workloads: usize,
    named: usize,
    misses: BTreeMap<&'static str, usize>,
    /// The paths of the latter, each with its reason.
    nameless: Vec<(Box<str>, &'static str)>,
    /// What the agent on the admin socket says of its names.
    agent: Option<Value>,
}

impl Enrichment {
    /// Names the workloads that exist now, and asks the agent that runs, if one does.
    pub fn examine(names: &Workloads, cgroups: &[u64], socket: &Path) -> Self {
        let until = Instant::now() + PATIENCE;
        let trial = loop {
            let trial = Self::trial(names, cgroups);
            if trial.misses.is_empty() || Instant::now() >= until {
                break trial;
            }
            std::thread::sleep(PAUSE);
        };
        let status = admin::get(socket, "/status").ok();
        let agent = status.and_then(|status| serde_json::from_str::<Value>(&status).ok());
        Self { agent: agent.map(|mut status| status["enrichment"].take()), ..trial }
    }

    fn trial(names: &Workloads, cgroups: &[u64]) -> Self {
        let mut trial = Self { workloads: 0, named: 0, misses: BTreeMap::new(), nameless: Vec::new(), agent: None };
        for &id in cgroups {
            let reason = match names.resolve_now(Subject::Cgroup(id)) {
                Answer::Excluded => continue,
                Answer::Known(_) => None,
                Answer::Unknown(_, reason) => Some(reason),
                Answer::Pending => Some(Reason::Pending.as_str()),
            };
            trial.workloads += 1;
            match reason {
                None => trial.named += 1,
                Some(reason) => {
                    *trial.misses.entry(reason).or_default() += 1;
                    trial.nameless.push((names.path(id).unwrap_or_default(), reason));
                }
            }
        }
        trial
    }

    /// Says how many have names, and how to get those of the others.
    pub fn findings(&self) -> Vec<Finding> {
        let found = format!("{} of {} cgroups that have tasks", self.named, self.workloads);
        let now = if self.misses.is_empty() {
            Finding { what: "names now", found, grade: Grade::Good, fix: String::new() }
        } else {
            // Of what cannot be found there is no path.
            let example = self.nameless.first().filter(|(path, _)| !path.is_empty());
            let example = example.map_or_else(String::new, |(path, _)| format!(", such as {path}"));
            let misses = self.misses.iter().map(|(reason, count)| (*reason, *count as u64));
            let found = format!("{found}; {}{example}", list(misses));
            let fix = self.misses.keys().filter_map(|reason| fix(reason)).collect::<Vec<_>>().join("; ");
            let grade = if fix.is_empty() { Grade::Good } else { Grade::Less };
            Finding { what: "names now", found, grade, fix }
        };
        [now].into_iter().chain(self.agent()).collect()
    }

    fn agent(&self) -> Option<Finding> {
        let agent = self.agent.as_ref()?;
        let hits = agent["hits"].as_u64()?;
        let misses =
            agent["misses"].as_object()?.iter().map(|(reason, count)| (reason.as_str(), count.as_u64().unwrap_or(0)));
        let rate = agent["hit_rate"].as_f64().map_or_else(String::new, |rate| format!(" ({:.2} %)", 100.0 * rate));
        let found = format!("the running agent: {hits} look-ups found names{rate}; {}", list(misses));
        Some(Finding { what: "names so far", found, grade: Grade::Good, fix: String::new() })
    }

    /// Gives the same for programs.
    pub fn json(&self) -> Value {
        let nameless: Vec<Value> =
            self.nameless.iter().map(|(path, reason)| json!({"path": path, "reason": reason})).collect();
        json!({
            "workloads": self.workloads, "named": self.named, "misses": self.misses, "nameless": nameless,
            "agent": self.agent,
        })
    }
}

/// Lists reasons with how often each applied.
fn list<'a>(misses: impl Iterator<Item = (&'a str, u64)>) -> String {
    let misses = misses.filter(|(_, count)| *count > 0).map(|(reason, count)| format!("{reason} {count}"));
    let misses = misses.collect::<Vec<_>>().join(", ");
    if misses.is_empty() { "no misses".to_owned() } else { misses }
}

/// Says what to do about a miss.
fn fix(reason: &str) -> Option<&'static str> {
    Some(match Reason::ALL.into_iter().find(|known| known.as_str() == reason)? {
        Reason::PodUnknown => {
            "pod_unknown: the API server has no such pod on this node: is agent.node_name (NODE_NAME) the node's name?"
        }
        // So it is with a pod whose images are still being pulled; a source that cannot be read says so itself.
        Reason::ContainerUnknown => return None,
        Reason::Pending | Reason::NotFound | Reason::Unnamed => {
            "cgroups that the agent cannot find: mount the host's hierarchy (host.cgroup)"
        }
    })
}
