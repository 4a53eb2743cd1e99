//! A manager with the one collector, and a look at its snapshots.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hubble::server::{Player, Script, Setup, Step};
use model::{Attributes, Learner, Nobody, Points, Source};
use runtime::{Buffer, Bus, Clock, Elections, Limits, Manager, Options, Own, Platform, Selection, State};
use serde_json::{Value, json};

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running collector.
pub struct World {
    manager: Manager,
    bus: Arc<Bus>,
    learned: Arc<Learned>,
    /// Dropped after the manager.
    runtime: tokio::runtime::Runtime,
}

/// Who has an address, as the collector passes it on.
#[derive(Default)]
struct Learned(Mutex<BTreeMap<IpAddr, Attributes>>);

impl Learner for Learned {
    fn limit(&self, _: usize, _: Duration) {}

    fn learn(&self, address: IpAddr, who: Attributes) {
        self.0.lock().unwrap().insert(address, who);
    }
}

/// What a snapshot holds: `name{key=value,…}` with attributes in the order of their keys, histograms as their count and
/// their sum.
pub type Readings = BTreeMap<String, f64>;

/// Gives a runtime of its own for servers.
pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// Serves a script on a free port.
pub fn play(runtime: &tokio::runtime::Runtime, setup: Setup, script: Script) -> (Player, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let _inside = runtime.enter();
    (Player::tcp(listener, setup, script), address)
}

/// Makes a script of messages that are sent in the first call, which then stays open, as do all others.
pub fn once(messages: Vec<bytes::Bytes>) -> Script {
    Box::new(move |call, _| {
        let messages = if call == 0 { messages.as_slice() } else { &[] };
        messages.iter().cloned().map(Step::Send).chain([Step::Stall]).collect()
    })
}

impl World {
    /// Starts the collector on a server, with further keys of its section.
    pub fn start(address: &str, keys: &Value) -> Self {
        Self::start_with(address, keys, None)
    }

    /// Starts it where there may be elections.
    pub fn start_with(address: &str, keys: &Value, elections: Option<Arc<dyn Elections>>) -> Self {
        let runtime = runtime();
        let mut section = json!({"mode": "node", "hubble_node_address": address});
        section.as_object_mut().unwrap().extend(keys.as_object().cloned().unwrap_or_default());
        let own = Own::new();
        let learned = Arc::<Learned>::default();
        let bus = Arc::new(Bus::new(Arc::new(Nobody), 1, 1_000));
        let platform = Platform {
            facts: bpf::probe::Facts::gather(),
            census: Arc::new(Nobody),
            peers: Arc::new(Nobody),
            elections,
            learner: Some(Arc::clone(&learned) as _),
            sections: HashMap::new(),
            shared: Mutex::default(),
            btf_path: None,
            types: Mutex::default(),
            map_scale: 1.0,
            ring_bytes: 4096,
            perf_bytes: 8192,
            buffer: Buffer::Auto,
            bus: Arc::clone(&bus),
            process_filter: Vec::new(),
            exclude_processes: Vec::new(),
            cgroup_rules: None,
            budget: runtime::Budget::default(),
            sealed: Arc::default(),
            excluded_process: None,
            sample_every: 1,
            meters: own.provider(),
            executables: None,
            gates: bpf::Gates::default(),
            pins: None,
        };
        let options = Options {
            collect_timeout: Duration::from_secs(10),
            housekeeping: Duration::from_hours(1),
            limits: Limits {
                series_per_metric: 20_000,
                series_total: 100_000,
                samples_per_workload: 1_000_000,
                bucket_doublings: 4,
                series_ttl: 3_600_000_000_000,
            },
            version: "0".to_owned(),
            schema_url: String::new(),
            resource: Arc::new(Attributes::new([])),
            clock: Clock::default(),
            together: &[],
        };
        let descriptor = *telesonde_collectors::ALL.iter().find(|descriptor| descriptor.name == "hubble").unwrap();
        (descriptor.section.check)(&section).unwrap();
        let selection = Selection {
            descriptor,
            key: "integrations.ebpf.cilium".to_owned(),
            enabled: true,
            required: false,
            section,
        };
        let platform = Arc::new(platform);
        let manager =
            Manager::start(options, vec![selection], &platform, Arc::new(Nobody), own, runtime.handle()).unwrap();
        Self { manager, bus, learned, runtime }
    }

    /// Says whom an address was said to be of, `key=value,…`.
    pub fn who(&self, address: &str) -> Option<String> {
        let known = self.learned.0.lock().unwrap();
        let pairs = known.get(&address.parse().unwrap())?.pairs();
        Some(pairs.iter().map(|pair| format!("{}={}", pair.key, pair.value)).collect::<Vec<_>>().join(","))
    }

    /// Gathers.
    pub fn readings(&self) -> Readings {
        let snapshot = self.runtime.block_on(self.manager.snapshot(Duration::ZERO));
        let mut all = Readings::new();
        for family in &snapshot.families {
            let mut add = |of: &str, series: &model::Series, value: f64| {
                let mut pairs: Vec<_> = series.entity.pairs().iter().chain(series.dimensions.pairs()).collect();
                pairs.sort();
                let pairs: Vec<_> = pairs.iter().map(|pair| format!("{}={}", pair.key, pair.value)).collect();
                let name = format!("{}{{{}}}{of}", family.metric.name, pairs.join(","));
                assert!(all.insert(name.clone(), value).is_none(), "{name} is there twice");
            };
            match &family.points {
                Points::Numbers(points) => points.iter().for_each(|point| add("", &point.series, point.value.as_f64())),
                Points::Histogram { points, .. } => {
                    for point in points {
                        add("", &point.series, point.count as f64);
                        add(" sum", &point.series, point.sum);
                    }
                }
            }
        }
        all
    }

    /// Gathers until something is there.
    pub fn until<T>(&self, what: &str, mut look: impl FnMut(&Readings) -> Option<T>) -> T {
        let begun = Instant::now();
        loop {
            let readings = self.readings();
            if let Some(found) = look(&readings) {
                return found;
            }
            assert!(begun.elapsed() < PATIENCE, "{what}: {readings:#?} {:?}", self.state());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until so many flows have come and none is on its way; checks that the account adds up.
    pub fn settled(&self, received: u64) -> Readings {
        self.until(&format!("{received} flows"), |readings| {
            let (came, sum) = account(readings);
            (came >= received && sum == came).then(|| readings.clone())
        })
    }

    /// Gives the events so far, waiting for so many.
    pub fn events(&self, count: usize) -> Vec<Arc<model::event::Record>> {
        let feed = self.bus.feeds().pop().unwrap();
        let mut all = Vec::new();
        while all.len() < count {
            let more = self
                .runtime
                .block_on(async { tokio::time::timeout(PATIENCE, feed.take(count - all.len(), Duration::ZERO)).await });
            all.extend(more.unwrap_or_else(|_| panic!("only {all:?}")));
        }
        all
    }

    /// Gives the collector's state.
    pub fn state(&self) -> State {
        self.manager.status().into_iter().find(|status| status.name == "hubble").unwrap().state
    }
}

/// Gives how many flows came, and how many there is an outcome of.
pub fn account(readings: &Readings) -> (u64, u64) {
    let received = readings.get("telesonde_hubble_flows_received{}").copied().unwrap_or_default();
    let outcomes = readings.iter().filter(|(name, _)| name.starts_with("telesonde_hubble_flows{"));
    (received as u64, outcomes.map(|(_, value)| *value as u64).sum())
}

/// Gives what became of flows.
pub fn outcome(readings: &Readings, outcome: &str, reason: &str) -> u64 {
    let reason = if reason.is_empty() { String::new() } else { format!(",reason={reason}") };
    readings.get(&format!("telesonde_hubble_flows{{outcome={outcome}{reason}}}")).copied().unwrap_or_default() as u64
}

/// Gives how often streams ended for a reason.
pub fn ends(readings: &Readings, reason: &str) -> u64 {
    readings.get(&format!("telesonde_hubble_stream_ends{{reason={reason}}}")).copied().unwrap_or_default() as u64
}

/// Gives the series of metrics of flows.
pub fn flows(readings: &Readings) -> Readings {
    readings
        .iter()
        .filter(|(name, _)| name.starts_with("hubble_"))
        .map(|(name, value)| (name.clone(), *value))
        .collect()
}
