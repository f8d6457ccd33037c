//! A cgroup of its own for a process subtree: made below the cgroup that the process came from, frozen before anyone moves in.
//!
//! **No member gets away.** Whoever is moved in stands still and can fork no more (a fork and a move are serialised by the
//! kernel, so a child is born either in the jail, frozen, or outside as a child of a member and is found in the next round). A
//! process outside that forks and ends before it is moved would orphan its child unseen; so as soon as a member has children
//! outside, their cgroup is held still as a whole for the few milliseconds that the rounds take. Where that is not possible
//! (the root cgroup, one with a protected process in it), rounds go on until one finds nothing new, and the agent's process tree
//! ([`super::Lineage`]) names the orphans.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    io,
    time::{Duration, Instant},
};

use model::{ActionFailure, ActionId, ActionState, Frozen, MovedProcess, ProcessKey, RollbackState};

use super::{
    cgroup::{self, Cgroup, Made},
    freeze,
    journal::Line,
    process::{self, Held},
    scene::{Force, Task, tag},
    spared::Spared,
};

/// Everything moved by one action; more is a fork bomb, for which the whole cgroup should be frozen.
const MAX_MEMBERS: usize = 16_384;
/// How long other processes of the cgroup may be held still while a tree is gathered.
const PAUSE_LIMIT: Duration = Duration::from_millis(500);
/// How long to wait for the members to stand still. Only uninterruptible sleep takes longer than microseconds.
const FREEZE_LIMIT: Duration = Duration::from_millis(500);

/// How long it may take to let everybody out.
const EMPTY_LIMIT: Duration = Duration::from_secs(20);
/// How long the root of a tree is awaited before its descendants are looked for: those run on until they are found.
const STAND_STILL: Duration = Duration::from_millis(1);

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

/// Whether a jail of ours is there: one that the journal knows and that is ours. The name alone says nothing, since anybody who may make
/// cgroups may give it to one.
pub(super) fn is_jail(task: &Task<'_>, path: &str) -> bool {
    home_of_jail(task, path).is_some()
}

/// The cgroup that whoever stands in this jail of ours came from; the path itself where it is no jail.
pub(super) fn home<'a>(task: &Task<'_>, path: &'a str) -> Cow<'a, str> {
    home_of_jail(task, path).map_or(Cow::Borrowed(path), Cow::Owned)
}

fn home_of_jail(task: &Task<'_>, path: &str) -> Option<String> {
    if !has_name_of_jail(path) {
        return None;
    }
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
        if at.is_empty() || at == "/" {
            return Ok("/");
        }
        match task.scene.cgroups.cgroup(at) {
            Ok(cgroup) if is_ours(&cgroup) => return Ok(at),
            Ok(_) => {}
            Err(error) => return Err(error),
        }
        at = at.rsplit_once('/').map_or("/", |(above, _)| above);
    }
}

fn is_ours(jail: &Cgroup) -> bool {
    jail.owner().is_ok_and(|owner| owner == rustix::process::geteuid().as_raw())
}

fn has_name_of_jail(path: &str) -> bool {
    let tag = path.rsplit('/').next().and_then(|name| name.strip_prefix(PREFIX));
    tag.is_some_and(|tag| tag.len() == 16 && tag.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// The cgroup around a path that is known to be a jail's; the path itself where it has not the name of one.
fn outside(path: &str) -> &str {
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

/// Makes the jail at `path`, moves `root` and its descendants in and waits until they stand still. `Ok` says whether they do, and
/// which of the descendants were left out because they are protected.
pub(super) fn imprison(task: &Task<'_>, root: &Held, path: &str) -> Result<(Frozen, Spared), NoJail> {
    let parent = outside(path);
    let home = task.scene.cgroups.cgroup(parent).map_err(|error| cgroup::failure("open", parent, &error))?;
    let kind = home.kind().map_err(|error| cgroup::failure("read the type of", parent, &error))?;
    if kind != "domain" {
        return Err(NoJail::Impossible(io::Error::other(format!("cgroup {parent} is a {kind} cgroup"))));
    }
    task.step("jail");
    let (jail, made) = home.make_child(&jail_name_of(path)).map_err(sort(path))?;
    if !is_ours(&jail) {
        return Err(NoJail::Impossible(io::Error::other(format!("somebody else has made cgroup {path}"))));
    }
    let mut spared = Spared::default();
    let gathered = jail
        .set_freeze_wish(Frozen::Yes)
        .map_err(sort(path))
        .and_then(|()| {
            task.step("move");
            jail.take(root.pid()).map_err(sort(path))
        })
        .and_then(|_| gather(task, root, &jail, made, &mut spared));
    if let Err(failure) = gathered {
        // all or nothing: whoever was moved goes back
        resume(task)?;
        let _freed = free(task, path, &known_members(task), Force::Yes)?;
        return Err(failure);
    }
    if task.in_force.get().is_some() {
        return Ok((Frozen::Yes, spared));
    }
    let frozen = await_frozen(task, &jail, FREEZE_LIMIT)?;
    Ok((frozen, spared))
}

/// Waits until everyone in the jail stands still, and notes when.
fn await_frozen(task: &Task<'_>, jail: &Cgroup, limit: Duration) -> Result<Frozen, ActionFailure> {
    let frozen = jail
        .await_event("frozen 1", limit)
        .map_err(|error| cgroup::failure("await the freeze of", &jail.path, &error))?;
    if !frozen {
        return Ok(Frozen::No);
    }
    task.in_force.set(Some(Instant::now()));
    Ok(Frozen::Yes)
}

/// Moves every member back to where it came from and removes the jail. Returns how many lived, or what drifted.
pub(super) fn free(
    task: &Task<'_>,
    path: &str,
    members: &[MovedProcess],
    force: Force,
) -> Result<Result<usize, String>, ActionFailure> {
    let cgroups = &task.scene.cgroups;
    let parent = outside(path);
    let of_the_root = members.first().map_or(parent, |root| root.from.as_str());
    let jail = match cgroups.cgroup(path) {
        Ok(jail) => jail,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Ok(0)),
        Err(error) => return Err(cgroup::failure("open", path, &error)),
    };
    let origins: HashMap<u32, &MovedProcess> =
        members.iter().map(|member| (member.process.pid.0, member)).collect();
    let mut homes: HashMap<String, Cgroup> = HashMap::new();
    let mut freed = HashSet::new();
    let begun = Instant::now();
    loop {
        if begun.elapsed() > EMPTY_LIMIT {
            let stuck = io::Error::other("it does not become empty");
            return Err(ActionFailure::io("empty", format!("cgroup {path}"), &stuck));
        }
        let inside = jail.members().map_err(|error| cgroup::failure("list the members of", path, &error))?;
        if inside.is_empty() {
            break;
        }
        let mut moves = Vec::new();
        for pid in inside {
            let Some(home) = home_of(pid, &origins, of_the_root)? else { continue };
            if !homes.contains_key(&home) {
                match open_home(task, &home, force)? {
                    Some(cgroup) => homes.insert(home.clone(), cgroup),
                    None => {
                        return Ok(Err(format!(
                            "pid {pid} came from cgroup {home}, which does not exist any more"
                        )));
                    }
                };
            }
            moves.push((pid, home));
        }
        if moves.is_empty() {
            // only the dying are left: their leaving is an event
            if !jail
                .await_event("populated 0", FREEZE_LIMIT)
                .map_err(|error| cgroup::failure("empty", path, &error))?
            {
                let stuck = io::Error::other("its members neither end nor can be moved");
                return Err(ActionFailure::io("empty", format!("cgroup {path}"), &stuck));
            }
        }
        for (pid, home) in moves {
            let Some(cgroup) = homes.get(&home) else { continue };
            task.step("move back");
            if cgroup.take(pid).map_err(|error| cgroup::failure("move a process back to", &home, &error))? {
                freed.insert(pid);
            }
        }
    }
    drop(jail);
    task.step("remove jail");
    let home = cgroups.cgroup(parent).map_err(|error| cgroup::failure("open", parent, &error))?;
    home.remove_child(&jail_name_of(path)).map_err(|error| cgroup::failure("remove", path, &error))?;
    Ok(Ok(freed.len()))
}

/// Sets free what a crash left held still in the middle of gathering.
pub(super) fn resume(task: &Task<'_>) -> Result<(), ActionFailure> {
    let paused = task.scene.journal().slot(task.id).map(|slot| slot.paused.clone()).unwrap_or_default();
    if paused.is_empty() {
        return Ok(());
    }
    for path in &paused {
        match task.scene.cgroups.cgroup(path).and_then(|cgroup| cgroup.set_freeze_wish(Frozen::No)) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
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

/// The rounds: children of members, and whoever the process tree names, are moved in until there is nobody left outside.
fn gather(
    task: &Task<'_>,
    root: &Held,
    jail: &Cgroup,
    made: Made,
    spared: &mut Spared,
) -> Result<(), NoJail> {
    // Most are alone. Then the containment is complete when the root stands still, and its children are listed exactly from then on.
    if made == Made::Now && await_frozen(task, jail, STAND_STILL)? == Frozen::Yes && is_alone(task, root)? {
        return Ok(());
    }
    task.in_force.set(None);
    let first = outside_members(task, root.key, jail, spared)?;
    if first.is_empty() {
        return Ok(());
    }
    let _one_at_a_time = task.scene.foreign.lock();
    let begun = Instant::now();
    let mut paused = Vec::new();
    let mut round = first;
    let mut seen = 0_usize;
    let result = loop {
        seen += round.len();
        if seen > MAX_MEMBERS {
            break Err(NoJail::Failed(ActionFailure::Unsupported {
                operation: format!("freezing the subtree of {}", process::name(root.key)),
                because: format!("it has more than {MAX_MEMBERS} processes: freeze its cgroup"),
            }));
        }
        if let Err(failure) = take_round(task, jail, &round, &mut paused, spared) {
            break Err(failure);
        }
        if begun.elapsed() > PAUSE_LIMIT && !paused.is_empty() {
            tracing::warn!("gathering a process tree takes long: its cgroup runs on meanwhile");
            resume(task)?;
            paused.clear();
        }
        match outside_members(task, root.key, jail, spared) {
            Ok(next) if next.is_empty() => break Ok(()),
            Ok(next) => round = next,
            Err(failure) => break Err(failure.into()),
        }
    };
    resume(task)?;
    result
}

/// Moves these in: each is checked, their cgroups are held still, then they are recorded and moved.
fn take_round(
    task: &Task<'_>,
    jail: &Cgroup,
    round: &[Held],
    paused: &mut Vec<String>,
    spared: &mut Spared,
) -> Result<(), NoJail> {
    let cgroups = &task.scene.cgroups;
    let mut members = Vec::with_capacity(round.len());
    let mut taken = Vec::with_capacity(round.len());
    let mut hold = paused.clone();
    for held in round {
        let from = cgroups
            .path_of(held.pid())
            .map_err(|error| ActionFailure::io("find the cgroup of", process::name(held.key), &error))?;
        // one born in the jail in this moment
        let Some(from) = from.filter(|from| *from != jail.path) else { continue };
        if let Some(because) = task.scene.protected.process_reason(held, &from)? {
            spared.add(held.key, because);
            continue;
        }
        if !hold.contains(&from) && task.scene.protected.may_pause(&from) && !is_jail(task, &from) {
            hold.push(from.clone());
        }
        members.push(MovedProcess { process: held.key, from });
        taken.push(held);
    }
    if taken.is_empty() {
        return Ok(());
    }
    pause(task, &hold, paused)?;
    task.note(Line::Moved { id: task.id.clone(), members })?;
    for held in taken {
        task.step("move child");
        if !held.has_ended() {
            jail.take(held.pid()).map_err(sort(&jail.path))?;
        }
    }
    Ok(())
}

fn pause(task: &Task<'_>, hold: &[String], paused: &mut Vec<String>) -> Result<(), NoJail> {
    let mut fresh = Vec::new();
    for path in hold.iter().filter(|path| !paused.contains(path)) {
        let Ok(cgroup) = task.scene.cgroups.cgroup(path) else { continue };
        // one that somebody froze before us stands still already, and must stay so afterwards
        if cgroup.freeze_wish().is_ok_and(|wish| wish == Frozen::No) {
            fresh.push(cgroup);
        }
    }
    if fresh.is_empty() {
        return Ok(());
    }
    paused.extend(fresh.iter().map(|cgroup| cgroup.path.clone()));
    task.note(Line::Paused { id: task.id.clone(), cgroups: paused.clone() })?;
    for cgroup in fresh {
        task.step("pause");
        cgroup
            .set_freeze_wish(Frozen::Yes)
            .map_err(|error| cgroup::failure("hold still", &cgroup.path, &error))?;
        // one in uninterruptible sleep cannot fork either: no need to insist
        let _still = cgroup
            .await_event("frozen 1", Duration::from_millis(20))
            .map_err(|error| cgroup::failure("hold still", &cgroup.path, &error))?;
    }
    Ok(())
}

/// Whether the root, the only one ever moved into a new jail, has nobody that it could have left outside: no child at all, and none
/// whose parent has ended. Its threads may be on their way to a stop still: what they fork from now on is born in the jail.
fn is_alone(task: &Task<'_>, root: &Held) -> Result<bool, ActionFailure> {
    if freeze::known_stopped(task).iter().any(|one| one.process.pid != root.key.pid)
        || task.scene.lineage.as_ref().is_some_and(|lineage| !lineage.descendants(root.key).is_empty())
    {
        return Ok(false);
    }
    process::children(root.pid())
        .map(|children| children.is_empty())
        .map_err(|error| ActionFailure::io("list the children of", process::name(root.key), &error))
}

/// Descendants that are not in the jail yet.
fn outside_members(
    task: &Task<'_>,
    root: ProcessKey,
    jail: &Cgroup,
    spared: &Spared,
) -> Result<Vec<Held>, ActionFailure> {
    let inside: HashSet<u32> = jail
        .members()
        .map_err(|error| cgroup::failure("list the members of", &jail.path, &error))?
        .into_iter()
        .collect();
    let mut found: HashMap<u32, Held> = HashMap::new();
    for member in &inside {
        let children = process::children(*member)
            .map_err(|error| ActionFailure::io("list the children of", format!("pid {member}"), &error))?;
        for pid in children.into_iter().filter(|pid| !inside.contains(pid)) {
            let held = Held::open_pid(pid)
                .map_err(|error| ActionFailure::io("hold", format!("pid {pid}"), &error))?;
            // the pid may have been reused since the listing: its parent tells
            found.extend(held.filter(|held| held.stat.parent == *member).map(|held| (pid, held)));
        }
    }
    // Who was stopped as a descendant is one, though its parent may have been killed since.
    for one in freeze::known_stopped(task) {
        let pid = one.process.pid.0;
        if !inside.contains(&pid) && !found.contains_key(&pid) {
            found.extend(Held::open(one.process).ok().map(|held| (pid, held)));
        }
    }
    if let Some(lineage) = &task.scene.lineage {
        for key in lineage.descendants(root) {
            if !inside.contains(&key.pid.0) && !found.contains_key(&key.pid.0) {
                found.extend(Held::open(key).ok().map(|held| (key.pid.0, held)));
            }
        }
    }
    without(spared, found.into_values())
}

/// All but the spared and what is below them.
pub(super) fn without(
    spared: &Spared,
    found: impl IntoIterator<Item = Held>,
) -> Result<Vec<Held>, ActionFailure> {
    let mut left = Vec::new();
    for held in found {
        let covered = spared.covers(&held);
        if !covered
            .map_err(|error| ActionFailure::io("find the parents of", process::name(held.key), &error))?
        {
            left.push(held);
        }
    }
    Ok(left)
}

/// Where a process in the jail belongs; `None` when it has ended. One born inside belongs where its nearest known ancestor does.
fn home_of(
    pid: u32,
    origins: &HashMap<u32, &MovedProcess>,
    of_the_root: &str,
) -> Result<Option<String>, ActionFailure> {
    let held =
        Held::open_pid(pid).map_err(|error| ActionFailure::io("hold", format!("pid {pid}"), &error))?;
    let Some(held) = held else { return Ok(None) };
    let (mut at, mut stat) = (pid, held.stat);
    for _ in 0..64 {
        if let Some(member) = origins.get(&at).filter(|member| stat.started(member.process)) {
            return Ok(Some(member.from.clone()));
        }
        at = stat.parent;
        let above =
            process::stat(at).map_err(|error| ActionFailure::io("look at", format!("pid {at}"), &error))?;
        match above {
            Some(above) => stat = above,
            None => break,
        }
    }
    Ok(Some(of_the_root.to_owned()))
}

fn open_home(task: &Task<'_>, path: &str, force: Force) -> Result<Option<Cgroup>, ActionFailure> {
    let mut at = path;
    loop {
        match task.scene.cgroups.cgroup(at) {
            Ok(cgroup) => return Ok(Some(cgroup)),
            Err(error) if error.kind() == io::ErrorKind::NotFound && force == Force::No => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound && at != "/" => {
                at = at.rsplit_once('/').map_or("/", |(above, _)| if above.is_empty() { "/" } else { above });
            }
            Err(error) => return Err(cgroup::failure("open", at, &error)),
        }
    }
}

fn jail_name_of(path: &str) -> String {
    path.rsplit('/').next().unwrap_or(path).to_owned()
}

/// Tells "not possible here" from other failures of making or filling a jail.
fn sort(path: &str) -> impl Fn(io::Error) -> NoJail {
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
