//! `node.freeze`: processes stand still with all they have in memory, and go on where they were.

use std::{
    io,
    time::{Duration, Instant},
};

use model::{
    ActionFailure, CgroupId, Effect, FreezeScope, Frozen, MovedProcess, Outputs, ProcessKey, RollbackState,
    StoppedProcess, Target,
};
use serde_json::json;

use super::{
    cgroup::{self, Cgroup},
    free, gather,
    halt::{known_stopped, stop_tree},
    homes::{self, is_same},
    jail::{self, NoJail},
    journal::Line,
    process::{self, Held, Stat},
    scene::{Act, Task, Undone, mismatch},
    spared::Spared,
    stop,
};

const FREEZE_LIMIT: Duration = Duration::from_millis(500);
/// How long a tree is stopped by signal before it is moved into a jail; mostly it takes a tenth of a millisecond.
const STOP_LIMIT: Duration = Duration::from_millis(20);
/// The same where there is no jail.
const STOP_ALONE_LIMIT: Duration = Duration::from_secs(2);
/// So many are stopped by signal; larger trees are gathered by the jail, which holds their cgroup still.
const MAX_STOPPED: usize = 1024;

pub(super) struct Freeze(pub(super) FreezeScope);

/// The parts of [`RollbackState::Freeze`].
struct State<'a> {
    jail: Option<&'a str>,
    members: &'a [MovedProcess],
    was_frozen: Frozen,
    in_place: Option<&'a str>,
    in_place_id: Option<CgroupId>,
    stopped: &'a [StoppedProcess],
}

impl Act for Freeze {
    fn capture(&self, task: &Task<'_>) -> Result<RollbackState, ActionFailure> {
        match (self.0, task.target) {
            (FreezeScope::Subtree, Target::Process { process }) => capture_subtree(task, *process),
            (FreezeScope::Cgroup, target) => {
                let cgroup = target_cgroup(task, target)?;
                capture_in_place(task, &cgroup)
            }
            (FreezeScope::Subtree, other) => Err(ActionFailure::Unsupported {
                operation: format!("freezing the process subtree of {other}"),
                because: "only a process has one; use scope cgroup".into(),
            }),
        }
    }

    fn apply(&self, task: &Task<'_>, rollback: &RollbackState) -> Result<Outputs, ActionFailure> {
        let state = parts(task, rollback)?;
        let mut spared = Spared::default();
        let (frozen, by) = match (state.in_place, state.jail, task.target) {
            (Some(path), _, _) => (freeze_in_place(task, path, state.in_place_id)?, "cgroup"),
            (None, Some(path), Target::Process { process }) => {
                jail::resume(task)?;
                let taken = task.taken.take().filter(|held| held.key == *process && !held.has_ended());
                // captured this moment: its cgroup is there, and on the way to a freeze nobody looks twice
                let is_fresh = taken.is_some();
                let held = match taken {
                    Some(held) => Some(held),
                    // of a tree that is held already the first may have ended
                    None => match Held::open_if_there(*process)? {
                        None if !jail::holds_somebody(task, path) && living(&state)?.is_none() => {
                            return Err(ActionFailure::TargetGone { target: process::name(*process) });
                        }
                        None => None,
                        Some(held) => {
                            let from = cgroup_of(task, &held)?;
                            task.check_process(&held, &from)?;
                            Some(held)
                        }
                    },
                };
                let path = match is_fresh {
                    true => path.into(),
                    false => jail::moved_up(task, rollback, path)?,
                };
                imprison_stopped(task, *process, held.as_ref(), &path, &mut spared)?
            }
            _ => return Err(mismatch(task)),
        };
        let members = jail::known_members(task).len();
        let mut outputs = Outputs::from([
            ("frozen".to_owned(), json!(frozen == Frozen::Yes && spared.is_nobody())),
            ("by".to_owned(), json!(by)),
            ("processes".to_owned(), json!(members)),
        ]);
        spared.tell(&mut outputs);
        Ok(outputs)
    }

    fn verify(&self, task: &Task<'_>, rollback: &RollbackState) -> Result<Effect, ActionFailure> {
        match look(task, rollback, Patience::UntilFrozen)? {
            Effect::InForce if is_beyond(task, &parts(task, rollback)?)? => {
                Ok(Effect::Missing { found: gather::beyond(task) })
            }
            effect => Ok(effect),
        }
    }

    fn still_holds(&self, task: &Task<'_>, rollback: &RollbackState) -> Result<Effect, ActionFailure> {
        look(task, rollback, Patience::AskedIsEnough)
    }

    fn revert(&self, task: &Task<'_>, rollback: &RollbackState) -> Result<Undone, ActionFailure> {
        let state = parts(task, rollback)?;
        jail::resume(task)?;
        if let Some(path) = state.in_place {
            return thaw_in_place(task, path, state.in_place_id, state.was_frozen);
        }
        let Some(path) = state.jail else { return Err(mismatch(task)) };
        // whoever stands in the jail, too, is counted there
        let (inside, outside): (Vec<_>, Vec<_>) = state.stopped.iter().copied().partition(|one| {
            let at = task.scene.cgroups.path_of(one.process.pid.0);
            at.is_ok_and(|at| at.as_deref() == Some(path))
        });
        stop::continue_all(task, &inside)?;
        let continued = stop::continue_all(task, &outside)?;
        let freed = free::free(task, path, state.members)?;
        let members = || state.members.iter().map(|member| Held::open_if_there(member.process));
        let mut held_on = freed.held_on;
        if freed.home + held_on + continued.alive == 0 {
            // whoever is left stands in the jail of another freeze
            held_on = members().filter_map(Result::transpose).collect::<Result<Vec<_>, _>>()?.len();
            if held_on == 0 {
                return Ok(Undone::Vacuous { detail: "every process has ended".into() });
            }
        }
        let mut said = vec![format!("{} processes run again", freed.home + continued.continued)];
        if held_on > 0 {
            said.push(format!("{held_on} are still held by another containment, which will restore them"));
        }
        said.extend(freed.elsewhere);
        Ok(Undone::Restored { detail: said.join("; ") })
    }
}

/// Stops the tree by signal, puts it in a jail, and takes the signal back.
///
/// A signal takes effect in microseconds, while a move between cgroups waits for a grace period of the kernel when none was moved for some
/// time (`cgroup_threadgroup_rwsem`, 7 ms measured). A stop alone could be undone by an accomplice, or by the parent; a frozen cgroup
/// could not. The signal is taken back once the cgroup holds, so that actions on one process do not depend on each other's stops.
///
/// Those whom the jail cannot take stay stopped by signal, with whoever descends from them; those who are in the jail stay there.
fn imprison_stopped(
    task: &Task<'_>,
    root: ProcessKey,
    held: Option<&Held>,
    path: &str,
    spared: &mut Spared,
) -> Result<(Frozen, &'static str), ActionFailure> {
    let most = MAX_STOPPED.min(task.scene.max_tree);
    let stop = held.map_or(Ok(Frozen::No), |held| stop_tree(task, held, spared, STOP_LIMIT, most));
    let still = Instant::now();
    let stood = match stop {
        Ok(stood) => stood,
        Err(failure) => {
            withdraw_failed(task);
            return Err(failure);
        }
    };
    match jail::imprison(task, root, held, path) {
        Ok(jailed) if jailed.left.is_empty() => {
            *spared = jailed.spared;
            if stood == Frozen::Yes && jailed.frozen == Frozen::Yes {
                task.in_force.set(Some(still));
            }
            withdraw_stop(task);
            Ok((jailed.frozen, "jail"))
        }
        Ok(jailed) => {
            *spared = jailed.spared;
            match stop_left(task, &jailed.left, spared) {
                Ok(stood) if stood == jailed.frozen => Ok((stood, "jail and signal")),
                Ok(_) => Ok((Frozen::No, "jail and signal")),
                Err(failure) => {
                    if !jail::is_in_force(task) {
                        jail::give_up(task, path);
                    }
                    withdraw_failed(task);
                    Err(failure)
                }
            }
        }
        Err(NoJail::Failed(failure)) => {
            withdraw_failed(task);
            Err(failure)
        }
        Err(NoJail::Impossible(error)) => {
            tracing::warn!(%error, "no jail can be made: stopping by signal, which an accomplice could undo");
            // a signal is worth waiting for longer where there is nothing else
            let stood = match (stood, held) {
                (Frozen::No, Some(held)) => {
                    stop_tree(task, held, spared, STOP_ALONE_LIMIT, task.scene.max_tree)?
                }
                _ => stood,
            };
            let stopped: Vec<_> = known_stopped(task).iter().map(|one| one.process).collect();
            if stood == Frozen::No && gather::room(task, &stopped, 1)? == 0 {
                spared.is_partial(gather::beyond(task));
            }
            Ok((stood, "signal"))
        }
    }
}

/// Stops those whom the jail could not take, with whoever descends from them.
fn stop_left(task: &Task<'_>, left: &[ProcessKey], spared: &mut Spared) -> Result<Frozen, ActionFailure> {
    let mut all = Frozen::Yes;
    for key in left {
        let Some(held) = Held::open_if_there(*key)? else { continue };
        if stop_tree(task, &held, spared, STOP_ALONE_LIMIT, task.scene.max_tree)? == Frozen::No {
            all = Frozen::No;
        }
    }
    Ok(all)
}

/// A try that failed takes its signals back; not where the freeze was in force before: whom only a signal holds must not be let out by it.
fn withdraw_failed(task: &Task<'_>) {
    if !jail::is_in_force(task) {
        withdraw_stop(task);
    }
}

/// Lets go on whoever was stopped for this action. In a frozen cgroup they stay where they are. One that cannot be told now stays in the
/// journal: with a freeze in force its undo tells it.
fn withdraw_stop(task: &Task<'_>) {
    const TRIES: usize = 3;
    let stopped = known_stopped(task);
    if stopped.is_empty() {
        return;
    }
    let mut continued = stop::continue_all(task, &stopped);
    for _ in 1..TRIES {
        if continued.is_err() {
            continued = stop::continue_all(task, &stopped);
        }
    }
    match continued.and_then(|_| task.note_done(Line::Stopped { id: task.id.clone(), stopped: Vec::new() })) {
        Ok(()) => {}
        Err(failure) => task.leave_unclean(&failure),
    }
}

/// What a look at a freeze is content with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Patience {
    /// That everyone stands still.
    UntilFrozen,
    /// That the kernel has been asked: one in uninterruptible sleep runs no code of its own until it stands still, and asking again
    /// would change nothing.
    AskedIsEnough,
}

/// What is seen may go at any time between two looks. Nothing is left to hold only when everybody who was held has ended.
fn look(task: &Task<'_>, rollback: &RollbackState, patience: Patience) -> Result<Effect, ActionFailure> {
    let state = parts(task, rollback)?;
    match look_once(task, &state, patience) {
        Err(ActionFailure::TargetGone { target }) => match living(&state)? {
            Some(key) => {
                let found = format!("{} lives, and this is gone: {target}", process::name(key));
                Ok(Effect::Missing { found })
            }
            None => Err(ActionFailure::TargetGone { target }),
        },
        seen => seen,
    }
}

/// Somebody of a tree that is held who has not ended.
fn living(state: &State<'_>) -> Result<Option<ProcessKey>, ActionFailure> {
    let members = state.members.iter().map(|one| one.process);
    for key in members.chain(state.stopped.iter().map(|one| one.process)) {
        if Held::open_if_there(key)?.is_some() {
            return Ok(Some(key));
        }
    }
    Ok(None)
}

fn look_once(task: &Task<'_>, state: &State<'_>, patience: Patience) -> Result<Effect, ActionFailure> {
    let jailed = state.jail.is_some_and(|path| task.scene.cgroups.cgroup(path).is_ok());
    if !state.stopped.is_empty() && !jailed {
        let stands = |held: &Held, _: &str| {
            Ok(state
                .stopped
                .iter()
                .any(|one| held.stat.started(one.process) && one.process.pid == held.key.pid))
        };
        return match stop::verify_stopped(task, state.stopped)? {
            Effect::InForce => all_are_held(task, state, stands),
            missing => Ok(missing),
        };
    }
    let Some(path) = state.in_place.or(state.jail) else { return Err(mismatch(task)) };
    let missing = |found: String| Ok(Effect::Missing { found });
    let cgroup = match task.scene.cgroups.find(path, state.in_place_id) {
        Ok(cgroup) => cgroup,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return match state.members.iter().find(|member| Held::open(member.process).is_ok()) {
                Some(member) => missing(format!("{} runs outside the jail", process::name(member.process))),
                None => Err(ActionFailure::TargetGone { target: format!("cgroup {path}") }),
            };
        }
        Err(error) => return Err(cgroup::failure("open", path, &error)),
    };
    let read = |error: io::Error| cgroup::failure("read", path, &error);
    if state.in_place.is_some() && !is_meant(task, &cgroup, state.in_place_id).map_err(read)? {
        return Err(ActionFailure::TargetGone { target: format!("cgroup {path}") });
    }
    let alive = |key: ProcessKey| Held::open(key).is_ok();
    let mut known =
        state.members.iter().map(|one| one.process).chain(state.stopped.iter().map(|one| one.process));
    if state.jail.is_some() && !known.any(alive) && cgroup.members_below().map_err(read)?.is_empty() {
        return Err(ActionFailure::TargetGone { target: format!("everyone in cgroup {path}") });
    }
    if cgroup.freeze_wish().map_err(read)? == Frozen::No {
        return missing(format!("cgroup {path} is not asked to be frozen"));
    }
    let was_stopped = |held: &Held| state.stopped.iter().any(|one| is_same(one.process, held.key));
    for member in state.members {
        let Some((held, at)) = alive_at(task, member.process)? else { continue };
        let elsewhere = state.jail.is_some() && at != path;
        // where several hold one process, it stands in the jail of one of them; and whom no jail takes is among the stopped
        if elsewhere
            && !was_stopped(&held)
            && !homes::held_by_another(task, &at).map_err(|error| cgroup::failure("look at", &at, &error))?
        {
            return missing(format!("{} is in cgroup {at}", process::name(member.process)));
        }
    }
    if state.jail.is_some() {
        let in_a_jail = |at: &str| Ok::<_, io::Error>(at == path || homes::held_by_another(task, at)?);
        let mut by_signal = Vec::new();
        for one in state.stopped {
            let Some((_, at)) = alive_at(task, one.process)? else { continue };
            if !in_a_jail(&at).map_err(|error| cgroup::failure("look at", &at, &error))? {
                by_signal.push(*one);
            }
        }
        match stop::verify_stopped(task, &by_signal) {
            Ok(Effect::InForce) | Err(ActionFailure::TargetGone { .. }) => {}
            other => return other,
        }
        let effect = all_are_held(task, state, |held, at| Ok(was_stopped(held) || in_a_jail(at)?))?;
        if effect != Effect::InForce {
            return Ok(effect);
        }
    }
    if patience == Patience::AskedIsEnough || cgroup.await_event("frozen 1", FREEZE_LIMIT).map_err(read)? {
        return Ok(Effect::InForce);
    }
    missing(format!("cgroup {path} has members that do not stand still (uninterruptible sleep)"))
}

/// Whether the process tree names nobody of this tree who runs. It hears of a fork a moment late.
fn all_are_held(
    task: &Task<'_>,
    state: &State<'_>,
    is_held: impl Fn(&Held, &str) -> io::Result<bool>,
) -> Result<Effect, ActionFailure> {
    let Target::Process { process: root } = task.target else { return Ok(Effect::InForce) };
    // beyond the bound they are known to run, and it was said
    let missed = if is_beyond(task, state)? { None } else { gather::missed(task, *root, is_held)? };
    Ok(missed.map_or(Effect::InForce, |key| Effect::Missing {
        found: format!("{} descends from it and runs", process::name(key)),
    }))
}

fn is_beyond(task: &Task<'_>, state: &State<'_>) -> Result<bool, ActionFailure> {
    let members: Vec<_> = state.members.iter().map(|one| one.process).collect();
    let stopped: Vec<_> = state.stopped.iter().map(|one| one.process).collect();
    Ok(gather::room(task, &members, 1)? == 0 || gather::room(task, &stopped, 1)? == 0)
}

/// Whether the cgroup at a path is the one that was frozen there, and not another that was made since (I9).
fn is_meant(task: &Task<'_>, cgroup: &Cgroup, captured: Option<CgroupId>) -> io::Result<bool> {
    let of_target = match task.target {
        Target::Cgroup { id, path } if *path == cgroup.path => Some(*id),
        _ => None,
    };
    Ok(match captured.or(of_target) {
        Some(id) => cgroup.id()? == id,
        None => true,
    })
}

/// The cgroup that a target names, both id and path checked (I9), or that its process is in.
pub(super) fn target_cgroup(task: &Task<'_>, target: &Target) -> Result<Cgroup, ActionFailure> {
    let path = match target {
        Target::Cgroup { path, .. } => path.clone(),
        Target::Process { process } => {
            let held = Held::open(*process)?;
            // the jail that another action put it in is not its home
            let path = homes::true_home(task, held.pid(), held.stat, cgroup_of(task, &held)?)?;
            task.check_process(&held, &path)?;
            path
        }
        Target::File { .. } | Target::Object(_) | Target::Account(_) | Target::Channel { .. } => {
            return Err(ActionFailure::Unsupported {
                operation: format!("containing {target}"),
                because: "it is in no cgroup".into(),
            });
        }
    };
    let open =
        |path: &str| task.scene.cgroups.cgroup(path).map_err(|error| cgroup::failure("open", path, &error));
    let mut cgroup = open(&path)?;
    // A threaded cgroup has single threads: the process belongs to the domain around it, and so do its sockets.
    while matches!(target, Target::Process { .. })
        && cgroup.kind().map_err(|error| cgroup::failure("read the type of", &cgroup.path, &error))?
            == "threaded"
    {
        cgroup = open(jail::above(&cgroup.path))?;
    }
    if let Target::Cgroup { id, .. } = target {
        let found = cgroup.id().map_err(|error| cgroup::failure("identify", &path, &error))?;
        if found != *id {
            // No path reaches it, and the path that was told is of the nearest around it: it is known by its id.
            let deep = task.scene.cgroups.by_id(*id).ok();
            let deep = deep.filter(|deep| cgroup::nearest(&deep.path).is_some_and(|near| is_in(near, &path)));
            if let Some(deep) = deep {
                task.check_cgroup(&deep)?;
                return Ok(deep);
            }
            return Err(ActionFailure::TargetChanged {
                target: target.to_string(),
                expected: format!("id {id}"),
                found: format!("id {found}"),
            });
        }
    }
    task.check_cgroup(&cgroup)?;
    Ok(cgroup)
}

/// Whether a path is that of a cgroup or of one below it.
fn is_in(path: &str, cgroup: &str) -> bool {
    let below = path.strip_prefix(cgroup.trim_end_matches('/'));
    below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// cgroup path of a live process.
pub(super) fn cgroup_of(task: &Task<'_>, held: &Held) -> Result<String, ActionFailure> {
    at_once(task, held, process::stat(held.pid()))
}

/// A process with its place, unless it has ended, be it while it is looked at: of many that are held one may end at any time, and that is no
/// end of the others.
fn alive_at(task: &Task<'_>, key: ProcessKey) -> Result<Option<(Held, String)>, ActionFailure> {
    let Some(held) = Held::open_if_there(key)? else { return Ok(None) };
    match cgroup_of(task, &held) {
        Ok(at) => Ok(Some((held, at))),
        Err(ActionFailure::TargetGone { .. }) => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// The same of a process that was looked at this moment.
fn cgroup_of_fresh(task: &Task<'_>, held: &Held) -> Result<String, ActionFailure> {
    at_once(task, held, Ok(Some(held.stat)))
}

fn at_once(task: &Task<'_>, held: &Held, stat: io::Result<Option<Stat>>) -> Result<String, ActionFailure> {
    let path = stat.and_then(|stat| match stat {
        Some(stat) => task.scene.cgroups.path_at(held.pid(), &stat),
        None => Ok(None),
    });
    path.map_err(|error| ActionFailure::io("find the cgroup of", process::name(held.key), &error))?
        .filter(|_| !held.has_ended())
        .ok_or_else(|| ActionFailure::TargetGone { target: process::name(held.key) })
}

/// State of an action that freezes a subtree on the way to something else.
pub(super) fn capture_subtree(task: &Task<'_>, process: ProcessKey) -> Result<RollbackState, ActionFailure> {
    let held = Held::open(process)?;
    // Another freeze may hold it already: it gets a jail of its own all the same, below its true home (see `homes`).
    let home = homes::true_home(task, held.pid(), held.stat, cgroup_of_fresh(task, &held)?)?;
    task.check_process(&held, &home)?;
    let place = jail::place(task, &home).map_err(|error| cgroup::failure("look at", &home, &error))?;
    let path = jail::jail_path(place, task.id);
    let was_stopped = stop::was_stopped(task, &held);
    task.taken.replace(Some(held));
    Ok(RollbackState::Freeze {
        jail: Some(path),
        members: vec![MovedProcess { process, from: home }],
        was_frozen: Frozen::No,
        in_place: None,
        in_place_id: None,
        stopped: vec![StoppedProcess { process, was_stopped }],
    })
}

fn capture_in_place(task: &Task<'_>, cgroup: &Cgroup) -> Result<RollbackState, ActionFailure> {
    // not in the moment in which another action holds it still to gather a tree
    let _one_at_a_time = task.scene.foreign.lock();
    let was_frozen = cgroup.freeze_wish().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => ActionFailure::Unsupported {
            operation: format!("freezing cgroup {}", cgroup.path),
            because: "it has no cgroup.freeze (Linux 5.2)".into(),
        },
        _ => cgroup::failure("read cgroup.freeze of", &cgroup.path, &error),
    })?;
    let id = cgroup.id().map_err(|error| cgroup::failure("identify", &cgroup.path, &error))?;
    Ok(RollbackState::Freeze {
        jail: None,
        members: Vec::new(),
        was_frozen,
        in_place: Some(cgroup.path.clone()),
        in_place_id: Some(id),
        stopped: Vec::new(),
    })
}

fn freeze_in_place(task: &Task<'_>, path: &str, id: Option<CgroupId>) -> Result<Frozen, ActionFailure> {
    let cgroup = match task.target {
        target @ Target::Cgroup { path: named, .. }
            if jail::home(task, path) == named.as_str()
                || path == named
                || cgroup::nearest(path).is_some_and(|near| is_in(near, named)) =>
        {
            target_cgroup(task, target)?
        }
        Target::Cgroup { .. } => return Err(mismatch(task)),
        _ => task.scene.cgroups.cgroup(path).map_err(|error| cgroup::failure("open", path, &error))?,
    };
    if !is_meant(task, &cgroup, id).map_err(|error| cgroup::failure("identify", path, &error))? {
        return Err(ActionFailure::TargetGone { target: format!("cgroup {path}") });
    }
    if !jail::is_jail(task, path) {
        task.check_cgroup(&cgroup)?;
    }
    let _one_at_a_time = task.scene.foreign.lock();
    task.step("freeze");
    cgroup.set_freeze_wish(Frozen::Yes).map_err(|error| cgroup::failure("freeze", path, &error))?;
    let frozen = cgroup
        .await_event("frozen 1", FREEZE_LIMIT)
        .map_err(|error| cgroup::failure("await the freeze of", path, &error))?;
    Ok(if frozen { Frozen::Yes } else { Frozen::No })
}

fn thaw_in_place(
    task: &Task<'_>,
    path: &str,
    id: Option<CgroupId>,
    was: Frozen,
) -> Result<Undone, ActionFailure> {
    let _one_at_a_time = task.scene.foreign.lock();
    let gone = || Undone::Vacuous { detail: format!("cgroup {path} is gone") };
    let cgroup = match task.scene.cgroups.find(path, id) {
        Ok(cgroup) => cgroup,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(gone()),
        Err(error) => return Err(cgroup::failure("open", path, &error)),
    };
    if !is_meant(task, &cgroup, id).map_err(|error| cgroup::failure("identify", path, &error))? {
        return Ok(Undone::Vacuous { detail: format!("cgroup {path} is gone; another has been made there") });
    }
    task.step("thaw");
    cgroup.set_freeze_wish(was).map_err(|error| cgroup::failure("thaw", path, &error))?;
    let word = if was == Frozen::Yes { "as frozen as before" } else { "thawed" };
    Ok(Undone::Restored { detail: format!("cgroup {path} is {word}") })
}

fn parts<'a>(task: &Task<'_>, rollback: &'a RollbackState) -> Result<State<'a>, ActionFailure> {
    match rollback {
        RollbackState::Freeze { jail, members, was_frozen, in_place, in_place_id, stopped } => Ok(State {
            jail: jail.as_deref(),
            members,
            was_frozen: *was_frozen,
            in_place: in_place.as_deref(),
            in_place_id: *in_place_id,
            stopped,
        }),
        _ => Err(mismatch(task)),
    }
}
