//! A tree is stopped by signal: each member is recorded before it is stopped, and its children are looked for once it stands.

use std::time::{Duration, Instant};

use model::{ActionFailure, Frozen, ProcessKey, RollbackState, StoppedProcess};
use rustix::process::Signal;

use super::{
    freeze::cgroup_of,
    journal::Line,
    process::{self, AT_ONCE, Held},
    scene::Task,
    spared::Spared,
    stop::{self, Stand},
};

/// How long one round of SIGSTOP is awaited. Anything but uninterruptible sleep takes the signal at its next return to user space.
const STAND_LIMIT: Duration = Duration::from_millis(20);
/// How long most take for that.
const SOON: Duration = Duration::from_micros(500);
/// Rounds of SIGSTOP over a tree that keeps forking.
const MAX_ROUNDS: usize = 64;

/// SIGSTOP to the whole tree, each member recorded before it is stopped, until a round finds nobody new. Whether all stand.
///
/// What is not done within `limit` is left to the jail: a parent in vfork(2) takes no signal, and a tree may be made to be slow.
pub(super) fn stop_tree(
    task: &Task<'_>,
    root: &Held,
    spared: &mut Spared,
    limit: Duration,
    most: usize,
) -> Result<Frozen, ActionFailure> {
    let deadline = Instant::now() + limit;
    // Of a second time (a crash, somebody's SIGCONT) the first look counts: by now they are stopped by us.
    let mut stopped: Vec<StoppedProcess> = known_stopped(task);
    if stopped.len() > 1 {
        let mut alive = Vec::with_capacity(stopped.len());
        for one in stopped {
            alive.extend(Held::open_if_there(one.process)?.map(|_| one));
        }
        stopped = alive;
    }
    let again = stopped.iter().map(|one| one.process).filter(|key| key.pid != root.key.pid);
    let mut round: Vec<ProcessKey> = again.collect();
    let mut all = stop_some(task, root, &[root], &mut stopped, spared, deadline)?;
    for _ in 0..MAX_ROUNDS {
        for some in round.chunks(AT_ONCE) {
            let mut held = Vec::with_capacity(some.len());
            for key in some {
                held.extend(Held::open_if_there(*key)?);
            }
            let members: Vec<&Held> = held.iter().collect();
            let stood = stop_some(task, root, &members, &mut stopped, spared, deadline)?;
            all = if stood == Frozen::No { stood } else { all };
            if Instant::now() > deadline || stopped.len() > most {
                return Ok(Frozen::No);
            }
        }
        round = unstopped_children(task, root.key, &stopped, spared)?;
        if round.is_empty() {
            return Ok(all);
        }
    }
    Ok(Frozen::No)
}

/// Stops these. The root was checked by whoever took hold of it.
fn stop_some(
    task: &Task<'_>,
    root: &Held,
    some: &[&Held],
    stopped: &mut Vec<StoppedProcess>,
    spared: &mut Spared,
    deadline: Instant,
) -> Result<Frozen, ActionFailure> {
    let mut asked = Vec::with_capacity(some.len());
    let mut news = Vec::new();
    for held in some.iter().copied() {
        if held.key != root.key {
            let Ok(cgroup) = cgroup_of(task, held) else { continue };
            if let Some(because) = task.process_reason(held, &cgroup)? {
                spared.add(held.key, because);
                continue;
            }
        }
        asked.push(held);
        if stopped.iter().all(|one| one.process.pid != held.key.pid) {
            news.push(StoppedProcess { process: held.key, was_stopped: stop::was_stopped(task, held) });
        }
    }
    if !news.is_empty() {
        stopped.extend_from_slice(&news);
        task.note(Line::Stopped { id: task.id.clone(), stopped: news })?;
    }
    for held in &asked {
        // To one whom somebody else has stopped, ours would be pending even after the undo, and be no help: a SIGCONT takes it away.
        if held.stat.is_stopped() && is_stopped_now(held)? {
            continue;
        }
        task.step("stop");
        held.signal(Signal::STOP)?;
    }
    // One that does not stand yet could be in the middle of a fork.
    let begun = Instant::now();
    let mut all = Frozen::Yes;
    for held in &asked {
        if !stands_soon(held, begun)?
            && matches!(
                stop::await_stand(task, held, deadline.min(begun + STAND_LIMIT))?,
                Stand::Asked | Stand::Runs
            )
        {
            all = Frozen::No;
        }
    }
    Ok(all)
}

/// Looked at again, since what was read when it was taken hold of may be over.
fn is_stopped_now(held: &Held) -> Result<bool, ActionFailure> {
    let now = held.look().map_err(|error| ActionFailure::io("look at", process::name(held.key), &error))?;
    Ok(now.is_some_and(|stat| stat.is_stopped()))
}

/// The cheap look, over and over, for as long as it mostly takes.
fn stands_soon(held: &Held, begun: Instant) -> Result<bool, ActionFailure> {
    loop {
        let stands = held.stands();
        if stands.map_err(|error| ActionFailure::io("look at", process::name(held.key), &error))? {
            return Ok(true);
        }
        if begun.elapsed() > SOON {
            return Ok(false);
        }
        std::thread::yield_now();
    }
}

fn unstopped_children(
    task: &Task<'_>,
    root: ProcessKey,
    stopped: &[StoppedProcess],
    spared: &Spared,
) -> Result<Vec<ProcessKey>, ActionFailure> {
    let known = |key: ProcessKey| stopped.iter().any(|other| other.process.pid == key.pid);
    let mut found: Vec<ProcessKey> = Vec::new();
    for parent in stopped {
        let pid = parent.process.pid.0;
        let children = process::children(pid)
            .map_err(|error| ActionFailure::io("list the children of", format!("pid {pid}"), &error))?;
        for child in children {
            let held = Held::open_pid(child)
                .map_err(|error| ActionFailure::io("hold", format!("pid {child}"), &error))?;
            if let Some(held) = held.filter(|held| held.stat.parent == pid && !known(held.key))
                && !spared.covers(&held)?
            {
                found.push(held.key);
            }
        }
    }
    for key in task.scene.lineage.iter().flat_map(|lineage| lineage.descendants(root)) {
        if !known(key)
            && let Some(held) = Held::open_if_there(key)?
            && !spared.covers(&held)?
        {
            found.push(key);
        }
    }
    found.sort_by_key(|key| key.pid);
    found.dedup_by_key(|key| key.pid);
    Ok(found)
}

/// Who was stopped by signal for this action.
pub(super) fn known_stopped(task: &Task<'_>) -> Vec<StoppedProcess> {
    let journal = task.scene.journal();
    match journal.slot(task.id).and_then(|slot| slot.record.rollback.as_ref()) {
        Some(RollbackState::Freeze { stopped, .. }) => stopped.clone(),
        _ => Vec::new(),
    }
}
