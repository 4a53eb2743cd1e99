//! Where the agent itself spends its time: a CPU profile as pprof has it, on the admin socket.
//!
//! A timer of the kernel interrupts whichever thread is at work; what waits costs nothing and is not seen.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use pprof::{ProfilerGuardBuilder, Report};
use prost::Message;

/// The longest profile.
const MOST: u64 = 60;
/// How long the longest one may take in all: names are looked up when it is over.
pub const PATIENCE: Duration = Duration::from_secs(MOST + 30);
/// Samples of a second of work; a prime keeps out of step with what repeats.
const FREQUENCY: i32 = 97;

/// A profile; the numbers of its fields are those of pprof's format.
#[derive(Clone, PartialEq, Message)]
pub struct Profile {
    /// What the numbers of a sample mean.
    #[prost(message, repeated, tag = "1")]
    pub sample_type: Vec<ValueType>,
    /// What was found.
    #[prost(message, repeated, tag = "2")]
    pub sample: Vec<Sample>,
    /// Places in the code.
    #[prost(message, repeated, tag = "4")]
    pub location: Vec<Location>,
    /// Functions.
    #[prost(message, repeated, tag = "5")]
    pub function: Vec<Function>,
    /// All texts, the empty one first; others refer to them by their places here.
    #[prost(string, repeated, tag = "6")]
    pub string_table: Vec<String>,
    /// When it began, in Unix nanoseconds.
    #[prost(int64, tag = "9")]
    pub time_nanos: i64,
    /// How long it took.
    #[prost(int64, tag = "10")]
    pub duration_nanos: i64,
    /// What lies between two samples.
    #[prost(message, optional, tag = "11")]
    pub period_type: Option<ValueType>,
    /// How much of it.
    #[prost(int64, tag = "12")]
    pub period: i64,
}

/// A quantity and its unit.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct ValueType {
    /// The quantity.
    #[prost(int64, tag = "1")]
    pub kind: i64,
    /// The unit.
    #[prost(int64, tag = "2")]
    pub unit: i64,
}

/// A stack and how often it was found.
#[derive(Clone, PartialEq, Message)]
pub struct Sample {
    /// The places, the innermost first.
    #[prost(uint64, repeated, tag = "1")]
    pub location_id: Vec<u64>,
    /// A number for each type.
    #[prost(int64, repeated, tag = "2")]
    pub value: Vec<i64>,
}

/// A place in the code.
#[derive(Clone, PartialEq, Message)]
pub struct Location {
    /// Its number, from 1 on.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// Where it is.
    #[prost(message, repeated, tag = "4")]
    pub line: Vec<Line>,
}

/// A line of a function.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Line {
    /// The function.
    #[prost(uint64, tag = "1")]
    pub function_id: u64,
    /// The line.
    #[prost(int64, tag = "2")]
    pub line: i64,
}

/// A function.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Function {
    /// Its number, from 1 on.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// Its name.
    #[prost(int64, tag = "2")]
    pub name: i64,
    /// Its file.
    #[prost(int64, tag = "4")]
    pub filename: i64,
}

/// Why there is no profile.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The duration is none.
    #[error("seconds must be 1 to {MOST}, not {0}")]
    Seconds(String),
    /// Another one is being taken, or the system gives no timer.
    #[error("cannot take a profile now: {0}")]
    Refused(#[from] pprof::Error),
}

/// Takes a profile of as many seconds as a query says (`seconds=10`).
///
/// # Errors
/// Fails when the duration is none, and while another profile is being taken.
pub async fn take(query: &str) -> Result<Vec<u8>, Error> {
    let text = query.split('&').find_map(|pair| pair.strip_prefix("seconds=")).unwrap_or("10");
    let wrong = || Error::Seconds(text.chars().take(20).collect());
    let seconds = text.parse().ok().filter(|seconds| (1..=MOST).contains(seconds)).ok_or_else(wrong)?;
    let began = SystemTime::now();
    // Within these a stack cannot be followed safely.
    let guard = ProfilerGuardBuilder::default()
        .frequency(FREQUENCY)
        .blocklist(&["libc", "libgcc", "pthread", "vdso"])
        .build()?;
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let report = tokio::task::block_in_place(|| guard.report().build())?;
    Ok(encode(&report, began, Duration::from_secs(seconds)).encode_to_vec())
}

fn encode(report: &Report, began: SystemTime, duration: Duration) -> Profile {
    let mut texts = Texts::default();
    let cpu = ValueType { kind: texts.place("cpu"), unit: texts.place("nanoseconds") };
    let samples = ValueType { kind: texts.place("samples"), unit: texts.place("count") };
    let period = 1_000_000_000 / i64::from(FREQUENCY);
    let mut profile = Profile {
        sample_type: vec![samples, cpu],
        time_nanos: began.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_nanos() as i64),
        duration_nanos: duration.as_nanos() as i64,
        period_type: Some(cpu),
        period,
        ..Profile::default()
    };
    let (mut functions, mut locations) = (HashMap::new(), HashMap::new());
    for (frames, &count) in &report.data {
        let mut sample = Sample { location_id: Vec::new(), value: vec![count as i64, count as i64 * period] };
        for symbol in frames.frames.iter().flatten() {
            let (name, filename) = (texts.place(&symbol.name()), texts.place(&symbol.filename()));
            let function_id = *functions.entry((name, filename)).or_insert_with(|| {
                let id = profile.function.len() as u64 + 1;
                profile.function.push(Function { id, name, filename });
                id
            });
            let line = Line { function_id, line: i64::from(symbol.lineno()) };
            let location = *locations.entry((function_id, line.line)).or_insert_with(|| {
                let id = profile.location.len() as u64 + 1;
                profile.location.push(Location { id, line: vec![line] });
                id
            });
            sample.location_id.push(location);
        }
        profile.sample.push(sample);
    }
    profile.string_table = texts.all;
    profile
}

/// The texts of a profile, each once.
struct Texts {
    all: Vec<String>,
    places: HashMap<String, i64>,
}

impl Default for Texts {
    fn default() -> Self {
        Self { all: vec![String::new()], places: HashMap::from([(String::new(), 0)]) }
    }
}

impl Texts {
    fn place(&mut self, text: &str) -> i64 {
        if let Some(&at) = self.places.get(text) {
            return at;
        }
        let at = self.all.len() as i64;
        self.all.push(text.to_owned());
        self.places.insert(text.to_owned(), at);
        at
    }
}
