//! The integration tests: the agent's binary on the live kernel, and what holds the workspace together.

#![expect(clippy::float_cmp, reason = "counts are whole numbers, which doubles hold exactly")]

mod contract;
mod docs;
mod examples;
mod fuzz;
mod harness;
mod hubble;
mod kernel;
mod kubernetes;
mod pipeline;
mod registry;
mod seeds;
