//! `node.kill`: SIGKILL through a pidfd whose start time was checked. A subtree is frozen first, so that nobody escapes by forking.

use std::time::Duration;

use model::{ActionFailure, Effect, KillScope, Outputs, ProcessKey, RollbackState, Target};
use rustix::process::Signal;
use serde_json::json;

use super::{
    cgroup, free,
    freeze::{capture_subtree, cgroup_of, target_cgroup},
    jail::{self, NoJail},
    journal::Line,
    process::{self, Held},
    scene::{Act, Task, Undone},
    spared::Spared,
};

/// SIGKILL is taken at once except in uninterruptible sleep.
const END_LIMIT_MS: u32 = 2_000;

pub(super) struct Kill(pub(super) KillScope);

impl Act for Kill {
    fn capture(&self, task: &Task<'_>) -> Result<RollbackState, ActionFailure> {
        match task.target {
            Target::Process { process } => {
                checked(task, *process)?;
            }
            cgroup @ Target::Cgroup { .. } => {
                target_cgroup(task, cgroup)?;
            }
            Target::File { .. } | Target::Object(_) | Target::Account(_) | Target::Channel { .. } => {
                return Err(no_process(task));
            }
        }
        Ok(RollbackState::Nothing)
    }

    fn apply(&self, task: &Task<'_>, _: &RollbackState) -> Result<Outputs, ActionFailure> {
        let mut spared = Spared::default();
        let killed = match (task.target, self.0) {
            (Target::Process { process }, KillScope::Process) => {
                let held = checked(task, *process)?;
                task.step("kill");
                usize::from(held.signal(Signal::KILL)? && ended(&held)?)
            }
            (Target::Process { process }, KillScope::Subtree) => kill_subtree(task, *process, &mut spared)?,
            (cgroup @ Target::Cgroup { .. }, _) => kill_cgroup(task, cgroup)?,
            (Target::File { .. } | Target::Object(_) | Target::Account(_) | Target::Channel { .. }, _) => {
                return Err(no_process(task));
            }
        };
        let mut outputs = Outputs::from([("killed".to_owned(), json!(killed))]);
        spared.tell(&mut outputs);
        Ok(outputs)
    }

    fn verify(&self, task: &Task<'_>, _: &RollbackState) -> Result<Effect, ActionFailure> {
        let alive = match task.target {
            Target::Process { process } => match Held::open(*process) {
                Ok(held) => Some(process::name(held.key)),
                Err(ActionFailure::TargetGone { .. } | ActionFailure::TargetChanged { .. }) => None,
                Err(other) => return Err(other),
            },
            // by its id: its path may be another's by now, or that of the nearest around one that no path reaches
            Target::Cgroup { id, path } => match task.scene.cgroups.by_id(*id) {
                Err(error) if cgroup::was_removed(&error) => None,
                Err(error) => return Err(cgroup::failure("open", path, &error)),
                Ok(cgroup) => {
                    let members =
                        cgroup.members_below().map_err(|error| cgroup::failure("list", path, &error))?;
                    members.first().map(|pid| format!("pid {pid}"))
                }
            },
            Target::File { .. } | Target::Object(_) | Target::Account(_) | Target::Channel { .. } => {
                return Err(no_process(task));
            }
        };
        Ok(match alive {
            None => Effect::InForce,
            Some(who) => Effect::Missing { found: format!("{who} lives") },
        })
    }

    fn revert(&self, task: &Task<'_>, _: &RollbackState) -> Result<Undone, ActionFailure> {
        // a crash between freeze and kill may have left a jail: whoever is still in it goes free
        jail::resume(task)?;
        if let Some(RollbackState::Freeze { jail: Some(path), members, .. }) = work(task) {
            free::free(task, &path, &members)?;
            task.note_done(Line::Work { id: task.id.clone(), work: None })?;
        }
        Ok(Undone::Vacuous { detail: "what was killed is gone".into() })
    }
}

fn kill_subtree(task: &Task<'_>, process: ProcessKey, spared: &mut Spared) -> Result<usize, ActionFailure> {
    jail::resume(task)?;
    // after a crash the first process may be dead already while its descendants still stand in the jail
    let held = match checked(task, process) {
        Ok(held) => Some(held),
        Err(ActionFailure::TargetGone { .. }) if work(task).is_some() => None,
        Err(other) => return Err(other),
    };
    let path = match (work(task), &held) {
        (Some(RollbackState::Freeze { jail: Some(path), .. }), _) => path,
        (_, None) => return Err(ActionFailure::TargetGone { target: process::name(process) }),
        (_, Some(_)) => {
            let state = capture_subtree(task, process)?;
            let RollbackState::Freeze { jail: Some(path), .. } = &state else { return Err(no_process(task)) };
            let path = path.clone();
            task.note(Line::Work { id: task.id.clone(), work: Some(state) })?;
            path
        }
    };
    let mut killed = 0;
    if held.is_some() || jail::holds_somebody(task, &path) {
        match jail::imprison(task, process, held.as_ref(), &path) {
            Ok(jailed) => {
                *spared = jailed.spared;
                killed += kill_rounds(task, jailed.left, spared)?;
            }
            Err(NoJail::Failed(failure)) => return Err(failure),
            Err(NoJail::Impossible(error)) => {
                tracing::warn!(%error, "no jail can be made: killing round by round");
                killed += kill_rounds(task, vec![process], spared)?;
            }
        }
    }
    killed += kill_members(task, &path)?;
    // whoever lives on in a jail that the node does not see is not killed
    let members = match work(task) {
        Some(RollbackState::Freeze { members, .. }) => members,
        _ => Vec::new(),
    };
    free::free(task, &path, &members)?;
    task.note_done(Line::Work { id: task.id.clone(), work: None })?;
    // What runs on forks on: that is no killed tree, however many of it are dead.
    match spared.partial() {
        Some(because) => Err(ActionFailure::Io {
            operation: "killing the whole tree".into(),
            object: process::name(process),
            because: format!("{killed} were killed; {because}"),
        }),
        None => Ok(killed),
    }
}

/// Kills every member of the jail; nobody in it can fork.
fn kill_members(task: &Task<'_>, path: &str) -> Result<usize, ActionFailure> {
    let jail = match task.scene.cgroups.cgroup(path) {
        Ok(jail) => jail,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(cgroup::failure("open", path, &error)),
    };
    let members =
        jail.members_below().map_err(|error| cgroup::failure("list the members of", path, &error))?;
    // All are sent the signal before any is awaited, and none is held meanwhile: they may be more than descriptors are to be had.
    let mut dying = Vec::with_capacity(members.len());
    for pid in members {
        let held =
            Held::open_pid(pid).map_err(|error| ActionFailure::io("hold", format!("pid {pid}"), &error))?;
        let Some(held) = held else { continue };
        task.step("kill");
        held.signal(Signal::KILL)?;
        dying.push(held.key);
    }
    for key in &dying {
        if let Some(held) = Held::open_if_there(*key)? {
            ended(&held)?;
        }
    }
    Ok(dying.len())
}

/// Without a jail: stop and kill from the top, until nobody is left.
fn kill_rounds(
    task: &Task<'_>,
    mut round: Vec<ProcessKey>,
    spared: &mut Spared,
) -> Result<usize, ActionFailure> {
    let mut killed = 0;
    while let Some(key) = round.pop() {
        let Some(held) = Held::open_if_there(key)? else { continue };
        let Ok(cgroup) = cgroup_of(task, &held) else { continue };
        if let Some(because) = task.process_reason(&held, &cgroup)? {
            spared.add(held.key, because);
            continue;
        }
        task.step("kill");
        held.signal(Signal::STOP)?;
        let children = process::children(held.pid())
            .map_err(|error| ActionFailure::io("list the children of", process::name(held.key), &error))?;
        for child in children {
            let child = Held::open_pid(child)
                .map_err(|error| ActionFailure::io("hold", format!("pid {child}"), &error))?;
            round.extend(child.filter(|child| child.stat.parent == held.pid()).map(|child| child.key));
        }
        held.signal(Signal::KILL)?;
        killed += usize::from(ended(&held)?);
    }
    Ok(killed)
}

fn kill_cgroup(task: &Task<'_>, target: &Target) -> Result<usize, ActionFailure> {
    let cgroup = target_cgroup(task, target)?;
    let count = cgroup.members_below().map_err(|error| cgroup::failure("list", &cgroup.path, &error))?.len();
    task.step("kill");
    cgroup.kill().map_err(|error| cgroup::failure("kill", &cgroup.path, &error))?;
    // whose cgroup is in another user's keeping stands in a jail around it: see `jail::place`
    let below = format!("{}/", cgroup.path.trim_end_matches('/'));
    let mut elsewhere = 0;
    for member in jail::prisoners(task)
        .into_iter()
        .filter(|one| one.from == cgroup.path || one.from.starts_with(&below))
    {
        if let Ok(held) = Held::open(member.process) {
            held.signal(Signal::KILL)?;
            elsewhere += usize::from(ended(&held)?);
        }
    }
    let count = count + elsewhere;
    let limit = Duration::from_millis(u64::from(END_LIMIT_MS));
    match cgroup.await_event("populated 0", limit) {
        Ok(true) => Ok(count),
        Ok(false) => Err(lives(&format!("cgroup {}", cgroup.path))),
        // its owner removed it as soon as it was empty
        Err(_) => Ok(count),
    }
}

fn ended(held: &Held) -> Result<bool, ActionFailure> {
    if held.wait_end(END_LIMIT_MS) { Ok(true) } else { Err(lives(&process::name(held.key))) }
}

fn lives(who: &str) -> ActionFailure {
    let because = std::io::Error::other("it has not ended after SIGKILL (uninterruptible sleep)");
    ActionFailure::io("kill", who, &because)
}

fn checked(task: &Task<'_>, key: ProcessKey) -> Result<Held, ActionFailure> {
    let held = Held::open(key)?;
    let cgroup = cgroup_of(task, &held)?;
    task.check_process(&held, &cgroup)?;
    Ok(held)
}

fn work(task: &Task<'_>) -> Option<RollbackState> {
    task.scene.journal().slot(task.id).and_then(|slot| slot.work.clone())
}

fn no_process(task: &Task<'_>) -> ActionFailure {
    ActionFailure::Unsupported {
        operation: format!("killing {}", task.target),
        because: "only a process or a cgroup can be killed".into(),
    }
}
