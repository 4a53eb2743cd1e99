//! The agent's exit codes: one for each kind of failure.

use std::process::ExitCode;

/// Why the agent ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// As it should.
    Success = 0,
    /// Something failed that has no code of its own; of `check`: some collector gives less than it could.
    Failure = 1,
    /// The command line is wrong (clap's own code); of `check`: the agent cannot run on this host.
    Unable = 2,
    /// The agent lacks privileges.
    Privileges = 3,
    /// The configuration is wrong.
    Configuration = 4,
    /// Another instance runs on this host.
    AlreadyRunning = 5,
    /// A collector that the configuration calls indispensable does not run.
    Required = 6,
    /// A listen address or the admin socket cannot be had.
    Listen = 7,
}

/// A failure that has an exit code of its own.
#[derive(Debug)]
pub struct Failure {
    /// The code.
    pub exit: Exit,
    /// One clear sentence: what, where, and what to do.
    pub message: String,
}

impl Failure {
    /// Makes a failure.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}
