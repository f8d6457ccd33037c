//! `kubectl exec`: the request in the API server's audit log, joined with the process that the runtime started for it.
//!
//! The runtime starts a session's first process in the container's cgroup as a child of its shim, which is outside of it. The container's own
//! first process begins in the same way, so the request decides: the same pod, the same words, and a moment that fits.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use model::{
    AgentEpoch, BootNs, Event, ExecSession, Finding, NodeId, Process, Timestamp, Truncated, Workload,
};

use super::{fact::ExecSeen, index::Index};

/// A process starts this long after the API server was asked, at most: the kubelet and the runtime take some 100 ms, a pull never comes in
/// between, and a busy node takes seconds.
const LATEST: Duration = Duration::from_secs(30);

/// Clocks of the API server and the node may differ by this much.
const SKEW: Duration = Duration::from_secs(2);

/// Nodes whose boot time is remembered.
const MAX_NODES: usize = 10_000;

/// Requests, and when nodes were booted.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    limit: usize,
    /// By pod and time.
    by_pod: HashMap<(String, String), BTreeMap<(Timestamp, String), ExecSeen>>,
    order: BTreeSet<(Timestamp, String, String, String)>,
    /// Wall clock at boot, from above: each event gives a bound, and the least is the best.
    boots: HashMap<(NodeId, AgentEpoch), i64>,
}

impl Sessions {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, ..Self::default() }
    }

    pub(super) fn take(&mut self, seen: ExecSeen) {
        let pod = (seen.namespace.clone(), seen.pod.clone());
        let key = (seen.at, seen.audit_id.clone());
        let place = (seen.at, seen.audit_id.clone(), pod.0.clone(), pod.1.clone());
        self.by_pod.entry(pod).or_default().insert(key, seen);
        self.order.insert(place);
    }

    pub(super) fn forget(&mut self, now: Timestamp, remember: Duration) {
        while let Some((at, ..)) = self.order.first()
            && (self.order.len() > self.limit || now.since(*at) > remember)
        {
            let Some((at, id, namespace, pod)) = self.order.pop_first() else { break };
            let pod = (namespace, pod);
            if let Some(of_pod) = self.by_pod.get_mut(&pod) {
                of_pod.remove(&(at, id));
                if of_pod.is_empty() {
                    self.by_pod.remove(&pod);
                }
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    /// An event cannot come before its process: that bounds when the node was booted, and the event of a fresh process bounds it closely.
    fn learn(&mut self, event: &Event) {
        let key = (event.id.node.clone(), event.id.epoch);
        let bound = event.time.0.saturating_sub(nanos(event.process.key.start));
        if let Some(known) = self.boots.get_mut(&key) {
            *known = (*known).min(bound);
            return;
        }
        // A node that started anew begins anew, and its earlier life is of no more use.
        self.boots.retain(|(node, _), _| *node != key.0);
        if self.boots.len() < MAX_NODES {
            self.boots.insert(key, bound);
        }
    }

    fn started(&self, event: &Event, process: &Process) -> Option<Timestamp> {
        let boot = self.boots.get(&(event.id.node.clone(), event.id.epoch))?;
        Some(Timestamp(boot.saturating_add(nanos(process.key.start))))
    }
}

impl Index {
    /// Takes in what an event tells of its node's clock.
    pub fn learn(&mut self, finding: &Finding) {
        if finding.event.record().is_none() {
            self.sessions.learn(&finding.event);
            for event in &finding.context {
                self.sessions.learn(event);
            }
        }
    }

    /// Who opened the session that a finding's process is in: everybody whose request fits, so that with more than one it is not certain
    /// who it was. Empty where it is no session, or the audit log has not told of it.
    #[must_use]
    pub fn sessions_of(&self, finding: &Finding) -> Vec<ExecSession> {
        let event = &finding.event;
        let Some(root) = root_of(finding) else { return Vec::new() };
        let Workload::Container { pod_uid: Some(cgroup_uid), .. } = &*root.workload else {
            return Vec::new();
        };
        let Some(uid) = self.uid_of(&event.id.node, cgroup_uid) else { return Vec::new() };
        let (Some(pod), Some(started)) = (self.pod(uid), self.sessions.started(event, root)) else {
            return Vec::new();
        };
        let Some(requests) = self.sessions.by_pod.get(&(pod.namespace.clone(), pod.name.clone())) else {
            return Vec::new();
        };
        let fits = |seen: &&ExecSeen| {
            // The name may have meant another pod when it was asked for.
            let asked_in_time = started >= back(seen.at, SKEW) && started <= seen.at.plus(LATEST);
            asked_in_time
                && self.named_at(&pod.namespace, &pod.name, seen.at).is_none_or(|then| then == uid)
                && is_command(root, &seen.command)
        };
        let found: Vec<&ExecSeen> = requests.values().filter(fits).collect();
        // The same words at nearly the same time: the last request before the start is it, unless another user's is as near.
        let nearest = found.iter().map(|seen| seen.at).filter(|at| *at <= started.plus(SKEW)).max();
        let mut users = BTreeSet::new();
        let mut sessions: Vec<ExecSession> = Vec::new();
        for seen in found.iter().rev().filter(|seen| nearest.is_some_and(|at| seen.at.plus(SKEW) >= at)) {
            if users.insert(seen.user.clone()) {
                sessions.push(ExecSession {
                    user: seen.user.clone(),
                    origin: seen.origin,
                    at: seen.at,
                    command: seen.command.clone(),
                    pod: pod.path(),
                    audit_id: seen.audit_id.clone(),
                });
            }
        }
        sessions
    }
}

/// The outermost process of the finding's cgroup that it descends from, if its parent is known not to be in it.
fn root_of(finding: &Finding) -> Option<&Process> {
    let own = &finding.event.process;
    let Workload::Container { container_id, .. } = &*own.workload else { return None };
    let inside = |process: &Process| matches!(&*process.workload, Workload::Container { container_id: other, .. } if other == container_id);
    let mut root: &Process = own;
    for ancestor in &finding.ancestors {
        if !inside(ancestor) {
            return Some(root);
        }
        root = ancestor;
    }
    // No ancestor outside is known: what the runtime starts loses its parent to the container's own first process or to nobody. What is
    // asked of it next (words and moment of the request) decides.
    Some(root)
}

/// Whether a process is what the request asked for. What was masked or cut is compared as far as it goes.
fn is_command(process: &Process, command: &str) -> bool {
    if process.command_line == command {
        return true;
    }
    let same_program = |word: &str| {
        word.rsplit('/').next() == process.args.first().and_then(|first| first.rsplit('/').next())
    };
    let first = command.split(' ').next().unwrap_or_default();
    let cut = process.args_truncated == Truncated::Yes || process.command_line.contains("***");
    cut && same_program(first)
}

fn nanos(start: BootNs) -> i64 {
    i64::try_from(start.0).unwrap_or(i64::MAX)
}

fn back(at: Timestamp, by: Duration) -> Timestamp {
    Timestamp(at.0.saturating_sub(i64::try_from(by.as_nanos()).unwrap_or(i64::MAX)))
}
