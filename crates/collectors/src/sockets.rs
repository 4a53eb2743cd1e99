//! The programs that see every packet at its socket, which the collectors network and connection share: a packet then
//! passes one program for both. Whoever is made first loads them; they stay while either is there.

use std::any::Any;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bpf::{Error, Loader, Object, Pins, Types};
use runtime::{MakeError, Platform, Setup};

use crate::{connection, filter, network};

/// The name under which they are shared.
const NAME: &str = "sockets";
/// The name under which they are pinned.
const PINS: &str = network::DESCRIPTOR.name;

/// The collectors that share the programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum User {
    /// The collector network.
    Network,
    /// The collector connection.
    Connection,
}

/// The loaded programs.
pub struct Sockets {
    object: Mutex<Object>,
    /// Who has them or had them, by [`User`]: what maps hold by then was counted for that one.
    taken: [AtomicBool; 2],
    /// What this kernel cannot do.
    lacking: Vec<&'static str>,
    drops: bool,
    /// Whether they outlive the agent.
    pinned: bool,
    /// Whether the collector network wants traffic by peer, which the table of connections has.
    peers: bool,
    table: Mutex<Weak<connection::Table>>,
}

impl Sockets {
    /// Says whether traffic is told apart by peer.
    pub fn tells_peers(&self) -> bool {
        self.peers
    }

    /// Gives the table of connections, while the collector of that name runs.
    pub fn table(&self) -> Option<Arc<connection::Table>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner).upgrade()
    }

    /// Lets others have the table of connections.
    pub fn open_table(&self, table: &Arc<connection::Table>) {
        *self.table.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(table);
    }

    /// Gives the object.
    pub fn object(&self) -> MutexGuard<'_, Object> {
        self.object.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says what this kernel cannot do.
    pub fn lacking(&self) -> &[&'static str] {
        &self.lacking
    }

    /// Says whether they outlive the agent.
    pub fn is_pinned(&self) -> bool {
        self.pinned
    }

    /// Says whether drops are counted.
    pub fn counts_drops(&self) -> bool {
        self.drops
    }

    fn take(&self, user: User) -> bool {
        !self.taken[user as usize].swap(true, Ordering::Relaxed)
    }
}

/// Opens the programs for a collector: those that the other one has loaded, or else new ones.
///
/// # Errors
/// Fails when the kernel refuses them.
pub fn open(setup: &mut Setup, user: User) -> Result<Arc<Sockets>, MakeError> {
    let platform = Arc::clone(setup.platform());
    let network: Option<network::Config> = section(&platform, "network");
    let connection: Option<connection::Config> = section(&platform, "connection");
    let types = setup.types()?;
    let mut shared = platform.shared.lock().unwrap_or_else(PoisonError::into_inner);
    let held = shared.get(NAME).and_then(Weak::upgrade).and_then(|held| held.downcast::<Sockets>().ok());
    let both = network.is_some() && connection.is_some();
    let watched = |sockets: &Sockets| {
        let watch = sockets.object().watch();
        match user {
            User::Network => watch.without(&connection::MAPS),
            User::Connection if both => watch.only(&connection::MAPS),
            User::Connection => watch,
        }
    };
    // What one of them has pinned, another set of programs must not take from it.
    let pins = platform.lasting().filter(|_| held.is_none());
    if let Some(sockets) = held.filter(|held| held.take(user)) {
        setup.pinned_as(sockets.pinned.then_some(PINS));
        setup.watch(watched(&sockets));
        return Ok(sockets);
    }
    let wanted = match user {
        User::Network => (network.unwrap_or_default(), connection),
        User::Connection => (network.unwrap_or_else(network::Config::off), Some(connection.unwrap_or_default())),
    };
    let loaded = load((&platform, pins), &types, &wanted.0, wanted.1.as_ref());
    let sockets = match loaded {
        // Without the table there is still traffic to count.
        Err(_) if user == User::Network && both => load((&platform, pins), &types, &wanted.0, None)?,
        loaded => loaded?,
    };
    let sockets = Arc::new(sockets);
    sockets.take(user);
    let reins = sockets.object().reins().map_err(crate::refused)?;
    let weak = Arc::downgrade(&sockets);
    shared.insert(NAME, weak as Weak<dyn Any + Send + Sync>);
    setup.pinned_as(sockets.pinned.then_some(PINS));
    setup.watch(watched(&sockets));
    setup.lead(reins);
    Ok(sockets)
}

/// Gives the table of connections, where that collector runs.
pub fn table(platform: &Platform) -> Option<Arc<connection::Table>> {
    let shared = platform.shared.lock().unwrap_or_else(PoisonError::into_inner);
    let sockets = shared.get(NAME)?.upgrade()?.downcast::<Sockets>().ok()?;
    drop(shared);
    sockets.table()
}

/// Gives the section of a collector that is to run.
fn section<T: serde::de::DeserializeOwned>(platform: &Platform, name: &str) -> Option<T> {
    platform.sections.get(name).and_then(|section| serde_json::from_value(section.clone()).ok())
}

fn load(
    (platform, pins): (&Arc<Platform>, Option<&Pins>),
    types: &Types,
    network: &network::Config,
    connection: Option<&connection::Config>,
) -> Result<Sockets, MakeError> {
    let root = platform.facts.cgroups.open_root().map_err(|error| MakeError::Unsupported(error.to_string()))?;
    let legacy = platform.facts.is_legacy();
    let loader = Loader::new(match (connection.is_some(), legacy) {
        (false, false) => "network",
        (false, true) => "network_legacy",
        (true, false) => "connection",
        (true, true) => "connection_legacy",
    });
    let peers = network.peers && connection.is_some();
    let loader = network.tune(loader, platform, peers);
    let loader = match connection {
        Some(connection) => connection.tune(loader, platform)?,
        None => loader,
    };
    // Either is measured by what both do.
    let governed = ["network", "connection"].iter().any(|name| platform.budget.governs(name));
    // What peers had is in sums that only this process has.
    let pins = pins.filter(|_| !peers);
    let loader = filter::tune(loader.governed(governed).pinned(pins, PINS, filter::FILLED), platform);
    let mut object = loader.load(types).map_err(crate::refused)?;
    filter::fill(platform, &object)?;
    let mut lacking = Vec::new();
    if connection.is_some() && !legacy {
        object.attach("tcp_destroy_sock", types).map_err(crate::refused)?;
    }
    // Owners first: those of new sockets, then of old ones.
    object.attach_cgroup("network_create", &root, types).map_err(crate::refused)?;
    for program in ["sock_send_length", "sock_recv_length"] {
        if legacy || !types.has_tracepoint(program) {
            lacking.push("a socket stays with its creator although another workload uses it");
            break;
        }
        object.attach(program, types).map_err(crate::refused)?;
    }
    if legacy {
        lacking.push("sockets that are older than the agent belong to the workload kernel");
    } else {
        object.load_iterator("network_seed", "task_file", types).map_err(crate::refused)?;
        object.walk("network_seed", &mut Vec::new()).map_err(crate::refused)?;
    }
    for program in ["network_egress", "network_ingress"] {
        object.attach_cgroup_behind(&platform.gates, program, &root, types).map_err(crate::refused)?;
    }
    let drops = network.drops && !legacy && types.enumeration("skb_drop_reason").is_some();
    if drops {
        attach_drops(&mut object, types).map_err(crate::refused)?;
    }
    let (object, taken, table) = (Mutex::new(object), Default::default(), Mutex::default());
    Ok(Sockets { object, taken, lacking, drops, pinned: pins.is_some(), peers, table })
}

/// Attaches the program that knows the receiving socket, else the one that does without.
fn attach_drops(object: &mut Object, types: &Types) -> Result<(), Error> {
    object.attach("kfree_skb__socket", types).or_else(|_| object.attach("kfree_skb__reason", types))
}
