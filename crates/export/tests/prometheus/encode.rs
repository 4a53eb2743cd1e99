//! The text expositions, byte by byte.

use model::{Metric, Value};
use telesonde_export::prometheus::{Counts, Format, Style, encode, encode_with};

use crate::fixture::{attributes, everything, histogram, histograms, numbers, series, snapshot};

/// Compares with a golden file; with `TELESONDE_BLESS` set, writes it instead.
pub fn golden(name: &str, found: &[u8]) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("TELESONDE_BLESS").is_some() {
        std::fs::write(&path, found).unwrap();
    }
    let expected = std::fs::read(&path).unwrap();
    assert_eq!(String::from_utf8_lossy(found), String::from_utf8_lossy(&expected), "{name}");
}

fn text(format: Format, families: Vec<model::Family>) -> (String, Counts) {
    let mut out = Vec::new();
    let counts = encode(&snapshot(families), format, &mut out);
    (String::from_utf8(out).unwrap(), counts)
}

#[test]
fn text_is_as_recorded() {
    let mut out = Vec::new();
    assert_eq!(encode(&everything(), Format::Text, &mut out), Counts { points: 10, conflicts: 0 });
    golden("prometheus.txt", &out);
}

#[test]
fn openmetrics_is_as_recorded() {
    let mut out = Vec::new();
    let style = Style { created: true, ..Style::default() };
    encode_with(&everything(), Format::OpenMetrics, style, &mut out);
    golden("openmetrics.txt", &out);
}

#[test]
fn created_samples_are_a_choice() {
    let mut out = Vec::new();
    encode(&everything(), Format::OpenMetrics, &mut out);
    assert!(!String::from_utf8(out).unwrap().contains("_created"));
}

#[test]
fn encoding_appends() {
    let mut out = b"before".to_vec();
    encode(&snapshot(vec![]), Format::Text, &mut out);
    assert!(out.starts_with(b"before# HELP target_info"));
}

#[test]
fn another_kind_under_the_same_name_is_left_out_and_counted() {
    static GAUGE: Metric = Metric::gauge("x.total", "1", "A gauge.", &[]);
    static COUNTER: Metric = Metric::counter("x", "1", "A counter.", &[]);
    let node = attributes(&[]);
    let (text, counts) = text(
        Format::Text,
        vec![
            numbers(&COUNTER, vec![(series(&node, &[]), Value::U64(1))]),
            numbers(&GAUGE, vec![(series(&node, &[]), Value::U64(2)), (series(&node, &[("a", "b")]), Value::U64(3))]),
        ],
    );
    assert!(
        text.starts_with("# HELP x_total A counter.\n# TYPE x_total counter\nx_total 1\n# HELP target_info"),
        "{text}"
    );
    assert_eq!(counts, Counts { points: 1, conflicts: 2 });
}

#[test]
fn the_same_labels_from_two_scopes_appear_once() {
    static COUNTER: Metric = Metric::counter("x", "1", "A counter.", &[]);
    let node = attributes(&[]);
    let both = attributes(&[("a", "1"), ("b", "2")]);
    let one = attributes(&[("a", "1")]);
    for format in [Format::Text, Format::Protobuf] {
        let families = vec![
            numbers(&COUNTER, vec![(series(&both, &[]), Value::U64(1)), (series(&node, &[]), Value::U64(5))]),
            numbers(&COUNTER, vec![(series(&one, &[("b", "2")]), Value::U64(2)), (series(&one, &[]), Value::U64(3))]),
        ];
        let counts = encode(&snapshot(families), format, &mut Vec::new());
        assert_eq!(counts, Counts { points: 3, conflicts: 1 }, "{format:?}");
    }
}

#[test]
fn classic_buckets_are_exact_at_every_scale() {
    static H: Metric = Metric::histogram("h", "{ns}", "H.", &[], &[0, 1, 2, 3]);
    let node = attributes(&[]);
    // One value in each of the slots that end at 2^0 .. 2^3, at 1, 2 and 8 slots a doubling.
    for (scale, width) in [(0, 1), (1, 2), (3, 8)] {
        let mut counts = vec![0; 3 * width + 1];
        for power in 0..4 {
            counts[power * width] = 1;
        }
        let (text, _) =
            text(Format::Text, vec![histograms(&H, vec![histogram(series(&node, &[]), 1, scale, 0, &counts)])]);
        for (bound, count) in [("1", 2), ("2", 3), ("4", 4), ("8", 5), ("+Inf", 5)] {
            assert!(text.contains(&format!("h_bucket{{le=\"{bound}\"}} {count}\n")), "scale {scale}: {text}");
        }
    }
}

#[test]
fn coarse_scales_never_count_a_value_too_low() {
    static H: Metric = Metric::histogram("h", "{ns}", "H.", &[], &[1, 2, 3, 4]);
    let node = attributes(&[]);
    // At scale -1 slot 1 is (1, 4] and slot 2 is (4, 16].
    let (text, _) = text(Format::Text, vec![histograms(&H, vec![histogram(series(&node, &[]), 0, -1, 1, &[1, 1])])]);
    for (bound, count) in [("2", 0), ("4", 1), ("8", 1), ("16", 2)] {
        assert!(text.contains(&format!("h_bucket{{le=\"{bound}\"}} {count}\n")), "{text}");
    }
}

#[test]
fn units_are_named_only_where_the_name_has_them() {
    static SECONDS: Metric = Metric::counter("a_seconds", "s", "", &[]);
    static SYSCALLS: Metric = Metric::counter("a_count", "{syscall}", "", &[]);
    static ODD: Metric = Metric::gauge("abytes", "By", "", &[]);
    let node = attributes(&[]);
    let family = |metric| numbers(metric, vec![(series(&node, &[]), Value::U64(1))]);
    let (text, _) = text(Format::OpenMetrics, vec![family(&SECONDS), family(&SYSCALLS), family(&ODD)]);
    assert!(text.contains("# TYPE a_seconds counter\n# UNIT a_seconds seconds\na_seconds_total 1\n"), "{text}");
    assert_eq!(text.matches("# UNIT").count(), 1, "{text}");
}
