//! Wrong settings of an endpoint, and failed attempts to deliver.

use std::path::PathBuf;
use std::time::Duration;

/// A setting that an endpoint cannot work with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The URL is unusable.
    #[error("otlp endpoint {name}: endpoint `{url}` {reason}")]
    Url {
        /// The endpoint's name.
        name: String,
        /// The URL, without user, password and query.
        url: String,
        /// What is wrong and what to write instead.
        reason: String,
    },
    /// A header is unusable; its value is not shown.
    #[error("otlp endpoint {name}: header `{header}` {reason}")]
    Header {
        /// The endpoint's name.
        name: String,
        /// The header's name.
        header: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// A number is out of range.
    #[error("otlp endpoint {name}: {key} {reason}")]
    Range {
        /// The endpoint's name.
        name: String,
        /// The setting.
        key: &'static str,
        /// What it must be.
        reason: &'static str,
    },
    /// A file of the TLS settings cannot be read.
    #[error("otlp endpoint {name}: cannot read {key} `{}`", path.display())]
    File {
        /// The endpoint's name.
        name: String,
        /// The setting.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// The reason.
        #[source]
        source: std::io::Error,
    },
    /// A file or name of the TLS settings is unusable.
    #[error("otlp endpoint {name}: {key} `{value}` {reason}")]
    Tls {
        /// The endpoint's name.
        name: String,
        /// The setting.
        key: &'static str,
        /// The file or name.
        value: String,
        /// What is wrong.
        reason: String,
    },
}

/// What to do about a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Remedy {
    /// Try again, not before the receiver's wish.
    Retry(Option<Duration>),
    /// Give these points up: the receiver would refuse them again.
    Drop,
}

/// A failed attempt.
#[derive(Debug)]
pub(super) struct Failure {
    pub remedy: Remedy,
    /// The cause, and how to fix it after a semicolon.
    pub cause: String,
}

impl Failure {
    pub fn retry(cause: impl Into<String>) -> Self {
        Self { remedy: Remedy::Retry(None), cause: cause.into() }
    }
}

/// Gives an error and its sources as one line, without what repeats.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let text = error.to_string();
        if !line.contains(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        source = error.source();
    }
    line
}
