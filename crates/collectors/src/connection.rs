//! Counts who talks to whom: bytes and packets by source and destination workload, server port and transport.
//! Its programs are those of network, at the sockets. What it cannot see stands in its descriptor.

mod bequest;
mod by_peer;
mod config;
mod ends;
mod overflow;
mod pairs;
mod report;
mod slots;

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use bpf::abi::connection::{Connection, ConnectionLoss, Stray, Tuple};
use bpf::abi::network::Traffic;
use bpf::{PerCpuCells, cost};
use model::{Metric, Subject, Text};
use runtime::bus::EVENTS_EMITTED;
use runtime::own::{EVENTS_LOST, MAP_OVERFLOW};
use runtime::{CollectError, Collector, Descriptor, MakeError, Need, Plan, Platform, Scrape, Section, Setup, Step};

use crate::carried::Carried;
use crate::sockets::{self, Sockets, User};
use crate::table::{Cell, sum};
use bequest::Bequest;
pub use config::Config;
use config::Directions;
use overflow::Overflow;
use pairs::Pairs;
use report::Reporter;
use slots::Slots;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

static BYTES: Metric = Metric::counter(
    "ebpf_connection_bytes_total",
    "By",
    "Bytes from source to destination, from the IP header on, as on the wire.",
    &["network.io.direction", "network.transport", "server.port", "network.peer.address"],
);

static PACKETS: Metric = Metric::counter(
    "ebpf_connection_packets_total",
    "{packet}",
    "Packets from source to destination, as on the wire.",
    &["network.io.direction", "network.transport", "server.port", "network.peer.address"],
);

static ACTIVE: Metric = Metric::gauge(
    "ebpf_active_connections",
    "{connection}",
    "Connections in the table that are alive.",
    &["network.transport"],
);

/// The collector.
pub static DESCRIPTOR: Descriptor = Descriptor {
    name: "connection",
    summary: "Who talks to whom: bytes and packets by source and destination, server port and transport",
    limits: &[
        "Only what a socket of this host sends or receives: not what is forwarded (virtual machines), answered for a closed port, or meant for a connection in TIME_WAIT.",
        "Addresses are the socket's: a service's, where the node translates it. Its backend is found in the first packet that a connected socket sends; a socket that sends to many without connecting has one connection for what it sends there and one for what the service's address sends back.",
        "A connected UDP socket that sends to another peer counts that under the one that it is connected to.",
        "Of datagrams the first that is seen tells who is the client; of TCP connections without a SYN, whether their socket is its listener's copy.",
        "Whose the other end is on this node is known from its first packet on; what was sent before, such as datagrams that wait for a link, counts under its address.",
        "What is not TCP or UDP, such as ICMP, is one connection per pair of addresses; what the kernel sends or receives itself is one per protocol.",
        "A connection that moves to another workload's socket, and one that is silent while the table is nearly full, goes on as another one.",
        "Before Linux 5.12 a TCP connection ends when it is silent for five minutes, and who began one that is older than the agent is not known.",
        "Events tell of the end of a connection that was in the table; one that moves to another workload's socket ends there. A UDP socket's end is not seen: its flow ends when it is silent. A connection that the other end has reset ends when its socket is closed.",
        "It is seen on loopback interfaces only where the collector network counts those.",
        "With network_namespaces host or pods, what the kernel sends and receives itself is left out.",
    ],
    metrics: &[&BYTES, &PACKETS, &ACTIVE, &MAP_OVERFLOW, &EVENTS_EMITTED, &EVENTS_LOST],
    needs: &[
        Need::Btf,
        Need::Tracepoint("tcp_destroy_sock"),
        Need::Capability("CAP_BPF"),
        Need::Capability("CAP_PERFMON"),
        Need::Capability("CAP_NET_ADMIN"),
        Need::HostPid,
    ],
    ladder: &[Step::Paused],
    section: Section::of::<Config>(),
    plan,
    make,
};

/// The maps that only this collector needs of the programs that it shares.
pub static MAPS: [&str; 5] = ["connections", "slots", "tuples", "overflow", "lost"];

fn plan(section: &serde_json::Value, _: usize) -> Plan {
    let config: Config = serde_json::from_value(section.clone()).unwrap_or_default();
    let slots = config.max_connections;
    let maps = vec![
        ("connections", cost::array(slots, size_of::<Connection>())),
        ("slots", cost::array(slots + 1, size_of::<u32>())),
        ("tuples", cost::hash(config::shared(slots), size_of::<Tuple>(), size_of::<u64>())),
        ("overflow", config::OVERFLOW_BYTES.into()),
    ];
    // Bytes and packets to three peers, and two transports.
    Plan { maps, numbers: 8, histograms: 0 }
}

/// What the rounds, the reader of the overflow and the sweeps in between share.
struct State {
    platform: Arc<Platform>,
    slots: Slots,
    pairs: Pairs,
    reporter: Option<Reporter>,
}

impl State {
    fn sweep(&mut self) -> Result<(), bpf::Error> {
        self.pairs.tell(Carried::find(&self.platform));
        self.slots.sweep(&mut self.pairs, crate::account::now())?;
        if let Some(reporter) = &mut self.reporter {
            reporter.take(self.slots.take_ended());
        }
        Ok(())
    }

    /// Gives back slots that had to wait.
    fn release(&mut self, slots: Vec<u32>) -> Result<(), bpf::Error> {
        slots.into_iter().try_for_each(|slot| self.slots.release(slot))?;
        if let Some(reporter) = &mut self.reporter {
            reporter.take(self.slots.take_ended());
        }
        Ok(())
    }

    fn add(&mut self, strays: &[Stray]) {
        for stray in strays {
            self.pairs.add_stray(stray);
        }
    }
}

/// The table as all who export something of it have it.
pub struct Table {
    state: Arc<Mutex<State>>,
    overflow: Overflow,
    losses: PerCpuCells<ConnectionLoss>,
}

impl Table {
    /// Brings the sums up to date.
    async fn read(&self) -> Result<MutexGuard<'_, State>, CollectError> {
        // First: what is counted as lost from then on is not in the records any more.
        self.overflow.flush().await?;
        let mut state = lock(&self.state);
        state.sweep().map_err(|error| CollectError(error.to_string()))?;
        Ok(state)
    }

    /// Brings the sums up to date, and tells who wants to know what was carried.
    ///
    /// # Errors
    /// Fails when the kernel refuses to read its maps.
    pub async fn refresh(&self) -> Result<(), CollectError> {
        self.read().await.map(drop)
    }

    /// Gives what one end of a connection has sent to the other, where it is one of this node that has sent anything.
    pub fn sent(&self, from: (IpAddr, u16), to: (IpAddr, u16), transport: u8) -> Option<Traffic> {
        let state = lock(&self.state);
        let sent = state.slots.sent(state.pairs.slot(from, to, transport)?);
        (sent.packets > 0).then_some(sent)
    }

    fn losses(&self) -> Result<ConnectionLoss, CollectError> {
        self.losses.get(0).map(|cells| sum(&cells)).map_err(|error| CollectError(error.to_string()))
    }

    /// Gives all traffic by workload and peer: its subject, its direction, transport and version of IP, and whether it is
    /// forgotten from now on; then what was lost, by direction.
    ///
    /// # Errors
    /// Fails when the kernel refuses to read its maps.
    pub async fn exchanges(
        &self,
        each: impl FnMut(Subject, [Text; 3], Traffic, bool) + Send,
    ) -> Result<Vec<(&'static str, Traffic)>, CollectError> {
        if let Some(exchanges) = self.read().await?.pairs.exchanges() {
            by_peer::show(exchanges, each);
        }
        let all = self.losses()?;
        let lost = [("transmit", all.sent), ("receive", all.received)];
        Ok(lost.into_iter().filter(|(_, traffic)| traffic.packets > 0).collect())
    }
}

struct Connections {
    /// What keeps the programs attached.
    _sockets: Arc<Sockets>,
    table: Arc<Table>,
    directions: Directions,
    runtime: Handle,
}

fn make(setup: &mut Setup) -> Result<Box<dyn Collector>, MakeError> {
    let config: Config = setup.section()?;
    let sockets = sockets::open(setup, User::Connection)?;
    let platform = Arc::clone(setup.platform());
    let legacy = platform.facts.is_legacy();
    let mut object = sockets.object();
    let mut slots = Slots::open(&object, config.idle_timeout.0, !legacy).map_err(crate::refused)?;
    let mut pairs = Pairs::new(&config, Arc::clone(&platform.peers), sockets.tells_peers());
    if sockets.is_pinned() {
        let inherited: Option<Bequest> = setup.inherited();
        let Bequest { addresses, slots: seen } = inherited.unwrap_or_default();
        pairs.show(addresses);
        slots.last(seen);
    }
    let reporter = Reporter::start(&config, &platform);
    if reporter.is_some() {
        slots.keep_ended();
    }
    let state = Arc::new(Mutex::new(State { platform, slots, pairs, reporter }));
    let losses = object.per_cpu_cells("lost").map_err(crate::refused)?;
    let ring = {
        let _inside = setup.runtime().enter();
        object.ring("overflow").map_err(crate::refused)?
    };
    drop(object);
    let overflow = Overflow::start(ring, &state, setup.runtime());
    setup.runtime().spawn(keep_sweeping(Arc::downgrade(&state), config.interval.0));
    let mut lacking = sockets.lacking().to_vec();
    if legacy {
        lacking.push("the ends of TCP connections are not seen");
    }
    if !lacking.is_empty() {
        setup.degrade(lacking.join("; "));
    }
    let directions = config.directions;
    let table = Arc::new(Table { state, overflow, losses });
    sockets.open_table(&table);
    Ok(Box::new(Connections { _sockets: sockets, table, directions, runtime: setup.runtime().clone() }))
}

/// Looks through the table from time to time, so that the kernel has free slots when nobody gathers.
async fn keep_sweeping(state: Weak<Mutex<State>>, interval: Duration) {
    loop {
        tokio::time::sleep(interval).await;
        let Some(state) = state.upgrade() else { return };
        if let Err(error) = lock(&state).sweep() {
            tracing::debug!("the table of connections: {error}");
        }
    }
}

/// Gives slots back once what they had is written for the next agent.
async fn give_back(state: Weak<Mutex<State>>, slots: Vec<u32>, written: oneshot::Receiver<()>) {
    let written = written.await.is_ok();
    let Some(state) = state.upgrade() else { return };
    let mut state = lock(&state);
    if !written {
        state.slots.keep(slots);
    } else if let Err(error) = state.release(slots) {
        tracing::debug!("the table of connections: {error}");
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait]
impl Collector for Connections {
    async fn collect(&mut self, scrape: &mut Scrape) -> Result<(), CollectError> {
        {
            let mut state = self.table.read().await?;
            state.pairs.record(scrape);
            if let Some(reporter) = &state.reporter {
                reporter.record(scrape);
            }
            let State { slots, pairs, .. } = &mut *state;
            if let Some((seen, settled)) = slots.bequeath(pairs) {
                scrape.bequeath(&Bequest { addresses: pairs.addresses(), slots: seen });
                self.runtime.spawn(give_back(Arc::downgrade(&self.table.state), settled, scrape.wait()));
            }
        }
        let all = self.table.losses()?;
        let mut total = all.sent;
        if self.directions == Directions::Both {
            total.add(&all.received);
        }
        if total.packets > 0 {
            scrape.record(&BYTES, Subject::Overflow, ["", "", "", ""].map(Text::from), total.bytes);
            scrape.record(&PACKETS, Subject::Overflow, ["", "", "", ""].map(Text::from), total.packets);
        }
        scrape.record(&MAP_OVERFLOW, Subject::Node, ["connections".into()], all.strays);
        let values = [DESCRIPTOR.name.into(), "ring_full".into()];
        scrape.record(&EVENTS_LOST, Subject::Node, values, all.sent.packets + all.received.packets);
        Ok(())
    }
}

impl Cell for ConnectionLoss {
    fn add(&mut self, other: &Self) {
        self.sent.add(&other.sent);
        self.received.add(&other.received);
        self.strays += other.strays;
    }

    fn reading(&self) -> u64 {
        self.strays
    }
}
