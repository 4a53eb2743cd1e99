//! How cgroup ids are spread over the cache's tables.

use std::hash::Hasher;

/// A hash of cgroup ids, which are small consecutive numbers that nobody outside can choose.
#[derive(Default)]
pub(crate) struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte) ^ self.0);
        }
    }

    fn write_u64(&mut self, id: u64) {
        // The table takes its position from the low bits and its tag from the high ones: both must vary.
        let mixed = id.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mixed = (mixed ^ (mixed >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ (mixed >> 32);
    }
}
