//! Readers: Prometheus exposition and OTLP push.
