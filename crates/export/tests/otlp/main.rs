//! The OTLP reader against receivers that others wrote: opentelemetry-proto decodes, tonic and hyper serve.

extern crate telesonde_export as export;

mod collector;
mod data;
mod deliver;
mod delta;
mod encode;
mod flat;
mod outage;
mod retry;
mod tls;
mod web;
