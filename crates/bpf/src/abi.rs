//! What crosses between the programs and us: mirrors of the C structs in `bpf/*.h`. A test compares each with the
//! object's BTF.

pub mod block;
pub mod cgroup;
pub mod connection;
pub mod cost;
pub mod dns;
pub mod event;
pub mod executable;
pub mod file_io;
pub mod filter;
pub mod histogram;
pub mod memory;
pub mod network;
pub mod process;
pub mod sample;
pub mod scheduler;
pub mod starts;
pub mod syscalls;
pub mod tcp;
