//! A gRPC receiver (tonic's server) that answers as its script says and keeps what it got.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use export::otlp::{Endpoint, Options, Remains, Status, retry};
use opentelemetry::metrics::noop::NoopMeterProvider;
use opentelemetry::metrics::{Meter, MeterProvider};
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsPartialSuccess, ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::codec::CompressionEncoding;
use tonic::metadata::MetadataMap;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Server, ServerTlsConfig};

use crate::data::Clock;
use crate::flat::{Flat, received};

/// One answer of a script. After its last, a receiver accepts everything.
#[derive(Clone)]
pub enum Reply {
    Accept,
    Partial(i64, &'static str),
    Refuse(tonic::Status),
}

/// One request as it came.
#[derive(Clone)]
pub struct Received {
    pub request: ExportMetricsServiceRequest,
    pub metadata: MetadataMap,
    pub peer: Option<Vec<u8>>,
    pub accepted: bool,
}

#[derive(Clone, Default)]
pub struct Log {
    received: Arc<Mutex<Vec<Received>>>,
    script: Arc<Mutex<VecDeque<Reply>>>,
}

impl Log {
    /// Adds answers to the script.
    pub fn will(&self, replies: impl IntoIterator<Item = Reply>) {
        self.script.lock().unwrap().extend(replies);
    }

    pub fn received(&self) -> Vec<Received> {
        self.received.lock().unwrap().clone()
    }

    /// The points of the accepted requests.
    pub fn accepted(&self) -> Vec<Flat> {
        self.received().iter().filter(|at| at.accepted).flat_map(|at| received(&at.request)).collect()
    }
}

#[tonic::async_trait]
impl MetricsService for Log {
    async fn export(
        &self,
        request: tonic::Request<ExportMetricsServiceRequest>,
    ) -> Result<tonic::Response<ExportMetricsServiceResponse>, tonic::Status> {
        let reply = self.script.lock().unwrap().pop_front().unwrap_or(Reply::Accept);
        let peer = request.peer_certs().map(|chain| chain[0].to_vec());
        let metadata = request.metadata().clone();
        let accepted = !matches!(reply, Reply::Refuse(_));
        self.received.lock().unwrap().push(Received { request: request.into_inner(), metadata, peer, accepted });
        let partial_success = match reply {
            Reply::Accept => None,
            Reply::Partial(rejected_data_points, text) => {
                Some(ExportMetricsPartialSuccess { rejected_data_points, error_message: text.to_owned() })
            }
            Reply::Refuse(status) => return Err(status),
        };
        Ok(tonic::Response::new(ExportMetricsServiceResponse { partial_success }))
    }
}

/// A running receiver, on a runtime of its own: its end is the end of its connections too.
pub struct Collector {
    pub address: SocketAddr,
    pub log: Log,
    runtime: Option<Runtime>,
}

impl Drop for Collector {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Collector {
    pub async fn start() -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), Log::default(), None).await
    }

    pub async fn start_at(address: SocketAddr, log: Log, tls: Option<ServerTlsConfig>) -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let mut tries = 0;
        let listener = loop {
            // The listener of a receiver that was stopped closes in its own time.
            match runtime.spawn(TcpListener::bind(address)).await.unwrap() {
                Ok(listener) => break listener,
                Err(error) => assert!(tries < 1000, "{error}"),
            }
            tries += 1;
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        let address = listener.local_addr().unwrap();
        let service = MetricsServiceServer::new(log.clone())
            .accept_compressed(CompressionEncoding::Gzip)
            .accept_compressed(CompressionEncoding::Zstd);
        let mut server = Server::builder();
        if let Some(tls) = tls {
            server = server.tls_config(tls).unwrap();
        }
        let serve = server.add_service(service).serve_with_incoming(TcpIncoming::from(listener));
        runtime.spawn(async move { serve.await.unwrap() });
        Self { address, log, runtime: Some(runtime) }
    }

    /// Goes away at once.
    pub fn stop(self) -> (SocketAddr, Log) {
        (self.address, self.log.clone())
    }

    pub fn options(&self) -> Options {
        options(format!("http://{}", self.address))
    }
}

/// Settings with pauses that suit tests.
pub fn options(endpoint: String) -> Options {
    Options {
        interval: Duration::from_millis(20),
        retry: retry::Policy { initial: Duration::from_millis(1), max: Duration::from_millis(8) },
        phase_seed: "node-a".to_owned(),
        ..Options::new("main", endpoint)
    }
}

pub fn meter() -> Meter {
    NoopMeterProvider::new().meter("test")
}

/// Makes the one export of an endpoint that is shut down at once.
pub async fn export_once(options: Options, clock: &Arc<Clock>) -> Status {
    let endpoint = Endpoint::new(options, clock.clone(), &meter()).unwrap();
    let status = endpoint.status();
    endpoint.run(async {}, Duration::from_secs(20)).await;
    status.borrow().clone()
}

/// An endpoint that runs until it is told to stop.
pub struct Running {
    pub status: watch::Receiver<Status>,
    stop: tokio::sync::oneshot::Sender<()>,
    task: JoinHandle<Remains>,
}

impl Running {
    pub fn start(options: Options, clock: &Arc<Clock>, flush_deadline: Duration) -> Self {
        Self::after(Remains::default(), options, clock, flush_deadline)
    }

    /// Starts one in the place of another.
    pub fn after(remains: Remains, options: Options, clock: &Arc<Clock>, flush_deadline: Duration) -> Self {
        let endpoint = Endpoint::new(options, clock.clone(), &meter()).unwrap();
        endpoint.inherit(remains);
        let status = endpoint.status();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let task = tokio::spawn(endpoint.run(async { drop(stopped.await) }, flush_deadline));
        Self { status, stop, task }
    }

    /// Waits for a state of the endpoint.
    pub async fn until(&mut self, state: impl FnMut(&Status) -> bool) -> Status {
        let waiting = self.status.wait_for(state);
        if let Ok(found) = tokio::time::timeout(Duration::from_secs(20), waiting).await {
            return found.unwrap().clone();
        }
        panic!("the state never came: {:?}", self.status.borrow())
    }

    /// Waits for `more` further whole snapshots to be acknowledged.
    pub async fn exports(&mut self, clock: &Clock, more: usize) {
        let wanted = clock.acknowledged().len() + more;
        self.until(|_| clock.acknowledged().len() >= wanted).await;
    }

    /// Waits for `more` further failures.
    pub async fn failures(&mut self, more: u64) {
        let before = self.status.borrow().consecutive_failures;
        self.until(|status| status.consecutive_failures >= before + more).await;
    }

    pub async fn stop(self) -> Remains {
        let _ = self.stop.send(());
        let ended = tokio::time::timeout(Duration::from_secs(20), self.task).await;
        ended.expect("the endpoint never stopped").unwrap()
    }
}
