//! The core: one thread that owns all state. What happens to it comes in through one bounded queue; what it decides becomes
//! durable in batches, and only then leaves ([`turn`]).

mod again;
mod aliases;
mod answers;
mod ask;
mod clocks;
mod context;
mod correlate;
mod covered;
mod incidents;
mod ingest;
mod links;
mod measures;
mod narrative;
mod news;
mod orphans;
mod people;
mod pods;
mod promotion;
mod replayed;
mod rows;
mod runs;
mod scans;
mod settle;
mod shares;
mod sights;
mod split;
mod state;
mod traced;
mod trust;
mod turn;

use std::{
    collections::BTreeSet,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use model::{
    ActionFailure, ActionId, ActionRecord, Actor, CommandOutcome, Down, FindingId, IncidentId, Level,
    NodeCommand, NodeId, OnDrift, RunId, Seq, StepName, Timestamp, Up, Verdict,
};
use serde::Serialize;
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot, watch},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use self::{again::Again, clocks::Clocks, state::State, turn::Turn};
pub(crate) use self::{again::Whose, incidents::is_in_force, ingest::controller, replayed::Shown};
use crate::{
    api::{ApiError, ApiErrorKind},
    config::{ControllerConfig, Limits},
    health::{HealthBoard, Part},
    ledger::Told,
    metrics::Metrics,
    playbooks::{Plans, Sources},
    start::StartError,
    trace::Sending,
};

/// Number of a connection, so that the end of an old one does not close its successor.
pub(crate) type LinkNumber = u64;

/// Something that happened.
#[derive(Debug)]
pub(crate) enum Input {
    /// A link came up.
    Attached { node: NodeId, link: LinkNumber, down: mpsc::Sender<Down> },
    /// A node spoke.
    Up { node: NodeId, link: LinkNumber, up: Up },
    /// A link ended.
    Detached { node: NodeId, link: LinkNumber },
    /// Somebody wants to know.
    Ask(Ask, Answer),
    /// A person wants something done.
    Change(Change, Actor, Answer),
    /// What a command will do is written down elsewhere, too: it may go ([`crate::witness`]).
    Witnessed(Box<NodeCommand>),
    /// It cannot be written down there, so that it must not be: as if the node had refused it.
    Refused(Box<NodeCommand>, ActionFailure),
    /// This controller leads again for certain: what waited for that is asked for again.
    LeadsAgain,
    /// What these nodes reported so far is kept elsewhere, too: it may leave their spools.
    Kept(Vec<(NodeId, LinkNumber, Seq)>),
    /// What a node had reported to a controller that was lost with its journal.
    Again(Box<Told>, Whose),
    /// That was all; what was done about these incidents is known elsewhere, and the others are answered now.
    AgainOver(BTreeSet<IncidentId>, oneshot::Sender<()>),
}

/// Where an answer goes: JSON of the types of [`crate::api`].
pub(crate) type Answer = oneshot::Sender<Result<Vec<u8>, ApiError>>;

/// Questions.
#[derive(Debug)]
pub(crate) enum Ask {
    Status,
    Incidents {
        since: u64,
        limit: usize,
        merged: Merged,
    },
    Incident(String),
    /// Which policy decides what about an incident and a playbook.
    Explain {
        id: String,
        playbook: Option<String>,
    },
    /// An incident, with what is needed to show it elsewhere ([`crate::api::Story`]).
    Story(IncidentId),
    /// What nodes did by themselves and no incident tells of.
    Loose,
    /// Whether an action is known, and to which incident it belongs; `-` where it belongs to none.
    Owner(ActionId, Option<RunId>),
    Actions {
        all: bool,
    },
    Playbooks,
    /// An incident as one document ([`narrate::Document`]).
    Narrative(String),
    /// How playbooks earn and lose their modes; of one with its runs and the patch.
    Promotion(Option<String>),
    /// Where the audit log stands; who asks reads it.
    Audit,
}

/// Whether incidents whose story goes on in another are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Merged {
    Hidden,
    Shown,
}

/// Wishes.
#[derive(Debug)]
pub(crate) enum Change {
    /// Of all runs of the incident, or of one. `groups` are those that who says it certainly belongs to.
    Approve {
        id: String,
        run: Option<RunId>,
        step: Option<StepName>,
        because: String,
        groups: Vec<String>,
    },
    /// Of all runs of the incident, or of one.
    Deny {
        id: String,
        run: Option<RunId>,
        step: Option<StepName>,
        because: String,
        groups: Vec<String>,
    },
    RollbackIncident {
        id: String,
        because: String,
    },
    RollbackAction {
        id: String,
        because: String,
        on_drift: OnDrift,
    },
    Judge {
        id: String,
        verdict: Verdict,
        because: String,
    },
    Close {
        id: String,
        because: String,
    },
    /// Takes findings out of an incident into one of their own.
    Split {
        id: String,
        findings: Vec<FindingId>,
        because: String,
    },
    /// Nothing automatic begins from now on.
    Pause {
        because: String,
    },
    /// It does again.
    Resume {
        because: String,
    },
    /// What was said of a rule or playbook no longer counts: it is another one now.
    BeginAnew {
        name: String,
        because: String,
    },
    Reload,
    /// Playbooks, policies and rules from elsewhere than folders, in place of those given before.
    Use(Arc<Sources>),
    /// An action in force that the journal does not know: from now on it can be undone like a node's own.
    Adopt {
        node: NodeId,
        record: Box<ActionRecord>,
        shelter: Option<Box<Shelter>>,
    },
}

/// The incident that an adopted action belongs to, as somebody else knows it.
#[derive(Debug)]
pub(crate) struct Shelter {
    pub(crate) id: IncidentId,
    pub(crate) title: String,
    pub(crate) severity: Level,
    pub(crate) first_event: Timestamp,
}

/// Puts questions and wishes to the core.
#[derive(Debug, Clone)]
pub(crate) struct Asker {
    inbox: mpsc::Sender<Input>,
    health: HealthBoard,
    patience: Duration,
}

impl Asker {
    pub(crate) fn new(inbox: mpsc::Sender<Input>, health: HealthBoard, limits: &Limits) -> Self {
        Self { inbox, health, patience: limits.request }
    }

    pub(crate) async fn ask(&self, what: Ask) -> Result<Vec<u8>, ApiError> {
        let (answer, answered) = oneshot::channel();
        self.send(Input::Ask(what, answer), answered).await
    }

    pub(crate) async fn change(&self, what: Change, actor: Actor) -> Result<Vec<u8>, ApiError> {
        let (answer, answered) = oneshot::channel();
        self.send(Input::Change(what, actor, answer), answered).await
    }

    async fn send(
        &self,
        input: Input,
        answered: oneshot::Receiver<Result<Vec<u8>, ApiError>>,
    ) -> Result<Vec<u8>, ApiError> {
        if let Some(because) = self.health.stalled() {
            return Err(ApiError::new(ApiErrorKind::Unavailable, because));
        }
        let stopping = || ApiError::new(ApiErrorKind::Unavailable, "the controller is stopping");
        let exchange = async {
            self.inbox.send(input).await.map_err(|_| stopping())?;
            answered.await.map_err(|_| stopping())?
        };
        timeout(self.patience, exchange).await.unwrap_or_else(|_| {
            let because = self.health.stalled().unwrap_or_else(|| "the controller is busy: try again".into());
            Err(ApiError::new(ApiErrorKind::Unavailable, because))
        })
    }
}

/// The core's thread, with what it needs.
pub(crate) struct Core {
    config: Arc<ControllerConfig>,
    state: State,
    health: HealthBoard,
    metrics: Arc<Metrics>,
    revision: watch::Sender<u64>,
    stop: CancellationToken,
    started: Timestamp,
    /// When a node was last refused.
    refused: Option<Timestamp>,
    /// How many stories were told.
    stories: u64,
    /// Whether everything automatic is paused.
    paused: watch::Sender<bool>,
    /// The playbooks in use.
    plans: watch::Sender<Plans>,
    /// Whether what comes was heard before, by another controller.
    again: Again,
    /// Both clocks at the last turn.
    clocks: Clocks,
    /// Where traces are put, where they are wanted.
    traces: Option<Sending>,
}

/// What the thread shares with the rest.
pub(crate) struct Shared {
    pub(crate) config: Arc<ControllerConfig>,
    pub(crate) health: HealthBoard,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) revision: watch::Sender<u64>,
    pub(crate) paused: watch::Sender<bool>,
    pub(crate) plans: watch::Sender<Plans>,
    pub(crate) stop: CancellationToken,
    pub(crate) traces: Option<Sending>,
}

/// How long the core sleeps at most: the coarsest step of its deadlines.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// How soon a full queue to a node is tried again.
const RETRY: Duration = Duration::from_millis(5);

/// Loads what is stored and starts the thread.
pub(crate) fn spawn(
    shared: Shared,
    inbox: mpsc::Receiver<Input>,
    runtime: Handle,
) -> Result<JoinHandle<()>, StartError> {
    let state = State::load(&shared.config, &shared.health)?;
    let mut core = Core::new(shared, state);
    core.state.links.keep_with(core.config.ledger.clone());
    core.paused.send_replace(core.state.trust.paused().is_some());
    // Never as they stand in their files, not even for a moment: what was taken back stays so.
    core.plans.send_replace(core.state.plans_in_force());
    core.show_measures(core.started);
    thread::Builder::new()
        .name("hemostat-core".into())
        .spawn(move || core.live(inbox, &runtime))
        .map_err(|source| StartError::Thread { source })
}

impl Core {
    fn new(shared: Shared, state: State) -> Self {
        let Shared { config, health, metrics, revision, paused, plans, stop, traces } = shared;
        let (started, clocks) = ((config.clock)(), Clocks::read(&config));
        let (refused, stories, again) = (None, 0, Again::No);
        Self {
            config,
            state,
            health,
            metrics,
            revision,
            stop,
            started,
            refused,
            stories,
            paused,
            plans,
            again,
            clocks,
            traces,
        }
    }

    /// Until the queue is closed: everybody who could put something in has ended, and all of it has been dealt with.
    fn live(mut self, mut inbox: mpsc::Receiver<Input>, runtime: &Handle) {
        let mut begin = self.turn();
        self.remember_clock(&mut begin);
        self.recover(&mut begin);
        self.modes_of_git(&mut begin);
        // From now on it is known what comes late.
        self.correlate(&mut begin);
        self.conclude(begin);
        loop {
            let wait = self.patience();
            match runtime.block_on(async { timeout(wait, inbox.recv()).await }) {
                Ok(None) => break,
                Ok(Some(first)) => {
                    let mut turn = self.turn();
                    self.follow_clock(&mut turn);
                    self.take(first, &mut turn);
                    for _ in 1..self.config.limits.batch {
                        match inbox.try_recv() {
                            Ok(next) => self.take(next, &mut turn),
                            Err(_) => break,
                        }
                    }
                    self.tick(&mut turn);
                    self.conclude(turn);
                }
                Err(_) => {
                    let mut turn = self.turn();
                    self.follow_clock(&mut turn);
                    self.tick(&mut turn);
                    self.conclude(turn);
                }
            }
            self.sync_audit_in_time();
        }
        let mut end = self.turn();
        self.audit_system(&mut end, "the controller stops");
        self.conclude(end);
        if let Err(error) = self.sync_audit() {
            tracing::error!(%error, "the end of the audit log is not on the disk: the next start appends it from the journal");
        }
        tracing::info!("the core has stopped");
    }

    fn take(&mut self, input: Input, turn: &mut Turn) {
        match input {
            Input::Attached { node, link, down } => self.attached(node, link, down),
            Input::Up { node, link, up } => self.heard(node, link, up, turn),
            Input::Detached { node, link } => self.detached(&node, link, turn),
            Input::Ask(what, answer) => {
                let reply = self.answer(what);
                turn.reply(answer, reply);
            }
            Input::Witnessed(command) => self.state.links.send(*command, self.config.limits.node_queue),
            Input::Refused(command, failure) => {
                let outcome = CommandOutcome {
                    key: command.key.clone(),
                    action_id: command.action_id.clone(),
                    phase: command.phase.name().into(),
                    at: turn.now,
                    result: Err(failure),
                };
                self.run_outcome(&command.node, outcome, turn);
            }
            Input::LeadsAgain => {
                for node in self.state.links.present() {
                    self.node_back(&node, turn);
                }
            }
            Input::Kept(kept) => {
                for (node, link, seq) in kept {
                    if self.state.links.is_current(&node, link) {
                        self.state.links.ack(&node, seq);
                    }
                }
            }
            Input::Again(told, whose) => self.hear_again(*told, whose, turn),
            Input::AgainOver(handled, told) => {
                self.heard_again(&handled, turn);
                // Who waits for it may have been stopped.
                let _stopped = told.send(());
            }
            Input::Change(what, actor, answer) => {
                let reply = self.change(what, &actor, turn).and_then(|done| to_json(&done));
                turn.reply(answer, reply);
            }
        }
    }

    fn turn(&self) -> Turn {
        Turn::new((self.config.clock)())
    }

    /// How long nothing needs to be done.
    fn patience(&self) -> Duration {
        if self.state.links.has_backlog() {
            return RETRY;
        }
        let now = (self.config.clock)();
        self.next_deadline().map_or(HEARTBEAT, |at| at.since(now)).min(HEARTBEAT)
    }

    pub(super) fn store_failed(&self, error: &crate::store::StoreError) -> ApiError {
        self.health.degraded(Part::Journal, error.to_string());
        ApiError::new(ApiErrorKind::Unavailable, error.to_string())
    }
}

pub(super) fn to_json(value: &impl Serialize) -> Result<Vec<u8>, ApiError> {
    serde_json::to_vec(value).map_err(|e| ApiError::new(ApiErrorKind::Unavailable, e.to_string()))
}
