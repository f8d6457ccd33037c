//! A rollback state that comes with a command, of an action that this node's journal does not know: its state directory was lost. It is carried
//! out only if a capture of that very action on that very target could have given it. Else who speaks for the controller, or somebody in its
//! place, could move, continue, thaw and chmod whom and what he likes, under the name of an undo.

use model::{ActionFailure, MovedProcess, NodeAction, ProcessKey, RollbackState, StoppedProcess, Target};

use super::{
    cgroup::is_unnamed,
    file,
    freeze::{cgroup_of, target_cgroup},
    gather, jail,
    process::Held,
    scene::{Task, mismatch},
};

/// What of a given state is carried out. What no capture could have given is refused; of whom else the action held when the node last told of
/// it (it tells all whom it moved and stopped) those are left that are held to this moment. Nothing is changed.
pub(super) fn checked(
    task: &Task<'_>,
    action: &NodeAction,
    given: &RollbackState,
) -> Result<RollbackState, ActionFailure> {
    let mut sound = given.clone();
    match (action, given, &mut sound) {
        (
            NodeAction::Freeze(model::FreezeScope::Subtree),
            RollbackState::Freeze { jail: Some(path), in_place: None, .. },
            RollbackState::Freeze { members, stopped, .. },
        ) => check_subtree(task, path, members, stopped)?,
        _ => check(task, action, given)?,
    }
    Ok(sound)
}

/// Of a frozen tree: its first process and whoever was frozen with it.
fn check_subtree(
    task: &Task<'_>,
    path: &str,
    members: &mut Vec<MovedProcess>,
    stopped: &mut Vec<StoppedProcess>,
) -> Result<(), ActionFailure> {
    let (Target::Process { process }, Some(root)) = (task.target, members.first().cloned()) else {
        return Err(mismatch(task));
    };
    if root.process != *process || !is_own_jail(task, path, &root.from) {
        return Err(mismatch(task));
    }
    task.scene.protected.check_home(&root.from, task.word)?;
    let stands_in_it = |held: &Held| Ok::<_, ActionFailure>(cgroup_of(task, held)? == path);
    // whoever stands in its jail is held by it, whatever has become of him since
    passed_if_gone(Held::open(*process).and_then(|held| match stands_in_it(&held)? {
        true => Ok(()),
        false => task.check_process(&held, &cgroup_of(task, &held)?),
    }))?;
    keep(members, |one| {
        let Some(held) = Held::open_if_there(one.process)? else { return Ok(one.process == *process) };
        Ok(one.process == *process
            || stands_in_it(&held)?
                && is_own_jail(task, path, &one.from)
                && task.scene.protected.check_home(&one.from, task.word).is_ok())
    })?;
    keep(stopped, |one| {
        let Some(held) = Held::open_if_there(one.process)? else { return Ok(one.process == *process) };
        let at = cgroup_of(task, &held)?;
        Ok(one.process == *process
            || at == path
            || held.stat.is_stopped()
                && gather::is_below(task, *process, &held)?
                && task.process_reason(&held, &at)?.is_none())
    })
}

/// Leaves those of whom `is_meant` says so.
fn keep<T>(
    some: &mut Vec<T>,
    is_meant: impl Fn(&T) -> Result<bool, ActionFailure>,
) -> Result<(), ActionFailure> {
    let mut kept = Vec::with_capacity(some.len());
    for one in some.drain(..) {
        if is_meant(&one)? {
            kept.push(one);
        }
    }
    *some = kept;
    Ok(())
}

/// Refuses what no capture could have given.
fn check(task: &Task<'_>, action: &NodeAction, given: &RollbackState) -> Result<(), ActionFailure> {
    let refused = || Err(mismatch(task));
    match (action, given) {
        (NodeAction::Stop, RollbackState::Stop { processes }) => {
            let Target::Process { process } = task.target else { return refused() };
            if processes.iter().any(|one| one.process != *process) {
                return refused();
            }
            check_process(task, *process)
        }
        (
            NodeAction::Freeze(model::FreezeScope::Cgroup),
            RollbackState::Freeze { jail: None, members, in_place: Some(path), stopped, .. },
        ) => {
            if !members.is_empty() || !stopped.is_empty() {
                return refused();
            }
            check_cgroup(task, path)
        }
        (
            NodeAction::NetQuarantine(_) | NodeAction::BlockDestination(_),
            RollbackState::Network { cgroup, .. },
        ) => match task.target {
            // Only what bears the action's own mark is taken away, and that must be possible also where nobody may be touched by now.
            Target::Cgroup { path, .. } if path == cgroup => Ok(()),
            _ => check_cgroup(task, cgroup),
        },
        (NodeAction::QuarantineFile, RollbackState::File(state)) => file::check_foreign(task, state),
        (
            NodeAction::Kill(_) | NodeAction::DestroySockets | NodeAction::CaptureEvidence(_),
            RollbackState::Nothing,
        ) => Ok(()),
        _ => refused(),
    }
}

/// The jail that this action would have made for a process that lives in `home`: in that cgroup or in one around it.
fn is_own_jail(task: &Task<'_>, path: &str, home: &str) -> bool {
    let around = jail::outside(path);
    let below = home.strip_prefix(around.trim_end_matches('/'));
    path == jail::jail_path(around, task.id)
        && (is_unnamed(home) && around == "/"
            || below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
}

/// As at a capture; one that has ended is no reason to leave the rest as it is.
fn check_process(task: &Task<'_>, process: ProcessKey) -> Result<(), ActionFailure> {
    let checked = Held::open(process).and_then(|held| task.check_process(&held, &cgroup_of(task, &held)?));
    passed_if_gone(checked)
}

fn check_cgroup(task: &Task<'_>, path: &str) -> Result<(), ActionFailure> {
    match (target_cgroup(task, task.target), task.target) {
        (Ok(cgroup), _) if cgroup.path == path => Ok(()),
        (Ok(_), _) => Err(mismatch(task)),
        // its own id and path are known still, and the undo looks at them
        (
            Err(ActionFailure::TargetGone { .. } | ActionFailure::TargetChanged { .. }),
            Target::Cgroup { path: named, .. },
        ) if named == path => Ok(()),
        (Err(ActionFailure::TargetGone { .. }), _) => Err(mismatch(task)),
        (Err(failure), _) => Err(failure),
    }
}

fn passed_if_gone(checked: Result<(), ActionFailure>) -> Result<(), ActionFailure> {
    match checked {
        Err(ActionFailure::TargetGone { .. } | ActionFailure::TargetChanged { .. }) => Ok(()),
        other => other,
    }
}
