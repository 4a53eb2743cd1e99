//! What crosses between the programs and us: mirrors of the C structs in `bpf/*.h`. A test compares each with the
//! object's BTF.

pub mod cgroup;
pub mod file_io;
pub mod filter;
pub mod histogram;
pub mod network;
pub mod starts;
pub mod syscalls;
pub mod tcp;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The slot of a histogram's first count: it ends at 16 ns. Smaller values are in it too.
pub const HIST_FIRST: i32 = 4;
/// The number of a histogram's counts; the last one ends at 18 minutes and holds larger values too.
pub const HIST_SLOTS: usize = 37;

/// A histogram of nanoseconds at scale 0, on one CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Hist {
    /// The wrapping sum of all values.
    pub sum: u64,
    /// How often the value was 0, wrapping.
    pub zero: u32,
    /// Wrapping counts from slot [`HIST_FIRST`] on.
    pub slots: [u32; HIST_SLOTS],
}

impl Default for Hist {
    fn default() -> Self {
        Self { sum: 0, zero: 0, slots: [0; HIST_SLOTS] }
    }
}

impl Hist {
    /// Adds another CPU's histogram; counts wrap.
    pub fn add(&mut self, other: &Self) {
        self.sum = self.sum.wrapping_add(other.sum);
        self.zero = self.zero.wrapping_add(other.zero);
        for (mine, theirs) in self.slots.iter_mut().zip(&other.slots) {
            *mine = mine.wrapping_add(*theirs);
        }
    }

    /// Gives the number of values, as far as the counts have not wrapped.
    pub fn count(&self) -> u64 {
        u64::from(self.zero) + self.slots.iter().map(|&count| u64::from(count)).sum::<u64>()
    }
}
