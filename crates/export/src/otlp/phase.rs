//! When within its interval an agent exports: spread over a fleet, the same after each restart.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Gives an agent's place in the interval, from 0 up to but not including the interval, by a hash of its seed.
pub fn phase(seed: &str, interval: Duration) -> Duration {
    // FNV-1a, then MurmurHash3's finalizer: names that differ in their last digit end far apart.
    let mut hash = seed
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    for factor in [0xff51_afd7_ed55_8ccd_u64, 0xc4ce_b9fe_1a85_ec53] {
        hash = (hash ^ hash >> 33).wrapping_mul(factor);
    }
    hash ^= hash >> 33;
    nanoseconds((u128::from(hash) * interval.as_nanos()) >> 64)
}

/// Gives the time until a clock next stands at `phase` modulo `interval`.
pub(super) fn until(phase: Duration, interval: Duration, now: SystemTime) -> Duration {
    let interval = interval.as_nanos().max(1);
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() % interval;
    nanoseconds((phase.as_nanos() + interval - now) % interval)
}

fn nanoseconds(count: u128) -> Duration {
    Duration::from_nanos(u64::try_from(count).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fleet_spreads_over_the_interval() {
        let interval = Duration::from_secs(10);
        let mut tenths = [0_u32; 10];
        for node in 0..1000 {
            let phase = phase(&format!("node-{node}"), interval);
            assert!(phase < interval);
            tenths[phase.as_secs() as usize] += 1;
        }
        // 100 are expected; five standard deviations are 47.
        assert!(tenths.iter().all(|nodes| (53..=147).contains(nodes)), "{tenths:?}");
    }

    #[test]
    fn a_phase_is_kept_between_restarts() {
        let interval = Duration::from_secs(15);
        let phase = phase("node-a", interval);
        for seconds in [0, 7, 100_003] {
            let now = UNIX_EPOCH + Duration::from_secs(seconds);
            let next = now + until(phase, interval, now);
            let since = next.duration_since(UNIX_EPOCH).unwrap();
            assert_eq!(since.as_nanos() % interval.as_nanos(), phase.as_nanos());
            assert!(next >= now && next - interval < now);
        }
    }
}
