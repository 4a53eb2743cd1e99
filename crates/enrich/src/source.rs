//! How the sources of names fare.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The state of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It is not used, for this reason.
    Off(String),
    /// It has not told anything yet.
    Starting,
    /// It tells what it knows.
    Running,
    /// It tells less than it could, for this reason.
    Degraded(String),
}

impl State {
    /// Gives the state in one word.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Off(_) => "off",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Degraded(_) => "degraded",
        }
    }

    /// Gives the reason, where there is one.
    pub fn why(&self) -> Option<&str> {
        match self {
            Self::Off(why) | Self::Degraded(why) => Some(why),
            Self::Starting | Self::Running => None,
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        self.why().map_or(Ok(()), |why| write!(f, ": {why}"))
    }
}

/// A source of names, such as the Kubernetes API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// What it is called.
    pub name: &'static str,
    /// How it fares.
    pub state: State,
    /// What went wrong so far, by type.
    pub errors: BTreeMap<&'static str, u64>,
}

/// All sources that have reported.
#[derive(Default)]
pub(crate) struct Sources(Mutex<Vec<Source>>);

impl Sources {
    /// Notes the state of a source; a new one is logged.
    pub(crate) fn report(&self, name: &'static str, state: State) {
        let mut all = self.all();
        let source = Self::get(&mut all, name);
        if source.state == state {
            return;
        }
        match &state {
            State::Degraded(why) => tracing::warn!("names from {name}: {why}"),
            state => tracing::info!("names from {name}: {state}"),
        }
        source.state = state;
    }

    /// Counts an error of a source; says whether it is the first of its type.
    pub(crate) fn fail(&self, name: &'static str, kind: &'static str) -> bool {
        let mut all = self.all();
        let count = Self::get(&mut all, name).errors.entry(kind).or_default();
        *count += 1;
        *count == 1
    }

    pub(crate) fn list(&self) -> Vec<Source> {
        self.all().clone()
    }

    fn get<'a>(all: &'a mut Vec<Source>, name: &'static str) -> &'a mut Source {
        let at = all.iter().position(|source| source.name == name).unwrap_or_else(|| {
            all.push(Source { name, state: State::Starting, errors: BTreeMap::new() });
            all.len() - 1
        });
        &mut all[at]
    }

    fn all(&self) -> MutexGuard<'_, Vec<Source>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
