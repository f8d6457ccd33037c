//! On which nodes rules and playbooks are in force as they stand, of all that have an agent.
//!
//! A controller hears of nodes by their links, and one that has just come to lead has heard of none. So which nodes ought to be heard is
//! asked of the API server: those where the agents' account has a pod. Nothing is said of all nodes before each of them was heard.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crds::{Condition, Holds, rule_set::Loaded};
use model::{NodeId, RuleSetVersion, RulesVersion, Timestamp};

use super::show::{bounded, condition};
use crate::{
    api::{LinkView, Status},
    attribute::{Pods, Sight},
    core::{Ask, Asker},
};

/// An agent's pod that is gone is followed by another within so long; after that its node has no agent any more.
const REPLACED: Duration = Duration::from_secs(300);
/// Characters told of why pods are not known.
const REASON: usize = 300;

/// Where agents are.
#[derive(Debug)]
pub(crate) struct Agents {
    pods: Pods,
    namespace: String,
    account: String,
}

/// All nodes with an agent, as far as they are known.
#[derive(Debug)]
pub(super) struct Nodes {
    all: Vec<Node>,
    /// Why there may be more of them.
    unknown: Option<String>,
}

/// One node, and what it last said it has loaded.
#[derive(Debug, Clone)]
struct Node {
    heard: Heard,
    loaded: RulesVersion,
}

/// What this controller has of a node since it leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Heard {
    /// Its link is up.
    Linked,
    /// It was linked.
    Before,
    /// Nothing.
    Never,
}

/// How many nodes have loaded what follows from rules and playbooks as they stand now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum OnNodes {
    /// The core does not say.
    Unsaid,
    Said {
        have: usize,
        linked: usize,
        /// Those that are not linked any more, and had not loaded it when they were.
        gone: usize,
        /// Those with an agent that this controller has not heard yet.
        unheard: usize,
        /// Why it is not known where agents are.
        unknown: Option<String>,
    },
}

impl Agents {
    /// `account` is their service account as `namespace/name`.
    pub(super) fn new(pods: Pods, account: &str) -> Self {
        let (namespace, name) = account.split_once('/').unwrap_or(("", account));
        Self { pods, namespace: namespace.into(), account: name.into() }
    }

    /// `None` where the core does not answer. Sources of records are no nodes.
    pub(super) async fn all(&self, asker: &Asker, now: Timestamp) -> Option<Nodes> {
        let json = asker.ask(Ask::Status).await.ok()?;
        let status: Status = serde_json::from_slice(&json).ok()?;
        let heard = status
            .nodes
            .into_iter()
            .filter(|node| !node.node.as_str().contains(':') && node.node != NodeId::cluster())
            .map(|node| {
                let heard = if node.link == LinkView::Up { Heard::Linked } else { Heard::Before };
                let loaded = node.status.and_then(|status| status.loaded).unwrap_or_default();
                (node.node, Node { heard, loaded })
            });
        let since = Timestamp(now.0.saturating_sub(i64::try_from(REPLACED.as_nanos()).unwrap_or(i64::MAX)));
        let expected = self.pods.nodes_of(&self.namespace, &self.account, since);
        let unknown = match self.pods.sight("Pod") {
            Sight::Clear if self.pods.size().overflow > 0 => {
                Some("there are more pods than are known".into())
            }
            Sight::Clear => None,
            Sight::Starting => Some("not all pods are told yet".into()),
            Sight::Blind(why) => Some(bounded(&why, REASON)),
        };
        Some(Nodes::joined(heard.collect(), expected, unknown))
    }
}

impl Nodes {
    /// Those that were heard, and those that ought to be.
    fn joined(heard: BTreeMap<NodeId, Node>, expected: BTreeSet<NodeId>, unknown: Option<String>) -> Self {
        let silent = expected.iter().filter(|node| !heard.contains_key(*node)).count();
        let never = Node { heard: Heard::Never, loaded: RulesVersion::default() };
        // One whose agent was taken away, or that is no node any more, has nothing to go by. Where that is not known it counts.
        let counts = |(name, node): &(NodeId, Node)| {
            node.heard == Heard::Linked || unknown.is_some() || expected.contains(name)
        };
        let mut all: Vec<Node> = heard.into_iter().filter(counts).map(|(_, node)| node).collect();
        all.extend(std::iter::repeat_n(never, silent));
        Self { all, unknown }
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.all.len()
    }

    /// On how many of them this version of a RuleSet is loaded.
    pub(super) fn with(&self, version: &RuleSetVersion) -> usize {
        self.all.iter().filter(|node| node.loaded.sets.iter().any(|set| set == version)).count()
    }

    /// On how many which generation of a RuleSet is loaded, newest first.
    pub(super) fn generations(&self, name: &str) -> Vec<Loaded> {
        let mut count: BTreeMap<i64, u32> = BTreeMap::new();
        for set in self.all.iter().flat_map(|node| &node.loaded.sets).filter(|set| set.name == name) {
            *count.entry(set.generation).or_default() += 1;
        }
        let newest = count.into_iter().rev().take(16);
        newest.map(|(generation, nodes)| Loaded { generation, nodes }).collect()
    }
}

impl OnNodes {
    /// Who goes by the rules of this digest, with what playbooks let nodes do.
    pub(super) fn of(nodes: Option<&Nodes>, digest: &str) -> Self {
        let Some(nodes) = nodes else { return Self::Unsaid };
        let count = |heard, has: bool| {
            nodes
                .all
                .iter()
                .filter(|node| node.heard == heard && (node.loaded.digest == digest) == has)
                .count()
        };
        let have = count(Heard::Linked, true);
        Self::Said {
            have,
            linked: have + count(Heard::Linked, false),
            gone: count(Heard::Before, false),
            unheard: count(Heard::Never, false) + count(Heard::Never, true),
            unknown: nodes.unknown.clone(),
        }
    }

    /// A mode that was changed holds for what a node does by itself only once that node has loaded it.
    pub(super) fn condition(&self, now: Timestamp, generation: i64) -> Condition {
        let (holds, reason, message) = match self {
            Self::Unsaid => (Holds::Unknown, "NotSaid", "it is not known which nodes are linked".to_owned()),
            Self::Said { linked: 0, .. } => (Holds::Unknown, "NoNodes", "no node is linked".to_owned()),
            Self::Said { have, linked, .. } if have < linked => {
                (Holds::False, "Loading", format!("{have} of {linked} linked nodes go by it"))
            }
            Self::Said { unheard, .. } if *unheard > 0 => (
                Holds::Unknown,
                "NotHeard",
                format!(
                    "every linked node goes by it; {unheard} with an agent have not been heard since this controller leads"
                ),
            ),
            Self::Said { gone, .. } if *gone > 0 => (
                Holds::Unknown,
                "NotLinked",
                format!("every linked node goes by it; {gone} that did not are not linked any more"),
            ),
            Self::Said { unknown: Some(why), .. } => (
                Holds::Unknown,
                "AgentsNotKnown",
                format!("every linked node goes by it; it is not known which others have an agent: {why}"),
            ),
            Self::Said { .. } => (
                Holds::True,
                "Loaded",
                "every node with an agent goes by it, as far as it is linked".to_owned(),
            ),
        };
        condition("OnNodes", holds, reason, message, now, generation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(heard: Heard, digest: &str) -> Node {
        Node { heard, loaded: RulesVersion { digest: digest.into(), ..RulesVersion::default() } }
    }

    /// Nodes that were heard, by name, and those with an agent.
    fn nodes(heard: &[(&str, Heard, &str)], expected: &[&str], unknown: Option<&str>) -> Nodes {
        let heard = heard.iter().map(|(name, heard, digest)| (NodeId::new(*name), node(*heard, digest)));
        let expected = expected.iter().map(|name| NodeId::new(*name)).collect();
        Nodes::joined(heard.collect(), expected, unknown.map(str::to_owned))
    }

    fn said(nodes: Option<&Nodes>) -> (Holds, String) {
        let said = OnNodes::of(nodes, "new").condition(Timestamp(1), 7);
        assert_eq!(said.observed_generation, 7);
        (said.status, said.reason)
    }

    use Heard::{Before, Linked};

    #[test]
    fn a_playbook_holds_on_nodes_only_once_every_linked_one_has_loaded_it() {
        let of = |heard: &[(&str, Heard, &str)]| {
            let names: Vec<&str> = heard.iter().map(|(name, ..)| *name).collect();
            said(Some(&nodes(heard, &names, None)))
        };
        assert_eq!(said(None), (Holds::Unknown, "NotSaid".into()));
        assert_eq!(of(&[]), (Holds::Unknown, "NoNodes".into()));
        assert_eq!(of(&[("a", Before, "new")]), (Holds::Unknown, "NoNodes".into()), "it was linked");
        assert_eq!(of(&[("a", Linked, "new"), ("b", Linked, "")]), (Holds::False, "Loading".into()));
        assert_eq!(of(&[("a", Linked, "new"), ("b", Linked, "new")]), (Holds::True, "Loaded".into()));
        assert_eq!(of(&[("a", Linked, "new"), ("b", Before, "new")]), (Holds::True, "Loaded".into()));
        assert_eq!(of(&[("a", Linked, "new"), ("b", Before, "old")]), (Holds::Unknown, "NotLinked".into()));
    }

    #[test]
    fn a_leader_that_has_not_heard_every_agent_does_not_speak_of_all_nodes() {
        let heard = [("a", Linked, "new")];
        let after = nodes(&heard, &["a", "b", "c"], None);
        assert_eq!(said(Some(&after)), (Holds::Unknown, "NotHeard".into()));
        let message = OnNodes::of(Some(&after), "new").condition(Timestamp(1), 7).message;
        assert!(message.contains("2 with an agent have not been heard"), "{message}");
        assert_eq!(after.count(), 3, "a RuleSet is told to be on one of three");
        let later = [("a", Linked, "new"), ("b", Linked, "new"), ("c", Linked, "new")];
        assert_eq!(said(Some(&nodes(&later, &["a", "b", "c"], None))), (Holds::True, "Loaded".into()));
        let behind = nodes(&[("a", Linked, "old")], &["a", "b"], None);
        assert_eq!(said(Some(&behind)), (Holds::False, "Loading".into()), "what is known is said");
    }

    #[test]
    fn where_agents_are_not_known_nothing_is_said_of_all_nodes() {
        let unknown = nodes(&[("a", Linked, "new")], &[], Some("pods is forbidden"));
        assert_eq!(said(Some(&unknown)), (Holds::Unknown, "AgentsNotKnown".into()));
        let message = OnNodes::of(Some(&unknown), "new").condition(Timestamp(1), 7).message;
        assert!(message.ends_with("pods is forbidden"), "{message}");
        let gone = nodes(&[("a", Linked, "new"), ("b", Before, "old")], &["a"], Some("it is away"));
        assert_eq!(said(Some(&gone)), (Holds::Unknown, "NotLinked".into()));
    }

    #[test]
    fn a_node_without_an_agent_has_nothing_to_go_by() {
        let heard = [("a", Linked, "new"), ("b", Before, "old")];
        assert_eq!(said(Some(&nodes(&heard, &["a", "b"], None))), (Holds::Unknown, "NotLinked".into()));
        let without = nodes(&heard, &["a"], None);
        assert_eq!((said(Some(&without)), without.count()), ((Holds::True, "Loaded".into()), 1));
        // Its pod is not told yet, and it speaks already.
        let linked = nodes(&[("a", Linked, "new"), ("b", Linked, "old")], &["a"], None);
        assert_eq!(said(Some(&linked)), (Holds::False, "Loading".into()));
    }
}
