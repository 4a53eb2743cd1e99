//! Perf buffers, one for each CPU: how events leave kernels without ring buffers.

use std::io;
use std::task::Poll;

use aya::maps::perf::{PerfEvent, PerfEventArray, PerfEventArrayBuffer};
use aya::maps::{Map, MapData};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::error::{Error, chain};

/// The reading ends of a perf event array. Events of one CPU are in order; what did not fit is counted by the program.
pub struct Perf {
    buffers: Vec<AsyncFd<PerfEventArrayBuffer<MapData>>>,
    /// Where an event is put together that straddles its buffer's end.
    whole: Vec<u8>,
}

impl Perf {
    /// Opens a buffer of so many bytes for each CPU that is online.
    pub(crate) fn new(map: Map, name: &str, bytes: u64) -> Result<Self, Error> {
        let fail = |source| Error::Map { map: name.to_owned(), action: "open the buffers of", source };
        let mut array = PerfEventArray::try_from(map)
            .map_err(|_| Error::Kind { map: name.to_owned(), expected: "a perf event array" })?;
        if tokio::runtime::Handle::try_current().is_err() {
            return Err(fail(io::Error::other("no Tokio runtime runs here")));
        }
        let pages = bytes.div_ceil(rustix::param::page_size() as u64).next_power_of_two();
        let cpus = aya::util::online_cpus().map_err(|(_, error)| fail(error))?;
        let open = |cpu| {
            let buffer = array.open(cpu, Some(pages as usize));
            let buffer = buffer.map_err(|error| fail(io::Error::other(chain(&error))))?;
            #[expect(unsafe_code, reason = "tokio asks for a promise on the descriptor's life")]
            // SAFETY: the buffer owns its descriptor, never exchanges it, and lives as long as the registration.
            let buffer = unsafe { AsyncFd::register_with_interest(buffer, Interest::READABLE) };
            buffer.map_err(|error| fail(error.into()))
        };
        Ok(Self { buffers: cpus.into_iter().map(open).collect::<Result<_, _>>()?, whole: Vec::new() })
    }

    /// Waits until some buffer may have events.
    pub(crate) async fn ready(&mut self) -> io::Result<()> {
        let buffers = &mut self.buffers;
        std::future::poll_fn(|context| {
            let mut answer = Poll::Pending;
            for buffer in buffers.iter_mut() {
                match buffer.poll_read_ready_mut(context) {
                    Poll::Ready(Ok(mut ready)) => {
                        // As with a ring: cleared first, looked at afterwards.
                        ready.clear_ready();
                        answer = Poll::Ready(Ok(()));
                    }
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => {}
                }
            }
            answer
        })
        .await
    }

    /// Shows every event that is there now, without waiting, and gives their number.
    pub(crate) fn drain(&mut self, mut show: impl FnMut(&[u8])) -> usize {
        let mut count = 0;
        for buffer in &mut self.buffers {
            let whole = &mut self.whole;
            buffer.get_mut().for_each(|event| {
                let PerfEvent::Sample { head, tail } = event else { return };
                count += 1;
                if tail.is_empty() {
                    show(head);
                    return;
                }
                whole.clear();
                whole.extend_from_slice(head);
                whole.extend_from_slice(tail);
                show(whole);
            });
        }
        count
    }
}
