//! Accepts connections, keeps their number and pace within limits, and hands requests to the handler.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::connection::{Pace, Paced, Reply};
use super::listen::{Accepting, Stream};
use super::tls::{Identity, TlsOptions};
use super::{Error, Handler, Limits, Listener, Request, Response};

/// The wait after a failed accept, such as one without a file descriptor to spare.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a server tells its owner while it serves.
pub trait Hooks: Send + Sync + 'static {
    /// A connection was closed unserved, because as many as allowed are open.
    fn refused(&self) {}
}

impl Hooks for () {}

/// A bound server.
pub struct Server {
    listener: Listener,
    identity: Option<Identity>,
    handler: Arc<dyn Handler>,
    hooks: Arc<dyn Hooks>,
    limits: Limits,
}

impl Server {
    /// Makes a server of a bound listener.
    ///
    /// # Errors
    ///
    /// [`Error::Tls`] when the certificate, its key or the client authority cannot be used.
    pub fn new(
        listener: Listener,
        tls: Option<TlsOptions>,
        handler: Arc<dyn Handler>,
        hooks: Arc<dyn Hooks>,
        limits: Limits,
    ) -> Result<Self, Error> {
        let identity = tls.map(Identity::load).transpose()?;
        Ok(Self { listener, identity, handler, hooks, limits })
    }

    /// Gives the bound TCP address; nothing for a Unix socket.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `shutdown` completes, then lets requests in flight end within [`Limits::drain_time`].
    ///
    /// # Errors
    ///
    /// [`Error::Serve`] when the socket cannot be handed to the runtime.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), Error> {
        let address = self.listener.to_string();
        let accepting = self.listener.start().map_err(|source| Error::Serve { address, source })?;
        let (stop, stopped) = watch::channel(());
        let shared = Arc::new(Shared { identity: self.identity, handler: self.handler, limits: self.limits });
        let mut connections = JoinSet::new();
        let mut shutdown = pin!(shutdown);
        loop {
            let stream = tokio::select! {
                () = &mut shutdown => break,
                Some(_) = connections.join_next() => continue,
                stream = accept(&accepting) => stream,
            };
            if connections.len() >= shared.limits.connections {
                self.hooks.refused();
                continue;
            }
            connections.spawn(shared.clone().connection(stream, stopped.clone()));
        }
        drop(accepting);
        drop(stop);
        let drained = async { while connections.join_next().await.is_some() {} };
        // What is still open when the time is up is aborted with the set.
        let _ = tokio::time::timeout(shared.limits.drain_time, drained).await;
        Ok(())
    }
}

/// Serves a listener without TLS until `shutdown` completes.
///
/// # Errors
///
/// [`Error::Serve`] when the socket cannot be handed to the runtime.
pub async fn serve(
    listener: Listener,
    handler: Arc<dyn Handler>,
    limits: Limits,
    shutdown: impl Future<Output = ()>,
) -> Result<(), Error> {
    Server::new(listener, None, handler, Arc::new(()), limits)?.run(shutdown).await
}

/// Serves one connection that is open already, to its end.
pub(crate) async fn serve_stream(stream: impl Stream + 'static, handler: Arc<dyn Handler>, limits: Limits) {
    let (_stop, stopped) = watch::channel(());
    Arc::new(Shared { identity: None, handler, limits }).connection(Box::new(stream), stopped).await;
}

async fn accept(accepting: &Accepting) -> Box<dyn Stream> {
    loop {
        match accepting.accept().await {
            Ok(stream) => return stream,
            Err(error) => {
                tracing::debug!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// What all connections of a server use.
struct Shared {
    identity: Option<Identity>,
    handler: Arc<dyn Handler>,
    limits: Limits,
}

impl Shared {
    async fn connection(self: Arc<Self>, stream: Box<dyn Stream>, stopped: watch::Receiver<()>) {
        let pace = Arc::new(Pace::new(self.limits.clone()));
        let served = async {
            match &self.identity {
                None => self.serve(stream, &pace, stopped).await,
                Some(identity) => match TlsAcceptor::from(identity.config()).accept(stream).await {
                    Ok(stream) => self.serve(stream, &pace, stopped).await,
                    Err(error) => tracing::debug!(%error, "a client failed the TLS handshake"),
                },
            }
        };
        tokio::select! {
            () = served => {}
            () = pace.late() => tracing::debug!("a client was too slow"),
        }
    }

    async fn serve(&self, stream: impl Stream, pace: &Arc<Pace>, mut stopped: watch::Receiver<()>) {
        let io = TokioIo::new(Paced { stream, pace: pace.clone() });
        let service = service_fn(|request| async {
            pace.head_read();
            Ok::<_, Infallible>(self.answer(request, pace).await)
        });
        let mut connection = pin!(
            http1::Builder::new()
                .header_read_timeout(None)
                .max_header_size(self.limits.header_bytes)
                .half_close(false)
                .serve_connection(io, service)
        );
        let result = tokio::select! {
            result = &mut connection => result,
            _ = stopped.changed() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = result {
            tracing::debug!(%error, "a connection ended early");
        }
    }

    async fn answer(&self, request: http::Request<Incoming>, pace: &Arc<Pace>) -> http::Response<Reply> {
        let (head, body) = request.into_parts();
        let is_head = head.method == Method::HEAD;
        let answer = match Limited::new(body, self.limits.body_bytes).collect().await {
            Ok(body) => {
                let request = Request {
                    method: head.method,
                    path: head.uri.path().to_owned(),
                    query: head.uri.query().unwrap_or_default().to_owned(),
                    headers: head.headers,
                    body: body.to_bytes(),
                };
                self.handler.handle(request).await
            }
            Err(error) if error.is::<LengthLimitError>() => Response::text(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("the body is longer than {} bytes\n", self.limits.body_bytes),
            ),
            Err(_) => Response::text(StatusCode::BAD_REQUEST, "the body ended early\n"),
        };
        let Response { status, mut headers, body } = answer;
        headers.insert(header::CONTENT_LENGTH, body.len().into());
        if !status.is_success() {
            // Whoever asks for the wrong thing does not keep a connection.
            headers.insert(header::CONNECTION, header::HeaderValue::from_static("close"));
        }
        let body = if is_head { bytes::Bytes::new() } else { body };
        let mut response = http::Response::new(Reply::new(body, pace.clone()));
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        response
    }
}
