//! The agent's own log, on standard error: text on a terminal, JSON otherwise.

use std::io::IsTerminal;

use tracing::Level;

/// The form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, JSON otherwise.
    Auto,
    /// One line of text an event.
    Text,
    /// One JSON object an event.
    Json,
}

/// Starts logging for the rest of the process. A second call changes nothing.
pub fn start(level: Level, format: LogFormat) {
    let json = match format {
        LogFormat::Auto => !std::io::stderr().is_terminal(),
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    let log = tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr).with_target(false);
    let started = if json { log.json().flatten_event(true).try_init() } else { log.try_init() };
    drop(started);
}
