//! What can go wrong while the census is set up.

use std::io;
use std::path::PathBuf;

/// Why workloads cannot be named.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The mount point of the hierarchy cannot be read.
    #[error("cannot read the cgroup hierarchy at {}: is a cgroup file system mounted there?", path.display())]
    Unreadable {
        /// The directory that could not be read.
        path: PathBuf,
        /// What the system answered.
        #[source]
        source: io::Error,
    },
    /// The background thread cannot be started.
    #[error("cannot start the thread that looks for cgroups")]
    Thread {
        /// What the system answered.
        #[source]
        source: io::Error,
    },
}
