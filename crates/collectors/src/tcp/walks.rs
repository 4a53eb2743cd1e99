//! Walks over all sockets that some task has open, from time to time and in a thread of their own: with very many
//! sockets a walk takes longer than a gather may.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bpf::{Cells, Object};

/// A walk takes at most this part of the time.
const SHARE: u32 = 50;

/// The thread; it ends when this is dropped.
pub(super) struct Walks {
    last: Arc<AtomicU32>,
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Walks {
    /// Walks once, which gives sockets that are older than the agent their owners, then every `interval`.
    ///
    /// # Errors
    /// Fails when the first walk does.
    pub(super) fn start(
        object: Arc<Mutex<Object>>,
        mut rounds: Cells<u32>,
        interval: Option<Duration>,
    ) -> Result<Self, bpf::Error> {
        let last = Arc::new(AtomicU32::new(0));
        // Sockets and workloads may still know the last one of the agent before.
        let mut round = rounds.get(0)?.unwrap_or_default().wrapping_add(1).max(1);
        let mut took = walk(&object, &mut rounds, round)?;
        let mut walks = Self { last: Arc::clone(&last), stop: None, thread: None };
        let Some(interval) = interval else { return Ok(walks) };
        last.store(round, Ordering::Release);
        let (stop, stopped) = channel::<()>();
        let thread = std::thread::Builder::new().name("c/tcp-walks".to_owned()).spawn(move || {
            while stopped.recv_timeout(interval.max(took * SHARE)) == Err(RecvTimeoutError::Timeout) {
                // 0 is the round of what no walk has met.
                round = round.wrapping_add(1).max(1);
                match walk(&object, &mut rounds, round) {
                    Ok(time) => {
                        last.store(round, Ordering::Release);
                        took = time;
                    }
                    Err(error) => {
                        if last.swap(0, Ordering::Release) != 0 {
                            tracing::warn!(%error, "cannot read the round trips of open connections");
                        }
                    }
                }
            }
        });
        // Without a thread there are no round trips; nothing else depends on it.
        match thread {
            Ok(thread) => (walks.stop, walks.thread) = (Some(stop), Some(thread)),
            Err(error) => tracing::warn!(%error, "cannot start a thread for the round trips of open connections"),
        }
        Ok(walks)
    }

    /// Gives the number of the last walk if it is whole, else 0.
    pub(super) fn last(&self) -> u32 {
        self.last.load(Ordering::Acquire)
    }
}

impl Drop for Walks {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Walks once and gives how long that took.
fn walk(object: &Mutex<Object>, rounds: &mut Cells<u32>, round: u32) -> Result<Duration, bpf::Error> {
    let begin = Instant::now();
    rounds.set(0, &round)?;
    object.lock().unwrap_or_else(PoisonError::into_inner).walk("walk", &mut Vec::new())?;
    Ok(begin.elapsed())
}
