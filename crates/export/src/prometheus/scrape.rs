//! Answers scrapes: who may ask, what they want and by when.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use model::Source;

use super::cache::Cache;
use super::telemetry::Instruments;
use super::{Options, negotiate};
use crate::http::{Handler, HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};

const TIMEOUT: &str = "x-prometheus-scrape-timeout-seconds";
const SNAPSHOT_TIME: &str = "telesonde-snapshot-time";

/// The handler of the reader's listener.
pub(super) struct Scrapes {
    options: Options,
    source: Arc<dyn Source>,
    instruments: Arc<Instruments>,
    cache: Cache,
    conflicts_reported: AtomicBool,
}

impl Scrapes {
    pub(super) fn new(options: Options, source: Arc<dyn Source>, instruments: Arc<Instruments>) -> Self {
        Self { options, source, instruments, cache: Cache::default(), conflicts_reported: AtomicBool::new(false) }
    }

    async fn scrape(&self, headers: &HeaderMap) -> Response {
        let began = Instant::now();
        // The connection is cut at the limit: an answer that says why comes a little earlier.
        let limit = self.options.limits.request_time.mul_f64(0.9);
        let deadline = deadline(headers).unwrap_or(limit).min(limit);
        let Ok(response) = tokio::time::timeout(deadline, self.metrics(headers, began)).await else {
            self.instruments.scrape("timeout");
            let body = format!("the metrics were not gathered within {} s\n", deadline.as_secs_f64());
            return Response::text(StatusCode::SERVICE_UNAVAILABLE, body);
        };
        response
    }

    async fn metrics(&self, headers: &HeaderMap, began: Instant) -> Response {
        let format = negotiate::format(headers);
        let gzip = negotiate::gzip(headers);
        let snapshot = self.source.snapshot(self.options.max_age).await;
        let (body, counts) = match self.cache.get(&snapshot, format, self.options.style, gzip).await {
            Ok(encoded) => encoded,
            Err(error) => {
                tracing::error!(%error, "a scrape was not encoded");
                self.instruments.scrape("error");
                return Response::text(StatusCode::INTERNAL_SERVER_ERROR, "the metrics were not encoded\n");
            }
        };
        if counts.conflicts > 0 && !self.conflicts_reported.swap(true, Ordering::Relaxed) {
            tracing::warn!(points = counts.conflicts, "points have another metric's name or labels and are left out");
        }
        self.instruments.served(counts, body.len(), began.elapsed());
        let mut response =
            Response::new(StatusCode::OK, format.content_type(), body).with(header::VARY, "Accept, Accept-Encoding");
        if gzip {
            response = response.with(header::CONTENT_ENCODING, "gzip");
        }
        response.headers.insert(SNAPSHOT_TIME, HeaderValue::from(snapshot.time));
        response
    }

    fn index(&self, headers: &HeaderMap) -> Response {
        let path = &self.options.path;
        let html = headers.get_all(header::ACCEPT).iter().any(|value| value.as_bytes().starts_with(b"text/html"));
        if html {
            let link = path.replace('&', "&amp;").replace('"', "&quot;").replace('<', "&lt;");
            let body = format!("<!doctype html><title>Telesonde</title><p><a href=\"{link}\">{link}</a></p>\n");
            return Response::new(StatusCode::OK, "text/html; charset=utf-8", body);
        }
        Response::text(StatusCode::OK, format!("Telesonde: the metrics are at {path}\n"))
    }
}

#[async_trait]
impl Handler for Scrapes {
    async fn handle(&self, request: Request) -> Response {
        if let Some(auth) = &self.options.auth
            && !auth.admits(&request.headers)
        {
            self.instruments.scrape("unauthorized");
            return auth.challenge();
        }
        let metrics = request.path == self.options.path;
        if !metrics && request.path != "/" {
            return Response::not_found(&request.path, &self.options.path);
        }
        if request.method != Method::GET && request.method != Method::HEAD {
            return Response::method_not_allowed("GET, HEAD");
        }
        if metrics { self.scrape(&request.headers).await } else { self.index(&request.headers) }
    }
}

/// Gives the time after which the scraper gives up, where it says so.
fn deadline(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(TIMEOUT)?.to_str().ok()?.trim().parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok().filter(|timeout| !timeout.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scrapers_deadline_is_read() {
        let cases = [("10", Some(10_000)), ("0.5", Some(500)), ("0", None), ("-1", None), ("NaN", None), ("x", None)];
        for (value, expected) in cases {
            let headers = HeaderMap::from_iter([(TIMEOUT.parse().unwrap(), value.parse().unwrap())]);
            assert_eq!(deadline(&headers), expected.map(Duration::from_millis), "{value}");
        }
    }
}
