//! Loads, attaches and reads eBPF objects; the only crate with unsafe code.
//!
//! ```no_run
//! let types = bpf::Types::load(None)?;
//! let shape = bpf::abi::histogram::HistShape::new(0, 4, 40);
//! let loader = bpf::Loader::new("syscalls").max_entries("calls", 4096).histogram("latency", shape);
//! let mut object = loader.load(&types)?;
//! object.attach("sys_exit", &types)?;
//! let mut calls = object.table::<bpf::abi::syscalls::Call, u64>("calls")?;
//! calls.for_each(|call, counts| println!("{call:?}: {}", counts.iter().sum::<u64>()))?;
//! # Ok::<(), bpf::Error>(())
//! ```

pub mod abi;
mod attach;
mod btf;
pub mod clock;
pub mod cost;
mod dump;
mod error;
mod events;
mod gate;
mod image;
mod mapped;
pub mod memory;
mod object;
mod perf;
mod pins;
pub mod probe;
mod reins;
mod ring;
mod stack;
mod sys;
mod table;
pub mod threads;
mod types;

pub use cost::Watch;
pub use error::Error;
pub use events::Events;
pub use gate::Gates;
pub use mapped::Mapped;
pub use object::{Loader, Object, objects};
pub use pins::{Checkpoint, Kept, Pins};
pub use reins::Reins;
pub use ring::Ring;
pub use stack::Stack;
pub use table::{Cells, PerCpuCells, PerCpuTable, Plain, Table};
pub use types::Types;
