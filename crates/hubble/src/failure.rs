//! Why a stream ended, in one word to count by and one line to read.

use std::fmt;

use tonic::{Code, Status};

/// What kind of end it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// No connection could be had.
    Connect,
    /// The TLS handshake failed, or a certificate cannot be read.
    Tls,
    /// The server ended the stream as if all were well.
    Closed,
    /// The server or the connection went away.
    Unavailable,
    /// The server does not let us.
    Denied,
    /// A message was larger than allowed.
    TooLarge,
    /// Nobody answers any more.
    Dead,
    /// The server sees flows but sends none.
    Stalled,
    /// The server refused for another reason.
    Refused,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 9] = [
        Self::Connect,
        Self::Tls,
        Self::Closed,
        Self::Unavailable,
        Self::Denied,
        Self::TooLarge,
        Self::Dead,
        Self::Stalled,
        Self::Refused,
    ];

    /// Gives the word to count by.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Closed => "closed",
            Self::Unavailable => "unavailable",
            Self::Denied => "denied",
            Self::TooLarge => "too_large",
            Self::Dead => "dead",
            Self::Stalled => "stalled",
            Self::Refused => "refused",
        }
    }
}

/// Why a stream ended or did not begin.
#[derive(Clone, Debug)]
pub struct Failure {
    /// What kind of end it was.
    pub kind: Kind,
    /// What happened and what to look at.
    pub detail: String,
    /// Whether the server does not understand the request.
    pub(crate) misunderstood: bool,
}

impl Failure {
    pub(crate) fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), misunderstood: false }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        let kind = match status.code() {
            Code::Ok => Kind::Closed,
            Code::OutOfRange => Kind::TooLarge,
            Code::Unauthenticated | Code::PermissionDenied => Kind::Denied,
            Code::Unavailable | Code::Cancelled | Code::Unknown | Code::Internal | Code::DeadlineExceeded => {
                Kind::Unavailable
            }
            _ => Kind::Refused,
        };
        let mut detail = format!("{:?}: {}", status.code(), status.message());
        if let Some(source) = std::error::Error::source(&status) {
            detail = format!("{detail}: {}", chain(source));
        }
        let misunderstood = matches!(status.code(), Code::InvalidArgument | Code::Unimplemented);
        Self { kind, detail, misunderstood }
    }
}

/// Gives an error with its causes, those left out that say the same again.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let cause = source.to_string();
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
        next = source.source();
    }
    text
}
