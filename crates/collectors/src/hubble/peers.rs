//! The ends of flows as labels, by the configured policy. The bytes of one pod's endpoint are the same in every flow
//! of it: what they mean is worked out once.

use std::collections::{HashMap, HashSet};

use foldhash::fast::RandomState;
use hubble::flow::Endpoint;
use hubble::wire::{Malformed, Repeated};

use super::config::{Config, Labels, Name};
use super::symbols::{NONE, Symbol, Symbols};

/// The labels of an end: namespace, workload, pod, app, identity.
pub type Set = [Symbol; 5];
/// The place of the workload in it.
const WORKLOAD: usize = 1;

/// Who an end is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// The number of its labels in [`Peers::set`].
    pub set: u32,
    /// What it is.
    pub kind: Kind,
    /// Whether it is an endpoint of the reporting node.
    pub local: bool,
    /// What the configuration says of its namespace.
    pub namespace: Namespace,
    /// Whether it is called by a DNS name, or would be if there were one.
    pub dns: bool,
}

/// What an end is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// A pod, here or on another node.
    Pod,
    /// Outside of the cluster.
    World,
    /// A node, or what else Cilium knows.
    #[default]
    Other,
}

/// What the configuration says of a namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Namespace {
    /// There is none.
    #[default]
    None,
    /// It is watched, or all are.
    Watched,
    /// Others are watched.
    Other,
    /// It is excluded.
    Excluded,
}

/// The most ends that are remembered, and the most bytes of one.
const MOST: usize = 16_384;
const LONGEST: usize = 4_096;

/// All ends of flows.
#[derive(Debug)]
pub struct Peers {
    labels: Labels,
    watch: Vec<Box<[u8]>>,
    exclude: Vec<Box<[u8]>>,
    known: HashMap<Box<[u8]>, Peer, RandomState>,
    sets: Vec<Set>,
    numbers: HashMap<Set, u32, RandomState>,
    /// The DNS names that are labels, and the sets of ends that are called by them.
    names: HashSet<Symbol, RandomState>,
    named: HashMap<(u32, Symbol), u32, RandomState>,
    /// Ends of flows whose name is no label for want of room.
    pub refused: u64,
}

impl Peers {
    pub fn new(config: &Config) -> Self {
        let bytes = |names: &[String]| names.iter().map(|name| name.as_bytes().into()).collect();
        Self {
            labels: config.labels.clone(),
            watch: bytes(&config.watch_namespaces),
            exclude: bytes(&config.exclude_namespaces),
            known: HashMap::default(),
            sets: vec![Set::default()],
            numbers: HashMap::from_iter([(Set::default(), 0)]),
            names: HashSet::default(),
            named: HashMap::default(),
            refused: 0,
        }
    }

    /// Gives who an end is.
    ///
    /// # Errors
    /// Fails when the bytes are no protobuf message.
    pub fn find(&mut self, message: &[u8], symbols: &mut Symbols) -> Result<Peer, Malformed> {
        if let Some(peer) = self.known.get(message) {
            return Ok(*peer);
        }
        let endpoint = Endpoint::read(message)?;
        let set = self.labels.of(&endpoint, symbols);
        let number = self.number(set);
        let is = |list: &[Box<[u8]>]| list.iter().any(|name| **name == *endpoint.namespace);
        let namespace = match endpoint.namespace {
            [] => Namespace::None,
            _ if is(&self.exclude) => Namespace::Excluded,
            _ if self.watch.is_empty() || is(&self.watch) => Namespace::Watched,
            _ => Namespace::Other,
        };
        let kind = match reserved(&endpoint) {
            _ if !endpoint.pod.is_empty() => Kind::Pod,
            Some(name) if name.starts_with(b"reserved:world") => Kind::World,
            _ => Kind::Other,
        };
        let dns = kind != Kind::Pod && self.labels.takes_dns(&endpoint, symbols);
        let peer = Peer { set: number, kind, local: endpoint.id != 0, namespace, dns };
        if message.len() <= LONGEST {
            if self.known.len() >= MOST {
                self.known.clear();
            }
            self.known.insert(message.into(), peer);
        }
        Ok(peer)
    }

    /// Gives who an end is when one of the names of its address is known.
    pub fn named(&mut self, peer: Peer, names: Repeated<'_>, symbols: &mut Symbols) -> Peer {
        let Some(name) = names.iter().next().filter(|name| peer.dns && !name.is_empty()) else {
            return Peer { dns: false, ..peer };
        };
        let room = self.names.len() < self.labels.max_names;
        // Where there is no room, a new text is not even kept.
        let Some(name) = (if room { Some(symbols.intern(name)) } else { symbols.find(name) }) else {
            self.refused += 1;
            return Peer { dns: false, ..peer };
        };
        if let Some(&set) = self.named.get(&(peer.set, name)) {
            return Peer { set, ..peer };
        }
        if !(self.names.contains(&name) || room && self.names.insert(name)) {
            self.refused += 1;
            return Peer { dns: false, ..peer };
        }
        let mut labels = self.set(peer.set);
        labels[WORKLOAD] = name;
        let set = self.number(labels);
        self.named.insert((peer.set, name), set);
        Peer { set, ..peer }
    }

    fn number(&mut self, set: Set) -> u32 {
        let next = self.sets.len() as u32;
        let number = *self.numbers.entry(set).or_insert(next);
        if number == next {
            self.sets.push(set);
        }
        number
    }

    /// Says whether a flow between two ends is left out: when none of its namespaces is wanted.
    pub fn leaves_out(&self, source: Peer, destination: Peer) -> bool {
        let (a, b) = (source.namespace, destination.namespace);
        let is = |namespace| a == namespace || b == namespace;
        if is(Namespace::Watched) {
            return false;
        }
        // Where some are watched, what has no namespace is nobody's.
        !self.watch.is_empty() || is(Namespace::Excluded)
    }

    /// Gives labels by their number.
    pub fn set(&self, number: u32) -> Set {
        self.sets.get(number as usize).copied().unwrap_or_default()
    }

    /// Gives how many sets of labels there are.
    pub fn len(&self) -> usize {
        self.sets.len()
    }

    /// Forgets everything but the sets with these numbers; gives the new number of each.
    pub fn keep(&mut self, used: &[bool]) -> Vec<u32> {
        let mut numbers = vec![0; self.sets.len()];
        let mut kept = vec![Set::default()];
        for (old, set) in self.sets.iter().enumerate().skip(1) {
            if used.get(old) == Some(&true) {
                numbers[old] = kept.len() as u32;
                kept.push(*set);
            }
        }
        self.sets = kept;
        self.numbers = self.sets.iter().enumerate().map(|(number, set)| (*set, number as u32)).collect();
        self.known.clear();
        self.named.clear();
        let called: HashSet<Symbol, RandomState> = self.sets.iter().map(|set| set[WORKLOAD]).collect();
        self.names.retain(|name| called.contains(name));
        numbers
    }
}

impl Labels {
    fn of(&self, endpoint: &Endpoint<'_>, symbols: &mut Symbols) -> Set {
        let workload = self.workload.iter().map(|name| name.of(endpoint, symbols)).find(|symbol| *symbol != NONE);
        let mut when = |wanted: bool, name: Name| if wanted { name.of(endpoint, symbols) } else { NONE };
        let pod = when(self.pod, Name::Pod);
        let app = when(self.app, Name::App);
        let identity = when(self.identity, Name::Identity);
        [symbols.intern(endpoint.namespace), workload.unwrap_or(NONE), pod, app, identity]
    }
}

impl Labels {
    /// Says whether an end is called by a DNS name if there is one: nothing that comes first in the list is known of it.
    fn takes_dns(&self, endpoint: &Endpoint<'_>, symbols: &mut Symbols) -> bool {
        let Some(at) = self.workload.iter().position(|name| *name == Name::Dns) else { return false };
        self.workload[..at].iter().all(|name| name.of(endpoint, symbols) == NONE)
    }
}

impl Name {
    fn of(self, endpoint: &Endpoint<'_>, symbols: &mut Symbols) -> Symbol {
        match self {
            Self::Workload => symbols.intern(endpoint.workload),
            Self::Pod => symbols.intern(endpoint.pod),
            Self::App => app(endpoint).map_or(NONE, |app| symbols.intern(app)),
            // It comes with the flow: see [`Peers::named`].
            Self::Dns => NONE,
            Self::Reserved => reserved(endpoint).map_or(NONE, |name| symbols.intern(name)),
            Self::Identity if endpoint.identity == 0 => NONE,
            Self::Identity => symbols.word(endpoint.identity.to_string().into()),
        }
    }
}

/// Gives the application that an end says it is of.
pub fn app<'a>(endpoint: &Endpoint<'a>) -> Option<&'a [u8]> {
    const KEYS: [&[u8]; 3] = [b"k8s:app.kubernetes.io/name=", b"k8s:k8s-app=", b"k8s:app="];
    KEYS.into_iter().find_map(|key| endpoint.labels.iter().find_map(|label| label.strip_prefix(key)))
}

/// Gives the reserved name of an end. What the API server runs on is a node, too: the API server says more.
pub fn reserved<'a>(endpoint: &Endpoint<'a>) -> Option<&'a [u8]> {
    const API_SERVER: &[u8] = b"reserved:kube-apiserver";
    let names = || endpoint.labels.iter().filter(|label| label.starts_with(b"reserved:"));
    names().find(|name| *name == API_SERVER).or_else(|| names().next()).or(match endpoint.identity {
        1 => Some(b"reserved:host"),
        2 => Some(b"reserved:world"),
        3 => Some(b"reserved:unmanaged"),
        4 => Some(b"reserved:health"),
        5 => Some(b"reserved:init"),
        6 => Some(b"reserved:remote-node"),
        7 => Some(API_SERVER),
        8 => Some(b"reserved:ingress"),
        9 => Some(b"reserved:world-ipv4"),
        10 => Some(b"reserved:world-ipv6"),
        _ => None,
    })
}
