//! Names traffic between two: the attributes of both, each under its prefix.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use model::{Answer, Attributes, Party, Resolver, Subject, Text, Who};

use crate::peers::{Peers, located};

/// Asks with patience or without.
type Ask = fn(&dyn Resolver, Subject) -> Answer;

/// Answers for pairs by asking for each of the two; passes on all other questions.
pub struct Pairs {
    workloads: Arc<dyn Resolver>,
    peers: Arc<Peers>,
    /// Whom the agent before knew, by cgroup.
    remembered: RwLock<HashMap<u64, Arc<Attributes>>>,
}

impl Pairs {
    /// Makes it of those who know cgroups and addresses.
    pub fn new(workloads: Arc<dyn Resolver>, peers: Arc<Peers>) -> Self {
        Self { workloads, peers, remembered: RwLock::default() }
    }

    /// The same, with the node that it is on.
    fn located(&self, party: Party, ask: Ask) -> Answer {
        let answer = self.party(party, ask);
        match (answer, self.peers.node()) {
            (Answer::Known(own), Some(node)) if is_here(party.who) => Answer::Known(located(&own, node)),
            (Answer::Unknown(own, reason), Some(node)) if is_here(party.who) => {
                Answer::Unknown(located(&own, node), reason)
            }
            (answer, _) => answer,
        }
    }

    fn cgroup(&self, id: u64, ask: Ask) -> Answer {
        let answer = ask(&*self.workloads, Subject::Cgroup(id));
        if matches!(answer, Answer::Unknown(..) | Answer::Pending)
            && let Some(known) = self.remembered.read().unwrap_or_else(PoisonError::into_inner).get(&id)
        {
            return Answer::Known(Arc::clone(known));
        }
        answer
    }

    fn party(&self, party: Party, ask: Ask) -> Answer {
        let answer = match party.who {
            Who::Cgroup(id) => self.cgroup(id, ask),
            Who::Executable(id) => ask(&*self.workloads, Subject::Executable(id)),
            Who::Kernel => ask(&*self.workloads, Subject::Kernel),
            Who::Peer(number) => Answer::Known(self.peers.attributes(number)),
        };
        let Some(service) = party.service.map(|number| self.peers.attributes(number)) else { return answer };
        let both = |own: Arc<Attributes>| {
            let pairs = service.pairs().iter().chain(own.pairs());
            Arc::new(Attributes::new(pairs.map(|pair| (pair.key.clone(), pair.value.clone()))))
        };
        match answer {
            Answer::Known(own) => Answer::Known(both(own)),
            Answer::Unknown(own, reason) => Answer::Unknown(both(own), reason),
            answer => answer,
        }
    }

    fn answer(&self, subject: Subject, ask: Ask) -> Answer {
        let (one, other, prefixes) = match subject {
            Subject::Pair { source, destination } => {
                (self.located(source, ask), self.located(destination, ask), ["source.", "destination."])
            }
            // Whose it is is of this node, as all that has no peer.
            Subject::Facing { local, peer } => (self.party(local, ask), self.located(peer, ask), ["", "peer."]),
            Subject::Cgroup(id) => return self.cgroup(id, ask),
            _ => return ask(&*self.workloads, subject),
        };
        let reason = match (&one, &other) {
            (Answer::Pending, _) | (_, Answer::Pending) => return Answer::Pending,
            // The other may be left out and is still whom this one talks to, without a name.
            (Answer::Excluded, _) => return Answer::Excluded,
            (Answer::Unknown(_, reason), _) | (_, Answer::Unknown(_, reason)) => Some(*reason),
            _ => None,
        };
        let both = Arc::new(Attributes::new(prefixed(prefixes[0], &one).chain(prefixed(prefixes[1], &other))));
        reason.map_or_else(|| Answer::Known(Arc::clone(&both)), |reason| Answer::Unknown(Arc::clone(&both), reason))
    }
}

impl Resolver for Pairs {
    /// What a peer's number stands for never changes: whoever has another name, or another owner, has another number.
    fn generation(&self) -> u64 {
        self.workloads.generation()
    }

    fn resolve(&self, subject: Subject) -> Answer {
        self.answer(subject, |names, subject| names.resolve(subject))
    }

    fn resolve_now(&self, subject: Subject) -> Answer {
        self.answer(subject, |names, subject| names.resolve_now(subject))
    }

    fn remember(&self, cgroup: u64, attributes: Arc<Attributes>) {
        self.remembered.write().unwrap_or_else(PoisonError::into_inner).insert(cgroup, attributes);
    }
}

/// Says whether it is a workload of this node; of others their attributes tell where they are.
fn is_here(who: Who) -> bool {
    !matches!(who, Who::Peer(_))
}

fn prefixed<'a>(prefix: &'a str, answer: &'a Answer) -> impl Iterator<Item = (Text, Text)> + 'a {
    let pairs = match answer {
        Answer::Known(attributes) | Answer::Unknown(attributes, _) => attributes.pairs(),
        Answer::Pending | Answer::Excluded => &[],
    };
    pairs.iter().map(move |pair| (format!("{prefix}{}", pair.key).into(), pair.value.clone()))
}

#[cfg(test)]
mod tests {
    use model::Peers as _;

    use super::*;

    struct Cgroups;

    impl Resolver for Cgroups {
        fn generation(&self) -> u64 {
            7
        }

        fn resolve(&self, subject: Subject) -> Answer {
            match subject {
                Subject::Cgroup(1) => Answer::Known(Arc::new(Attributes::new([("systemd.unit".into(), "a".into())]))),
                Subject::Cgroup(2) => Answer::Pending,
                Subject::Cgroup(3) => Answer::Excluded,
                _ => Answer::Unknown(Arc::new(Attributes::new([("cgroup.id".into(), "9".into())])), "gone"),
            }
        }

        fn resolve_now(&self, subject: Subject) -> Answer {
            match subject {
                Subject::Cgroup(2) => Answer::Unknown(Arc::default(), "late"),
                _ => self.resolve(subject),
            }
        }
    }

    fn cgroup(id: u64) -> Party {
        Who::Cgroup(id).into()
    }

    #[test]
    fn both_ends_are_named() {
        let peers = Arc::new(Peers::new(Vec::new(), None, &[]));
        let world = Who::Peer(peers.find("1.1.1.1".parse().unwrap(), 0)).into();
        let pairs = Pairs::new(Arc::new(Cgroups), peers);
        let resolve = |source, destination| pairs.resolve(Subject::Pair { source, destination });
        let Answer::Known(set) = resolve(cgroup(1), world) else { panic!("no names") };
        assert_eq!((set.get("source.systemd.unit"), set.get("destination.workload.name")), (Some("a"), Some("world")));
        let facing = pairs.resolve(Subject::Facing { local: cgroup(1), peer: world });
        let Answer::Known(set) = facing else { panic!("no names") };
        assert_eq!((set.get("systemd.unit"), set.get("peer.workload.name")), (Some("a"), Some("world")));
        let there = Arc::new(Peers::new(Vec::new(), None, &[]).on(Some("worker-1".into())));
        let world_there = Who::Peer(there.find("1.1.1.1".parse().unwrap(), 0)).into();
        let located = Pairs::new(Arc::new(Cgroups), there);
        let Answer::Known(set) = located.resolve(Subject::Pair { source: cgroup(1), destination: world_there }) else {
            panic!("no names")
        };
        assert_eq!((set.get("source.k8s.node.name"), set.get("destination.k8s.node.name")), (Some("worker-1"), None));
        let Answer::Known(set) = located.resolve(Subject::Facing { local: cgroup(1), peer: cgroup(1) }) else {
            panic!("no names")
        };
        assert_eq!((set.get("k8s.node.name"), set.get("peer.k8s.node.name")), (None, Some("worker-1")));
        assert!(matches!(resolve(cgroup(2), world), Answer::Pending));
        assert!(matches!(resolve(cgroup(3), world), Answer::Excluded));
        let Answer::Known(set) = resolve(cgroup(1), cgroup(3)) else { panic!("no names") };
        assert_eq!(set.pairs().len(), 1);
        let Answer::Unknown(set, "gone") = resolve(world, cgroup(4)) else { panic!("no reason") };
        assert_eq!(set.get("destination.cgroup.id"), Some("9"));
        assert!(matches!(pairs.resolve(Subject::Cgroup(1)), Answer::Known(_)) && pairs.generation() == 7);
        // Who cannot wait does not.
        assert!(matches!(pairs.resolve_now(Subject::Cgroup(2)), Answer::Unknown(_, "late")));
        let late = Subject::Pair { source: cgroup(2), destination: world };
        let Answer::Unknown(set, "late") = pairs.resolve_now(late) else { panic!("it waits") };
        assert_eq!(set.get("destination.workload.name"), Some("world"));
        for id in [1, 2, 3, 4] {
            pairs.remember(id, Arc::new(Attributes::new([("systemd.unit".into(), "before".into())])));
        }
        let unit = |answer: Answer| match answer {
            Answer::Known(set) => set.get("systemd.unit").or(set.get("source.systemd.unit")).map(str::to_owned),
            _ => None,
        };
        let names = [1, 2, 3, 4].map(|id| unit(pairs.resolve(Subject::Cgroup(id))));
        assert_eq!(names.each_ref().map(Option::as_deref), [Some("a"), Some("before"), None, Some("before")]);
        let pair = unit(pairs.resolve(Subject::Pair { source: cgroup(4), destination: world }));
        assert_eq!(pair.as_deref(), Some("before"));
    }
}
