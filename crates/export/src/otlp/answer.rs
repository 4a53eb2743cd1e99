//! What a receiver's answer means, as the OTLP specification has it.

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::response::Parts;
use http::{HeaderMap, HeaderValue, StatusCode};
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceResponse;
use prost::Message;
use tonic::{Code, Status};

use super::error::{Failure, Remedy};

/// A request that was accepted, though perhaps not all of its points.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Accepted {
    /// The number of points that were not.
    pub rejected: u64,
    /// The receiver's reason or warning.
    pub message: String,
}

impl Accepted {
    fn parse(body: &[u8]) -> Self {
        // A body that is no response says nothing against the success.
        let response = ExportMetricsServiceResponse::decode(body).unwrap_or_default();
        let partial = response.partial_success.unwrap_or_default();
        Self { rejected: u64::try_from(partial.rejected_data_points).unwrap_or(0), message: partial.error_message }
    }
}

/// Reads a gRPC answer: its status stands in the trailers, or in the headers when there is nothing else.
pub(super) fn grpc(head: &Parts, trailers: Option<&HeaderMap>, body: &Bytes) -> Result<Accepted, Failure> {
    let status = trailers.and_then(status_of).or_else(|| status_of(&head.headers));
    match status {
        Some(status) if status.code() == Code::Ok => {
            // Prefix: a flag (compressed, which we do not offer to read) and the length.
            let message = body.get(5..).filter(|_| body.first() == Some(&0)).unwrap_or_default();
            Ok(Accepted::parse(message))
        }
        Some(status) => Err(grpc_failure(&status)),
        None => Err(Failure {
            remedy: gateway(head.status),
            cause: format!(
                "the answer is not gRPC but HTTP status {}; check that the port speaks gRPC, or set protocol: http",
                head.status
            ),
        }),
    }
}

/// Reads a status. tonic panics at details that are no base64, so those are left out.
fn status_of(headers: &HeaderMap) -> Option<Status> {
    let is_whole = |value: &HeaderValue| DETAILS.decode(value).is_ok();
    if headers.get_all(DETAILS_HEADER).iter().all(is_whole) {
        return Status::from_header_map(headers);
    }
    let mut headers = headers.clone();
    headers.remove(DETAILS_HEADER);
    Status::from_header_map(&headers)
}

/// The header of a status' details, and how it is written: with or without padding.
const DETAILS_HEADER: &str = "grpc-status-details-bin";
const DETAILS: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Gives the remedy for an HTTP status from something before the gRPC server.
fn gateway(status: StatusCode) -> Remedy {
    if retryable(status) { Remedy::Retry(None) } else { Remedy::Drop }
}

fn grpc_failure(status: &Status) -> Failure {
    let asked = retry_info(status.details());
    let remedy = match status.code() {
        Code::Cancelled
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unavailable
        | Code::DataLoss => Remedy::Retry(asked),
        // Without the hint the receiver is out of more than patience.
        Code::ResourceExhausted if asked.is_some() => Remedy::Retry(asked),
        _ => Remedy::Drop,
    };
    let fix = match status.code() {
        Code::Unimplemented | Code::InvalidArgument if names_compression(status.message()) => COMPRESSION,
        Code::Unauthenticated | Code::PermissionDenied => "; check the endpoint's headers and tls.cert",
        Code::Unimplemented => "; the port serves gRPC but not this OTLP signal: check the receiver's pipelines",
        Code::ResourceExhausted if asked.is_none() => "; lower request_limit or raise the receiver's message limit",
        Code::DeadlineExceeded => "; check the receiver's load, or raise the timeout",
        _ => "",
    };
    let message = if status.message().is_empty() { "no message" } else { status.message() };
    Failure { remedy, cause: format!("the receiver answered {:?}: {message}{fix}", status.code()) }
}

/// Reads an HTTP answer.
pub(super) fn http(head: &Parts, body: &[u8]) -> Result<Accepted, Failure> {
    let protobuf =
        head.headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/x-protobuf"));
    if head.status.is_success() {
        return Ok(if protobuf { Accepted::parse(body) } else { Accepted::default() });
    }
    let remedy = if retryable(head.status) {
        Remedy::Retry(head.headers.get(RETRY_AFTER).and_then(|value| retry_after(value.to_str().ok()?)))
    } else {
        Remedy::Drop
    };
    let message = message(protobuf, body);
    let fix = match head.status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => "; check the endpoint's headers and tls.cert",
        StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => {
            "; the URL is used as it stands: the usual path is /v1/metrics or /v1/logs"
        }
        StatusCode::PAYLOAD_TOO_LARGE => "; lower request_limit or raise the receiver's body limit",
        StatusCode::UNSUPPORTED_MEDIA_TYPE => COMPRESSION,
        StatusCode::BAD_REQUEST if names_compression(&message) => COMPRESSION,
        status if status.is_redirection() => "; redirects are not followed: put the final URL into endpoint",
        _ => "",
    };
    Err(Failure { remedy, cause: format!("the receiver answered HTTP {}{message}{fix}", head.status) })
}

const COMPRESSION: &str = "; the receiver does not know this compression: set compression to gzip or none";

fn names_compression(message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    message.contains("compress") || message.contains("encoding")
}

fn retryable(status: StatusCode) -> bool {
    matches!(status.as_u16(), 429 | 502 | 503 | 504)
}

/// Gives the start of what an error's body says, as one line.
fn message(protobuf: bool, body: &[u8]) -> String {
    let text = if protobuf {
        RpcStatus::decode(body).map(|status| status.message).unwrap_or_default()
    } else {
        String::from_utf8_lossy(&body[..body.len().min(1024)]).into_owned()
    };
    let line: String = text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(200).collect();
    if line.is_empty() { line } else { format!(": {line}") }
}

/// Reads `Retry-After`: seconds or a date.
fn retry_after(value: &str) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(SystemTime::now()).unwrap_or_default())
}

/// `google.rpc.Status`.
#[derive(Clone, PartialEq, Message)]
struct RpcStatus {
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<Detail>,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, Message)]
struct Detail {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// `google.rpc.RetryInfo`.
#[derive(Clone, PartialEq, Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<Delay>,
}

/// `google.protobuf.Duration`.
#[derive(Clone, PartialEq, Message)]
struct Delay {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

/// Finds the pause that a receiver asks for; one without a length is zero.
fn retry_info(details: &[u8]) -> Option<Duration> {
    let status = RpcStatus::decode(details).ok()?;
    let detail = status.details.iter().find(|detail| detail.type_url.ends_with("/google.rpc.RetryInfo"))?;
    let delay = RetryInfo::decode(&*detail.value).ok()?.retry_delay.unwrap_or_default();
    Some(Duration::new(
        u64::try_from(delay.seconds).unwrap_or(0),
        u32::try_from(delay.nanos).unwrap_or(0).min(999_999_999),
    ))
}
