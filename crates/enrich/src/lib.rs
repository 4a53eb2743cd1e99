//! Turns kernel subjects into workload names.
