//! The collector contract and the integration manager: it makes the selected collectors, contains their failures,
//! gathers their readings into series and gives snapshots to readers.

pub mod collector;
pub mod setup;

pub use collector::{CollectError, Collector, Descriptor, Distribution, Empty, MakeError, Need, Scrape, Section};
pub use setup::{Platform, Setup};
