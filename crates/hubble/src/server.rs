//! A server that plays a script: for tests and benches only.

pub mod messages;

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream, UnixListenerStream};
use tonic::body::Body;
use tonic::server::{Grpc, NamedService, ServerStreamingService, UnaryService};
use tonic::transport::ServerTlsConfig;
use tonic::{Request, Response, Status};

use crate::flow::is_flow;
use crate::follow::Raw;
use crate::messages::{GET_FLOWS, GetFlowsRequest, SERVER_STATUS, ServerStatus};

/// What a server does with a call of `GetFlows`.
#[derive(Clone, Debug)]
pub enum Step {
    /// Sends a message: an encoded `GetFlowsResponse`, or anything else.
    Send(Bytes),
    /// Does nothing for a while.
    Wait(Duration),
    /// Ends the stream as if all were well.
    End,
    /// Ends the stream with a status.
    Fail(Status),
    /// Keeps the stream open and sends nothing more.
    Stall,
}

/// Gives the steps of a call: of the n-th (from 0), which asked for something.
pub type Script = Box<dyn Fn(u32, &GetFlowsRequest) -> Vec<Step> + Send + Sync>;

/// A running server.
pub struct Player {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    script: Script,
    calls: AtomicU32,
    seen: AtomicU64,
    requests: Mutex<Vec<(Bytes, GetFlowsRequest)>>,
}

/// How a server is set up.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    /// Its certificate, and whether it asks for the client's.
    pub tls: Option<ServerTlsConfig>,
    /// After which it sends GOAWAY.
    pub max_connection_age: Option<Duration>,
}

impl Player {
    /// Serves on a TCP socket.
    pub fn tcp(listener: std::net::TcpListener, setup: Setup, script: Script) -> Self {
        let shared = Shared::new(script);
        let service = Service(Arc::clone(&shared));
        let task = tokio::spawn(async move {
            let Ok(listener) = listener.set_nonblocking(true).and_then(|()| TcpListener::from_std(listener)) else {
                return;
            };
            if let Ok(mut server) = setup.builder() {
                let _ = server.add_service(service).serve_with_incoming(TcpListenerStream::new(listener)).await;
            }
        });
        Self { shared, task }
    }

    /// Serves on a socket of this host.
    pub fn unix(listener: UnixListener, script: Script) -> Self {
        let shared = Shared::new(script);
        let service = Service(Arc::clone(&shared));
        let task = tokio::spawn(async move {
            if let Ok(mut server) = Setup::default().builder() {
                let _ = server.add_service(service).serve_with_incoming(UnixListenerStream::new(listener)).await;
            }
        });
        Self { shared, task }
    }

    /// Gives what clients have asked for.
    pub fn requests(&self) -> Vec<GetFlowsRequest> {
        self.asked().iter().map(|(_, request)| request.clone()).collect()
    }

    /// Gives what clients have asked for, as it came.
    pub fn raw_requests(&self) -> Vec<Bytes> {
        self.asked().iter().map(|(bytes, _)| bytes.clone()).collect()
    }

    fn asked(&self) -> MutexGuard<'_, Vec<(Bytes, GetFlowsRequest)>> {
        self.shared.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says in the answers of `ServerStatus` that so many flows more were seen than were sent.
    pub fn see(&self, flows: u64) {
        self.shared.seen.fetch_add(flows, Ordering::SeqCst);
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Setup {
    fn builder(self) -> Result<tonic::transport::Server, tonic::transport::Error> {
        let mut server = tonic::transport::Server::builder();
        if let Some(age) = self.max_connection_age {
            server = server.max_connection_age(age);
        }
        match self.tls {
            Some(tls) => server.tls_config(tls),
            None => Ok(server),
        }
    }
}

impl Shared {
    fn new(script: Script) -> Arc<Self> {
        Arc::new(Self { script, calls: AtomicU32::default(), seen: AtomicU64::default(), requests: Mutex::default() })
    }
}

#[derive(Clone)]
struct Service(Arc<Shared>);

impl NamedService for Service {
    const NAME: &'static str = "observer.Observer";
}

type Answer<T> = Pin<Box<dyn Future<Output = T> + Send>>;

impl tower::Service<http::Request<Body>> for Service {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answer<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move {
            let mut grpc = Grpc::new(Raw);
            Ok(match request.uri().path() {
                GET_FLOWS => grpc.server_streaming(service, request).await,
                SERVER_STATUS => grpc.unary(service, request).await,
                _ => Status::unimplemented("no such call").into_http(),
            })
        })
    }
}

impl UnaryService<Bytes> for Service {
    type Response = Bytes;
    type Future = Answer<Result<Response<Bytes>, Status>>;

    fn call(&mut self, _: Request<Bytes>) -> Self::Future {
        let seen_flows = self.0.seen.load(Ordering::SeqCst);
        let status = ServerStatus { seen_flows, version: "v0.0.0-player".to_owned(), ..ServerStatus::default() };
        Box::pin(std::future::ready(Ok(Response::new(status.encode_to_vec().into()))))
    }
}

impl ServerStreamingService<Bytes> for Service {
    type Response = Bytes;
    type ResponseStream = ReceiverStream<Result<Bytes, Status>>;
    type Future = Answer<Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        let shared = Arc::clone(&self.0);
        Box::pin(async move {
            let bytes = request.into_inner();
            let request = GetFlowsRequest::decode(bytes.clone());
            let request = request.map_err(|error| Status::invalid_argument(error.to_string()))?;
            let call = shared.calls.fetch_add(1, Ordering::SeqCst);
            let steps = (shared.script)(call, &request);
            shared.requests.lock().unwrap_or_else(PoisonError::into_inner).push((bytes, request));
            // Go's servers send no headers before the first message either.
            let first = steps.iter().position(|step| !matches!(step, Step::Wait(_))).unwrap_or(steps.len());
            let mut steps = steps.into_iter();
            for step in steps.by_ref().take(first) {
                if let Step::Wait(time) = step {
                    tokio::time::sleep(time).await;
                }
            }
            let mut steps = steps.peekable();
            match steps.peek() {
                Some(Step::Stall) => std::future::pending().await,
                Some(Step::Fail(status)) => return Err(status.clone()),
                _ => {}
            }
            let (sender, receiver) = mpsc::channel(1024);
            tokio::spawn(play(steps, sender, shared));
            Ok(Response::new(ReceiverStream::new(receiver)))
        })
    }
}

async fn play(steps: impl Iterator<Item = Step>, sender: mpsc::Sender<Result<Bytes, Status>>, shared: Arc<Shared>) {
    for step in steps {
        if matches!(&step, Step::Send(message) if is_flow(message)) {
            shared.seen.fetch_add(1, Ordering::SeqCst);
        }
        let sent = match step {
            Step::Send(message) => sender.send(Ok(message)).await,
            Step::Fail(status) => sender.send(Err(status)).await,
            Step::Wait(time) => {
                tokio::time::sleep(time).await;
                Ok(())
            }
            Step::End => return,
            Step::Stall => {
                sender.closed().await;
                return;
            }
        };
        if sent.is_err() {
            return;
        }
    }
}
