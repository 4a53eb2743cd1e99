//! The collector's keys.

use std::collections::HashMap;

use model::event::EventKind;
use runtime::Limit;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The collector's section.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Programs that are started: `process.exec`.
    pub exec: Kind,
    /// Processes that end, with their exit code or signal: `process.exit`.
    pub exit: Kind,
    /// Processes that the kernel kills for want of memory: `oom_kill`.
    pub oom_kill: Kind,
    /// TCP connections that open, are accepted or fail: `connection`.
    pub connection: Kind,
}

/// One kind of event.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Kind {
    /// Whether these events are made.
    pub enabled: bool,
    /// How many a workload may have per second in the long run; 0 for any number. What exceeds it is counted.
    pub rate: u32,
    /// How many a workload may have at once after a quiet time.
    #[schemars(range(min = 1))]
    pub burst: u32,
}

impl Default for Kind {
    fn default() -> Self {
        Self { enabled: true, rate: 100, burst: 1000 }
    }
}

impl Kind {
    /// Gives the limit, if there is one.
    pub fn limit(&self) -> Option<Limit> {
        (self.rate > 0).then_some(Limit { rate: self.rate, burst: self.burst })
    }
}

impl Config {
    /// Gives the limits of the kinds that have one.
    pub fn limits(&self) -> HashMap<EventKind, Limit> {
        let kinds = [
            (EventKind::Exec, &self.exec),
            (EventKind::Exit, &self.exit),
            (EventKind::OomKill, &self.oom_kill),
            (EventKind::Connection, &self.connection),
        ];
        kinds.into_iter().filter_map(|(name, kind)| Some((name, kind.limit()?))).collect()
    }
}
