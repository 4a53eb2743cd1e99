//! One connection: resolve, connect, TLS, HTTP. Each step's failure says what to look at.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::{AlertDescription, CertificateError};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

use super::Protocol;
use super::error::{Failure, chain};
use super::retry::around;
use super::target::Target;
use super::tls::Material;

/// A connection that is ready for requests. Dropping it closes it.
pub(super) struct Connection {
    sender: Sender,
    driver: JoinHandle<Result<(), hyper::Error>>,
    expires: Instant,
}

/// What a connection gets to end after a request on it has failed.
const LAST_WORDS: Duration = Duration::from_millis(100);

enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Connection {
    /// Says whether another request may go over the connection.
    pub fn is_usable(&self) -> bool {
        self.is_open() && Instant::now() < self.expires
    }

    /// Says whether neither side has closed the connection.
    pub fn is_open(&self) -> bool {
        !match &self.sender {
            Sender::Http1(sender) => sender.is_closed(),
            Sender::Http2(sender) => sender.is_closed(),
        }
    }

    /// Describes why a request failed. The connection may know more than the request.
    pub async fn explain(mut self, target: &Target, error: hyper::Error) -> Failure {
        let end = tokio::time::timeout(LAST_WORDS, &mut self.driver).await;
        match end {
            Ok(Ok(Err(cause))) => broken(target, &cause),
            _ => broken(target, &error),
        }
    }

    /// Sends a request and waits for the head of its response.
    pub async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, hyper::Error> {
        match &mut self.sender {
            Sender::Http1(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
            Sender::Http2(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
        }
    }
}

/// Resolves the host anew, connects to one of its addresses and shakes hands.
///
/// `patience` is what all of it may take; an address that does not answer gets its share of that only.
pub(super) async fn dial(
    target: &Target,
    tls: Option<&Material>,
    patience: Duration,
    max_age: Duration,
) -> Result<Connection, Failure> {
    let stream = connect(target, patience).await?;
    let expires = Instant::now() + max_age.mul_f64(around(0.1));
    let (sender, driver) = match tls {
        None => shake(target, stream).await?,
        Some(material) => {
            let connector = TlsConnector::from(material.config.clone());
            let stream = connector.connect(material.name.clone(), stream).await.map_err(|error| tls_failure(&error))?;
            shake(target, stream).await?
        }
    };
    Ok(Connection { sender, driver, expires })
}

async fn connect(target: &Target, patience: Duration) -> Result<TcpStream, Failure> {
    let host = &target.host;
    let addresses = tokio::net::lookup_host((host.as_str(), target.port)).await.map_err(|error| {
        Failure::retry(format!("cannot resolve {host}: {error}; check the name and the node's DNS"))
    })?;
    let addresses = shuffle(addresses.collect());
    let mut last = None;
    for (tried, address) in addresses.iter().enumerate() {
        let share = patience / (addresses.len() - tried + 1) as u32;
        let error = match tokio::time::timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                // Only latency is at stake; a socket without the option works.
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Ok(Err(error)) => error,
            Err(_) => io::Error::from(io::ErrorKind::TimedOut),
        };
        last = Some((address, error));
    }
    Err(match last {
        None => Failure::retry(format!("{host} has no address; check the name and the node's DNS")),
        Some((address, error)) => {
            let fix = match error.kind() {
                io::ErrorKind::ConnectionRefused => {
                    "check that the receiver runs and listens there (gRPC is usually port 4317, HTTP 4318)"
                }
                io::ErrorKind::TimedOut => "check for a firewall or network policy that drops packets",
                _ => "check the route to the receiver",
            };
            Failure::retry(format!("cannot connect to {address}: {error}; {fix}"))
        }
    })
}

/// Puts the addresses of each family in random order, so that agents spread over what a name resolves to.
fn shuffle(mut addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first = addresses.first().is_some_and(SocketAddr::is_ipv6);
    addresses.sort_by_cached_key(|address| (address.is_ipv6() != first, around(1.0).to_bits()));
    addresses
}

async fn shake<S>(target: &Target, stream: S) -> Result<(Sender, JoinHandle<Result<(), hyper::Error>>), Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let io = TokioIo::new(stream);
    let failed = |error: hyper::Error| broken(target, &error);
    Ok(match target.protocol {
        Protocol::Http => {
            let (sender, connection) = http1::handshake(io).await.map_err(failed)?;
            (Sender::Http1(sender), tokio::spawn(connection))
        }
        Protocol::Grpc => {
            let (sender, connection) = http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .keep_alive_interval(Duration::from_secs(20))
                .keep_alive_timeout(Duration::from_secs(10))
                .initial_stream_window_size(64 * 1024)
                .handshake(io)
                .await
                .map_err(failed)?;
            (Sender::Http2(sender), tokio::spawn(connection))
        }
    })
}

/// Describes a connection that broke.
fn broken(target: &Target, error: &hyper::Error) -> Failure {
    let cause = chain(error);
    // A TLS 1.3 server judges the client only after the handshake, and HTTP/2 keeps no more than the error's text.
    if cause.contains("fatal alert: CertificateRequired") {
        return Failure::retry(format!("TLS failed: {cause}; {WANTS_CLIENT}"));
    }
    if cause.contains("fatal alert:") {
        return Failure::retry(format!("TLS failed: {cause}; see the receiver's log; it may not trust tls.cert"));
    }
    let protocol = match target.protocol {
        Protocol::Grpc => "check that the port speaks gRPC (OTLP/HTTP needs protocol: http)",
        Protocol::Http => "check that the port speaks HTTP (OTLP/gRPC needs protocol: grpc)",
    };
    let wants = if target.tls { WANTS_CLIENT } else { "the receiver may want https" };
    Failure::retry(format!("the connection broke: {cause}; {protocol}; {wants}"))
}

const WANTS_CLIENT: &str = "the receiver may want a client certificate: set tls.cert and tls.key";

fn tls_failure(error: &io::Error) -> Failure {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let fix = tls.map_or("check that the port speaks TLS (else write http:// in the URL)", tls_fix);
    Failure::retry(format!("TLS failed: {}; {fix}", chain(error)))
}

fn tls_fix(error: &rustls::Error) -> &'static str {
    match error {
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
            "set tls.ca to the authority that signed the server's certificate"
        }
        rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => "set tls.server_name to a name in the server's certificate, or use that name in the URL",
        rustls::Error::InvalidCertificate(
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. },
        ) => "renew the server's certificate, and check the clocks of both sides",
        rustls::Error::InvalidCertificate(_) => "check the server's certificate",
        rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol) => {
            "the port does not speak this protocol: change the endpoint's protocol or port"
        }
        rustls::Error::AlertReceived(_) => "see the receiver's log; it may not trust tls.cert",
        rustls::Error::InvalidMessage(_) => "the port does not speak TLS: write http:// in the URL",
        _ => "check the TLS settings of both sides",
    }
}
