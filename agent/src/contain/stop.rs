//! `node.stop`: a process stopped by the kernel at the hook is taken over. Its undo is SIGCONT, and only for a process that nobody
//! else had stopped before.

use std::time::{Duration, Instant};

use model::{ActionFailure, Effect, Frozen, Outputs, ProcessKey, RollbackState, StoppedProcess, Target};
use rustix::process::Signal;
use serde_json::json;

use super::{
    process::{self, Held},
    scene::{Act, Force, Task, Undone, mismatch},
};

/// A signal is taken at the next return to user space: this is long enough for anything but uninterruptible sleep.
const STOP_LIMIT: Duration = Duration::from_millis(200);

pub(super) struct Stop;

impl Act for Stop {
    fn capture(&self, task: &Task<'_>) -> Result<RollbackState, ActionFailure> {
        let held = checked(task, target(task)?)?;
        let was_stopped = if held.stat.is_stopped() { Frozen::Yes } else { Frozen::No };
        Ok(RollbackState::Stop { processes: vec![StoppedProcess { process: held.key, was_stopped }] })
    }

    fn apply(&self, task: &Task<'_>, rollback: &RollbackState) -> Result<Outputs, ActionFailure> {
        let RollbackState::Stop { processes } = rollback else { return Err(mismatch(task)) };
        let mut stopped = 0;
        for process in processes {
            let held = checked(task, process.process)?;
            task.step("stop");
            stopped += u32::from(stop(&held)?);
        }
        Ok(Outputs::from([("stopped".to_owned(), json!(stopped))]))
    }

    fn verify(&self, task: &Task<'_>, rollback: &RollbackState) -> Result<Effect, ActionFailure> {
        let RollbackState::Stop { processes } = rollback else { return Err(mismatch(task)) };
        verify_stopped(processes)
    }

    fn revert(&self, task: &Task<'_>, rollback: &RollbackState, _: Force) -> Result<Undone, ActionFailure> {
        let RollbackState::Stop { processes } = rollback else { return Err(mismatch(task)) };
        let continued = continue_all(task, processes)?;
        Ok(match continued {
            Continued { alive: 0, .. } => Undone::Vacuous { detail: "every process has ended".into() },
            Continued { alive, continued } => {
                Undone::Restored { detail: format!("{continued} of {alive} processes continued") }
            }
        })
    }
}

/// How many of the stopped were still there, and how many of them were let go on.
pub(super) struct Continued {
    pub(super) alive: usize,
    pub(super) continued: usize,
}

/// Stops a process and waits until it stands; `Ok(false)` when it ended instead or does not stand yet (uninterruptible sleep).
pub(super) fn stop(held: &Held) -> Result<bool, ActionFailure> {
    let begun = Instant::now();
    let look = || held.look().map_err(|error| ActionFailure::io("look at", process::name(held.key), &error));
    if look()?.is_some_and(|stat| stat.is_stopped()) {
        return Ok(true);
    }
    if !held.signal(Signal::STOP)? {
        return Ok(false);
    }
    // No event tells a stranger of a stop (only the parent's waitid does), so it looks.
    while begun.elapsed() < STOP_LIMIT {
        match look()? {
            None => return Ok(false),
            Some(stat) if stat.is_stopped() || stat.state == b't' => return Ok(true),
            Some(_) => std::thread::yield_now(),
        }
    }
    Ok(false)
}

/// SIGCONT to all that were running before.
pub(super) fn continue_all(
    task: &Task<'_>,
    processes: &[StoppedProcess],
) -> Result<Continued, ActionFailure> {
    let mut count = Continued { alive: 0, continued: 0 };
    for process in processes {
        let held = match Held::open(process.process) {
            Ok(held) => held,
            Err(ActionFailure::TargetGone { .. } | ActionFailure::TargetChanged { .. }) => continue,
            Err(other) => return Err(other),
        };
        count.alive += 1;
        if process.was_stopped == Frozen::No {
            task.step("continue");
            count.continued += usize::from(held.signal(Signal::CONT)?);
        }
    }
    Ok(count)
}

/// Whether all that still live are stopped.
pub(super) fn verify_stopped(processes: &[StoppedProcess]) -> Result<Effect, ActionFailure> {
    let mut alive = 0;
    for process in processes {
        let held = match Held::open(process.process) {
            Ok(held) => held,
            Err(ActionFailure::TargetGone { .. } | ActionFailure::TargetChanged { .. }) => continue,
            Err(other) => return Err(other),
        };
        alive += 1;
        if !held.stat.is_stopped() && held.stat.state != b't' {
            let found = format!("{} is in state {}", process::name(held.key), char::from(held.stat.state));
            return Ok(Effect::Missing { found });
        }
    }
    if alive == 0 {
        return Err(ActionFailure::TargetGone { target: "every stopped process".into() });
    }
    Ok(Effect::InForce)
}

fn target(task: &Task<'_>) -> Result<ProcessKey, ActionFailure> {
    match task.target {
        Target::Process { process } => Ok(*process),
        other => Err(ActionFailure::Unsupported {
            operation: format!("stopping {other}"),
            because: "only a process can be stopped".into(),
        }),
    }
}

fn checked(task: &Task<'_>, key: ProcessKey) -> Result<Held, ActionFailure> {
    let held = Held::open(key)?;
    let cgroup = task.scene.cgroups.path_of(key.pid.0);
    let cgroup =
        cgroup.map_err(|error| ActionFailure::io("find the cgroup of", process::name(key), &error))?;
    let cgroup = cgroup.ok_or_else(|| ActionFailure::TargetGone { target: process::name(key) })?;
    task.scene.protected.check_process(&held, &cgroup)?;
    Ok(held)
}
