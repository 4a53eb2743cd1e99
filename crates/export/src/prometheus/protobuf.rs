//! The protobuf exposition: delimited `io.prometheus.client.MetricFamily` messages with native histograms.

use model::metric::spaced;
use model::{HistogramPoint, Kind, Metric, NumberPoint, Snapshot};

use super::Style;
use super::block::{self, Block, Counts, Writer};
use super::labels::{self, Joiner, Syntax};
use crate::wire;

/// The finest resolution that Prometheus reads; finer buckets are merged into it.
const FINEST_SCHEMA: i8 = 8;
/// The coarsest one. What is coarser goes out with classic buckets only.
const COARSEST_SCHEMA: i8 = -4;
/// Up to this many empty buckets between two others cost less as zeros than as a new span.
const BRIDGED_GAP: i32 = 2;

const COUNTER: u64 = 0;
const GAUGE: u64 = 1;
const HISTOGRAM: u64 = 4;

/// Appends a snapshot.
pub(super) fn encode(snapshot: &Snapshot, style: Style, out: &mut Vec<u8>) -> Counts {
    let mut counts = Counts::default();
    let mut joiner = Joiner::default();
    let mut native = Native::default();
    let all = block::named(snapshot);
    for families in all.chunk_by(|a, b| a.name == b.name) {
        let block = Block(families);
        let metric = block.metric();
        let name = &*families[0].name;
        wire::delimited(out, |out| {
            let kind = match metric.kind {
                Kind::Counter => COUNTER,
                Kind::Gauge => GAUGE,
                Kind::Histogram => HISTOGRAM,
            };
            head(name, &metric.help, kind, out);
            block.write(&mut joiner, &mut counts, &mut Messages { style, native: &mut native, out });
            let base = name.strip_suffix("_total").filter(|_| metric.kind == Kind::Counter).unwrap_or(name);
            if let Some(unit) = block::unit(metric, base) {
                wire::bytes(out, 5, unit.as_bytes());
            }
        });
    }
    if !snapshot.resource.is_empty() {
        wire::delimited(out, |out| {
            head("target_info", "Target metadata", GAUGE, out);
            wire::message(out, 4, |out| {
                labels::append(&snapshot.resource, Syntax::Protobuf, out);
                wire::message(out, 2, |out| wire::double(out, 1, 1.0));
            });
        });
    }
    counts
}

fn head(name: &str, help: &str, kind: u64, out: &mut Vec<u8>) {
    wire::bytes(out, 1, name.as_bytes());
    if !help.is_empty() {
        wire::bytes(out, 2, help.as_bytes());
    }
    wire::uint(out, 3, kind);
}

struct Messages<'a> {
    style: Style,
    native: &'a mut Native,
    out: &'a mut Vec<u8>,
}

fn timestamp(out: &mut Vec<u8>, field: u32, start: Option<u64>) {
    if let Some(start) = start {
        wire::message(out, field, |out| {
            wire::uint(out, 1, start / 1_000_000_000);
            wire::uint(out, 2, start % 1_000_000_000);
        });
    }
}

impl Writer for Messages<'_> {
    const SYNTAX: Syntax = Syntax::Protobuf;

    fn number(&mut self, labels: [&[u8]; 2], kind: Kind, point: &NumberPoint) {
        wire::message(self.out, 4, |out| {
            out.extend_from_slice(labels[0]);
            out.extend_from_slice(labels[1]);
            let field = if kind == Kind::Counter { 3 } else { 2 };
            wire::message(out, field, |out| {
                wire::double(out, 1, point.value.as_f64());
                if kind == Kind::Counter {
                    timestamp(out, 3, block::start(&point.series));
                }
            });
        });
    }

    fn histogram(&mut self, labels: [&[u8]; 2], metric: &Metric, point: &HistogramPoint, counts: &[u64]) {
        let native = point.scale >= COARSEST_SCHEMA;
        wire::message(self.out, 4, |out| {
            out.extend_from_slice(labels[0]);
            out.extend_from_slice(labels[1]);
            wire::message(out, 7, |out| {
                wire::uint(out, 1, point.count);
                wire::double(out, 2, point.sum);
                if self.style.classic_histograms || !native {
                    let bounds = spaced(metric.bounds, self.style.doublings);
                    block::cumulative(bounds, point, counts, |_, exponent, count| {
                        wire::message(out, 3, |out| {
                            wire::uint(out, 1, count);
                            wire::double(out, 2, f64::from(exponent).exp2());
                        });
                    });
                }
                if native {
                    self.native.write(point, counts, out);
                }
                timestamp(out, 15, block::start(&point.series));
            });
        });
    }
}

/// The spans and deltas of one point, kept to reuse their memory.
#[derive(Default)]
struct Native {
    spans: Vec<(i32, u32)>,
    deltas: Vec<u8>,
    last: Option<(i32, u64)>,
}

impl Native {
    fn write(&mut self, point: &HistogramPoint, counts: &[u64], out: &mut Vec<u8>) {
        self.spans.clear();
        self.deltas.clear();
        self.last = None;
        let merged = u32::from((point.scale - FINEST_SCHEMA).max(0).unsigned_abs());
        let buckets = point.buckets(counts);
        let mut rest = buckets.counts.iter().zip(buckets.first..).filter(|(count, _)| **count != 0).peekable();
        while let Some((&count, slot)) = rest.next() {
            let index = ((slot - 1) >> merged) + 1;
            let mut count = count;
            while let Some((&more, _)) = rest.next_if(|(_, slot)| ((slot - 1) >> merged) + 1 == index) {
                count += more;
            }
            self.push(index, count);
        }
        wire::sint(out, 5, i64::from(point.scale.min(FINEST_SCHEMA)));
        wire::double(out, 6, 0.0);
        wire::uint(out, 7, point.zero);
        if self.spans.is_empty() {
            // A span of nothing is how a native histogram without observations differs from a classic one.
            self.spans.push((0, 0));
        }
        for &(offset, length) in &self.spans {
            wire::message(out, 12, |out| {
                wire::sint(out, 1, i64::from(offset));
                wire::uint(out, 2, u64::from(length));
            });
        }
        if !self.deltas.is_empty() {
            wire::bytes(out, 13, &self.deltas);
        }
    }

    /// Adds a bucket above all buckets before.
    fn push(&mut self, index: i32, count: u64) {
        let gap = self.last.map(|(last, _)| index - last - 1);
        match (gap, self.spans.last_mut()) {
            (Some(gap), Some(span)) if gap <= BRIDGED_GAP => {
                span.1 += gap.unsigned_abs() + 1;
                for _ in 0..gap {
                    self.delta(0);
                }
            }
            _ => self.spans.push((gap.unwrap_or(index), 1)),
        }
        self.delta(count);
        self.last = Some((index, count));
    }

    fn delta(&mut self, count: u64) {
        let before = self.last.map_or(0, |(_, count)| count);
        wire::varint(&mut self.deltas, wire::zigzag((count as i64).wrapping_sub(before as i64)));
        self.last = self.last.map(|(index, _)| (index, count));
    }
}
