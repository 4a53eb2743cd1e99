//! One message for each thing that is wrong: where it stands, the key, what is wrong with it, and the fix.

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::place::Place;

/// One thing that is wrong with the configuration.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// A key that does not exist at this place.
    #[error("{place}: {key} is not a known key{hint}")]
    UnknownKey {
        /// Where the key stands.
        place: Place,
        /// The dotted key.
        key: String,
        /// The nearest valid key, or the list of those that are valid here.
        hint: String,
    },
    /// A value of the wrong type, outside its range, or not among its choices.
    #[error("{place}: {key} must be {expected}, not {found}{hint}")]
    WrongValue {
        /// Where the value stands.
        place: Place,
        /// The dotted key.
        key: String,
        /// What is allowed.
        expected: String,
        /// What was found; never the text of a secret.
        found: String,
        /// The fix, where one can be guessed.
        hint: String,
    },
    /// Two keys of one layer that contradict each other, or a value that another one rules out.
    #[error("{place}: {key}: {reason}")]
    Conflict {
        /// Where the value stands.
        place: Place,
        /// The dotted key.
        key: String,
        /// What is wrong and how to mend it.
        reason: String,
    },
    /// The same key twice in one map.
    #[error("{place}: {key} is given twice, first on line {first}; keep one of them")]
    DuplicateKey {
        /// Where the second one stands.
        place: Place,
        /// The key.
        key: String,
        /// The line of the first one.
        first: usize,
    },
    /// Text that is not YAML, or YAML that has no meaning here.
    #[error("{place}: {reason}")]
    Syntax {
        /// Where the trouble was noticed.
        place: Place,
        /// What is wrong.
        reason: String,
    },
    /// A file or directory that was named and cannot be read.
    #[error("{}: the configuration cannot be read: {source}; check the path given with --config and its permissions", path.display())]
    Unreadable {
        /// The file or directory.
        path: PathBuf,
        /// The reason the system gives.
        #[source]
        source: io::Error,
    },
    /// A `--set` that is not `key=value`.
    #[error("--set {given}: expected key=value, such as log.level=debug")]
    BadSet {
        /// The argument as given, without what follows an equals sign.
        given: String,
    },
    /// A checked tree that the typed structures do not take: a defect of this crate or of a collector's schema.
    #[error("the merged configuration does not fit its own structure: {reason}")]
    Inconsistent {
        /// The reason that the deserializer gives.
        reason: String,
    },
}

/// Everything that is wrong, in the order in which it was found; never empty.
#[derive(Debug)]
pub struct Errors(pub Vec<Problem>);

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.0.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Errors {}

/// Something that is accepted but deserves a word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// Where it stands.
    pub place: Place,
    /// The dotted key, or the name of the variable.
    pub key: String,
    /// What there is to say.
    pub message: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Variable(name) if **name == *self.key => write!(f, "{}: {}", self.place, self.message),
            _ => write!(f, "{}: {}: {}", self.place, self.key, self.message),
        }
    }
}
