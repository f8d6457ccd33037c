//! What is kept and what is forgotten (I11).

use std::sync::Arc;

use model::{Process, ProcessKey};

use super::{Entry, Listens, Orphan, ProcessTree, Queued, image};

impl ProcessTree {
    /// Adds an entry for a key that has none.
    pub(super) fn insert(
        &mut self,
        key: ProcessKey,
        parent: Option<ProcessKey>,
        image: Arc<Process>,
        listens: Listens,
    ) {
        if self.entries.len() - self.dead >= self.limits.living {
            self.forget_living();
        }
        // A shared image weighs nothing here: it is counted where it belongs.
        let (image, weight) = if image.key == key {
            let kept = self.within_budget(&image);
            let weight = image::weight(&kept);
            (kept, weight)
        } else {
            (image, 0)
        };
        let weight = weight + size_of::<Entry>();
        let entry = Entry {
            parent,
            image,
            before: None,
            exit: None,
            queued: Queued::No,
            listens,
            weight,
            lineage: None,
            orphan: Orphan::Unknown,
        };
        // A pid that comes again while its former owner is still thought alive: that one's exit was lost.
        if let Some(former) = self.by_pid.insert(key.pid, key).filter(|former| *former != key) {
            self.presume_dead(former, key);
        }
        if let Some(parent) = parent {
            self.children.entry(parent).or_default().insert(key);
        }
        self.entries.insert(key, entry);
        self.bytes += weight;
    }

    /// A later process with the same pid proves that the former one has ended.
    fn presume_dead(&mut self, former: ProcessKey, by: ProcessKey) {
        let Some(entry) = self.entries.get_mut(&former) else { return };
        if entry.exit.is_none() {
            entry.exit = Some(model::Exit { code: 0, signal: 0, at: by.start });
            self.dead += 1;
            self.queue_if_leaf(former);
        }
    }

    pub(super) fn queue_if_leaf(&mut self, key: ProcessKey) {
        if !self.children.contains_key(&key)
            && let Some(entry) = self.entries.get_mut(&key)
            && entry.exit.is_some()
            && entry.queued == Queued::No
        {
            entry.queued = Queued::Yes;
            self.dead_leaves.push_back(key);
        }
    }

    /// Forgets what is over the limits of the dead.
    pub(super) fn trim(&mut self) {
        while self.dead > self.limits.dead {
            self.forget_needed_dead();
        }
        while self.dead_leaves.len() > self.limits.dead_leaves {
            let Some(key) = self.dead_leaves.pop_front() else { return };
            let Some(entry) = self.entries.get_mut(&key) else { continue };
            entry.queued = Queued::No;
            if !self.children.contains_key(&key) {
                self.forget(key);
            }
        }
    }

    pub(super) fn lost_child(&mut self, parent: ProcessKey, child: ProcessKey) {
        if let Some(children) = self.children.get_mut(&parent) {
            children.remove(&child);
            if children.is_empty() {
                self.children.remove(&parent);
                self.queue_if_leaf(parent);
            }
        }
    }

    pub(super) fn forget(&mut self, key: ProcessKey) {
        let Some(entry) = self.entries.remove(&key) else { return };
        self.bytes -= entry.weight;
        if entry.exit.is_some() {
            self.dead -= 1;
        }
        if self.by_pid.get(&key.pid) == Some(&key) {
            self.by_pid.remove(&key.pid);
        }
        if let Some(parent) = entry.parent {
            self.lost_child(parent, key);
        }
    }

    /// A chain of processes that each fork and end leaves every link needed by the last: the oldest eighth goes.
    fn forget_needed_dead(&mut self) {
        let mut ended: Vec<_> =
            self.entries.iter().filter_map(|(key, entry)| entry.exit.map(|exit| (exit.at, *key))).collect();
        ended.sort_unstable();
        for (_, key) in ended.into_iter().take(self.limits.dead / 8 + 1) {
            self.forget(key);
        }
        self.generation += 1;
    }

    /// Living ones without children that started first: of all, they are the likeliest to be idle, and /proc still has them. Those that
    /// wait for peers go last.
    fn forget_living(&mut self) {
        let mut living: Vec<(Listens, ProcessKey)> = self
            .entries
            .iter()
            .filter(|(key, entry)| entry.exit.is_none() && !self.children.contains_key(key))
            .map(|(key, entry)| (entry.listens, *key))
            .collect();
        living.sort_unstable_by_key(|(listens, key)| (*listens, key.start));
        for (_, key) in living.into_iter().take(self.limits.living / 8 + 1) {
            self.forget(key);
        }
        self.generation += 1;
    }
}
