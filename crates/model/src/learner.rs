//! Names that come with what is observed, not from whoever gives them.

use std::net::IpAddr;
use std::time::Duration;

use crate::Attributes;

/// Is told whose addresses are by whoever comes across it.
pub trait Learner: Send + Sync {
    /// Sets how many addresses are kept, and for how long after they were last told of.
    fn limit(&self, most: usize, idle: Duration);

    /// Learns who has an address.
    fn learn(&self, address: IpAddr, who: Attributes);
}
