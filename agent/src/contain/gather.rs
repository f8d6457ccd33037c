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
    halt, homes,
    jail::{self, NoJail},
    journal::Line,
    process::{self, AT_ONCE, Held},
    scene::Task,
    spared::Spared,
};

/// How long other processes of the cgroup may be held still while a tree is gathered.
const PAUSE_LIMIT: Duration = Duration::from_millis(500);
/// How long the root of a tree is awaited before its descendants are looked for: those run on until they are found.
const STAND_STILL: Duration = Duration::from_millis(1);

/// Moves the descendants of the root, which is in the jail, in until there is nobody left outside. Jails are changed by nobody else
/// meanwhile.
pub(super) fn gather(
    task: &Task<'_>,
    root: &Held,
    jail: &Cgroup,
    made: Made,
    spared: &mut Spared,
) -> Result<(), NoJail> {
    // Most are alone. Then the containment is complete when the root stands still, and its children are listed exactly from then on.
    if made == Made::Now
        && jail::await_frozen(task, jail, STAND_STILL)? == Frozen::Yes
        && is_alone(task, root)?
    {
        return Ok(());
    }
    task.in_force.set(None);
    let first = outside_members(task, root.key, jail, spared)?;
    if first.is_empty() {
        return Ok(());
    }
    let begun = Instant::now();
    let mut paused = Vec::new();
    let mut domains = HashSet::from([jail::outside(&jail.path).to_owned()]);
    let mut round = first;
    let result = loop {
        // Beyond the bound, as a fork bomb would have it, who is known is held: letting all go on would be no answer to it.
        let room = task.scene.max_tree.saturating_sub(jail::known_members(task).len().saturating_sub(1));
        let partial = round.len() > room;
        round.truncate(room);
        let taken = round
            .chunks(AT_ONCE)
            .try_for_each(|some| take_some(task, jail, some, &mut paused, &mut domains, spared));
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
        match outside_members(task, root.key, jail, spared) {
            Ok(next) if next.is_empty() => break Ok(()),
            Ok(next) => round = next,
            Err(failure) => break Err(failure.into()),
        }
    };
    jail::resume(task)?;
    result
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
    paused: &mut Vec<String>,
    domains: &mut HashSet<String>,
    spared: &mut Spared,
) -> Result<(), NoJail> {
    let cgroups = &task.scene.cgroups;
    let mut members = Vec::with_capacity(some.len());
    let mut taken = Vec::with_capacity(some.len());
    let mut hold = paused.clone();
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
            jail::may_leave(task, &from)?;
            domains.insert(from.clone());
        }
        if at == from && !hold.contains(&at) && task.scene.protected.may_pause(&at, task.word) {
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
        jail::admit(task, jail, &held)?;
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
        // one in uninterruptible sleep cannot fork either: no need to insist
        let held = cgroup
            .set_freeze_wish(Frozen::Yes)
            .and_then(|()| cgroup.await_event("frozen 1", Duration::from_millis(20)));
        match held {
            Ok(_) => {}
            // Whoever was in it has ended. Did that fail the freeze, a tree that makes and removes cgroups could not be frozen.
            Err(error) if cgroup::was_removed(&error) => {}
            Err(error) => return Err(cgroup::failure("hold still", &cgroup.path, &error).into()),
        }
    }
    Ok(())
}

/// Whether the root, the only one ever moved into a new jail, has nobody that it could have left outside: no child at all, and none
/// whose parent has ended. Its threads may be on their way to a stop still: what they fork from now on is born in the jail.
fn is_alone(task: &Task<'_>, root: &Held) -> Result<bool, ActionFailure> {
    if halt::known_stopped(task).iter().any(|one| one.process.pid != root.key.pid)
        || task.scene.lineage.as_ref().is_some_and(|lineage| !lineage.descendants(root.key).is_empty())
    {
        return Ok(false);
    }
    process::children(root.pid())
        .map(|children| children.is_empty())
        .map_err(|error| ActionFailure::io("list the children of", process::name(root.key), &error))
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

/// Descendants that are not in the jail yet, without the spared and what is below them.
fn outside_members(
    task: &Task<'_>,
    root: ProcessKey,
    jail: &Cgroup,
    spared: &Spared,
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
    for key in stopped.chain(lineage) {
        let pid = key.pid.0;
        if !inside.contains(&pid)
            && !found.contains_key(&pid)
            && let Some(held) = Held::open_if_there(key)?
            && !spared.covers(&held)?
        {
            found.insert(pid, key);
        }
    }
    Ok(found.into_values().collect())
}
