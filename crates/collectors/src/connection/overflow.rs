//! Reads the packets that found no slot and adds each to its pair.

use std::sync::{Arc, Mutex, Weak};

use bpf::Ring;
use bpf::abi::connection::Stray;
use runtime::CollectError;
use tokio::runtime::Handle;
use zerocopy::FromBytes;

use super::{State, lock};
use crate::flush::{Flush, Wishes};

/// The most records that are added at once: a round can take place in between.
const BATCH: usize = 1024;
/// So many hold more than the ring: what came before is among them, also while more comes.
const BATCHES: usize = 4;

/// The reader, from outside.
pub(super) struct Overflow(Flush<()>);

impl Overflow {
    /// Starts to read, until this is dropped.
    pub(super) fn start(ring: Ring, state: &Arc<Mutex<State>>, runtime: &Handle) -> Self {
        let (wishes, inbox) = Flush::new("nobody reads the overflow of the kernel's table any more");
        runtime.spawn(run(ring, Arc::downgrade(state), inbox));
        Self(wishes)
    }

    /// Waits until everything that came before is added.
    pub(super) async fn flush(&self) -> Result<(), CollectError> {
        self.0.wait().await
    }
}

async fn run(mut ring: Ring, state: Weak<Mutex<State>>, mut inbox: Wishes<()>) {
    let mut strays: Vec<Stray> = Vec::with_capacity(BATCH);
    loop {
        let mut done = None;
        tokio::select! {
            biased;
            wish = inbox.recv() => match wish {
                Some(wish) => done = Some(wish),
                None => return,
            },
            first = ring.next(|record| Stray::read_from_bytes(record).ok()) => match first {
                Ok(first) => strays.extend(first),
                Err(error) => {
                    tracing::warn!("the overflow of the kernel's table: {error}");
                    return;
                }
            },
        }
        for _ in 0..BATCHES {
            let read = ring.drain_some(BATCH, |record| strays.extend(Stray::read_from_bytes(record).ok()));
            let Some(state) = state.upgrade() else { return };
            lock(&state).add(&strays);
            strays.clear();
            if read < BATCH {
                break;
            }
            // A flood must not keep a thread from everything else.
            tokio::task::yield_now().await;
        }
        if let Some(done) = done {
            // The collector may have stopped waiting.
            let _ = done.send(());
        }
    }
}
