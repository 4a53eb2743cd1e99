//! What the kernel hands over, of which others have chosen parts: entrances for `fuzz/`, which the tests of every run go
//! through as well.

use crate::reader::Decode;
use crate::{dns, process};

/// Reads a record of each ring.
pub fn ring_record(data: &[u8]) {
    // Whatever it says is an outcome.
    drop(process::Decoder::default().decode(data, 7));
    dns::read_record(data);
}

/// Reads the question of a DNS packet, as whoever sent the packet wrote it.
pub fn dns_question(data: &[u8]) {
    dns::read_question(data);
}
