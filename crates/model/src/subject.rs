//! What a measurement belongs to in kernel terms, and who turns that into names.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::attributes::{Attributes, Text};

/// The owner of a measurement, in kernel terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Subject {
    /// The node itself: the point gets no workload attributes.
    Node,
    /// A cgroup of the primary hierarchy: the inode number of its directory.
    Cgroup(u64),
    /// An executable within a cgroup, by an id that stands for both: [`Executables`] tells which.
    Executable(u64),
    /// Work that no task owns (interrupt context, write-back): the workload `kernel`.
    Kernel,
    /// What a full kernel map could not tell apart: the metric's overflow series.
    Overflow,
    /// Traffic between two: the point gets the attributes of both, each under its own prefix.
    Pair {
        /// Who sends.
        source: Party,
        /// Who receives.
        destination: Party,
    },
    /// Traffic of one with another: the point gets the attributes of the first, and those of the other as `peer.`
    /// ones.
    Facing {
        /// Whose traffic it is.
        local: Party,
        /// Whom it is with.
        peer: Party,
    },
}

/// One end of traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Party {
    /// Who it is.
    pub who: Who,
    /// The service that it is reached as: a number that [`Peers::service`] gave.
    pub service: Option<u32>,
}

impl From<Who> for Party {
    fn from(who: Who) -> Self {
        Self { who, service: None }
    }
}

/// Who an end of traffic is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Who {
    /// A cgroup of this node, as [`Subject::Cgroup`].
    Cgroup(u64),
    /// An executable within a cgroup, as [`Subject::Executable`].
    Executable(u64),
    /// The kernel of this node.
    Kernel,
    /// Who has an address: a number that [`Peers::find`] gave.
    Peer(u32),
}

/// Knows who has an address, from memory only.
pub trait Peers: Send + Sync {
    /// Changes whenever an answer given before may have changed.
    fn generation(&self) -> u64;

    /// Gives the number of who has an address, or has that port of it where it is a server's (else 0). Equal attributes
    /// have one number as long as the process lives.
    fn find(&self, address: IpAddr, port: u16) -> u32;

    /// Gives the number of the service that a port of an address is of.
    fn service(&self, address: IpAddr, port: u16) -> Option<u32> {
        let _ = (address, port);
        None
    }
}

/// What the id of a [`Subject::Executable`] stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Executable {
    /// The cgroup.
    pub cgroup: u64,
    /// The executable's name, as far as the kernel keeps it.
    pub name: Text,
}

/// Knows the executables that the kernel tells apart.
pub trait Executables: Send + Sync {
    /// Gives what an id stands for; nothing when it is none of an executable, or of one that is forgotten.
    fn find(&self, id: u64) -> Option<Executable>;
}

/// What a [`Resolver`] knows of a subject.
#[derive(Clone, Debug)]
pub enum Answer {
    /// The workload's attributes. Equal sets are one series, however many cgroups give them.
    Known(Arc<Attributes>),
    /// Not known yet, but expected soon: the measurement waits for the next gather.
    Pending,
    /// Not known and not expected: these attributes stand in, and the reason is counted.
    Unknown(Arc<Attributes>, &'static str),
    /// Left out by a filter of the configuration.
    Excluded,
}

/// Turns subjects into workload attributes, from memory only.
pub trait Resolver: Send + Sync {
    /// Changes whenever an answer given before may have changed.
    fn generation(&self) -> u64;

    /// Gives the attributes of a subject's workload.
    fn resolve(&self, subject: Subject) -> Answer;

    /// Gives the best attributes there are now, for who cannot wait for better ones: never [`Answer::Pending`].
    fn resolve_now(&self, subject: Subject) -> Answer;

    /// Takes note of whose a cgroup was in the time of the agent before: it may have ended before anybody here could ask.
    fn remember(&self, cgroup: u64, attributes: Arc<Attributes>) {
        let _ = (cgroup, attributes);
    }
}

/// A change of the primary cgroup hierarchy, as the kernel reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CgroupChange {
    /// A directory was made.
    Made {
        /// Its id.
        id: u64,
        /// The id of the directory above it.
        parent: u64,
        /// Its path from the hierarchy's root, beginning with `/`; absent where the kernel could not give it whole.
        path: Option<Box<str>>,
    },
    /// A directory was removed.
    Removed {
        /// Its id.
        id: u64,
    },
    /// Reports were lost: the census has to look at the file system again.
    Lost,
}

/// A cgroup whose own files speak for a whole workload: no two of one workload lie within each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    /// Its id.
    pub id: u64,
    /// Its path from the hierarchy's root.
    pub path: Box<str>,
    /// Since when it is known to exist.
    pub since: Instant,
}

/// What a filter of the configuration says of a cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// It is to be observed, and so are those that will be made below it.
    Allow,
    /// It is not to be observed, nor are those that will be made below it.
    Deny,
    /// It is not to be observed, but what will be made below it may well be.
    Skip,
}

/// Knows which cgroups exist.
pub trait Census: Send + Sync {
    /// Takes note of a change.
    fn changed(&self, change: CgroupChange);

    /// Gives the time since a cgroup was removed, or since it was first found missing; nothing while it exists. Of an
    /// executable's id: the same of its cgroup.
    fn removed_for(&self, owner: u64) -> Option<Duration>;

    /// Gives the cgroups that stand for whole workloads and the number of that list; nothing while the list is still
    /// the one that has the number `known`. No list has the number 0.
    fn roots(&self, known: u64) -> Option<(u64, Vec<Root>)> {
        let _ = known;
        None
    }

    /// Gives the rules of all cgroups that exist, and the number of that list, as [`roots`](Self::roots) does; without
    /// a filter there are none.
    fn rules(&self, known: u64) -> Option<(u64, Vec<(u64, Rule)>)> {
        let _ = known;
        None
    }

    /// Gives the rule of one cgroup, if it is known already.
    fn rule(&self, cgroup: u64) -> Option<Rule> {
        let _ = cgroup;
        None
    }
}
