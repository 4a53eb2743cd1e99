//! Sums of what workloads have had to do with their peers, where that is wanted: what the kernel tells apart more finely
//! (connections, addresses) is added up here. A peer whose address has another owner from now on goes on elsewhere.

use std::collections::HashMap;
use std::hash::Hash;

/// After so many rounds in which nothing adds to it an exchange is forgotten; its series stay.
const ROUNDS: u32 = 2;

#[derive(Debug)]
struct Exchange<K, V> {
    key: K,
    sum: V,
    /// Those that add to it.
    holders: u32,
    /// Rounds without any.
    idle: u32,
}

/// All exchanges, each at a place.
#[derive(Debug)]
pub struct Exchanges<K, V> {
    index: HashMap<K, u32>,
    all: Vec<Option<Exchange<K, V>>>,
    free: Vec<u32>,
}

impl<K, V> Default for Exchanges<K, V> {
    fn default() -> Self {
        Self { index: HashMap::new(), all: Vec::new(), free: Vec::new() }
    }
}

impl<K: Copy + Eq + Hash, V: Default> Exchanges<K, V> {
    /// Gives the place of an exchange.
    pub fn find(&mut self, key: K) -> u32 {
        if let Some(&at) = self.index.get(&key) {
            return at;
        }
        let new = Some(Exchange { key, sum: V::default(), holders: 0, idle: 0 });
        let at = if let Some(at) = self.free.pop() {
            self.all[at as usize] = new;
            at
        } else {
            self.all.push(new);
            (self.all.len() - 1) as u32
        };
        self.index.insert(key, at);
        at
    }

    /// Notes that somebody adds to it, or no longer does.
    pub fn hold(&mut self, at: u32, more: bool) {
        if let Some(exchange) = self.get(at) {
            exchange.holders = if more { exchange.holders + 1 } else { exchange.holders.saturating_sub(1) };
        }
    }

    /// Adds to its sum.
    pub fn add(&mut self, at: u32, add: impl FnOnce(&mut V)) {
        if let Some(exchange) = self.get(at) {
            add(&mut exchange.sum);
        }
    }

    /// Ends a round: shows all sums and whether it is their last time, and forgets those that nothing is added to any
    /// more.
    pub fn finish(&mut self, mut show: impl FnMut(&K, &V, bool)) {
        for at in 0..self.all.len() {
            let Some(exchange) = &mut self.all[at] else { continue };
            exchange.idle = if exchange.holders > 0 { 0 } else { exchange.idle + 1 };
            let last = exchange.idle > ROUNDS;
            show(&exchange.key, &exchange.sum, last);
            if last {
                self.index.remove(&exchange.key);
                self.all[at] = None;
                self.free.push(at as u32);
            }
        }
    }

    fn get(&mut self, at: u32) -> Option<&mut Exchange<K, V>> {
        self.all.get_mut(at as usize)?.as_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_is_shown_as_long_as_somebody_adds_to_it_and_a_while_longer() {
        let mut exchanges = Exchanges::<&str, u64>::default();
        let round = |exchanges: &mut Exchanges<&'static str, u64>| {
            let mut shown = Vec::new();
            exchanges.finish(|key, sum, last| shown.push((*key, *sum, last)));
            shown
        };
        let at = exchanges.find("a");
        exchanges.hold(at, true);
        exchanges.add(at, |sum| *sum += 7);
        assert_eq!(round(&mut exchanges), [("a", 7, false)]);
        exchanges.hold(at, false);
        assert_eq!((round(&mut exchanges), round(&mut exchanges)), (vec![("a", 7, false)], vec![("a", 7, false)]));
        assert_eq!(round(&mut exchanges), [("a", 7, true)]);
        assert!(round(&mut exchanges).is_empty());
        assert_eq!(exchanges.find("b"), at, "its place is another's");
        exchanges.add(u32::MAX, |_| panic!("nobody has that place"));
    }
}
