//! What the integration manager promises: one collector's trouble is its own, counts are exact, everything is bounded.

mod change;
mod scripted;

use std::collections::HashMap;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use model::source::Pending;
use model::{Attributes, Nobody, Points, Snapshot, Source};
use opentelemetry::KeyValue;
use scripted::{Act, Birth, DEPTH, FIRST_COLLECTOR, Life, SECOND_COLLECTOR, STEADY_COLLECTOR, STEP, Script, World};
use telesonde_runtime::clock::Reading;
use telesonde_runtime::{Clock, Descriptor, Limits, Manager, Options, Own, Platform, Selection, StartError, State};

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(20);

fn options() -> Options {
    Options {
        collect_timeout: Duration::from_millis(100),
        housekeeping: Duration::from_hours(1),
        limits: Limits {
            series_per_metric: 100,
            series_total: 1000,
            samples_per_workload: 1_000_000,
            bucket_doublings: 4,
            series_ttl: 3_600_000_000_000,
        },
        version: "1.2.3".to_owned(),
        schema_url: "https://opentelemetry.io/schemas/1.0.0".to_owned(),
        resource: Arc::new(Attributes::new([("service.name".into(), "telesonde".into())])),
        clock: Clock::default(),
        together: &[&["first", "second"]],
    }
}

fn select(descriptor: &'static Descriptor, world: &str, lives: &[(Birth, &[Act])]) -> Selection {
    let lives = lives.iter().map(|&(birth, rounds)| Life { birth, rounds: rounds.to_vec() }).collect();
    let section = serde_json::to_value(Script { world: world.to_owned(), lives }).unwrap();
    let key = format!("integrations.ebpf.collectors.{}", descriptor.name);
    Selection { descriptor, key, enabled: true, required: false, section }
}

fn steady(world: &str) -> Selection {
    select(&STEADY_COLLECTOR, world, &[(Birth::Fine, &[Act::Count])])
}

fn start_with(options: Options, selections: Vec<Selection>, own: Own) -> Result<Manager, StartError> {
    let platform = Arc::new(platform(&own));
    Manager::start(options, selections, &platform, Arc::new(Nobody), own, &tokio::runtime::Handle::current())
}

fn platform(own: &Own) -> Platform {
    Platform {
        facts: bpf::probe::Facts::gather(),
        census: Arc::new(Nobody),
        peers: Arc::new(Nobody),
        elections: None,
        learner: None,
        sections: HashMap::new(),
        shared: Mutex::default(),
        btf_path: None,
        types: Mutex::default(),
        gates: bpf::Gates::default(),
        pins: None,
        map_scale: 1.0,
        ring_bytes: 4096,
        perf_bytes: 8192,
        buffer: telesonde_runtime::Buffer::Auto,
        bus: Arc::new(telesonde_runtime::Bus::new(Arc::new(Nobody), 0, 0)),
        process_filter: Vec::new(),
        exclude_processes: Vec::new(),
        cgroup_rules: None,
        executables: None,
        budget: telesonde_runtime::Budget::default(),
        sealed: Arc::default(),
        excluded_process: None,
        sample_every: 1,
        meters: own.provider(),
    }
}

fn start(selections: Vec<Selection>) -> Manager {
    start_with(options(), selections, Own::new()).unwrap()
}

fn state(manager: &Manager, name: &str) -> State {
    manager.status().into_iter().find(|status| status.name == name).unwrap().state
}

/// Gives the value of a metric's series with an attribute (any where there is none given).
fn value_where(snapshot: &Snapshot, name: &str, attribute: Option<(&str, &str)>) -> Option<u64> {
    let family = snapshot.families.iter().find(|family| family.metric.name == name)?;
    let Points::Numbers(points) = &family.points else { return None };
    let fits = attribute.map(|(key, value)| (key, Some(value)));
    let point = points.iter().find(|point| fits.is_none_or(|(key, value)| point.series.dimensions.get(key) == value));
    point.map(|point| point.value.as_f64() as u64)
}

fn value(snapshot: &Snapshot, name: &str) -> Option<u64> {
    value_where(snapshot, name, None)
}

/// Gathers until it is as a test wants it; the steady collector must be exact in every single snapshot.
async fn until(manager: &Manager, mut check: impl FnMut(&Snapshot) -> bool) -> Arc<Snapshot> {
    let end = Instant::now() + PATIENCE;
    loop {
        let snapshot = manager.snapshot(Duration::ZERO).await;
        assert_eq!(value(&snapshot, "steady"), Some(STEP * snapshot.number), "in snapshot {}", snapshot.number);
        if check(&snapshot) {
            return snapshot;
        }
        assert!(Instant::now() < end, "{:?}", manager.status());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The time of day, as a test sets it: years forward and back, and far beyond what dates can be.
#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_jumps_is_told_and_disturbs_nothing() {
    const SECOND: u64 = 1_000_000_000;
    const YEAR: u64 = 365 * 24 * 3600 * SECOND;
    let unix = Arc::new(AtomicU64::new(50 * YEAR));
    let (shown, begun) = (Arc::clone(&unix), Instant::now());
    let clock = Clock::new(move || {
        let steady = begun.elapsed().as_nanos() as u64;
        Reading { unix: shown.load(Ordering::Relaxed).saturating_add(steady), steady }
    });
    let lives: &[(Birth, &[Act])] = &[(Birth::Fine, &[Act::Count, Act::Close, Act::Count])];
    let selections = vec![select(&FIRST_COLLECTOR, "clock", lives), steady("clock-steady")];
    let manager = start_with(Options { clock, ..options() }, selections, Own::new()).unwrap();
    let mut before = manager.snapshot(Duration::ZERO).await;
    let jumps = [("forward", YEAR), ("back", 0), ("forward", 80 * YEAR), ("back", 50 * YEAR), ("back", 49 * YEAR)];
    for (number, (_, time)) in jumps.into_iter().enumerate() {
        unix.store(if number == 0 { 51 * YEAR } else { time }, Ordering::Relaxed);
        for _ in 0..2 {
            let snapshot = manager.snapshot(Duration::ZERO).await;
            assert_eq!(value(&snapshot, "steady"), Some(STEP * snapshot.number));
            assert!(value(&snapshot, "first") >= value(&before, "first"), "no series has gone, none has fallen");
            assert!(snapshot.time > before.time, "time goes on: {} after {}", snapshot.time, before.time);
            for family in &snapshot.families {
                let starts: Vec<u64> = match &family.points {
                    Points::Numbers(points) => points.iter().map(|point| point.series.start).collect(),
                    Points::Histogram { points, .. } => points.iter().map(|point| point.series.start).collect(),
                };
                assert!(starts.iter().all(|start| *start <= snapshot.time), "{}", family.metric.name);
            }
            before = snapshot;
        }
    }
    let told = |direction| value_where(&before, "telesonde_clock_jumps", Some(("direction", direction)));
    assert_eq!((told("forward"), told("back")), (Some(2), Some(3)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_costs_one_collector_its_round_and_it_counts_on() {
    let manager = start(vec![
        select(
            &FIRST_COLLECTOR,
            "panic",
            &[(Birth::Fine, &[Act::Count, Act::Count, Act::Panic]), (Birth::Fine, &[Act::Count])],
        ),
        steady("panic-steady"),
    ]);
    let failed = until(&manager, |_| matches!(state(&manager, "first"), State::Failed(_))).await;
    assert_eq!(state(&manager, "first"), State::Failed("panicked: the script says so".to_owned()));
    assert_eq!(value(&failed, "first"), Some(2 * STEP), "the series keeps its total");
    assert_eq!(value(&failed, "first_depth"), None, "a gauge that cannot be measured is absent");
    let again = until(&manager, |s| value(s, "first") != Some(2 * STEP)).await;
    assert_eq!(value(&again, "first"), Some(3 * STEP));
    assert_eq!(state(&manager, "first"), State::Running);
    let panics = [("collector", "first"), ("error.type", "panic")];
    assert_eq!(value_where(&again, "telesonde_collector_errors", Some(panics[1])), Some(1));
    assert_eq!(World::of("panic").dropped.load(Ordering::SeqCst), 1, "the old one was detached");
    manager.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn three_failed_rounds_make_it_anew() {
    let manager = start(vec![
        select(
            &FIRST_COLLECTOR,
            "fail",
            &[
                (Birth::Fine, &[Act::Count, Act::Fail, Act::Fail, Act::Count, Act::Fail]),
                (Birth::Degraded, &[Act::Count]),
            ],
        ),
        steady("fail-steady"),
    ]);
    let why = "the kernel said no".to_owned();
    for expected in [State::Degraded(why.clone()), State::Degraded(why.clone()), State::Running] {
        until(&manager, |_| true).await;
        assert_eq!(state(&manager, "first"), expected);
    }
    let failed = until(&manager, |_| state(&manager, "first") == State::Failed(why.clone())).await;
    assert_eq!(value(&failed, "first"), Some(2 * STEP));
    assert_eq!(World::of("fail").entered.load(Ordering::SeqCst), 7);
    let again = until(&manager, |s| value(s, "first") > Some(2 * STEP)).await;
    assert_eq!(value(&again, "first"), Some(3 * STEP));
    assert_eq!(state(&manager, "first"), State::Degraded("sees less here".to_owned()));
    manager.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_round_is_merged_once() {
    let world = World::of("late");
    let manager = start(vec![
        select(&FIRST_COLLECTOR, "late", &[(Birth::Fine, &[Act::Count, Act::Hang, Act::Count])]),
        steady("late-steady"),
    ]);
    for _ in 0..3 {
        let snapshot = until(&manager, |_| true).await;
        assert_eq!(value(&snapshot, "first"), Some(STEP), "what is known stays");
        assert_eq!(value(&snapshot, "first_depth"), None);
        assert_eq!(state(&manager, "first"), State::Degraded("has not answered within 100ms".to_owned()));
    }
    let timeouts = ("error.type", "timeout");
    let snapshot = until(&manager, |_| true).await;
    assert_eq!(value_where(&snapshot, "telesonde_collector_errors", Some(timeouts)), Some(1), "asked only once");
    world.open();
    let mut before = STEP;
    let last = until(&manager, |snapshot| {
        let now = value(snapshot, "first").unwrap();
        assert!(now >= before && now.is_multiple_of(STEP), "{before} then {now}");
        before = now;
        assert!(value(snapshot, "first_depth").is_none_or(|depth| depth == DEPTH));
        now >= 4 * STEP
    })
    .await;
    assert_eq!(value(&last, "first"), Some(STEP * world.left.load(Ordering::SeqCst)), "every round once");
    assert_eq!(state(&manager, "first"), State::Running);
    manager.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn making_may_panic_or_be_impossible() {
    let manager = start(vec![
        select(&FIRST_COLLECTOR, "birth", &[(Birth::Panic, &[]), (Birth::Fine, &[Act::Count])]),
        select(&SECOND_COLLECTOR, "impossible", &[(Birth::Unsupported, &[])]),
        steady("birth-steady"),
    ]);
    assert_eq!(state(&manager, "first"), State::Failed("panicked: born badly".to_owned()));
    assert_eq!(state(&manager, "second"), State::Unsupported("needs another kernel".to_owned()));
    let alive = until(&manager, |s| value(s, "first").is_some()).await;
    assert_eq!(value(&alive, "first"), Some(STEP));
    assert_eq!(value(&alive, "second"), None);
    let series = |name| value_where(&alive, name, Some(("collector", "second")));
    assert_eq!(series("telesonde_bpf_load_status"), Some(0));
    assert_eq!(series("telesonde_bpf_load_attempts"), Some(1), "no retry of the impossible");
    assert_eq!(value_where(&alive, "telesonde_bpf_load_attempts", Some(("collector", "first"))), Some(2));
    manager.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_switched_off_is_not_made() {
    let mut off = select(&FIRST_COLLECTOR, "off", &[(Birth::Fine, &[Act::Count])]);
    off.enabled = false;
    let manager = start(vec![off, steady("off-steady")]);
    assert_eq!(state(&manager, "first"), State::Disabled);
    assert_eq!(World::of("off").made.load(Ordering::SeqCst), 0);
    manager.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_undeclared_metric_degrades_its_collector() {
    let manager =
        start(vec![select(&FIRST_COLLECTOR, "stray", &[(Birth::Fine, &[Act::Stray])]), steady("stray-steady")]);
    let snapshot = until(&manager, |_| true).await;
    assert_eq!(value(&snapshot, "strange"), None);
    assert_eq!(state(&manager, "first"), State::Degraded("recorded strange, which it does not declare".to_owned()));
    manager.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_required_collector_there_is_no_start() {
    let mut required = select(&FIRST_COLLECTOR, "require", &[(Birth::Unsupported, &[])]);
    required.required = true;
    let error = start_with(options(), vec![required, steady("require-steady")], Own::new()).err().unwrap();
    assert_eq!(
        error.to_string(),
        "integrations.ebpf.collectors.first.enabled is `require`, but the collector is unsupported: \
         needs another kernel"
    );
    assert_eq!(World::of("require-steady").dropped.load(Ordering::SeqCst), 1, "the others are detached again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_does_not_wait_for_who_hangs() {
    let world = World::of("stop");
    let mut options = options();
    options.collect_timeout = PATIENCE * 2;
    let manager = start_with(
        options,
        vec![select(&FIRST_COLLECTOR, "stop", &[(Birth::Fine, &[Act::Count, Act::Hang])]), steady("stop-steady")],
        Own::new(),
    )
    .unwrap();
    let mut waiting = pin!(manager.snapshot(Duration::ZERO));
    assert!(poll(&mut waiting).is_pending());
    entered(&world, 2).await;
    manager.stop();
    assert_eq!(world.left.load(Ordering::SeqCst), 1, "it hangs still");
    assert_eq!(World::of("stop-steady").dropped.load(Ordering::SeqCst), 1);
    assert!(waiting.await.number >= 1, "who waits for a snapshot gets the last one");
    assert!(manager.snapshot(Duration::ZERO).await.number >= 1, "and so does who comes later");
    world.open();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_during_a_gather_shares_the_next() {
    let world = World::of("share");
    let mut options = options();
    options.collect_timeout = PATIENCE;
    let selection = select(&FIRST_COLLECTOR, "share", &[(Birth::Fine, &[Act::Count, Act::Hang, Act::Count])]);
    let manager = start_with(options, vec![selection], Own::new()).unwrap();
    let mut first = manager.snapshot(Duration::ZERO);
    assert!(poll(&mut first).is_pending());
    entered(&world, 2).await;
    let mut others: Vec<Pending<'_>> = (0..16).map(|_| manager.snapshot(Duration::ZERO)).collect();
    assert!(others.iter_mut().all(|other| poll(other).is_pending()));
    world.open();
    assert_eq!(first.await.number, 2);
    for other in others {
        assert_eq!(other.await.number, 3);
    }
    assert_eq!(world.entered.load(Ordering::SeqCst), 3);
    manager.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_is_no_older_than_asked() {
    let manager = start(vec![steady("age")]);
    let fresh = manager.snapshot(Duration::ZERO).await;
    let known = manager.snapshot(Duration::from_hours(1)).await;
    assert!(Arc::ptr_eq(&fresh, &known));
    assert_eq!(manager.snapshot(Duration::ZERO).await.number, fresh.number + 1);
    assert_eq!(manager.latest().unwrap().1.number, fresh.number + 1);
    manager.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_series_stays_until_every_receiver_has_it() {
    let rounds = [Act::Close, Act::Close, Act::Fail, Act::Fail, Act::Count];
    let mut options = options();
    options.limits.series_ttl = 0;
    let script = select(&FIRST_COLLECTOR, "ack", &[(Birth::Fine, &rounds)]);
    let manager = start_with(options, vec![script, steady("ack-steady")], Own::new()).unwrap();
    let (slow, fast) = (manager.register(), manager.register());
    let last = until(&manager, |_| true).await;
    assert_eq!(value(&last, "first"), Some(2 * STEP), "both lives of the entry");
    manager.acknowledge(fast, last.number);
    manager.acknowledge(slow, last.number - 1);
    let kept = until(&manager, |_| true).await;
    assert_eq!(value(&kept, "first"), Some(2 * STEP));
    manager.acknowledge(slow, last.number);
    let gone = until(&manager, |_| true).await;
    assert_eq!(value(&gone, "first"), None);
    let back = until(&manager, |_| true).await;
    assert_eq!(value(&back, "first"), Some(STEP), "it begins anew");
    manager.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn instruments_of_the_agent_and_of_plug_ins_are_in_every_snapshot() {
    use opentelemetry::metrics::MeterProvider;
    let own = Own::new();
    let meter = own.provider().meter("weather");
    let manager = start_with(options(), vec![steady("meter")], own).unwrap();
    meter.u64_counter("rain").with_unit("mm").build().add(3, &[KeyValue::new("where", "here")]);
    let snapshot = manager.snapshot(Duration::ZERO).await;
    let rain = snapshot.families.iter().find(|family| family.metric.name == "rain").unwrap();
    assert_eq!((rain.scope.name.as_str(), rain.scope.version.as_str()), ("weather", "1.2.3"));
    assert_eq!(value_where(&snapshot, "rain", Some(("where", "here"))), Some(3));
    let scopes: Vec<&str> = snapshot.families.iter().map(|family| family.scope.name.as_str()).collect();
    let mut groups = scopes.clone();
    groups.dedup();
    groups.sort_unstable();
    let count = groups.len();
    groups.dedup();
    assert_eq!(groups.len(), count, "families of one scope stand together: {scopes:?}");
    manager.stop();
}

fn poll<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    std::pin::Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
}

async fn entered(world: &World, rounds: u64) {
    let end = Instant::now() + PATIENCE;
    while world.entered.load(Ordering::SeqCst) < rounds {
        assert!(Instant::now() < end);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
