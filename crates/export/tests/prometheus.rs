//! The Prometheus reader from outside: its bytes, and its server over real sockets.

#[path = "prometheus/client.rs"]
mod client;
#[path = "prometheus/encode.rs"]
mod encode;
#[path = "prometheus/fixture.rs"]
mod fixture;
#[path = "prometheus/native.rs"]
mod native;
#[path = "prometheus/own.rs"]
mod own;
#[path = "prometheus/server.rs"]
mod server;
#[path = "prometheus/tls.rs"]
mod tls;
