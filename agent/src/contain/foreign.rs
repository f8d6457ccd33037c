//! A rollback state that comes with a command, of an action that this node's journal does not know: its state directory was lost. It is carried
//! out only if a capture of that very action on that very target could have given it. Else who speaks for the controller, or somebody in its
//! place, could move, continue, thaw and chmod whom and what he likes, under the name of an undo.

use model::{ActionFailure, NodeAction, ProcessKey, RollbackState, StoppedProcess, Target};

use super::{
    cgroup::UNNAMED,
    file,
    freeze::{cgroup_of, target_cgroup},
    jail,
    process::Held,
    scene::{Task, mismatch},
};

/// Refuses what no capture could have given. Nothing is changed.
pub(super) fn check(
    task: &Task<'_>,
    action: &NodeAction,
    given: &RollbackState,
) -> Result<(), ActionFailure> {
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
            NodeAction::Freeze(model::FreezeScope::Subtree),
            RollbackState::Freeze { jail: Some(path), members, in_place: None, stopped, .. },
        ) => {
            let (Target::Process { process }, [root]) = (task.target, members.as_slice()) else {
                return refused();
            };
            let is_other = |one: &StoppedProcess| one.process != *process;
            if root.process != *process
                || stopped.iter().any(is_other)
                || !is_own_jail(task, path, &root.from)
            {
                return refused();
            }
            check_process(task, *process)?;
            check_home(task, *process, &root.from)
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
        ) => check_cgroup(task, cgroup),
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
        && (home == UNNAMED && around == "/"
            || below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
}

/// As at a capture; one that has ended is no reason to leave the rest as it is.
fn check_process(task: &Task<'_>, process: ProcessKey) -> Result<(), ActionFailure> {
    let checked = Held::open(process).and_then(|held| task.check_process(&held, &cgroup_of(task, &held)?));
    passed_if_gone(checked)
}

/// Nobody is moved to where he could not be contained any more.
fn check_home(task: &Task<'_>, process: ProcessKey, home: &str) -> Result<(), ActionFailure> {
    let checked = Held::open(process).and_then(|held| task.check_process(&held, home));
    passed_if_gone(checked)
}

fn check_cgroup(task: &Task<'_>, path: &str) -> Result<(), ActionFailure> {
    match (target_cgroup(task, task.target), task.target) {
        (Ok(cgroup), _) if cgroup.path == path => Ok(()),
        (Ok(_), _) => Err(mismatch(task)),
        // its own id and path are known still, and the undo looks at them
        (Err(ActionFailure::TargetGone { .. }), Target::Cgroup { path: named, .. }) if named == path => {
            Ok(())
        }
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
