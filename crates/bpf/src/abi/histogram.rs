//! Mirrors of `bpf/histogram.h`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The finest scale.
pub const FINEST_SCALE: u32 = 3;
/// No histogram has more slots.
pub const MOST_SLOTS: u32 = (36 << FINEST_SCALE) + 1;
/// The bytes of a histogram's sum and zero, before its slots.
const HEAD: u32 = 12;

/// What a histogram holds: its programs, its maps and its reader agree on it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct HistShape {
    /// 2^scale slots a doubling.
    pub scale: u32,
    /// The first slot ends at 2^low; smaller values are in it too.
    pub low: u32,
    /// The number of slots; the last one holds larger values too.
    pub slots: u32,
}

impl HistShape {
    /// Gives the shape whose slots part the values from 2^low to 2^high, which are at most 36 doublings.
    pub const fn new(scale: u8, low: u32, high: u32) -> Self {
        let scale = if scale as u32 > FINEST_SCALE { FINEST_SCALE } else { scale as u32 };
        let doublings = high.saturating_sub(low);
        let doublings = if doublings > 36 { 36 } else { doublings };
        // An odd number, so that the next CPU's histogram follows without a gap.
        Self { scale, low, slots: ((doublings << scale) + 1) | 1 }
    }

    /// Gives the bytes of a histogram on one CPU.
    pub const fn bytes(self) -> u32 {
        HEAD + 4 * self.slots
    }

    /// Gives the index of the first slot.
    pub const fn first(self) -> i32 {
        (self.low << self.scale) as i32
    }
}

/// A histogram, summed over CPUs. The counts and the sum wrap, as they do in the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    /// The wrapping sum of all values.
    pub sum: u64,
    /// How often the value was 0, wrapping.
    pub zero: u32,
    /// Wrapping counts, slot by slot.
    pub slots: Vec<u32>,
}

impl Histogram {
    /// Adds up the histograms of all CPUs, as they stand in a map of this shape.
    pub fn read(&mut self, shape: HistShape, cells: &[u64]) {
        (self.sum, self.zero) = (0, 0);
        self.slots.clear();
        self.slots.resize(shape.slots as usize, 0);
        for cell in cells.chunks_exact(shape.bytes() as usize / 8) {
            let [sum, rest @ ..] = cell else { continue };
            let Ok([zero, slots @ ..]) = <[u32]>::ref_from_bytes(rest.as_bytes()) else { continue };
            self.sum = self.sum.wrapping_add(*sum);
            self.zero = self.zero.wrapping_add(*zero);
            for (mine, theirs) in self.slots.iter_mut().zip(slots) {
                *mine = mine.wrapping_add(*theirs);
            }
        }
    }

    /// Adds another histogram of the same shape; an empty one has any.
    pub fn add(&mut self, other: &Self) {
        self.sum = self.sum.wrapping_add(other.sum);
        self.zero = self.zero.wrapping_add(other.zero);
        self.slots.resize(self.slots.len().max(other.slots.len()), 0);
        for (mine, theirs) in self.slots.iter_mut().zip(&other.slots) {
            *mine = mine.wrapping_add(*theirs);
        }
    }

    /// Gives what it has grown by since.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let had = before.slots.iter().copied().chain(std::iter::repeat(0));
        Self {
            sum: self.sum.wrapping_sub(before.sum),
            zero: self.zero.wrapping_sub(before.zero),
            slots: self.slots.iter().zip(had).map(|(now, had)| now.wrapping_sub(had)).collect(),
        }
    }

    /// Gives the number of values, as far as the counts have not wrapped.
    pub fn count(&self) -> u64 {
        u64::from(self.zero) + self.slots.iter().map(|&count| u64::from(count)).sum::<u64>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histograms_of_cpus_follow_without_a_gap() {
        for scale in 0..=3 {
            for (low, high) in [(4, 40), (10, 37), (0, 24)] {
                let shape = HistShape::new(scale, low, high);
                assert_eq!(shape.bytes() % 8, 0, "{shape:?}");
                assert!(shape.slots > (high - low) << scale && shape.slots <= MOST_SLOTS, "{shape:?}");
            }
        }
        assert_eq!(HistShape::new(9, 4, 64), HistShape { scale: 3, low: 4, slots: MOST_SLOTS });
    }

    #[test]
    fn cpus_add_up() {
        let shape = HistShape::new(1, 4, 6);
        assert_eq!(shape, HistShape { scale: 1, low: 4, slots: 5 });
        let half = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
        let cells = [100, half(1, 2), half(3, 4), half(5, 6), 1000, half(10, 20), half(30, 40), half(50, u32::MAX)];
        let mut histogram = Histogram::default();
        histogram.read(shape, &cells);
        assert_eq!(histogram, Histogram { sum: 1100, zero: 11, slots: vec![22, 33, 44, 55, 5] });
        assert_eq!(histogram.count(), 170);
    }
}
