//! Which answers are followed by another attempt, over both transports.

use std::sync::Arc;
use std::time::Duration;

use export::otlp::{Options, Protocol};
use prost::Message;
use tonic::{Code, Status};

use crate::collector::{Collector, Reply, Running, export_once, options};
use crate::data::Clock;
use crate::web::{Web, reply_with};

/// `google.rpc.Status` with a `RetryInfo`, as a receiver would send it.
fn retry_info(code: Code, delay: Duration) -> Status {
    #[derive(Clone, PartialEq, Message)]
    struct Info {
        #[prost(message, optional, tag = "1")]
        delay: Option<prost_duration::Duration>,
    }
    #[derive(Clone, PartialEq, Message)]
    struct Any {
        #[prost(string, tag = "1")]
        type_url: String,
        #[prost(bytes = "vec", tag = "2")]
        value: Vec<u8>,
    }
    #[derive(Clone, PartialEq, Message)]
    struct Details {
        #[prost(int32, tag = "1")]
        code: i32,
        #[prost(message, repeated, tag = "3")]
        details: Vec<Any>,
    }
    mod prost_duration {
        #[derive(Clone, PartialEq, prost::Message)]
        pub struct Duration {
            #[prost(int64, tag = "1")]
            pub seconds: i64,
            #[prost(int32, tag = "2")]
            pub nanos: i32,
        }
    }
    let delay = prost_duration::Duration { seconds: delay.as_secs() as i64, nanos: delay.subsec_nanos() as i32 };
    let value = Info { delay: Some(delay) }.encode_to_vec();
    let any = Any { type_url: "type.googleapis.com/google.rpc.RetryInfo".to_owned(), value };
    let details = Details { code: code as i32, details: vec![any] }.encode_to_vec();
    Status::with_details(code, "busy", details.into())
}

async fn attempts_over_grpc(status: Status) -> (usize, Arc<Clock>) {
    let collector = Collector::start().await;
    collector.log.will([Reply::Refuse(status)]);
    let clock = Clock::new(1);
    export_once(collector.options(), &clock).await;
    (collector.log.received().len(), clock)
}

#[tokio::test]
async fn grpc_codes_are_retried_as_the_specification_says() {
    for code in (1..=16).map(Code::from) {
        let retried = matches!(
            code,
            Code::Cancelled
                | Code::DeadlineExceeded
                | Code::Aborted
                | Code::OutOfRange
                | Code::Unavailable
                | Code::DataLoss
        );
        let (attempts, clock) = attempts_over_grpc(Status::new(code, "no")).await;
        assert_eq!(attempts, if retried { 2 } else { 1 }, "{code:?}");
        assert_eq!(clock.acknowledged().len(), usize::from(retried), "{code:?}");
        assert_eq!(clock.taken(), 1, "{code:?}: an attempt is repeated with what it had");
    }
}

#[tokio::test]
async fn exhausted_receivers_are_retried_only_when_they_say_when() {
    let (attempts, _) = attempts_over_grpc(retry_info(Code::ResourceExhausted, Duration::from_millis(1))).await;
    assert_eq!(attempts, 2);
    let (attempts, _) = attempts_over_grpc(retry_info(Code::InvalidArgument, Duration::from_millis(1))).await;
    assert_eq!(attempts, 1);
}

#[tokio::test]
async fn no_attempt_is_made_before_the_receiver_wants_one() {
    let collector = Collector::start().await;
    collector.log.will([Reply::Refuse(retry_info(Code::Unavailable, Duration::from_secs(1000)))]);
    let clock = Clock::new(1);
    let mut running = Running::start(collector.options(), &clock, Duration::from_secs(20));
    running.failures(1).await;
    // Several intervals pass without an export, or even a gather.
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!((collector.log.received().len(), clock.taken()), (1, 1));
    running.stop().await;
    assert_eq!(clock.acknowledged(), [2], "the last export at shutdown does not wait");
}

#[tokio::test]
async fn http_statuses_are_retried_as_the_specification_says() {
    let cases = [400, 401, 403, 404, 408, 413, 415, 429, 500, 501, 502, 503, 504, 302];
    for status in cases {
        let web = Web::start([reply_with(status, &[], b"")]).await;
        let clock = Clock::new(1);
        export_once(Options { protocol: Protocol::Http, ..options(web.url.clone()) }, &clock).await;
        let retried = matches!(status, 429 | 502 | 503 | 504);
        assert_eq!(web.received().len(), if retried { 2 } else { 1 }, "{status}");
        assert_eq!(clock.acknowledged().len(), usize::from(retried), "{status}");
    }
}

#[tokio::test]
async fn a_receiver_without_our_compression_is_recognised() {
    let body = http_body_util::Full::new("unsupported compression: zstd".into());
    let reply = http::Response::builder().status(400).body(body).unwrap();
    let web = Web::start([reply]).await;
    let settings = Options { protocol: Protocol::Http, ..options(web.url.clone()) };
    let error = export_once(settings, &Clock::new(1)).await.last_error.unwrap();
    assert!(error.contains("unsupported compression: zstd; ") && error.contains("set compression to gzip"), "{error}");
}

#[tokio::test]
async fn retry_after_is_honoured_as_seconds_and_as_a_date() {
    let date = httpdate::fmt_http_date(std::time::SystemTime::now() + Duration::from_secs(1000));
    for value in ["1000", &date] {
        let web = Web::start([reply_with(503, &[("retry-after", value)], b"")]).await;
        let clock = Clock::new(1);
        let settings = Options { protocol: Protocol::Http, ..options(web.url.clone()) };
        let mut running = Running::start(settings, &clock, Duration::from_secs(20));
        running.failures(1).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(web.received().len(), 1, "{value}");
        running.stop().await;
    }
    let web = Web::start([reply_with(503, &[("retry-after", "0")], b"")]).await;
    let clock = Clock::new(1);
    export_once(Options { protocol: Protocol::Http, ..options(web.url.clone()) }, &clock).await;
    assert_eq!(clock.acknowledged(), [1]);
}

#[tokio::test]
async fn a_newer_snapshot_takes_the_place_of_one_that_is_retried() {
    let collector = Collector::start().await;
    collector.log.will(vec![Reply::Refuse(Status::unavailable("restarting")); 40]);
    let clock = Clock::new(1);
    let mut running = Running::start(collector.options(), &clock, Duration::from_secs(20));
    running.exports(&clock, 2).await;
    running.stop().await;
    let acknowledged = clock.acknowledged();
    assert!(acknowledged[0] > 1, "{acknowledged:?}");
    assert!(acknowledged.is_sorted());
    let times: Vec<_> = collector.log.accepted().iter().map(|point| point.span.1).collect();
    assert!(times.is_sorted());
    assert_eq!(times.len(), acknowledged.len() * 6, "nothing stale was queued");
}

#[tokio::test]
async fn refused_points_do_not_hold_up_the_others() {
    let collector = Collector::start().await;
    let clock = Clock::new(5);
    collector.log.will([Reply::Accept, Reply::Refuse(Status::invalid_argument("no"))]);
    export_once(Options { request_limit: 600, ..collector.options() }, &clock).await;
    let refused: usize = 1;
    assert!(collector.log.received().len() > 3);
    assert_eq!(collector.log.received().iter().filter(|at| !at.accepted).count(), refused);
    assert!(clock.acknowledged().is_empty(), "a snapshot with refused points is not acknowledged");
}
