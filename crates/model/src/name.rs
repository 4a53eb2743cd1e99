//! Which conventions names follow, and how they are written in Prometheus.

use std::borrow::Cow;

use crate::metric::{Kind, Metric};

/// The schema of the OpenTelemetry semantic conventions whose attribute keys are used.
pub const SCHEMA_URL: &str = "https://opentelemetry.io/schemas/1.42.0";

/// Gives the Prometheus family name: dots become underscores and a counter ends in `_total`.
///
/// Nothing else is appended (metrics.md), so that scrape and OTLP translation agree.
pub fn prometheus(metric: &Metric) -> Cow<'_, str> {
    let base = label(&metric.name);
    if metric.kind == Kind::Counter && !base.ends_with("_total") { Cow::Owned(format!("{base}_total")) } else { base }
}

/// Gives the Prometheus label of an attribute key: every character outside `[a-zA-Z0-9_]` becomes `_`.
pub fn label(key: &str) -> Cow<'_, str> {
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let leading_digit = key.starts_with(|c: char| c.is_ascii_digit());
    if !leading_digit && key.chars().all(legal) {
        return Cow::Borrowed(key);
    }
    let mut out = String::with_capacity(key.len() + 1);
    if leading_digit {
        out.push('_');
    }
    out.extend(key.chars().map(|c| if legal(c) { c } else { '_' }));
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_end_in_total_once() {
        static PLAIN: Metric = Metric::counter("ebpf_syscall_count", "{syscall}", "h", &[]);
        static TOTAL: Metric = Metric::counter("ebpf_network_bytes_total", "By", "h", &[]);
        static GAUGE: Metric = Metric::gauge("process.open", "By", "h", &[]);
        assert_eq!(prometheus(&PLAIN), "ebpf_syscall_count_total");
        assert_eq!(prometheus(&TOTAL), "ebpf_network_bytes_total");
        assert_eq!(prometheus(&GAUGE), "process_open");
    }

    #[test]
    fn labels_are_legal() {
        assert_eq!(label("k8s.pod.name"), "k8s_pod_name");
        assert_eq!(label("1x-y"), "_1x_y");
    }
}
