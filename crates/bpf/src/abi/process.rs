//! Mirrors of `bpf/process.h`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::event::EventHead;

/// `event_head.kind`: a program was started.
pub const EVENT_EXEC: u32 = 1;
/// `event_head.kind`: a process ended.
pub const EVENT_EXIT: u32 = 2;
/// `event_head.kind`: a process ended that the kernel killed for memory.
pub const EVENT_OOM_KILL: u32 = 3;
/// `event_head.kind`: a connection to a peer was established.
pub const EVENT_OPENED: u32 = 4;
/// `event_head.kind`: a connection from a peer was established.
pub const EVENT_ACCEPTED: u32 = 5;
/// `event_head.kind`: a connection to a peer could not be established.
pub const EVENT_FAILED: u32 = 6;

/// `connection_event.error`: no segment left.
pub const ERROR_UNSENT: u16 = 0xffff;

/// The record of an exec, without the path that follows it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct ExecEvent {
    /// What every record begins with.
    pub head: EventHead,
    /// The parent process.
    pub parent: u32,
    /// The bytes of the path that follow; 0 where it is not known.
    pub length: u32,
}

/// The record of an exit and of an OOM kill.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct ExitEvent {
    /// What every record begins with.
    pub head: EventHead,
    /// When the process started.
    pub started: u64,
    /// As wait(2) gives it.
    pub status: u32,
    /// Nothing.
    pub padding: u32,
}

/// The record of a connection.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct ConnectionEvent {
    /// What every record begins with.
    pub head: EventHead,
    /// Our address; an IPv4 address is in the first four bytes.
    pub local: [u8; 16],
    /// The peer's address.
    pub peer: [u8; 16],
    /// Our port, or 0.
    pub local_port: u16,
    /// The peer's port.
    pub peer_port: u16,
    /// The family of both addresses.
    pub family: u16,
    /// The errno of a failure, or 0.
    pub error: u16,
}
