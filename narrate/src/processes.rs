//! The processes of all findings as one forest.

use std::collections::BTreeMap;

use model::{
    ActionRecord, ActionState, Backing, FdKind, Incident, NodeId, Process, ProcessKey, Target, Truncated,
    Workload,
};

use crate::{
    document::ProcessNode,
    text::{LONGEST, shown},
};

/// Processes in one document (I11).
const MOST: usize = 48;

type Key = (NodeId, ProcessKey);

struct Known<'a> {
    process: &'a Process,
    found_by: Vec<String>,
}

/// Parents before their children; how many were left out.
pub(crate) fn forest(incident: &Incident) -> (Vec<ProcessNode>, u64) {
    let mut known: BTreeMap<Key, Known<'_>> = BTreeMap::new();
    let mut order: Vec<Key> = Vec::new();
    let mut all = 0_u64;
    for finding in incident.findings.iter().filter(|finding| finding.event.record().is_none()) {
        let node = &finding.event.id.node;
        let line =
            finding.ancestors.iter().rev().map(|ancestor| &**ancestor).chain([&*finding.event.process]);
        let mut fresh: Vec<&Process> =
            line.filter(|process| !known.contains_key(&(node.clone(), process.key))).collect();
        all += fresh.len() as u64;
        if order.len() + fresh.len() > MOST {
            // The process of the finding itself before its ancestors.
            let room = MOST.saturating_sub(order.len());
            fresh = fresh.split_off(fresh.len() - room.min(fresh.len()));
        }
        for process in fresh {
            let key = (node.clone(), process.key);
            order.push(key.clone());
            known.insert(key, Known { process, found_by: Vec::new() });
        }
        if let Some(found) = known.get_mut(&(node.clone(), finding.event.process.key)) {
            let title = shown(&finding.rule.title, 120);
            if !found.found_by.contains(&title) && found.found_by.len() < 4 {
                found.found_by.push(title);
            }
        }
    }
    let mut children: BTreeMap<Option<&Key>, Vec<&Key>> = BTreeMap::new();
    let keys: BTreeMap<&Key, &Key> = order.iter().map(|key| (key, key)).collect();
    for key in &order {
        let parent = known[key].process.parent.map(|parent| (key.0.clone(), parent));
        // What claims to be its own parent has none.
        let parent = parent.filter(|parent| parent != key).and_then(|parent| keys.get(&parent).copied());
        children.entry(parent).or_default().push(key);
    }
    let mut out: Vec<ProcessNode> = Vec::new();
    let mut open: Vec<(&Key, u32, Option<u32>)> =
        children.get(&None).into_iter().flatten().rev().map(|key| (*key, 0, None)).collect();
    while let Some((key, depth, parent)) = open.pop() {
        let index = u32::try_from(out.len()).unwrap_or(u32::MAX);
        out.push(node(key, &known[key], (depth, parent), &incident.actions));
        let below = children.get(&Some(key)).into_iter().flatten().rev();
        open.extend(below.map(|child| (*child, depth + 1, Some(index))));
    }
    let left_out = all - out.len() as u64;
    (out, left_out)
}

fn node(
    key: &Key,
    known: &Known<'_>,
    (depth, parent): (u32, Option<u32>),
    actions: &[ActionRecord],
) -> ProcessNode {
    let process = known.process;
    let ids = process.credentials;
    let user = if ids.uid == ids.euid {
        format!("uid {}", ids.uid)
    } else {
        format!("uid {} as {}", ids.uid, ids.euid)
    };
    ProcessNode {
        node: shown(key.0.as_str(), 80),
        pid: key.1.pid.0,
        exe: shown(&process.exe, 200),
        command_line: shown(&process.command_line, LONGEST),
        user,
        depth,
        parent,
        marks: marks(process),
        found_by: known.found_by.clone(),
        held: actions
            .iter()
            .find(|action| holds(action, process))
            .map(|action| action.action.name().to_owned()),
    }
}

/// Whether an action has hold of a process by itself or by its cgroup.
pub(crate) fn holds(action: &ActionRecord, process: &Process) -> bool {
    let on_it = match &action.target {
        Target::Process { process: key } => *key == process.key,
        Target::Cgroup { id, .. } => *id == process.cgroup,
        _ => false,
    };
    on_it && action.action.undo().has_undo() && in_force(action)
        || on_it && matches!(action.action, model::NodeAction::Kill(_)) && in_force(action)
}

pub(crate) fn in_force(action: &ActionRecord) -> bool {
    matches!(
        action.state,
        ActionState::Applied | ActionState::Verified | ActionState::Unverified | ActionState::RevertBlocked
    )
}

/// What is strange about a process, in few words.
fn marks(process: &Process) -> Vec<String> {
    let mut marks = Vec::new();
    match process.exe_file.backing {
        Backing::File => {}
        Backing::Memfd => marks.push("runs from memory"),
        Backing::Deleted => marks.push("its file was deleted"),
    }
    if process.stdio.stdin == FdKind::Socket || process.stdio.stdout == FdKind::Socket {
        marks.push("stdio is a socket");
    }
    if process.credentials.euid == 0 && process.credentials.uid != 0 {
        marks.push("became root");
    }
    if process.args_truncated == Truncated::Yes {
        marks.push("arguments cut");
    }
    if process.exit.is_some() {
        marks.push("ended");
    }
    if matches!(&*process.workload, Workload::Unresolved { .. }) {
        marks.push("workload unresolved");
    }
    marks.into_iter().map(str::to_owned).collect()
}
