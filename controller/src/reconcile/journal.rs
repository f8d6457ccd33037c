//! The journal in the API server: a ResponseAction with what was captured stands there, and was read back, before the effect of that
//! action is commanded. While the API server is away, the controller's own journal, which was written and read back before, is enough:
//! an attack must not go on because it also took the API server away. What was not written then is written once it is back.

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::Arc,
};

use crds::response_action::ResponseAction;
use kube::ResourceExt as _;
use model::{IncidentId, NodeCommand};
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{mirror::Mirror, people::parsed, reach::Failure, show::action_name};
use crate::core::Input;

/// Actions that are written at the same time; those of one action always one after another.
const LANES: usize = 16;
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
    let lanes: Vec<mpsc::Sender<Box<NodeCommand>>> = (0..LANES)
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
                    if mirror.written(&command).await == Written::Go
                        && let Some(inbox) = inbox.upgrade()
                    {
                        // Fails only when the core has ended: its next life repeats the command.
                        let _ended = inbox.send(Input::Witnessed(command)).await;
                    }
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
            let mut hash = DefaultHasher::new();
            command.action_id.hash(&mut hash);
            let lane = usize::try_from(hash.finish() % LANES as u64).unwrap_or(0);
            if lanes[lane].send(command).await.is_err() {
                return;
            }
        }
    });
}

/// Whether a command may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Written {
    Go,
    Stay,
}

impl Mirror {
    async fn written(&self, command: &NodeCommand) -> Written {
        if self.reach.away_since().is_some() {
            return self.unwritten(command, "the API server is away");
        }
        match self.write_down(command).await {
            Ok(()) => {
                self.crash.witnessed(command.action_id.as_str());
                Written::Go
            }
            Err(failure @ (Failure::Away(_) | Failure::NotLeading)) if self.reach.away_since().is_some() => {
                self.unwritten(command, &failure.to_string())
            }
            Err(failure) => {
                // It says no, or another leads: an effect that nobody could find there must not be.
                tracing::error!(action = %command.action_id, %failure, "an effect is not begun: it could not be written down in the API server");
                self.refused(&failure);
                Written::Stay
            }
        }
    }

    fn unwritten(&self, command: &NodeCommand, because: &str) -> Written {
        tracing::warn!(action = %command.action_id, phase = command.phase.name(), because,
            "an effect begins by the controller's own journal; the API server is told of it later");
        self.due.add(command.incident.as_str());
        Written::Go
    }

    async fn write_down(&self, command: &NodeCommand) -> Result<(), Failure> {
        let mut incident: IncidentId = command.incident.clone();
        // A merged incident's actions are where its story goes on.
        for _ in 0..8 {
            let _alone = self.lock(&incident).await;
            let story = self.story(&incident).await?;
            if let Some(record) =
                story.view.incident.actions.iter().find(|record| record.id == command.action_id)
            {
                let namespace = self.place_of(&story);
                self.show_incident(&story, &namespace).await?;
                self.show_action(&story, record, &namespace).await?;
                return self.read_back(record, &namespace).await;
            }
            match &story.view.merged_into {
                Some(into) => incident = into.clone(),
                None => break,
            }
        }
        Err(Failure::Missing(format!("action {} in the journal", command.action_id)))
    }

    /// What was written is there (I4).
    async fn read_back(&self, record: &model::ActionRecord, namespace: &str) -> Result<(), Failure> {
        let name = action_name(&record.id);
        let api = self.reach.in_namespace::<ResponseAction>(namespace);
        let found = self.reach.read(api.get(&name)).await?;
        let generation = found.metadata.generation.unwrap_or(0);
        let ours = super::show::action_status(record, generation, &[], (self.clock)());
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
