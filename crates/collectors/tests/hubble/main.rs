//! From a server that plays flows to a snapshot: exact counts, and every misbehaviour that a client must survive.

mod counting;
mod election;
mod events;
mod flows;
mod labels;
mod ledger;
mod world;
