//! The Prometheus reader: a snapshot per scrape, in the format that the scraper likes best.

mod block;
mod cache;
mod labels;
pub(crate) mod negotiate;
mod number;
mod protobuf;
mod scrape;
pub mod telemetry;
mod text;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use model::{Snapshot, Source};
use opentelemetry::metrics::Meter;

pub use self::block::Counts;
use crate::http::auth::Auth;
use crate::http::tls::TlsOptions;
use crate::http::{Error, Limits, Listener, Server};

/// An exposition format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Text 0.0.4.
    Text,
    /// OpenMetrics 1.0.0.
    OpenMetrics,
    /// OpenMetrics 0.0.1: the same bytes under an older version's name.
    OpenMetrics0,
    /// Delimited `io.prometheus.client.MetricFamily` messages with native histograms.
    Protobuf,
}

impl Format {
    /// Every format.
    pub const ALL: [Self; 4] = [Self::Text, Self::OpenMetrics, Self::OpenMetrics0, Self::Protobuf];

    /// Gives the value of `Content-Type`.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::OpenMetrics0 => "application/openmetrics-text; version=0.0.1; charset=utf-8",
            Self::Protobuf => {
                "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"
            }
        }
    }
}

/// What an exposition has beyond the plain values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Style {
    /// `_created` samples in OpenMetrics; the protobuf exposition always has created timestamps.
    pub created: bool,
    /// Classic buckets beside the native ones in the protobuf exposition.
    pub classic_histograms: bool,
    /// How many doublings lie between neighbouring classic bounds at least; 0 for all bounds of a metric.
    pub doublings: u8,
}

/// Appends a snapshot in a format, in the default style.
pub fn encode(snapshot: &Snapshot, format: Format, out: &mut Vec<u8>) -> Counts {
    encode_with(snapshot, format, Style::default(), out)
}

/// Appends a snapshot in a format and style.
pub fn encode_with(snapshot: &Snapshot, format: Format, style: Style, out: &mut Vec<u8>) -> Counts {
    let dialect = |open| text::Dialect { open, created: style.created, doublings: style.doublings };
    match format {
        Format::Text => text::encode(snapshot, dialect(false), out),
        Format::OpenMetrics | Format::OpenMetrics0 => text::encode(snapshot, dialect(true), out),
        Format::Protobuf => protobuf::encode(snapshot, style, out),
    }
}

/// All settings of the reader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The address to serve on.
    pub listen: SocketAddr,
    /// The configuration key of the address, for messages.
    pub listen_key: String,
    /// The path of the metrics, beginning with `/`.
    pub path: String,
    /// How old a scraped snapshot may be.
    pub max_age: Duration,
    /// Serves HTTPS.
    pub tls: Option<TlsOptions>,
    /// Credentials that every request needs.
    pub auth: Option<Auth>,
    /// What the expositions have beyond the plain values.
    pub style: Style,
    /// What the server spends on its clients.
    pub limits: Limits,
}

impl Options {
    /// Gives the default settings for an address.
    pub fn new(listen: SocketAddr) -> Self {
        Self {
            listen,
            listen_key: "exporters.prometheus.listen".to_owned(),
            path: "/metrics".to_owned(),
            max_age: Duration::from_secs(1),
            tls: None,
            auth: None,
            style: Style::default(),
            limits: Limits::default(),
        }
    }
}

/// Binds the reader's listener; its self metrics go to `meter`.
///
/// # Errors
///
/// [`Error::Bind`] when the address cannot be bound, [`Error::Tls`] when a certificate file cannot be used.
pub fn bind(options: Options, source: Arc<dyn Source>, meter: &Meter) -> Result<Server, Error> {
    server(Listener::tcp(options.listen, &options.listen_key)?, options, source, meter)
}

/// Makes the reader's server on a listener that is bound already.
///
/// # Errors
///
/// [`Error::Tls`] when a certificate file cannot be used.
pub fn server(listener: Listener, options: Options, source: Arc<dyn Source>, meter: &Meter) -> Result<Server, Error> {
    let (tls, limits) = (options.tls.clone(), options.limits.clone());
    let instruments = Arc::new(telemetry::Instruments::new(meter));
    let handler = Arc::new(scrape::Scrapes::new(options, source, instruments.clone()));
    Server::new(listener, tls, handler, instruments, limits)
}
