//! Quantiles of the kernel's histogram against those of an exact one on the same calls.

use hdrhistogram::Histogram;
use opentelemetry_proto::tonic::metrics::v1::ExponentialHistogramDataPoint;

use crate::harness::agent::{Agent, Wish};
use crate::harness::cgroup::Cgroup;
use crate::harness::otlp::Receiver;
use crate::harness::{eventually, live, stimulus};

/// Gives the bounds of the bucket in which the quantile lies.
fn bucket(histogram: &ExponentialHistogramDataPoint, quantile: f64) -> (f64, f64) {
    let rank = (quantile * histogram.count as f64).ceil().max(1.0) as u64;
    let buckets = histogram.positive.as_ref().unwrap();
    let base = (-f64::from(histogram.scale)).exp2().exp2();
    let mut below = histogram.zero_count;
    for (index, count) in buckets.bucket_counts.iter().enumerate() {
        below += count;
        if below >= rank {
            let lower = base.powi(buckets.offset + i32::try_from(index).unwrap());
            return (lower, lower * base);
        }
    }
    panic!("rank {rank} of {histogram:?}");
}

#[test]
fn quantiles_lie_within_the_bound() {
    let _kernel = live!();
    for scale in [0, 2] {
        quantiles(scale);
    }
}

fn quantiles(scale: i32) {
    let receiver = Receiver::start();
    let syscalls = format!("latency: all, latency_by_syscall: [nanosleep], latency_scale: {scale}");
    let agent = Agent::start(Wish { syscalls: &syscalls, otlp: Some(receiver.address()), ..Wish::default() });
    let cgroup = Cgroup::new("quantiles");
    let done = stimulus::run(&cgroup, &["mixed_sleeps=500"]);
    let mut exact = Histogram::<u64>::new(3).unwrap();
    for sample in done["samples"].as_array().unwrap() {
        exact.record(sample.as_u64().unwrap()).unwrap();
    }
    let labels = [("cgroup.path", cgroup.path()), ("syscall", "nanosleep")];
    let histogram = eventually("all sleeps are exported", || {
        receiver.histogram("ebpf_syscall_latency_ns", &labels).filter(|histogram| histogram.count == exact.len())
    });
    assert_eq!(histogram.scale, scale);
    for quantile in [0.01, 0.25, 0.5, 0.9, 0.99, 1.0] {
        // The clock in user space also sees the way in and out, so it never says less than the kernel; how much more
        // depends on what else runs, hence twice as much above.
        let (lower, upper) = bucket(&histogram, quantile);
        let value = exact.value_at_quantile(quantile) as f64;
        assert!(lower < value && value <= upper * 2.0, "scale {scale}, {quantile}: {lower} < {value} <= {upper}");
    }
    agent.stop();
}
