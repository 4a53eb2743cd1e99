//! The whole crate from outside: files, environment and command line in; values, origins, warnings and errors out.

// The name by which every other crate knows it.
extern crate telesonde_config as config;

#[path = "config/documents.rs"]
mod documents;
#[path = "config/errors.rs"]
mod errors;
#[path = "config/layering.rs"]
mod layering;
#[path = "config/otel.rs"]
mod otel;
#[path = "config/support.rs"]
mod support;
