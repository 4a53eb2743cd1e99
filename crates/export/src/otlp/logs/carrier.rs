//! How the requests of opentelemetry-otlp travel: as ours do, over gRPC or HTTP, with the endpoint's own headers,
//! compression, certificates and connections. Of the exporter's request only the body is used.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use opentelemetry::metrics::Meter;
use opentelemetry_http::{HttpClient, HttpError};
use tokio::time::Instant;

use super::super::error::Failure;
use super::super::request::{self, Courier};
use super::super::telemetry::Instruments;
use super::super::{Compression, Error, Options, Protocol};

/// How the last request ended.
#[derive(Debug)]
pub(super) enum End {
    /// The receiver has it, but for so many records.
    Accepted(u64),
    /// It was not sent: no receiver takes so much at once.
    TooLarge,
    /// The receiver will never take it.
    Refused(String),
    /// It may be tried again, not before the receiver's wish.
    Failed(String, Option<Duration>),
}

pub(super) struct Carrier {
    courier: tokio::sync::Mutex<Courier>,
    protocol: Protocol,
    compression: Compression,
    limit: usize,
    url: String,
    instruments: Instruments,
    end: Mutex<Option<End>>,
}

impl Carrier {
    pub fn new(options: &Options, meter: &Meter) -> Result<Self, Error> {
        let courier = Courier::new(options)?;
        Ok(Self {
            url: courier.url().to_owned(),
            courier: tokio::sync::Mutex::new(courier),
            protocol: options.protocol,
            compression: options.compression,
            limit: options.request_limit,
            instruments: Instruments::new(meter, &format!("{}/events", options.name)),
            end: Mutex::default(),
        })
    }

    /// Gives the URL for messages.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Gives how the last request ended, once.
    pub fn end(&self) -> Option<End> {
        self.end.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    async fn carry(&self, body: Bytes) -> End {
        if body.len() > self.limit {
            return End::TooLarge;
        }
        let (protocol, compression) = (self.protocol, self.compression);
        let packed = tokio::task::spawn_blocking(move || request::pack(&body, protocol, compression)).await;
        let body = match packed.map_err(std::io::Error::other).flatten() {
            Ok(body) => body,
            Err(error) => return End::Failed(format!("cannot compress: {error}"), None),
        };
        let began = Instant::now();
        let result = self.courier.lock().await.attempt(&body).await;
        let end = result.map_or_else(<Failure as Into<End>>::into, |accepted| End::Accepted(accepted.rejected));
        let outcome = match &end {
            End::Accepted(0) => "success",
            End::Accepted(_) => "partial_success",
            End::Failed(..) => "retryable_error",
            End::TooLarge | End::Refused(_) => "permanent_error",
        };
        self.instruments.request(outcome, body.len(), began.elapsed());
        end
    }
}

impl fmt::Debug for Carrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Carrier").field("url", &self.url).finish_non_exhaustive()
    }
}

#[async_trait]
impl HttpClient for Carrier {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let end = self.carry(request.into_body()).await;
        let answer = match &end {
            End::Accepted(_) => Ok(Response::new(Bytes::new())),
            End::TooLarge => Err("too large".into()),
            End::Refused(cause) | End::Failed(cause, _) => Err(cause.clone().into()),
        };
        *self.end.lock().unwrap_or_else(PoisonError::into_inner) = Some(end);
        answer
    }
}
