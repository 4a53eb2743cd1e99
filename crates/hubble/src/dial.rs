//! One connection: resolve, connect, keep alive, TLS, HTTP/2.

use std::io;
use std::sync::Mutex;
use std::time::Duration;

use http::{HeaderMap, Response};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tonic::body::Body;
use tonic::transport::{Channel, Endpoint};
use tower::ServiceExt;
use tower::util::MapResponse;

use crate::address::Address;
use crate::failure::{Failure, Kind, chain};
use crate::tls::{self, Tls};

/// What a connection may hold unread; the server waits beyond.
const WINDOW: u32 = 1 << 20;
/// A connection without traffic is probed by TCP after so long, so often and so many times. HTTP/2 pings would be
/// answered with GOAWAY.
const IDLE: Duration = Duration::from_secs(30);
const INTERVAL: Duration = Duration::from_secs(10);
const PROBES: u32 = 3;

/// A connection whose answers do no harm.
pub(crate) type Line = MapResponse<Channel, fn(Response<Body>) -> Response<Body>>;

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// Connects; `patience` bounds all of it.
pub(crate) async fn dial(address: &Address, tls: Option<&Tls>, patience: Duration) -> Result<Line, Failure> {
    let late = || {
        Failure::new(
            Kind::Connect,
            format!(
                "{address} does not answer within {patience:?}; check for a firewall or network policy that drops packets"
            ),
        )
    };
    tokio::time::timeout(patience, connect(address, tls)).await.map_err(|_| late())?
}

async fn connect(address: &Address, tls: Option<&Tls>) -> Result<Line, Failure> {
    let stream: Box<dyn Stream> = match address {
        Address::Unix(path) => {
            let fix = "check that Hubble is enabled and that its socket is mounted here";
            let failed = |error| Failure::new(Kind::Connect, format!("cannot connect to {address}: {error}; {fix}"));
            Box::new(UnixStream::connect(path).await.map_err(failed)?)
        }
        Address::Tcp { host, port } => {
            let stream = TcpStream::connect((host.as_str(), *port)).await.map_err(|error| {
                let fix = match error.kind() {
                    io::ErrorKind::ConnectionRefused => "check that Hubble Relay runs and listens there",
                    _ => "check the name, the node's DNS and the route",
                };
                Failure::new(Kind::Connect, format!("cannot connect to {address}: {error}; {fix}"))
            })?;
            if let Err(error) = keep_alive(&stream) {
                tracing::debug!("{address}: TCP keepalive: {error}");
            }
            match tls {
                None => Box::new(stream),
                Some(tls) => {
                    let connector = TlsConnector::from(tls.load()?);
                    let name = tls.name(host)?;
                    Box::new(connector.connect(name, stream).await.map_err(|error| tls::refused(&error))?)
                }
            }
        }
    };
    let scheme = if tls.is_some() { "https" } else { "http" };
    let authority = match address {
        Address::Tcp { .. } => address.to_string(),
        Address::Unix(_) => "localhost".to_owned(),
    };
    let wrong = |error: &dyn std::error::Error| Failure::new(Kind::Connect, format!("{address}: {}", chain(error)));
    let origin = format!("{scheme}://{authority}").parse().map_err(|error| wrong(&error))?;
    let endpoint = Endpoint::from_shared(format!("http://{authority}"))
        .map_err(|error| wrong(&error))?
        .origin(origin)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW);
    // The channel would dial again by itself, without telling: it gets this one stream only.
    let stream = Mutex::new(Some(stream));
    let connector = tower::service_fn(move |_| {
        let stream = stream.lock().map_or(None, |mut stream| stream.take());
        let gone = || io::Error::new(io::ErrorKind::NotConnected, "the connection has ended");
        std::future::ready(stream.map(TokioIo::new).ok_or_else(gone))
    });
    let channel = endpoint.connect_with_connector(connector).await.map_err(|error| wrong(&error))?;
    Ok(channel.map_response(without_details))
}

/// Leaves out the details of statuses: tonic panics at those that are no base64, and nobody here reads them.
fn without_details(response: Response<Body>) -> Response<Body> {
    fn strip(headers: &mut HeaderMap) {
        headers.remove("grpc-status-details-bin");
    }
    let (mut head, body) = response.into_parts();
    strip(&mut head.headers);
    let body = body.map_frame(|mut frame| {
        frame.trailers_mut().into_iter().for_each(strip);
        frame
    });
    Response::from_parts(head, Body::new(body))
}

fn keep_alive(stream: &TcpStream) -> rustix::io::Result<()> {
    sockopt::set_tcp_nodelay(stream, true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, IDLE)?;
    sockopt::set_tcp_keepintvl(stream, INTERVAL)?;
    sockopt::set_tcp_keepcnt(stream, PROBES)?;
    sockopt::set_tcp_user_timeout(stream, (IDLE + INTERVAL * PROBES).as_millis() as u32)
}
