//! The time of snapshots: the system's time of day, but it never goes back.
//!
//! A clock that is set forward is followed at once. One that is set back is waited for: until it has caught up, time
//! passes at half its pace, so that no point is older than the one before it or than the start of its series. How long
//! dead series stay is measured by a clock that nobody sets.

use std::fmt;
use std::sync::{Arc, LazyLock};
use std::time::{Instant, SystemTime};

/// What the time of day may differ from what has passed without having been set: nanoseconds between two looks.
const SLACK: u64 = 1_000_000_000;

/// What a machine's clocks show at one moment, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The time of day, since 1970.
    pub unix: u64,
    /// What has passed since some moment, whoever sets the time of day.
    pub steady: u64,
}

/// Where the time comes from.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Reading + Send + Sync>);

impl Clock {
    /// Makes a clock that shows what a function says.
    pub fn new(read: impl Fn() -> Reading + Send + Sync + 'static) -> Self {
        Self(Arc::new(read))
    }

    pub(crate) fn read(&self) -> Reading {
        (self.0)()
    }
}

impl Default for Clock {
    /// The machine's own clocks.
    fn default() -> Self {
        static BEGIN: LazyLock<Instant> = LazyLock::new(Instant::now);
        Self::new(|| {
            let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            Reading { unix: unix.map_or(0, |since| since.as_nanos() as u64), steady: BEGIN.elapsed().as_nanos() as u64 }
        })
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}

/// Which way the time of day was set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Jump {
    Forward,
    Back,
}

impl Jump {
    /// Gives the direction as an attribute value.
    pub fn name(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Back => "back",
        }
    }
}

/// What time it is for whoever reads snapshots.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tick {
    /// Unix nanoseconds, never fewer than before.
    pub time: u64,
    /// Nanoseconds that passed, whoever sets the time of day.
    pub steady: u64,
    /// How the time of day was set since the last look, if it was.
    pub jump: Option<Jump>,
}

/// The course of time as snapshots have it.
pub(crate) struct Timeline {
    clock: Clock,
    last: Option<(Reading, u64)>,
}

impl Timeline {
    pub fn new(clock: Clock) -> Self {
        Self { clock, last: None }
    }

    /// Looks at the clock.
    pub fn tick(&mut self) -> Tick {
        let now = self.clock.read();
        let (mut time, mut jump) = (now.unix, None);
        if let Some((before, shown)) = self.last {
            let passed = now.steady.saturating_sub(before.steady);
            let expected = before.unix.saturating_add(passed);
            jump = match now.unix {
                unix if unix > expected.saturating_add(SLACK) => Some(Jump::Forward),
                unix if unix.saturating_add(SLACK) < expected => Some(Jump::Back),
                _ => None,
            };
            if now.unix <= shown {
                time = shown.saturating_add((passed / 2).max(1));
            }
        }
        self.last = Some((now, time));
        Tick { time, steady: now.steady, jump }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Mutex;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// Ticks at the readings, in seconds; gives times in tenths of a second and jumps.
    fn ticks(readings: &[(u64, u64)]) -> Vec<(u64, Option<Jump>)> {
        let left = Mutex::new(VecDeque::from(readings.to_vec()));
        let clock = Clock::new(move || {
            let (unix, steady) = left.lock().unwrap().pop_front().unwrap();
            Reading { unix: unix * SECOND, steady: steady * SECOND }
        });
        let mut timeline = Timeline::new(clock);
        readings.iter().map(|_| timeline.tick()).map(|tick| (tick.time / (SECOND / 10), tick.jump)).collect()
    }

    #[test]
    fn time_is_the_time_of_day() {
        assert_eq!(ticks(&[(1000, 0), (1010, 10), (1011, 11)]), [(10_000, None), (10_100, None), (10_110, None)]);
    }

    #[test]
    fn forward_jumps_are_followed_at_once() {
        assert_eq!(ticks(&[(0, 0), (1_700_000_000, 1)])[1], (17_000_000_000, Some(Jump::Forward)));
    }

    #[test]
    fn a_clock_that_was_set_back_is_waited_for() {
        let found = ticks(&[(1000, 0), (990, 10), (1000, 20), (1010, 30), (1020, 40), (1030, 50), (1040, 60)]);
        let times: Vec<u64> = found.iter().map(|(time, _)| *time).collect();
        assert_eq!(times, [10_000, 10_050, 10_100, 10_150, 10_200, 10_300, 10_400]);
        let jumps: Vec<_> = found.iter().filter_map(|(_, jump)| *jump).collect();
        assert_eq!(jumps, [Jump::Back], "told once");
    }

    #[test]
    fn time_never_stands_still() {
        let found = ticks(&[(u64::MAX / SECOND, 0), (0, 0), (0, 0)]);
        assert!(found.windows(2).all(|two| two[0].0 <= two[1].0));
        let mut timeline = Timeline::new(Clock::new(|| Reading { unix: 7, steady: 7 }));
        let times = [0; 3].map(|_| timeline.tick().time);
        assert_eq!(times, [7, 8, 9]);
    }
}
