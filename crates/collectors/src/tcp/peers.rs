//! What becomes of connections, by workload and peer. The kernel knows peers by their addresses; an address in its table
//! that has been silent goes when room is short or its workload is gone, and what it had stays in the sum of its peer.

use std::collections::HashMap;
use std::net::Ipv6Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bpf::abi::tcp::{Lifecycle, Peer};
use bpf::{Error, Object, PerCpuTable};
use model::{Census, Party, Subject, Who};
use runtime::{MakeError, Setup};
use zerocopy::{FromBytes, IntoBytes};

use crate::exchanges::Exchanges;
use crate::table::party;

/// How long an entry must have been silent to be freed.
const SILENT: Duration = Duration::from_secs(10);

/// What connections are told apart by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    local: Party,
    remote: Party,
    network: u32,
}

/// An entry of the kernel's table, as it was at the last look.
struct Known {
    past: Lifecycle,
    /// When it was first seen so.
    since: Instant,
    /// Its exchange.
    at: u32,
}

/// All peers.
pub(super) struct Peers {
    table: PerCpuTable<Peer, Lifecycle>,
    known: HashMap<Peer, Known>,
    exchanges: Exchanges<Key, Lifecycle>,
    names: Arc<dyn model::Peers>,
    generation: u64,
    census: Arc<dyn Census>,
    /// What the agent before had counted, until entries have been read.
    before: HashMap<Peer, Lifecycle>,
    /// Whether there may be a next agent that goes on.
    lasts: bool,
}

impl Peers {
    /// Opens the table of an object.
    ///
    /// # Errors
    /// Fails when there is no such map or when it has another shape.
    pub fn open(object: &Object, setup: &Setup) -> Result<Self, MakeError> {
        let platform = setup.platform();
        let before: Vec<u8> = setup.inherited().unwrap_or_default();
        let entry = |bytes: &[u8]| {
            let (peer, past) = Peer::read_from_prefix(bytes).ok()?;
            Some((peer, Lifecycle::read_from_bytes(past).ok()?))
        };
        let before = before.chunks(size_of::<Peer>() + size_of::<Lifecycle>()).filter_map(entry).collect();
        Ok(Self {
            table: object.table("peers").map_err(crate::refused)?,
            known: HashMap::new(),
            exchanges: Exchanges::default(),
            names: Arc::clone(&platform.peers),
            generation: platform.peers.generation(),
            census: Arc::clone(&platform.census),
            before,
            lasts: platform.lasting().is_some(),
        })
    }

    /// Shows the sums of all workloads and peers: the subject, the network, and whether it is their last time.
    ///
    /// # Errors
    /// Fails when the kernel refuses to read its table.
    pub fn read(&mut self, mut show: impl FnMut(Subject, u32, &Lifecycle, bool)) -> Result<(), Error> {
        let now = Instant::now();
        let Self { table, known, exchanges, names, before, .. } = self;
        table.for_each(|peer, cells| {
            let past = crate::table::sum(cells);
            let entry = known.entry(*peer).or_insert_with(|| {
                let at = exchanges.find(key(peer, &**names));
                exchanges.hold(at, true);
                // One that has less has begun anew.
                let had = before.remove(peer).filter(|had| had.events() <= past.events());
                Known { past: had.unwrap_or_default(), since: now, at }
            });
            grow(entry, past, exchanges, now);
        })?;
        self.before = HashMap::new();
        self.rename();
        self.free(now)?;
        self.exchanges.finish(|&Key { local, remote, network }, past, last| {
            show(Subject::Facing { local, peer: remote }, network, past, last);
        });
        Ok(())
    }

    /// Gives what is counted of each entry, for the next agent; nothing where there is none that goes on.
    pub fn known(&self) -> Option<Vec<u8>> {
        let each = self.known.iter().flat_map(|(peer, known)| [peer.as_bytes(), known.past.as_bytes()].concat());
        self.lasts.then(|| each.collect())
    }

    /// Lets addresses that have another owner now count for that one from now on.
    fn rename(&mut self) {
        let generation = self.names.generation();
        if std::mem::replace(&mut self.generation, generation) == generation {
            return;
        }
        for (peer, known) in &mut self.known {
            let at = self.exchanges.find(key(peer, &*self.names));
            self.exchanges.hold(at, true);
            self.exchanges.hold(known.at, false);
            known.at = at;
        }
    }

    /// Frees the entries of workloads that are gone, and when room is short those of all that are silent.
    fn free(&mut self, now: Instant) -> Result<(), Error> {
        let crowded = self.known.len() as u64 > u64::from(self.table.capacity()) / 4 * 3;
        let is_gone = |peer: &Peer| peer.cgroup != 0 && self.census.removed_for(peer.cgroup).is_some();
        let silent = self.known.iter().filter(|(_, known)| now.duration_since(known.since) >= SILENT);
        let freed: Vec<Peer> = silent.map(|(peer, _)| *peer).filter(|peer| crowded || is_gone(peer)).collect();
        for peer in freed {
            let (Some(cells), Some(mut known)) = (self.table.take(&peer)?, self.known.remove(&peer)) else { continue };
            grow(&mut known, crate::table::sum(&cells), &mut self.exchanges, now);
            self.exchanges.hold(known.at, false);
        }
        Ok(())
    }
}

/// Takes over what an entry has now.
fn grow(known: &mut Known, past: Lifecycle, exchanges: &mut Exchanges<Key, Lifecycle>, now: Instant) {
    if past != known.past {
        exchanges.add(known.at, |sum| sum.add(&past.since(&known.past)));
        (known.past, known.since) = (past, now);
    }
}

fn key(peer: &Peer, names: &dyn model::Peers) -> Key {
    let address = Ipv6Addr::from(peer.address).to_canonical();
    let who = Who::Peer(names.find(address, peer.port));
    let remote = Party { who, service: names.service(address, peer.port) };
    Key { local: party(peer.cgroup), remote, network: peer.network }
}
