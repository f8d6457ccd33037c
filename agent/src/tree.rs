//! Which process is which: built from the kernel's records, with ancestry that survives exits.
//!
//! **Order.** Records of critical classes and bulk records come through two rings, so a file event may be read after the exec
//! that followed it. Instead of delaying records until they are in order, each entry keeps the image before its last exec: a
//! record is given the image that was in force at its own time. A record of a process that the tree has not met creates it,
//! from what the record's task says and from /proc.
//!
//! **Bounds** ([`Limits`]): dead processes are kept while a living descendant needs them, and beyond that the last ones only.

mod image;
mod lineage;
mod memory;
pub mod procfs;

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
};

use model::{Activity, BootNs, CgroupId, Exit, Exposure, Pid, Process, ProcessKey, ProcessOrigin};

use crate::{
    record::{Body, ExecFacts, Record, Task},
    workload::WorkloadSource,
};

pub(crate) use self::image::floor_char_boundary;
pub use self::procfs::{ProcSource, Procfs};

/// `/proc/PID/stat` gives start times in these; USER_HZ is 100 on every architecture that Hemostat is built for
/// (include/asm-generic/param.h).
pub const NS_PER_TICK: u64 = 10_000_000;

/// What the tree may hold (I11).
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Living processes. Beyond, the ones without children that started first are forgotten; a later record of theirs recovers
    /// them from /proc.
    pub living: usize,
    /// Dead processes without a known child, kept for records that are still on their way and for context.
    pub dead_leaves: usize,
    /// All dead processes, those that living descendants need included; beyond, the ones that ended first are forgotten.
    pub dead: usize,
    /// Bytes of all images. Beyond, new images are kept with their arguments cut (the event itself is whole).
    pub bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { living: 16_384, dead_leaves: 1_024, dead: 8_192, bytes: 12 << 20 }
    }
}

/// How much the tree holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sizes {
    /// Living processes.
    pub living: usize,
    /// Dead processes.
    pub dead: usize,
    /// Bytes of images, estimated.
    pub bytes: usize,
}

/// A record's process with its surroundings.
#[derive(Debug, Clone)]
pub struct View {
    /// Who did it, as it was at the time of the record.
    pub process: Arc<Process>,
    /// From the parent upwards, at most [`model::Event::MAX_ANCESTORS`].
    pub ancestors: Arc<[Arc<Process>]>,
    /// Whether the network can reach it.
    pub exposure: Exposure,
}

/// All processes that were seen.
pub struct ProcessTree {
    entries: HashMap<ProcessKey, Entry>,
    by_pid: HashMap<Pid, ProcessKey>,
    /// The entries that name a key as their parent, whether or not that has an entry itself.
    children: HashMap<ProcessKey, HashSet<ProcessKey>>,
    dead_leaves: VecDeque<ProcessKey>,
    dead: usize,
    bytes: usize,
    /// Moves when an image or a listener changes that descendants may have cached.
    generation: u64,
    limits: Limits,
    procfs: Box<dyn ProcSource>,
    workloads: Box<dyn WorkloadSource>,
}

struct Entry {
    parent: Option<ProcessKey>,
    /// Its own image, or its parent's while it has not done anything of its own: a fork costs no copy.
    image: Arc<Process>,
    /// The image before the last exec, in force until that time.
    before: Option<(BootNs, Arc<Process>)>,
    exit: Option<Exit>,
    queued: Queued,
    listens: Listens,
    /// Bytes that it adds.
    weight: usize,
    lineage: Option<lineage::Lineage>,
    /// Its parent is not to be found: not looked for again.
    orphan: Orphan,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Queued {
    No,
    Yes,
}

/// Whether a process has waited for peers, and from how far they may come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Listens {
    /// Not that anybody saw.
    #[default]
    No,
    /// On loopback or a unix socket: programs of this machine reach it, a proxy among them may be reached by anybody.
    Locally,
    /// At another address.
    ToTheNetwork,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Orphan {
    Unknown,
    Yes,
}

impl ProcessTree {
    /// An empty tree.
    #[must_use]
    pub fn new(limits: Limits, procfs: Box<dyn ProcSource>, workloads: Box<dyn WorkloadSource>) -> Self {
        Self {
            entries: HashMap::new(),
            by_pid: HashMap::new(),
            children: HashMap::new(),
            dead_leaves: VecDeque::new(),
            dead: 0,
            bytes: 0,
            generation: 0,
            limits,
            procfs,
            workloads,
        }
    }

    /// Takes in what already runs. `exact` are the kernel's own start times, where it can list its tasks; without them starts are
    /// known in ticks. Call it after the probes are attached: what starts meanwhile is known from both sides, and the kernel's word
    /// wins. Returns how many were found.
    pub fn bootstrap(&mut self, exact: &[ProcessKey]) -> usize {
        let exact: HashMap<Pid, ProcessKey> = exact.iter().map(|key| (key.pid, *key)).collect();
        let precise = |coarse: ProcessKey| match exact.get(&coarse.pid) {
            Some(key) if key.start.0 / NS_PER_TICK == coarse.start.0 / NS_PER_TICK => *key,
            _ => coarse,
        };
        let found = self.procfs.all();
        let count = found.len();
        for mut facts in found {
            let key = precise(facts.key());
            if self.entries.contains_key(&key) || self.same_tick(key).is_some() || self.known_exactly(key) {
                continue;
            }
            let listens = facts.listens;
            facts.parent = facts.parent.map(precise);
            let parent = facts.parent;
            let image = self.image_from_proc(key, facts, ProcessOrigin::Bootstrap);
            self.insert(key, parent, Arc::new(image), listens);
        }
        // Parents are named by pid and tick in /proc; tie children to the entries that they mean.
        let keys: Vec<ProcessKey> = self.entries.keys().copied().collect();
        for key in keys {
            self.tie_to_parent(key);
        }
        self.trim();
        count
    }

    /// A process as it is known now, with its surroundings.
    pub fn look(&mut self, key: ProcessKey) -> Option<View> {
        let key = self.same_tick(key).unwrap_or(key);
        self.own(key);
        let (ancestors, exposure) = self.lineage(key);
        let process = self.entries.get(&key)?.image.clone();
        Some(View { process, ancestors, exposure })
    }

    /// A process as /proc has it now: what is known of one whose exec no record told of is the program before it. `None` if it has
    /// ended.
    pub fn look_anew(&mut self, key: ProcessKey) -> Option<View> {
        self.rekey(key);
        let facts = self.procfs.read(key)?;
        let (parent, listens) = (facts.parent, facts.listens);
        let mut image = self.image_from_proc(key, facts, ProcessOrigin::Recovered);
        if let Some(known) = self.entries.get(&key) {
            image.parent = known.parent;
            let image = self.within_budget(&Arc::new(image));
            let weight = image::weight(&image);
            if let Some(entry) = self.entries.get_mut(&key) {
                self.bytes = self.bytes + weight - entry.weight;
                entry.weight = weight;
                entry.image = image;
                entry.listens = entry.listens.max(listens);
                entry.lineage = None;
                self.generation += 1;
            }
        } else {
            self.insert(key, parent, Arc::new(image), listens);
            self.tie_to_parent(key);
        }
        let (ancestors, exposure) = self.lineage(key);
        let process = self.entries.get(&key)?.image.clone();
        self.trim();
        Some(View { process, ancestors, exposure })
    }

    /// Living processes that descend from `of`, also through parents that have ended.
    #[must_use]
    pub fn descendants(&self, of: ProcessKey) -> Vec<ProcessKey> {
        let mut found = Vec::new();
        let mut seen = HashSet::new();
        let mut to_visit = vec![self.same_tick(of).unwrap_or(of)];
        while let Some(key) = to_visit.pop() {
            for child in self.children.get(&key).into_iter().flatten() {
                // Damaged ancestry must not make a circle.
                if !seen.insert(*child) {
                    continue;
                }
                if self.entries.get(child).is_some_and(|entry| entry.exit.is_none()) {
                    found.push(*child);
                }
                to_visit.push(*child);
            }
        }
        found
    }

    /// Takes in a record and says whose it is.
    pub fn take_in(&mut self, record: &Record) -> View {
        let view = self.take(record);
        self.trim();
        view
    }

    fn take(&mut self, record: &Record) -> View {
        match &record.body {
            Body::Exec(facts) => self.exec(&record.task, record.at, facts),
            Body::Fork { child, child_cgroup } => {
                let view = self.view(&record.task, record.at);
                self.fork(record.task.key, *child, *child_cgroup);
                view
            }
            Body::Exit(exit) => {
                let view = self.view(&record.task, record.at);
                self.exit(record.task.key, *exit);
                view
            }
            Body::Act(activity) => {
                self.known(&record.task);
                self.change(record.task.key, activity);
                self.view(&record.task, record.at)
            }
        }
    }

    /// What is known of a process now.
    #[must_use]
    pub fn process(&self, key: ProcessKey) -> Option<&Arc<Process>> {
        self.entries.get(&key).map(|entry| &entry.image)
    }

    /// The living process with this pid, as far as known.
    #[must_use]
    pub fn living(&self, pid: Pid) -> Option<ProcessKey> {
        self.by_pid.get(&pid).copied()
    }

    /// How much it holds.
    #[must_use]
    pub fn sizes(&self) -> Sizes {
        Sizes { living: self.entries.len() - self.dead, dead: self.dead, bytes: self.bytes }
    }

    /// Living processes, as far as known: to be compared with /proc, since a record of an exit may be lost.
    #[must_use]
    pub fn living_keys(&self) -> Vec<ProcessKey> {
        self.by_pid.values().copied().collect()
    }

    /// These have ended, and no record said so.
    pub fn have_ended(&mut self, keys: &[ProcessKey], now: BootNs) {
        for key in keys {
            self.exit(*key, Exit { code: 0, signal: 0, at: now });
        }
        self.trim();
    }

    fn view(&mut self, task: &Task, at: BootNs) -> View {
        self.known(task);
        self.refresh(task);
        let (ancestors, exposure) = self.lineage(task.key);
        let process = match self.entries.get(&task.key) {
            Some(Entry { before: Some((until, before)), parent, .. }) if at < *until => {
                // A process that had only forked until then shared its parent's image.
                let parent = parent.unwrap_or(before.key);
                if before.key == task.key {
                    before.clone()
                } else {
                    image::forked(before, task.key, parent, None).into()
                }
            }
            Some(entry) => entry.image.clone(),
            // Limits may have forgotten it just now.
            None => Arc::new(self.image_unknown(task)),
        };
        View { process, ancestors, exposure }
    }

    fn exec(&mut self, task: &Task, at: BootNs, facts: &ExecFacts) -> View {
        let key = task.key;
        self.rekey(key);
        let parent = self.entries.get(&key).map_or(Some(task.parent), |entry| entry.parent);
        let parent = parent.filter(|parent| *parent != key);
        let workload = self.workloads.resolve(task.cgroup, key.pid);
        let image = Arc::new(image::from_exec(task, parent, facts, workload));
        let kept = self.within_budget(&image);
        let weight = image::weight(&kept);
        match self.entries.get_mut(&key) {
            Some(entry) => {
                // An exec that was overtaken by a later one must not replace it.
                if entry.before.as_ref().is_some_and(|(until, _)| at < *until) {
                    entry.before = Some((at, kept));
                } else {
                    let old = std::mem::replace(&mut entry.image, kept);
                    entry.before = Some((at, old));
                    entry.lineage = None;
                    self.bytes = self.bytes + weight - entry.weight;
                    entry.weight = weight;
                    if self.children.contains_key(&key) {
                        self.generation += 1;
                    }
                }
            }
            None => self.insert(key, parent, kept, Listens::No),
        }
        let (ancestors, exposure) = self.lineage(key);
        View { process: image, ancestors, exposure }
    }

    fn fork(&mut self, parent: ProcessKey, child: ProcessKey, child_cgroup: CgroupId) {
        if child == parent || child.pid == parent.pid {
            return; // a thread
        }
        if self.entries.contains_key(&child) {
            // Its own records came first: they could only guess its parent.
            self.adopt(child, parent);
            return;
        }
        let Some(image) = self.entries.get(&parent).map(|entry| entry.image.clone()) else { return };
        let image = if image.cgroup == child_cgroup {
            image // shared until the child does something of its own
        } else {
            let workload = self.workloads.resolve(child_cgroup, child.pid);
            Arc::new(image::forked(&image, child, parent, Some((child_cgroup, workload))))
        };
        self.insert(child, Some(parent), image, Listens::No);
    }

    fn exit(&mut self, key: ProcessKey, exit: Exit) {
        let key = self.same_tick(key).unwrap_or(key);
        let Some(entry) = self.entries.get_mut(&key) else { return };
        if entry.exit.is_some() {
            return;
        }
        entry.exit = Some(exit);
        if entry.image.key == key {
            // Copies only if an event still holds it.
            Arc::make_mut(&mut entry.image).exit = Some(exit);
        }
        if self.by_pid.get(&key.pid) == Some(&key) {
            self.by_pid.remove(&key.pid);
        }
        self.dead += 1;
        self.queue_if_leaf(key);
    }

    fn change(&mut self, key: ProcessKey, activity: &Activity) {
        match activity {
            Activity::NamespaceChange { after, .. } => {
                self.own(key);
                if let Some(entry) = self.entries.get_mut(&key) {
                    Arc::make_mut(&mut entry.image).namespaces = *after;
                }
            }
            Activity::Listen { local, .. } | Activity::Bind { local, protocol: model::Protocol::Udp }
                if local.port != 0 =>
            {
                let loopback = local.addr.to_canonical().is_loopback();
                self.listens(key, if loopback { Listens::Locally } else { Listens::ToTheNetwork });
            }
            _ => {}
        }
    }

    /// These were found to wait for peers: on unix sockets, of which no record tells, or their records were lost.
    pub fn have_listeners(&mut self, found: &[(ProcessKey, Listens)]) {
        for (key, listens) in found {
            self.listens(self.same_tick(*key).unwrap_or(*key), *listens);
        }
    }

    fn listens(&mut self, key: ProcessKey, listens: Listens) {
        if let Some(entry) = self.entries.get_mut(&key)
            && entry.listens < listens
        {
            entry.listens = listens;
            entry.lineage = None;
            self.generation += 1;
        }
    }

    /// Credentials and cgroup of the task at the hook are newer than those of its exec.
    fn refresh(&mut self, task: &Task) {
        self.own(task.key);
        let Some(entry) = self.entries.get(&task.key) else { return };
        if entry.image.credentials == task.credentials && entry.image.cgroup == task.cgroup {
            return;
        }
        let workload = if entry.image.cgroup == task.cgroup {
            entry.image.workload.clone()
        } else {
            self.workloads.resolve(task.cgroup, task.key.pid)
        };
        if let Some(entry) = self.entries.get_mut(&task.key) {
            let image = Arc::make_mut(&mut entry.image);
            image.credentials = task.credentials;
            image.cgroup = task.cgroup;
            image.workload = workload;
            entry.lineage = None;
        }
    }

    /// Gives a forked process an image of its own.
    fn own(&mut self, key: ProcessKey) {
        let Some(entry) = self.entries.get_mut(&key) else { return };
        if entry.image.key == key {
            return;
        }
        let parent = entry.parent.unwrap_or(entry.image.key);
        let image = Arc::new(image::forked(&entry.image, key, parent, None));
        let image = self.within_budget(&image);
        let weight = image::weight(&image);
        if let Some(entry) = self.entries.get_mut(&key) {
            self.bytes = self.bytes + weight - entry.weight;
            entry.weight = weight;
            entry.image = image;
        }
    }

    /// Makes sure that the task's process has an entry.
    fn known(&mut self, task: &Task) {
        self.rekey(task.key);
        if self.entries.contains_key(&task.key) {
            return;
        }
        let key = task.key;
        let parent = Some(task.parent).filter(|parent| *parent != key && parent.pid != Pid(0));
        let (image, listens) = match self.procfs.read(key) {
            Some(facts) => {
                let listens = facts.listens;
                (self.image_from_proc(key, facts, ProcessOrigin::Recovered), listens)
            }
            None => (self.image_unknown(task), Listens::No),
        };
        self.insert(key, parent, Arc::new(image), listens);
    }

    /// A process met in /proc has a start time in ticks; the kernel's first record of it brings the exact one.
    fn rekey(&mut self, exact: ProcessKey) {
        let Some(coarse) = self.same_tick(exact) else { return };
        if self.entries.contains_key(&exact) {
            self.forget(coarse); // met again in /proc after the kernel had told of it
        } else if let Some(mut entry) = self.entries.remove(&coarse) {
            Arc::make_mut(&mut entry.image).key = exact;
            entry.lineage = None;
            if let Some(siblings) = entry.parent.and_then(|parent| self.children.get_mut(&parent)) {
                siblings.remove(&coarse);
                siblings.insert(exact);
            }
            self.entries.insert(exact, entry);
            self.by_pid.insert(exact.pid, exact);
        }
        self.generation += 1;
        for child in self.children.remove(&coarse).unwrap_or_default() {
            let Some(entry) = self.entries.get_mut(&child) else { continue };
            entry.parent = Some(exact);
            if entry.image.parent == Some(coarse) {
                Arc::make_mut(&mut entry.image).parent = Some(exact);
            }
            self.children.entry(exact).or_default().insert(child);
        }
    }

    /// The entry from /proc that is this process, if its start is known in ticks only.
    fn same_tick(&self, exact: ProcessKey) -> Option<ProcessKey> {
        let known = *self.by_pid.get(&exact.pid)?;
        let coarse = known.start.0.is_multiple_of(NS_PER_TICK)
            && known.start.0 / NS_PER_TICK == exact.start.0 / NS_PER_TICK;
        (known != exact && coarse).then_some(known)
    }

    /// Whether a key in ticks means a process whose exact start is known.
    fn known_exactly(&self, coarse: ProcessKey) -> bool {
        self.by_pid.get(&coarse.pid).is_some_and(|known| {
            *known != coarse && known.start.0 / NS_PER_TICK == coarse.start.0 / NS_PER_TICK
        })
    }

    fn tie_to_parent(&mut self, key: ProcessKey) {
        let Some(parent) = self.entries.get(&key).and_then(|entry| entry.parent) else { return };
        if self.entries.contains_key(&parent) {
            return;
        }
        if let Some(exact) = self.by_pid.get(&parent.pid).copied().filter(|exact| *exact != key) {
            self.adopt(key, exact);
        }
    }

    fn adopt(&mut self, child: ProcessKey, parent: ProcessKey) {
        let Some(entry) = self.entries.get_mut(&child) else { return };
        if entry.parent == Some(parent) {
            return;
        }
        let old = entry.parent.replace(parent);
        if entry.image.key == child {
            Arc::make_mut(&mut entry.image).parent = Some(parent);
        }
        entry.lineage = None;
        entry.orphan = Orphan::Unknown;
        self.generation += 1;
        if let Some(old) = old {
            self.lost_child(old, child);
        }
        self.children.entry(parent).or_default().insert(child);
    }
}

#[cfg(test)]
mod tests;
