//! The pure data of Telesonde: metrics, subjects, attributes, series and snapshots.
//!
//! A leaf crate: it knows neither the kernel nor any wire format.

pub mod attributes;
pub mod event;
pub mod histogram;
pub mod learner;
pub mod metric;
pub mod name;
pub mod nobody;
pub mod snapshot;
pub mod source;
pub mod standing;
pub mod subject;

pub use attributes::{Attribute, Attributes, Rendering, Text};
pub use learner::Learner;
pub use metric::{Kind, Metric, MetricRef};
pub use nobody::Nobody;
pub use snapshot::{
    Base, Buckets, Family, Held, HistogramPoint, Kept, NumberPoint, Points, Scope, Series, Snapshot, Value,
};
pub use source::Source;
pub use standing::{Note, Standing};
pub use subject::{
    Answer, Census, CgroupChange, Executable, Executables, Party, Peers, Resolver, Root, Rule, Subject, Who,
};
