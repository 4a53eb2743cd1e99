//! How each collector is: kept by the manager, read by anyone.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

/// The state of one collector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Switched off in the configuration.
    Disabled,
    /// Not attached because nobody would get what it sees.
    Idle(String),
    /// This kernel or host cannot do it.
    Unsupported(String),
    /// Attached and answering.
    Running,
    /// Attached, but gives less than it could.
    Degraded(String),
    /// Not attached; it is tried again.
    Failed(String),
}

impl State {
    /// Gives the state's name in lower case.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Disabled | Self::Idle(_) => "disabled",
            Self::Unsupported(_) => "unsupported",
            Self::Running => "running",
            Self::Degraded(_) => "degraded",
            Self::Failed(_) => "failed",
        }
    }

    /// Gives the reason of a state that has one.
    pub fn why(&self) -> Option<&str> {
        match self {
            Self::Disabled | Self::Running => None,
            Self::Idle(why) | Self::Unsupported(why) | Self::Degraded(why) | Self::Failed(why) => Some(why),
        }
    }

    /// Says whether the collector gives readings.
    pub fn is_attached(&self) -> bool {
        matches!(self, Self::Running | Self::Degraded(_))
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.why() {
            Some(why) => write!(f, "{}: {why}", self.name()),
            None => f.write_str(self.name()),
        }
    }
}

/// One collector's state and since when it has it.
#[derive(Clone, Debug)]
pub struct Status {
    /// The collector's name.
    pub name: &'static str,
    /// Whether the configuration calls it indispensable.
    pub required: bool,
    /// Its state.
    pub state: State,
    /// When it came into that state.
    pub since: SystemTime,
    /// How many readings its last round had.
    pub readings: usize,
    /// What becomes of its maps and programs when the agent ends; nothing where none are pinned.
    pub kept: Option<String>,
}

/// The states of all collectors.
#[derive(Debug, Default)]
pub struct Health(Mutex<Vec<Status>>);

impl Health {
    pub(crate) fn add(&self, name: &'static str, required: bool, state: State) {
        self.lock().push(Status { name, required, state, since: SystemTime::now(), readings: 0, kept: None });
    }

    /// Lets a collector begin again, without a word in the log.
    pub(crate) fn renew(&self, name: &'static str, required: bool, state: Option<State>) {
        if let Some(status) = self.lock().iter_mut().find(|status| status.name == name) {
            status.required = required;
            if let Some(state) = state {
                (status.state, status.since, status.readings) = (state, SystemTime::now(), 0);
            }
        }
    }

    /// Sets a collector's state; logs it when it is another one.
    pub(crate) fn set(&self, name: &'static str, state: State) {
        let mut all = self.lock();
        let Some(status) = all.iter_mut().find(|status| status.name == name) else { return };
        if status.state == state {
            return;
        }
        match &state {
            State::Running | State::Disabled | State::Idle(_) => {
                tracing::info!(collector = name, "collector is {state}");
            }
            State::Unsupported(_) => tracing::info!(collector = name, "collector is {state}"),
            State::Degraded(_) | State::Failed(_) => tracing::warn!(collector = name, "collector is {state}"),
        }
        status.state = state;
        status.since = SystemTime::now();
    }

    pub(crate) fn set_readings(&self, name: &'static str, readings: usize) {
        if let Some(status) = self.lock().iter_mut().find(|status| status.name == name) {
            status.readings = readings;
        }
    }

    pub(crate) fn set_kept(&self, name: &'static str, kept: String) {
        if let Some(status) = self.lock().iter_mut().find(|status| status.name == name) {
            status.kept = Some(kept);
        }
    }

    /// Gives all states, in the order of the registry.
    pub fn all(&self) -> Vec<Status> {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Status>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
