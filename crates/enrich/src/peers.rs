//! Whose address it is: who is known to have it, else the configured network that it lies in, else what kind it is.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;
use std::sync::{Arc, PoisonError, RwLock};

use model::{Attributes, Text};

use crate::services::Services;

/// The key of a name that is no workload's of this node.
const NAME: &str = "workload.name";
/// The key of the node that somebody is on.
pub const NODE: &str = "k8s.node.name";

/// Knows who has some addresses; answers from memory.
pub trait Addresses: Send + Sync {
    /// Changes whenever an answer given before may have changed.
    fn generation(&self) -> u64;

    /// Gives the attributes of who has an address, or has that port of it where it is a server's (else 0).
    fn owner(&self, address: IpAddr, port: u16) -> Option<Arc<Attributes>>;

    /// Gives the node that an address is of: the node's own, or a pod's there.
    fn whereabouts(&self, address: IpAddr) -> Option<Whereabouts> {
        let _ = address;
        None
    }
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whereabouts {
    /// This one.
    Here,
    /// The one of this name.
    On(Text),
}

/// A network: an address and the number of its bits that count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    bits: u128,
    mask: u128,
}

impl Network {
    fn contains(&self, address: Ipv6Addr) -> bool {
        address.to_bits() & self.mask == self.bits
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("must be a network such as 10.0.0.0/8 or fd00::/8, not {text}");
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length.parse::<u32>().map_err(|_| wrong())?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let (least, most) = if address.is_ipv4() { (96, 32) } else { (0, 128) };
        let length = length.unwrap_or(most);
        if length > most {
            return Err(wrong());
        }
        let mask = u128::MAX.checked_shl(128 - least - length).unwrap_or(0);
        Ok(Self { bits: wide(address).to_bits() & mask, mask })
    }
}

/// Tells who has an address, and keeps a number for each answer.
pub struct Peers {
    /// Asked in this order.
    directories: Vec<Arc<dyn Addresses>>,
    /// Where they are to be named.
    services: Option<Arc<Services>>,
    /// The narrowest first.
    networks: Vec<(Network, Arc<Attributes>)>,
    /// The name of this node, where nodes are told apart.
    node: Option<Text>,
    kinds: [Arc<Attributes>; KINDS.len()],
    numbers: RwLock<Numbers>,
}

#[derive(Default)]
struct Numbers {
    all: Vec<Arc<Attributes>>,
    index: HashMap<Arc<Attributes>, u32>,
}

/// What an address is called that nobody knows and that lies in no configured network.
const KINDS: [&str; 6] = ["unknown", "node", "link-local", "multicast", "private", "world"];
/// The place of the one that is this node's own.
const OWN: usize = 1;

impl Peers {
    /// Makes it of those who know addresses, the first asked first, and of named networks.
    pub fn new(
        directories: Vec<Arc<dyn Addresses>>,
        services: Option<Arc<Services>>,
        networks: &[(String, Network)],
    ) -> Self {
        let mut networks: Vec<_> = networks.iter().map(|(name, network)| (*network, named(name.clone()))).collect();
        networks.sort_by_key(|(network, _)| std::cmp::Reverse(network.mask));
        Self { directories, services, networks, node: None, kinds: KINDS.map(named), numbers: RwLock::default() }
    }

    /// Names nodes, too, of which this one has a name.
    #[must_use]
    pub fn on(self, node: Option<Text>) -> Self {
        Self { node, ..self }
    }

    /// Gives the name of this node, where nodes are told apart.
    pub fn node(&self) -> Option<&Text> {
        self.node.as_ref()
    }

    /// Gives the attributes behind a number.
    pub fn attributes(&self, number: u32) -> Arc<Attributes> {
        let numbers = self.numbers.read().unwrap_or_else(PoisonError::into_inner);
        numbers.all.get(number as usize).map_or_else(Arc::default, Arc::clone)
    }

    fn look(&self, address: IpAddr, port: u16) -> Arc<Attributes> {
        let at = if address.is_loopback() { Some(Whereabouts::Here) } else { self.whereabouts(address) };
        let owner = self.directories.iter().find_map(|directory| directory.owner(address, port));
        let owner = owner.unwrap_or_else(|| self.unowned(address, at.as_ref()));
        match (&self.node, at) {
            (Some(node), Some(Whereabouts::Here)) => located(&owner, node),
            (Some(_), Some(Whereabouts::On(node))) => located(&owner, &node),
            _ => owner,
        }
    }

    fn whereabouts(&self, address: IpAddr) -> Option<Whereabouts> {
        self.directories.iter().find_map(|directory| directory.whereabouts(address))
    }

    /// Gives the name of what no directory knows the owner of.
    fn unowned(&self, address: IpAddr, at: Option<&Whereabouts>) -> Arc<Attributes> {
        if at == Some(&Whereabouts::Here) {
            return Arc::clone(&self.kinds[OWN]);
        }
        let wide = wide(address);
        let network = self.networks.iter().find(|(network, _)| network.contains(wide));
        Arc::clone(network.map_or_else(|| &self.kinds[kind(address)], |(_, name)| name))
    }
}

impl model::Peers for Peers {
    fn generation(&self) -> u64 {
        self.directories.iter().map(|directory| directory.generation()).sum()
    }

    fn find(&self, address: IpAddr, port: u16) -> u32 {
        self.number(self.look(address.to_canonical(), port))
    }

    fn service(&self, address: IpAddr, port: u16) -> Option<u32> {
        let service = self.services.as_ref()?.service(address.to_canonical(), port)?;
        Some(self.number(service))
    }
}

impl Peers {
    fn number(&self, attributes: Arc<Attributes>) -> u32 {
        let known = self.numbers.read().unwrap_or_else(PoisonError::into_inner).index.get(&attributes).copied();
        known.unwrap_or_else(|| {
            let mut numbers = self.numbers.write().unwrap_or_else(PoisonError::into_inner);
            let Numbers { all, index } = &mut *numbers;
            *index.entry(attributes).or_insert_with_key(|attributes| {
                all.push(Arc::clone(attributes));
                (all.len() - 1) as u32
            })
        })
    }
}

/// Adds the node that somebody is on.
pub fn located(who: &Attributes, node: &Text) -> Arc<Attributes> {
    let own = who.pairs().iter().map(|pair| (pair.key.clone(), pair.value.clone()));
    Arc::new(Attributes::new(own.chain([(Text::Static(NODE), node.clone())])))
}

fn named(name: impl Into<Text>) -> Arc<Attributes> {
    Arc::new(Attributes::new([(Text::Static(NAME), name.into())]))
}

fn wide(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

/// Gives the place of an address' kind in [`KINDS`].
fn kind(address: IpAddr) -> usize {
    if address.is_unspecified() {
        return 0;
    }
    if address.is_loopback() {
        return OWN;
    }
    let (link_local, private) = match address {
        IpAddr::V4(v4) => {
            // 100.64.0.0/10: carriers' and many clusters' own.
            let shared = v4.octets()[0] == 100 && v4.octets()[1] & 0xc0 == 64;
            (v4.is_link_local(), v4.is_private() || shared)
        }
        IpAddr::V6(v6) => (v6.is_unicast_link_local(), v6.is_unique_local()),
    };
    let multicast = address.is_multicast() || address == IpAddr::V4(std::net::Ipv4Addr::BROADCAST);
    match (link_local, multicast, private) {
        (true, ..) => 2,
        (_, true, _) => 3,
        (_, _, true) => 4,
        _ => 5,
    }
}

#[cfg(test)]
mod tests {
    use model::Peers as _;

    use super::*;

    struct One(IpAddr, Arc<Attributes>);

    impl Addresses for One {
        fn generation(&self) -> u64 {
            3
        }

        fn owner(&self, address: IpAddr, _: u16) -> Option<Arc<Attributes>> {
            (address == self.0).then(|| Arc::clone(&self.1))
        }
    }

    fn name(peers: &Peers, address: &str) -> String {
        let number = peers.find(address.parse().unwrap(), 0);
        peers.attributes(number).pairs().iter().map(|pair| pair.value.as_str()).collect()
    }

    #[test]
    fn who_is_known_comes_first_then_the_narrowest_network_then_the_kind() {
        let pod = Arc::new(Attributes::new([("k8s.pod.name".into(), "web-0".into())]));
        let networks = [("office", "10.0.0.0/8"), ("lab", "10.7.0.0/16"), ("ula", "fd00::/8"), ("dns", "9.9.9.9")];
        let networks = networks.map(|(name, network)| (name.to_owned(), network.parse().unwrap()));
        let peers = Peers::new(vec![Arc::new(One("10.7.0.9".parse().unwrap(), pod))], None, &networks);
        let cases = [
            ("10.7.0.9", "web-0"),
            ("::ffff:10.7.0.9", "web-0"),
            ("10.7.0.8", "lab"),
            ("10.8.0.8", "office"),
            ("fd12::1", "ula"),
            ("9.9.9.9", "dns"),
            ("9.9.9.10", "world"),
            ("192.168.1.1", "private"),
            ("100.64.0.1", "private"),
            ("169.254.1.1", "link-local"),
            ("fe80::1", "link-local"),
            ("224.0.0.1", "multicast"),
            ("ff02::1", "multicast"),
            ("127.0.0.1", "node"),
            ("::1", "node"),
            ("::", "unknown"),
            ("2606:4700::1111", "world"),
        ];
        for (address, expected) in cases {
            assert_eq!(name(&peers, address), expected, "{address}");
        }
        assert_eq!(peers.find("1.1.1.1".parse().unwrap(), 0), peers.find("2606:4700::1111".parse().unwrap(), 0));
        assert_eq!(model::Peers::generation(&peers), 3);
        assert!(peers.attributes(u32::MAX).is_empty());
    }

    /// Has all below 10.0.0.0/8: what ends in an even number is here.
    struct Nodes;

    impl Addresses for Nodes {
        fn generation(&self) -> u64 {
            0
        }

        fn owner(&self, address: IpAddr, _: u16) -> Option<Arc<Attributes>> {
            (address == IpAddr::from([10, 0, 0, 1])).then(|| named("web"))
        }

        fn whereabouts(&self, address: IpAddr) -> Option<Whereabouts> {
            let IpAddr::V4(v4) = address else { return None };
            let at = if v4.octets()[3] % 2 == 0 { Whereabouts::Here } else { Whereabouts::On("worker-2".into()) };
            (v4.octets()[0] == 10).then_some(at)
        }
    }

    #[test]
    fn who_is_on_a_node_has_its_name() {
        let networks = [("office".to_owned(), "10.0.0.0/16".parse().unwrap())];
        let peers = || Peers::new(vec![Arc::new(Nodes)], None, &networks);
        let (told, untold) = (peers().on(Some("worker-1".into())), peers());
        for (address, expected, without) in [
            ("10.0.0.1", "worker-2 web", "web"),
            ("10.0.0.3", "worker-2 office", "office"),
            ("10.1.0.3", "worker-2 private", "private"),
            ("10.0.0.2", "worker-1 node", "node"),
            ("127.0.0.1", "worker-1 node", "node"),
            ("1.1.1.1", "world", "world"),
        ] {
            let name = |peers: &Peers| {
                let number = peers.find(address.parse().unwrap(), 0);
                let set = peers.attributes(number);
                set.pairs().iter().map(|pair| pair.value.as_str().to_owned()).collect::<Vec<_>>().join(" ")
            };
            assert_eq!((name(&told).as_str(), name(&untold).as_str()), (expected, without), "{address}");
        }
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for wrong in ["", "10.0.0.0/33", "fd00::/129", "office", "10.0.0.0/x", "/8"] {
            let error = wrong.parse::<Network>().unwrap_err();
            assert!(error.contains("such as 10.0.0.0/8"), "{error}");
        }
        assert!("0.0.0.0/0".parse::<Network>().unwrap().contains("::ffff:1.2.3.4".parse().unwrap()));
        assert!(!"0.0.0.0/0".parse::<Network>().unwrap().contains("::1".parse().unwrap()));
        assert!("::/0".parse::<Network>().unwrap().contains("::1".parse().unwrap()));
    }
}
