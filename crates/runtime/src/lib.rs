//! The collector contract and the integration manager: it makes the selected collectors, contains their failures,
//! gathers their readings into series and gives snapshots to readers.

pub mod bus;
pub mod clock;
pub mod collector;
pub mod descriptors;
mod executables;
mod gather;
pub mod governor;
mod headroom;
pub mod health;
pub mod manager;
pub mod own;
mod rules;
pub mod series;
pub mod setup;
mod watch;
mod worker;

pub use bus::{Bus, Entrance, Ledger, Limit};
pub use clock::Clock;
pub use collector::{CollectError, Collector, Descriptor, Distribution, Empty, MakeError, Need, Plan, Scrape, Section};
pub use executables::Executables;
pub use governor::{Budget, Step};
pub use headroom::Headroom;
pub use health::{State, Status};
pub use manager::{Change, Manager, Options, Selection, StartError, concerned};
pub use own::Own;
pub use rules::CgroupRules;
pub use series::{Limits, WORKLOADS};
pub use setup::{Buffer, Elections, Platform, Setup};
