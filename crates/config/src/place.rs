//! Where a value was written: a line of a file, an environment variable, the command line, or nowhere but the defaults.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Names the origin of one value, precisely enough to go there and change it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// The value is the built-in default.
    Default,
    /// A file; line and column count from 1.
    File {
        /// The file as it was named.
        path: Arc<Path>,
        /// The line, from 1.
        line: usize,
        /// The column in characters, from 1.
        column: usize,
    },
    /// An environment variable, by name.
    Variable(Arc<str>),
    /// A `--set` of the command line.
    Set,
}

impl Place {
    pub(crate) fn file(path: &Arc<Path>, line: usize, column: usize) -> Self {
        Self::File { path: Arc::clone(path), line, column }
    }

    pub(crate) fn variable(name: &str) -> Self {
        Self::Variable(Arc::from(name))
    }

    /// Returns the short form that stands beside a value: the column is of no use there.
    pub fn origin(&self) -> String {
        match self {
            Self::Default => "default".to_owned(),
            Self::File { path, line, .. } => format!("{}:{line}", path.display()),
            Self::Variable(name) => format!("environment {name}"),
            Self::Set => "--set".to_owned(),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("built-in defaults"),
            Self::File { path, line, column } => write!(f, "{}:{line}:{column}", path.display()),
            Self::Variable(name) => write!(f, "environment variable {name}"),
            Self::Set => f.write_str("--set"),
        }
    }
}

/// A dotted path to a value, kept as its segments because the keys of user maps may contain dots.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key(pub(crate) Vec<String>);

impl Key {
    pub(crate) fn of(dotted: &str) -> Self {
        Self(dotted.split('.').map(str::to_owned).collect())
    }

    pub(crate) fn child(&self, name: &str) -> Self {
        let mut segments = self.0.clone();
        segments.push(name.to_owned());
        Self(segments)
    }

    pub(crate) fn item(&self, index: usize) -> Self {
        let mut segments = self.0.clone();
        if let Some(last) = segments.last_mut() {
            *last = format!("{last}[{index}]");
        }
        Self(segments)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("the configuration");
        }
        for (i, segment) in self.0.iter().enumerate() {
            let plain = segment.chars().all(|c| c.is_ascii_alphanumeric() || "_-[]".contains(c));
            let dot = if i == 0 { "" } else { "." };
            if plain {
                write!(f, "{dot}{segment}")?;
            } else {
                write!(f, "{dot}{segment:?}")?;
            }
        }
        Ok(())
    }
}

pub(crate) fn shared(path: &Path) -> Arc<Path> {
    Arc::from(PathBuf::from(path))
}
