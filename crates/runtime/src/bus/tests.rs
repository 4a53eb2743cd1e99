//! Every event that is put in comes out or is counted, whatever the sinks do.

use model::event::Detail;

use super::*;

/// Knows cgroups below 100; 100 to 199 are not known yet, the rest is left out.
#[derive(Default)]
struct Names(Mutex<HashMap<u64, Arc<Attributes>>>, AtomicU64);

impl Resolver for Names {
    fn generation(&self) -> u64 {
        0
    }

    fn resolve(&self, subject: Subject) -> Answer {
        let Subject::Cgroup(id) = subject else { return Answer::Known(Arc::default()) };
        match id {
            0..100 => {
                let new = || Arc::new(Attributes::new([("cgroup.path".into(), format!("/{id}").into())]));
                Answer::Known(Arc::clone(self.0.lock().unwrap().entry(id).or_insert_with(new)))
            }
            100..200 if self.1.load(Ordering::Relaxed) == 0 => Answer::Pending,
            100..200 => Answer::Known(Arc::default()),
            _ => Answer::Excluded,
        }
    }

    fn resolve_now(&self, subject: Subject) -> Answer {
        match (self.resolve(subject), subject) {
            (Answer::Pending, Subject::Cgroup(id)) => {
                let new = || Arc::new(Attributes::new([("cgroup.id".into(), id.to_string().into())]));
                let set = Arc::clone(self.0.lock().unwrap().entry(id).or_insert_with(new));
                Answer::Unknown(set, "not found")
            }
            (answer, _) => answer,
        }
    }
}

fn event(cgroup: u64, time: u64) -> Event {
    Event { time, subject: Subject::Cgroup(cgroup), pid: 7, command: [0; 16], detail: Detail::OomKill }
}

fn now(records: impl IntoIterator<Item = Arc<Record>>) -> Vec<u64> {
    records.into_iter().map(|record| record.event.time).collect()
}

#[tokio::test]
async fn the_ledger_closes_at_overload() {
    const EVENTS: u64 = 200_000;
    let bus = Arc::new(Bus::new(Arc::new(Names::default()), 2, 1000));
    let limits = HashMap::from([(EventKind::OomKill, Limit { rate: 1, burst: 40_000 })]);
    let mut entrance = bus.entrance("test", limits);
    let ledger = entrance.ledger();
    let feeds = bus.feeds();
    let reader = tokio::spawn({
        let feed = Arc::clone(&feeds[0]);
        async move {
            let mut delivered = 0;
            loop {
                let records = feed.take(100, Duration::ZERO).await;
                if records.is_empty() {
                    return delivered;
                }
                delivered += records.len() as u64;
                tokio::task::yield_now().await;
            }
        }
    });
    for number in 0..EVENTS {
        // Ten workloads of which two are left out; all at one moment, so that the limit is exact.
        entrance.put(event(if number % 10 < 2 { 200 } else { number % 10 }, 5));
        if number % 64 == 0 {
            entrance.flush();
            tokio::task::yield_now().await;
        }
    }
    entrance.finish();
    bus.close();
    let delivered = reader.await.unwrap();
    assert_eq!((ledger.excluded(), ledger.limited()), (EVENTS / 5, 0));
    assert_eq!(ledger.emitted(), EVENTS - EVENTS / 5);
    assert_eq!(delivered + feeds[0].overflowed(), ledger.emitted(), "the sink that reads");
    assert!(delivered > 0);
    // The dead one kept what fits and cost the other nothing.
    assert_eq!(feeds[1].overflowed(), ledger.emitted() - 1000);
    assert_eq!(feeds[1].take(5000, Duration::ZERO).await.len(), 1000);
    assert!(feeds[1].take(1, Duration::ZERO).await.is_empty());
}

#[tokio::test]
async fn a_workload_at_its_limit_costs_others_nothing() {
    let bus = Arc::new(Bus::new(Arc::new(Names::default()), 1, 10_000));
    let mut entrance = bus.entrance("test", HashMap::from([(EventKind::OomKill, Limit { rate: 10, burst: 10 })]));
    for _ in 0..1000 {
        entrance.put(event(1, 0));
    }
    entrance.put(event(2, 0));
    entrance.flush();
    assert_eq!((entrance.ledger().emitted(), entrance.ledger().limited()), (11, 990));
    assert_eq!(bus.feeds()[0].take(100, Duration::ZERO).await.len(), 11);
    let mut scrape = Scrape::default();
    entrance.ledger().record(&mut scrape);
    assert_eq!(scrape.len(), 2, "what was emitted, and the loss of one workload");
}

#[tokio::test]
async fn events_wait_for_their_names() {
    let names = Arc::new(Names::default());
    let bus = Arc::new(Bus::new(Arc::clone(&names) as Arc<dyn Resolver>, 1, 10));
    let mut entrance = bus.entrance("test", HashMap::from([(EventKind::OomKill, Limit { rate: 1, burst: 2 })]));
    entrance.put(event(100, 1));
    entrance.put(event(1, 2));
    assert!(entrance.flush(), "one waits");
    let feed = bus.feeds().remove(0);
    assert_eq!(now(feed.take(10, Duration::ZERO).await), [2]);
    names.1.store(1, Ordering::Relaxed);
    assert!(!entrance.flush());
    assert_eq!(now(feed.take(10, Duration::ZERO).await), [1]);
    names.1.store(0, Ordering::Relaxed);
    for time in 3..8 {
        entrance.put(event(101, time));
    }
    entrance.finish();
    let records = feed.take(10, Duration::ZERO).await;
    assert_eq!(records[0].workload.get("cgroup.id"), Some("101"), "in the end it goes without");
    assert_eq!(now(records), [3, 4], "and has a limit all the same");
}

#[tokio::test]
async fn a_batch_fills_up_or_goes_after_its_delay() {
    let bus = Arc::new(Bus::new(Arc::new(Names::default()), 1, 100));
    let mut entrance = bus.entrance("test", HashMap::new());
    let feed = bus.feeds().remove(0);
    entrance.put(event(1, 1));
    entrance.flush();
    assert_eq!(feed.take(3, Duration::from_millis(1)).await.len(), 1, "after the delay");
    let waiting = tokio::spawn(async move { feed.take(3, Duration::from_hours(1)).await.len() });
    for time in 0..3 {
        tokio::task::yield_now().await;
        entrance.put(event(1, time));
        entrance.flush();
    }
    assert_eq!(waiting.await.unwrap(), 3, "as soon as it is full");
}

#[tokio::test]
async fn a_sink_that_is_replaced_loses_nothing_and_repeats_nothing() {
    let bus = Arc::new(Bus::new(Arc::new(Names::default()), 0, 0));
    let mut entrance = bus.entrance("test", HashMap::new());
    assert!(!bus.is_wanted());
    let old = bus.open(100, None);
    assert!(bus.is_wanted());
    let mut put = |times: std::ops::Range<u64>| {
        for time in times {
            entrance.put(event(1, time));
        }
        entrance.flush();
    };
    put(0..3);
    let new = bus.open(100, Some(&old));
    put(3..5);
    bus.retire(&new);
    put(5..6);
    assert!(!bus.is_wanted());
    let all = |feed: Arc<dyn Feed>| async move { now(feed.take(100, Duration::ZERO).await) };
    assert_eq!((all(Arc::clone(&old)).await, all(Arc::clone(&new)).await), (vec![0, 1, 2], vec![3, 4]));
    assert!(all(old).await.is_empty(), "it ends");
    assert!(all(new).await.is_empty());
}

#[tokio::test]
async fn queues_are_short_while_the_memory_limit_is_close() {
    const EVENTS: u64 = 5000;
    let bus = Arc::new(Bus::new(Arc::new(Names::default()), 1, 10_000));
    let (mut entrance, feed) = (bus.entrance("test", HashMap::new()), bus.feeds().remove(0));
    let mut put = |times: std::ops::Range<u64>| {
        times.for_each(|time| entrance.put(event(1, time)));
        entrance.flush();
    };
    put(0..EVENTS);
    assert_eq!((feed.cut(), feed.overflowed()), (0, 0));
    bus.headroom().note(Some((9, 10)));
    put(EVENTS..EVENTS + 10);
    assert_eq!(feed.cut(), 10, "there is room for none");
    bus.cut();
    let first = feed.take(10_000, Duration::ZERO).await;
    assert_eq!(now(first).last(), Some(&(EVENTS - feed.cut() + 9)), "the oldest stay");
    bus.headroom().note(None);
    put(0..EVENTS);
    assert_eq!(feed.take(10_000, Duration::ZERO).await.len() as u64, EVENTS, "and all when it is far");
    assert_eq!(feed.overflowed(), 0);
}
