//! Elections: exactly one of many does what is to be done once.

use std::sync::Arc;
use std::time::Duration;

/// Gives what the elected one has for whoever comes next: it is asked for each time that others hear of the elected one.
pub type Note = Arc<dyn Fn() -> String + Send + Sync>;

/// With whom a candidate stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Party {
    /// Alone: it leads, or somebody else does.
    One,
    /// With all others who do so: they lead together, and nobody else does.
    Many,
}

/// How a candidate stands in an election.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Standing {
    /// Nobody has said yet.
    #[default]
    Pending,
    /// It is the one.
    Leads {
        /// For how long nobody was.
        vacant: Duration,
        /// What the one before noted last; empty where nobody did.
        note: String,
    },
    /// Somebody else is.
    Waits,
    /// Others lead together, and this one is none of them.
    Barred,
    /// Nobody can say, and why.
    Unknown(String),
}
