//! Where requests go and what heads them: the checked form of an endpoint's URL and headers.

use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HOST, TE, USER_AGENT};
use http::uri::{Authority, Parts, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Uri};

use super::{Compression, Error, Options, Protocol, Signal};

const METRICS: &str = "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export";
const LOGS: &str = "/opentelemetry.proto.collector.logs.v1.LogsService/Export";

/// What is the same for all requests of an endpoint.
#[derive(Clone, Debug)]
pub(super) struct Target {
    /// The host to resolve, without brackets.
    pub host: String,
    /// The port to connect to.
    pub port: u16,
    /// Whether to speak TLS.
    pub tls: bool,
    /// How requests travel.
    pub protocol: Protocol,
    /// The request's URI: absolute for HTTP/2, the path for HTTP/1.1.
    pub uri: Uri,
    /// All headers but those that depend on the body.
    pub headers: HeaderMap,
    /// The URL for messages, without its query.
    pub display: String,
}

impl Target {
    /// Checks an endpoint's URL and headers.
    ///
    /// # Errors
    /// When the URL is not an `http` or `https` URL that fits the protocol, or when a header cannot be sent.
    pub fn new(options: &Options) -> Result<Self, Error> {
        let uri: Uri = options.endpoint.trim().parse().map_err(|_| wrong(options, &options.endpoint, NOT_A_URL))?;
        let (Some(scheme), Some(authority)) = (uri.scheme(), uri.authority()) else {
            return Err(wrong(options, &options.endpoint, NOT_A_URL));
        };
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let display = display(scheme, authority, &uri);
        let reject = |reason| wrong(options, &display, reason);
        let tls = match scheme.as_str() {
            "http" => false,
            "https" => true,
            _ => return Err(reject("has an unknown scheme; write http:// or https://")),
        };
        if authority.as_str().contains('@') {
            return Err(reject("holds a user or password; send them in headers, as `authorization`"));
        }
        if host.is_empty() {
            return Err(reject(NOT_A_URL));
        }
        if options.protocol == Protocol::Grpc && !(uri.path() == "/" && uri.query().is_none()) {
            return Err(reject("has a path, which gRPC cannot use; leave it out, or set protocol: http"));
        }
        let port = authority.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let uri = match options.protocol {
            Protocol::Grpc => {
                let mut parts = Parts::default();
                parts.scheme = Some(scheme.clone());
                parts.authority = Some(authority.clone());
                parts.path_and_query = Some(PathAndQuery::from_static(match options.signal {
                    Signal::Metrics => METRICS,
                    Signal::Logs => LOGS,
                }));
                Uri::from_parts(parts).map_err(|_| reject(NOT_A_URL))?
            }
            Protocol::Http => uri.path_and_query().map_or_else(Uri::default, |path| Uri::from(path.clone())),
        };
        let headers = headers(options, authority)?;
        Ok(Self { host, port, tls, protocol: options.protocol, uri, headers, display })
    }
}

const NOT_A_URL: &str = "is not a URL; write it like http://collector:4317";

fn wrong(options: &Options, url: &str, reason: &str) -> Error {
    // What could not be parsed may still hold a password.
    let url = url.rsplit_once('@').map_or(url, |(_, rest)| rest);
    let url = url.split_once('?').map_or(url, |(rest, _)| rest);
    Error::Url { name: options.name.clone(), url: url.to_owned(), reason: reason.to_owned() }
}

fn display(scheme: &Scheme, authority: &Authority, uri: &Uri) -> String {
    let path = if uri.path() == "/" { "" } else { uri.path() };
    let host = authority.as_str().rsplit_once('@').map_or(authority.as_str(), |(_, host)| host);
    format!("{scheme}://{host}{path}")
}

fn headers(options: &Options, authority: &Authority) -> Result<HeaderMap, Error> {
    let mut headers = HeaderMap::new();
    for (name, value) in &options.headers {
        let wrong = |reason| Error::Header { name: options.name.clone(), header: name.clone(), reason };
        let key = HeaderName::try_from(name.trim()).map_err(|_| wrong("is not a header name"))?;
        if RESERVED.contains(&key.as_str()) || key.as_str().starts_with("grpc-") {
            return Err(wrong("is set by the protocol; leave it out"));
        }
        let mut value =
            HeaderValue::try_from(value).map_err(|_| wrong("has a value with characters that headers cannot carry"))?;
        value.set_sensitive(true);
        headers.append(key, value);
    }
    let agent = HeaderValue::try_from(&options.user_agent).map_err(|_| Error::Header {
        name: options.name.clone(),
        header: "user-agent".to_owned(),
        reason: "has a value with characters that headers cannot carry",
    })?;
    headers.entry(USER_AGENT).or_insert(agent);
    let encoding = match options.compression {
        Compression::None => None,
        Compression::Gzip => Some("gzip"),
        Compression::Zstd => Some("zstd"),
    };
    match options.protocol {
        Protocol::Grpc => {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            headers.insert(TE, HeaderValue::from_static("trailers"));
            let limit = options.timeout.as_millis().clamp(1, 99_999_999);
            if let Ok(value) = HeaderValue::try_from(format!("{limit}m")) {
                headers.insert("grpc-timeout", value);
            }
            if let Some(encoding) = encoding {
                headers.insert("grpc-encoding", HeaderValue::from_static(encoding));
            }
        }
        Protocol::Http => {
            if let Ok(host) = HeaderValue::try_from(authority.as_str()) {
                headers.insert(HOST, host);
            }
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
            if let Some(encoding) = encoding {
                headers.insert(CONTENT_ENCODING, HeaderValue::from_static(encoding));
            }
        }
    }
    Ok(headers)
}

const RESERVED: &[&str] = &[
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "host",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn target(protocol: Protocol, url: &str) -> Result<Target, Error> {
        Target::new(&Options { protocol, ..Options::new("main", url) })
    }

    #[test]
    fn urls_are_taken_apart() {
        let grpc = target(Protocol::Grpc, "https://otel.example").unwrap();
        assert_eq!((grpc.host.as_str(), grpc.port, grpc.tls), ("otel.example", 443, true));
        assert_eq!(grpc.uri, *format!("https://otel.example{METRICS}"));
        let http = target(Protocol::Http, "http://[::1]:4318/v1/metrics?tenant=7").unwrap();
        assert_eq!((http.host.as_str(), http.port, http.tls), ("::1", 4318, false));
        assert_eq!(http.uri, "/v1/metrics?tenant=7");
        assert_eq!(http.display, "http://[::1]:4318/v1/metrics");
        assert_eq!(http.headers["host"], "[::1]:4318");
    }

    #[test]
    fn wrong_urls_name_the_fix_and_hide_secrets() {
        let cases = [
            (Protocol::Grpc, "localhost:4317", "write it like http://"),
            (Protocol::Grpc, "", "write it like http://"),
            (Protocol::Grpc, "ftp://a", "unknown scheme"),
            (Protocol::Grpc, "http://a:4317/v1/metrics", "protocol: http"),
            (Protocol::Http, "http://user:secret@a/v1/metrics?secret", "headers"),
        ];
        for (protocol, url, fix) in cases {
            let text = target(protocol, url).unwrap_err().to_string();
            assert!(text.contains(fix) && text.contains("endpoint main"), "{text}");
            assert!(!text.contains("secret"), "{text}");
        }
    }

    #[test]
    fn headers_are_checked_without_showing_values() {
        for (name, value) in [("a b", "secret"), ("x", "secret\n"), ("grpc-timeout", "secret"), ("TE", "secret")] {
            let headers = vec![(name.to_owned(), value.to_owned())];
            let options = Options { headers, ..Options::new("main", "http://a") };
            let text = Target::new(&options).unwrap_err().to_string();
            assert!(text.contains(name) && !text.contains("secret"), "{text}");
        }
        let headers = vec![("Authorization".to_owned(), "Bearer secret".to_owned())];
        let target = Target::new(&Options { headers, ..Options::new("main", "http://a") }).unwrap();
        assert_eq!(target.headers["authorization"], "Bearer secret");
        assert!(!format!("{target:?}").contains("secret"));
    }
}
