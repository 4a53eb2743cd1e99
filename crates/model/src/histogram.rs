//! Base-2 exponential histograms as the kernel programs fill them.
//!
//! Slot `i` of scale 0 holds values in (2^(i-1), 2^i]; slot 0 holds 1 and zero is counted apart. Slot `i` is OTLP
//! exponential bucket index `i - 1` and Prometheus native bucket index `i`, both at scale (schema) 0.

/// Gives the slot of a value above 0 at scale 0: the least `i` with `value <= 2^i`.
pub const fn slot(value: u64) -> u32 {
    if value <= 1 { 0 } else { u64::BITS - (value - 1).leading_zeros() }
}

/// Gives the inclusive upper bound of a slot at a scale: 2^(slot / 2^scale).
pub fn upper_bound(slot: i32, scale: i8) -> f64 {
    (f64::from(slot) * f64::from(-i32::from(scale)).exp2()).exp2()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_include_their_upper_bound() {
        let cases = [(1, 0), (2, 1), (3, 2), (4, 2), (5, 3), (1024, 10), (1025, 11), (u64::MAX, 64)];
        for (value, expected) in cases {
            assert_eq!(slot(value), expected, "slot of {value}");
        }
    }

    #[test]
    fn bounds_follow_the_scale() {
        assert!((upper_bound(10, 0) - 1024.0).abs() < 1e-9);
        assert!((upper_bound(4, 2) - 2.0).abs() < 1e-12);
        assert!((upper_bound(-2, 0) - 0.25).abs() < 1e-12);
    }
}
