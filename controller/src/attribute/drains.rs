//! Nodes that are being drained: what runs there is stopped and begun elsewhere, which looks like much and is none of it an attack.

use std::collections::BTreeSet;

use model::NodeId;
use respond::gate::Underway;

use super::doors::Room;

/// Nodes that are remembered (I11): more than a cluster has.
const MAX_NODES: usize = 20_000;

/// Nodes that somebody else than Hemostat keeps new pods away from. What Hemostat itself cordoned is contained and not drained: it would
/// otherwise ask about the next attack there because it answered the one before.
#[derive(Debug, Default)]
pub(super) struct Drains(BTreeSet<NodeId>);

impl Drains {
    pub(super) fn cordoned(&mut self, node: NodeId) -> Room {
        if self.0.len() >= MAX_NODES && !self.0.contains(&node) {
            return Room::None;
        }
        self.0.insert(node);
        Room::Enough
    }

    pub(super) fn uncordoned(&mut self, node: &NodeId) {
        self.0.remove(node);
    }

    /// All that there are, sorted.
    pub(super) fn listed(&mut self, nodes: &[NodeId]) {
        self.0.retain(|node| nodes.binary_search(node).is_ok());
    }

    pub(super) fn of(&self, node: &NodeId) -> Underway {
        match self.0.contains(node) {
            true => Underway::Goes(format!("node {node} is cordoned: it is being drained, or about to be")),
            false => Underway::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Node;
    use kube::core::PartialObjectMeta;
    use model::Timestamp;

    use super::*;
    use crate::attribute::{
        fact::Fact,
        index::{Index, Limits},
        read,
    };

    fn node(name: &str) -> NodeId {
        NodeId::new(name)
    }

    #[test]
    fn a_node_is_drained_from_when_it_is_cordoned_until_it_is_not_and_no_other_is() {
        let mut index = Index::new(Limits::default());
        let mut told = |fact: Fact| {
            index.take(fact, Timestamp(1));
            ["one", "two"]
                .map(|name| matches!(index.drain(&node(name)), Underway::Goes(what) if what.contains(name)))
        };
        assert_eq!(told(Fact::Cordoned { node: node("one") }), [true, false]);
        assert_eq!(told(Fact::Uncordoned { node: node("two") }), [true, false]);
        assert_eq!(told(Fact::Uncordoned { node: node("one") }), [false, false]);
        // A list that begins anew tells of no end.
        assert_eq!(told(Fact::Cordoned { node: node("one") }), [true, false]);
        assert_eq!(told(Fact::Cordoned { node: node("two") }), [true, true]);
        assert_eq!(told(Fact::CordonedListed(vec![node("two")])), [false, true]);
    }

    #[test]
    fn i11_nodes_beyond_the_limit_are_counted_and_not_kept() {
        let mut index = Index::new(Limits::default());
        for n in 0..=MAX_NODES {
            index.take(Fact::Cordoned { node: node(&n.to_string()) }, Timestamp(1));
        }
        index.take(Fact::Cordoned { node: node("0") }, Timestamp(1));
        assert_eq!(index.size().overflow, 1);
        assert_eq!(index.drain(&node(&MAX_NODES.to_string())), Underway::None);
    }

    #[test]
    fn what_hemostat_cordoned_itself_is_no_drain() {
        let by = |managers: &[(&str, &str)]| {
            let entries: Vec<_> = managers
                .iter()
                .map(|(manager, field)| {
                    serde_json::json!({"manager": manager, "operation": "Apply", "apiVersion": "v1", "fieldsType": "FieldsV1",
                        "fieldsV1": {"f:spec": {*field: {}}}})
                })
                .collect();
            let object: PartialObjectMeta<Node> = serde_json::from_value(
                serde_json::json!({"metadata": {"name": "one", "managedFields": entries}}),
            )
            .unwrap();
            read::drained(&object).is_some()
        };
        assert!(by(&[]), "nobody tells who did it: not Hemostat");
        assert!(by(&[("kubectl-cordon", "f:unschedulable"), ("hemostat-act-1", "f:taints")]));
        assert!(!by(&[("kubelet", "f:podCIDR"), ("hemostat-act-1", "f:unschedulable")]));
    }
}
