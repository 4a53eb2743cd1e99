//! Events of connections that end, with what they carried: of TCP when the socket does, of UDP when nothing more came.

use std::net::Ipv6Addr;
use std::sync::Arc;

use bpf::abi::connection::{CONNECTION_HALF_OPEN, Connection, ROLE_SERVER};
use model::Subject;
use model::event::{Address, Carried, Change, Detail, Event, EventKind};
use runtime::own::EVENTS_LOST;
use runtime::{Entrance, Ledger, Platform, Scrape};

use super::config::{Config, Kind};
use super::ends::far;
use crate::table::subject;

const TCP: u8 = 6;
const UDP: u8 = 17;
/// A connection that was established had a handshake.
const HANDSHAKE: u64 = 3;

/// Makes events and puts them on the bus.
pub(super) struct Reporter {
    /// Those of TCP, where they are wanted.
    tcp: Option<Entrance>,
    /// Those of UDP: flows of datagrams, as each question for a name is one, take nothing of the connections' limits.
    udp: Option<Entrance>,
    ledger: Arc<Ledger>,
    /// One event in so many is made.
    every: u64,
    ended: u64,
    left_out: u64,
}

impl Reporter {
    /// Begins, where such events are wanted and somebody takes events at all.
    pub(super) fn start(config: &Config, platform: &Platform) -> Option<Self> {
        if !platform.bus.is_wanted() || !(config.closed.enabled || config.closed_udp.enabled) {
            return None;
        }
        let limits = |kind: &Kind| kind.limit().map(|limit| (EventKind::Connection, limit)).into_iter().collect();
        let tcp = platform.bus.entrance(super::DESCRIPTOR.name, limits(&config.closed));
        let udp = config.closed_udp.enabled.then(|| tcp.beside(limits(&config.closed_udp)));
        let (ledger, every) = (tcp.ledger(), u64::from(platform.sample_every.max(1)));
        Some(Self { tcp: config.closed.enabled.then_some(tcp), udp, ledger, every, ended: 0, left_out: 0 })
    }

    /// Takes connections that have ended, with all that they carried.
    pub(super) fn take(&mut self, ended: impl Iterator<Item = Connection>) {
        let offset = bpf::clock::unix_offset();
        for connection in ended {
            let entrance = if connection.tuple.transport == TCP { &mut self.tcp } else { &mut self.udp };
            let Some(entrance) = entrance else { continue };
            let Some(event) = event(&connection, offset) else { continue };
            self.ended += 1;
            if self.ended.is_multiple_of(self.every) {
                entrance.put(event);
            } else {
                self.left_out += 1;
            }
        }
        for entrance in self.entrances() {
            entrance.flush();
        }
    }

    /// Records what was emitted, and what was not.
    pub(super) fn record(&self, scrape: &mut Scrape) {
        self.ledger.record(scrape);
        scrape.record(&EVENTS_LOST, Subject::Node, [super::DESCRIPTOR.name.into(), "sampling".into()], self.left_out);
    }

    fn entrances(&mut self) -> impl Iterator<Item = &mut Entrance> {
        self.tcp.iter_mut().chain(&mut self.udp)
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        for entrance in self.entrances() {
            entrance.finish();
        }
    }
}

/// Gives the event of a connection's end; nothing where it was none, or its end was not seen.
fn event(connection: &Connection, offset: i64) -> Option<Event> {
    let Connection { tuple, role, first, last, closed, .. } = connection;
    let end = match tuple.transport {
        TCP => was_established(connection).then_some(*closed)?,
        // What the kernel sends itself has no ports here: it is no flow.
        UDP if tuple.remote_port != 0 => {
            if *closed == 0 {
                *last
            } else {
                *closed
            }
        }
        _ => return None,
    };
    let address = |bytes: [u8; 16], port| Address { ip: Ipv6Addr::from(bytes).to_canonical(), port };
    let (remote, remote_port) = far(connection);
    let carried = Carried {
        accepted: *role == ROLE_SERVER,
        sent: connection.sent.bytes,
        received: connection.received.bytes,
        duration: end.saturating_sub(*first),
    };
    Some(Event {
        time: end.saturating_add_signed(offset),
        subject: subject(tuple.cgroup),
        pid: 0,
        command: [0; 16],
        detail: Detail::Connection {
            change: Change::Closed(carried),
            transport: super::pairs::transport(tuple.transport),
            local: address(tuple.local, tuple.local_port),
            peer: address(remote, remote_port),
        },
    })
}

/// Says whether a TCP connection was one, and its end was seen.
fn was_established(connection: &Connection) -> bool {
    let Connection { flags, closed, sent, received, .. } = connection;
    let answered = sent.packets > 0 && received.packets > 0 && sent.packets + received.packets >= HANDSHAKE;
    *closed != 0 && flags & CONNECTION_HALF_OPEN == 0 && answered
}

#[cfg(test)]
mod tests {
    use bpf::abi::network::Traffic;
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
        let udp = |change: fn(&mut Connection)| {
            let mut flow = Connection { last: 300, closed: 0, ..connection };
            (flow.tuple.transport, flow.tuple.remote_port, flow.received) = (UDP, 53, Traffic::default());
            change(&mut flow);
            let event = event(&flow, 1000)?;
            let Detail::Connection { change: Change::Closed(carried), transport, .. } = event.detail else {
                return None;
            };
            Some((event.time, transport, carried.sent, carried.received, carried.duration))
        };
        assert_eq!(udp(|_| {}), Some((1300, "udp", 500, 0, 200)), "it lasted until its last packet");
        assert_eq!(udp(|flow| flow.closed = 350), Some((1350, "udp", 500, 0, 250)), "it has another owner now");
        assert_eq!(udp(|flow| flow.tuple.remote_port = 0), None, "the kernel's");
        assert!(refused(|connection| connection.tuple.transport = 1), "an echo");
        assert!(refused(|connection| connection.flags = CONNECTION_HALF_OPEN));
        assert!(refused(|connection| connection.received.packets = 0), "nobody answered");
        assert!(refused(|connection| (connection.sent.packets, connection.received.packets) = (1, 1)), "refused");
    }
}
