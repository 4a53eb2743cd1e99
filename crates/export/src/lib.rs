//! Readers: Prometheus exposition and OTLP push.

pub mod health;
pub mod http;
pub mod otlp;
pub mod prometheus;
pub mod wire;
