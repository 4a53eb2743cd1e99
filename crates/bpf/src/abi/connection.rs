//! Mirrors of `bpf/connection.h`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::network::Traffic;

/// Nobody saw who began.
pub const ROLE_UNKNOWN: u8 = 0;
/// This end began.
pub const ROLE_CLIENT: u8 = 1;
/// The other end began.
pub const ROLE_SERVER: u8 = 2;

/// Connections of all network namespaces are kept.
pub const NAMESPACES_ALL: u32 = 0;
/// Those of the host's.
pub const NAMESPACES_HOST: u32 = 1;
/// Those of all others.
pub const NAMESPACES_PODS: u32 = 2;

/// A flag: known to the listening socket only.
pub const CONNECTION_HALF_OPEN: u8 = 1;

/// What tells a connection from others.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Tuple {
    /// The id of the socket's owner in the primary hierarchy; 0 is the kernel's.
    pub cgroup: u64,
    /// The address of this end; an IPv4 one as IPv6 has it.
    pub local: [u8; 16],
    /// The address of the other end.
    pub remote: [u8; 16],
    /// The port of this end; 0 of what is neither TCP nor UDP.
    pub local_port: u16,
    /// The port of the other end.
    pub remote_port: u16,
    /// The IP protocol.
    pub transport: u8,
    /// Nothing.
    pub padding: [u8; 3],
}

/// A slot of `connections`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Connection {
    /// Which connection it is.
    pub tuple: Tuple,
    /// The address that packets really go to, where it was translated; else zeros.
    pub backend: [u8; 16],
    /// Odd while the slot is in use; 0: it never was.
    pub generation: u32,
    /// Who began.
    pub role: u8,
    /// `CONNECTION_…`.
    pub flags: u8,
    /// The port that packets really go to, where it was translated.
    pub backend_port: u16,
    /// When the first packet came, in nanoseconds of the monotonic clock.
    pub first: u64,
    /// When the last packet came.
    pub last: u64,
    /// When the socket ended; 0: not yet, or not known.
    pub closed: u64,
    /// What this end sent.
    pub sent: Traffic,
    /// What it received.
    pub received: Traffic,
}

/// A packet of a connection that found no slot.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Stray {
    /// Which connection it is.
    pub tuple: Tuple,
    /// The packet.
    pub traffic: Traffic,
    /// When it came.
    pub time: u64,
    /// Sent or received.
    pub direction: u8,
    /// Who began.
    pub role: u8,
    /// Nothing.
    pub padding: [u8; 6],
}

/// The cell of `lost` on one CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct ConnectionLoss {
    /// What was sent and is in no slot and no record.
    pub sent: Traffic,
    /// What was received.
    pub received: Traffic,
    /// Packets that found no slot.
    pub strays: u64,
}
