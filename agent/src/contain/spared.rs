//! Protected processes in the midst of a tree that is contained: they and what is below them are left out, and named.

use model::{ActionFailure, Outputs, ProcessKey};
use serde_json::json;

use super::process::{self, Held};

/// Under this name the outputs of an action say that it does not hold all, and why.
pub(super) const PARTIAL: &str = "partial";
/// Under this name the outputs of an action list them.
pub(super) const SPARED: &str = "spared";
/// No real tree is deeper; a loop could only come from pids reused while reading.
const MAX_DEPTH: usize = 1024;
/// So many are named; the others are counted.
const MAX_NAMED: usize = 256;

/// Who was left out, and why.
#[derive(Debug, Default)]
pub(super) struct Spared {
    protected: Vec<(ProcessKey, String)>,
    /// Beyond a bound others run on, whom nobody has named.
    partial: Option<String>,
}

impl Spared {
    pub(super) fn add(&mut self, key: ProcessKey, because: String) {
        if self.protected.iter().all(|(known, _)| *known != key) {
            tracing::warn!(process = %process::name(key), %because, "left out of a containment");
            self.protected.push((key, because));
        }
    }

    /// One that was named when the containment was done: it is only looked for what is below it.
    pub(super) fn known(&mut self, key: ProcessKey) {
        self.protected.push((key, String::new()));
    }

    /// Others run on, beyond a bound.
    pub(super) fn is_partial(&mut self, because: String) {
        tracing::warn!(%because, "a containment holds only a part");
        self.partial = Some(because);
    }

    /// All are held: nobody was left out, and nobody runs on beyond a bound.
    pub(super) fn is_nobody(&self) -> bool {
        self.partial.is_none() && self.protected.is_empty()
    }

    /// Why others run on, if they do.
    pub(super) fn partial(&self) -> Option<&str> {
        self.partial.as_deref()
    }

    /// Whether it is one of them or, as /proc has it now, descends from one.
    pub(super) fn covers(&self, held: &Held) -> Result<bool, ActionFailure> {
        if self.protected.is_empty() {
            return Ok(false);
        }
        let (mut pid, mut stat) = (held.pid(), held.stat);
        for _ in 0..MAX_DEPTH {
            if self.protected.iter().any(|(key, _)| key.pid.0 == pid && stat.started(*key)) {
                return Ok(true);
            }
            pid = stat.parent;
            let above = process::stat(pid)
                .map_err(|error| ActionFailure::io("find the parents of", process::name(held.key), &error))?;
            match above {
                Some(above) if pid > 0 => stat = above,
                _ => break,
            }
        }
        Ok(false)
    }

    /// Names them in what an action gives, if there are any.
    pub(super) fn tell(&self, outputs: &mut Outputs) {
        if let Some(because) = &self.partial {
            outputs.insert(PARTIAL.to_owned(), json!(because));
        }
        if !self.protected.is_empty() {
            let named = self.protected.iter().take(MAX_NAMED);
            let mut names: Vec<String> =
                named.map(|(key, because)| format!("{}: {because}", process::name(*key))).collect();
            if let Some(more) = self.protected.len().checked_sub(MAX_NAMED).filter(|more| *more > 0) {
                names.push(format!("and {more} more"));
            }
            outputs.insert(SPARED.to_owned(), json!(names));
        }
    }
}
