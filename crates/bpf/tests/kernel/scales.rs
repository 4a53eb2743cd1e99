//! Histograms of every scale, as the kernel fills them, against a reference in whole numbers of any size.

use std::fs::File;
use std::os::unix::fs::FileExt;

use bpf::abi::histogram::{HistShape, Histogram};
use bpf::{Loader, Object, PerCpuTable, Types};

use crate::bench::ready;

/// A number of any size, the lowest word first.
struct Big(Vec<u64>);

impl Big {
    fn square(&self) -> Self {
        let mut product = vec![0_u64; self.0.len() * 2];
        for (at, &a) in self.0.iter().enumerate() {
            let mut carry = 0_u128;
            for (to, &b) in product[at..].iter_mut().zip(self.0.iter().chain(std::iter::repeat(&0))) {
                let sum = u128::from(a) * u128::from(b) + u128::from(*to) + carry;
                (*to, carry) = (sum as u64, sum >> 64);
            }
            assert_eq!(carry, 0);
        }
        Self(product)
    }

    /// The least i with self <= 2^i.
    fn log2_rounded_up(&self) -> u32 {
        let top = self.0.iter().rposition(|&word| word != 0).expect("above 0");
        let bits = top as u32 * 64 + (64 - self.0[top].leading_zeros());
        let ones: u32 = self.0.iter().map(|word| word.count_ones()).sum();
        bits - u32::from(ones == 1)
    }
}

/// The least i with value <= 2^(i / 2^scale), by value^(2^scale) <= 2^i.
fn slot(value: u64, scale: u32) -> u32 {
    (0..scale).fold(Big(vec![value]), |power, _| power.square()).log2_rounded_up()
}

/// The largest whole number of a slot or one before it, below 2^42.
fn last_of(index: u32, scale: u32) -> u64 {
    let (mut within, mut beyond) = (1, 1_u64 << 42);
    while beyond - within > 1 {
        let middle = u64::midpoint(within, beyond);
        if slot(middle, scale) <= index { within = middle } else { beyond = middle }
    }
    within
}

fn load(shape: HistShape, types: &Types) -> Object {
    let mut object = Loader::new("scales")
        .histogram("samples", shape)
        .histogram("shared", shape)
        .constant("thread", &rustix::thread::gettid().as_raw_nonzero().get().cast_unsigned())
        .constant("pread", &(libc::SYS_pread64 as u32))
        .load(types)
        .expect("it loads");
    object.attach("sys_enter", types).expect("it attaches");
    object
}

struct Samples {
    shape: HistShape,
    _object: Object,
    table: PerCpuTable<u64, u64>,
    /// The same samples in a histogram that all CPUs share.
    shared: PerCpuTable<u64, u64>,
    file: File,
}

impl Samples {
    fn new(shape: HistShape, types: &Types) -> Self {
        let object = load(shape, types);
        let table = object.histograms("samples", shape).expect("the map has this shape");
        let shared = object.histograms("shared", shape).expect("the map has this shape");
        Self { shape, _object: object, table, shared, file: File::open("/dev/null").expect("it opens") }
    }

    fn add(&self, value: u64) {
        self.file.read_at(&mut [], value).expect("a read at any offset");
    }

    fn read(&self) -> Histogram {
        let cells = self.table.get(&0).expect("readable").unwrap_or_default();
        let mut histogram = Histogram::default();
        histogram.read(self.shape, &cells);
        let mut shared = Histogram::default();
        shared.read(self.shape, &self.shared.get(&0).expect("readable").unwrap_or_default());
        assert_eq!(shared, histogram);
        histogram
    }

    /// Adds a value and gives the index of the slot that it went to.
    fn index(&self, value: u64) -> u32 {
        let before = self.read();
        self.add(value);
        let after = self.read();
        assert_eq!(after.sum, before.sum.wrapping_add(value), "the sum after {value}");
        assert_eq!((after.count(), after.zero), (before.count() + 1, before.zero), "the counts after {value}");
        let slot = after.slots.iter().zip(&before.slots).position(|(after, before)| after != before);
        self.shape.first() as u32 + slot.expect("a slot") as u32
    }
}

#[test]
fn every_boundary_of_every_scale_is_exact() {
    let Some(types) = ready() else { return };
    for scale in 0..=3 {
        for (low, high) in [(4, 40), (0, 24), (10, 37)] {
            let shape = HistShape::new(scale, low, high);
            let samples = Samples::new(shape, &types);
            samples.add(0);
            assert_eq!(samples.read(), Histogram { sum: 0, zero: 1, slots: vec![0; shape.slots as usize] });
            let (first, last) = (shape.first() as u32, shape.first() as u32 + shape.slots - 1);
            let boundaries = (first..=last + 2).map(|index| last_of(index, shape.scale));
            let around = boundaries.flat_map(|at| [at.saturating_sub(1).max(1), at, at + 1]);
            let extremes = [1, 2, 3, 1 << 62, (1 << 62) + 1, i64::MAX as u64];
            for value in around.chain(extremes) {
                let expected = slot(value, shape.scale).clamp(first, last);
                assert_eq!(samples.index(value), expected, "{value} at {shape:?}");
            }
        }
    }
}

#[test]
fn a_map_is_as_large_as_its_scale() {
    let Some(types) = ready() else { return };
    for (scale, bytes) in [(0, 160), (1, 304), (2, 592), (3, 1168)] {
        let shape = HistShape::new(scale, 4, 40);
        assert_eq!(shape.bytes(), bytes);
        let object = load(shape, &types);
        assert!(object.histograms::<u64>("samples", shape).is_ok());
        let other = HistShape::new(u8::from(scale == 0), 4, 40);
        assert!(object.histograms::<u64>("samples", other).is_err());
    }
}

#[test]
fn quantiles_lie_within_the_width_of_a_slot() {
    let Some(types) = ready() else { return };
    for scale in 0..=3 {
        let shape = HistShape::new(scale, 4, 40);
        let samples = Samples::new(shape, &types);
        let mut exact = hdrhistogram::Histogram::<u64>::new(4).expect("a histogram");
        let mut random = 0x7e1e_50de_u64;
        for _ in 0..20_000 {
            random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            // Spread evenly over the logarithm: 2^5 to 2^35.
            let value = (2_f64).powf(5.0 + 30.0 * ((random >> 11) as f64 / (1_u64 << 53) as f64)) as u64;
            samples.add(value);
            exact.record(value).expect("in range");
        }
        let found = samples.read();
        let base = (-f64::from(shape.scale)).exp2().exp2();
        for quantile in [0.01, 0.25, 0.5, 0.9, 0.99, 1.0] {
            let rank = (quantile * found.count() as f64).ceil() as u64;
            let mut below = 0;
            let at = found.slots.iter().position(|&count| {
                below += u64::from(count);
                below >= rank
            });
            let upper = base.powi(shape.first() + at.expect("that many samples") as i32);
            let value = exact.value_at_quantile(quantile) as f64;
            // hdrhistogram itself is exact to 1 in 10,000.
            let error = 1.0001;
            assert!(
                upper / base / error < value && value <= upper * error,
                "scale {scale}, {quantile}: {value}, {upper}"
            );
        }
    }
}
