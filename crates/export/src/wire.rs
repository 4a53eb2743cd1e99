//! Protobuf primitives that append to a `Vec<u8>`: the messages of OTLP and Prometheus are written field by field.
//!
//! Field numbers are those of the `.proto` files. Nothing here leaves out default values: the caller knows better.

/// Gives the bytes that a varint takes, 1 to 10.
pub const fn varint_len(value: u64) -> usize {
    ((u64::BITS - (value | 1).leading_zeros()) as usize).div_ceil(7)
}

/// Gives the bytes that the key of a field takes.
pub const fn key_len(field: u32) -> usize {
    varint_len((field as u64) << 3)
}

/// Gives the bytes that a length-delimited field takes in all, for a content of `len` bytes.
pub const fn bytes_len(field: u32, len: usize) -> usize {
    key_len(field) + varint_len(len as u64) + len
}

/// Maps signed to unsigned as `sint32` and `sint64` do: small magnitudes stay small.
pub const fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

/// Appends a varint.
#[inline]
pub fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[inline]
fn key(out: &mut Vec<u8>, field: u32, wire_type: u64) {
    varint(out, u64::from(field) << 3 | wire_type);
}

/// Appends a varint field: `uint32`, `uint64`, `bool`, an enum, or a non-negative `int32` or `int64`.
#[inline]
pub fn uint(out: &mut Vec<u8>, field: u32, value: u64) {
    key(out, field, 0);
    varint(out, value);
}

/// Appends a `sint32` or `sint64` field.
#[inline]
pub fn sint(out: &mut Vec<u8>, field: u32, value: i64) {
    uint(out, field, zigzag(value));
}

/// Appends a `fixed64` or `sfixed64` field.
#[inline]
pub fn fixed64(out: &mut Vec<u8>, field: u32, value: u64) {
    key(out, field, 1);
    out.extend_from_slice(&value.to_le_bytes());
}

/// Appends a `double` field.
#[inline]
pub fn double(out: &mut Vec<u8>, field: u32, value: f64) {
    fixed64(out, field, value.to_bits());
}

/// Appends a `string`, `bytes` or already encoded message field.
#[inline]
pub fn bytes(out: &mut Vec<u8>, field: u32, content: &[u8]) {
    head(out, field, content.len());
    out.extend_from_slice(content);
}

/// Appends the key and length of a length-delimited field whose content of `len` bytes the caller appends next.
#[inline]
pub fn head(out: &mut Vec<u8>, field: u32, len: usize) {
    key(out, field, 2);
    varint(out, len as u64);
}

/// Appends a message or packed field whose content `write` appends; its length need not be known before.
#[inline]
pub fn message(out: &mut Vec<u8>, field: u32, write: impl FnOnce(&mut Vec<u8>)) {
    key(out, field, 2);
    delimited(out, write);
}

/// Appends what `write` appends, with its length before it.
#[inline]
pub fn delimited(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.push(0);
    write(out);
    let len = out.len() - at - 1;
    let width = varint_len(len as u64);
    if width > 1 {
        let end = out.len();
        out.resize(end + width - 1, 0);
        out.copy_within(at + 1..end, at + width);
    }
    let mut rest = len as u64;
    for byte in &mut out[at..at + width] {
        *byte = rest as u8 | 0x80;
        rest >>= 7;
    }
    out[at + width - 1] &= 0x7f;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_are_as_long_as_announced() {
        for value in [0, 1, 127, 128, 300, 16_383, 16_384, u64::from(u32::MAX), u64::MAX] {
            let mut ours = Vec::new();
            varint(&mut ours, value);
            let mut theirs = Vec::new();
            prost::encoding::encode_varint(value, &mut theirs);
            assert_eq!(ours, theirs);
            assert_eq!(ours.len(), varint_len(value));
        }
    }

    #[test]
    fn zigzag_is_as_protobuf_defines_it() {
        let cases = [(0, 0), (-1, 1), (1, 2), (-2, 3), (i64::MAX, u64::MAX - 1), (i64::MIN, u64::MAX)];
        for (value, expected) in cases {
            assert_eq!(zigzag(value), expected);
        }
    }

    #[test]
    fn nested_lengths_fit_content_of_every_size() {
        for len in [0, 1, 127, 128, 129, 16_383, 16_384, 70_000] {
            let content: Vec<u8> = (0..len).map(|i| i as u8).collect();
            let mut direct = vec![9];
            bytes(&mut direct, 20, &content);
            let mut nested = vec![9];
            message(&mut nested, 20, |out| out.extend_from_slice(&content));
            assert_eq!(nested, direct, "{len} bytes");
            assert_eq!(direct.len() - 1, bytes_len(20, len));
        }
    }
}
