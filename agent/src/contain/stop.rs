//! `node.stop`: a process stopped by the kernel at the hook is taken over. Its undo is SIGCONT, and only for a process that nobody
//! else had stopped before.

use std::{
    io,
    time::{Duration, Instant},
};

use model::{ActionFailure, Effect, Frozen, Outputs, ProcessKey, RollbackState, StoppedProcess, Target};
use rustix::process::Signal;
use serde_json::json;

use super::{
    homes,
    process::{self, Held},
    scene::{Act, Task, Undone, mismatch},
};

/// How long a stop is awaited. Not longer: while it waits, whoever may signal the process could continue it, and the freeze that
/// comes next is what holds. A signal that is sent and not taken yet counts
/// as in force: it is taken before the process is back in its own code.
const STOP_LIMIT: Duration = Duration::from_millis(2);

pub(super) struct Stop;

impl Act for Stop {
    fn capture(&self, task: &Task<'_>) -> Result<RollbackState, ActionFailure> {
        let held = checked(task, target(task)?)?;
        let was_stopped = was_stopped(task, &held);
        Ok(RollbackState::Stop { processes: vec![StoppedProcess { process: held.key, was_stopped }] })
    }

    fn apply(&self, task: &Task<'_>, rollback: &RollbackState) -> Result<Outputs, ActionFailure> {
        let RollbackState::Stop { processes } = rollback else { return Err(mismatch(task)) };
        let mut seen = Vec::with_capacity(processes.len());
        for process in processes {
            let held = checked(task, process.process)?;
            task.step("stop");
            seen.push(stop(task, &held)?);
        }
        let stopped = seen.iter().filter(|stand| stand.is_still()).count();
        let seen: Vec<&str> = seen.into_iter().map(Stand::word).collect();
        Ok(Outputs::from([("stopped".to_owned(), json!(stopped)), ("seen".to_owned(), json!(seen))]))
    }

    fn verify(&self, task: &Task<'_>, rollback: &RollbackState) -> Result<Effect, ActionFailure> {
        let RollbackState::Stop { processes } = rollback else { return Err(mismatch(task)) };
        verify_stopped(task, processes)
    }

    fn revert(&self, task: &Task<'_>, rollback: &RollbackState) -> Result<Undone, ActionFailure> {
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

/// How a process was seen to stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stand {
    /// By a signal, or by a tracer.
    Stopped,
    /// With its cgroup, and a SIGSTOP is pending for when that is thawed.
    Frozen,
    /// With its cgroup alone: whoever thaws that lets it run.
    FrozenAlone,
    /// It has not taken the SIGSTOP that is pending.
    Asked,
    Runs,
    Ended,
}

impl Stand {
    fn is_still(self) -> bool {
        matches!(self, Self::Stopped | Self::Frozen | Self::FrozenAlone)
    }

    fn word(self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Frozen | Self::FrozenAlone => "frozen",
            Self::Asked => "asked",
            Self::Runs => "running",
            Self::Ended => "ended",
        }
    }
}

/// Stops a process and waits a moment for it to stand.
fn stop(task: &Task<'_>, held: &Held) -> Result<Stand, ActionFailure> {
    if stand(task, held)? == Stand::Stopped {
        return Ok(Stand::Stopped);
    }
    if !held.signal(Signal::STOP)? {
        return Ok(Stand::Ended);
    }
    await_stand(task, held, Instant::now() + STOP_LIMIT)
}

/// Waits until one that was sent a SIGSTOP stands, or ends.
pub(super) fn await_stand(task: &Task<'_>, held: &Held, deadline: Instant) -> Result<Stand, ActionFailure> {
    // No event tells a stranger of a stop (only the parent's waitid does), so it looks.
    loop {
        let seen = stand(task, held)?;
        if seen.is_still() || seen == Stand::Ended || Instant::now() >= deadline {
            return Ok(seen);
        }
        std::thread::yield_now();
    }
}

fn stand(task: &Task<'_>, held: &Held) -> Result<Stand, ActionFailure> {
    let look = || -> io::Result<Stand> {
        let Some(stat) = held.look()? else { return Ok(Stand::Ended) };
        if stat.is_stopped() || stat.state == b't' {
            return Ok(Stand::Stopped);
        }
        // asked first: one that takes the signal in between is seen to be stopped the next time
        let asked = held.is_pending(Signal::STOP)?;
        let path = task.scene.cgroups.path_of(held.pid())?;
        if let Some(path) = path
            && task.scene.cgroups.cgroup(&path).and_then(|cgroup| cgroup.is_frozen()).unwrap_or(false)
        {
            return Ok(if asked { Stand::Frozen } else { Stand::FrozenAlone });
        }
        if asked {
            return Ok(Stand::Asked);
        }
        Ok(match held.look()? {
            Some(stat) if stat.is_stopped() || stat.state == b't' => Stand::Stopped,
            Some(_) => Stand::Runs,
            None => Stand::Ended,
        })
    };
    look().map_err(|error| ActionFailure::io("look at", process::name(held.key), &error))
}

/// Whether a process had been stopped by somebody else: what another action of ours found, if it is that which stopped it.
pub(super) fn was_stopped(task: &Task<'_>, held: &Held) -> Frozen {
    if !held.stat.is_stopped() {
        return Frozen::No;
    }
    homes::was_stopped_before_us(task, held.key).unwrap_or(Frozen::Yes)
}

/// SIGCONT to all that were running before, and that no other action wants to be stopped.
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
        if process.was_stopped == Frozen::No && !homes::is_stopped_by_another(task, process.process) {
            task.step("continue");
            count.continued += usize::from(held.signal(Signal::CONT)?);
        }
    }
    Ok(count)
}

/// Whether all that still live are stopped or about to be.
pub(super) fn verify_stopped(task: &Task<'_>, processes: &[StoppedProcess]) -> Result<Effect, ActionFailure> {
    let mut alive = 0;
    for process in processes {
        let held = match Held::open(process.process) {
            Ok(held) => held,
            Err(ActionFailure::TargetGone { .. } | ActionFailure::TargetChanged { .. }) => continue,
            Err(other) => return Err(other),
        };
        alive += 1;
        let found = match stand(task, &held)? {
            Stand::Runs => format!("is in state {}", char::from(held.stat.state)),
            Stand::FrozenAlone => "was continued, and only its frozen cgroup holds it".into(),
            Stand::Stopped | Stand::Frozen | Stand::Asked | Stand::Ended => continue,
        };
        return Ok(Effect::Missing { found: format!("{} {found}", process::name(held.key)) });
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
    task.check_process(&held, &cgroup)?;
    Ok(held)
}
