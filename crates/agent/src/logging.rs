//! The agent's own log, on standard error: text on a terminal, JSON otherwise.

use std::io::{self, IsTerminal, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use tracing::Level;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::Registry;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload::{Handle, Layer};
use tracing_subscriber::util::SubscriberInitExt;

/// What logs each answer that it cannot use, whole and every time; the source of names says the same once.
const TALKATIVE: &[&str] = &["kube_client", "kube_core"];

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

/// Standard error as far as it takes what is written: a full disk costs lines, which are counted, and nothing else.
struct Output;

/// How many lines could not be written.
static LOST: AtomicU64 = AtomicU64::new(0);

impl Write for Output {
    /// Takes a whole line: the log is written so.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if io::stderr().write_all(line).is_err() {
            LOST.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Gives how many lines of the log could not be written.
pub fn lost() -> u64 {
    LOST.load(Ordering::Relaxed)
}

/// With what the level is set later.
static FILTER: OnceLock<Handle<Targets, Registry>> = OnceLock::new();

/// Starts logging for the rest of the process; without a level nothing is logged. A second call changes nothing.
pub fn start(level: Option<Level>, format: LogFormat) {
    let json = match format {
        LogFormat::Auto => !io::stderr().is_terminal(),
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    let (targets, filter) = Layer::new(targets(level));
    let log = tracing_subscriber::fmt::layer().with_writer(|| Output).with_target(false);
    let all = tracing_subscriber::registry().with(targets);
    let started = if json { all.with(log.json().flatten_event(true)).try_init() } else { all.with(log).try_init() };
    if started.is_ok() {
        drop(FILTER.set(filter));
    }
}

/// Logs from this level on from now on; without one nothing.
pub fn set_level(level: Option<Level>) {
    if let Some(filter) = FILTER.get()
        && let Err(error) = filter.reload(targets(level))
    {
        tracing::warn!("the level of the log stays as it is: {error}");
    }
}

fn targets(level: Option<Level>) -> Targets {
    let silent = TALKATIVE.iter().map(|target| (*target, LevelFilter::OFF));
    Targets::new().with_default(level.map_or(LevelFilter::OFF, LevelFilter::from_level)).with_targets(silent)
}
