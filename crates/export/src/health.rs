//! Liveness and readiness probes on a listener of their own.

use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;

use crate::http::{Error, Handler, Limits, Listener, Method, Request, Response, Server, StatusCode};

/// Says whether the agent does its work.
pub trait Ready: Send + Sync + 'static {
    /// Says whether the agent is ready.
    ///
    /// # Errors
    ///
    /// The reasons why it is not, a line each.
    fn ready(&self) -> Result<(), Vec<String>>;
}

impl<F: Fn() -> Result<(), Vec<String>> + Send + Sync + 'static> Ready for F {
    fn ready(&self) -> Result<(), Vec<String>> {
        self()
    }
}

/// Binds the probes' listener; `key` is the configuration key to name in errors.
///
/// # Errors
///
/// [`Error::Bind`] when the address cannot be bound.
pub fn bind(listen: SocketAddr, key: &str, ready: Arc<dyn Ready>) -> Result<Server, Error> {
    let listener = Listener::tcp(listen, key)?;
    Server::new(listener, None, Arc::new(Probes { ready }), Arc::new(()), Limits::default())
}

struct Probes {
    ready: Arc<dyn Ready>,
}

#[async_trait]
impl Handler for Probes {
    async fn handle(&self, request: Request) -> Response {
        let known = matches!(request.path.as_str(), "/healthz" | "/readyz");
        if known && request.method != Method::GET && request.method != Method::HEAD {
            return Response::method_not_allowed("GET, HEAD");
        }
        match request.path.as_str() {
            "/healthz" => Response::text(StatusCode::OK, "ok\n"),
            "/readyz" => match self.ready.ready() {
                Ok(()) => Response::text(StatusCode::OK, "ready\n"),
                Err(reasons) => {
                    let mut body = String::from("not ready\n");
                    for reason in reasons {
                        body.push_str(&reason);
                        body.push('\n');
                    }
                    Response::text(StatusCode::SERVICE_UNAVAILABLE, body)
                }
            },
            path => Response::not_found(path, "/healthz or /readyz"),
        }
    }
}
