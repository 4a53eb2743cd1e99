//! What a metric is: a static that a collector declares once and every reader, document and test derives from.

use std::borrow::Cow;
use std::ops::Deref;
use std::sync::Arc;

/// How a metric's points combine and how they are exposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A monotone cumulative sum.
    Counter,
    /// A value that goes up and down; points of one series add up.
    Gauge,
    /// A base-2 exponential histogram.
    Histogram,
}

/// One metric of the contract: its name, kind, UCUM unit, one-sentence help and own attribute keys.
///
/// `attributes` are the keys whose values a collector gives with each point, in that order; a value that is empty
/// means that the point lacks the attribute. Workload attributes are not listed: enrichment adds them.
#[derive(Debug, PartialEq, Eq)]
pub struct Metric {
    /// The documented name, as it stands in OTLP.
    pub name: Cow<'static, str>,
    /// Counter, gauge or histogram.
    pub kind: Kind,
    /// The UCUM unit, or an annotation such as `{ns}` where the name carries the unit already.
    pub unit: Cow<'static, str>,
    /// One sentence for `# HELP` and the OTLP description.
    pub help: Cow<'static, str>,
    /// The metric's own attribute keys (dotted, as in OTLP).
    pub attributes: &'static [&'static str],
    /// Classic Prometheus boundaries as powers of two: each exponent `e` stands for `le = 2^e`.
    pub bounds: &'static [i8],
}

/// Classic boundaries for durations in nanoseconds: 1 µs (2^10) to 17 s (2^34), each four times the one before.
pub const NANOSECOND_BOUNDS: &[i8] = &[10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30, 32, 34];

/// Classic boundaries for durations in microseconds: 16 µs (2^4) to 17 s (2^24), each four times the one before.
pub const MICROSECOND_BOUNDS: &[i8] = &[4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24];

/// Classic boundaries for durations in seconds: 61 µs (2^-14) to 16 s (2^4), each four times the one before.
pub const SECOND_BOUNDS: &[i8] = &[-14, -12, -10, -8, -6, -4, -2, 0, 2, 4];

impl Metric {
    /// Declares a monotone counter.
    pub const fn counter(
        name: &'static str,
        unit: &'static str,
        help: &'static str,
        attributes: &'static [&'static str],
    ) -> Self {
        Self::new(Kind::Counter, name, unit, help, attributes, &[])
    }

    /// Declares a gauge.
    pub const fn gauge(
        name: &'static str,
        unit: &'static str,
        help: &'static str,
        attributes: &'static [&'static str],
    ) -> Self {
        Self::new(Kind::Gauge, name, unit, help, attributes, &[])
    }

    /// Declares a histogram with its classic boundaries (exponents of two, ascending).
    pub const fn histogram(
        name: &'static str,
        unit: &'static str,
        help: &'static str,
        attributes: &'static [&'static str],
        bounds: &'static [i8],
    ) -> Self {
        Self::new(Kind::Histogram, name, unit, help, attributes, bounds)
    }

    const fn new(
        kind: Kind,
        name: &'static str,
        unit: &'static str,
        help: &'static str,
        attributes: &'static [&'static str],
        bounds: &'static [i8],
    ) -> Self {
        Self {
            name: Cow::Borrowed(name),
            kind,
            unit: Cow::Borrowed(unit),
            help: Cow::Borrowed(help),
            attributes,
            bounds,
        }
    }
}

/// Gives the exponents of classic boundaries, from the first on so many doublings apart at least.
pub fn spaced(bounds: &[i8], doublings: u8) -> impl Iterator<Item = i8> {
    let mut next = i16::MIN;
    let is_next = move |exponent: &i8| {
        let taken = i16::from(*exponent) >= next;
        if taken {
            next = i16::from(*exponent) + i16::from(doublings);
        }
        taken
    };
    bounds.iter().copied().filter(is_next)
}

/// A metric that is either one of the statics or was made at run time by an OpenTelemetry instrument.
#[derive(Clone, Debug)]
pub enum MetricRef {
    /// A collector's static.
    Static(&'static Metric),
    /// The description of an SDK instrument.
    Shared(Arc<Metric>),
}

impl Deref for MetricRef {
    type Target = Metric;

    fn deref(&self) -> &Metric {
        match self {
            Self::Static(metric) => metric,
            Self::Shared(metric) => metric,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_taken_so_far_apart() {
        let taken = |bounds, doublings| spaced(bounds, doublings).collect::<Vec<_>>();
        assert_eq!(taken(NANOSECOND_BOUNDS, 0), NANOSECOND_BOUNDS);
        assert_eq!(taken(NANOSECOND_BOUNDS, 4), [10, 14, 18, 22, 26, 30, 34]);
        assert_eq!(taken(SECOND_BOUNDS, 4), [-14, -10, -6, -2, 2]);
        assert_eq!(taken(&[-128, 126, 127], 255), [-128, 127]);
    }
}
