//! A client of Hubble, the observer of Cilium: it follows the flows of a node or, through the relay, of a cluster.
//!
//! It knows nothing of collectors. Messages are handed on as they came and are read where they lie ([`flow`]).

pub mod address;
mod dial;
mod failure;
pub mod flow;
mod follow;
pub mod messages;
#[cfg(feature = "server")]
pub mod server;
mod tls;
pub mod wire;

pub use address::Address;
pub use failure::{Failure, Kind};
pub use follow::{Options, Sink, follow, status};
pub use tls::Tls;
