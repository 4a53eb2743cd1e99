//! The protobuf exposition, decoded with prost.

use model::Metric;
use telesonde_export::prometheus::{Format, Style, encode, encode_with};

use crate::client::{self, BucketSpan, MetricFamily, Timestamp};
use crate::encode::golden;
use crate::fixture::{attributes, everything, histogram, histograms, series, snapshot};

static H: Metric = Metric::histogram("h", "{ns}", "H.", &[], &[0, 2]);

fn one(zero: u64, scale: i8, first: i32, counts: &[u64]) -> client::Histogram {
    let node = attributes(&[]);
    let mut out = Vec::new();
    let family = histograms(&H, vec![histogram(series(&node, &[]), zero, scale, first, counts)]);
    encode(&snapshot(vec![family]), Format::Protobuf, &mut out);
    client::decode(&out)[0].metric[0].histogram.clone().unwrap()
}

#[test]
fn protobuf_is_as_recorded() {
    let mut out = Vec::new();
    let style = Style { classic_histograms: true, ..Style::default() };
    encode_with(&everything(), Format::Protobuf, style, &mut out);
    let families = client::decode(&out);
    // The oracle writes the same bytes as far as it goes: nothing is encoded in a way of our own.
    let sizes: usize = families.iter().map(prost::Message::encoded_len).sum();
    assert!(sizes <= out.len());
    golden("prometheus.pb.txt", format!("{families:#?}\n").as_bytes());
}

#[test]
fn kinds_values_and_created_timestamps_arrive() {
    let mut out = Vec::new();
    encode(&everything(), Format::Protobuf, &mut out);
    let families = client::decode(&out);
    let find = |name: &str| -> &MetricFamily { families.iter().find(|family| family.name == name).unwrap() };
    let calls = find("ebpf_syscall_count_total");
    assert_eq!((calls.r#type, calls.metric.len(), &*calls.help), (0, 4, "Calls that returned to user space."));
    let counter = calls.metric[1].counter.clone().unwrap();
    assert_eq!(counter.value, Some(7.0));
    assert_eq!(counter.created_timestamp, Some(Timestamp { seconds: 1_700_000_000, nanos: 250_000_000 }));
    let label = &calls.metric[1].label[0];
    assert_eq!((&*label.name, &*label.value), ("k8s_pod_name", "joined;a\\b\"c\nd\re\u{1}é"));
    let memory = find("cgroup_memory_usage_bytes");
    assert_eq!((memory.r#type, &*memory.unit), (1, "bytes"));
    assert!(memory.metric[0].gauge.clone().unwrap().value.unwrap().is_nan());
    let latency = find("ebpf_syscall_latency_ns");
    assert_eq!(latency.r#type, 4);
    let first = latency.metric[0].histogram.clone().unwrap();
    assert_eq!((first.sample_count, first.zero_count, first.schema), (11, 2, Some(0)));
    assert_eq!(first.bucket, []);
    assert!(first.created_timestamp.is_some());
    assert_eq!(find("target_info").metric[0].gauge.clone().unwrap().value, Some(1.0));
}

#[test]
fn buckets_keep_their_index() {
    let cases: [(i32, &[u64]); 4] = [(0, &[1]), (-3, &[2, 0, 0, 5, 1]), (10, &[1, 0, 0, 0, 0, 9]), (5, &[0, 3, 3, 0])];
    for (first, counts) in cases {
        let expected: Vec<_> =
            counts.iter().zip(first..).filter(|(count, _)| **count != 0).map(|(count, i)| (i, *count as i64)).collect();
        assert_eq!(one(0, 3, first, counts).buckets(), expected, "{counts:?}");
    }
}

#[test]
fn short_gaps_are_bridged_and_long_ones_begin_a_span() {
    let span = |offset, length| BucketSpan { offset, length };
    assert_eq!(one(0, 0, 4, &[1, 0, 0, 2]).positive_span, [span(4, 4)]);
    assert_eq!(one(0, 0, 4, &[1, 0, 0, 2]).positive_delta, [1, -1, 0, 2]);
    assert_eq!(one(0, 0, 4, &[1, 0, 0, 0, 2]).positive_span, [span(4, 1), span(3, 1)]);
    assert_eq!(one(0, 0, 4, &[1, 0, 0, 0, 2]).positive_delta, [1, 1]);
}

#[test]
fn an_empty_histogram_is_still_a_native_one() {
    let empty = one(0, 0, 0, &[]);
    assert_eq!(empty.positive_span, [BucketSpan { offset: 0, length: 0 }]);
    assert_eq!((empty.schema, empty.sample_count), (Some(0), 0));
    assert_eq!(one(3, 0, 0, &[0, 0]).zero_count, 3);
}

#[test]
fn scales_beyond_what_prometheus_reads_are_merged_or_classic() {
    // Four slots of scale 10 are one of scale 8; slot 4 is the last of bucket 1, slot 5 the first of bucket 2.
    let fine = one(0, 10, 1, &[1, 1, 1, 1, 1]);
    assert_eq!((fine.schema, fine.buckets()), (Some(8), vec![(1, 4), (2, 1)]));
    let negative = one(0, 9, -3, &[1, 1, 1, 1, 1]);
    assert_eq!(negative.buckets(), [(-1, 2), (0, 2), (1, 1)]);
    let coarse = one(0, -5, 0, &[1, 1]);
    assert_eq!((coarse.schema, coarse.positive_span.len(), coarse.bucket.len()), (None, 0, 2));
}
