//! An HTTP receiver (hyper's server) that answers as its script says and keeps what it got.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io::Read;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use prost::Message;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::flat::{Flat, received};

#[derive(Clone)]
pub struct Post {
    pub path: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Post {
    pub fn points(&self) -> Vec<Flat> {
        let body = match self.headers.get("content-encoding").map(|value| value.to_str().unwrap()) {
            None => self.body.to_vec(),
            Some("gzip") => {
                let mut out = Vec::new();
                flate2::read::GzDecoder::new(&*self.body).read_to_end(&mut out).unwrap();
                out
            }
            Some("zstd") => zstd::decode_all(&*self.body).unwrap(),
            Some(other) => panic!("unknown encoding {other}"),
        };
        received(&ExportMetricsServiceRequest::decode(&*body).unwrap())
    }
}

type Reply = Response<Full<Bytes>>;

/// A running receiver; `received` grows.
pub struct Web {
    pub url: String,
    pub received: Arc<Mutex<Vec<Post>>>,
}

impl Web {
    pub async fn start(script: impl IntoIterator<Item = Reply>) -> Self {
        Self::start_with(script, None).await
    }

    pub async fn start_with(script: impl IntoIterator<Item = Reply>, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://{}/v1/metrics?tenant=7", listener.local_addr().unwrap());
        let received: Arc<Mutex<Vec<Post>>> = Arc::default();
        let script = Arc::new(Mutex::new(script.into_iter().collect::<VecDeque<_>>()));
        let (log, replies) = (received.clone(), script);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (log, replies) = (log.clone(), replies.clone());
                let service = service_fn(move |request: Request<Incoming>| {
                    let (log, replies) = (log.clone(), replies.clone());
                    async move {
                        let (head, body) = request.into_parts();
                        assert_eq!(head.method, http::Method::POST);
                        let body = body.collect().await.unwrap().to_bytes();
                        let path = head.uri.to_string();
                        log.lock().unwrap().push(Post { path, headers: head.headers, body });
                        let reply = replies.lock().unwrap().pop_front();
                        Ok::<_, Infallible>(reply.unwrap_or_else(|| reply_with(200, &[], b"")))
                    }
                });
                let tls = tls.clone();
                tokio::spawn(async move {
                    let http = http1::Builder::new();
                    // A client that hangs up is its own business.
                    let _ = match tls {
                        None => http.serve_connection(TokioIo::new(stream), service).await,
                        Some(tls) => {
                            let Ok(stream) = tls.accept(stream).await else { return };
                            http.serve_connection(TokioIo::new(stream), service).await
                        }
                    };
                });
            }
        });
        Self { url, received }
    }

    pub fn received(&self) -> Vec<Post> {
        self.received.lock().unwrap().clone()
    }
}

/// Makes an answer with a protobuf body.
pub fn reply_with(status: u16, headers: &[(&str, &str)], body: &[u8]) -> Reply {
    let mut reply = Response::builder().status(status).header("content-type", "application/x-protobuf");
    for (name, value) in headers {
        reply = reply.header(*name, *value);
    }
    reply.body(Full::new(Bytes::copy_from_slice(body))).unwrap()
}
