//! Everybody is let out of a jail, and it is removed.

use std::{
    collections::HashSet,
    io,
    time::{Duration, Instant},
};

use model::{ActionFailure, Frozen, MovedProcess};

use super::{
    cgroup::{self, Cgroup},
    homes::{Homes, Way},
    jail::{FREEZE_LIMIT, above, jail_name_of, move_to, outside},
    process::{self, Held},
    scene::Task,
};

/// In so many rounds everybody is out, unless somebody puts in others meanwhile. Who waits for a freeze waits for this, too.
const MAX_ROUNDS: usize = 64;
/// How long it may take to let everybody out.
const EMPTY_LIMIT: Duration = Duration::from_secs(20);

/// So many of those who are left in a jail are named.
const MAX_NAMED: usize = 8;

/// Whoever left a jail.
#[derive(Debug, Default)]
pub(super) struct Freed {
    /// How many are back where they came from, or as near as possible.
    pub(super) home: usize,
    /// How many another freeze holds still.
    pub(super) held_on: usize,
    /// Who is elsewhere than at home, and why.
    pub(super) elsewhere: Vec<String>,
}

/// Lets every member go to where it came from, or into the jail of another freeze that holds it, too, and removes the jail.
pub(super) fn free(task: &Task<'_>, path: &str, members: &[MovedProcess]) -> Result<Freed, ActionFailure> {
    let _one_at_a_time = task.scene.foreign.lock();
    empty(task, path, members)
}

/// The same for who changes jails already.
pub(super) fn empty(task: &Task<'_>, path: &str, members: &[MovedProcess]) -> Result<Freed, ActionFailure> {
    let cgroups = &task.scene.cgroups;
    let parent = outside(path);
    let of_the_root = members.first().map_or(parent, |root| root.from.as_str());
    let mut freed = Freed::default();
    let jail = match cgroups.cgroup(path) {
        Ok(jail) => jail,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return none_inside(task, path, members).map(|()| freed);
        }
        Err(error) => return Err(cgroup::failure("open", path, &error)),
    };
    let emptied = let_all_go(task, &jail, of_the_root, &mut freed);
    if let Err(failure) = emptied {
        // who cannot be let out of it shall run at least
        if let Err(error) = jail.set_freeze_wish(Frozen::No) {
            tracing::warn!(%error, jail = path, "it cannot be thawed");
        }
        return Err(failure);
    }
    drop(jail);
    task.step("remove jail");
    let home = cgroups.cgroup(parent).map_err(|error| cgroup::failure("open", parent, &error))?;
    home.remove_child(&jail_name_of(path)).map_err(|error| cgroup::failure("remove", path, &error))?;
    Ok(freed)
}

/// A jail that is not there holds nobody. One that the agent only does not see at its path does: its undo is still to come.
fn none_inside(task: &Task<'_>, path: &str, members: &[MovedProcess]) -> Result<(), ActionFailure> {
    let within = format!("{path}/");
    for member in members {
        let Some(held) = Held::open_if_there(member.process)? else { continue };
        let at = task.scene.cgroups.path_of(held.pid());
        let at =
            at.map_err(|error| ActionFailure::io("find the cgroup of", process::name(held.key), &error))?;
        if at.is_some_and(|at| at == path || at.starts_with(&within)) && !held.has_ended() {
            return Err(ActionFailure::Io {
                operation: "open".into(),
                object: format!("cgroup {path}"),
                because: format!("the node does not see it, and yet {} is in it", process::name(held.key)),
            });
        }
    }
    Ok(())
}

/// Lets everybody go from the jail: whoever is in a cgroup that somebody has made in it goes to where the tree's root goes.
fn let_all_go(
    task: &Task<'_>,
    jail: &Cgroup,
    of_the_root: &str,
    freed: &mut Freed,
) -> Result<(), ActionFailure> {
    let within = format!("{}/", jail.path);
    let of_the_root = if of_the_root.starts_with(&within) { outside(&jail.path) } else { of_the_root };
    let homes = Homes::read(task);
    let mut out = HashSet::new();
    drain(jail, |held| {
        let mut way = homes.way(held.pid(), held.stat, of_the_root)?;
        if way.home.starts_with(&within) {
            of_the_root.clone_into(&mut way.home);
        }
        let Some(went) = let_go(task, held, &way, of_the_root)? else { return Ok(()) };
        if out.insert(held.pid()) {
            match went {
                Went::Home => freed.home += 1,
                Went::ToAnotherJail => freed.held_on += 1,
                Went::Elsewhere(why) => {
                    freed.home += 1;
                    freed.elsewhere.push(why);
                }
            }
        }
        Ok(())
    })
}

/// Has `let_out` move everybody out of the jail and of whatever cgroups somebody has made in it, and removes those. Whoever is put in
/// meanwhile is moved out, too, as long as there is no end of it.
///
/// # Errors
/// Those of `let_out`; [`ActionFailure::Io`] with who is left.
pub(super) fn drain(
    jail: &Cgroup,
    mut let_out: impl FnMut(&Held) -> Result<(), ActionFailure>,
) -> Result<(), ActionFailure> {
    let path = jail.path.as_str();
    let failed = |operation: &'static str, error: io::Error| cgroup::failure(operation, path, &error);
    // whoever has raised this again can make some all the same, and is met below
    if let Err(error) = jail.close() {
        tracing::debug!(%error, jail = path, "cgroups may still be made in it");
    }
    let begun = Instant::now();
    for _ in 0..MAX_ROUNDS {
        if begun.elapsed() > EMPTY_LIMIT {
            break;
        }
        let inside = jail.members_below().map_err(|error| failed("list the members of", error))?;
        if inside.is_empty() && jail.remove_below().map_err(|error| failed("empty", error))? == 0 {
            return Ok(());
        }
        let mut all_are_dying = true;
        for pid in inside {
            let held = Held::open_pid(pid)
                .map_err(|error| ActionFailure::io("hold", format!("pid {pid}"), &error))?;
            let Some(held) = held else { continue };
            all_are_dying = false;
            let_out(&held)?;
        }
        // their leaving is an event
        if all_are_dying
            && !jail.await_event("populated 0", FREEZE_LIMIT).map_err(|error| failed("empty", error))?
        {
            return Err(failed("empty", io::Error::other("its members neither end nor can be moved")));
        }
    }
    let left = jail.members_below().unwrap_or_default();
    let names: Vec<String> = left.iter().take(MAX_NAMED).map(|pid| format!("pid {pid}")).collect();
    let stuck = match names.is_empty() {
        true => "cgroups are made in it again and again".to_owned(),
        false => format!("it does not become empty: {} of {} in it run", names.join(", "), left.len()),
    };
    Err(failed("empty", io::Error::other(stuck)))
}

enum Went {
    Home,
    ToAnotherJail,
    Elsewhere(String),
}

/// Lets one out; `None` when it has ended. Whose own cgroup is gone (a service manager removes a scope with its last process) or takes no
/// processes any more goes to that of the tree's root, or else to the nearest around its own that takes it: it must not stand for ever.
fn let_go(task: &Task<'_>, held: &Held, way: &Way, of_the_root: &str) -> Result<Option<Went>, ActionFailure> {
    use rustix::io::Errno;
    let cgroups = &task.scene.cgroups;
    let failed = |place: &str, error: io::Error| cgroup::failure("move a process back to", place, &error);
    let gone = cgroup::was_removed;
    task.step("move back");
    if let Some(jail) = &way.jail {
        match cgroups.cgroup(jail) {
            Ok(cgroup) => match move_to(task, &cgroup, held) {
                Ok(moved) => return Ok(moved.then_some(Went::ToAnotherJail)),
                Err(error) if gone(&error) => {}
                Err(error) => return Err(failed(jail, error)),
            },
            Err(error) if gone(&error) => {}
            Err(error) => return Err(failed(jail, error)),
        }
    }
    let own = way.home.as_str();
    let around = std::iter::successors(Some(own), |at| (*at != "/").then(|| above(at)));
    let mut why = "is gone";
    for place in [own, of_the_root].into_iter().chain(around.skip(1)) {
        let cgroup = match cgroups.cgroup(place) {
            Ok(cgroup) => cgroup,
            Err(error) if gone(&error) => continue,
            Err(error) => return Err(failed(place, error)),
        };
        match move_to(task, &cgroup, held) {
            Ok(false) => return Ok(None),
            Ok(true) if place == own => return Ok(Some(Went::Home)),
            Ok(true) => {
                let pid = held.pid();
                let said = format!("pid {pid} is in cgroup {place}, since its own, {own}, {why}");
                return Ok(Some(Went::Elsewhere(said)));
            }
            Err(error)
                if [Errno::BUSY, Errno::OPNOTSUPP]
                    .iter()
                    .any(|errno| error.raw_os_error() == Some(errno.raw_os_error())) =>
            {
                if place == own {
                    why = "takes no processes any more";
                }
            }
            Err(error) if gone(&error) => {}
            Err(error) => return Err(failed(place, error)),
        }
    }
    Err(failed(own, io::Error::other("neither it nor any cgroup around it takes the process")))
}
