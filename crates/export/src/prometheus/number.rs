//! Numbers as the text expositions write them.

use std::sync::OnceLock;

use model::Value;

/// Integers of a double below this magnitude are exact, and are written without exponent.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// Appends an unsigned integer.
#[inline]
pub(super) fn integer(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// Appends a sample's value.
#[inline]
pub(super) fn value(out: &mut Vec<u8>, value: Value) {
    match value {
        Value::U64(value) => integer(out, value),
        Value::F64(value) => float(out, value),
    }
}

/// Appends a double: shortest digits that read back the same, `NaN`, `+Inf` or `-Inf`.
pub(super) fn float(out: &mut Vec<u8>, value: f64) {
    if value.is_finite() {
        if value.trunc().to_bits() == value.to_bits() && value.abs() < EXACT {
            out.extend_from_slice(itoa::Buffer::new().format(value as i64).as_bytes());
        } else {
            out.extend_from_slice(ryu::Buffer::new().format_finite(value).as_bytes());
        }
    } else if value.is_nan() {
        out.extend_from_slice(b"NaN");
    } else {
        out.extend_from_slice(if value > 0.0 { b"+Inf" } else { b"-Inf" });
    }
}

/// Appends Unix nanoseconds as seconds with millisecond precision, which is what Prometheus keeps.
pub(super) fn timestamp(out: &mut Vec<u8>, nanoseconds: u64) {
    let milliseconds = nanoseconds / 1_000_000;
    integer(out, milliseconds / 1000);
    let rest = milliseconds % 1000;
    out.push(b'.');
    for divisor in [100, 10, 1] {
        out.push(b'0' + (rest / divisor % 10) as u8);
    }
}

/// Boundaries as text, by exponent: those that were asked for once.
static TEXT: [OnceLock<String>; 256] = [const { OnceLock::new() }; 256];
/// The same for OpenMetrics.
static OPEN: [OnceLock<String>; 256] = [const { OnceLock::new() }; 256];

/// Gives the boundary 2^`exponent` as Go's `%g` writes it, since Prometheus compares `le` as text; OpenMetrics wants
/// it to look like a float.
pub(super) fn boundary(exponent: i8, open: bool) -> &'static str {
    let known = if open { &OPEN } else { &TEXT };
    known[usize::from(exponent as u8)].get_or_init(|| write_boundary(f64::from(exponent).exp2(), open))
}

fn write_boundary(boundary: f64, open: bool) -> String {
    let scientific = format!("{boundary:e}");
    let (mantissa, power) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let power: i32 = power.parse().unwrap_or(0);
    if !(-4..6).contains(&power) {
        let sign = if power < 0 { '-' } else { '+' };
        return format!("{mantissa}e{sign}{:02}", power.abs());
    }
    let plain = format!("{boundary}");
    if open && !plain.contains('.') { format!("{plain}.0") } else { plain }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn doubles_are_short_and_exact() {
        let cases = [
            (0.0, "0"),
            (-3.0, "-3"),
            (1.5, "1.5"),
            (0.1, "0.1"),
            (123_456_789.0, "123456789"),
            (1e300, "1e300"),
            (f64::NAN, "NaN"),
            (f64::INFINITY, "+Inf"),
            (f64::NEG_INFINITY, "-Inf"),
        ];
        for (value, expected) in cases {
            assert_eq!(written(|out| float(out, value)), expected);
        }
    }

    #[test]
    fn integers_keep_every_digit() {
        assert_eq!(written(|out| value(out, Value::U64(u64::MAX))), "18446744073709551615");
    }

    #[test]
    fn boundaries_are_written_as_go_does() {
        let cases = [
            (10, "1024", "1024.0"),
            (0, "1", "1.0"),
            (-2, "0.25", "0.25"),
            (20, "1.048576e+06", "1.048576e+06"),
            (34, "1.7179869184e+10", "1.7179869184e+10"),
            (-14, "6.103515625e-05", "6.103515625e-05"),
            (19, "524288", "524288.0"),
        ];
        for (exponent, text, open) in cases {
            assert_eq!(boundary(exponent, false), text);
            assert_eq!(boundary(exponent, true), open);
        }
    }

    #[test]
    fn timestamps_are_seconds() {
        assert_eq!(written(|out| timestamp(out, 1_700_000_000_012_999_999)), "1700000000.012");
    }
}
