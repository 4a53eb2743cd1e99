//! A sink's queue: bounded, filled in batches without waiting, emptied in batches.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use model::event::{Coming, Feed, Record};
use tokio::sync::Notify;
use tokio::time::Instant;

#[derive(Debug)]
pub(super) struct Queue {
    capacity: usize,
    inside: Mutex<Inside>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Inside {
    records: VecDeque<Arc<Record>>,
    overflowed: u64,
    closed: bool,
    /// How many records the sink waits for; 0 while it does not.
    wanted: usize,
}

impl Queue {
    pub fn new(capacity: usize) -> Self {
        Self { capacity, inside: Mutex::default(), changed: Notify::new() }
    }

    /// Takes what there is room for, and counts the rest.
    pub fn put(&self, records: &[Arc<Record>]) {
        let mut inside = self.lock();
        let room = if inside.closed { 0 } else { self.capacity - inside.records.len().min(self.capacity) };
        let taken = records.len().min(room);
        inside.records.extend(records[..taken].iter().cloned());
        inside.overflowed += (records.len() - taken) as u64;
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
}
