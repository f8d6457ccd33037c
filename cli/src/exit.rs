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

/// An error with its causes, each said once: many a message holds that of its cause already.
pub(crate) fn with_causes(error: &anyhow::Error) -> String {
    let mut said = String::new();
    for cause in error.chain() {
        let text = cause.to_string();
        if said.is_empty() {
            said = text;
        } else if !said.contains(&text) {
            said = format!("{said}: {text}");
        }
    }
    said
}

impl Ended {
    pub(crate) fn with(exit: Exit, message: impl Into<String>) -> anyhow::Error {
        Self { exit, message: message.into() }.into()
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot read it: {0}")]
    struct Holding(#[source] std::io::Error);

    #[test]
    fn a_cause_is_said_once() {
        let inner = || Holding(std::io::Error::other("the disk is gone"));
        let error = Err::<(), _>(inner()).context("start the agent").unwrap_err();
        assert_eq!(with_causes(&error), "start the agent: cannot read it: the disk is gone");
        let error = Err::<(), _>(inner()).context("first: cannot read it: the disk is gone").unwrap_err();
        assert_eq!(with_causes(&error), "first: cannot read it: the disk is gone");
    }
}
