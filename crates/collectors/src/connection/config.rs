//! The section `integrations.ebpf.collectors.connection`.

use std::time::Duration;

use bpf::Loader;
use bpf::abi::connection::{NAMESPACES_ALL, NAMESPACES_HOST, NAMESPACES_PODS};
use runtime::{MakeError, Platform};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::period::Period;
pub(super) use crate::process::config::Kind;

/// Which traffic has series.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Directions {
    /// What workloads of this node send: each packet of a cluster then counts on one node only.
    #[default]
    Egress,
    /// What they receive, too, under `network.io.direction`.
    Both,
}

/// Which network namespaces are looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Namespaces {
    /// All that there are, and those to come.
    #[default]
    All,
    /// The host's: its own services and pods with the host's network.
    Host,
    /// All but the host's, as pods and containers have them.
    Pods,
}

/// What has series, and how large the table is.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Which traffic has series: `egress`, or `both` ways.
    pub directions: Directions,
    /// Whose sockets have connections in the table, by their network namespace: `all`, `host`, or `pods`, which is all but
    /// the host's.
    pub network_namespaces: Namespaces,
    /// Server ports from 1024 on that are shown as they are; others are `other`. Those below 1024 are always shown, the
    /// ports of clients never.
    pub ports: Vec<u16>,
    /// How many addresses of peers are shown as they are; those beyond, and with 0 all, are left out.
    #[schemars(range(min = 0, max = 100_000))]
    pub max_addresses: u32,
    /// Events of TCP connections that end, with bytes and duration: `connection`. They come when the table is looked
    /// through.
    pub closed: Kind,
    /// The same of UDP: a flow ends when nothing came for `idle_timeout`, and lasted until its last packet. A question for
    /// a name is one, too, so that they have limits of their own.
    pub closed_udp: Kind,
    /// How often the table is looked through when nobody gathers.
    pub interval: Period<100, 3_600_000>,
    /// After how long without packets a connection that has no end of its own (UDP) is over.
    pub idle_timeout: Period<1_000, 86_400_000>,
    /// Connections in the table. The packets of those beyond reach user space one by one; what is too much for that
    /// goes to the overflow series.
    #[schemars(range(min = 16, max = 4_194_304))]
    pub max_connections: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            directions: Directions::default(),
            network_namespaces: Namespaces::default(),
            ports: PORTS.to_vec(),
            max_addresses: 0,
            closed: Kind::default(),
            closed_udp: Kind { rate: 10, burst: 100, ..Kind::default() },
            interval: Period(Duration::from_secs(25)),
            idle_timeout: Period(Duration::from_mins(1)),
            max_connections: 8_192,
        }
    }
}

/// Ports of widespread servers: databases, queues, caches, telemetry, Kubernetes and the second ones of the web.
const PORTS: [u16; 24] = [
    1433, 1521, 1883, 2379, 2380, 3306, 4222, 4240, 4244, 4317, 4318, 5432, 5672, 6379, 6443, 8080, 8443, 9042, 9090,
    9092, 9200, 10250, 11211, 27017,
];

impl Config {
    /// Sets constants and maps of the programs.
    ///
    /// # Errors
    /// Fails when nobody can tell the host's network namespace and it matters.
    pub fn tune(&self, loader: Loader, platform: &Platform) -> Result<Loader, MakeError> {
        let namespaces = match self.network_namespaces {
            Namespaces::All => NAMESPACES_ALL,
            Namespaces::Host => NAMESPACES_HOST,
            Namespaces::Pods => NAMESPACES_PODS,
        };
        let host = if namespaces == NAMESPACES_ALL { 0 } else { host_namespace(platform)? };
        let connections = platform.scaled(self.max_connections).max(16);
        Ok(loader
            .constant("tick", &bpf::clock::tick())
            .constant("namespaces", &namespaces)
            .constant("host_namespace", &host)
            .max_entries("connections", connections)
            .max_entries("slots", connections)
            .max_entries("tuples", shared(connections))
            .max_entries("overflow", OVERFLOW_BYTES)
            .full(&["slots"])
            .waiting(&["overflow"]))
    }
}

fn host_namespace(platform: &Platform) -> Result<u32, MakeError> {
    let unknown = || MakeError::Unsupported("network_namespaces: /proc/self/ns/net cannot be looked at".to_owned());
    platform.facts.network_namespace.ok_or_else(unknown)
}

/// The bytes of the ring that takes what finds no slot.
pub(super) const OVERFLOW_BYTES: u32 = 128 * 1024;

/// Gives how many connections may be of sockets that have others, too: however many of those come, half of the table
/// stays for TCP.
pub(super) fn shared(connections: u32) -> u32 {
    connections / 2
}
