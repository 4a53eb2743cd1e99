//! One body on its way: compressed, framed, sent within the timeout, and answered.

use std::io::Write;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Full, Limited};

use super::answer::{self, Accepted};
use super::dial::{self, Connection};
use super::error::{Failure, chain};
use super::target::Target;
use super::{Compression, Error, Options, Protocol, tls};

/// Bytes of a response that are read: receivers answer in a few.
const ANSWER_LIMIT: usize = 1 << 20;

/// Compresses a body and, for gRPC, puts the message prefix before it.
///
/// # Errors
/// When the compressor fails, which it does for lack of memory only.
pub(super) fn pack(body: &[u8], protocol: Protocol, compression: Compression) -> std::io::Result<Bytes> {
    let prefix = if protocol == Protocol::Grpc { 5 } else { 0 };
    let mut out =
        Vec::with_capacity(prefix + if compression == Compression::None { body.len() } else { body.len() / 8 });
    out.resize(prefix, 0);
    match compression {
        Compression::None => out.extend_from_slice(body),
        Compression::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(out, flate2::Compression::fast());
            encoder.write_all(body)?;
            out = encoder.finish()?;
        }
        Compression::Zstd => {
            let mut encoder = zstd::stream::Encoder::new(out, 1)?;
            encoder.write_all(body)?;
            out = encoder.finish()?;
        }
    }
    if prefix > 0 {
        let len = u32::try_from(out.len() - prefix).map_err(std::io::Error::other)?;
        out[0] = u8::from(compression != Compression::None);
        out[1..5].copy_from_slice(&len.to_be_bytes());
    }
    Ok(out.into())
}

/// Delivers bodies over one connection, which it makes when needed and renews in time.
pub(super) struct Courier {
    target: Target,
    tls: Option<tls::Material>,
    name: String,
    tls_options: super::Tls,
    timeout: Duration,
    max_connection_age: Duration,
    connection: Option<Connection>,
}

impl Courier {
    /// Checks the settings and reads the certificates; does not connect yet.
    ///
    /// # Errors
    /// When the URL, a header or a file is unusable.
    pub fn new(options: &Options) -> Result<Self, Error> {
        let target = Target::new(options)?;
        let endpoint = &options.name;
        if target.tls && options.tls.insecure_skip_verify {
            tracing::warn!(endpoint, "tls.insecure_skip_verify is set: anyone can pose as the receiver");
        }
        if !target.tls && options.tls != super::Tls::default() {
            tracing::warn!(endpoint, "the tls settings have no effect: the URL begins with http://");
        }
        let tls =
            target.tls.then(|| tls::load(&options.name, &options.tls, &target.host, target.protocol)).transpose()?;
        Ok(Self {
            target,
            tls,
            name: options.name.clone(),
            tls_options: options.tls.clone(),
            timeout: options.timeout,
            max_connection_age: options.max_connection_age,
            connection: None,
        })
    }

    /// Gives the URL for messages.
    pub fn url(&self) -> &str {
        &self.target.display
    }

    /// Says whether there is a connection.
    pub fn is_connected(&self) -> bool {
        self.connection.as_ref().is_some_and(Connection::is_open)
    }

    /// Reads the certificates again; changed ones take effect with a new connection.
    ///
    /// # Errors
    /// When they have become unusable: the last usable ones stay, and the connection with them.
    pub async fn renew_certificates(&mut self) -> Result<(), Error> {
        let Some(known) = self.tls.clone() else { return Ok(()) };
        let (name, options, host) = (self.name.clone(), self.tls_options.clone(), self.target.host.clone());
        let protocol = self.target.protocol;
        let read = tokio::task::spawn_blocking(move || tls::reload(&name, &options, &known, &host, protocol));
        match read.await {
            Ok(Ok(Some(changed))) => {
                tracing::info!(endpoint = self.name, "tls certificates changed, connecting anew");
                self.tls = Some(changed);
                self.connection = None;
            }
            Ok(Err(error)) => return Err(error),
            Ok(Ok(None)) | Err(_) => {}
        }
        Ok(())
    }

    /// Makes one attempt to deliver a packed body, connecting if need be.
    pub async fn attempt(&mut self, body: &Bytes) -> Result<Accepted, Failure> {
        let attempt = tokio::time::timeout(self.timeout, self.exchange(body)).await;
        let result = attempt.unwrap_or_else(|_| {
            // What is stuck stays stuck: the next attempt gets a connection of its own.
            self.connection = None;
            let took = self.timeout;
            Err(Failure::retry(format!("no answer within {took:?}; check the receiver's load, or raise the timeout")))
        });
        if !self.is_connected() {
            self.connection = None;
        }
        result
    }

    async fn exchange(&mut self, body: &Bytes) -> Result<Accepted, Failure> {
        let mut connection = if let Some(usable) = self.connection.take().filter(Connection::is_usable) {
            usable
        } else {
            if let Err(error) = self.renew_certificates().await {
                tracing::debug!(endpoint = self.name, %error, "connecting with the certificates that were read before");
            }
            // Boxed: handshakes are large and rare.
            let dial = dial::dial(&self.target, self.tls.as_ref(), self.timeout, self.max_connection_age);
            Box::pin(dial).await?
        };
        let protocol = self.target.protocol;
        let mut request = Request::new(Full::new(body.clone()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.target.uri.clone();
        *request.headers_mut() = self.target.headers.clone();
        let (head, body) = match connection.send(request).await {
            Ok(response) => response.into_parts(),
            Err(error) => return Err(connection.explain(&self.target, error).await),
        };
        let body = Limited::new(body, ANSWER_LIMIT)
            .collect()
            .await
            .map_err(|error| Failure::retry(format!("the answer broke off: {}", chain(&*error))))?;
        self.connection = Some(connection);
        let trailers = body.trailers().cloned();
        let body = body.to_bytes();
        match protocol {
            Protocol::Grpc => answer::grpc(&head, trailers.as_ref(), &body),
            Protocol::Http => answer::http(&head, &body),
        }
    }
}
