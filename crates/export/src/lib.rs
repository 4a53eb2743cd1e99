//! Readers: Prometheus exposition and OTLP push. Sinks of events: OTLP logs and JSON lines.

pub mod events;
#[doc(hidden)]
pub mod fuzz;
pub mod health;
pub mod http;
pub mod otlp;
pub mod prometheus;
pub mod stdout;
pub mod wire;
