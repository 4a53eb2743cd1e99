//! How close the agent is to its memory limit: whoever reads that says so here, whoever keeps things asks.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// The limit is close from this share of it on, in percent.
const CLOSE: u64 = 85;
/// It is no longer close below this one: what was given back must not be taken again at once.
const FAR: u64 = 70;

/// What is taken of the memory that may be taken.
#[derive(Debug, Default)]
pub struct Headroom {
    used: AtomicU64,
    /// 0 where there is none.
    limit: AtomicU64,
    close: AtomicBool,
}

impl Headroom {
    /// Takes a reading: the bytes that are used and the limit, nothing where there is none. Says whether the limit is close
    /// where that has changed.
    pub fn note(&self, reading: Option<(u64, u64)>) -> Option<bool> {
        let (used, limit) = reading.unwrap_or_default();
        self.used.store(used, Relaxed);
        self.limit.store(limit, Relaxed);
        let bound = if self.is_close() { FAR } else { CLOSE };
        let close = limit > 0 && u128::from(used) * 100 >= u128::from(limit) * u128::from(bound);
        (self.close.swap(close, Relaxed) != close).then_some(close)
    }

    /// Says whether nothing may be kept that can be done without.
    pub fn is_close(&self) -> bool {
        self.close.load(Relaxed)
    }

    /// Gives the bytes that are used and the limit, where there is one.
    pub fn reading(&self) -> Option<(u64, u64)> {
        let limit = self.limit.load(Relaxed);
        (limit > 0).then(|| (self.used.load(Relaxed), limit))
    }

    /// Says what is to be known of it while the limit is close.
    pub fn remark(&self) -> Option<String> {
        let (used, limit) = self.reading().filter(|_| self.is_close())?;
        Some(format!(
            "the memory limit is close: {used} of {limit} bytes are used; new series go to the overflow series and queues of \
             events are short until less than {FAR} % is used"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_close_until_it_is_far() {
        let headroom = Headroom::default();
        assert_eq!((headroom.note(None), headroom.reading()), (None, None));
        assert_eq!(headroom.note(Some((84, 100))), None);
        assert_eq!((headroom.note(Some((85, 100))), headroom.is_close()), (Some(true), true));
        assert!(headroom.remark().is_some_and(|remark| remark.contains("85 of 100 bytes")));
        assert_eq!(headroom.note(Some((70, 100))), None, "not far enough");
        assert_eq!((headroom.note(Some((69, 100))), headroom.remark()), (Some(false), None));
        assert_eq!(headroom.note(Some((u64::MAX, u64::MAX - 1))), Some(true));
        assert_eq!((headroom.note(None), headroom.is_close()), (Some(false), false), "the limit was lifted");
    }
}
