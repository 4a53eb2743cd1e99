//! File descriptors where a process may have few: collectors are made one after another then, and only those stay that
//! leave enough for whoever asks the agent.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::collector::{Collector, MakeError};

/// Where a process may have so many there is room for all collectors.
const PLENTY: u64 = 1024;
/// What is left to listeners, connections and files that are read, beside a part of all for the files of cgroups.
const SPARE: u64 = 24;
/// That part: collectors that keep files open keep no more than this share.
pub const KEPT: u64 = 8;
/// How the system says that there are no more.
const EXHAUSTED: &str = "(os error 24)";

/// Waits until no other collector is being made, where each may take what another one needs.
pub(crate) fn turn(limit: u64) -> Option<MutexGuard<'static, ()>> {
    static TURN: Mutex<()> = Mutex::new(());
    (limit < PLENTY).then(|| TURN.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Says of a collector that finds too few, or leaves too few, the same each time, whatever it was made of last.
pub(crate) fn judge(limit: u64, made: Result<Box<dyn Collector>, MakeError>) -> Result<Box<dyn Collector>, MakeError> {
    let lacks = match &made {
        Ok(_) => limit < PLENTY && open().is_some_and(|open| open + SPARE + limit / KEPT > limit),
        Err(MakeError::Failed(why) | MakeError::Unsupported(why)) => why.contains(EXHAUSTED),
        Err(MakeError::Idle(_)) => false,
    };
    if !lacks {
        return made;
    }
    Err(MakeError::Failed(format!(
        "this process may have {limit} files open, which are too few for this collector beside the others; raise the \
         limit (LimitNOFILE= of a unit, ulimit -n) or switch collectors off"
    )))
}

fn open() -> Option<u64> {
    std::fs::read_dir("/proc/self/fd").ok().map(|entries| entries.count() as u64)
}
