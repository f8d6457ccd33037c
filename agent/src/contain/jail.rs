//! A cgroup of its own for a process subtree: made below the cgroup that the process came from, frozen before anyone moves in.
//!
//! **No member gets away.** Whoever is moved in stands still and can fork no more (a fork and a move are serialised by the
//! kernel, so a child is born either in the jail, frozen, or outside as a child of a member and is found in the next round). A
//! process outside that forks and ends before it is moved would orphan its child unseen; so as soon as a member has children
//! outside, their cgroup is held still as a whole for the few milliseconds that the rounds take. Where that is not possible
//! (the root cgroup, one with a protected process in it), rounds go on until one finds nothing new, and the agent's process tree
//! ([`super::Lineage`]) names the orphans. The rounds are in [`super::gather`].
//!
//! **Nobody else gets in (I9).** The kernel takes a number where a process is meant, and looks it up only after it has waited for its
//! locks. So whoever is moved is held by a pidfd, and if it has ended meanwhile, whoever has its number now goes back.

use std::{
    borrow::Cow,
    io,
    time::{Duration, Instant},
};

use model::{ActionFailure, ActionId, ActionState, Frozen, MovedProcess, ProcessKey, RollbackState};

use super::{
    cgroup::{self, Cgroup, LONGEST, Made, is_unnamed},
    free::empty,
    gather::gather,
    halt::known_stopped,
    journal::{Line, Paused},
    process::Held,
    recover::is_settled,
    scene::{Task, tag},
    spared::Spared,
};
use crate::workload::name;

/// How long to wait for the members to stand still. Only uninterruptible sleep takes longer than microseconds.
pub(super) const FREEZE_LIMIT: Duration = Duration::from_millis(500);

/// Bytes of a jail's own name and the slash before it.
const ROOM_FOR_NAME: usize = 1 + PREFIX.len() + 16;

/// Names of our cgroups begin like this.
const PREFIX: &str = "hemostat-jail-";

/// Directory name of an action's jail.
pub(super) fn jail_name(id: &ActionId) -> String {
    format!("{PREFIX}{}", tag(id))
}

/// The jail's path below `from`. A process that stands in a jail already gets no jail within: see [`is_jail`].
pub(super) fn jail_path(from: &str, id: &ActionId) -> String {
    format!("{}/{}", from.trim_end_matches('/'), jail_name(id))
}

/// Whether a jail of ours is there, or around there: one that the journal knows and that is ours. The name alone says nothing, since anybody
/// who may make cgroups may give it to one; and whoever may make some in a jail may put there who stands in it.
pub(super) fn is_jail(task: &Task<'_>, path: &str) -> bool {
    home_of_jail(task, path).is_some()
}

/// The cgroup that whoever stands in this jail of ours came from; the path itself where it is no jail.
pub(super) fn home<'a>(task: &Task<'_>, path: &'a str) -> Cow<'a, str> {
    home_of_jail(task, path).map_or(Cow::Borrowed(path), Cow::Owned)
}

fn home_of_jail(task: &Task<'_>, path: &str) -> Option<String> {
    around(path).find_map(|at| home_of_very_jail(task, at))
}

/// The jail of ours at or around a path.
pub(super) fn jail_around<'a>(task: &Task<'_>, path: &'a str) -> Option<&'a str> {
    around(path).find(|at| home_of_very_jail(task, at).is_some())
}

/// The path and those around it that have the name of a jail.
fn around(path: &str) -> impl Iterator<Item = &str> {
    let ends = path.match_indices('/').map(|(at, _)| at).skip(1).chain([path.len()]);
    ends.map(|end| &path[..end]).filter(|at| has_name_of_jail(at))
}

fn home_of_very_jail(task: &Task<'_>, path: &str) -> Option<String> {
    let home = {
        let journal = task.scene.journal();
        let own = journal.slot(task.id).into_iter();
        journal.standing().chain(own).find_map(|slot| {
            let stands = !matches!(slot.record.state, ActionState::Planned | ActionState::Prepared);
            if !stands && slot.record.id != *task.id {
                return None;
            }
            [slot.work.as_ref(), slot.record.rollback.as_ref()].into_iter().flatten().find_map(|state| {
                match state {
                    RollbackState::Freeze { jail: Some(jail), members, .. } if jail == path => Some(
                        members.first().map_or_else(|| outside(path).to_owned(), |root| root.from.clone()),
                    ),
                    _ => None,
                }
            })
        })
    }?;
    task.scene.cgroups.cgroup(path).is_ok_and(|jail| is_ours(&jail)).then_some(home)
}

/// Everybody that stands in a jail of any action.
pub(super) fn prisoners(task: &Task<'_>) -> Vec<MovedProcess> {
    let journal = task.scene.journal();
    let states = journal.standing().filter_map(|slot| slot.work.as_ref().or(slot.record.rollback.as_ref()));
    let members = states.filter_map(|state| match state {
        RollbackState::Freeze { jail: Some(_), members, .. } => Some(members.as_slice()),
        _ => None,
    });
    members.flatten().cloned().collect()
}

/// The cgroup to make a jail in for a process that lives in `home`: `home` itself, or where that was given to another user to keep, the
/// nearest one around it that was not. Who may write to a cgroup may move processes out of everything below it.
pub(super) fn place<'a>(task: &Task<'_>, home: &'a str) -> io::Result<&'a str> {
    let mut at = home;
    loop {
        // who is where no path reaches is not moved: see [`may_leave`]
        if at.is_empty() || at == "/" || is_unnamed(at) {
            return Ok("/");
        }
        // a jail has to be found again by its path
        if name::bytes(at).len() + ROOM_FOR_NAME > LONGEST {
            at = above(at);
            continue;
        }
        match task.scene.cgroups.cgroup(at) {
            Ok(cgroup) if is_ours(&cgroup) => return Ok(at),
            Ok(_) => {}
            Err(error) => return Err(error),
        }
        at = above(at);
    }
}

/// The path of the jail, or of another further up where somebody has moved everybody out and removed the cgroup in which it was.
pub(super) fn moved_up<'a>(
    task: &Task<'_>,
    rollback: &RollbackState,
    path: &'a str,
) -> Result<Cow<'a, str>, ActionFailure> {
    let before = outside(path);
    let mut parent = before;
    let failed = |path: &str, error: io::Error| cgroup::failure("open", path, &error);
    while parent != "/" {
        match task.scene.cgroups.cgroup(parent) {
            Ok(_) => break,
            Err(error) if cgroup::was_removed(&error) => parent = above(parent),
            Err(error) => return Err(failed(parent, error)),
        }
    }
    if parent == before {
        return Ok(Cow::Borrowed(path));
    }
    let parent = place(task, parent).map_err(|error| failed(parent, error))?;
    let fresh = jail_path(parent, task.id);
    let mut rollback = rollback.clone();
    if let RollbackState::Freeze { jail, members, stopped, .. } = &mut rollback {
        *jail = Some(fresh.clone());
        *members = known_members(task);
        *stopped = known_stopped(task);
    }
    task.note(Line::Rollback { id: task.id.clone(), rollback })?;
    Ok(Cow::Owned(fresh))
}

pub(super) fn is_ours(jail: &Cgroup) -> bool {
    jail.owner().is_ok_and(|owner| owner == rustix::process::geteuid().as_raw())
}

pub(super) fn has_name_of_jail(path: &str) -> bool {
    let tag = path.rsplit('/').next().and_then(|name| name.strip_prefix(PREFIX));
    tag.is_some_and(|tag| tag.len() == 16 && tag.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// The cgroup around a path that is known to be a jail's; the path itself where it has not the name of one.
pub(super) fn outside(path: &str) -> &str {
    match path.rsplit_once('/') {
        Some(("", _)) if has_name_of_jail(path) => "/",
        Some((parent, _)) if has_name_of_jail(path) => parent,
        _ => path,
    }
}

/// The subtree could not be put in a jail.
#[derive(Debug)]
pub(super) enum NoJail {
    /// This kernel, hierarchy or our rights do not allow it: SIGSTOP is the way left.
    Impossible(io::Error),
    /// Anything else.
    Failed(ActionFailure),
}

impl From<ActionFailure> for NoJail {
    fn from(failure: ActionFailure) -> Self {
        Self::Failed(failure)
    }
}

/// What a jail holds, and what not.
pub(super) struct Jailed {
    /// Whether who is in it stands still.
    pub(super) frozen: Frozen,
    /// Descendants that were left out because they are protected.
    pub(super) spared: Spared,
    /// Those of the tree that cannot be moved in. They have to be held in another way, with whoever descends from them.
    pub(super) left: Vec<ProcessKey>,
}

/// Makes the jail at `path`, moves `root` (unless that has ended) and its descendants in and waits until they stand still.
///
/// **Who is in, stays in.** One who cannot be moved does not let the others out, or a program would only have to put a child where nobody is
/// moved from. Only a first try that fails altogether is taken back.
pub(super) fn imprison(
    task: &Task<'_>,
    root: ProcessKey,
    held: Option<&Held>,
    path: &str,
) -> Result<Jailed, NoJail> {
    let parent = outside(path);
    let _one_at_a_time = task.scene.foreign.lock();
    let home = task.scene.cgroups.cgroup(parent).map_err(|error| cgroup::failure("open", parent, &error))?;
    // whatever has become of the cgroups around: they concern only who is to be moved now
    if !holds_somebody(task, path) {
        is_domain(&home)?;
        if let Some(own) =
            known_members(task).first().map(|root| root.from.as_str()).filter(|own| *own != parent)
        {
            may_leave(task, own)?;
        }
    }
    task.step("jail");
    let (jail, made) = home.make_child(&jail_name_of(path)).map_err(sort(path))?;
    if !is_ours(&jail) {
        return Err(NoJail::Impossible(io::Error::other(format!("somebody else has made cgroup {path}"))));
    }
    let (mut spared, mut left) = (Spared::default(), Vec::new());
    let gathered = jail
        .set_freeze_wish(Frozen::Yes)
        .map_err(sort(path))
        .and_then(|()| {
            task.step("move");
            match held.map_or(Ok(false), |held| admit(task, &jail, held)) {
                Err(NoJail::Impossible(error)) if holds_somebody(task, path) => {
                    tracing::warn!(%error, "the first of the tree cannot be moved into its jail");
                    left.push(root);
                }
                other => {
                    other?;
                }
            }
            Ok(())
        })
        .and_then(|()| {
            // the first is not there to be alone
            let made = if held.is_some() { made } else { Made::Before };
            gather(task, root, &jail, made, &mut spared, &mut left)?;
            match task.in_force.get() {
                Some(_) => Ok(Frozen::Yes),
                None => Ok(await_frozen(task, &jail, FREEZE_LIMIT)?),
            }
        });
    match gathered {
        Ok(frozen) => Ok(Jailed { frozen, spared, left }),
        Err(failure) => {
            if is_in_force(task) {
                resume(task)?;
            } else {
                dissolve(task, path);
            }
            Err(failure)
        }
    }
}

/// Whether the jail at `path` is there, is ours, and has somebody in it.
pub(super) fn holds_somebody(task: &Task<'_>, path: &str) -> bool {
    let jail = task.scene.cgroups.cgroup(path).ok().filter(is_ours);
    jail.and_then(|jail| jail.members_below().ok()).is_some_and(|members| !members.is_empty())
}

/// Whether the action was told to be in force, so that a failure to do it again must not take back what it does.
pub(super) fn is_in_force(task: &Task<'_>) -> bool {
    let state = task.scene.journal().slot(task.id).map(|slot| slot.record.state);
    state.is_some_and(is_settled)
}

/// All or nothing: whoever was moved by a first try that failed goes back.
fn dissolve(task: &Task<'_>, path: &str) {
    let freed = resume(task).and_then(|()| empty(task, path, &known_members(task)));
    if let Err(error) = freed {
        task.leave_unclean(&error);
    }
}

/// The same for who has given up what follows the jail.
pub(super) fn give_up(task: &Task<'_>, path: &str) {
    let _one_at_a_time = task.scene.foreign.lock();
    dissolve(task, path);
}

/// Whether whoever lives there may be moved, because a move back would give back what was: a threaded cgroup has single threads of a process
/// whose others are elsewhere, and all go together; and where no path reaches nobody finds the way back.
pub(super) fn may_leave(task: &Task<'_>, home: &str) -> Result<(), NoJail> {
    match task.scene.cgroups.cgroup(home) {
        Ok(cgroup) => is_domain(&cgroup),
        // it has ended, or will be told so by the move
        Err(error) if cgroup::was_removed(&error) => Ok(()),
        Err(error) => Err(NoJail::Impossible(io::Error::other(format!("cgroup {home}: {error}")))),
    }
}

fn is_domain(cgroup: &Cgroup) -> Result<(), NoJail> {
    let path = &cgroup.path;
    match cgroup.kind() {
        Ok(kind) if kind == "domain" => Ok(()),
        Ok(kind) => Err(NoJail::Impossible(io::Error::other(format!("cgroup {path} is a {kind} cgroup")))),
        Err(error) => Err(cgroup::failure("read the type of", path, &error).into()),
    }
}

/// Moves one in; `Ok(false)` when it has ended.
pub(super) fn admit(task: &Task<'_>, jail: &Cgroup, held: &Held) -> Result<bool, NoJail> {
    Ok(!held.has_ended() && move_to(task, jail, held).map_err(sort(&jail.path))?)
}

/// Moves exactly this process; `Ok(false)` when it has ended. Whoever got its number meanwhile is sent back.
pub(super) fn move_to(task: &Task<'_>, cgroup: &Cgroup, held: &Held) -> io::Result<bool> {
    if !cgroup.take(held.pid())? {
        return Ok(false);
    }
    if !held.has_ended() {
        // it lives, so its number was its own all the time
        return Ok(true);
    }
    send_back(task, cgroup, held)?;
    Ok(false)
}

/// The process of this number ended while the kernel was asked to move it. If another has the number by now, it was born in this very
/// moment, and was moved in its place: it goes to where its parent is, which is where it was born.
fn send_back(task: &Task<'_>, from: &Cgroup, ended: &Held) -> io::Result<()> {
    let Some(stranger) = Held::open_pid(ended.pid())? else { return Ok(()) };
    let at = task.scene.cgroups.path_of(stranger.pid())?;
    let of_its_parent = task.scene.cgroups.path_of(stranger.stat.parent)?;
    let birthplace = match of_its_parent {
        // somebody else has moved it since, or it was born here
        _ if at.as_ref() != Some(&from.path) => return Ok(()),
        Some(path) if path == from.path => return Ok(()),
        Some(path) => path,
        None => outside(&from.path).to_owned(),
    };
    tracing::warn!(pid = stranger.pid(), to = %birthplace, "a process got the number of one that was to be moved: it goes back");
    task.step("send back");
    task.scene.cgroups.cgroup(&birthplace)?.take(stranger.pid())?;
    Ok(())
}

/// Waits until everyone in the jail stands still, and notes when.
pub(super) fn await_frozen(task: &Task<'_>, jail: &Cgroup, limit: Duration) -> Result<Frozen, ActionFailure> {
    let frozen = jail
        .await_event("frozen 1", limit)
        .map_err(|error| cgroup::failure("await the freeze of", &jail.path, &error))?;
    if !frozen {
        return Ok(Frozen::No);
    }
    task.in_force.set(Some(Instant::now()));
    Ok(Frozen::Yes)
}

/// The cgroup around this one.
pub(super) fn above(path: &str) -> &str {
    match path.rsplit_once('/') {
        Some(("", _)) | None => "/",
        Some((above, _)) => above,
    }
}

/// Sets free what a crash left held still in the middle of gathering.
pub(super) fn resume(task: &Task<'_>) -> Result<(), ActionFailure> {
    let paused = task.scene.journal().slot(task.id).map(|slot| slot.paused.clone()).unwrap_or_default();
    if paused.is_empty() {
        return Ok(());
    }
    for Paused { path, id } in &paused {
        let thawed = task.scene.cgroups.cgroup(path).and_then(|cgroup| match id {
            // another that was made there since is somebody else's
            Some(id) if cgroup.id()? != *id => Ok(()),
            _ => cgroup.set_freeze_wish(Frozen::No),
        });
        match thawed {
            Ok(()) => {}
            Err(error) if cgroup::was_removed(&error) => {}
            Err(error) => return Err(cgroup::failure("thaw", path, &error)),
        }
    }
    // a full disk must not keep anybody frozen
    task.note_done(Line::Paused { id: task.id.clone(), cgroups: Vec::new() })
}

/// Members as the journal has them.
pub(super) fn known_members(task: &Task<'_>) -> Vec<MovedProcess> {
    let journal = task.scene.journal();
    let slot = journal.slot(task.id);
    let state = slot.and_then(|slot| slot.work.as_ref().or(slot.record.rollback.as_ref()));
    match state {
        Some(RollbackState::Freeze { members, .. }) => members.clone(),
        _ => Vec::new(),
    }
}

pub(super) fn jail_name_of(path: &str) -> String {
    path.rsplit('/').next().unwrap_or(path).to_owned()
}

/// Tells "not possible here" from other failures of making or filling a jail.
pub(super) fn sort(path: &str) -> impl Fn(io::Error) -> NoJail {
    use rustix::io::Errno;
    move |error| {
        let errno = error.raw_os_error().map(Errno::from_raw_os_error);
        match errno {
            Some(
                Errno::OPNOTSUPP
                | Errno::ACCESS
                | Errno::PERM
                | Errno::ROFS
                | Errno::BUSY
                | Errno::AGAIN
                | Errno::NOSPC,
            ) => NoJail::Impossible(error),
            // no cgroup.freeze: Linux before 5.2
            Some(Errno::NOENT) => NoJail::Impossible(error),
            _ => NoJail::Failed(cgroup::failure("jail processes in", path, &error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jail_knows_its_surroundings() {
        let id = ActionId::new("act-1");
        for from in ["/", "/a", "/a/b"] {
            let path = jail_path(from, &id);
            assert!(has_name_of_jail(&path), "{path}");
            assert_eq!(outside(&path), from);
        }
        assert_eq!(outside("/a/b"), "/a/b");
        assert!(!has_name_of_jail("/hemostat-jail-0123456789abcdef/b"));
        assert!(!has_name_of_jail("/hemostat-jail-mine"));
    }
}
