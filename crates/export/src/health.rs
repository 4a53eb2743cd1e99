//! Liveness and readiness probes on a listener of their own.

use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;

use crate::http::{Error, Handler, Limits, Listener, Method, Request, Response, Server, StatusCode};

/// Says whether the agent does its work.
pub trait Ready: Send + Sync + 'static {
    /// Says whether the agent is ready, and what else is to be said of it, a line each.
    ///
    /// # Errors
    ///
    /// The reasons why it is not, a line each.
    fn ready(&self) -> Result<Vec<String>, Vec<String>>;
}

impl<F: Fn() -> Result<Vec<String>, Vec<String>> + Send + Sync + 'static> Ready for F {
    fn ready(&self) -> Result<Vec<String>, Vec<String>> {
        self()
    }
}

/// Binds the probes' listener; `key` is the configuration key to name in errors.
///
/// # Errors
///
/// [`Error::Bind`] when the address cannot be bound.
pub fn bind(listen: SocketAddr, key: &str, ready: Arc<dyn Ready>) -> Result<Server, Error> {
    server(Listener::tcp(listen, key)?, ready)
}

/// Makes the probes' server on a listener that is bound already.
///
/// # Errors
///
/// None at present.
pub fn server(listener: Listener, ready: Arc<dyn Ready>) -> Result<Server, Error> {
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
                Ok(remarks) => Response::text(StatusCode::OK, lines("ready", &remarks)),
                Err(reasons) => Response::text(StatusCode::SERVICE_UNAVAILABLE, lines("not ready", &reasons)),
            },
            path => Response::not_found(path, "/healthz or /readyz"),
        }
    }
}

fn lines(first: &str, others: &[String]) -> String {
    let others = others.iter().map(String::as_str);
    std::iter::once(first).chain(others).flat_map(|line| [line, "\n"]).collect()
}
