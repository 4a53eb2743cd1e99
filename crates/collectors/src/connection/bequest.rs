//! What the next agent has to know of the table: what has been counted of each slot, and whom it was with. A slot that is
//! given back is emptied, and may have another connection at once; so it waits until what it had is written.

use std::collections::HashMap;
use std::net::IpAddr;

use bpf::abi::connection::Connection;
use bpf::abi::network::Traffic;
use serde::{Deserialize, Serialize};

/// All that is known besides the table.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Bequest {
    /// Addresses that are shown.
    pub addresses: Vec<IpAddr>,
    pub slots: Vec<Seen>,
}

/// What has been counted of a connection.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Seen {
    pub slot: u32,
    pub generation: u32,
    /// Bytes and packets.
    pub sent: (u64, u64),
    pub received: (u64, u64),
    /// The owner of its other end, where that is of this node.
    pub other: Option<u64>,
}

/// What an earlier agent has counted, by slot, until all slots have been looked at.
#[derive(Debug)]
pub(super) struct Inherited(HashMap<u32, Seen>);

impl Inherited {
    /// Begins with what was left.
    pub(super) fn new(slots: Vec<Seen>) -> Self {
        Self(slots.into_iter().map(|seen| (seen.slot, seen)).collect())
    }

    /// Gives what has been counted of the connection in a slot.
    pub(super) fn of(&self, slot: u32, connection: &Connection) -> Option<&Seen> {
        let seen = self.0.get(&slot)?;
        // It was taken back since, but not yet emptied.
        let left = seen.generation % 2 == 1 && connection.generation == seen.generation.wrapping_add(1);
        (left || connection.generation == seen.generation).then_some(seen)
    }
}

impl Seen {
    /// Says whether a slot has less than was counted: it was being emptied when the agent ended.
    pub(super) fn is_more_than(&self, connection: &Connection) -> bool {
        let Connection { sent, received, .. } = connection;
        let both = [(self.sent, sent), (self.received, received)];
        both.iter().any(|((bytes, packets), now)| now.bytes < *bytes || now.packets < *packets)
    }
}

/// Gives bytes and packets.
pub(super) fn pair(traffic: Traffic) -> (u64, u64) {
    (traffic.bytes, traffic.packets)
}

/// Gives traffic of so many bytes and packets.
pub(super) fn traffic((bytes, packets): (u64, u64)) -> Traffic {
    Traffic { bytes, packets }
}
