//! How long an encoding of 100,000 series takes: run by hand, in release, with `--ignored --nocapture`.

use std::sync::Arc;
use std::time::Instant;

use model::{Series, Value};
use telesonde_export::prometheus::{Format, encode};

use crate::fixture::{self, attributes, numbers, snapshot};

#[test]
#[ignore = "prints figures, checks nothing"]
fn print_the_time_of_100_000_series() {
    const CALLS: usize = 100;
    let calls: Vec<_> = (0..CALLS).map(|call| attributes(&[("syscall", &format!("call_{call}"))])).collect();
    let mut points = Vec::new();
    for pod in 0..1000 {
        let entity = attributes(&[
            ("k8s.namespace.name", "production"),
            ("k8s.pod.name", &format!("frontend-7d9c5b6f4-{pod:05}")),
            ("k8s.container.name", "server"),
            ("k8s.deployment.name", "frontend"),
        ]);
        for (call, dimensions) in calls.iter().enumerate() {
            let series =
                Series { id: 0, entity: entity.clone(), dimensions: dimensions.clone(), start: fixture::START };
            points.push((Arc::new(series), Value::U64((pod * call) as u64 * 7919)));
        }
    }
    let snapshot = snapshot(vec![numbers(&fixture::CALLS, points)]);
    for format in [Format::Text, Format::OpenMetrics, Format::Protobuf] {
        let mut out = Vec::new();
        for round in 0..6 {
            out.clear();
            let began = Instant::now();
            encode(&snapshot, format, &mut out);
            println!("{format:?} round {round}: {:?}, {} bytes", began.elapsed(), out.len());
        }
    }
}
