//! The pace of repeated attempts: exponential backoff with jitter, never sooner than the receiver asks.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

/// The bounds of the backoff.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The pause after the first failure, give or take half of it.
    pub initial: Duration,
    /// What pauses grow to, doubling with each failure in a row.
    pub max: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self { initial: Duration::from_secs(1), max: Duration::from_mins(1) }
    }
}

/// No pause is longer, whatever a receiver asks for: it may have asked for a date that was a mistake.
const LONGEST: Duration = Duration::from_hours(1);

/// Counts failures in a row.
pub(super) struct Backoff {
    policy: Policy,
    failures: u32,
}

impl Backoff {
    pub fn new(policy: Policy) -> Self {
        Self { policy, failures: 0 }
    }

    /// Gives the pause after one more failure; `asked` is what the receiver wants at least.
    pub fn failed(&mut self, asked: Option<Duration>) -> Duration {
        let factor = 1_u32.checked_shl(self.failures).unwrap_or(u32::MAX);
        self.failures = self.failures.saturating_add(1);
        let pause = self.policy.initial.saturating_mul(factor).min(self.policy.max).min(LONGEST);
        let pause = pause.mul_f64(around(0.5));
        match asked {
            // Many agents are told the same pause: they must not all come back at once.
            Some(asked) => asked.min(LONGEST).mul_f64(1.05 * around(0.045)).max(pause),
            None => pause,
        }
    }

    /// Begins anew after a success.
    pub fn succeeded(&mut self) {
        self.failures = 0;
    }
}

/// Gives a random factor between `1 - spread` and `1 + spread`.
pub(super) fn around(spread: f64) -> f64 {
    let random = RandomState::new().build_hasher().finish();
    1.0 + spread * (random as f64 / u64::MAX as f64 * 2.0 - 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_maximum_and_begin_anew() {
        let policy = Policy { initial: Duration::from_secs(1), max: Duration::from_secs(8) };
        let mut backoff = Backoff::new(policy);
        for expected in [1.0, 2.0, 4.0, 8.0, 8.0] {
            let pause = backoff.failed(None).as_secs_f64();
            assert!((expected * 0.5..=expected * 1.5).contains(&pause), "{pause} for {expected}");
        }
        backoff.failures = 1000;
        assert!(backoff.failed(None) <= Duration::from_secs(12));
        backoff.succeeded();
        assert!(backoff.failed(None) <= Duration::from_millis(1500));
    }

    #[test]
    fn the_receivers_wish_is_a_minimum() {
        let mut backoff = Backoff::new(Policy::default());
        let pause = backoff.failed(Some(Duration::from_secs(100)));
        assert!(pause >= Duration::from_secs(100) && pause <= Duration::from_secs(110));
        assert!(backoff.failed(Some(Duration::MAX)) >= LONGEST);
        assert!(backoff.failed(Some(Duration::ZERO)) >= Duration::from_secs(1));
    }

    #[test]
    fn jitter_stays_within_its_spread() {
        for _ in 0..1000 {
            assert!((0.9..=1.1).contains(&around(0.1)));
        }
    }
}
