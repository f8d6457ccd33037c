//! Carries out what was captured, and takes it back: the same for every action.
//!
//! Each change of an object is one JSON patch that holds only if the object is the very one (uid) in the very version that was looked
//! at; where somebody else was faster it is looked at again. What is done already is not done again, so both ways can be repeated
//! after a crash anywhere.

use model::{ActionFailure, ClusterState, Edit, FieldChange, ObjectRef, OnDrift};
use serde_json::{Value, json};

use crate::{
    api::{Api, ApiFault, text},
    fields::{self, Standing, Way},
    shown::shown,
};

/// The annotation by which an object that an action made is known to be its.
pub(crate) const MADE_BY: &str = "hemostat.dev/action";
/// Looks at one object before it is given up.
const TRIES: usize = 8;

/// What an undo came to.
pub(crate) enum Undone {
    /// What was restored, in one line.
    Restored(String),
    /// Nothing was done: captured, found and wanted.
    Drifted(String),
}

/// Does what was captured. What it did is undone where it cannot be done to its end.
pub(crate) async fn apply(api: &Api, state: &ClusterState, manager: &str) -> Result<(), ActionFailure> {
    for (at, edit) in state.edits.iter().enumerate() {
        let Err(failure) = apply_one(api, edit, manager).await else { continue };
        if at == 0 || matches!(failure, ActionFailure::Io { .. }) {
            // The first is one request: done or not. What may be half done is undone when the run says so.
            return Err(failure);
        }
        let begun = ClusterState { edits: state.edits[..at].to_vec(), notes: Vec::new() };
        return Err(match revert(api, &begun, manager, OnDrift::Ask).await {
            Ok(Undone::Restored(_)) | Err(ActionFailure::TargetGone { .. }) => failure,
            Ok(Undone::Drifted(difference)) => half_done(&failure, &difference),
            Err(undo) => half_done(&failure, &undo.to_string()),
        });
    }
    Ok(())
}

/// What of it is not in force; `None` where all is.
pub(crate) async fn missing(api: &Api, state: &ClusterState) -> Result<Option<String>, ActionFailure> {
    for edit in &state.edits {
        match edit {
            Edit::Make { object, content } => match api.find(object).await? {
                None => return Ok(Some(format!("{object} is not there"))),
                Some(now) if !is_ours(&now, content) => {
                    return Ok(Some(format!("{object} is not the one that was made")));
                }
                Some(now) if !fields::covers(&now, &wanted(content)) => {
                    return Ok(Some(format!("{object} was changed")));
                }
                Some(_) => {}
            },
            Edit::Change { object, fields, .. } => {
                let now = api.get(object).await?;
                let open = fields.iter().find_map(|change| match fields::standing(&now, change) {
                    Standing::After => None,
                    Standing::Before => Some(fields::difference(change, "as it was")),
                    Standing::Drifted { now } => Some(fields::difference(change, &now)),
                });
                if let Some(open) = open {
                    return Ok(Some(format!("{object}: {open}")));
                }
            }
            Edit::Remove { object } => {
                if api.find(object).await?.is_some_and(|now| uid(&now) == object.uid) {
                    return Ok(Some(format!("{object} is still there")));
                }
            }
        }
    }
    Ok(None)
}

/// Takes back what was done: first what was made, the last first, then what was changed, the last first. Where anything of it is not
/// as the action left it, nothing is done, unless a person wants what was captured all the same: then that alone is told.
pub(crate) async fn revert(
    api: &Api,
    state: &ClusterState,
    manager: &str,
    on_drift: OnDrift,
) -> Result<Undone, ActionFailure> {
    let mut differences = Vec::new();
    let (mut there, mut gone) = (Vec::new(), Vec::new());
    for edit in in_order_of_undo(state) {
        match look(api, edit).await? {
            Found::Ours => there.push(edit),
            Found::Undone => {}
            Found::Gone(object) => gone.push(object),
            Found::Differs(difference) => {
                differences.push(difference);
                there.push(edit);
            }
        }
    }
    if !differences.is_empty() && on_drift == OnDrift::Ask {
        return Ok(Undone::Drifted(differences.join("; ")));
    }
    for edit in &there {
        match undo_one(api, edit, manager, on_drift).await {
            Ok(()) | Err(UndoFault::Gone) => {}
            Err(UndoFault::Differs(difference)) => return Ok(Undone::Drifted(difference)),
            Err(UndoFault::Failure(failure)) => return Err(failure),
        }
    }
    if there.is_empty()
        && let Some(object) = gone.first()
    {
        return Err(ActionFailure::TargetGone { target: object.to_string() });
    }
    let mut done: Vec<String> = there.iter().map(|edit| object_of(edit).to_string()).collect();
    done.sort();
    done.dedup();
    let mut detail = match done.as_slice() {
        [] => "it was as before already".into(),
        done => format!("as before: {}", done.join(", ")),
    };
    for object in gone {
        detail.push_str(&format!("; {object} is gone"));
    }
    if !differences.is_empty() {
        detail.push_str(&format!("; overwritten: {}", differences.join("; ")));
    }
    Ok(Undone::Restored(detail))
}

async fn apply_one(api: &Api, edit: &Edit, manager: &str) -> Result<(), ActionFailure> {
    match edit {
        Edit::Make { object, content } => make(api, object, content, manager).await,
        Edit::Change { object, fields, .. } => change(api, object, fields, manager).await,
        Edit::Remove { object } => match api.delete(object, Some(0)).await {
            Ok(()) | Err(ApiFault::NotFound { .. }) => Ok(()),
            // Its uid is another: the one that was meant is gone.
            Err(ApiFault::Conflict { .. }) => Ok(()),
            Err(fault) => Err(fault.into()),
        },
    }
}

async fn make(api: &Api, object: &ObjectRef, content: &Value, manager: &str) -> Result<(), ActionFailure> {
    match api.create(object, content, manager).await {
        Ok(_) => Ok(()),
        Err(fault @ ApiFault::Conflict { .. }) => match api.find(object).await? {
            Some(now) if is_ours(&now, content) => Ok(()),
            Some(_) => Err(ActionFailure::Unsupported {
                operation: format!("making {object}"),
                because: "an object of that name is there and is not ours".into(),
            }),
            None => Err(fault.into()),
        },
        Err(fault) => Err(fault.into()),
    }
}

async fn change(
    api: &Api,
    object: &ObjectRef,
    changes: &[FieldChange],
    manager: &str,
) -> Result<(), ActionFailure> {
    let mut last = None;
    for _ in 0..TRIES {
        let now = api.get(object).await?;
        for change in changes {
            if let Standing::Drifted { now } = fields::standing(&now, change) {
                return Err(ActionFailure::TargetChanged {
                    target: object.to_string(),
                    expected: "as it was captured".into(),
                    found: fields::difference(change, &now),
                });
            }
        }
        match send(api, object, &now, &fields::patch(&now, changes, Way::Forward), manager).await? {
            Sent::Done => return Ok(()),
            Sent::Again(fault) => last = Some(fault),
        }
    }
    Err(last.map_or_else(|| busy(object), Into::into))
}

enum Sent {
    Done,
    /// Somebody else was faster.
    Again(ApiFault),
}

/// Sends a patch that holds only for the object as it was seen.
async fn send(
    api: &Api,
    object: &ObjectRef,
    seen: &Value,
    operations: &[Value],
    manager: &str,
) -> Result<Sent, ActionFailure> {
    if operations.is_empty() {
        return Ok(Sent::Done);
    }
    let version = text(seen, &["metadata", "resourceVersion"]).unwrap_or_default();
    let mut all = vec![
        json!({"op": "test", "path": "/metadata/uid", "value": uid(seen)}),
        json!({"op": "test", "path": "/metadata/resourceVersion", "value": version}),
    ];
    all.extend_from_slice(operations);
    match api.patch(object, &Value::Array(all), manager).await {
        Ok(_) => Ok(Sent::Done),
        Err(fault @ ApiFault::Conflict { .. }) => Ok(Sent::Again(fault)),
        // A test that fails has the same code as a value that is refused: the version tells.
        Err(fault @ ApiFault::Refused { .. }) => {
            let moved = match api.find(object).await? {
                Some(now) => text(&now, &["metadata", "resourceVersion"]) != Some(version),
                None => true,
            };
            if moved { Ok(Sent::Again(fault)) } else { Err(fault.into()) }
        }
        Err(fault) => Err(fault.into()),
    }
}

enum Found<'a> {
    /// As the action left it.
    Ours,
    /// As it was before.
    Undone,
    /// The object is not there any more.
    Gone(&'a ObjectRef),
    Differs(String),
}

async fn look<'a>(api: &Api, edit: &'a Edit) -> Result<Found<'a>, ActionFailure> {
    Ok(match edit {
        Edit::Make { object, content } => match api.find(object).await? {
            None => Found::Undone,
            Some(now) if !is_ours(&now, content) => Found::Undone,
            Some(now) if fields::covers(&now, &wanted(content)) => Found::Ours,
            Some(now) => Found::Differs(format!(
                "{object}: was absent, ours {}, now {}",
                shown(content.get("spec")),
                shown(now.get("spec"))
            )),
        },
        Edit::Change { object, fields, .. } => {
            let now = match api.get(object).await {
                Ok(now) => now,
                Err(ApiFault::NotFound { .. }) => return Ok(Found::Gone(object)),
                Err(fault) => return Err(fault.into()),
            };
            let mut any = false;
            let mut drifted = Vec::new();
            for change in fields {
                match fields::standing(&now, change) {
                    Standing::Before => {}
                    Standing::After => any = true,
                    Standing::Drifted { now } => drifted.push(fields::difference(change, &now)),
                }
            }
            if !drifted.is_empty() {
                Found::Differs(format!("{object}: {}", drifted.join(", ")))
            } else if any {
                Found::Ours
            } else {
                Found::Undone
            }
        }
        Edit::Remove { .. } => Found::Undone,
    })
}

enum UndoFault {
    Gone,
    Differs(String),
    Failure(ActionFailure),
}

impl From<ApiFault> for UndoFault {
    fn from(fault: ApiFault) -> Self {
        match fault {
            ApiFault::NotFound { .. } => Self::Gone,
            fault => Self::Failure(fault.into()),
        }
    }
}

async fn undo_one(api: &Api, edit: &Edit, manager: &str, on_drift: OnDrift) -> Result<(), UndoFault> {
    match edit {
        Edit::Make { object, content } => {
            let now = api.get(object).await?;
            if !is_ours(&now, content) {
                return Ok(());
            }
            let very = ObjectRef { uid: uid(&now).into(), ..object.clone() };
            match api.delete(&very, None).await {
                // Another of that name: ours is gone.
                Ok(()) | Err(ApiFault::Conflict { .. }) => Ok(()),
                Err(fault) => Err(fault.into()),
            }
        }
        Edit::Change { object, fields, .. } => {
            let backwards: Vec<FieldChange> = fields.iter().rev().cloned().collect();
            let mut last = None;
            for _ in 0..TRIES {
                let now = api.get(object).await?;
                for change in fields {
                    if let Standing::Drifted { now } = fields::standing(&now, change)
                        && on_drift == OnDrift::Ask
                    {
                        let difference = fields::difference(change, &now);
                        return Err(UndoFault::Differs(format!("{object}: {difference}")));
                    }
                }
                let operations = fields::patch(&now, &backwards, Way::Back);
                match send(api, object, &now, &operations, manager).await {
                    Ok(Sent::Done) => return Ok(()),
                    Ok(Sent::Again(fault)) => last = Some(fault),
                    Err(failure) => return Err(UndoFault::Failure(failure)),
                }
            }
            Err(last.map_or_else(|| UndoFault::Failure(busy(object)), Into::into))
        }
        Edit::Remove { .. } => Ok(()),
    }
}

fn in_order_of_undo(state: &ClusterState) -> impl Iterator<Item = &Edit> {
    let made = |edit: &&Edit| matches!(edit, Edit::Make { .. });
    let first = state.edits.iter().rev().filter(made);
    first.chain(state.edits.iter().rev().filter(move |edit| !made(edit)))
}

pub(crate) fn object_of(edit: &Edit) -> &ObjectRef {
    match edit {
        Edit::Make { object, .. } | Edit::Change { object, .. } | Edit::Remove { object } => object,
    }
}

/// Whether the object is the one that an action made.
fn is_ours(now: &Value, content: &Value) -> bool {
    let mark = |object: &Value| text(object, &["metadata", "annotations", MADE_BY]).map(str::to_owned);
    mark(content).is_some() && mark(now) == mark(content)
}

/// What must be as it was sent for the object to count as unchanged: everything but what is told about it.
fn wanted(content: &Value) -> Value {
    let mut wanted = content.clone();
    if let Some(object) = wanted.as_object_mut() {
        object.remove("metadata");
    }
    wanted
}

fn uid(object: &Value) -> &str {
    text(object, &["metadata", "uid"]).unwrap_or_default()
}

fn busy(object: &ObjectRef) -> ActionFailure {
    ActionFailure::Io {
        operation: "change".into(),
        object: object.to_string(),
        because: "it changes faster than it can be looked at".into(),
    }
}

/// So that the run undoes the rest: part of it may be in force.
fn half_done(failure: &ActionFailure, undo: &str) -> ActionFailure {
    ActionFailure::Io {
        operation: "undo what was begun".into(),
        object: failure.to_string(),
        because: undo.into(),
    }
}
