//! What flows tell of addresses: the pod, else the node, that has one. Each is passed on now and then, for as long as
//! flows speak of it.

use std::collections::HashMap;
use std::io::Write;
use std::net::IpAddr;
use std::sync::Arc;

use foldhash::fast::RandomState;
use hubble::flow::{Endpoint, Flow};
use hubble::wire::Repeated;
use model::{Attributes, Learner, Text};

use super::config::{Config, Labels, Name};
use super::peers::{Peer, app, reserved};
use super::symbols::presentable;

/// The longest text of an address.
const LONGEST: usize = 45;

/// Passes on whose addresses are.
pub struct Teacher {
    /// To whom, where somebody wants to know.
    learner: Option<Arc<dyn Learner>>,
    /// Who had an address, and in which second that was passed on.
    told: HashMap<Box<[u8]>, (Peer, u32), RandomState>,
    /// The most addresses, and after how many seconds one is forgotten.
    most: usize,
    idle: u32,
    /// After how many seconds it is passed on again.
    again: u32,
    labels: Labels,
}

impl Teacher {
    /// Makes one, where the configuration wants it or bytes are to be `joined`.
    pub fn new(config: &Config, learner: Option<&Arc<dyn Learner>>, joined: bool) -> Option<Self> {
        let learner = learner.filter(|_| config.name_peers).map(Arc::clone);
        let idle = config.address_timeout.0;
        if let Some(learner) = &learner {
            learner.limit(config.max_addresses, idle);
        } else if !joined {
            return None;
        }
        let (most, idle) = (config.max_addresses, idle.as_secs() as u32);
        Some(Self { learner, told: HashMap::default(), most, idle, again: idle / 4, labels: config.labels.clone() })
    }

    /// Passes on what a flow tells of its ends.
    pub fn see(&mut self, flow: &Flow<'_>, source: Peer, destination: Peer, now: u32) {
        self.end((flow.source_ip, flow.source, flow.source_names), source, now);
        self.end((flow.destination_ip, flow.destination, flow.destination_names), destination, now);
    }

    /// Gives who has an address.
    pub fn find(&self, address: IpAddr) -> Option<Peer> {
        let mut text = [0; LONGEST];
        let mut rest = &mut text[..];
        write!(rest, "{address}").ok()?;
        let left = rest.len();
        self.told.get(&text[..LONGEST - left]).map(|(peer, _)| *peer)
    }

    /// Forgets the addresses of which no flow spoke for long; gives the numbers of the ends of the others.
    pub fn keep(&mut self, now: u32) -> impl Iterator<Item = u32> {
        let idle = self.idle;
        self.told.retain(|_, (_, when)| now.saturating_sub(*when) <= idle);
        self.told.values().map(|(peer, _)| peer.set)
    }

    /// Gives ends their new numbers.
    pub fn renumber(&mut self, numbers: &[u32]) {
        for (peer, _) in self.told.values_mut() {
            peer.set = numbers.get(peer.set as usize).copied().unwrap_or(0);
        }
    }

    fn end(&mut self, (address, endpoint, names): (&[u8], &[u8], Repeated<'_>), peer: Peer, now: u32) {
        if address.is_empty() || address.len() > LONGEST || endpoint.is_empty() {
            return;
        }
        if let Some((known, when)) = self.told.get_mut(address) {
            // One that two claim, such as a service's, changes hands once a second at most: others look it up anew then.
            if now.saturating_sub(*when) < if known.set == peer.set { self.again.max(1) } else { 1 } {
                return;
            }
            (*known, *when) = (peer, now);
        } else {
            if self.told.len() >= self.most {
                self.told.clear();
            }
            self.told.insert(address.into(), (peer, now));
        }
        let Some(learner) = &self.learner else { return };
        let parsed = std::str::from_utf8(address).ok().and_then(|text| text.parse::<IpAddr>().ok());
        if let Some(address) = parsed
            && let Ok(endpoint) = Endpoint::read(endpoint)
            && let Some(who) = self.attributes(&endpoint, names.iter().next().filter(|_| peer.dns))
        {
            learner.learn(address, who);
        }
    }

    /// Gives the attributes of an end, which may be known by a DNS name; nothing where it has no name of its own, as the
    /// world has not.
    fn attributes(&self, endpoint: &Endpoint<'_>, dns: Option<&[u8]>) -> Option<Attributes> {
        const NONE: [&[u8]; 5] = [
            b"reserved:world",
            b"reserved:world-ipv4",
            b"reserved:world-ipv6",
            b"reserved:unmanaged",
            b"reserved:init",
        ];
        let text = |bytes: &[u8]| Text::from(presentable(bytes).into_owned());
        let named = |name: &Name| match name {
            Name::Workload => Some(text(endpoint.workload)),
            Name::Pod => Some(text(endpoint.pod)),
            Name::App => app(endpoint).map(text),
            Name::Dns => dns.map(text),
            Name::Reserved => reserved(endpoint).filter(|name| !NONE.contains(name)).map(text),
            Name::Identity => number(endpoint),
        };
        // What is no pod is called by its reserved name, whatever else there is.
        let reserved = [Name::Reserved];
        let last = if endpoint.pod.is_empty() { &reserved[..] } else { &[] };
        let workload = self.labels.workload.iter().chain(last).filter_map(named).find(|name| !name.as_str().is_empty());
        if endpoint.pod.is_empty() && workload.is_none() {
            return None;
        }
        let pod = if self.labels.pod { text(endpoint.pod) } else { Text::Static("") };
        let identity = self.labels.identity.then(|| number(endpoint)).flatten();
        Some(Attributes::new([
            ("k8s.namespace.name".into(), text(endpoint.namespace)),
            ("workload.name".into(), workload.unwrap_or(Text::Static(""))),
            ("k8s.pod.name".into(), pod),
            ("identity".into(), identity.unwrap_or(Text::Static(""))),
        ]))
    }
}

/// Gives the number of an end's security identity; nothing where that names nobody, as the world's.
fn number(endpoint: &Endpoint<'_>) -> Option<Text> {
    const WORLD: [u32; 4] = [0, 2, 9, 10];
    (!WORLD.contains(&endpoint.identity)).then(|| Text::from(endpoint.identity.to_string()))
}
