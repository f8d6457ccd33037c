//! The journal in the API server: a ResponseAction, and a Secret with what was captured ([`super::captures`]), stand there and were read
//! back before the effect of that action is commanded. While the API server is away, the controller's own journal, which was written and
//! read back before, is enough for what contains on a node: an attack must not go on because it also took the API server away. What was not
//! written then is written once it is back.
//!
//! A controller whose lease has run out may have been succeeded without knowing it. Until it leads again it commands nodes nothing but what
//! contains and can be undone exactly; an undo and what cannot be undone wait. docs/kubernetes.md gives the reasons.

use std::{sync::Arc, time::Duration};

use crds::response_action::ResponseAction;
use kube::{ResourceExt as _, api::DynamicObject};
use model::{ActionFailure, IncidentId, NodeAction, NodeCommand, Phase, UndoClass};
use tokio::{
    sync::{mpsc, watch},
    time::sleep,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    actions::{PENS, pen_of},
    captures::Kept,
    mirror::Mirror,
    people::parsed,
    reach::Failure,
    show::action_name,
};
use crate::core::Input;

/// Actions that are written at the same time; those of one action and kind always one after another. What may have to wait for the API
/// server is apart from what contains on nodes and does not wait.
const LANES: usize = PENS;
const KINDS: usize = 2;
/// What waits for the API server is tried again after this.
const AGAIN: Duration = Duration::from_millis(250);
/// Commands that wait in one lane.
const LANE: usize = 64;

/// Writes down what comes from `told` and gives it back to the core.
pub(crate) fn keep(
    mirror: &Arc<Mirror>,
    mut told: mpsc::Receiver<Box<NodeCommand>>,
    inbox: mpsc::WeakSender<Input>,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) {
    let lanes: Vec<mpsc::Sender<Box<NodeCommand>>> = (0..LANES * KINDS)
        .map(|_| {
            let (sender, mut lane) = mpsc::channel::<Box<NodeCommand>>(LANE);
            let (mirror, inbox, stop) = (Arc::clone(mirror), inbox.clone(), stop.clone());
            tasks.spawn(async move {
                loop {
                    let command = tokio::select! {
                        () = stop.cancelled() => return,
                        command = lane.recv() => command,
                    };
                    let Some(command) = command else { return };
                    let written = tokio::select! {
                        () = stop.cancelled() => return,
                        written = mirror.written(&command) => written,
                    };
                    let input = match written {
                        Written::Go => Input::Witnessed(command),
                        Written::Never(failure) => Input::Refused(command, failure),
                        Written::Stay => continue,
                    };
                    let Some(inbox) = inbox.upgrade() else { return };
                    // Fails only when the core has ended: its next life repeats the command.
                    let _ended = inbox.send(input).await;
                }
            });
            sender
        })
        .collect();
    let stop = stop.clone();
    tasks.spawn(async move {
        loop {
            let command = tokio::select! {
                () = stop.cancelled() => return,
                command = told.recv() => command,
            };
            let Some(command) = command else { return };
            let lane = pen_of(&command.action_id) + if contains(&command) { 0 } else { LANES };
            if lanes[lane].send(command).await.is_err() {
                return;
            }
        }
    });
}

/// Whether a command may go.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Written {
    Go,
    /// Not now: its run asks again.
    Stay,
    /// Not at all.
    Never(ActionFailure),
}

/// Whether a command does nothing but hold an attack on a node, so that it can be undone exactly, or keep evidence.
fn contains(command: &NodeCommand) -> bool {
    matches!(command.phase, Phase::Apply { .. })
        && !matches!(command.action, NodeAction::Cluster(_))
        && matches!(command.action.undo(), UndoClass::Exact | UndoClass::Nothing)
}

/// An effect that is being written down, counted for as long as this lives.
struct Effect<'a>(&'a watch::Sender<usize>);

impl<'a> Effect<'a> {
    fn begun(effects: &'a watch::Sender<usize>) -> Self {
        effects.send_modify(|effects| *effects += 1);
        Self(effects)
    }
}

impl Drop for Effect<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|effects| *effects -= 1);
    }
}

impl Mirror {
    async fn written(&self, command: &NodeCommand) -> Written {
        loop {
            let away = self.reach.away_since().is_some() || !self.reach.leads();
            let failure = match away {
                true => Failure::Away("it does not answer, or this controller's lease has run out".into()),
                false => match self.write_down(command).await {
                    Ok(()) => {
                        self.crash.witnessed(command.action_id.as_str());
                        return Written::Go;
                    }
                    Err(failure) => failure,
                },
            };
            match failure {
                Failure::Unkept(because) if matches!(command.phase, Phase::Apply { .. }) => {
                    tracing::error!(action = %command.action_id, because, "an effect is not begun: what its undo needs is not kept in the API server");
                    let operation = "keeping what the undo needs in the API server".into();
                    return Written::Never(ActionFailure::Unsupported { operation, because });
                }
                Failure::Away(_) | Failure::NotLeading if contains(command) => {
                    return self.unwritten(command, &failure.to_string());
                }
                Failure::Away(_) | Failure::NotLeading => {
                    if (self.clock)() > command.deadline {
                        return self.overdue(command);
                    }
                    sleep(AGAIN).await;
                }
                failure => {
                    // It says no: an effect that nobody could find there must not be.
                    tracing::error!(action = %command.action_id, %failure, "an effect is not begun: it could not be written down in the API server");
                    self.refused(&failure);
                    return Written::Stay;
                }
            }
        }
    }

    /// What waited for the API server, or for the lease, until its time was over: an undo is asked for again, anything else is not done.
    fn overdue(&self, command: &NodeCommand) -> Written {
        tracing::warn!(action = %command.action_id, phase = command.phase.name(), "not commanded: the API server is away, or the lease has run out");
        match command.phase {
            Phase::Apply { .. } => Written::Never(ActionFailure::Unsupported {
                operation: command.action.name().into(),
                because: "the API server was away, or this controller's lease had run out: what is done there, or cannot be undone, waits for \
                          it, and its time passed"
                    .into(),
            }),
            _ => Written::Stay,
        }
    }

    fn unwritten(&self, command: &NodeCommand, because: &str) -> Written {
        tracing::warn!(action = %command.action_id, phase = command.phase.name(), because,
            "an effect begins by the controller's own journal; the API server is told of it later");
        self.due.add(command.incident.as_str());
        Written::Go
    }

    async fn write_down(&self, command: &NodeCommand) -> Result<(), Failure> {
        let _first = Effect::begun(&self.effects);
        let mut incident: IncidentId = command.incident.clone();
        // A merged incident's actions are where its story goes on.
        for _ in 0..8 {
            let story = self.story(&incident).await?;
            if let Some(record) =
                story.view.incident.actions.iter().find(|record| record.id == command.action_id)
            {
                // Nothing else of the incident is waited for: an attack goes on meanwhile.
                let namespace = self.place_of(&story);
                let kept = Kept::of(record, &command.node)
                    .filter(|_| matches!(command.phase, Phase::Apply { .. }))
                    .filter(|kept| !self.captures.is_kept(&kept.id));
                let keeping = async {
                    match &kept {
                        Some(kept) => self.captures.keep(kept).await,
                        None => Ok(()),
                    }
                };
                let showing = async {
                    let written = self.show_action(&story, &record.id, &namespace).await?;
                    let namespace = self.place_of_action(record, &namespace);
                    self.read_back(record, &namespace, written).await
                };
                // Side by side: the effect waits for both.
                let (kept, shown) = tokio::join!(keeping, showing);
                return kept.and(shown);
            }
            match &story.view.merged_into {
                Some(into) => incident = into.clone(),
                None => break,
            }
        }
        Err(Failure::Missing(format!("action {} in the journal", command.action_id)))
    }

    /// What was written is there (I4).
    async fn read_back(
        &self,
        record: &model::ActionRecord,
        namespace: &str,
        written: Option<DynamicObject>,
    ) -> Result<(), Failure> {
        let name = action_name(&record.id);
        let api = self.reach.in_namespace::<ResponseAction>(namespace);
        let found = match written {
            // The answer to a write is what the API server has stored.
            Some(stored) => stored,
            None => self.reach.read(api.get(&name)).await?,
        };
        let generation = found.metadata.generation.unwrap_or(0);
        let ours = super::show::action_status(record, generation, &[], None, (self.clock)());
        let theirs =
            parsed::<ResponseAction>(&found).and_then(|found| found.status).and_then(|status| status.capture);
        let same = match (&ours.capture, &theirs) {
            (Some(ours), Some(theirs)) => ours.digest == theirs.digest && ours.here == theirs.here,
            _ => false,
        };
        if same {
            return Ok(());
        }
        Err(Failure::Conflict(format!("{} does not hold what was captured", found.name_any())))
    }
}
