//! What the reader counts of itself.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use opentelemetry::metrics::MeterProvider as _;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::metrics::data::{AggregatedMetrics, MetricData, ResourceMetrics, ScopeMetrics};
use opentelemetry_sdk::metrics::reader::MetricReader;
use opentelemetry_sdk::metrics::{InstrumentKind, ManualReader, Pipeline, SdkMeterProvider, Temporality};
use telesonde_export::http::Limits;
use telesonde_export::http::auth::Auth;
use telesonde_export::prometheus::{Options, bind};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use crate::fixture::{Gathers, everything};
use crate::server::{Running, options};

#[derive(Clone, Debug)]
struct Reader(Arc<ManualReader>);

impl MetricReader for Reader {
    fn register_pipeline(&self, pipeline: Weak<Pipeline>) {
        self.0.register_pipeline(pipeline);
    }

    fn collect(&self, metrics: &mut ResourceMetrics) -> OTelSdkResult {
        self.0.collect(metrics)
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.0.shutdown_with_timeout(timeout)
    }

    fn temporality(&self, kind: InstrumentKind) -> Temporality {
        self.0.temporality(kind)
    }
}

impl Reader {
    /// Gives all counters by name and attribute values.
    fn counters(&self) -> BTreeMap<String, u64> {
        let mut data = ResourceMetrics::default();
        self.0.collect(&mut data).unwrap();
        let metrics = data.scope_metrics().flat_map(ScopeMetrics::metrics);
        let mut all = BTreeMap::new();
        for metric in metrics {
            if let AggregatedMetrics::U64(MetricData::Sum(sum)) = metric.data() {
                for point in sum.data_points() {
                    let values: Vec<_> = point.attributes().map(|attribute| attribute.value.to_string()).collect();
                    all.insert(format!("{} {}", metric.name(), values.join(" ")), point.value());
                }
            }
        }
        all
    }
}

#[tokio::test]
async fn scrapes_are_counted_by_outcome() {
    let reader = Reader(Arc::new(ManualReader::builder().build()));
    let provider = SdkMeterProvider::builder().with_reader(reader.clone()).build();
    let options = Options {
        auth: Some(Auth::Basic { username: "u".to_owned(), password: "p".to_owned() }),
        limits: Limits { connections: 1, ..Limits::default() },
        ..options()
    };
    let server = bind(options, Gathers::new(everything(), 2), &provider.meter("test")).unwrap();
    let server = Running::start(server);
    let credentials = "Authorization: Basic dTpw\r\n";
    let mut bytes = 0;
    for _ in 0..2 {
        bytes += server.ask_when_free("GET", "/metrics", credentials).await.1.len();
    }
    server.ask_when_free("GET", "/metrics", "").await;
    let impatient = format!("{credentials}X-Prometheus-Scrape-Timeout-Seconds: 0.01\r\n");
    server.ask_when_free("GET", "/metrics", &impatient).await;
    let counters = reader.counters();
    assert_eq!(counters["telesonde_scrapes success"], 2);
    assert_eq!(counters["telesonde_scrapes unauthorized"], 1);
    assert_eq!(counters["telesonde_scrapes timeout"], 1);
    assert_eq!(counters["telesonde_export_bytes prometheus"], bytes as u64);
    assert_eq!(counters["telesonde_export_points prometheus"], 20);

    let refused = |counters: &BTreeMap<String, u64>| counters.get("telesonde_scrapes refused").copied().unwrap_or(0);
    let before = refused(&counters);
    let first = server.hold().await;
    let mut second = TcpStream::connect(server.address).await.unwrap();
    assert!(second.read_u8().await.is_err());
    assert_eq!(refused(&reader.counters()), before + 1);
    drop(first);
}
