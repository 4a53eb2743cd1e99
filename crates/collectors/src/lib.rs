//! The built-in collectors, one noun per file.

mod account;
mod block;
mod carried;
mod cgroup;
mod connection;
mod dns;
mod exchanges;
mod file_io;
mod filter;
mod flush;
#[doc(hidden)]
pub mod fuzz;
mod histogram;
mod hubble;
mod memory;
mod network;
mod period;
mod process;
mod reader;
mod retire;
mod ring;
mod scheduler;
mod sockets;
mod sums;
mod syscalls;
mod table;
mod tcp;
mod timing;

/// Turns the records of `bpf/process.h` into events; public for what measures and floods the way that they take.
pub type EventDecoder = reader::Clock<process::Decoder>;

use runtime::{Descriptor, MakeError};

/// Every built-in collector, in the order in which `list` shows them.
pub static ALL: &[&Descriptor] = &[
    &cgroup::DESCRIPTOR,
    &syscalls::DESCRIPTOR,
    &network::DESCRIPTOR,
    &connection::DESCRIPTOR,
    &tcp::DESCRIPTOR,
    &dns::DESCRIPTOR,
    &file_io::DESCRIPTOR,
    &block::DESCRIPTOR,
    &scheduler::DESCRIPTOR,
    &memory::DESCRIPTOR,
    &process::DESCRIPTOR,
    &hubble::DESCRIPTOR,
];

/// Collectors that share programs: whenever one is made anew, so are the others.
pub const TOGETHER: &[&[&str]] = &[&[network::DESCRIPTOR.name, connection::DESCRIPTOR.name]];

/// Collectors whose maps and programs can outlive the agent (`pin_path`).
pub const LASTING: &[&str] = &[
    syscalls::DESCRIPTOR.name,
    network::DESCRIPTOR.name,
    connection::DESCRIPTOR.name,
    tcp::DESCRIPTOR.name,
    dns::DESCRIPTOR.name,
    file_io::DESCRIPTOR.name,
    block::DESCRIPTOR.name,
    scheduler::DESCRIPTOR.name,
    memory::DESCRIPTOR.name,
];

/// Collectors that attach more where somebody takes events.
pub const REPORTERS: &[&str] =
    &[connection::DESCRIPTOR.name, dns::DESCRIPTOR.name, process::DESCRIPTOR.name, hubble::DESCRIPTOR.name];

/// Tells what this kernel cannot do from what may work the next time.
fn refused(error: bpf::Error) -> MakeError {
    match error {
        bpf::Error::Types { .. }
        | bpf::Error::GivenTypes { .. }
        | bpf::Error::UnknownProgram { .. }
        | bpf::Error::Verify { .. } => MakeError::Unsupported(error.to_string()),
        error => MakeError::Failed(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_maps_of_the_defaults_fit_on_a_host_with_16_cpus() {
        let plans = ALL.iter().map(|descriptor| (descriptor.plan)(&(descriptor.section.defaults)(), 16));
        let bytes: u64 = plans.flat_map(|plan| plan.maps).map(|(_, bytes)| bytes).sum();
        assert!(bytes <= 32 << 20, "{bytes} bytes");
    }
}
