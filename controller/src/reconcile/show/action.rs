//! An action as the API server keeps it: what is done, what was captured, where it is in its life.

use crds::{
    ActionName, Condition, Holds, Memory, Network, Parameters, Scope, cut,
    response_action::{
        AccountTarget, ActionTarget, Capture, CgroupTarget, FileTarget, ObjectTarget, Plan, ProcessTarget,
        ResponseActionStatus, Summary, Undo, UndoClass as ShownUndo,
    },
};
use model::{
    ActionId, ActionRecord, ActionState, FreezeScope, KillScope, MemoryCapture, NodeAction, NodeId,
    RollbackState, Target, Timestamp, UndoClass,
};
use sha2::{Digest as _, Sha256};

use super::{bounded, condition, incident::short, moment, object_name};
use crate::{api::RunStory, core::is_in_force, reconcile::captures::capture_name};

/// What is captured is written into the object up to this size; larger ones stay in the journal.
const MAX_CAPTURE: usize = 65_536;
/// A node's own action has no deadline; the field needs one.
const NO_DEADLINE: Timestamp = Timestamp(4_102_444_800_000_000_000);

/// For a uid that is only known once the target is read: the field needs one, and without its object no effect is begun.
const BY_NAME: &str = "by name, read at the capture";

/// The object's name.
pub(crate) fn action_name(id: &ActionId) -> String {
    object_name(id.as_str())
}

/// What is done. It never changes: where the object stands already, its own is kept.
pub(crate) fn action_plan(
    record: &ActionRecord,
    node: &NodeId,
    run: Option<&RunStory>,
    approval: Option<String>,
) -> Plan {
    let name = record.action.name();
    let standing = run.and_then(|run| run.standing.get(name)).map(|by| bounded(by, 253));
    let undo = record.action.undo();
    let asks = matches!(undo, UndoClass::Irreversible { .. } | UndoClass::Compensable { .. });
    Plan {
        incident: record.incident.as_ref().map(|id| bounded(id.as_str(), 253)),
        run: record.run.as_ref().map(|id| bounded(id.as_str(), 253)),
        step: record.step.as_ref().map(|step| bounded(step.as_str(), 40)),
        action: ActionName(name.to_owned()),
        target: target_of(&record.target),
        node: (!matches!(record.action, NodeAction::Cluster(_))).then(|| node.to_string()),
        with: parameters_of(&record.action),
        radius: respond::action::radius(&record.action, &record.target),
        key: format!("{}/{}", node, action_name(&record.id)).chars().take(128).collect(),
        deadline: moment(run.map_or(NO_DEADLINE, |run| run.until)),
        // By whom it may be done is told wherever it is known, and must be where it cannot be undone exactly.
        approval: approval.filter(|_| asks),
        standing_approval: standing.filter(|_| asks),
        undo: Undo {
            class: match undo {
                UndoClass::Exact => ShownUndo::Exact,
                UndoClass::Nothing => ShownUndo::Nothing,
                UndoClass::Compensable { .. } => ShownUndo::Compensable,
                UndoClass::Irreversible { .. } => ShownUndo::Irreversible,
            },
            residual: undo.residual().map(|text| bounded(text, 512)),
        },
    }
}

/// Where an action is in its life. `gone` is what is found instead of an effect that was seen once.
pub(crate) fn action_status(
    record: &ActionRecord,
    generation: i64,
    before: &[Condition],
    gone: Option<&str>,
    now: Timestamp,
) -> ResponseActionStatus {
    let took = record.applied.map(|at| cut(&short(at.since(record.planned)), 7)).unwrap_or_default();
    let target = record.target.to_string();
    ResponseActionStatus {
        observed_generation: generation,
        state: record.state,
        target: bounded(&target, 512),
        capture: capture_of(record),
        applied: record.applied.map(moment),
        summary: Summary { target: cut(&target, 22), took, detail: cut(&record.detail, 32) },
        drift: Vec::new(),
        detail: bounded(&record.detail, 1024),
        conditions: conditions_of(record, generation, before, gone, now),
    }
}

/// Whether nothing of it needs undoing any more, so that its object may go.
pub(crate) fn is_settled(record: &ActionRecord) -> bool {
    use ActionState::{Failed, Reverted, Vacuous};
    match record.state {
        Reverted | Vacuous | Failed => true,
        ActionState::Planned | ActionState::Prepared | ActionState::Applying | ActionState::Reverting => {
            false
        }
        _ => !is_in_force(record),
    }
}

/// As [`is_settled`], for what an object says: what it does not hold is left to the record.
pub(crate) fn is_settled_state(state: ActionState) -> bool {
    matches!(state, ActionState::Reverted | ActionState::Vacuous | ActionState::Failed)
}

fn capture_of(record: &ActionRecord) -> Option<Capture> {
    // Planned needs none, and what failed before its capture has none.
    let Some(rollback) = &record.rollback else {
        let told = !matches!(record.state, ActionState::Planned | ActionState::Failed | ActionState::Vacuous);
        return told.then(|| Capture {
            at: moment(record.planned),
            digest: digest(""),
            here: None,
            stored: Some(format!("nowhere: {} was told of without it", record.id)),
        });
    };
    let text = serde_json::to_string(rollback).unwrap_or_default();
    // For people to see. An object of the API server may hold a secret, and who reads actions need not be who may read that.
    let here = text.len() <= MAX_CAPTURE && !matches!(rollback, RollbackState::Cluster(_));
    // What an undo goes by; where there is none, what is told to people stands in the journal.
    let stored = match record.action.undo().has_undo() {
        true => Some(format!("secret/{}", capture_name(&record.id))),
        false => (!here).then(|| format!("journal/{}", record.id)),
    };
    Some(Capture {
        at: moment(record.planned),
        digest: digest(&text),
        stored: stored.map(|place| bounded(&place, 512)),
        here: here.then_some(text),
    })
}

/// As a status holds it.
pub(crate) fn digest(text: &str) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(text.as_bytes())))
}

fn conditions_of(
    record: &ActionRecord,
    generation: i64,
    before: &[Condition],
    gone: Option<&str>,
    now: Timestamp,
) -> Vec<Condition> {
    use ActionState::{
        Applied, Applying, Failed, Planned, Prepared, RevertBlocked, Reverted, Reverting, Unverified,
        Vacuous, Verified,
    };
    let mut all = before.to_vec();
    let state = record.state;
    let applied = match state {
        Applied | Verified | Unverified | Reverting | RevertBlocked | Reverted => Holds::True,
        Applying => Holds::Unknown,
        Planned | Prepared | Failed | Vacuous => Holds::False,
    };
    let verified = match state {
        Verified => Holds::True,
        Unverified | Failed | Vacuous => Holds::False,
        _ => Holds::Unknown,
    };
    let reverted = match state {
        Reverted => Holds::True,
        Reverting => Holds::Unknown,
        _ => Holds::False,
    };
    let reason = format!("{state:?}");
    for (kind, status) in [("Applied", applied), ("Verified", verified), ("Reverted", reverted)] {
        let said = match gone {
            Some(found) if kind == "Verified" => {
                let told = format!("somebody else undid it: {found}");
                condition(kind, Holds::False, "Gone", told, now, generation)
            }
            _ => condition(kind, status, &reason, &record.detail, now, generation),
        };
        Condition::set(&mut all, said);
    }
    all
}

fn target_of(target: &Target) -> ActionTarget {
    let mut shown = ActionTarget::default();
    match target {
        Target::Process { process } => {
            shown.process = Some(ProcessTarget { pid: process.pid.0, start: process.start.0 });
        }
        Target::Cgroup { id, path } => {
            let path = if path.is_empty() { "/" } else { path };
            shown.cgroup = Some(CgroupTarget { id: id.0, path: bounded(path, 4096) });
        }
        Target::File { path, inode, device } => {
            shown.file = Some(FileTarget { path: bounded(path, 4096), inode: *inode, device: *device });
        }
        Target::Object(object) => {
            shown.object = Some(ObjectTarget {
                api_version: object.api_version.clone(),
                kind: object.kind.clone(),
                namespace: object.namespace.clone(),
                name: object.name.clone(),
                uid: if object.uid.is_empty() { BY_NAME.into() } else { object.uid.clone() },
            });
        }
        Target::Account(account) => {
            shown.account = Some(AccountTarget {
                kind: format!("{:?}", account.kind),
                namespace: account.namespace.clone(),
                name: bounded(&account.name, 512),
            });
        }
        Target::Channel { name } => shown.channel = Some(bounded(name, 63)),
    }
    shown
}

fn parameters_of(action: &NodeAction) -> Parameters {
    let mut with = Parameters::default();
    match action {
        NodeAction::Freeze(FreezeScope::Subtree) | NodeAction::Kill(KillScope::Subtree) => {
            with.scope = Some(Scope::Subtree);
        }
        NodeAction::Freeze(FreezeScope::Cgroup) => with.scope = Some(Scope::Cgroup),
        NodeAction::Kill(KillScope::Process) => with.scope = Some(Scope::Process),
        NodeAction::NetQuarantine(net) if !net.allow.is_empty() => {
            with.allow = Some(net.allow.iter().take(64).map(|net| Network(*net)).collect());
        }
        NodeAction::BlockDestination(block) => {
            with.destination = Some(Network(block.destination));
            with.port = block.port;
        }
        NodeAction::CaptureEvidence(evidence) if evidence.memory == MemoryCapture::Private => {
            with.memory = Some(Memory::Private);
        }
        _ => {}
    }
    with
}
