//! More events than anyone can take: every one that the kernel made is delivered or in exactly one account.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bpf::{Events, Loader, Types};
use collectors::EventDecoder;
use model::event::{EventKind, Feed};
use model::{Answer, Attributes, Resolver, Subject};
use runtime::{Bus, Limit};

use crate::harness::live;

/// Events of one system call, as in flood.bpf.c.
const FLOOD: u64 = 64;
const CALLS: u64 = 20_000;
const GETPPID: u32 = if cfg!(target_arch = "x86_64") { 110 } else { 173 };

/// One workload is all there is.
struct One(Arc<Attributes>);

impl Resolver for One {
    fn generation(&self) -> u64 {
        0
    }

    fn resolve(&self, subject: Subject) -> Answer {
        self.resolve_now(subject)
    }

    fn resolve_now(&self, _: Subject) -> Answer {
        Answer::Known(Arc::clone(&self.0))
    }
}

/// Reads to the end what the calls make, as a collector does, and gives how many there were.
async fn carry(mut events: Events, mut entrance: runtime::Entrance, calls: std::thread::JoinHandle<()>) -> u64 {
    let mut decoder = EventDecoder::default();
    let mut read = 0;
    loop {
        // Looked at before the events: what was made until then is read below.
        let last = calls.is_finished();
        let batch = events.batch(|record| decoder.pass_on(record, &mut entrance));
        if let Ok(count) = tokio::time::timeout(Duration::from_millis(20), batch).await {
            read += count.unwrap() as u64;
            entrance.flush();
        } else if last {
            break;
        }
    }
    calls.join().unwrap();
    entrance.finish();
    assert_eq!(decoder.broken(), 0);
    read
}

/// Counts what a slow sink gets.
async fn deliver(feed: Arc<dyn Feed>) -> u64 {
    let mut delivered = 0;
    loop {
        let records = feed.take(500, Duration::ZERO).await;
        if records.is_empty() {
            return delivered;
        }
        delivered += records.len() as u64;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[test]
fn the_ledger_closes_at_overload() {
    let _kernel = live!();
    let types = Types::load(None).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _inside = runtime.enter();
    for object in ["flood", "flood_perf"] {
        let mut loader = Loader::new(object).constant("flooder", &std::process::id()).constant("trigger", &GETPPID);
        if object == "flood" {
            // Some 1,000 events at once, which all leave whatever the reader's pace.
            loader = loader.max_entries("floods", 64 * 1024);
        }
        let mut object = loader.load(&types).unwrap();
        let events = object.events("floods", 64 * 1024).unwrap();
        let drops = object.per_cpu_cells::<u64>("drops").unwrap();

        let bus = Arc::new(Bus::new(Arc::new(One(Arc::default())), 2, 100));
        let limit = Limit { rate: 1, burst: 800 };
        let entrance = bus.entrance("flood", HashMap::from([(EventKind::Exit, limit)]));
        let ledger = entrance.ledger();
        let feeds = bus.feeds();
        let slow = runtime.spawn(deliver(Arc::clone(&feeds[0])));
        object.attach("sys_exit", &types).unwrap();
        let calls = std::thread::spawn(|| {
            for _ in 0..CALLS {
                let _ = std::os::unix::process::parent_id();
            }
        });
        let read = runtime.block_on(carry(events, entrance, calls));
        let dropped: u64 = drops.get(0).unwrap().into_iter().sum();
        assert_eq!(read + dropped, CALLS * FLOOD, "made = read + dropped in the kernel");
        assert_eq!(ledger.emitted() + ledger.limited(), read, "read = emitted + limited");
        assert!(dropped > 0 && ledger.limited() > 0, "{dropped} and {} make no overload", ledger.limited());
        bus.close();
        let delivered = runtime.block_on(slow).unwrap();
        assert_eq!(delivered + feeds[0].overflowed(), ledger.emitted(), "emitted = delivered + overflowed");
        assert!(delivered > 0);
        assert_eq!(
            100 + feeds[1].overflowed(),
            ledger.emitted(),
            "the dead sink keeps what fits, and costs nobody else"
        );
    }
}
