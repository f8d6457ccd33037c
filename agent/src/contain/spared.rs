//! Protected processes in the midst of a tree that is contained: they and what is below them are left out, and named.

use model::{ActionFailure, Outputs, ProcessKey};
use serde_json::json;

use super::process::{self, Held};

/// Under this name the outputs of an action list them.
pub(super) const SPARED: &str = "spared";
/// No real tree is deeper; a loop could only come from pids reused while reading.
const MAX_DEPTH: usize = 1024;

/// Who was left out, and why.
#[derive(Debug, Default)]
pub(super) struct Spared(Vec<(ProcessKey, String)>);

impl Spared {
    pub(super) fn add(&mut self, key: ProcessKey, because: String) {
        if self.0.iter().all(|(known, _)| *known != key) {
            tracing::warn!(process = %process::name(key), %because, "left out of a containment");
            self.0.push((key, because));
        }
    }

    /// Whether it is one of them or, as /proc has it now, descends from one.
    pub(super) fn covers(&self, held: &Held) -> Result<bool, ActionFailure> {
        if self.0.is_empty() {
            return Ok(false);
        }
        let (mut pid, mut stat) = (held.pid(), held.stat);
        for _ in 0..MAX_DEPTH {
            if self.0.iter().any(|(key, _)| key.pid.0 == pid && stat.started(*key)) {
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
        if !self.0.is_empty() {
            let names = self.0.iter().map(|(key, because)| format!("{}: {because}", process::name(*key)));
            outputs.insert(SPARED.to_owned(), json!(names.collect::<Vec<_>>()));
        }
    }
}
