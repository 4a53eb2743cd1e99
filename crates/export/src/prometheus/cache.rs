//! The last encoding of each format: scrapes that share a snapshot share its bytes, and the next one their memory.

use std::io::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use model::Snapshot;
use tokio::sync::{Mutex, MutexGuard};
use tokio::task::{JoinError, spawn_blocking};

use super::{Counts, Format, Style, encode_with};

/// How long an encoding that nobody asks for keeps its memory.
const KEPT: Duration = Duration::from_mins(5);

/// Encoded bytes whose memory comes back when the last response is sent.
#[derive(Clone)]
struct Whole(Arc<Vec<u8>>);

impl AsRef<[u8]> for Whole {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

struct Entry {
    number: u64,
    bytes: Whole,
    counts: Counts,
    used: Instant,
}

type Slot = Mutex<Option<Entry>>;

/// The last encodings, plain and compressed.
#[derive(Default)]
pub(super) struct Cache {
    plain: [Slot; Format::ALL.len()],
    gzip: [Slot; Format::ALL.len()],
}

impl Cache {
    /// Gives a snapshot's encoding. Those who ask for the same one at the same time wait for the first.
    pub(super) async fn get(
        &self,
        snapshot: &Arc<Snapshot>,
        format: Format,
        style: Style,
        gzip: bool,
    ) -> Result<(Bytes, Counts), JoinError> {
        self.forget();
        let (plain, counts) = fill(&self.plain[format as usize], snapshot.number, {
            let snapshot = snapshot.clone();
            move |mut out| {
                let counts = encode_with(&snapshot, format, style, &mut out);
                (out, counts)
            }
        })
        .await?;
        let whole = if gzip {
            let deflate = move |out| (deflated(&plain.0, out), counts);
            fill(&self.gzip[format as usize], snapshot.number, deflate).await?.0
        } else {
            plain
        };
        Ok((Bytes::from_owner(whole), counts))
    }

    /// Frees the encodings that nobody asked for in a while.
    fn forget(&self) {
        for slot in self.plain.iter().chain(&self.gzip) {
            if let Ok(mut entry) = slot.try_lock()
                && entry.as_ref().is_some_and(|entry| entry.used.elapsed() > KEPT)
            {
                *entry = None;
            }
        }
    }
}

/// Gives a slot's bytes, made by `make` in memory that it may reuse unless the slot has this snapshot already.
async fn fill(
    slot: &Slot,
    number: u64,
    make: impl FnOnce(Vec<u8>) -> (Vec<u8>, Counts) + Send + 'static,
) -> Result<(Whole, Counts), JoinError> {
    let mut slot: MutexGuard<'_, Option<Entry>> = slot.lock().await;
    if let Some(entry) = slot.as_mut().filter(|entry| entry.number == number) {
        entry.used = Instant::now();
        return Ok((entry.bytes.clone(), entry.counts));
    }
    let mut memory = slot.take().map_or_else(Vec::new, |entry| {
        let expected = entry.bytes.0.len();
        // Bytes that a slow client still reads stay with it.
        Arc::try_unwrap(entry.bytes.0).unwrap_or_else(|_| Vec::with_capacity(expected))
    });
    memory.clear();
    let (bytes, counts) = spawn_blocking(move || make(memory)).await?;
    let bytes = Whole(Arc::new(bytes));
    *slot = Some(Entry { number, bytes: bytes.clone(), counts, used: Instant::now() });
    Ok((bytes, counts))
}

fn deflated(plain: &[u8], out: Vec<u8>) -> Vec<u8> {
    let mut encoder = GzEncoder::new(out, Compression::fast());
    // Writing to a vector cannot fail; a failure would show as a truncated stream.
    let _ = encoder.write_all(plain);
    encoder.finish().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use model::Attributes;

    use super::*;

    fn snapshot(number: u64, host: &str) -> Arc<Snapshot> {
        let resource = Attributes::new([("host.name".into(), host.to_owned().into())]);
        Arc::new(Snapshot { number, time: 0, resource: Arc::new(resource), families: Vec::new() })
    }

    #[tokio::test]
    async fn one_snapshot_is_encoded_once_per_format() {
        let cache = Cache::default();
        let get = async |snapshot, format, gzip| cache.get(&snapshot, format, Style::default(), gzip).await.unwrap().0;
        let first = get(snapshot(1, "a"), Format::Text, false).await;
        // The number stands for the snapshot: what differs under it shows where the bytes come from.
        assert_eq!(get(snapshot(1, "b"), Format::Text, false).await.as_ptr(), first.as_ptr());
        assert_ne!(get(snapshot(1, "b"), Format::OpenMetrics, false).await, first);
        let packed = get(snapshot(1, "b"), Format::Text, true).await;
        assert_eq!(get(snapshot(1, "c"), Format::Text, true).await, packed);
    }

    #[tokio::test]
    async fn memory_is_reused_only_when_no_response_reads_it() {
        let cache = Cache::default();
        let get = async |snapshot| cache.get(&snapshot, Format::Text, Style::default(), false).await.unwrap().0;
        let first = get(snapshot(1, "a")).await;
        let kept = first.clone();
        let second = get(snapshot(2, "b")).await;
        assert_ne!(second.as_ptr(), first.as_ptr());
        assert_eq!(first, kept);
        let place = second.as_ptr();
        drop(second);
        assert_eq!(get(snapshot(3, "c")).await.as_ptr(), place);
    }
}
