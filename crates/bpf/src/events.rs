//! Events as they leave the kernel, whichever way `bpf/lib/ring.bpf.h` was built for.

use std::io;

use crate::perf::Perf;
use crate::ring::Ring;

/// The most events of one batch: what waits in a ring meanwhile is not seen to be read.
const BATCH: usize = 1024;

/// The reading end.
pub enum Events {
    /// One ring for all CPUs.
    Ring(Ring),
    /// A buffer for each CPU.
    Perf(Perf),
}

impl Events {
    /// Waits for events and shows those that are there. It may be dropped at any time without losing an event.
    ///
    /// # Errors
    /// Fails when the kernel's end can no longer be polled.
    pub async fn batch(&mut self, mut show: impl FnMut(&[u8])) -> io::Result<usize> {
        loop {
            let count = self.drain(&mut show);
            if count > 0 {
                return Ok(count);
            }
            match self {
                Self::Ring(ring) => ring.ready().await?,
                Self::Perf(perf) => perf.ready().await?,
            }
        }
    }

    /// Shows events that are there now, without waiting, and gives their number; 0 means that there were none.
    pub fn drain(&mut self, show: impl FnMut(&[u8])) -> usize {
        match self {
            Self::Ring(ring) => ring.drain_some(BATCH, show),
            Self::Perf(perf) => perf.drain(show),
        }
    }
}
