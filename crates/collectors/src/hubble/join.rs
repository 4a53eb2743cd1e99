//! Bytes, which no flow tells of: those of the kernel's table of connections, by the names that flows give to their
//! addresses. What finds no names, or no connection, is counted as that.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use foldhash::fast::RandomState;
use model::Subject;
use runtime::{CollectError, Platform, Scrape};

use super::metrics::{UNMATCHED_BYTES, UNMATCHED_DROPS};
use super::series::Ends;
use super::symbols::Symbol;
use crate::carried::{Bytes, Carried};
use crate::{connection, sockets};

/// The most pairs of addresses, and the most drops, that wait for their names or their connection.
const MOST: usize = 16_384;

/// The kernel's side: the table of connections, and what it has carried.
pub struct Source {
    platform: Arc<Platform>,
    carried: Arc<Carried>,
}

/// What the kernel's side tells at one moment.
pub struct Told {
    table: Arc<connection::Table>,
    carried: HashMap<(IpAddr, IpAddr), Bytes, RandomState>,
    beyond: u64,
}

impl Source {
    /// Opens it.
    pub fn open(platform: &Arc<Platform>) -> Self {
        Self { platform: Arc::clone(platform), carried: Carried::open(platform) }
    }

    /// Reads it; nothing while there is no table of connections.
    ///
    /// # Errors
    /// Fails when the table cannot be read.
    pub async fn read(&self) -> Result<Option<Told>, CollectError> {
        let Some(table) = sockets::table(&self.platform) else { return Ok(None) };
        table.refresh().await?;
        let (carried, beyond) = self.carried.take();
        Ok(Some(Told { table, carried, beyond }))
    }
}

/// A dropped packet: who sent it to whom, and how it counts.
#[derive(Clone, Copy, Debug)]
pub struct Drop {
    /// Its addresses and ports.
    pub from: (IpAddr, u16),
    /// Its addresses and ports.
    pub to: (IpAddr, u16),
    /// The number of its protocol.
    pub transport: u8,
    /// Whose it is.
    pub ends: Ends,
    /// The reason and the protocol, as they are shown.
    pub own: [Symbol; 2],
    /// For how many packets it stands.
    pub count: u64,
    /// The second in which it came.
    pub since: u32,
}

/// What waits for the other side.
#[derive(Debug, Default)]
pub struct Join {
    /// Bytes between addresses of which no flow has told yet, and since when.
    carried: HashMap<(IpAddr, IpAddr), (Bytes, u32), RandomState>,
    /// Drops whose connection is not in the table yet.
    pub drops: Vec<Drop>,
    /// Whether there has been a table at all.
    used: bool,
    unmatched_bytes: u64,
    unmatched_drops: u64,
}

impl Join {
    /// Takes a drop on.
    pub fn add(&mut self, drop: Drop) {
        if self.drops.len() < MOST {
            self.drops.push(drop);
        } else {
            self.unmatched_drops += drop.count;
        }
    }

    /// Gives bytes to whom they belong: `give` says whether it knows both addresses. What has waited for longer than
    /// `patience` seconds belongs to nobody.
    pub fn bytes(
        &mut self,
        told: &mut Told,
        now: u32,
        patience: u32,
        mut give: impl FnMut(IpAddr, IpAddr, Bytes) -> bool,
    ) {
        self.used = true;
        self.unmatched_bytes += told.beyond;
        for (addresses, bytes) in told.carried.drain() {
            let (sum, _) = self.carried.entry(addresses).or_insert((Bytes::default(), now));
            sum.sent += bytes.sent;
            sum.received += bytes.received;
        }
        let full = self.carried.len() > MOST;
        let unmatched = &mut self.unmatched_bytes;
        self.carried.retain(|&(local, remote), &mut (bytes, since)| {
            if give(local, remote, bytes) {
                return false;
            }
            let waits = !full && now.saturating_sub(since) < patience;
            if !waits {
                *unmatched += bytes.sent + bytes.received;
            }
            waits
        });
    }

    /// Gives the bytes of dropped packets: as many as the packets have that their connection has sent, on average.
    pub fn dropped(&mut self, told: &Told, now: u32, patience: u32, mut give: impl FnMut(&Drop, u64)) {
        let unmatched = &mut self.unmatched_drops;
        self.drops.retain(|drop| {
            if let Some(sent) = told.table.sent(drop.from, drop.to, drop.transport) {
                give(drop, (u128::from(sent.bytes) * u128::from(drop.count) / u128::from(sent.packets)) as u64);
                return false;
            }
            let waits = now.saturating_sub(drop.since) < patience;
            if !waits {
                *unmatched += drop.count;
            }
            waits
        });
    }

    /// Records what found nobody.
    pub fn record(&self, scrape: &mut Scrape) {
        if self.used {
            scrape.record(&UNMATCHED_BYTES, Subject::Node, [], self.unmatched_bytes);
            scrape.record(&UNMATCHED_DROPS, Subject::Node, [], self.unmatched_drops);
        }
    }
}
