//! Events of TCP connections that end, with what they carried.

use std::collections::HashMap;
use std::net::Ipv6Addr;
use std::sync::Arc;

use bpf::abi::connection::{CONNECTION_HALF_OPEN, Connection, ROLE_SERVER};
use model::Subject;
use model::event::{Address, Carried, Change, Detail, Event, EventKind};
use runtime::own::EVENTS_LOST;
use runtime::{Entrance, Ledger, Platform, Scrape};

use super::config::Config;
use super::ends::far;
use crate::table::subject;

const TCP: u8 = 6;
/// A connection that was established had a handshake.
const HANDSHAKE: u64 = 3;

/// Makes events and puts them on the bus.
pub(super) struct Reporter {
    entrance: Entrance,
    ledger: Arc<Ledger>,
    /// One event in so many is made.
    every: u64,
    ended: u64,
    left_out: u64,
}

impl Reporter {
    /// Begins, where such events are wanted and somebody takes events at all.
    pub(super) fn start(config: &Config, platform: &Platform) -> Option<Self> {
        if !config.closed.enabled || !platform.bus.is_wanted() {
            return None;
        }
        let limits: HashMap<_, _> =
            config.closed.limit().map(|limit| (EventKind::Connection, limit)).into_iter().collect();
        let entrance = platform.bus.entrance(super::DESCRIPTOR.name, limits);
        let (ledger, every) = (entrance.ledger(), u64::from(platform.sample_every.max(1)));
        Some(Self { entrance, ledger, every, ended: 0, left_out: 0 })
    }

    /// Takes connections that have ended, with all that they carried.
    pub(super) fn take(&mut self, ended: impl Iterator<Item = Connection>) {
        let offset = bpf::clock::unix_offset();
        for connection in ended {
            let Some(event) = event(&connection, offset) else { continue };
            self.ended += 1;
            if self.ended.is_multiple_of(self.every) {
                self.entrance.put(event);
            } else {
                self.left_out += 1;
            }
        }
        self.entrance.flush();
    }

    /// Records what was emitted, and what was not.
    pub(super) fn record(&self, scrape: &mut Scrape) {
        self.ledger.record(scrape);
        scrape.record(&EVENTS_LOST, Subject::Node, [super::DESCRIPTOR.name.into(), "sampling".into()], self.left_out);
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        self.entrance.finish();
    }
}

/// Gives the event of a connection's end; nothing where it was none, or its end was not seen.
fn event(connection: &Connection, offset: i64) -> Option<Event> {
    let Connection { tuple, role, flags, first, closed, sent, received, .. } = connection;
    let established = sent.packets > 0 && received.packets > 0 && sent.packets + received.packets >= HANDSHAKE;
    if tuple.transport != TCP || flags & CONNECTION_HALF_OPEN != 0 || *closed == 0 || !established {
        return None;
    }
    let address = |bytes: [u8; 16], port| Address { ip: Ipv6Addr::from(bytes).to_canonical(), port };
    let (remote, remote_port) = far(connection);
    let carried = Carried {
        accepted: *role == ROLE_SERVER,
        sent: sent.bytes,
        received: received.bytes,
        duration: closed.saturating_sub(*first),
    };
    Some(Event {
        time: closed.saturating_add_signed(offset),
        subject: subject(tuple.cgroup),
        pid: 0,
        command: [0; 16],
        detail: Detail::Connection {
            change: Change::Closed(carried),
            local: address(tuple.local, tuple.local_port),
            peer: address(remote, remote_port),
        },
    })
}

#[cfg(test)]
mod tests {
    use zerocopy::FromZeros;

    use super::*;

    #[test]
    fn only_what_was_established_and_seen_to_end_is_reported() {
        let mut connection = Connection::new_zeroed();
        (connection.tuple.transport, connection.tuple.cgroup) = (TCP, 7);
        (connection.first, connection.closed) = (100, 350);
        (connection.sent.packets, connection.sent.bytes) = (5, 500);
        (connection.received.packets, connection.received.bytes) = (4, 400);
        let found = event(&connection, 1000).expect("an event");
        assert_eq!((found.time, found.subject), (1350, Subject::Cgroup(7)));
        let carried = Carried { accepted: false, sent: 500, received: 400, duration: 250 };
        assert!(matches!(found.detail, Detail::Connection { change: Change::Closed(found), .. } if found == carried));
        let refused = |change: fn(&mut Connection)| {
            let mut changed = connection;
            change(&mut changed);
            event(&changed, 0).is_none()
        };
        assert!(refused(|connection| connection.closed = 0), "silent");
        assert!(refused(|connection| connection.tuple.transport = 17), "no TCP");
        assert!(refused(|connection| connection.flags = CONNECTION_HALF_OPEN));
        assert!(refused(|connection| connection.received.packets = 0), "nobody answered");
        assert!(refused(|connection| (connection.sent.packets, connection.received.packets) = (1, 1)), "refused");
    }
}
