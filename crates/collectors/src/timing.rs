//! Which operations are timed, as configurations say it: the kernel's side is `bpf/lib/sample.bpf.h`.

use std::borrow::Cow;

use bpf::abi::histogram::HistShape;
use bpf::abi::sample::{TIME_EVERY, TIME_NONE, TIME_SAMPLE};
use bpf::abi::starts::Start;
use bpf::{Loader, Object, cost};
use model::Subject;
use runtime::own::EVENTS_LOST;
use runtime::{MakeError, Platform, Scrape};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::histogram::Histograms;
use crate::table::Key;

/// What a histogram of samples cannot tell.
pub const LIMIT: &str = "Of the operations one in `latency.sample` is timed, chosen at random, and stands for that many: \
                         the histogram's count and sum are estimates, of operations that are rare coarse ones. \
                         telesonde_sample_interval tells the number; `latency: all` with `sample_rate: 100` is exact.";

/// Which operations are timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Latency {
    /// Every one.
    All,
    /// None.
    Off,
    /// One in so many.
    Sample(u32),
}

/// Where starts of calls wait for their ends: so many places, of `starts` in `bpf/lib/starts.bpf.h`.
const STARTS: u32 = 16_384;

/// The places of `inflight`, which kernels without storage beside a task need where every call is timed.
const LEGACY_INFLIGHT: u32 = 32_768;

/// The largest N of «one in N».
const LARGEST: u32 = 1 << 20;

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Written {
    Word(String),
    Sample { sample: u32 },
}

impl Serialize for Latency {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match *self {
            Self::All => Written::Word("all".to_owned()),
            Self::Off => Written::Word("off".to_owned()),
            Self::Sample(sample) => Written::Sample { sample },
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Latency {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let wrong = || serde::de::Error::custom(format!("latency: must be all, off, or sample: 1 to {LARGEST}"));
        match Written::deserialize(deserializer).map_err(|_| wrong())? {
            Written::Word(word) if word == "all" => Ok(Self::All),
            Written::Word(word) if word == "off" => Ok(Self::Off),
            Written::Sample { sample: 1 } => Ok(Self::All),
            Written::Sample { sample } if (1..=LARGEST).contains(&sample) => Ok(Self::Sample(sample)),
            _ => Err(wrong()),
        }
    }
}

impl JsonSchema for Latency {
    fn schema_name() -> Cow<'static, str> {
        "Latency".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "oneOf": [
                {"type": "string", "enum": ["all", "off"]},
                {
                    "type": "object",
                    "properties": {"sample": {"type": "integer", "minimum": 1, "maximum": LARGEST}},
                    "required": ["sample"],
                    "additionalProperties": false
                }
            ]
        })
    }
}

impl Latency {
    /// Thins out further by `sample_rate`.
    #[must_use]
    pub fn thinned(self, platform: &Platform) -> Self {
        self.by(platform.sample_every)
    }

    fn by(self, every: u32) -> Self {
        match (self, self.weight().saturating_mul(every)) {
            (Self::Off, _) => Self::Off,
            (_, 1) => Self::All,
            (_, every) => Self::Sample(every.min(LARGEST)),
        }
    }

    /// Gives how many operations each one that is timed stands for.
    pub fn weight(self) -> u32 {
        match self {
            Self::All | Self::Off => 1,
            Self::Sample(every) => every,
        }
    }

    /// Opens the histograms of what is timed; none where nothing is.
    ///
    /// # Errors
    /// Fails when there is no such map or when it has another shape.
    pub fn open<K: Key>(
        self,
        object: &Object,
        map: &'static str,
        shape: HistShape,
        platform: &Platform,
    ) -> Result<Option<Histograms<K>>, MakeError> {
        if self == Self::Off {
            return Ok(None);
        }
        Ok(Some(Histograms::open(object, map, shape, platform)?.sampled(self.weight())))
    }

    /// Sets the constants of an object that times operations: what is timed is sampled already.
    pub fn tune(self, loader: Loader) -> Loader {
        let (timing, span) = match self {
            Self::Off => (TIME_NONE, 1),
            Self::All => (TIME_EVERY, 1),
            Self::Sample(every) => (TIME_SAMPLE, 2 * every - 1),
        };
        let loader = loader.sample_histograms(1).constant("timing", &timing).constant("sample_span", &span);
        if bpf::probe::is_legacy_version() {
            return loader.max_entries("inflight", if self == Self::All { LEGACY_INFLIGHT } else { 1 });
        }
        loader
    }

    /// Gives the maps in which starts of calls wait for their ends, with their bytes.
    pub fn waiting(self) -> Vec<(&'static str, u64)> {
        let mut maps = Vec::new();
        if self != Self::Off {
            maps.push(("starts", cost::array(STARTS, size_of::<Start>())));
        }
        if self == Self::All && bpf::probe::is_legacy_version() {
            maps.push(("inflight", cost::hash(LEGACY_INFLIGHT, size_of::<u32>(), size_of::<u64>())));
        }
        maps
    }
}

/// Records the samples whose start found no place, and those whose start was found to be another's.
pub fn record_lost(scrape: &mut Scrape, collector: &'static str, busy: u64, stale: u64) {
    for (reason, events) in [("start_busy", busy), ("start_stale", stale)] {
        scrape.record(&EVENTS_LOST, Subject::Node, [collector.into(), reason.into()], events);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_rate_multiplies() {
        assert_eq!((Latency::All.by(1), Latency::Off.by(4)), (Latency::All, Latency::Off));
        assert_eq!((Latency::All.by(4), Latency::Sample(16).by(4)), (Latency::Sample(4), Latency::Sample(64)));
        assert_eq!(Latency::Sample(LARGEST).by(100), Latency::Sample(LARGEST));
    }

    #[test]
    fn latency_has_three_forms() {
        let parse = |text: &str| serde_json::from_str::<Latency>(text);
        assert_eq!(parse(r#""all""#).unwrap(), Latency::All);
        assert_eq!(parse(r#"{"sample": 1}"#).unwrap(), Latency::All);
        assert_eq!(parse(r#"{"sample": 100}"#).unwrap(), Latency::Sample(100));
        for wrong in [r#""some""#, r#"{"sample": 0}"#, "5"] {
            assert!(parse(wrong).unwrap_err().to_string().starts_with("latency: must be"), "{wrong}");
        }
    }
}
