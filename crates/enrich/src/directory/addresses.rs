//! Which pod has an address, or had it last: what arrives late still gets its name, and whoever gets the address next has
//! it from then on.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

/// The most addresses of the node that pods tell of: it may get others while they run.
const MOST: usize = 16;

/// Pods by their addresses.
#[derive(Default)]
pub(super) struct AddressIndex {
    owners: HashMap<IpAddr, Arc<str>>,
    /// The node's own, the latest last.
    hosts: VecDeque<IpAddr>,
    generation: u64,
}

impl AddressIndex {
    /// Changes whenever an answer given before may have changed.
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// Says whether an address is the node's own.
    pub(super) fn is_host(&self, address: IpAddr) -> bool {
        self.hosts.contains(&address)
    }

    /// Notes that addresses are the node's own.
    pub(super) fn put_host(&mut self, addresses: &[IpAddr]) {
        for address in addresses {
            if !self.is_host(*address) {
                self.hosts.push_back(*address);
                self.generation += 1;
            }
        }
        while self.hosts.len() > MOST {
            self.hosts.pop_front();
        }
    }

    /// Gives the UID of the pod that has an address.
    pub(super) fn owner(&self, address: IpAddr) -> Option<&Arc<str>> {
        self.owners.get(&address)
    }

    /// Gives a pod the addresses that it has `now` in place of those that it `held`. One that has none any more keeps what
    /// it had until somebody else claims that, and a claim that is not new takes nothing back from who came later.
    pub(super) fn claim(&mut self, uid: &Arc<str>, held: &mut Vec<IpAddr>, now: Vec<IpAddr>) {
        if now.is_empty() || *held == now {
            return;
        }
        let given_up: Vec<IpAddr> = held.iter().copied().filter(|address| !now.contains(address)).collect();
        self.release(uid, &given_up);
        for address in now.iter().filter(|address| !held.contains(address)) {
            self.owners.insert(*address, Arc::clone(uid));
        }
        self.generation += 1;
        *held = now;
    }

    /// Notes that the owner of addresses has another name.
    pub(super) fn rename(&mut self, held: &[IpAddr]) {
        self.generation += u64::from(!held.is_empty());
    }

    /// Takes from a pod those of its addresses that nobody has claimed since.
    pub(super) fn release(&mut self, uid: &str, held: &[IpAddr]) {
        for address in held {
            if self.owners.get(address).is_some_and(|owner| **owner == *uid) {
                self.owners.remove(address);
                self.generation += 1;
            }
        }
    }
}
