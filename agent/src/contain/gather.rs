//! A tree is gathered in a jail: children of members, and whoever the process tree names, are moved in until there is nobody left outside.
//!
//! Nobody is held longer than it takes to look at or to move a few at once: a tree may be larger than the number of descriptors that
//! the agent may have open.

use std::{
    collections::{HashMap, HashSet},
    io,
    time::{Duration, Instant},
};

use model::{ActionFailure, Frozen, MovedProcess, ProcessKey};

use super::{
    cgroup::{self, Cgroup, Made},
    halt,
    homes::{self, is_same},
    jail::{self, NoJail},
    journal::{Line, Paused},
    process::{self, AT_ONCE, Held},
    scene::Task,
    spared::Spared,
};

/// How long other processes of the cgroup may be held still while a tree is gathered.
const PAUSE_LIMIT: Duration = Duration::from_millis(500);
/// So many times the bound of a tree are remembered as members, most of whom have ended.
const MAX_REMEMBERED: usize = 4;
/// How long the root of a tree is awaited before its descendants are looked for: those run on until they are found.
const STAND_STILL: Duration = Duration::from_millis(1);

/// Moves the descendants of the root, which is in the jail or has ended, in until there is nobody left outside but those that cannot be moved,
/// who are listed in `left`. Jails are changed by nobody else meanwhile.
pub(super) fn gather(
    task: &Task<'_>,
    root: ProcessKey,
    jail: &Cgroup,
    made: Made,
    spared: &mut Spared,
    left: &mut Vec<ProcessKey>,
) -> Result<(), ActionFailure> {
    // Most are alone. Then the containment is complete when the root stands still, and its children are listed exactly from then on.
    if made == Made::Now
        && jail::await_frozen(task, jail, STAND_STILL)? == Frozen::Yes
        && is_alone(task, root)?
    {
        return Ok(());
    }
    task.in_force.set(None);
    let first = outside_members(task, root, jail, spared, left)?;
    if first.is_empty() {
        return Ok(());
    }
    let begun = Instant::now();
    let mut paused = Vec::new();
    // of a new jail its place was looked at
    let known = (made == Made::Now).then(|| jail::outside(&jail.path).to_owned());
    let mut domains: HashSet<String> = known.into_iter().collect();
    let mut round = first;
    let result = loop {
        // Beyond the bound, as a fork bomb would have it, who is known is held: letting all go on would be no answer to it.
        let known: Vec<_> = jail::known_members(task).iter().map(|one| one.process).collect();
        let room = match room(task, &known, round.len()) {
            Ok(room) => room,
            Err(failure) => break Err(failure),
        };
        let partial = round.len() > room;
        round.truncate(room);
        let taken = round
            .chunks(AT_ONCE)
            .try_for_each(|some| take_some(task, jail, some, &mut paused, &mut domains, spared, left));
        if let Err(failure) = taken {
            break Err(failure);
        }
        if partial {
            spared.is_partial(beyond(task));
            break Ok(());
        }
        if begun.elapsed() > PAUSE_LIMIT && !paused.is_empty() {
            tracing::warn!("gathering a process tree takes long: its cgroup runs on meanwhile");
            jail::resume(task)?;
            paused.clear();
        }
        match outside_members(task, root, jail, spared, left) {
            Ok(next) if next.is_empty() => break Ok(()),
            Ok(next) => round = next,
            Err(failure) => break Err(failure),
        }
    };
    jail::resume(task)?;
    result
}

/// How many may be taken in beside those that are known, where `wanted` would be. Who has ended leaves room for another; but one freeze is not to
/// remember more and more of the dead, so that of those, too, there is a bound.
pub(super) fn room(task: &Task<'_>, known: &[ProcessKey], wanted: usize) -> Result<usize, ActionFailure> {
    let most = task.scene.max_tree + 1;
    let without_looking = most.saturating_sub(known.len());
    if without_looking >= wanted {
        return Ok(without_looking);
    }
    let mut alive = 0;
    for key in known {
        alive += usize::from(Held::open_if_there(*key)?.is_some());
    }
    let to_remember = most.saturating_mul(MAX_REMEMBERED).saturating_sub(known.len());
    Ok(most.saturating_sub(alive).min(to_remember))
}

/// What is said of a tree that one freeze cannot hold.
pub(super) fn beyond(task: &Task<'_>) -> String {
    format!(
        "it has more than {} processes, of which the others run on: freeze its cgroup",
        task.scene.max_tree
    )
}

/// Moves these in: each is checked, their cgroups are held still, then they are recorded and moved.
fn take_some(
    task: &Task<'_>,
    jail: &Cgroup,
    some: &[ProcessKey],
    paused: &mut Vec<Paused>,
    domains: &mut HashSet<String>,
    spared: &mut Spared,
    left: &mut Vec<ProcessKey>,
) -> Result<(), ActionFailure> {
    let cgroups = &task.scene.cgroups;
    let mut members = Vec::with_capacity(some.len());
    let mut taken = Vec::with_capacity(some.len());
    let mut hold: Vec<String> = Vec::new();
    for key in some {
        let Some(held) = Held::open_if_there(*key)? else { continue };
        let at = cgroups
            .path_of(held.pid())
            .map_err(|error| ActionFailure::io("find the cgroup of", process::name(held.key), &error))?;
        // one born in the jail in this moment
        let Some(at) = at.filter(|at| *at != jail.path) else { continue };
        // in another freeze's jail it is not at home
        let from = homes::true_home(task, held.pid(), held.stat, at.clone())?;
        if let Some(because) = task.process_reason(&held, &from)? {
            spared.add(held.key, because);
            continue;
        }
        if !domains.contains(&from) {
            match jail::may_leave(task, &from) {
                Ok(()) => domains.insert(from.clone()),
                Err(NoJail::Impossible(error)) => {
                    leave(held.key, &error, left);
                    continue;
                }
                Err(NoJail::Failed(failure)) => return Err(failure),
            };
        }
        if at == from
            && !hold.contains(&at)
            && paused.iter().all(|one| one.path != at)
            && task.scene.protected.may_pause(&at, task.word)
        {
            hold.push(at);
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
        match jail::admit(task, jail, &held) {
            Ok(_) => {}
            Err(NoJail::Impossible(error)) => leave(held.key, &error, left),
            Err(NoJail::Failed(failure)) => return Err(failure),
        }
    }
    Ok(())
}

fn leave(key: ProcessKey, error: &io::Error, left: &mut Vec<ProcessKey>) {
    tracing::warn!(process = %process::name(key), %error, "it cannot be moved into the jail");
    left.push(key);
}

fn pause(task: &Task<'_>, hold: &[String], paused: &mut Vec<Paused>) -> Result<(), ActionFailure> {
    let mut fresh = Vec::new();
    for path in hold.iter().filter(|path| paused.iter().all(|known| known.path != **path)) {
        let Ok(cgroup) = task.scene.cgroups.cgroup(path) else { continue };
        // one that somebody froze before us stands still already, and must stay so afterwards
        if cgroup.freeze_wish().is_ok_and(|wish| wish == Frozen::No) {
            fresh.push(cgroup);
        }
    }
    if fresh.is_empty() {
        return Ok(());
    }
    for cgroup in &fresh {
        let id = cgroup.id().map_err(|error| cgroup::failure("identify", &cgroup.path, &error))?;
        paused.push(Paused { path: cgroup.path.clone(), id: Some(id) });
    }
    task.note(Line::Paused { id: task.id.clone(), cgroups: paused.clone() })?;
    for cgroup in fresh {
        task.step("pause");
        // one in uninterruptible sleep cannot fork either: no need to insist
        let held = cgroup
            .set_freeze_wish(Frozen::Yes)
            .and_then(|()| cgroup.await_event("frozen 1", Duration::from_millis(20)));
        match held {
            Ok(_) => {}
            // Whoever was in it has ended. Did that fail the freeze, a tree that makes and removes cgroups could not be frozen.
            Err(error) if cgroup::was_removed(&error) => {}
            Err(error) => return Err(cgroup::failure("hold still", &cgroup.path, &error)),
        }
    }
    Ok(())
}

/// Whether the root, the only one ever moved into a new jail, has nobody that it could have left outside: no child at all, and none
/// whose parent has ended. Its threads may be on their way to a stop still: what they fork from now on is born in the jail.
fn is_alone(task: &Task<'_>, root: ProcessKey) -> Result<bool, ActionFailure> {
    if jail::known_members(task).iter().any(|one| one.process.pid != root.pid)
        || halt::known_stopped(task).iter().any(|one| one.process.pid != root.pid)
        || task.scene.lineage.as_ref().is_some_and(|lineage| !lineage.descendants(root).is_empty())
    {
        return Ok(false);
    }
    process::children(root.pid.0)
        .map(|children| children.is_empty())
        .map_err(|error| ActionFailure::io("list the children of", process::name(root), &error))
}

/// Whether a process descends from the root, as the process tree knows or as /proc has it now.
pub(super) fn is_below(task: &Task<'_>, root: ProcessKey, held: &Held) -> Result<bool, ActionFailure> {
    if task.scene.lineage.as_ref().is_some_and(|lineage| lineage.descendants(root).contains(&held.key)) {
        return Ok(true);
    }
    let mut above = Spared::default();
    above.known(root);
    above.covers(held)
}

/// A descendant of the root that the process tree names and nobody holds: it was heard of after the freeze. Those that must not be held are
/// passed over in silence, since the freeze has named them.
pub(super) fn missed(
    task: &Task<'_>,
    root: ProcessKey,
    is_held: impl Fn(&Held, &str) -> io::Result<bool>,
) -> Result<Option<ProcessKey>, ActionFailure> {
    let Some(lineage) = &task.scene.lineage else { return Ok(None) };
    let mut spared = Spared::default();
    let mut missed = Vec::new();
    for key in lineage.descendants(root) {
        let Some(held) = Held::open_if_there(key)? else { continue };
        let failed = |error| ActionFailure::io("look at", process::name(key), &error);
        let Some(at) = task.scene.cgroups.path_of(held.pid()).map_err(failed)? else { continue };
        if is_held(&held, &at).map_err(failed)? {
            continue;
        }
        let home = homes::true_home(task, held.pid(), held.stat, at)?;
        match task.process_reason(&held, &home)? {
            Some(_) => spared.known(key),
            None => missed.push(key),
        }
    }
    for key in missed {
        if let Some(held) = Held::open_if_there(key)?
            && !spared.covers(&held)?
        {
            return Ok(Some(key));
        }
    }
    Ok(None)
}

/// Descendants that are not in the jail yet, without the spared and what is below them, and without those that cannot be moved.
fn outside_members(
    task: &Task<'_>,
    root: ProcessKey,
    jail: &Cgroup,
    spared: &Spared,
    left: &[ProcessKey],
) -> Result<Vec<ProcessKey>, ActionFailure> {
    let inside: HashSet<u32> = jail
        .members()
        .map_err(|error| cgroup::failure("list the members of", &jail.path, &error))?
        .into_iter()
        .collect();
    let mut found: HashMap<u32, ProcessKey> = HashMap::new();
    for member in &inside {
        let children = process::children(*member)
            .map_err(|error| ActionFailure::io("list the children of", format!("pid {member}"), &error))?;
        for pid in children.into_iter().filter(|pid| !inside.contains(pid)) {
            let held = Held::open_pid(pid)
                .map_err(|error| ActionFailure::io("hold", format!("pid {pid}"), &error))?;
            // the pid may have been reused since the listing: its parent tells
            if let Some(held) = held.filter(|held| held.stat.parent == *member)
                && !spared.covers(&held)?
            {
                found.insert(pid, held.key);
            }
        }
    }
    // Who was stopped as a descendant is one, though its parent may have been killed since; and so is whom the process tree names.
    let stopped = halt::known_stopped(task).into_iter().map(|one| one.process);
    let lineage = task.scene.lineage.iter().flat_map(|lineage| lineage.descendants(root));
    // and so is whoever was in the jail before, wherever somebody has moved him
    let members = jail::known_members(task).into_iter().map(|one| one.process);
    for key in stopped.chain(lineage).chain(members) {
        let pid = key.pid.0;
        if !inside.contains(&pid)
            && !found.contains_key(&pid)
            && let Some(held) = Held::open_if_there(key)?
            && !spared.covers(&held)?
        {
            found.insert(pid, key);
        }
    }
    found.retain(|_, key| !left.iter().any(|one| is_same(*one, *key)));
    Ok(found.into_values().collect())
}
