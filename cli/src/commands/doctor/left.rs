//! What stands on this node, frozen or cut off: also when nobody is there any more who looks after it.

use std::{io, path::Path};

use agent::contain::{JournalError, Unknown, journals_in_use, list_strays, told_in_force};
use model::ActionRecord;

use super::{super::release::bpffs_at, Look, Verdict};
use crate::render::counted;

const WHAT: &str = "containments";
/// Actions that are named.
const NAMED: usize = 3;

/// As the node's own journal tells, which is only read.
pub(super) fn containments(state: &Path) -> Look {
    let folder = agent::contain_folder(&state.join("node"));
    let told = told_in_force(&folder);
    let owner = folder.canonicalize().ok().and_then(|folder| {
        journals_in_use(None).into_iter().find(|(_, journal)| *journal == folder).map(|(pid, _)| pid)
    });
    let is_none = told.as_ref().is_ok_and(Vec::is_empty);
    match is_none.then(|| of_others(&folder)).flatten() {
        Some(look) => look,
        None => of(&folder, told, owner),
    }
}

/// What stands here and is of another state folder, or of none. Nothing of that is said where it cannot be looked for.
fn of_others(folder: &Path) -> Option<Look> {
    let unknown = Unknown::without_journal(None, &bpffs_at()).ok()?;
    let strays = unknown.find().ok().filter(|strays| !strays.is_empty())?;
    let found = format!("none in force by {}, but here stands {}", folder.display(), list_strays(&strays));
    let others = journals_in_use(None);
    Some(match others.iter().find(|(_, journal)| journal != folder) {
        Some((pid, journal)) => {
            Look::new(WHAT, Verdict::Good, format!("{found}; process {pid} looks after {}", journal.display()))
        }
        None => Look::new(WHAT, Verdict::Lesser, found)
            .next("hemostat release --state FOLDER tells what a journal knows of it; hemostat release --all lifts what none does"),
    })
}

fn of(folder: &Path, told: Result<Vec<ActionRecord>, JournalError>, owner: Option<u32>) -> Look {
    let told = match told {
        Ok(told) => told,
        Err(JournalError::Io { source, .. }) if source.kind() == io::ErrorKind::PermissionDenied => {
            let found = format!("the journal in {} cannot be read without root", folder.display());
            return Look::new(WHAT, Verdict::Skipped, found).next("sudo hemostat doctor");
        }
        Err(error) => {
            return Look::new(WHAT, Verdict::Bad, error.to_string())
                .next("hemostat release also finds what no journal tells of");
        }
    };
    let count = counted(told.len(), "containment");
    match (told.as_slice(), owner) {
        ([], _) => Look::new(WHAT, Verdict::Good, format!("none in force by {}", folder.display())),
        (_, Some(pid)) => {
            Look::new(WHAT, Verdict::Good, format!("{count} in force; process {pid} looks after them"))
        }
        (told, None) => {
            let mut names: Vec<String> = told
                .iter()
                .take(NAMED)
                .map(|one| format!("{} on {} ({})", one.action.name(), one.target, one.id))
                .collect();
            if told.len() > NAMED {
                names.push(format!("and {} more", told.len() - NAMED));
            }
            let found = format!("{count} in force, and no agent looks after them: {}", names.join(", "));
            Look::new(WHAT, Verdict::Bad, found).next(
                "hemostat release --all lifts them (hemostat release lists them; --state names the folder); an agent that is started again takes them over",
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use model::{ActionId, ActionState, BootNs, FreezeScope, NodeAction, Pid, ProcessKey, Target, Timestamp};

    use super::*;

    fn frozen(n: u32) -> ActionRecord {
        ActionRecord {
            id: ActionId::new(format!("act-{n}")),
            incident: None,
            run: None,
            step: None,
            action: NodeAction::Freeze(FreezeScope::Subtree),
            target: Target::Process { process: ProcessKey { pid: Pid(n), start: BootNs(7) } },
            state: ActionState::Applied,
            rollback: None,
            planned: Timestamp(0),
            applied: None,
            detail: String::new(),
        }
    }

    #[test]
    fn what_a_crash_left_in_force_is_bad_and_said_with_what_lifts_it() {
        let folder = Path::new("/state/node/contain");
        let look = |count: u32, owner| of(folder, Ok((1..=count).map(frozen).collect()), owner);
        assert_eq!(look(0, None).verdict, Verdict::Good);
        let left = look(5, None);
        assert_eq!(left.verdict, Verdict::Bad);
        for part in ["5 containments", "no agent", "node.freeze", "act-1", "and 2 more"] {
            assert!(left.found.contains(part), "{part}: {}", left.found);
        }
        assert!(left.next.contains("hemostat release --all"), "{}", left.next);
        let kept = look(1, Some(77));
        assert!(kept.verdict == Verdict::Good && kept.found.contains("1 containment in force; process 77"));
        let closed = JournalError::Io {
            operation: "open",
            path: folder.into(),
            source: io::ErrorKind::PermissionDenied.into(),
        };
        assert_eq!(of(folder, Err(closed), None).verdict, Verdict::Skipped);
    }
}
