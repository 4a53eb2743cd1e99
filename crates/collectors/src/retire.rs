//! When the map entries of a removed cgroup may be freed.
//!
//! After rmdir counts still arrive: a dying task's last calls, orphaned sockets. So an entry goes only when its cgroup
//! was removed a while ago and several reads of it agree.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use model::Census;

/// How long ago the cgroup must have been removed.
const AGE: Duration = Duration::from_secs(10);
/// How many reads must have agreed with the one before.
const AGREEING: u32 = 2;

/// The entries of removed cgroups of one map.
pub struct Retirement<K> {
    census: Arc<dyn Census>,
    /// The present round's answers of the census.
    removed: HashMap<u64, Option<Duration>>,
    watched: HashMap<K, Watched>,
    ripe: Vec<K>,
}

struct Watched {
    reading: u64,
    agreed: u32,
    round: u32,
}

impl<K: Copy + Eq + Hash> Retirement<K> {
    /// Begins with nothing to free.
    pub fn new(census: Arc<dyn Census>) -> Self {
        Self { census, removed: HashMap::new(), watched: HashMap::new(), ripe: Vec::new() }
    }

    /// Takes note of what an entry reads; `reading` changes whenever the entry does. Says whether it is to be freed at
    /// the end of the round.
    pub fn note(&mut self, key: K, cgroup: u64, reading: u64) -> bool {
        // What no task owns has no cgroup that could go.
        if cgroup == 0 {
            return false;
        }
        let census = &self.census;
        let Some(age) = *self.removed.entry(cgroup).or_insert_with(|| census.removed_for(cgroup)) else { return false };
        let watched = self.watched.entry(key).or_insert(Watched { reading, agreed: 0, round: 0 });
        if watched.round > 0 {
            watched.agreed = if watched.reading == reading { watched.agreed + 1 } else { 0 };
        }
        watched.reading = reading;
        watched.round += 1;
        let ripe = age >= AGE && watched.agreed >= AGREEING;
        if ripe {
            self.ripe.push(key);
        }
        ripe
    }

    /// Ends a round: gives the entries to free, and forgets about them.
    pub fn finish(&mut self) -> Vec<K> {
        self.removed.clear();
        let ripe = std::mem::take(&mut self.ripe);
        for key in &ripe {
            self.watched.remove(key);
        }
        ripe
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use model::CgroupChange;

    use super::*;

    struct Removed(Mutex<Option<Duration>>);

    impl Census for Removed {
        fn changed(&self, _: CgroupChange) {}

        fn removed_for(&self, _: u64) -> Option<Duration> {
            *self.0.lock().unwrap()
        }
    }

    #[test]
    fn an_entry_goes_when_its_cgroup_is_long_gone_and_reads_agree() {
        let census = Arc::new(Removed(Mutex::default()));
        let mut retirement = Retirement::new(census.clone());
        let mut round = |reading, age: Option<u64>| {
            *census.0.lock().unwrap() = age.map(Duration::from_secs);
            retirement.note(7_u32, 1, reading);
            retirement.finish()
        };
        assert!(round(5, None).is_empty());
        assert!(round(5, Some(1)).is_empty());
        assert!(round(5, Some(2)).is_empty());
        assert!(round(5, Some(3)).is_empty(), "too early");
        assert!(round(6, Some(11)).is_empty(), "it still counts");
        assert!(round(6, Some(12)).is_empty());
        assert_eq!(round(6, Some(13)), [7]);
        assert!(round(6, None).is_empty());
    }

    #[test]
    fn the_kernels_own_entries_stay() {
        let mut retirement = Retirement::new(Arc::new(Removed(Mutex::new(Some(AGE * 2)))));
        assert!((0..10).all(|_| !retirement.note(7_u32, 0, 5) && retirement.finish().is_empty()));
    }
}
