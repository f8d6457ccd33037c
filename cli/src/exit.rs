//! What the exit code says (docs/cli.md lists them).

use std::process::ExitCode;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done, and the answer is yes.
    Good = 0,
    /// Done, and the answer is no: a check found errors, a verification failed, something is degraded.
    Bad = 1,
    /// The command line makes no sense (clap's own code).
    Usage = 2,
    /// The controller cannot be reached.
    Unreachable = 3,
    /// Not allowed: not root, or not this user's to decide.
    Forbidden = 4,
    /// There is no such incident, action or rule, or the short id fits several.
    Unknown = 5,
    /// Not possible in this state: already decided, nothing to undo.
    Conflict = 6,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// An error with its exit code. Printed once, in `main`.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Ended {
    pub(crate) exit: Exit,
    pub(crate) message: String,
}

impl Ended {
    pub(crate) fn with(exit: Exit, message: impl Into<String>) -> anyhow::Error {
        Self { exit, message: message.into() }.into()
    }
}
