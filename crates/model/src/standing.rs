//! Elections: exactly one of many does what is to be done once.

use std::time::Duration;

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
    },
    /// Somebody else is.
    Waits,
    /// Nobody can say, and why.
    Unknown(String),
}
