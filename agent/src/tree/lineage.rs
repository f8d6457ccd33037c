//! Ancestors, and whether the network can reach a process through one of them.

use std::sync::Arc;

use model::{Event, Exposure, Process, ProcessKey, ProcessOrigin};

use super::{Entry, Listens, Orphan, ProcessTree};

/// What was derived for an entry, and when.
pub(super) struct Lineage {
    generation: u64,
    ancestors: Arc<[Arc<Process>]>,
    exposure: Exposure,
}

impl ProcessTree {
    /// Ancestors from the parent upwards, and exposure. Derived once per image and kept until an ancestor changes.
    pub(super) fn lineage(&mut self, key: ProcessKey) -> (Arc<[Arc<Process>]>, Exposure) {
        if let Some(Entry { lineage: Some(lineage), .. }) = self.entries.get(&key)
            && lineage.generation == self.generation
        {
            return (lineage.ancestors.clone(), lineage.exposure);
        }
        let (ancestors, exposure) = self.walk(key);
        let ancestors: Arc<[Arc<Process>]> = ancestors.into();
        if let Some(entry) = self.entries.get_mut(&key) {
            let generation = self.generation;
            entry.lineage = Some(Lineage { generation, ancestors: ancestors.clone(), exposure });
        }
        (ancestors, exposure)
    }

    fn walk(&mut self, key: ProcessKey) -> (Vec<Arc<Process>>, Exposure) {
        let Some(entry) = self.entries.get(&key) else { return (Vec::new(), Exposure::None) };
        let workload = entry.image.workload.clone();
        let (own, mut above) = (entry.listens, Listens::No);
        let mut ancestors = Vec::new();
        let mut at = key;
        while ancestors.len() < Event::MAX_ANCESTORS {
            let Some(parent) = self.parent_of(at) else { break };
            self.own(parent);
            let Some(entry) = self.entries.get(&parent) else { break };
            if entry.image.workload.is_same_place(&workload) {
                above = above.max(entry.listens);
            }
            ancestors.push(entry.image.clone());
            at = parent;
        }
        (ancestors, exposure(own, above))
    }

    /// The parent's key, with an entry behind it: one that was never met is looked for in /proc, once.
    fn parent_of(&mut self, key: ProcessKey) -> Option<ProcessKey> {
        let entry = self.entries.get(&key)?;
        let parent = entry.parent?;
        if self.entries.contains_key(&parent) {
            return Some(parent);
        }
        if entry.orphan == Orphan::Yes {
            return None;
        }
        // Known by another precision of its start time.
        if let Some(known) = self.by_pid.get(&parent.pid).copied()
            && known.start.0 / super::NS_PER_TICK == parent.start.0 / super::NS_PER_TICK
        {
            self.adopt(key, known);
            return Some(known);
        }
        let Some(facts) = self.procfs.read(parent) else {
            if let Some(entry) = self.entries.get_mut(&key) {
                entry.orphan = Orphan::Yes;
            }
            return None;
        };
        let (grandparent, listens) = (facts.parent, facts.listens);
        let image = self.image_from_proc(parent, facts, ProcessOrigin::Recovered);
        self.insert(parent, grandparent, Arc::new(image), listens);
        Some(parent)
    }
}

/// Of a process and of its ancestors in the same workload: whom the network reaches directly counts before whom only this machine does.
fn exposure(own: Listens, above: Listens) -> Exposure {
    match (own, above) {
        (Listens::ToTheNetwork, _) => Exposure::Listens,
        (_, Listens::ToTheNetwork) => Exposure::BehindListener,
        (Listens::Locally, _) => Exposure::ListensLocally,
        (Listens::No, Listens::Locally) => Exposure::BehindLocalListener,
        (Listens::No, Listens::No) => Exposure::None,
    }
}
