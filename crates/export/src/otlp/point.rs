//! Data points, field by field. A point's attributes are the kept bytes of its entity and of its own dimensions.

use model::{Attribute, Attributes, HistogramPoint, Rendering, Series, Value};

use crate::wire;

/// Renders attributes as `KeyValue` fields with string values.
pub(super) fn render(pairs: &[Attribute], field: u32) -> Vec<u8> {
    let mut out = Vec::new();
    for pair in pairs {
        key_value(&mut out, field, pair);
    }
    out
}

/// Appends one `KeyValue` field with a string value.
pub(super) fn key_value(out: &mut Vec<u8>, field: u32, pair: &Attribute) {
    let (key, value) = (pair.key.as_str().as_bytes(), pair.value.as_str().as_bytes());
    let any = wire::bytes_len(1, value.len());
    wire::head(out, field, wire::bytes_len(1, key.len()) + wire::bytes_len(2, any));
    wire::bytes(out, 1, key);
    wire::head(out, 2, any);
    wire::bytes(out, 1, value);
}

/// Gives the attributes as `NumberDataPoint.attributes`.
pub(super) fn number_attributes(attributes: &Attributes) -> &[u8] {
    attributes.rendered(Rendering::OtlpNumber, |pairs| render(pairs, 7))
}

/// Gives the attributes as `HistogramDataPoint.attributes`.
pub(super) fn histogram_attributes(attributes: &Attributes) -> &[u8] {
    attributes.rendered(Rendering::OtlpHistogram, |pairs| render(pairs, 9))
}

/// Gives the attributes as `ExponentialHistogramDataPoint.attributes`, which is also `Resource.attributes`.
pub(super) fn exponential_attributes(attributes: &Attributes) -> &[u8] {
    attributes.rendered(Rendering::OtlpExponential, |pairs| render(pairs, 1))
}

/// Which of a series' attributes stand on its points.
#[derive(Clone, Copy)]
pub(super) struct Identity<'a> {
    /// The series.
    pub series: &'a Series,
    /// Whether the entity's attributes stand on the point (or else on the resource).
    pub entity: bool,
}

impl<'a> Identity<'a> {
    fn attributes(self, of: impl Fn(&'a Attributes) -> &'a [u8]) -> (&'a [u8], &'a [u8]) {
        let entity = if self.entity { of(&self.series.entity) } else { &[] };
        (entity, of(&self.series.dimensions))
    }
}

/// The time that a point covers, in Unix nanoseconds.
#[derive(Clone, Copy)]
pub(super) struct Span {
    /// When the value was 0.
    pub start: u64,
    /// When it was read.
    pub time: u64,
}

/// What a histogram point says, whether cumulative or delta.
#[derive(Clone, Copy)]
pub(super) struct Distribution<'a> {
    /// The sum of all values.
    pub sum: f64,
    /// The number of all values.
    pub count: u64,
    /// The number of zeros.
    pub zero: u64,
    /// The resolution.
    pub scale: i8,
    /// The slot of the first bucket.
    pub first: i32,
    /// The buckets, without empty ones at either end.
    pub counts: &'a [u64],
}

impl<'a> Distribution<'a> {
    /// Gives the cumulative distribution of a point.
    pub fn of(point: &HistogramPoint, counts: &'a [u64]) -> Self {
        let buckets = point.buckets(counts);
        Self {
            sum: point.sum,
            count: point.count,
            zero: point.zero,
            scale: point.scale,
            first: buckets.first,
            counts: buckets.counts,
        }
    }
}

/// Appends a `NumberDataPoint` as field 1 of its metric's data.
#[inline]
pub(super) fn number(out: &mut Vec<u8>, identity: Identity<'_>, span: Span, value: Value) {
    let (entity, dimensions) = identity.attributes(number_attributes);
    wire::head(out, 1, entity.len() + dimensions.len() + 27);
    out.extend_from_slice(entity);
    out.extend_from_slice(dimensions);
    wire::fixed64(out, 2, span.start);
    wire::fixed64(out, 3, span.time);
    match value {
        Value::U64(value) if i64::try_from(value).is_ok() => wire::fixed64(out, 6, value),
        value => wire::double(out, 4, value.as_f64()),
    }
}

/// Appends an `ExponentialHistogramDataPoint` as field 1 of its metric's data.
pub(super) fn exponential(out: &mut Vec<u8>, identity: Identity<'_>, span: Span, data: &Distribution<'_>) {
    let (entity, dimensions) = identity.attributes(exponential_attributes);
    wire::message(out, 1, |out| {
        out.extend_from_slice(entity);
        out.extend_from_slice(dimensions);
        wire::fixed64(out, 2, span.start);
        wire::fixed64(out, 3, span.time);
        wire::fixed64(out, 4, data.count);
        wire::double(out, 5, data.sum);
        wire::sint(out, 6, i64::from(data.scale));
        wire::fixed64(out, 7, data.zero);
        if !data.counts.is_empty() {
            wire::message(out, 8, |out| {
                // OTLP's bucket k holds (base^k, base^(k+1)]; our slot i holds (base^(i-1), base^i].
                wire::sint(out, 1, i64::from(data.first) - 1);
                wire::message(out, 2, |out| {
                    for &count in data.counts {
                        wire::varint(out, count);
                    }
                });
            });
        }
    });
}

/// Appends a `HistogramDataPoint` with boundaries at powers of two as field 1 of its metric's data.
///
/// Slots end at every power of two from scale 0 on, so merging them is exact.
pub(super) fn explicit(
    out: &mut Vec<u8>,
    identity: Identity<'_>,
    span: Span,
    data: &Distribution<'_>,
    bounds: &[i8],
    merged: &mut Vec<u64>,
) {
    merge(data, bounds, merged);
    let (entity, dimensions) = identity.attributes(histogram_attributes);
    wire::message(out, 1, |out| {
        out.extend_from_slice(entity);
        out.extend_from_slice(dimensions);
        wire::fixed64(out, 2, span.start);
        wire::fixed64(out, 3, span.time);
        wire::fixed64(out, 4, data.count);
        wire::double(out, 5, data.sum);
        wire::head(out, 6, merged.len() * 8);
        for count in merged.iter() {
            out.extend_from_slice(&count.to_le_bytes());
        }
        if !bounds.is_empty() {
            wire::head(out, 7, bounds.len() * 8);
            for &bound in bounds {
                out.extend_from_slice(&f64::from(bound).exp2().to_le_bytes());
            }
        }
    });
}

/// Fills `merged` with a plain count per boundary and one beyond the last.
fn merge(data: &Distribution<'_>, bounds: &[i8], merged: &mut Vec<u64>) {
    merged.clear();
    merged.resize(bounds.len() + 1, 0);
    merged[0] = data.zero;
    let mut at = 0;
    for (slot, &count) in (i64::from(data.first)..).zip(data.counts) {
        while bounds.get(at).is_some_and(|&bound| slot > last_slot(bound, data.scale)) {
            at += 1;
        }
        merged[at] += count;
    }
}

/// Gives the last slot of a scale whose upper bound does not exceed 2^bound.
fn last_slot(bound: i8, scale: i8) -> i64 {
    let bound = i64::from(bound);
    let shift = u32::from(scale.unsigned_abs()).min(50);
    if scale >= 0 { bound << shift } else { bound >> shift }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(zero: u64, scale: i8, first: i32, counts: &[u64], bounds: &[i8]) -> Vec<u64> {
        let data = Distribution { sum: 0.0, count: 0, zero, scale, first, counts };
        let mut out = vec![7; 3];
        merge(&data, bounds, &mut out);
        out
    }

    #[test]
    fn slots_merge_at_powers_of_two() {
        assert_eq!(merged(2, 0, 0, &[1, 1, 1, 1], &[1, 2]), [4, 1, 1]);
        assert_eq!(merged(0, 2, 4, &[1, 1, 1, 1, 1], &[1, 2]), [1, 4, 0]);
        assert_eq!(merged(0, 1, -3, &[1, 1, 1, 1], &[-1, 0]), [2, 2, 0]);
        assert_eq!(merged(1, 0, 5, &[3], &[]), [4]);
        assert_eq!(merged(1, 0, 5, &[], &[3]), [1, 0]);
    }

    #[test]
    fn coarse_slots_fall_behind_the_boundary_they_straddle() {
        assert_eq!(merged(0, -1, 1, &[1, 1], &[1, 4]), [0, 2, 0]);
        assert_eq!(merged(0, -1, 2, &[1], &[3]), [0, 1]);
    }
}
