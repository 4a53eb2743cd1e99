//! The reader's server: routes, negotiation, credentials, sharing and limits, over plain TCP.

use std::io::Read as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use opentelemetry::metrics::MeterProvider as _;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use telesonde_export::http::auth::Auth;
use telesonde_export::http::{Error, Handler, Limits, Listener, Request, Response, Server, StatusCode};
use telesonde_export::prometheus::{Options, bind};
use telesonde_export::{health, http};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::client;
use crate::fixture::{Gathers, TIME, everything};

/// A server that runs until it is dropped or stopped.
pub struct Running {
    pub address: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), Error>>,
}

impl Running {
    pub fn start(server: Server) -> Self {
        let address = server.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(server.run(async move {
            let _ = stopped.await;
        }));
        Self { address, stop, task }
    }

    async fn stop(self) {
        self.stop.send(()).unwrap();
        self.task.await.unwrap().unwrap();
    }

    /// Opens a connection that the server has accepted and keeps.
    pub async fn hold(&self) -> TcpStream {
        for _ in 0..1000 {
            let mut stream = TcpStream::connect(self.address).await.unwrap();
            stream
                .write_all(b"OPTIONS / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n")
                .await
                .ok();
            if stream.read_u8().await.is_ok() {
                return stream;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("no connection was accepted");
    }

    /// Asks until the server has a place for the connection: that of the one before may not be free yet.
    pub async fn ask_when_free(&self, method: &str, path: &str, headers: &str) -> (String, Vec<u8>) {
        for _ in 0..1000 {
            let response = self.response(method, path, headers).await;
            if !response.is_empty() {
                return split(&response);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("no request was answered");
    }

    /// Sends a request that closes the connection and gives the response's head and body.
    async fn ask(&self, method: &str, path: &str, headers: &str) -> (String, Vec<u8>) {
        split(&self.response(method, path, headers).await)
    }

    async fn response(&self, method: &str, path: &str, headers: &str) -> Vec<u8> {
        let request = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n");
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        // A server that refuses may have closed already: the empty answer shows it.
        let _ = stream.write_all(request.as_bytes()).await;
        read_all(&mut stream).await
    }
}

/// Reads until the other side closes, in whatever way it does.
async fn read_all(stream: &mut TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    let mut chunk = vec![0; 65536];
    while let Ok(read @ 1..) = stream.read(&mut chunk).await {
        all.extend_from_slice(&chunk[..read]);
    }
    all
}

pub fn split(response: &[u8]) -> (String, Vec<u8>) {
    let end = response.windows(4).position(|window| window == b"\r\n\r\n").expect("a whole head");
    (String::from_utf8(response[..end].to_vec()).unwrap().to_lowercase(), response[end + 4..].to_vec())
}

pub fn options() -> Options {
    Options::new("127.0.0.1:0".parse().unwrap())
}

pub fn start_with(options: Options, source: Arc<Gathers>) -> Running {
    let meter = SdkMeterProvider::builder().build().meter("test");
    Running::start(bind(options, source, &meter).unwrap())
}

fn start(options: Options) -> Running {
    start_with(options, Gathers::new(everything(), u64::MAX))
}

#[tokio::test]
async fn formats_are_negotiated() {
    let server = start(options());
    let protobuf = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited";
    let cases = [
        ("*/*", "content-type: text/plain; version=0.0.4; charset=utf-8", "# HELP"),
        ("application/openmetrics-text", "application/openmetrics-text; version=1.0.0; charset=utf-8", "# HELP"),
        ("application/openmetrics-text;version=0.0.1", "application/openmetrics-text; version=0.0.1;", "# HELP"),
        (protobuf, "application/vnd.google.protobuf; proto=io.prometheus.client.metricfamily; encoding=delimited", ""),
    ];
    for (accept, content_type, begins) in cases {
        let (head, body) = server.ask("GET", "/metrics", &format!("Accept: {accept}\r\n")).await;
        assert!(head.starts_with("http/1.1 200 ok"), "{head}");
        assert!(head.contains(content_type), "{head}");
        assert!(head.contains(&format!("telesonde-snapshot-time: {TIME}")), "{head}");
        assert!(head.contains("vary: accept, accept-encoding"), "{head}");
        assert!(body.starts_with(begins.as_bytes()));
        if accept == protobuf {
            assert_eq!(client::decode(&body).len(), 5);
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn gzip_and_head_agree_with_the_plain_response() {
    let server = start(options());
    let (head, plain) = server.ask("GET", "/metrics", "").await;
    assert!(head.contains(&format!("content-length: {}", plain.len())), "{head}");
    assert!(!head.contains("content-encoding"), "{head}");
    let (head, packed) = server.ask("GET", "/metrics", "Accept-Encoding: gzip\r\n").await;
    assert!(head.contains("content-encoding: gzip"), "{head}");
    let mut unpacked = Vec::new();
    flate2::read::GzDecoder::new(&packed[..]).read_to_end(&mut unpacked).unwrap();
    assert_eq!(unpacked, plain);
    let (head, body) = server.ask("HEAD", "/metrics", "").await;
    assert!(head.contains(&format!("content-length: {}", plain.len())), "{head}");
    assert_eq!(body, b"");
}

#[tokio::test]
async fn paths_and_methods_are_explained() {
    let server = start(Options { path: "/m".to_owned(), ..options() });
    let (head, body) = server.ask("GET", "/", "").await;
    assert!(head.starts_with("http/1.1 200"), "{head}");
    assert_eq!(body, b"Telesonde: the metrics are at /m\n");
    let (head, body) = server.ask("GET", "/", "Accept: text/html,*/*;q=0.8\r\n").await;
    assert!(head.contains("content-type: text/html"), "{head}");
    assert!(String::from_utf8(body).unwrap().contains("<a href=\"/m\">"));
    let (head, body) = server.ask("GET", "/metrics", "").await;
    assert!(head.starts_with("http/1.1 404"), "{head}");
    assert_eq!(body, b"/metrics does not exist here; try /m\n");
    let (head, _) = server.ask("POST", "/m", "Content-Length: 0\r\n").await;
    assert!(head.starts_with("http/1.1 405"), "{head}");
    assert!(head.contains("allow: get, head"), "{head}");
}

#[tokio::test]
async fn credentials_are_needed_everywhere() {
    let auth = Some(Auth::Bearer { token: "t0ken".to_owned() });
    let source = Gathers::new(everything(), u64::MAX);
    let server = start_with(Options { auth, ..options() }, source.clone());
    for (path, headers) in [("/metrics", ""), ("/", ""), ("/metrics", "Authorization: Bearer t0kem\r\n")] {
        let (head, _) = server.ask("GET", path, headers).await;
        assert!(head.starts_with("http/1.1 401"), "{head}");
        assert!(head.contains("www-authenticate: bearer"), "{head}");
    }
    assert_eq!(source.taken.load(Ordering::SeqCst), 0);
    let (head, _) = server.ask("GET", "/metrics", "Authorization: Bearer t0ken\r\n").await;
    assert!(head.starts_with("http/1.1 200"), "{head}");
}

#[tokio::test]
async fn max_age_decides_whether_a_scrape_gathers() {
    let source = Gathers::new(everything(), u64::MAX);
    let server = start_with(options(), source.clone());
    for _ in 0..2 {
        server.ask("GET", "/metrics", "").await;
    }
    assert_eq!(source.taken.load(Ordering::SeqCst), 2);
    let source = Gathers::new(everything(), u64::MAX);
    let server = start_with(Options { max_age: Duration::from_hours(1), ..options() }, source.clone());
    let mut bodies = Vec::new();
    for _ in 0..2 {
        bodies.push(server.ask("GET", "/metrics", "").await.1);
    }
    assert_eq!(source.taken.load(Ordering::SeqCst), 1);
    assert_eq!(bodies[0], bodies[1]);
}

#[tokio::test]
async fn a_scrape_ends_with_the_scrapers_patience() {
    let server = start_with(options(), Gathers::new(everything(), 0));
    let (head, body) = server.ask("GET", "/metrics", "X-Prometheus-Scrape-Timeout-Seconds: 0.05\r\n").await;
    assert!(head.starts_with("http/1.1 503"), "{head}");
    assert_eq!(body, b"the metrics were not gathered within 0.05 s\n");
}

#[tokio::test]
async fn a_connection_serves_many_requests() {
    let server = start(options());
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    for _ in 0..3 {
        stream.write_all(b"HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        assert!(head.starts_with(b"HTTP/1.1 200"));
    }
    // An idle connection does not hold up the shutdown.
    server.stop().await;
    assert_eq!(read_all(&mut stream).await, b"");
}

#[tokio::test]
async fn slow_heads_and_idle_connections_are_cut_off() {
    let limits =
        Limits { header_time: Duration::from_millis(50), idle_time: Duration::from_millis(50), ..Limits::default() };
    let server = start(Options { limits, ..options() });
    for sent in ["", "GET /metrics HT", "GET /metrics HTTP/1.1\r\nHost: x\r\n"] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(sent.as_bytes()).await.unwrap();
        assert_eq!(read_all(&mut stream).await, b"", "{sent}");
    }
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(b"HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let (head, _) = split(&read_all(&mut stream).await);
    assert!(head.starts_with("http/1.1 200"), "{head}");
    stream.write_all(b"x").await.ok();
}

struct Large;

const LARGE: usize = 64 << 20;

#[async_trait]
impl Handler for Large {
    async fn handle(&self, request: Request) -> Response {
        if request.path == "/echo" {
            return Response::text(StatusCode::OK, request.body);
        }
        Response::text(StatusCode::OK, vec![b'x'; LARGE])
    }
}

fn large(limits: Limits) -> Running {
    let listener = Listener::tcp("127.0.0.1:0".parse().unwrap(), "test").unwrap();
    Running::start(Server::new(listener, None, Arc::new(Large), Arc::new(()), limits).unwrap())
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut_off() {
    let server = large(Limits { request_time: Duration::from_millis(100), ..Limits::default() });
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert!(read_all(&mut stream).await.len() < LARGE);
}

#[tokio::test]
async fn heads_and_bodies_have_a_size_limit() {
    let server = large(Limits { header_bytes: 1024, body_bytes: 100, ..Limits::default() });
    let (head, _) = server.ask("GET", "/echo", &format!("X: {}\r\n", "y".repeat(2000))).await;
    assert!(head.starts_with("http/1.1 431"), "{head}");
    let (head, body) = server.ask("POST", "/echo", "Content-Length: 4\r\n\r\nabcd").await;
    assert!(head.starts_with("http/1.1 200"), "{head}");
    assert_eq!(body, b"abcd");
    let long = format!("Content-Length: 101\r\n\r\n{}", "z".repeat(101));
    let (head, _) = server.ask("POST", "/echo", &long).await;
    assert!(head.starts_with("http/1.1 413"), "{head}");
    let chunked = format!("Transfer-Encoding: chunked\r\n\r\n65\r\n{}\r\n0\r\n", "z".repeat(101));
    let (head, _) = server.ask("POST", "/echo", &chunked).await;
    assert!(head.starts_with("http/1.1 413"), "{head}");
}

#[tokio::test]
async fn connections_beyond_the_limit_are_closed_at_once() {
    let limits = Limits { connections: 1, ..Limits::default() };
    let server = start(Options { limits, ..options() });
    let mut first = TcpStream::connect(server.address).await.unwrap();
    first.write_all(b"HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    first.read_u8().await.unwrap();
    let mut second = TcpStream::connect(server.address).await.unwrap();
    assert_eq!(read_all(&mut second).await, b"");
    drop(first);
    let (head, _) = server.ask_when_free("GET", "/", "").await;
    assert!(head.starts_with("http/1.1 200"), "{head}");
}

#[tokio::test]
async fn probes_tell_liveness_and_readiness() {
    let reasons = Arc::new(std::sync::Mutex::new(vec!["syscalls: failed".to_owned()]));
    let shared = reasons.clone();
    let ready = move || {
        let reasons = shared.lock().unwrap().clone();
        if reasons.is_empty() { Ok(vec!["but".to_owned()]) } else { Err(reasons) }
    };
    let server = health::bind("127.0.0.1:0".parse().unwrap(), "health.listen", Arc::new(ready)).unwrap();
    let server = Running::start(server);
    let (head, _) = server.ask("GET", "/healthz", "").await;
    assert!(head.starts_with("http/1.1 200"), "{head}");
    let (head, body) = server.ask("GET", "/readyz", "").await;
    assert!(head.starts_with("http/1.1 503"), "{head}");
    assert_eq!(body, b"not ready\nsyscalls: failed\n");
    reasons.lock().unwrap().clear();
    let (head, body) = server.ask("GET", "/readyz?verbose", "").await;
    assert!(head.starts_with("http/1.1 200"), "{head}");
    assert_eq!(body, b"ready\nbut\n");
    let (head, _) = server.ask("PUT", "/readyz", "Content-Length: 0\r\n").await;
    assert!(head.starts_with("http/1.1 405"), "{head}");
}

#[tokio::test]
async fn unix_sockets_are_served_too() {
    let path = std::env::temp_dir().join(format!("telesonde-serve-{}.sock", std::process::id()));
    let listener = Listener::unix(&path, "admin.socket").unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let task = tokio::spawn(http::serve(listener, Arc::new(Large), Limits::default(), async move {
        let _ = stopped.await;
    }));
    let mut stream = tokio::net::UnixStream::connect(&path).await.unwrap();
    stream.write_all(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi").await.unwrap();
    let mut response = Vec::new();
    while !response.ends_with(b"hi") {
        response.push(stream.read_u8().await.unwrap());
    }
    assert!(response.starts_with(b"HTTP/1.1 200"));
    stop.send(()).unwrap();
    task.await.unwrap().unwrap();
    assert!(!path.exists());
}
