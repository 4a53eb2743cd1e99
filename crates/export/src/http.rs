//! A small HTTP/1.1 server for scrapes, probes and the admin socket: few connections, bounded in every way.

pub mod auth;
mod connection;
mod listen;
mod serve;
pub mod tls;

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
pub use http::{HeaderMap, HeaderValue, Method, StatusCode, header};

pub use self::listen::Listener;
pub(crate) use self::serve::serve_stream;
pub use self::serve::{Hooks, Server, serve};

/// Why a server cannot start or cannot read its certificates.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address or socket could not be bound.
    #[error("cannot listen on {address} ({key}): {source}; {fix}")]
    Bind {
        /// The address or path.
        address: String,
        /// The configuration key that gave it.
        key: String,
        /// What to do about it.
        fix: String,
        /// The system's error.
        source: std::io::Error,
    },
    /// A socket path is served by another process.
    #[error("{path} ({key}) is in use by another process; stop that process or set another path")]
    InUse {
        /// The path.
        path: String,
        /// The configuration key that gave it.
        key: String,
    },
    /// A certificate, key or authority file cannot be used.
    #[error("cannot use the {what} in {path}: {reason}")]
    Tls {
        /// `certificate`, `private key` or `client authority`.
        what: &'static str,
        /// The file.
        path: String,
        /// Why.
        reason: String,
    },
    /// The listening socket failed after it was bound.
    #[error("cannot serve on {address}: {source}")]
    Serve {
        /// The address or path.
        address: String,
        /// The system's error.
        source: std::io::Error,
    },
}

/// What one server spends on its clients at most.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a request's head; more is answered with 431.
    pub header_bytes: usize,
    /// Bytes of a request's body; more is answered with 413.
    pub body_bytes: usize,
    /// Connections at a time; further ones are closed at once.
    pub connections: usize,
    /// The time from a request's first byte (or the connection) to the end of its head, a TLS handshake included.
    pub header_time: Duration,
    /// The time from a request's head to the last byte of its response.
    pub request_time: Duration,
    /// How long a connection may wait for its next request.
    pub idle_time: Duration,
    /// How long requests in flight may take once the server shuts down.
    pub drain_time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            header_bytes: 16 * 1024,
            body_bytes: 64 * 1024,
            connections: 64,
            header_time: Duration::from_secs(10),
            request_time: Duration::from_secs(30),
            idle_time: Duration::from_secs(90),
            drain_time: Duration::from_secs(1),
        }
    }
}

/// A request with its whole body.
#[derive(Clone, Debug)]
pub struct Request {
    /// The method.
    pub method: Method,
    /// The path as it was sent, without the query.
    pub path: String,
    /// The query as it was sent, without the question mark; empty if there is none.
    pub query: String,
    /// The headers.
    pub headers: HeaderMap,
    /// The body, at most [`Limits::body_bytes`] long.
    pub body: Bytes,
}

/// A response; `Content-Length` is set from the body, and HEAD sends no body.
#[derive(Clone, Debug)]
pub struct Response {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Response {
    /// Makes a response with a content type.
    pub fn new(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        Self { status, headers, body: body.into() }
    }

    /// Makes a plain-text response.
    pub fn text(status: StatusCode, body: impl Into<Bytes>) -> Self {
        Self::new(status, "text/plain; charset=utf-8", body)
    }

    /// Makes a JSON response of text that is JSON already.
    pub fn json(status: StatusCode, body: impl Into<Bytes>) -> Self {
        Self::new(status, "application/json", body)
    }

    /// Adds a header with a constant value.
    #[must_use]
    pub fn with(mut self, name: header::HeaderName, value: &'static str) -> Self {
        self.headers.insert(name, HeaderValue::from_static(value));
        self
    }

    /// Makes the answer to a method that a path does not have, naming those it has.
    pub fn method_not_allowed(allowed: &'static str) -> Self {
        Self::text(StatusCode::METHOD_NOT_ALLOWED, format!("this path answers to {allowed} only\n"))
            .with(header::ALLOW, allowed)
    }

    /// Makes the answer to an unknown path, naming the known ones.
    pub fn not_found(path: &str, known: &str) -> Self {
        let path: String = path.chars().take(100).collect();
        Self::text(StatusCode::NOT_FOUND, format!("{path} does not exist here; try {known}\n"))
    }
}

/// Answers requests.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// Answers one request. It is dropped unfinished when the client goes away or its time is up.
    async fn handle(&self, request: Request) -> Response;
}
