//! Which service an address is of, or a port of an address, and which pod answers there: what the Kubernetes API tells of
//! services and their endpoints. Where several tell of one, only what they agree on is its name.
//!
//! A backend is known by its port, too: pods that share their node's address are no names for all that the node does.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use model::{Attributes, Text};

use crate::peers::{Addresses, Whereabouts};

/// The most claims that are known at once.
const MOST: usize = 1 << 18;
/// What tells a service, in the order of [`Claim::service`].
const SERVICE: [&str; 2] = ["k8s.namespace.name", "k8s.service.name"];
/// What tells the pod behind an endpoint.
const POD: &str = "k8s.pod.name";

/// An address that an object of the API tells of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The address.
    pub address: IpAddr,
    /// The port; 0: nobody else has any port of that address.
    pub port: u16,
    /// The namespace and the name of the service.
    pub service: [Text; 2],
    /// The pod that answers.
    pub pod: Option<Text>,
    /// The node that the address is of.
    pub node: Option<Text>,
}

/// Which objects there are, each with what it tells of.
type Objects = HashMap<Arc<str>, Vec<Claim>>;

#[derive(Default)]
struct Known {
    /// By the source that tells of them.
    objects: HashMap<&'static str, Objects>,
    places: HashMap<(IpAddr, u16), Place>,
    /// The node of each address, as often as that is claimed.
    nodes: HashMap<IpAddr, Vec<Text>>,
    claims: usize,
    generation: u64,
}

/// What is claimed of a place, and the names that come of it.
#[derive(Default)]
struct Place {
    claims: Vec<Claim>,
    owner: Option<Arc<Attributes>>,
    service: Option<Arc<Attributes>>,
}

/// All services.
#[derive(Default)]
pub struct Services {
    known: RwLock<Known>,
    /// Attributes that are left out.
    drop: Vec<String>,
}

impl Services {
    /// Begins without any; these attributes are left out.
    pub fn new(drop: Vec<String>) -> Self {
        Self { known: RwLock::default(), drop }
    }

    /// Notes what an object of a source tells now; says no when there is no room for it.
    pub fn put(&self, source: &'static str, key: &str, claims: Vec<Claim>) -> bool {
        let mut known = self.write();
        let objects = known.objects.entry(source).or_default();
        if objects.get(key).is_some_and(|before| *before == claims) {
            return true;
        }
        let before = objects.remove(key).unwrap_or_default();
        let room = known.claims - before.len() + claims.len() <= MOST;
        self.change(&mut known, &before, false);
        if room {
            self.change(&mut known, &claims, true);
            known.objects.entry(source).or_default().insert(key.into(), claims);
        }
        room
    }

    /// Notes that an object of a source is gone.
    pub fn remove(&self, source: &'static str, key: &str) {
        let mut known = self.write();
        let before = known.objects.entry(source).or_default().remove(key).unwrap_or_default();
        self.change(&mut known, &before, false);
    }

    /// Gives the objects of a source.
    pub fn keys(&self, source: &'static str) -> Vec<Arc<str>> {
        self.read().objects.get(source).into_iter().flat_map(HashMap::keys).map(Arc::clone).collect()
    }

    /// Gives the names of the service that an address or a port of it is of.
    pub fn service(&self, address: IpAddr, port: u16) -> Option<Arc<Attributes>> {
        self.read().find(address, port).and_then(|place| place.service.clone())
    }

    fn change(&self, known: &mut Known, claims: &[Claim], more: bool) {
        for claim in claims {
            if let Some(node) = &claim.node {
                known.place(claim.address, node, more);
            }
            let at = (claim.address, claim.port);
            let place = known.places.entry(at).or_default();
            if more {
                place.claims.push(claim.clone());
                known.claims += 1;
            } else if let Some(at) = place.claims.iter().position(|other| other == claim) {
                place.claims.swap_remove(at);
                known.claims -= 1;
            }
            if place.claims.is_empty() {
                known.places.remove(&at);
            } else {
                self.name(place);
            }
        }
        known.generation += u64::from(!claims.is_empty());
    }

    fn name(&self, place: &mut Place) {
        let agreed = |get: &dyn Fn(&Claim) -> Option<Text>| {
            let first = get(place.claims.first()?)?;
            place.claims.iter().all(|claim| get(claim).as_ref() == Some(&first)).then_some(first)
        };
        let service = [0, 1].map(|part| agreed(&|claim: &Claim| Some(claim.service[part].clone())));
        let pod = agreed(&|claim: &Claim| claim.pod.clone());
        let wanted = |key: &str| !self.drop.iter().any(|dropped| dropped == key);
        let is_certain = service.iter().all(Option::is_some);
        let names = SERVICE.into_iter().zip(service).chain([(POD, pod)]);
        let names: Vec<(Text, Text)> =
            names.filter(|(key, _)| wanted(key)).filter_map(|(key, name)| Some((key.into(), name?))).collect();
        let of_service = names.iter().filter(|(key, _)| key.as_str() != POD).cloned();
        place.service = is_certain.then(|| Arc::new(Attributes::new(of_service)));
        place.owner = (!names.is_empty()).then(|| Arc::new(Attributes::new(names)));
    }

    fn read(&self) -> RwLockReadGuard<'_, Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Known> {
        self.known.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// Notes that a claim places an address on a node, or no longer does.
    fn place(&mut self, address: IpAddr, node: &Text, more: bool) {
        let nodes = self.nodes.entry(address).or_default();
        if more {
            nodes.push(node.clone());
        } else if let Some(at) = nodes.iter().position(|other| other == node) {
            nodes.swap_remove(at);
        }
        if nodes.is_empty() {
            self.nodes.remove(&address);
        }
    }

    fn find(&self, address: IpAddr, port: u16) -> Option<&Place> {
        let whole = self.places.get(&(address, 0));
        whole.or_else(|| if port == 0 { None } else { self.places.get(&(address, port)) })
    }
}

impl Addresses for Services {
    fn generation(&self) -> u64 {
        self.read().generation
    }

    fn owner(&self, address: IpAddr, port: u16) -> Option<Arc<Attributes>> {
        self.read().find(address, port).and_then(|place| place.owner.clone())
    }

    /// Whoever has any port of an address, it is of one node.
    fn whereabouts(&self, address: IpAddr) -> Option<Whereabouts> {
        let known = self.read();
        let nodes = known.nodes.get(&address)?;
        let first = nodes.first()?;
        nodes.iter().all(|node| node == first).then(|| Whereabouts::On(first.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(address: &str, port: u16, service: &str, pod: Option<&str>) -> Claim {
        let pod = pod.map(|pod| pod.to_owned().into());
        let service = ["shop".into(), service.to_owned().into()];
        Claim { address: address.parse().unwrap(), port, service, pod, node: None }
    }

    fn names(services: &Services, address: &str, port: u16) -> String {
        let text = |set: Option<Arc<Attributes>>| {
            let set = set.unwrap_or_default();
            set.pairs().iter().map(|pair| pair.value.as_str().to_owned()).collect::<Vec<_>>().join(" ")
        };
        let address = address.parse().unwrap();
        format!("{}/{}", text(services.owner(address, port)), text(services.service(address, port)))
    }

    #[test]
    fn an_address_is_what_all_who_tell_of_it_agree_on() {
        let services = Services::default();
        assert!(services.put("services", "shop/web", vec![claim("10.96.0.1", 0, "web", None)]));
        assert!(services.put("slices", "shop/web-1", vec![claim("10.0.0.1", 8080, "web", Some("web-0"))]));
        for port in [0, 80] {
            assert_eq!(names(&services, "10.96.0.1", port), "shop web/shop web");
        }
        assert_eq!(names(&services, "10.0.0.1", 8080), "shop web-0 web/shop web");
        assert_eq!(names(&services, "10.0.0.1", 0), "/", "a client may be anybody there");
        assert_eq!(names(&services, "10.0.0.1", 22), "/");
        // Two services have one pod.
        assert!(services.put("slices", "shop/all-1", vec![claim("10.0.0.1", 8080, "all", Some("web-0"))]));
        assert_eq!(names(&services, "10.0.0.1", 8080), "shop web-0/");
        let before = services.generation();
        services.remove("slices", "shop/web-1");
        assert!(services.generation() > before);
        assert_eq!(names(&services, "10.0.0.1", 8080), "shop web-0 all/shop all");
        assert_eq!(services.keys("slices"), ["shop/all-1".into()]);
        let before = services.generation();
        assert!(services.put("services", "shop/web", vec![claim("10.96.0.1", 0, "web", None)]));
        assert_eq!(services.generation(), before, "nothing is new");
        assert!(services.put("services", "shop/web", vec![claim("10.96.0.2", 0, "web", None)]));
        assert_eq!(
            (names(&services, "10.96.0.1", 80), names(&services, "10.96.0.2", 80)),
            ("/".into(), "shop web/shop web".into())
        );
    }

    #[test]
    fn an_address_is_of_the_node_that_all_agree_on() {
        let services = Services::default();
        let on =
            |node: &str, port| Claim { node: Some(node.to_owned().into()), ..claim("10.0.0.1", port, "web", None) };
        let node = || services.whereabouts("10.0.0.1".parse().unwrap());
        assert_eq!(node(), None);
        assert!(services.put("slices", "shop/web-1", vec![on("worker-2", 80), on("worker-2", 81)]));
        assert_eq!(node(), Some(Whereabouts::On("worker-2".into())), "whatever the port");
        assert!(services.put("slices", "shop/all-1", vec![on("worker-3", 80)]));
        assert_eq!(node(), None, "an address that has moved");
        services.remove("slices", "shop/web-1");
        assert_eq!(node(), Some(Whereabouts::On("worker-3".into())));
        services.remove("slices", "shop/all-1");
        assert!(node().is_none() && services.read().nodes.is_empty());
    }

    #[test]
    fn there_is_a_bound_and_attributes_can_be_left_out() {
        let services = Services::new(vec![POD.to_owned()]);
        let many = |count: u32| {
            (0..count)
                .map(|number| {
                    let address = IpAddr::V4(number.into());
                    Claim { address, ..claim("0.0.0.0", 80, "web", Some("web-0")) }
                })
                .collect::<Vec<_>>()
        };
        assert!(services.put("slices", "shop/a", many(MOST as u32)));
        assert!(!services.put("slices", "shop/b", many(1)), "no room");
        assert!(services.put("slices", "shop/a", many(3)) && services.put("slices", "shop/b", many(1)));
        assert_eq!(names(&services, "0.0.0.0", 80), "shop web/shop web");
    }
}
