//! The arithmetic of series: differences of cumulative readings, added to totals that never fall.

use model::Value;

use crate::collector::Content;

/// The reading that a cell saw last.
#[derive(Debug)]
pub(super) enum Last {
    Nothing,
    Number(Value),
    Distribution { sum: u64, zero: u32, counts: Box<[u32]> },
}

/// What a series shows.
#[derive(Debug)]
pub(super) enum Total {
    Number(Value),
    Mean { sum: u64, count: u64 },
    Distribution { sum: f64, zero: u64, count: u64, scale: i8, first: i32, counts: Vec<u64> },
}

impl Total {
    /// Gives the total of a series that nothing was added to, in the shape of a reading.
    pub fn zero(content: &Content) -> Self {
        match *content {
            Content::Number(Value::U64(_)) => Self::Number(Value::U64(0)),
            Content::Number(Value::F64(_)) => Self::Number(Value::F64(0.0)),
            Content::Mean { .. } => Self::Mean { sum: 0, count: 0 },
            Content::Distribution { scale, first, len, .. } => {
                Self::Distribution { sum: 0.0, zero: 0, count: 0, scale, first, counts: vec![0; len as usize] }
            }
        }
    }

    /// Gives the total of a series of the same shape that nothing was added to.
    pub fn cleared(&self) -> Self {
        match self {
            Self::Number(Value::U64(_)) => Self::Number(Value::U64(0)),
            Self::Number(Value::F64(_)) => Self::Number(Value::F64(0.0)),
            Self::Mean { .. } => Self::Mean { sum: 0, count: 0 },
            &Self::Distribution { scale, first, ref counts, .. } => {
                let counts = vec![0; counts.len()];
                Self::Distribution { sum: 0.0, zero: 0, count: 0, scale, first, counts }
            }
        }
    }

    /// Adds what a cumulative reading has grown by and gives that growth (of a histogram: of its count).
    ///
    /// A number that fell was reset: all of it is growth. Histogram counts are 32 bits wide and wrap; each grows the
    /// total by as many as it stands for.
    pub fn grow(&mut self, last: &mut Last, content: &Content, all: &[u32]) -> f64 {
        match (self, content) {
            (Self::Number(total), Content::Number(value)) => {
                let growth = growth(last, *value);
                *total = add(*total, growth);
                *last = Last::Number(*value);
                growth.as_f64()
            }
            (
                Self::Distribution { sum, zero, count, counts, .. },
                Content::Distribution { sum: s, unit, zero: z, at, len, weight, .. },
            ) => {
                let now = &all[*at as usize..(*at + *len) as usize];
                if !matches!(last, Last::Distribution { .. }) {
                    *last = Last::Distribution { sum: 0, zero: 0, counts: vec![0; now.len()].into() };
                }
                let Last::Distribution { sum: last_sum, zero: last_zero, counts: last_counts } = last else {
                    return 0.0;
                };
                let weight = u64::from(*weight);
                let zeros = u64::from(z.wrapping_sub(*last_zero)) * weight;
                let mut grown = zeros;
                for ((total, &now), last) in counts.iter_mut().zip(now).zip(last_counts.iter_mut()) {
                    let delta = u64::from(now.wrapping_sub(*last)) * weight;
                    *total += delta;
                    grown += delta;
                    *last = now;
                }
                *sum += s.wrapping_sub(*last_sum) as f64 * unit * weight as f64;
                *zero += zeros;
                *count += grown;
                (*last_sum, *last_zero) = (*s, *z);
                grown as f64
            }
            _ => 0.0,
        }
    }

    /// Sets a gauge: the first reading of a gather replaces the value, further ones add to it.
    pub fn set(&mut self, content: &Content, first: bool) {
        match (self, content) {
            (Self::Number(total), Content::Number(value)) => {
                *total = if first { *value } else { add(*total, *value) };
            }
            (Self::Mean { sum, count }, Content::Mean { sum: s, count: c }) => {
                *sum = if first { *s } else { sum.saturating_add(*s) };
                *count = if first { *c } else { count.saturating_add(*c) };
            }
            _ => {}
        }
    }

    /// Gives what a counter or a gauge shows, if there is anything to show.
    pub fn number(&self) -> Option<Value> {
        match *self {
            Self::Number(value) => Some(value),
            Self::Mean { sum, count } if count > 0 => Some(Value::F64(sum as f64 / count as f64)),
            Self::Mean { .. } | Self::Distribution { .. } => None,
        }
    }
}

fn growth(last: &Last, value: Value) -> Value {
    match (last, value) {
        (Last::Number(Value::U64(last)), Value::U64(now)) if now >= *last => Value::U64(now - last),
        (Last::Number(Value::F64(last)), Value::F64(now)) if now >= *last => Value::F64(now - last),
        _ => value,
    }
}

fn add(a: Value, b: Value) -> Value {
    match (a, b) {
        (Value::U64(a), Value::U64(b)) => Value::U64(a.saturating_add(b)),
        (a, b) => Value::F64(a.as_f64() + b.as_f64()),
    }
}
