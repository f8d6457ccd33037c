//! `node.capture-evidence`: what is needed to judge a case, copied out of the kernel and named by hash. It changes nothing.
//!
//! A bundle is a folder: `tree.json`, one folder per process, `binaries/SHA256`, and `manifest.json` with the SHA-256 of every file.
//! Its own hash is an output of the action, so that a bundle can be shown to be the one that was taken.

mod bundle;
mod memory;
mod process;

use std::{io, path::PathBuf};

use model::{ActionFailure, CaptureEvidence, Effect, MemoryCapture, Outputs, RollbackState, Target};

use self::bundle::Bundle;
use super::{
    cgroup,
    freeze::target_cgroup,
    process::{self as proc, Held},
    scene::{Act, Task, Undone},
};
use crate::aside::{Aside, Patience, Purpose};

/// Bounds of one capture (I11). What did not fit is named in the manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EvidenceLimits {
    /// Processes of the target.
    pub processes: usize,
    /// Open descriptors listed of each.
    pub descriptors: usize,
    /// Bytes of one file of /proc.
    pub proc_file_bytes: u64,
    /// Bytes of one executable.
    pub binary_bytes: u64,
    /// Bytes of memory of all processes together.
    pub memory_bytes: u64,
    /// Bytes of one bundle.
    pub bundle_bytes: u64,
    /// Bytes of all bundles that are kept.
    pub store_bytes: u64,
    /// How long what does not answer is waited for: a program's file or memory on a filesystem whose server stands still.
    pub patience: Patience,
}

impl Default for EvidenceLimits {
    fn default() -> Self {
        Self {
            processes: 256,
            descriptors: 4096,
            proc_file_bytes: 4 << 20,
            binary_bytes: 256 << 20,
            memory_bytes: 256 << 20,
            bundle_bytes: 1 << 30,
            store_bytes: 8 << 30,
            patience: Patience::default(),
        }
    }
}

pub(super) struct Capture(pub(super) CaptureEvidence);

impl Act for Capture {
    fn capture(&self, task: &Task<'_>) -> Result<RollbackState, ActionFailure> {
        targets(task)?;
        Ok(RollbackState::Nothing)
    }

    fn apply(&self, task: &Task<'_>, _: &RollbackState) -> Result<Outputs, ActionFailure> {
        let folder = folder(task);
        // a bundle that a crash left complete is not taken again: the processes may be gone by now
        if let Some(outputs) = bundle::summary(&folder)? {
            return Ok(outputs);
        }
        let processes = targets(task)?;
        let limits = task.scene.evidence;
        let used = bundle::used(&store(task))?;
        if used >= limits.store_bytes {
            return Err(ActionFailure::Unsupported {
                operation: "capturing evidence".into(),
                because: format!(
                    "the store holds {used} bytes, the limit is {}: move bundles away",
                    limits.store_bytes
                ),
            });
        }
        task.step("begin bundle");
        let mut bundle = Bundle::begin(&folder, limits.bundle_bytes)?;
        let mut aside = Aside::new(Purpose::Evidence, limits.patience);
        process::tree(task, &mut bundle, &mut aside, &processes)?;
        let mut memory = limits.memory_bytes;
        for held in &processes {
            task.step("capture process");
            process::capture(task, &mut bundle, &mut aside, held)?;
            if self.0.memory == MemoryCapture::Private {
                memory::capture(&mut bundle, &mut aside, held, &mut memory)?;
            }
        }
        task.step("finish bundle");
        bundle.finish(task.id.as_str(), &task.target.to_string(), &task.scene.boot)
    }

    fn verify(&self, task: &Task<'_>, _: &RollbackState) -> Result<Effect, ActionFailure> {
        let expected =
            task.scene.journal().slot(task.id).and_then(|slot| slot.outputs.get("manifest_sha256").cloned());
        let expected = expected.as_ref().and_then(serde_json::Value::as_str).map(str::to_owned);
        Ok(match bundle::check(&folder(task), expected.as_deref())? {
            None => Effect::InForce,
            Some(found) => Effect::Missing { found },
        })
    }

    fn revert(&self, task: &Task<'_>, _: &RollbackState) -> Result<Undone, ActionFailure> {
        bundle::discard_part(&folder(task))?;
        Ok(Undone::Vacuous { detail: "nothing was changed; the evidence is kept".into() })
    }
}

/// The processes of the target, parents before children.
fn targets(task: &Task<'_>) -> Result<Vec<Held>, ActionFailure> {
    let limit = task.scene.evidence.processes;
    let hold = |pid: u32| {
        Held::open_pid(pid).map_err(|error| ActionFailure::io("hold", format!("pid {pid}"), &error))
    };
    let mut found = Vec::new();
    match task.target {
        Target::Process { process } => {
            found.push(Held::open(*process)?);
            let mut at = 0;
            while let Some(parent) = found.get(at).map(Held::pid) {
                let children = proc::children(parent).map_err(|error| {
                    ActionFailure::io("list the children of", format!("pid {parent}"), &error)
                })?;
                for child in children {
                    if found.len() < limit {
                        found.extend(hold(child)?.filter(|held| held.stat.parent == parent));
                    }
                }
                at += 1;
            }
        }
        target @ Target::Cgroup { .. } => {
            let cgroup = target_cgroup(task, target)?;
            let members =
                cgroup.members_below().map_err(|error| cgroup::failure("list", &cgroup.path, &error))?;
            for pid in members.into_iter().take(limit) {
                found.extend(hold(pid)?);
            }
        }
        Target::File { .. } | Target::Object(_) | Target::Account(_) | Target::Channel { .. } => {
            return Err(ActionFailure::Unsupported {
                operation: format!("capturing evidence of {}", task.target),
                because: "of a file, the quarantine keeps everything".into(),
            });
        }
    }
    Ok(found)
}

fn store(task: &Task<'_>) -> PathBuf {
    task.scene.state_dir.join("evidence")
}

fn folder(task: &Task<'_>) -> PathBuf {
    store(task).join(task.tag())
}

/// What a step of a capture met: a process that ends meanwhile is no failure, a full disk is.
fn skip_if_gone<T>(bundle: &mut Bundle, what: &str, result: io::Result<T>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(error) => {
            bundle.note(format!("{what}: {error}"));
            None
        }
    }
}
