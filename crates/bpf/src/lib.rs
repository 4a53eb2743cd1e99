//! Loads, attaches and reads eBPF objects; the only crate with unsafe code.
