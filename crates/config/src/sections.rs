//! The typed tree of the configuration: plain structs whose doc comments are the reference's comments.

pub mod agent;
pub mod exporters;
pub mod host;
pub mod integrations;
pub mod otlp;

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use agent::{Admin, Agent, Budget, Enrich, Health, Limits, Log};
use exporters::Exporters;
use host::Host;
use integrations::Integrations;
use otlp::Endpoint;

/// Telesonde's configuration. Everything has a default: an empty file is valid.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Config {
    /// The agent itself.
    pub agent: Agent,
    /// Where an agent in a container sees what is its host's.
    pub host: Host,
    /// What is collected.
    pub integrations: Integrations,
    /// Where it goes.
    pub exporters: Exporters,
    /// How kernel terms become names.
    pub enrich: Enrich,
    /// How long the series of a dead workload stay.
    #[serde(with = "crate::duration")]
    #[schemars(schema_with = "crate::duration::second")]
    pub series_ttl: Duration,
    /// Budgets: past them series fold into an overflow series, and what was folded is counted.
    pub limits: Limits,
    /// What collectors may cost. Where it is more, they do less until it fits: at first they time less, then nothing, then
    /// they pause; their state, `telesonde_collector_step` and the event collector.step tell.
    pub budget: Budget,
    /// /healthz and /readyz: plain, harmless, may face the kubelet.
    pub health: Health,
    /// /status, reload and debugging.
    pub admin: Admin,
    /// The agent's own log.
    pub log: Log,
    /// How long the final gather and flush may take after SIGTERM.
    #[serde(with = "crate::duration")]
    #[schemars(schema_with = "crate::duration::positive")]
    pub shutdown_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            agent: Agent::default(),
            host: Host::default(),
            integrations: Integrations::default(),
            exporters: Exporters::default(),
            enrich: Enrich::default(),
            series_ttl: Duration::from_mins(5),
            limits: Limits::default(),
            budget: Budget::default(),
            health: Health::default(),
            admin: Admin::default(),
            log: Log::default(),
            shutdown_timeout: Duration::from_secs(5),
        }
    }
}

impl Config {
    /// Returns the interval at which an endpoint is pushed to: its own, else `integrations.ebpf.scrape_interval`.
    pub fn interval_of(&self, endpoint: &Endpoint) -> Duration {
        endpoint.interval.unwrap_or(self.integrations.ebpf.scrape_interval)
    }
}
