//! Delivery over both transports with every compression, partial success, limits, and receivers that do not answer.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use export::otlp::{Compression, Endpoint, Options, Protocol};
use opentelemetry::metrics::MeterProvider;
use opentelemetry_proto::tonic::collector::metrics::v1::{ExportMetricsPartialSuccess, ExportMetricsServiceResponse};
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::metrics::data::{AggregatedMetrics, MetricData, ResourceMetrics, ScopeMetrics, SumDataPoint};
use opentelemetry_sdk::metrics::exporter::PushMetricExporter;
use opentelemetry_sdk::metrics::{PeriodicReader, SdkMeterProvider, Temporality};
use prost::Message;
use tokio::net::TcpListener;

use crate::collector::{Collector, Reply, Running, export_once, meter, options};
use crate::data::Clock;
use crate::flat::expected;
use crate::web::{Web, reply_with};

const COMPRESSIONS: [Compression; 3] = [Compression::None, Compression::Gzip, Compression::Zstd];

#[tokio::test]
async fn grpc_delivers_with_every_compression() {
    for compression in COMPRESSIONS {
        let collector = Collector::start().await;
        let clock = Clock::new(5);
        let headers = vec![("x-tenant".to_owned(), "seven".to_owned())];
        let status = export_once(Options { compression, headers, ..collector.options() }, &clock).await;
        assert!(status.last_success.is_some(), "{status:?}");
        assert_eq!(collector.log.accepted(), expected(&clock.world.snapshot(1), false, false));
        assert_eq!(clock.acknowledged(), [1]);
        let metadata = &collector.log.received()[0].metadata;
        assert_eq!(metadata.get("x-tenant").unwrap(), "seven");
        assert!(metadata.get("user-agent").unwrap().to_str().unwrap().starts_with("telesonde/"));
        let encoding = metadata.get("grpc-encoding").map(|value| value.to_str().unwrap());
        assert_eq!(encoding.is_none(), compression == Compression::None);
    }
}

#[tokio::test]
async fn http_delivers_with_every_compression_to_the_url_as_given() {
    for compression in COMPRESSIONS {
        let web = Web::start([]).await;
        let clock = Clock::new(5);
        let headers = vec![("Authorization".to_owned(), "Bearer x".to_owned())];
        let settings = Options { compression, headers, protocol: Protocol::Http, ..options(web.url.clone()) };
        let status = export_once(settings, &clock).await;
        assert!(status.last_success.is_some(), "{status:?}");
        let posts = web.received();
        assert_eq!(posts.len(), 1);
        assert_eq!(posts[0].path, "/v1/metrics?tenant=7");
        assert_eq!(posts[0].headers["content-type"], "application/x-protobuf");
        assert_eq!(posts[0].headers["authorization"], "Bearer x");
        assert_eq!(posts[0].points(), expected(&clock.world.snapshot(1), false, false));
        assert_eq!(clock.acknowledged(), [1]);
    }
}

#[tokio::test]
async fn large_snapshots_pass_a_receiver_with_the_usual_limit() {
    let collector = Collector::start().await;
    let clock = Clock::new(12_000);
    let status = export_once(Options { compression: Compression::None, ..collector.options() }, &clock).await;
    assert!(status.last_success.is_some(), "{status:?}");
    let requests = collector.log.received();
    assert!(requests.len() > 1);
    assert!(requests.iter().all(|at| at.request.encoded_len() < 4 << 20));
    assert_eq!(collector.log.accepted().len(), 48_002);
}

#[tokio::test]
async fn partial_success_is_counted_and_not_repeated() {
    let exporter = Sums::default();
    let provider = SdkMeterProvider::builder().with_reader(PeriodicReader::builder(exporter.clone()).build()).build();
    let meter = provider.meter("test");
    let collector = Collector::start().await;
    let partial = ExportMetricsPartialSuccess { rejected_data_points: 3, error_message: "too old".to_owned() };
    let body = ExportMetricsServiceResponse { partial_success: Some(partial) }.encode_to_vec();
    let web = Web::start([reply_with(200, &[], &body)]).await;
    collector.log.will([Reply::Partial(3, "too old")]);
    let http = Options { protocol: Protocol::Http, ..options(web.url.clone()) };
    for settings in [collector.options(), http] {
        let clock = Clock::new(5);
        let endpoint = Endpoint::new(settings, clock.clone(), &meter).unwrap();
        endpoint.run(async {}, Duration::from_secs(20)).await;
        assert_eq!(clock.acknowledged(), [1]);
    }
    assert_eq!((collector.log.received().len(), web.received().len()), (1, 1));
    provider.force_flush().unwrap();
    let found = exporter.0.lock().unwrap();
    assert_eq!(found["telesonde_export_rejected_points"], 6);
    assert_eq!(found["telesonde_export_points"], 2 * (22 - 3));
    assert_eq!(found["telesonde_export_requests"], 2);
    assert!(found["telesonde_export_bytes"] > 0);
}

/// The sums of the SDK's counters, by name.
#[derive(Clone, Default)]
struct Sums(Arc<Mutex<BTreeMap<String, u64>>>);

impl PushMetricExporter for Sums {
    async fn export(&self, found: &ResourceMetrics) -> OTelSdkResult {
        for metric in found.scope_metrics().flat_map(ScopeMetrics::metrics) {
            if let AggregatedMetrics::U64(MetricData::Sum(sum)) = metric.data() {
                let sum = sum.data_points().map(SumDataPoint::value).sum();
                self.0.lock().unwrap().insert(metric.name().to_owned(), sum);
            }
        }
        Ok(())
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }

    fn temporality(&self) -> Temporality {
        Temporality::Cumulative
    }
}

#[tokio::test]
async fn a_receiver_that_never_answers_does_not_hold_up_the_shutdown() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    for protocol in [Protocol::Grpc, Protocol::Http] {
        let clock = Clock::new(2);
        let url = format!("http://{}", listener.local_addr().unwrap());
        let settings = Options { protocol, timeout: Duration::from_mins(10), ..options(url) };
        let running = Running::start(settings, &clock, Duration::from_millis(100));
        while clock.taken() == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        running.stop().await;
        assert!(clock.acknowledged().is_empty());
    }
}

#[tokio::test]
async fn a_receiver_that_never_answers_is_given_up_after_the_timeout() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let clock = Clock::new(2);
    let url = format!("http://{}", listener.local_addr().unwrap());
    let settings = Options { timeout: Duration::from_millis(10), ..options(url) };
    let mut running = Running::start(settings, &clock, Duration::from_millis(100));
    let status = running.until(|status| status.consecutive_failures >= 3).await;
    let error = status.last_error.unwrap();
    assert!(error.contains("otlp endpoint main (http://127.0.0.1:") && error.contains("no answer within"), "{error}");
    assert!(!status.connected);
    running.stop().await;
}

#[tokio::test]
async fn a_slow_answer_at_shutdown_is_waited_for() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let clock = Clock::new(2);
    let url = format!("http://{}/v1/metrics", listener.local_addr().unwrap());
    let running = Running::start(Options { protocol: Protocol::Http, ..options(url) }, &clock, Duration::from_secs(20));
    let (mut stream, _) = listener.accept().await.unwrap();
    let answer = tokio::spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut seen = vec![0; 1 << 16];
        loop {
            tokio::time::sleep(Duration::from_millis(50)).await;
            if stream.read(&mut seen).await.unwrap() == 0 {
                return;
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        }
    });
    running.stop().await;
    assert_eq!(clock.acknowledged(), [1, 2]);
    answer.await.unwrap();
}

#[tokio::test]
async fn old_connections_are_dialled_anew() {
    let web = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/v1/metrics", web.local_addr().unwrap());
    let clock = Clock::new(1);
    let settings = Options { protocol: Protocol::Http, max_connection_age: Duration::from_millis(1), ..options(url) };
    let running = Running::start(settings, &clock, Duration::from_secs(1));
    for _ in 0..3 {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let (mut stream, _) = web.accept().await.unwrap();
        let mut seen = vec![0; 1 << 16];
        assert!(stream.read(&mut seen).await.unwrap() > 0);
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    }
    drop(web);
    running.stop().await;
    assert!(clock.acknowledged().len() >= 2);
}

#[tokio::test]
async fn errors_name_the_endpoint_the_url_and_the_fix() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let web = Web::start([]).await;
    let grpc_at_http = web.url.split("/v1").next().unwrap().to_owned();
    let cases = [
        (format!("http://{free}"), "refused", "check that the receiver runs"),
        ("http://host.invalid:4317".to_owned(), "cannot resolve host.invalid", "DNS"),
        (grpc_at_http.clone(), "broke", "check that the port speaks gRPC"),
        (grpc_at_http.replace("http", "https"), "TLS failed", "write http://"),
    ];
    for (url, cause, fix) in cases {
        let clock = Clock::new(1);
        let mut running = Running::start(options(url.clone()), &clock, Duration::from_secs(1));
        running.failures(1).await;
        let error = running.status.borrow().last_error.clone().unwrap();
        running.stop().await;
        for part in ["otlp endpoint main", &url, cause, fix] {
            assert!(error.contains(part), "`{part}` is not in `{error}`");
        }
    }
}

#[tokio::test]
async fn settings_out_of_range_are_named() {
    let valid = || options("http://localhost:4317".to_owned());
    let cases = [
        ("interval", Options { interval: Duration::ZERO, ..valid() }),
        ("timeout", Options { timeout: Duration::MAX, ..valid() }),
        ("max_connection_age", Options { max_connection_age: Duration::ZERO, ..valid() }),
        ("request_limit", Options { request_limit: 0, ..valid() }),
        ("endpoint `localhost:4317`", Options { endpoint: "localhost:4317".to_owned(), ..valid() }),
    ];
    for (key, settings) in cases {
        let error = Endpoint::new(settings, Clock::new(1), &meter()).err().unwrap().to_string();
        assert!(error.starts_with("otlp endpoint main: ") && error.contains(key), "{error}");
    }
}
