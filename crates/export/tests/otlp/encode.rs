//! Encoded bodies, decoded by opentelemetry-proto and compared with the model.

use export::otlp::encode::{Encoder, Layout, Part};
use export::otlp::{Histogram, Workload};
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use prost::Message;

use crate::data::World;
use crate::flat::{Flat, expected, received};

fn decode(parts: &[Part]) -> Vec<Flat> {
    let mut all = Vec::new();
    for part in parts {
        let points = received(&ExportMetricsServiceRequest::decode(&*part.body).unwrap());
        assert_eq!(points.len() as u64, part.points);
        all.extend(points);
    }
    all
}

fn layouts(limit: usize) -> impl Iterator<Item = Layout> {
    [Histogram::Exponential, Histogram::Explicit].into_iter().flat_map(move |histogram| {
        [Workload::DataPoint, Workload::Resource].map(|workload| Layout { histogram, workload, limit })
    })
}

#[test]
fn every_point_arrives_whatever_the_layout_and_the_limit() {
    let world = World::new(9);
    for limit in [1, 300, 400, 1000, 5000, 1 << 20] {
        for layout in layouts(limit) {
            let mut encoder = Encoder::new(layout);
            for number in [1, 2, 5] {
                let snapshot = world.snapshot(number);
                let parts = encoder.parts(&snapshot);
                let by_entity = layout.workload == Workload::Resource;
                let mut found = decode(&parts);
                let mut wanted = expected(&snapshot, layout.histogram == Histogram::Explicit, by_entity);
                if by_entity {
                    found.sort_by(|a, b| a.partial_cmp(b).unwrap());
                    wanted.sort_by(|a, b| a.partial_cmp(b).unwrap());
                }
                assert_eq!(found, wanted, "{layout:?}");
                for part in &parts {
                    assert!(part.body.len() <= limit || part.points == 1, "{} bytes, {layout:?}", part.body.len());
                }
                assert_eq!(parts.len() == 1, limit == 1 << 20, "{layout:?}");
            }
        }
    }
}

#[test]
fn bodies_are_filled_up_to_the_limit() {
    let snapshot = World::new(200).snapshot(3);
    let layout = Layout { limit: 8000, ..Layout::default() };
    let parts = Encoder::new(layout).parts(&snapshot);
    for part in &parts[..parts.len() - 1] {
        assert!(part.body.len() > 7500, "{} bytes", part.body.len());
    }
}

#[test]
fn a_workload_has_one_resource_with_each_key_once() {
    let world = World::new(4);
    let layout = Layout { workload: Workload::Resource, ..Layout::default() };
    let parts = Encoder::new(layout).parts(&world.snapshot(1));
    let request = ExportMetricsServiceRequest::decode(&*parts[0].body).unwrap();
    assert_eq!(request.resource_metrics.len(), 5);
    for found in &request.resource_metrics {
        let mut keys: Vec<_> = found.resource.as_ref().unwrap().attributes.iter().map(|pair| &pair.key).collect();
        let all = keys.len();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), all);
    }
    let guest = &request.resource_metrics[0].resource.as_ref().unwrap().attributes;
    let host = guest.iter().find(|pair| pair.key == "host.name").unwrap();
    assert!(format!("{host:?}").contains("guest-0"));
}

#[test]
fn what_speaks_of_the_cluster_has_a_resource_without_the_node() {
    for layout in layouts(1 << 20) {
        let mut snapshot = World::new(2).snapshot(1);
        snapshot.families[1].of_cluster = true;
        let parts = Encoder::new(layout).parts(&snapshot);
        let mut found = decode(&parts);
        let about = |flat: &Flat| flat.metric[0] == *snapshot.families[1].metric.name;
        let node = |flat: &Flat| flat.resource.iter().any(|(key, value)| key == "host.name" && value == "node-a");
        assert!(
            found.iter().any(about) && found.iter().filter(|flat| about(flat)).all(|flat| !node(flat)),
            "{layout:?}"
        );
        assert!(found.iter().any(|flat| !about(flat) && node(flat)), "{layout:?}");
        // But for that they are the same.
        let service = |flat: &Flat| flat.resource.iter().any(|(key, _)| key == "service.name");
        assert!(found.iter().all(service));
        let mut same = decode(&Encoder::new(layout).parts(&World::new(2).snapshot(1)));
        for all in [&mut found, &mut same] {
            for flat in all.iter_mut() {
                flat.resource.clear();
            }
            all.sort_by(|a, b| a.partial_cmp(b).unwrap());
        }
        assert_eq!(found, same);
    }
}

#[test]
fn nothing_makes_no_request() {
    let mut snapshot = World::new(1).snapshot(1);
    snapshot.families.clear();
    assert!(Encoder::default().parts(&snapshot).is_empty());
}
