//! A sink's queue: bounded, filled in batches without waiting, emptied in batches.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use model::event::{Coming, Feed, Record};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::headroom::Headroom;

/// The most records that wait while the memory limit is close.
const FEW: usize = 1024;

#[derive(Debug)]
pub(super) struct Queue {
    capacity: usize,
    headroom: Arc<Headroom>,
    inside: Mutex<Inside>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Inside {
    records: VecDeque<Arc<Record>>,
    overflowed: u64,
    /// Dropped because the memory limit was close.
    cut: u64,
    closed: bool,
    /// How many records the sink waits for; 0 while it does not.
    wanted: usize,
}

impl Queue {
    pub fn new(capacity: usize, headroom: &Arc<Headroom>) -> Self {
        Self { capacity, headroom: Arc::clone(headroom), inside: Mutex::default(), changed: Notify::new() }
    }

    /// Gives how many records may wait at present.
    fn capacity(&self) -> usize {
        if self.headroom.is_close() { self.capacity.min(FEW) } else { self.capacity }
    }

    /// Drops the latest records of more than may wait at present.
    pub fn cut(&self) {
        let mut inside = self.lock();
        let capacity = self.capacity();
        inside.cut += inside.records.len().saturating_sub(capacity) as u64;
        inside.records.truncate(capacity);
        inside.records.shrink_to(capacity);
    }

    /// Takes what there is room for, and counts the rest.
    pub fn put(&self, records: &[Arc<Record>]) {
        let mut inside = self.lock();
        let (capacity, before) = (self.capacity(), inside.records.len());
        let room = if inside.closed { 0 } else { capacity.saturating_sub(before) };
        let taken = records.len().min(room);
        inside.records.extend(records[..taken].iter().cloned());
        let dropped = (records.len() - taken) as u64;
        if capacity < self.capacity && !inside.closed {
            inside.cut += dropped;
        } else {
            inside.overflowed += dropped;
        }
        let wake = inside.wanted > 0 && inside.records.len() >= inside.wanted;
        if wake {
            inside.wanted = 0;
        }
        drop(inside);
        if wake {
            self.changed.notify_one();
        }
    }

    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until there are so many records, the queue is closed or the deadline has passed.
    async fn wait(&self, wanted: usize, deadline: Option<Instant>) {
        loop {
            {
                let mut inside = self.lock();
                if inside.records.len() >= wanted || inside.closed {
                    inside.wanted = 0;
                    return;
                }
                inside.wanted = wanted;
            }
            let changed = self.changed.notified();
            match deadline {
                None => changed.await,
                Some(deadline) => {
                    if tokio::time::timeout_at(deadline, changed).await.is_err() {
                        return;
                    }
                }
            }
        }
    }
}

impl Feed for Queue {
    fn take(&self, most: usize, linger: Duration) -> Coming<'_> {
        Box::pin(async move {
            self.wait(1, None).await;
            let most = if self.headroom.is_close() { most.min(FEW) } else { most };
            // A queue smaller than a batch is never fuller than full.
            self.wait(most.min(self.capacity), Some(Instant::now() + linger)).await;
            let mut inside = self.lock();
            let count = inside.records.len().min(most);
            inside.records.drain(..count).collect()
        })
    }

    fn overflowed(&self) -> u64 {
        self.lock().overflowed
    }

    fn cut(&self) -> u64 {
        self.lock().cut
    }
}
