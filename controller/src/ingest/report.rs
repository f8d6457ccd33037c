//! A source's end of its link: reports that wait for their acknowledgement, its status, and what it says to commands.

use std::collections::VecDeque;

use model::{
    ActionFailure, AgentEpoch, CommandOutcome, Down, HookState, HookStatus, NodeId, NodeStatus, Report, Seq,
    Timestamp, Up,
};
use tokio::sync::mpsc::error::TryRecvError;
use wire::link::{AgentLink, in_process};

use super::position::Position;
use crate::start::Attacher;

/// Reports without an acknowledgement, at most: then nothing more is read (I11).
const MAX_UNACKED: usize = 512;

/// Messages that wait in each direction.
const CAPACITY: usize = 256;

/// The link is gone: the controller has stopped or could not store. What is not acknowledged is to be read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LinkLost;

/// A link and what went over it.
#[derive(Debug)]
pub(super) struct Reporter {
    name: NodeId,
    link: AgentLink,
    seq: u64,
    unacked: VecDeque<u64>,
    /// How far the log is dealt with once the report of that number is acknowledged.
    marks: VecDeque<(u64, Position)>,
    /// How far it is dealt with for good.
    settled: Option<Position>,
}

/// What a source says of itself.
#[derive(Debug, Clone)]
pub(super) struct State<'a> {
    pub(super) format: &'a str,
    pub(super) rules: u64,
    pub(super) findings: u64,
    pub(super) summary: String,
    /// Why nothing is read, if so.
    pub(super) blind: Option<String>,
    pub(super) degraded: Vec<String>,
}

impl Reporter {
    /// A new link. Reports are numbered from after `seq`.
    pub(super) fn connect(name: &NodeId, controller: &Attacher, seq: u64) -> Result<Self, LinkLost> {
        let (link, end) = in_process(name.clone(), CAPACITY);
        controller.attach(end);
        Self::over(link, name, seq)
    }

    /// Over a link that is there.
    pub(super) fn over(link: AgentLink, name: &NodeId, seq: u64) -> Result<Self, LinkLost> {
        let name = name.clone();
        let reporter =
            Self { name, link, seq, unacked: VecDeque::new(), marks: VecDeque::new(), settled: None };
        reporter.send(Up::Hello { node: reporter.name.clone(), epoch: AgentEpoch(1) })?;
        Ok(reporter)
    }

    /// Number of the last report.
    pub(super) fn last(&self) -> u64 {
        self.seq
    }

    /// Whether no more may be read for now.
    pub(super) fn is_full(&self) -> bool {
        self.unacked.len() >= MAX_UNACKED
    }

    /// Reports that are not acknowledged.
    pub(super) fn waiting(&self) -> usize {
        self.unacked.len()
    }

    /// Sends a report; waits where the controller is behind.
    pub(super) fn report(&mut self, report: Report) -> Result<(), LinkLost> {
        self.seq += 1;
        self.unacked.push_back(self.seq);
        self.send(Up::Report { seq: Seq(self.seq), report: Box::new(report) })
    }

    /// Says how far the log is dealt with, once all that was reported so far is acknowledged.
    pub(super) fn mark(&mut self, mut position: Position) {
        position.seq = self.seq;
        if self.unacked.is_empty() {
            self.settled = Some(position);
        } else {
            self.marks.push_back((self.seq, position));
        }
    }

    /// Takes what the controller says.
    pub(super) fn listen(&mut self) -> Result<(), LinkLost> {
        loop {
            match self.link.down.try_recv() {
                Ok(Down::Ack { upto }) => {
                    while self.unacked.front().is_some_and(|seq| *seq <= upto.0) {
                        self.unacked.pop_front();
                    }
                    while self.marks.front().is_some_and(|(seq, _)| *seq <= upto.0) {
                        self.settled = self.marks.pop_front().map(|(_, position)| position);
                    }
                }
                // Those of this process are in force already.
                Ok(Down::Rules(_) | Down::Guard(_)) => {}
                Ok(Down::Command(command)) => {
                    // A log is no place where something could be done; nothing should ask for it.
                    let failure = ActionFailure::Unsupported {
                        operation: command.action.name().to_owned(),
                        because: format!("{} is a log, not a node", self.name),
                    };
                    self.send(Up::Outcome(Box::new(CommandOutcome {
                        key: command.key,
                        action_id: command.action_id,
                        phase: command.phase.name().to_owned(),
                        at: command.deadline,
                        result: Err(failure),
                    })))?;
                }
                Err(TryRecvError::Empty) => return Ok(()),
                Err(TryRecvError::Disconnected) => return Err(LinkLost),
            }
        }
    }

    /// How far the log is dealt with for good, if that has moved.
    pub(super) fn settled(&mut self) -> Option<Position> {
        self.settled.take()
    }

    pub(super) fn status(&self, at: Timestamp, state: State<'_>) -> Result<(), LinkLost> {
        let records = match &state.blind {
            None => HookState::Attached { to: state.summary },
            Some(because) => HookState::Failed { because: because.clone() },
        };
        let status = NodeStatus {
            node: self.name.clone(),
            epoch: AgentEpoch(1),
            at,
            kernel: format!("none: {} log", state.format),
            rules: state.rules,
            holding: vec![],
            loaded: None,
            hooks: vec![HookStatus { hook: "records".into(), classes: vec![], state: records }],
            counts: std::collections::BTreeMap::new(),
            findings: state.findings,
            containments: 0,
            degraded: state.blind.into_iter().chain(state.degraded).collect(),
        };
        self.send(Up::Status(Box::new(status)))
    }

    fn send(&self, up: Up) -> Result<(), LinkLost> {
        self.link.up.blocking_send(up).map_err(|_| LinkLost)
    }
}
