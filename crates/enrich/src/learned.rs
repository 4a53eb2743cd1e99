//! Whose address it is as somebody came across it, such as in a flow: kept for a while, as many as there is room for.
//!
//! Two generations: what is told of moves to the young one, and what is still in the old one when they change is idle.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use model::{Attributes, Learner};

use crate::peers::Addresses;

type Owners = HashMap<IpAddr, Arc<Attributes>>;

/// What was learned.
#[derive(Default)]
pub struct Learned {
    known: RwLock<Known>,
    hits: AtomicU64,
    misses: AtomicU64,
}

struct Known {
    young: Owners,
    old: Owners,
    most: usize,
    idle: Duration,
    turned: Instant,
    generation: u64,
}

impl Default for Known {
    fn default() -> Self {
        let (young, old) = (Owners::new(), Owners::new());
        Self { young, old, most: 0, idle: Duration::ZERO, turned: Instant::now(), generation: 0 }
    }
}

impl Known {
    /// Forgets what was not told of since the last turn, where that is due.
    fn turn(&mut self, now: Instant) {
        // An address is kept between one and two turns after it was last told of.
        if now.duration_since(self.turned) < self.idle / 2 && self.young.len() < self.most / 2 {
            return;
        }
        self.generation += u64::from(!self.old.is_empty());
        self.old = std::mem::take(&mut self.young);
        self.turned = now;
    }
}

impl Learned {
    fn known(&self) -> RwLockReadGuard<'_, Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives how many questions found an answer here, and how many did not.
    pub fn lookups(&self) -> (u64, u64) {
        (self.hits.load(Ordering::Relaxed), self.misses.load(Ordering::Relaxed))
    }

    /// Says whether anybody tells of addresses.
    pub fn is_used(&self) -> bool {
        self.known().most > 0
    }

    /// Gives of how many addresses something is known.
    pub fn len(&self) -> usize {
        let known = self.known();
        known.young.len() + known.old.keys().filter(|address| !known.young.contains_key(*address)).count()
    }

    /// Says whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Learner for Learned {
    fn limit(&self, most: usize, idle: Duration) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        (known.most, known.idle) = (most, idle);
    }

    fn learn(&self, address: IpAddr, who: Attributes) {
        let address = address.to_canonical();
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.most == 0 {
            return;
        }
        known.turn(Instant::now());
        let before = known.young.get(&address).or_else(|| known.old.get(&address));
        let same = before.filter(|before| ***before == who).map(Arc::clone);
        known.generation += u64::from(same.is_none());
        known.young.insert(address, same.unwrap_or_else(|| Arc::new(who)));
    }
}

impl Addresses for Learned {
    fn generation(&self) -> u64 {
        self.known().generation
    }

    fn owner(&self, address: IpAddr, _: u16) -> Option<Arc<Attributes>> {
        let known = self.known();
        if known.most == 0 {
            return None;
        }
        let found = known.young.get(&address).or_else(|| known.old.get(&address)).map(Arc::clone);
        let counter = if found.is_some() { &self.hits } else { &self.misses };
        counter.fetch_add(1, Ordering::Relaxed);
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(name: &str) -> Attributes {
        Attributes::new([("workload.name".into(), name.to_owned().into())])
    }

    fn name(learned: &Learned, address: &str) -> Option<String> {
        learned.owner(address.parse().unwrap(), 0)?.get("workload.name").map(str::to_owned)
    }

    #[test]
    fn what_is_learned_is_known_until_it_changes() {
        let learned = Learned::default();
        let learn = |address: &str, name: &str| learned.learn(address.parse().unwrap(), who(name));
        learn("10.0.0.1", "nobody listens");
        assert_eq!((name(&learned, "10.0.0.1"), learned.lookups()), (None, (0, 0)));
        learned.limit(100, Duration::from_hours(1));
        learn("::ffff:10.0.0.1", "web");
        let first = learned.generation();
        learn("10.0.0.1", "web");
        assert_eq!((name(&learned, "10.0.0.1").as_deref(), learned.generation()), (Some("web"), first));
        learn("10.0.0.1", "api");
        assert!(learned.generation() > first);
        assert_eq!((name(&learned, "10.0.0.1").as_deref(), name(&learned, "10.0.0.2")), (Some("api"), None));
        assert_eq!((learned.lookups(), learned.len()), ((2, 1), 1));
    }

    #[test]
    fn it_is_bounded_and_forgets_what_is_idle() {
        let learned = Learned::default();
        learned.limit(100, Duration::from_hours(1));
        for number in 0..10_000_u32 {
            learned.learn(IpAddr::V4(number.into()), who("web"));
            learned.learn("10.0.0.1".parse().unwrap(), who("busy"));
            assert!(learned.len() <= 100);
        }
        assert_eq!(name(&learned, "10.0.0.1").as_deref(), Some("busy"));
        learned.limit(100, Duration::ZERO);
        let before = learned.generation();
        learned.learn("10.0.0.2".parse().unwrap(), who("new"));
        learned.learn("10.0.0.3".parse().unwrap(), who("newer"));
        assert!(name(&learned, "10.0.0.1").is_none() && learned.generation() > before);
        assert_eq!(name(&learned, "10.0.0.3").as_deref(), Some("newer"));
    }
}
