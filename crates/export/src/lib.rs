//! Readers: Prometheus exposition and OTLP push.

// pub mod otlp;
pub mod wire;
