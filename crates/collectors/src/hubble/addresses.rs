//! What flows tell of addresses: the pod, else the node, that has one. Each is passed on now and then, for as long as
//! flows speak of it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use foldhash::fast::RandomState;
use hubble::flow::{Endpoint, Flow};
use model::{Attributes, Learner, Text};

use super::config::{Config, Name};
use super::peers::{Peer, app, reserved};
use super::symbols::presentable;

/// The most addresses of which is remembered when they were passed on.
const MOST: usize = 65_536;
/// The longest text of an address.
const LONGEST: usize = 45;

/// Passes on whose addresses are.
pub struct Teacher {
    learner: Arc<dyn Learner>,
    /// Who had an address, and in which second that was passed on.
    told: HashMap<Box<[u8]>, (u32, u32), RandomState>,
    /// After how many seconds it is passed on again.
    again: u32,
    pod: bool,
    workload: Vec<Name>,
}

impl Teacher {
    /// Makes one, where the configuration wants it.
    pub fn new(config: &Config, learner: Option<&Arc<dyn Learner>>) -> Option<Self> {
        let learner = Arc::clone(learner.filter(|_| config.name_peers)?);
        let idle = config.address_timeout.0;
        learner.limit(config.max_addresses, idle);
        let (pod, workload) = (config.labels.pod, config.labels.workload.clone());
        let again = (idle.as_secs() / 4) as u32;
        Some(Self { learner, told: HashMap::default(), again, pod, workload })
    }

    /// Passes on what a flow tells of its ends.
    pub fn see(&mut self, flow: &Flow<'_>, source: Peer, destination: Peer, now: u32) {
        self.end(flow.source_ip, flow.source, source, now);
        self.end(flow.destination_ip, flow.destination, destination, now);
    }

    /// Has nothing said before count: the numbers of ends are others now.
    pub fn forget(&mut self) {
        self.told.clear();
    }

    fn end(&mut self, address: &[u8], endpoint: &[u8], peer: Peer, now: u32) {
        if address.is_empty() || address.len() > LONGEST || endpoint.is_empty() {
            return;
        }
        match self.told.get(address) {
            // One that two claim, such as a service's, changes hands once a second at most: others look it up anew then.
            Some(&(set, when)) if now.saturating_sub(when) < if set == peer.set { self.again.max(1) } else { 1 } => {
                return;
            }
            _ => {}
        }
        if self.told.len() >= MOST {
            self.told.clear();
        }
        self.told.insert(address.into(), (peer.set, now));
        let parsed = std::str::from_utf8(address).ok().and_then(|text| text.parse::<IpAddr>().ok());
        if let Some(address) = parsed
            && let Ok(endpoint) = Endpoint::read(endpoint)
            && let Some(who) = self.attributes(&endpoint)
        {
            self.learner.learn(address, who);
        }
    }

    /// Gives the attributes of an end; nothing where it has no name of its own, as the world has not.
    fn attributes(&self, endpoint: &Endpoint<'_>) -> Option<Attributes> {
        let text = |bytes: &[u8]| Text::from(presentable(bytes).into_owned());
        if endpoint.pod.is_empty() {
            const NONE: [&[u8]; 5] = [
                b"reserved:world",
                b"reserved:world-ipv4",
                b"reserved:world-ipv6",
                b"reserved:unmanaged",
                b"reserved:init",
            ];
            let name = reserved(endpoint).filter(|name| !NONE.contains(name))?;
            return Some(Attributes::new([("workload.name".into(), text(name))]));
        }
        let named = |name: &Name| match name {
            Name::Workload => Some(endpoint.workload),
            Name::Pod => Some(endpoint.pod),
            Name::App => app(endpoint),
            Name::Reserved => reserved(endpoint),
            // A number names nobody.
            Name::Identity => None,
        };
        let workload = self.workload.iter().filter_map(named).find(|name| !name.is_empty());
        let workload = workload.map(|name| ("workload.name".into(), text(name)));
        let pod = self.pod.then(|| ("k8s.pod.name".into(), text(endpoint.pod)));
        let namespace = ("k8s.namespace.name".into(), text(endpoint.namespace));
        Some(Attributes::new([namespace].into_iter().chain(workload).chain(pod)))
    }
}
