//! What the sockets of this node carry between two addresses: the collector connection adds to it what its table shows,
//! and who has names for addresses takes it.

use std::any::Any;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use foldhash::fast::RandomState;
use runtime::Platform;

/// The name under which it is shared.
const NAME: &str = "carried";
/// The most pairs of addresses that wait to be taken.
const MOST: usize = 65_536;

/// Bytes between a local and a remote address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bytes {
    /// Those that the local one sent.
    pub sent: u64,
    /// Those that it received.
    pub received: u64,
}

/// The sums by the local and the remote address.
pub type Sums = HashMap<(IpAddr, IpAddr), Bytes, RandomState>;

/// What was carried since somebody took it.
#[derive(Debug, Default)]
pub struct Carried {
    waiting: Mutex<(Sums, u64)>,
}

impl Carried {
    /// Opens it: as long as this is kept, what is carried is added.
    pub fn open(platform: &Platform) -> Arc<Self> {
        let carried = Arc::<Self>::default();
        let weak = Arc::downgrade(&carried);
        let mut shared = platform.shared.lock().unwrap_or_else(PoisonError::into_inner);
        shared.insert(NAME, weak as Weak<dyn Any + Send + Sync>);
        carried
    }

    /// Finds who wants to know, if anybody does.
    pub fn find(platform: &Platform) -> Option<Arc<Self>> {
        let shared = platform.shared.lock().unwrap_or_else(PoisonError::into_inner);
        shared.get(NAME)?.upgrade()?.downcast().ok()
    }

    /// Adds what a socket carried. What stays within the host has no names.
    pub fn add(&self, local: IpAddr, remote: IpAddr, bytes: Bytes) {
        if [local, remote].iter().any(|address| address.is_unspecified() || address.is_loopback()) {
            return;
        }
        let mut waiting = self.lock();
        let (sums, beyond) = &mut *waiting;
        if sums.len() >= MOST && !sums.contains_key(&(local, remote)) {
            *beyond += bytes.sent + bytes.received;
            return;
        }
        let sum = sums.entry((local, remote)).or_default();
        sum.sent += bytes.sent;
        sum.received += bytes.received;
    }

    /// Takes the sums, and the bytes that are in none of them for want of room.
    pub fn take(&self) -> (Sums, u64) {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, (Sums, u64)> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_bounded_and_what_is_beyond_is_known() {
        let carried = Carried::default();
        let peer = |number: u32| IpAddr::V4((0x0a00_0000 + number).into());
        for number in 0..MOST as u32 + 10 {
            carried.add(peer(1), peer(number), Bytes { sent: 2, received: 1 });
        }
        carried.add(peer(1), peer(2), Bytes { sent: 5, received: 0 });
        carried.add(IpAddr::from([127, 0, 0, 1]), peer(2), Bytes { sent: 5, received: 0 });
        let (sums, beyond) = carried.take();
        assert_eq!((sums.len(), beyond), (MOST, 30));
        assert_eq!(sums[&(peer(1), peer(2))], Bytes { sent: 7, received: 1 });
        assert!(carried.take().0.is_empty());
    }
}
