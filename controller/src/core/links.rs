//! The nodes whose links are up, and what waits for them.

use std::collections::{BTreeMap, VecDeque};

use model::{Down, NodeCommand, NodeId, NodeStatus, Seq};
use tokio::sync::mpsc::{self, error::TrySendError};

use super::LinkNumber;
use crate::ledger::{Ledger, Told};

/// Nodes that are remembered; certificates bound them in practice, this bounds them in any case (I11).
const MAX_NODES: usize = 10_000;

/// All nodes that were heard of.
#[derive(Debug, Default)]
pub(super) struct Links {
    nodes: BTreeMap<NodeId, Node>,
    /// Whether acknowledgements wait.
    acks: Acks,
    /// Who keeps reports elsewhere before they are acknowledged, where there is somebody.
    ledger: Option<Ledger>,
}

/// Whether acknowledgements go: what is acknowledged leaves the node's spool, and another controller, if there is one, never hears of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Acks {
    #[default]
    Go,
    Wait,
}

/// One node.
#[derive(Debug, Default)]
pub(super) struct Node {
    link: Option<Link>,
    /// What it last said of itself.
    pub(super) status: Option<Box<NodeStatus>>,
}

#[derive(Debug)]
struct Link {
    number: LinkNumber,
    down: mpsc::Sender<Down>,
    /// It said hello, so commands may go.
    greeted: Greeted,
    /// Commands that found the queue full.
    waiting: VecDeque<NodeCommand>,
    /// The newest position to acknowledge; older ones need not be said.
    ack: Option<Seq>,
    /// Reports that found the ledger's queue full, in their order.
    unkept: VecDeque<Box<Told>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Greeted {
    No,
    Yes,
}

/// Whether a node can be spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Presence {
    /// Its link is up and it said hello.
    Here,
    /// It is not.
    Gone,
}

impl Links {
    /// A new connection takes the place of an older one.
    pub(super) fn attach(&mut self, node: NodeId, number: LinkNumber, down: mpsc::Sender<Down>) {
        if self.nodes.len() >= MAX_NODES && !self.nodes.contains_key(&node) {
            tracing::warn!(%node, "too many nodes: this one is not taken");
            return;
        }
        let link = Link {
            number,
            down,
            greeted: Greeted::No,
            waiting: VecDeque::new(),
            ack: None,
            unkept: VecDeque::new(),
        };
        self.nodes.entry(node).or_default().link = Some(link);
    }

    /// Whether `number` is the node's present connection.
    pub(super) fn is_current(&self, node: &NodeId, number: LinkNumber) -> bool {
        self.link(node).is_some_and(|link| link.number == number)
    }

    /// Commands may go from now on.
    pub(super) fn greet(&mut self, node: &NodeId) {
        if let Some(link) = self.link_mut(node) {
            link.greeted = Greeted::Yes;
        }
    }

    /// The connection ended, or is given up.
    pub(super) fn detach(&mut self, node: &NodeId) {
        if let Some(node) = self.nodes.get_mut(node) {
            node.link = None;
        }
    }

    pub(super) fn presence(&self, node: &NodeId) -> Presence {
        match self.link(node) {
            Some(Link { greeted: Greeted::Yes, .. }) => Presence::Here,
            _ => Presence::Gone,
        }
    }

    pub(super) fn get_mut(&mut self, node: &NodeId) -> Option<&mut Node> {
        self.nodes.get_mut(node)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&NodeId, &Node)> {
        self.nodes.iter()
    }

    pub(super) fn up(&self) -> usize {
        self.nodes.values().filter(|n| n.link.is_some()).count()
    }

    /// From now on; those that waited go then.
    pub(super) fn let_acks(&mut self, acks: Acks) {
        self.acks = acks;
    }

    /// From now on reports are kept by it before they are acknowledged.
    pub(super) fn keep_with(&mut self, ledger: Option<Ledger>) {
        self.ledger = ledger;
    }

    /// Has a report kept elsewhere, now or as soon as there is room; of a link that is gone it comes again.
    pub(super) fn keep(&mut self, told: Box<Told>) {
        let ledger = self.ledger.clone();
        if let Some(link) = self.link_mut(&told.node).filter(|link| link.number == told.link) {
            link.unkept.push_back(told);
            link.hand_over(ledger.as_ref());
        }
    }

    /// Acknowledges, now or as soon as there is room.
    pub(super) fn ack(&mut self, node: &NodeId, upto: Seq) {
        let acks = self.acks;
        if let Some(link) = self.link_mut(node) {
            link.ack = link.ack.max(Some(upto));
            link.flush(acks);
        }
    }

    /// Nodes that commands may go to.
    pub(super) fn present(&self) -> Vec<NodeId> {
        let here = |link: &Link| link.greeted == Greeted::Yes;
        let present = self.nodes.iter().filter(|(_, node)| node.link.as_ref().is_some_and(here));
        present.map(|(id, _)| id.clone()).collect()
    }

    /// Sends, now or as soon as there is room; dropped when the node is gone, since its run repeats it.
    pub(super) fn send(&mut self, command: NodeCommand, limit: usize) {
        let acks = self.acks;
        let Some(link) = self.link_mut(&command.node) else { return };
        if link.greeted == Greeted::No {
            return;
        }
        if link.waiting.len() >= limit {
            link.waiting.pop_front();
        }
        link.waiting.push_back(command);
        link.flush(acks);
    }

    /// Tries again what found a full queue.
    pub(super) fn flush(&mut self) {
        let (acks, ledger) = (self.acks, self.ledger.clone());
        for link in self.nodes.values_mut().filter_map(|n| n.link.as_mut()) {
            link.hand_over(ledger.as_ref());
            link.flush(acks);
        }
    }

    pub(super) fn has_backlog(&self) -> bool {
        let acks = self.acks == Acks::Go;
        let mut links = self.nodes.values().filter_map(|n| n.link.as_ref());
        links.any(|l| (acks && l.ack.is_some()) || !l.waiting.is_empty() || !l.unkept.is_empty())
    }

    fn link(&self, node: &NodeId) -> Option<&Link> {
        self.nodes.get(node)?.link.as_ref()
    }

    fn link_mut(&mut self, node: &NodeId) -> Option<&mut Link> {
        self.nodes.get_mut(node)?.link.as_mut()
    }
}

impl Node {
    pub(super) fn is_up(&self) -> bool {
        self.link.is_some()
    }

    pub(super) fn waiting(&self) -> usize {
        self.link.as_ref().map_or(0, |l| l.waiting.len())
    }
}

impl Link {
    fn hand_over(&mut self, ledger: Option<&Ledger>) {
        let Some(ledger) = ledger else { return };
        while let Some(told) = self.unkept.pop_front() {
            if let Err(told) = ledger.tell(told) {
                self.unkept.push_front(told);
                return;
            }
        }
    }

    fn flush(&mut self, acks: Acks) {
        while let Some(command) = self.waiting.pop_front() {
            match self.down.try_send(Down::Command(Box::new(command))) {
                Ok(()) => {}
                Err(TrySendError::Full(Down::Command(command))) => {
                    self.waiting.push_front(*command);
                    return;
                }
                // Its end is told by the reader of the link; what was to go is repeated by the run.
                Err(_) => return,
            }
        }
        if let Some(upto) = self.ack.filter(|_| acks == Acks::Go) {
            match self.down.try_send(Down::Ack { upto }) {
                Err(TrySendError::Full(_)) => {}
                _ => self.ack = None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use model::{
        ActionId, BootNs, CommandKey, FreezeScope, IncidentId, NodeAction, Phase, Pid, ProcessKey, Target,
        Timestamp,
    };

    use super::*;

    fn command(n: usize) -> NodeCommand {
        NodeCommand {
            key: CommandKey::new(format!("key-{n}")),
            action_id: ActionId::new("act"),
            incident: IncidentId::new("inc"),
            node: NodeId::new("n"),
            deadline: Timestamp(0),
            action: NodeAction::Freeze(FreezeScope::Subtree),
            target: Target::Process { process: ProcessKey { pid: Pid(7), start: BootNs(7) } },
            phase: Phase::Capture,
        }
    }

    #[test]
    fn i11_commands_for_a_node_that_does_not_read_are_bounded_and_the_oldest_go() {
        let mut links = Links::default();
        let (down, mut taken) = mpsc::channel(1);
        links.attach(NodeId::new("n"), 1, down);
        links.greet(&NodeId::new("n"));
        for n in 0..100 {
            links.send(command(n), 5);
        }
        assert_eq!(links.get_mut(&NodeId::new("n")).unwrap().waiting(), 5);
        assert!(links.has_backlog());
        let mut keys = Vec::new();
        while let Ok(Down::Command(command)) = taken.try_recv() {
            keys.push(command.key.to_string());
            links.flush();
        }
        assert_eq!(keys, ["key-0", "key-95", "key-96", "key-97", "key-98", "key-99"]);
    }

    #[test]
    fn i11_acknowledgements_do_not_pile_up() {
        let mut links = Links::default();
        let (down, mut taken) = mpsc::channel(1);
        let node = NodeId::new("n");
        links.attach(node.clone(), 1, down);
        for seq in 1..=1000 {
            links.ack(&node, Seq(seq));
        }
        assert_eq!(taken.try_recv().unwrap(), Down::Ack { upto: Seq(1) });
        links.flush();
        assert_eq!(taken.try_recv().unwrap(), Down::Ack { upto: Seq(1000) }, "the newest says it all");
        assert!(taken.try_recv().is_err() && !links.has_backlog());
    }

    #[test]
    fn what_a_controller_takes_in_without_a_lease_is_acknowledged_once_it_leads_again() {
        let mut links = Links::default();
        let (down, mut taken) = mpsc::channel(8);
        let node = NodeId::new("n");
        links.attach(node.clone(), 1, down);
        links.let_acks(Acks::Wait);
        links.ack(&node, Seq(1));
        links.ack(&node, Seq(2));
        links.flush();
        assert!(taken.try_recv().is_err() && !links.has_backlog(), "it waits, and nobody spins for it");
        links.let_acks(Acks::Go);
        assert!(links.has_backlog());
        links.flush();
        assert_eq!(taken.try_recv().unwrap(), Down::Ack { upto: Seq(2) });
    }

    #[test]
    fn what_a_ledger_has_no_room_for_waits_in_its_order_and_goes_with_its_link() {
        let told = |seq| {
            Box::new(Told {
                node: NodeId::new("n"),
                link: 1,
                seq: Seq(seq),
                incident: None,
                report: model::Report::Repeat {
                    finding: model::FindingId::derive(
                        &model::EventId {
                            node: NodeId::new("n"),
                            epoch: model::AgentEpoch(1),
                            seq: Seq(seq),
                        },
                        "rule",
                    ),
                    count: 2,
                    last: Timestamp(0),
                    moments: model::Moments::default(),
                },
            })
        };
        let (ledger, mut kept) = Ledger::new();
        let mut links = Links::default();
        links.keep_with(Some(ledger));
        let (down, _taken) = mpsc::channel(8);
        links.attach(NodeId::new("n"), 1, down.clone());
        let all = u64::try_from(Ledger::CAPACITY).unwrap() + 3;
        (1..=all).for_each(|seq| links.keep(told(seq)));
        assert!(links.has_backlog());
        let mut seen = Vec::new();
        while let Ok(one) = kept.try_recv() {
            seen.push(one.seq.0);
            links.flush();
        }
        assert_eq!(seen, (1..=all).collect::<Vec<_>>());
        assert!(!links.has_backlog());
        links.attach(NodeId::new("n"), 2, down);
        links.keep(told(7));
        assert!(kept.try_recv().is_err(), "of an older connection: it comes again over the new one");
    }

    #[test]
    fn i11_nodes_are_bounded_and_those_that_are_known_stay() {
        let mut links = Links::default();
        let (down, _taken) = mpsc::channel(1);
        for n in 0..=MAX_NODES {
            links.attach(NodeId::new(format!("n{n}")), 1, down.clone());
        }
        assert_eq!(links.iter().count(), MAX_NODES);
        links.attach(NodeId::new("n0"), 2, down);
        assert!(links.is_current(&NodeId::new("n0"), 2));
        assert!(!links.is_current(&NodeId::new(format!("n{MAX_NODES}")), 1), "its messages are not taken");
    }
}
