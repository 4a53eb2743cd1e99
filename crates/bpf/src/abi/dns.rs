//! Mirrors of `bpf/dns.h`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::event::EventHead;

/// `tally.code` of a question that is of no known type, or that cannot be read.
pub const TYPE_OTHER: u32 = 0;
/// The words of the constant `known_types`, a set of bits.
pub const TYPE_WORDS: usize = 5;

/// `role`: the socket asks.
pub const ROLE_CLIENT: u16 = 0;
/// `role`: the socket answers.
pub const ROLE_SERVER: u16 = 1;
/// `tally.what`: a query.
pub const QUERY: u16 = 0;
/// `tally.what`: an answer.
pub const RESPONSE: u16 = 1;
/// The bytes of a name in a key.
pub const NAME_BYTES: usize = 256;
/// `event_head.kind`: a client got an answer.
pub const EVENT_RESPONSE: u32 = 1;

/// The key of `dns_queries`, `dns_responses` and `dns_latency`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Tally {
    /// The cgroup of the client or the server in the primary hierarchy.
    pub cgroup: u64,
    /// The question's type, the response's code, or 0.
    pub code: u32,
    /// [`ROLE_CLIENT`] or [`ROLE_SERVER`].
    pub role: u16,
    /// [`QUERY`] or [`RESPONSE`].
    pub what: u16,
}

/// The key of `dns_names`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Named {
    /// Whose message, and what it is.
    pub tally: Tally,
    /// The name of its question as it stands in the message, in lower case, filled up with 0.
    pub name: [u8; NAME_BYTES],
}

/// The key of `dns_pending`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Asked {
    /// The socket's cookie.
    pub socket: u64,
    /// Who asks a server by a datagram, else 0.
    pub peer: [u8; 16],
    /// The port of that.
    pub port: u16,
    /// The query's id.
    pub id: u16,
    /// [`ROLE_CLIENT`] or [`ROLE_SERVER`].
    pub role: u32,
}

/// A query whose answer is awaited.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Pending {
    /// Nanoseconds of the monotonic clock; 0: it was answered, and is kept for `before` only.
    pub time: u64,
    /// The cgroup of the client or the server in the primary hierarchy.
    pub cgroup: u64,
    /// The client's command, where answers are reported.
    pub comm: [u8; 16],
    /// The client's process, where answers are reported.
    pub pid: u32,
    /// Queries that were asked again, under the same id, before they were answered.
    pub before: u32,
}

/// The record of an answer, without the question that follows it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct ResponseEvent {
    /// What every record begins with.
    pub head: EventHead,
    /// Nanoseconds from the query to the answer.
    pub latency: u64,
    /// The server's address; an IPv4 address is in the first four bytes.
    pub server: [u8; 16],
    /// The family of the address.
    pub family: u16,
    /// The response code in the answer's header.
    pub code: u16,
    /// The IP protocol.
    pub protocol: u16,
    /// The bytes that follow: the beginning of the question, as it stands in the message.
    pub length: u16,
}

/// The cell of `losses` on one CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Loss {
    /// Queries counted here because `dns_queries` was full.
    pub queries: u64,
    /// Responses counted here because `dns_responses` was full.
    pub responses: u64,
    /// Messages counted without their name because `dns_names` was full.
    pub names: u64,
    /// Queries whose answer nobody awaits because `dns_pending` was full.
    pub pending: u64,
    /// Segments of TCP that were not read to the end.
    pub unread: u64,
}
