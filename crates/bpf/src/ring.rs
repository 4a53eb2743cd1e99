//! Ring buffers, awaited: the kernel wakes the reader when something came in.

use std::io;

use aya::maps::{Map, MapData, RingBuf};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::error::Error;

/// The reading end of a ring buffer. Rings carry rare events; what did not fit is counted by the program.
pub struct Ring {
    ring: AsyncFd<RingBuf<MapData>>,
}

impl Ring {
    pub(crate) fn new(map: Map, name: &str) -> Result<Self, Error> {
        let ring =
            RingBuf::try_from(map).map_err(|_| Error::Kind { map: name.to_owned(), expected: "a ring buffer" })?;
        let fail = |source| Error::Map { map: name.to_owned(), action: "poll", source };
        if tokio::runtime::Handle::try_current().is_err() {
            return Err(fail(io::Error::other("no Tokio runtime runs here")));
        }
        #[expect(unsafe_code, reason = "tokio asks for a promise on the descriptor's life")]
        // SAFETY: the ring owns its descriptor, never exchanges it, and lives as long as the registration.
        let ring = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) };
        Ok(Self { ring: ring.map_err(|error| fail(error.into()))? })
    }

    /// Waits for the next event and decodes it. It may be dropped at any time without losing an event.
    ///
    /// # Errors
    /// Fails when the ring can no longer be polled.
    pub async fn next<T>(&mut self, decode: impl FnOnce(&[u8]) -> T) -> io::Result<T> {
        let mut decode = Some(decode);
        loop {
            if let Some(item) = self.ring.get_mut().next()
                && let Some(decode) = decode.take()
            {
                return Ok(decode(&item));
            }
            self.ready().await?;
        }
    }

    /// Shows every event that is there now, without waiting, and gives their number.
    pub fn drain(&mut self, show: impl FnMut(&[u8])) -> usize {
        self.drain_some(usize::MAX, show)
    }

    /// Shows at most so many events.
    pub fn drain_some(&mut self, most: usize, mut show: impl FnMut(&[u8])) -> usize {
        let mut count = 0;
        while count < most
            && let Some(item) = self.ring.get_mut().next()
        {
            show(&item);
            count += 1;
        }
        count
    }

    /// Waits until the ring may have events.
    pub(crate) async fn ready(&mut self) -> io::Result<()> {
        let mut ready = self.ring.readable_mut().await?;
        // An event may have come in between looking and clearing: the kernel says so again at the next commit
        // only, so readiness is cleared first and the ring looked at afterwards.
        ready.clear_ready();
        Ok(())
    }
}
