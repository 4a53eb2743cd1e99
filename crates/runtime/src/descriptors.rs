//! File descriptors where a process may have few: collectors are made one after another then, and only those stay that
//! leave enough for whoever asks the agent.

use std::cell::Cell;
use std::sync::{Mutex, PoisonError};

use crate::collector::{Collector, MakeError};

/// Where a process may have so many there is room for all collectors.
const PLENTY: u64 = 1024;
/// What is left to listeners, connections and files that are read, beside a part of all for the files of cgroups.
const SPARE: u64 = 24;
/// That part: collectors that keep files open keep no more than this share.
pub const KEPT: u64 = 8;
/// So many more must be free than when they were too few.
const MORE: u64 = 8;
/// How the system says that there are no more.
const EXHAUSTED: &str = "(os error 24)";

/// What a collector finds each time when it is made.
pub(crate) struct Room {
    limit: u64,
    /// How many were free when those were too few.
    lacked: Cell<Option<u64>>,
}

type Made = Result<Box<dyn Collector>, MakeError>;

impl Room {
    /// Of a process that may have `limit` descriptors.
    pub fn new(limit: u64) -> Self {
        Self { limit, lacked: Cell::new(None) }
    }

    /// Makes a collector while no other one is being made, where each may take what another one needs. One that finds too
    /// few, or leaves too few, fails with the same words each time, and is not even tried before more are free: an attempt
    /// would take, for a while, those that listeners need.
    pub fn make(&self, make: impl FnOnce() -> Made) -> Made {
        static TURN: Mutex<()> = Mutex::new(());
        if self.limit >= PLENTY {
            return make();
        }
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let free = self.free();
        if self.lacked.get().is_some_and(|lacked| free < lacked + MORE) {
            return Err(self.lacks());
        }
        let outcome = make();
        let lacks = match &outcome {
            Ok(_) => self.free() < SPARE + self.limit / KEPT,
            Err(MakeError::Failed(why) | MakeError::Unsupported(why)) => why.contains(EXHAUSTED),
            Err(MakeError::Idle(_)) => false,
        };
        self.lacked.set(lacks.then_some(free));
        if lacks { Err(self.lacks()) } else { outcome }
    }

    /// None where not even their list can be opened.
    fn free(&self) -> u64 {
        let open = std::fs::read_dir("/proc/self/fd").map(|entries| entries.count() as u64);
        open.map_or(0, |open| self.limit.saturating_sub(open))
    }

    fn lacks(&self) -> MakeError {
        MakeError::Failed(format!(
            "this process may have {} files open, which are too few for this collector beside the others; raise the limit \
             (LimitNOFILE= of a unit, ulimit -n) or switch collectors off",
            self.limit
        ))
    }
}
