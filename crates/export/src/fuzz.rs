//! What strangers send to readers: entrances for `fuzz/`, which the tests of every run go through as well.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::http::auth::Auth;
use crate::http::{Handler, Limits, Request, Response, serve_stream};
use crate::otlp;
use crate::prometheus::negotiate;

/// Reads an answer of an OTLP receiver: two bytes of status, lines of headers, an empty line, the body.
pub fn otlp_response(data: &[u8]) {
    let Some((status, rest)) = data.split_first_chunk() else { return };
    let end = rest.windows(2).position(|two| two == b"\n\n").unwrap_or(rest.len());
    let (head, body) = rest.split_at(end);
    let body = Bytes::copy_from_slice(body.get(2..).unwrap_or_default());
    let mut headers = HeaderMap::new();
    for line in head.split(|&byte| byte == b'\n') {
        let at = line.iter().position(|&byte| byte == b':').unwrap_or(line.len());
        let (name, value) = line.split_at(at);
        let value = HeaderValue::from_bytes(value.get(1..).unwrap_or_default().trim_ascii());
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), value) {
            headers.append(name, value);
        }
    }
    let mut response = http::Response::new(());
    *response.status_mut() = StatusCode::from_u16(u16::from_be_bytes(*status)).unwrap_or_default();
    *response.headers_mut() = headers;
    otlp::read_answer(&response.into_parts().0, &body);
}

/// Answers what a client of the listener sends, byte for byte.
pub fn request(data: &[u8]) {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_time().build() else { return };
    runtime.block_on(async {
        let (mut client, server) = tokio::io::duplex(1 << 16);
        let talk = async {
            // The server may hang up before it has read everything.
            let _ = client.write_all(data).await;
            let _ = client.shutdown().await;
            let mut answer = Vec::new();
            let _ = client.read_to_end(&mut answer).await;
        };
        tokio::join!(serve_stream(server, Arc::new(Negotiation), Limits::default()), talk);
    });
}

/// Reads everything of a request that scrapes read, and answers what it came to.
struct Negotiation;

#[async_trait]
impl Handler for Negotiation {
    async fn handle(&self, request: Request) -> Response {
        let auth = Auth::Basic { username: "u".to_owned(), password: "p".to_owned() };
        let format = negotiate::format(&request.headers);
        let (gzip, admitted) = (negotiate::gzip(&request.headers), auth.admits(&request.headers));
        Response::text(StatusCode::OK, format!("{format:?} {gzip} {admitted}"))
    }
}
