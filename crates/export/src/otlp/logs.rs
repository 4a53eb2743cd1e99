//! Events as OTLP log records: encoded by opentelemetry-otlp, carried over the same connections as metrics.
//!
//! The SDK's own batch processor drops without saying how much; here each batch has one known end.

mod carrier;
mod record;

use std::sync::Arc;

use model::Attributes;
use model::event::{Feed, Record};
use opentelemetry::InstrumentationScope;
use opentelemetry::logs::LoggerProvider;
use opentelemetry::metrics::Meter;
use opentelemetry_otlp::{LogExporter, Protocol as Encoding, RetryPolicy, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::logs::{LogBatch, LogExporter as _, SdkLogger, SdkLoggerProvider};
use tokio::sync::watch;
use tokio::time::Instant;

use super::error::Failure;
use super::retry::Backoff;
use super::{Error, Options};
use crate::events::{Account, Pace};
use carrier::{Carrier, End};

/// A sink that sends events to one receiver.
pub struct Logs {
    options: Options,
    exporter: LogExporter,
    carrier: Arc<Carrier>,
    scopes: Scopes,
    backoff: Backoff,
    failing: bool,
}

/// The scope of each collector, and what makes records.
struct Scopes {
    provider: SdkLoggerProvider,
    version: String,
    schema_url: String,
    known: Vec<(&'static str, InstrumentationScope, SdkLogger)>,
}

/// What scopes and the resource say of the agent.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The agent and its node.
    pub resource: Arc<Attributes>,
    /// The agent's version.
    pub version: String,
    /// The schema of attribute keys.
    pub schema_url: String,
}

impl Logs {
    /// Checks the settings and reads the certificates; nothing is sent before [`Logs::run`].
    ///
    /// # Errors
    /// When a setting is unusable; the error names it and what to change.
    pub fn new(options: Options, identity: Identity, meter: &Meter) -> Result<Self, Error> {
        let wrong = |reason: String| Error::Url { name: options.name.clone(), url: options.endpoint.clone(), reason };
        let carrier = Arc::new(Carrier::new(&options, meter)?);
        let exporter = LogExporter::builder()
            .with_http()
            .with_shared_http_client(Arc::clone(&carrier) as Arc<dyn opentelemetry_http::HttpClient>)
            .with_retry_policy(RetryPolicy::disabled())
            .with_protocol(Encoding::HttpBinary)
            .with_endpoint(&options.endpoint)
            // The carrier keeps to the time; its connection would not survive being dropped by the exporter.
            .with_timeout(2 * options.timeout)
            .build();
        let mut exporter = exporter.map_err(|error| wrong(format!("is unusable: {error}")))?;
        let pairs = identity.resource.pairs().iter();
        let pairs = pairs
            .map(|pair| opentelemetry::KeyValue::new(pair.key.as_str().to_owned(), pair.value.as_str().to_owned()));
        exporter.set_resource(&Resource::builder_empty().with_schema_url(pairs, identity.schema_url.clone()).build());
        let (version, schema_url) = (identity.version, identity.schema_url);
        let scopes = Scopes { provider: SdkLoggerProvider::builder().build(), version, schema_url, known: Vec::new() };
        let backoff = Backoff::new(options.retry);
        Ok(Self { options, exporter, carrier, scopes, backoff, failing: false })
    }

    /// Delivers until the feed ends. Once `stopping` says so, a batch that fails is not tried again.
    pub async fn run(
        mut self,
        feed: Arc<dyn Feed>,
        account: Arc<Account>,
        pace: Pace,
        mut stopping: watch::Receiver<bool>,
    ) {
        loop {
            let records = feed.take(pace.batch, pace.linger).await;
            if records.is_empty() {
                return;
            }
            // A batch that is too large for one request goes in halves, in order.
            let mut parts = vec![records.as_slice()];
            let deadline = Instant::now() + pace.patience;
            while let Some(part) = parts.pop() {
                match self.deliver(part, deadline, &mut stopping).await {
                    End::Accepted(rejected) => {
                        let refused = (rejected as usize).min(part.len());
                        account.refused(refused);
                        account.delivered(part.len() - refused);
                    }
                    End::TooLarge if part.len() > 1 => {
                        let (first, second) = part.split_at(part.len() / 2);
                        parts.extend([second, first]);
                    }
                    End::TooLarge | End::Refused(_) => account.refused(part.len()),
                    End::Failed(..) => account.failed(part.len()),
                }
            }
        }
    }

    /// Delivers one request's records, trying again until the deadline.
    async fn deliver(
        &mut self,
        records: &[Arc<Record>],
        deadline: Instant,
        stopping: &mut watch::Receiver<bool>,
    ) -> End {
        loop {
            let end = self.attempt(records).await;
            self.note(&end);
            let End::Failed(_, asked) = end else { return end };
            let again = Instant::now() + self.backoff.failed(asked);
            if again >= deadline || *stopping.borrow() {
                return end;
            }
            tokio::select! {
                () = tokio::time::sleep_until(again) => {}
                // One last attempt.
                _ = stopping.wait_for(|stopping| *stopping) => {}
            }
        }
    }

    async fn attempt(&mut self, records: &[Arc<Record>]) -> End {
        let made: Vec<_> = records.iter().map(|record| self.scopes.make(record)).collect();
        let batch: Vec<_> = made.iter().map(|(record, scope)| (record, scope)).collect();
        let result = self.exporter.export(LogBatch::new(&batch)).await;
        // What the exporter knows of the receiver it has from the carrier.
        self.carrier.end().unwrap_or_else(|| match result {
            Ok(()) => End::Accepted(0),
            Err(error) => End::Failed(error.to_string(), None),
        })
    }

    /// One line when deliveries begin to fail, one when they succeed again.
    fn note(&mut self, end: &End) {
        let endpoint = &self.options.name;
        match end {
            End::Accepted(rejected) => {
                self.backoff.succeeded();
                if *rejected > 0 {
                    tracing::warn!(endpoint, rejected, "the receiver refused some events");
                }
                if std::mem::take(&mut self.failing) {
                    tracing::info!(endpoint, "events are delivered again");
                }
            }
            End::TooLarge => {}
            End::Refused(cause) | End::Failed(cause, _) => {
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::warn!("events to otlp endpoint {endpoint} ({}): {cause}", self.carrier.url());
                }
            }
        }
    }
}

impl Scopes {
    fn make(&mut self, record: &Record) -> (opentelemetry_sdk::logs::SdkLogRecord, InstrumentationScope) {
        if !self.known.iter().any(|(name, ..)| *name == record.collector) {
            let scope = InstrumentationScope::builder(format!("telesonde.{}", record.collector))
                .with_version(self.version.clone())
                .with_schema_url(self.schema_url.clone())
                .build();
            let logger = self.provider.logger_with_scope(scope.clone());
            self.known.push((record.collector, scope, logger));
        }
        let known = self.known.iter().find(|(name, ..)| *name == record.collector);
        known.map_or_else(
            || (record::make(&self.provider.logger(""), record), InstrumentationScope::default()),
            |(_, scope, logger)| (record::make(logger, record), scope.clone()),
        )
    }
}

impl From<Failure> for End {
    fn from(failure: Failure) -> Self {
        match failure.remedy {
            super::error::Remedy::Retry(asked) => Self::Failed(failure.cause, asked),
            super::error::Remedy::Drop => Self::Refused(failure.cause),
        }
    }
}
