//! Somebody who knows nothing, for what measures or tests without names.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::{Answer, Census, CgroupChange, Peers, Resolver, Subject};

/// Knows no cgroup, gives everybody the empty set of attributes, and every address the number 0.
#[derive(Clone, Copy, Debug, Default)]
pub struct Nobody;

impl Census for Nobody {
    fn changed(&self, _: CgroupChange) {}

    fn removed_for(&self, _: u64) -> Option<Duration> {
        None
    }
}

impl Resolver for Nobody {
    fn generation(&self) -> u64 {
        0
    }

    fn resolve(&self, subject: Subject) -> Answer {
        self.resolve_now(subject)
    }

    fn resolve_now(&self, _: Subject) -> Answer {
        Answer::Known(Arc::default())
    }
}

impl Peers for Nobody {
    fn generation(&self) -> u64 {
        0
    }

    fn find(&self, _: IpAddr, _: u16) -> u32 {
        0
    }
}
