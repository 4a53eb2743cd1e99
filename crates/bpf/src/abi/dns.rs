//! Mirrors of `bpf/dns.h`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `tally.code` of a question that is of no known type, or that cannot be read.
pub const TYPE_OTHER: u32 = 0;
/// The words of the constant `known_types`, a set of bits.
pub const TYPE_WORDS: usize = 5;

/// The key of `dns_queries`, `dns_responses` and `dns_latency`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Tally {
    /// The client's cgroup in the primary hierarchy.
    pub cgroup: u64,
    /// The question's type, the response's code, or 0.
    pub code: u32,
    /// Nothing.
    pub padding: u32,
}

/// The key of `dns_pending`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Asked {
    /// The socket's cookie.
    pub socket: u64,
    /// The query's id.
    pub id: u32,
    /// Nothing.
    pub padding: u32,
}

/// A query whose answer is awaited.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Pending {
    /// Nanoseconds of the monotonic clock; 0: it was answered, and is kept for `before` only.
    pub time: u64,
    /// The client's cgroup in the primary hierarchy.
    pub cgroup: u64,
    /// Queries that were asked again, under the same id, before they were answered.
    pub before: u64,
}

/// The cell of `losses` on one CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Loss {
    /// Queries counted here because `dns_queries` was full.
    pub queries: u64,
    /// Responses counted here because `dns_responses` was full.
    pub responses: u64,
    /// Queries whose answer nobody awaits because `dns_pending` was full.
    pub pending: u64,
    /// Segments of TCP that were not read to the end.
    pub unread: u64,
}
