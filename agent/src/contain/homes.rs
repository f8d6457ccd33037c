//! Where processes belong while freezes overlap: several may hold one process, which can stand in one jail only.
//!
//! Each freeze remembers of every member where it truly came from, also when it finds it in another freeze's jail. Whoever is freed
//! goes into the jail of another freeze that still holds it, and home only with the last. So any order of freezes and undos
//! gives back what was (I5).

use std::{collections::HashMap, io};

use model::{ActionFailure, ActionState, Frozen, MovedProcess, ProcessKey, RollbackState};

use super::{
    cgroup,
    engine::is_held,
    jail,
    process::{self, Stat},
    scene::Task,
};

/// No real tree is deeper; a loop could only come from pids reused while reading.
const MAX_DEPTH: usize = 1024;

/// What the journal says of everybody's membership, as of one moment.
pub(super) struct Homes {
    holders: Vec<Holder>,
}

struct Holder {
    jail: String,
    whose: Whose,
    members: HashMap<u32, MovedProcess>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose {
    /// The action's that asks.
    Own,
    /// Of one that is in force.
    Other,
    /// Of one that is being undone, or that holds nobody for itself: it knows origins only.
    Past,
}

/// Where a process that leaves a jail is to go.
pub(super) struct Way {
    /// The jail of a freeze that still holds it.
    pub(super) jail: Option<String>,
    /// Where it came from.
    pub(super) home: String,
}

impl Homes {
    pub(super) fn read(task: &Task<'_>) -> Self {
        let journal = task.scene.journal();
        let own = journal.slot(task.id).into_iter();
        let others = journal.standing().filter(|slot| slot.record.id != *task.id);
        let holders = own
            .chain(others)
            .filter_map(|slot| {
                let state = slot.work.as_ref().or(slot.record.rollback.as_ref())?;
                let RollbackState::Freeze { jail: Some(jail), members, .. } = state else { return None };
                let whose = if slot.record.id == *task.id {
                    Whose::Own
                } else if matches!(slot.record.state, ActionState::Planned | ActionState::Prepared) {
                    return None;
                } else if is_held(slot) && slot.record.state != ActionState::Reverting {
                    Whose::Other
                } else {
                    Whose::Past
                };
                let members = members.iter().map(|member| (member.process.pid.0, member.clone())).collect();
                Some(Holder { jail: jail.clone(), whose, members })
            })
            .collect();
        Self { holders }
    }

    /// The cgroup that a process which stands in a jail of ours came from: its own or, if it was born there, its nearest known ancestor's.
    pub(super) fn home(&self, pid: u32, stat: Stat) -> Result<Option<String>, ActionFailure> {
        self.upwards(pid, stat, |pid, stat| self.origin(pid, stat).map(str::to_owned))
    }

    /// Where to let a process go that leaves its jail; `of_the_root` for one of whom nothing is known.
    pub(super) fn way(&self, pid: u32, stat: Stat, of_the_root: &str) -> Result<Way, ActionFailure> {
        let jail = self.upwards(pid, stat, |pid, stat| {
            let others = self.holders.iter().filter(|holder| holder.whose == Whose::Other);
            others
                .filter(|holder| holder.has(pid, stat).is_some())
                .map(|holder| holder.jail.clone())
                .next_back()
        })?;
        let home = self.home(pid, stat)?.unwrap_or_else(|| of_the_root.to_owned());
        Ok(Way { jail, home })
    }

    fn origin(&self, pid: u32, stat: Stat) -> Option<&str> {
        self.holders.iter().find_map(|holder| holder.has(pid, stat)).map(|member| member.from.as_str())
    }

    fn upwards<T>(
        &self,
        pid: u32,
        stat: Stat,
        mut find: impl FnMut(u32, Stat) -> Option<T>,
    ) -> Result<Option<T>, ActionFailure> {
        let (mut at, mut stat) = (pid, stat);
        for _ in 0..MAX_DEPTH {
            if let Some(found) = find(at, stat) {
                return Ok(Some(found));
            }
            at = stat.parent;
            let above = process::stat(at)
                .map_err(|error| ActionFailure::io("look at", format!("pid {at}"), &error))?;
            match above {
                Some(above) if at > 0 => stat = above,
                _ => break,
            }
        }
        Ok(None)
    }
}

impl Holder {
    fn has(&self, pid: u32, stat: Stat) -> Option<&MovedProcess> {
        self.members.get(&pid).filter(|member| stat.started(member.process))
    }
}

/// The cgroup that a process belongs to, which was found in `at`: that itself, unless it is a jail of ours.
pub(super) fn true_home(task: &Task<'_>, pid: u32, stat: Stat, at: String) -> Result<String, ActionFailure> {
    if !jail::is_jail(task, &at) {
        return Ok(at);
    }
    let known = Homes::read(task).home(pid, stat)?;
    Ok(known.unwrap_or_else(|| jail::home(task, &at).into_owned()))
}

/// Whether a member that is not in its own jail stands still in the jail of another freeze.
pub(super) fn held_by_another(task: &Task<'_>, at: &str) -> io::Result<bool> {
    let Some(jail) = jail::jail_around(task, at) else { return Ok(false) };
    match task.scene.cgroups.cgroup(jail).and_then(|jail| jail.freeze_wish()) {
        Ok(wish) => Ok(wish == Frozen::Yes),
        Err(error) if cgroup::was_removed(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

/// What was found of a process before any of our actions in force stopped it by signal; `None` when none did.
pub(super) fn was_stopped_before_us(task: &Task<'_>, process: ProcessKey) -> Option<Frozen> {
    let journal = task.scene.journal();
    let mut others = journal.standing().filter(|slot| slot.record.id != *task.id && is_held(slot));
    others.find_map(|slot| {
        let (RollbackState::Stop { processes: stopped } | RollbackState::Freeze { stopped, .. }) =
            slot.record.rollback.as_ref()?
        else {
            return None;
        };
        stopped.iter().find(|one| is_same(one.process, process)).map(|one| one.was_stopped)
    })
}

/// Whether another action in force wants a process to be stopped by signal.
pub(super) fn is_stopped_by_another(task: &Task<'_>, process: ProcessKey) -> bool {
    let journal = task.scene.journal();
    journal.standing().any(|slot| {
        let others =
            slot.record.id != *task.id && is_held(slot) && slot.record.state != ActionState::Reverting;
        others
            && match &slot.record.rollback {
                Some(RollbackState::Stop { processes: stopped } | RollbackState::Freeze { stopped, .. }) => {
                    stopped.iter().any(|one| is_same(one.process, process))
                }
                _ => false,
            }
    })
}

/// Keys of one process: with its exact start, or with that in ticks, as /proc has it.
pub(super) fn is_same(a: ProcessKey, b: ProcessKey) -> bool {
    a.pid == b.pid && process::ticks(a) == process::ticks(b)
}
