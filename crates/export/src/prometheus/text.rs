//! The text exposition 0.0.4 and OpenMetrics 1.0, which differ in names, escapes and the end mark.

use model::metric::spaced;
use model::{Attributes, HistogramPoint, Kind, Metric, NumberPoint, Snapshot};

use super::block::{self, Block, Counts, Writer};
use super::labels::{self, Joiner, Syntax};
use super::number;

/// Which of the two text formats.
#[derive(Clone, Copy)]
pub(super) struct Dialect {
    /// OpenMetrics.
    pub(super) open: bool,
    /// `_created` samples, which only OpenMetrics has.
    pub(super) created: bool,
    /// How many doublings lie between neighbouring bounds at least.
    pub(super) doublings: u8,
}

/// Appends a snapshot.
pub(super) fn encode(snapshot: &Snapshot, dialect: Dialect, out: &mut Vec<u8>) -> Counts {
    let mut counts = Counts::default();
    let mut joiner = Joiner::default();
    let all = block::named(snapshot);
    let mut names = Names::default();
    for families in all.chunk_by(|a, b| a.name == b.name) {
        let block = Block(families);
        let metric = block.metric();
        let name = &*families[0].name;
        head(metric, name, dialect, out);
        names.set(metric, name, dialect);
        block.write(&mut joiner, &mut counts, &mut Lines { names: &names, dialect, out });
    }
    target(&snapshot.resource, dialect, out);
    if dialect.open {
        out.extend_from_slice(b"# EOF\n");
    }
    counts
}

/// Appends a block's comment lines.
fn head(metric: &Metric, name: &str, dialect: Dialect, out: &mut Vec<u8>) {
    let family = if dialect.open && metric.kind == Kind::Counter { base(name) } else { name };
    let kind = match metric.kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram => "histogram",
    };
    if !metric.help.is_empty() {
        comment(out, "HELP", family);
        labels::escape(&metric.help, dialect.open, out);
        out.push(b'\n');
    }
    comment(out, "TYPE", family);
    out.extend_from_slice(kind.as_bytes());
    out.push(b'\n');
    if let Some(unit) = block::unit(metric, family).filter(|_| dialect.open) {
        comment(out, "UNIT", family);
        out.extend_from_slice(unit.as_bytes());
        out.push(b'\n');
    }
}

fn comment(out: &mut Vec<u8>, what: &str, family: &str) {
    for part in ["# ", what, " ", family, " "] {
        out.extend_from_slice(part.as_bytes());
    }
}

/// Appends the resource as `target_info`.
fn target(resource: &Attributes, dialect: Dialect, out: &mut Vec<u8>) {
    if resource.is_empty() {
        return;
    }
    let (family, kind) = if dialect.open { ("target", "info\n") } else { ("target_info", "gauge\n") };
    comment(out, "HELP", family);
    out.extend_from_slice(b"Target metadata\n");
    comment(out, "TYPE", family);
    out.extend_from_slice(kind.as_bytes());
    out.extend_from_slice(b"target_info{");
    labels::append(resource, Syntax::Text, out);
    out.extend_from_slice(b"} 1\n");
}

fn base(name: &str) -> &str {
    name.strip_suffix("_total").unwrap_or(name)
}

/// The parts of a block's lines that all its series share.
#[derive(Default)]
struct Names {
    plain: Vec<u8>,
    bucket: Vec<u8>,
    sum: Vec<u8>,
    count: Vec<u8>,
    created: Vec<u8>,
    /// `le="1024"} ` for each boundary and for `+Inf`, one after the other.
    bounds: Vec<u8>,
    /// Where each of them ends.
    ends: Vec<usize>,
}

impl Names {
    fn set(&mut self, metric: &Metric, name: &str, dialect: Dialect) {
        let compose = |out: &mut Vec<u8>, name: &str, suffix: &str| {
            out.clear();
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(suffix.as_bytes());
        };
        compose(&mut self.plain, name, "");
        compose(&mut self.created, base(name), "_created");
        if metric.kind != Kind::Histogram {
            return;
        }
        compose(&mut self.created, name, "_created");
        compose(&mut self.bucket, name, "_bucket{");
        compose(&mut self.sum, name, "_sum");
        compose(&mut self.count, name, "_count");
        self.bounds.clear();
        self.ends.clear();
        let bounds = spaced(metric.bounds, dialect.doublings).map(|exponent| number::boundary(exponent, dialect.open));
        for bound in bounds.chain(["+Inf"]) {
            for part in ["le=\"", bound, "\"} "] {
                self.bounds.extend_from_slice(part.as_bytes());
            }
            self.ends.push(self.bounds.len());
        }
    }

    fn bound(&self, index: usize) -> &[u8] {
        let from = if index == 0 { 0 } else { self.ends[index - 1] };
        &self.bounds[from..self.ends[index]]
    }
}

struct Lines<'a> {
    names: &'a Names,
    dialect: Dialect,
    out: &'a mut Vec<u8>,
}

impl Lines<'_> {
    /// Begins a line: name, labels and the space before the value.
    #[inline]
    fn begin(&mut self, name: &[u8], labels: [&[u8]; 2]) {
        let [entity, dimensions] = labels;
        self.out.reserve(name.len() + entity.len() + dimensions.len() + 32);
        self.out.extend_from_slice(name);
        if entity.is_empty() && dimensions.is_empty() {
            self.out.push(b' ');
            return;
        }
        self.out.push(b'{');
        self.out.extend_from_slice(entity);
        if !entity.is_empty() && !dimensions.is_empty() {
            self.out.push(b',');
        }
        self.out.extend_from_slice(dimensions);
        self.out.extend_from_slice(b"} ");
    }

    #[inline]
    fn bucket(&mut self, labels: [&[u8]; 2], index: usize, count: u64) {
        let bound = self.names.bound(index);
        self.out.reserve(self.names.bucket.len() + labels[0].len() + labels[1].len() + bound.len() + 32);
        self.out.extend_from_slice(&self.names.bucket);
        for part in labels {
            if !part.is_empty() {
                self.out.extend_from_slice(part);
                self.out.push(b',');
            }
        }
        self.out.extend_from_slice(bound);
        number::integer(self.out, count);
        self.out.push(b'\n');
    }

    fn created(&mut self, labels: [&[u8]; 2], start: Option<u64>) {
        if let Some(start) = start.filter(|_| self.dialect.open && self.dialect.created) {
            self.begin(&self.names.created, labels);
            number::timestamp(self.out, start);
            self.out.push(b'\n');
        }
    }
}

impl Writer for Lines<'_> {
    const SYNTAX: Syntax = Syntax::Text;

    #[inline]
    fn number(&mut self, labels: [&[u8]; 2], kind: Kind, point: &NumberPoint) {
        self.begin(&self.names.plain, labels);
        number::value(self.out, point.value);
        self.out.push(b'\n');
        if kind == Kind::Counter {
            self.created(labels, block::start(&point.series));
        }
    }

    fn histogram(&mut self, labels: [&[u8]; 2], metric: &Metric, point: &HistogramPoint, counts: &[u64]) {
        let bounds = spaced(metric.bounds, self.dialect.doublings);
        block::cumulative(bounds, point, counts, |index, _, count| self.bucket(labels, index, count));
        self.bucket(labels, self.names.ends.len() - 1, point.count);
        self.begin(&self.names.sum, labels);
        number::float(self.out, point.sum);
        self.out.push(b'\n');
        self.begin(&self.names.count, labels);
        number::integer(self.out, point.count);
        self.out.push(b'\n');
        self.created(labels, block::start(&point.series));
    }
}
