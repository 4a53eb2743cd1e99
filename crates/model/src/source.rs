//! Where readers get their snapshots.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::snapshot::Snapshot;

/// A snapshot that is still being taken.
pub type Pending<'a> = Pin<Box<dyn Future<Output = Arc<Snapshot>> + Send + 'a>>;

/// Gives snapshots on demand. Readers that ask at the same time share one gather.
pub trait Source: Send + Sync {
    /// Gives a snapshot no older than `max_age`, gathering when there is none.
    fn snapshot(&self, max_age: Duration) -> Pending<'_>;

    /// Registers a reader whose receiver confirms what it got, and gives the number to confirm with.
    /// A dead series stays until every such reader has confirmed its final value.
    fn register(&self) -> usize;

    /// Notes that a registered reader's receiver has everything up to and including snapshot `number`;
    /// with `u64::MAX` the reader leaves.
    fn acknowledge(&self, reader: usize, number: u64);
}
