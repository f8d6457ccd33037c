//! Whether the attack goes on although a step's effect was seen: what the sensors saw since, as values.
//!
//! Bounded: each way of a step is watched once, for the time that its playbook names, and takes one sign; so a run writes down at most
//! as many signs as its playbook has ways.

use crds::Sign;
use model::{
    Activity, AuditKind, CgroupId, Finding, Level, NodeAction, NodeId, ProcessKey, Reaction, Target,
    Timestamp, Workload,
};

use super::{
    Change, Effect, Run,
    state::{ActionRun, Pending, Phase, Watch},
    system,
};

/// Characters of what a sensor saw that are written down, at most (I11).
const MAX_WHAT: usize = 256;

/// What a sensor saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sight {
    /// When it happened, by the sensor's clock.
    pub at: Timestamp,
    /// Where.
    pub node: NodeId,
    /// What.
    pub happened: Happened,
    /// By which process, where a process is known.
    pub process: Option<ProcessKey>,
    /// Its ancestors, from the parent upwards.
    pub ancestors: Vec<ProcessKey>,
    /// Its executable; empty where it is not known.
    pub exe: String,
    /// Its cgroup and the path of that, where it is known.
    pub cgroup: Option<(CgroupId, String)>,
    /// Uid of its pod, where it is known.
    pub pod: Option<String>,
    /// The rule that found it, where one did.
    pub rule: Option<String>,
    /// Who tells it, for the record: a finding's id, a flow log.
    pub source: String,
}

/// What happened, as far as a run watches for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Happened {
    /// A program was started.
    Started,
    /// A connection was asked for; whether it came about is not known.
    Tried {
        /// The other end.
        remote: std::net::IpAddr,
    },
    /// A connection came about.
    Connected {
        /// The other end, where it is known.
        remote: Option<std::net::IpAddr>,
    },
    /// Something else.
    Other,
}

impl Sight {
    /// What a finding tells; `at` is its own time, or that of its last repetition.
    #[must_use]
    pub fn of(finding: &Finding, at: Timestamp) -> Self {
        let event = &finding.event;
        let process = &event.process;
        let known = process.key.pid.0 != 0 && process.key.start.0 != 0;
        let happened = match &event.activity {
            Activity::Exec { .. } => Happened::Started,
            Activity::Connect(flow) => Happened::Tried { remote: flow.remote.addr },
            Activity::Accept(flow) => Happened::Connected { remote: Some(flow.remote.addr) },
            _ => Happened::Other,
        };
        let pod = match &*process.workload {
            Workload::Container { pod_uid, .. } => pod_uid.clone(),
            _ => None,
        };
        Self {
            at,
            node: event.id.node.clone(),
            happened,
            process: known.then_some(process.key),
            ancestors: finding.ancestors.iter().map(|ancestor| ancestor.key).collect(),
            exe: process.exe.clone(),
            cgroup: process.workload.cgroup_path().map(|path| (process.cgroup, path.to_owned())),
            pod,
            rule: Some(finding.rule.id.clone()),
            source: format!("finding {}", finding.id),
        }
    }

    /// What a flow log tells of a pod.
    #[must_use]
    pub fn of_flow(node: NodeId, pod: String, happened: Happened, at: Timestamp) -> Self {
        Self {
            at,
            node,
            happened,
            process: None,
            ancestors: Vec::new(),
            exe: String::new(),
            cgroup: None,
            pod: Some(pod),
            rule: None,
            source: "flow log".into(),
        }
    }

    /// What the repetition of a finding at `last` tells. Unless each process of its rule has a finding of its own, it may be another one
    /// of the same executable and cgroup.
    #[must_use]
    pub fn again(finding: &Finding, last: Timestamp) -> Self {
        let mut sight = Self::of(finding, last);
        if finding.rule.level < Level::High && finding.rule.reaction == Reaction::None {
            (sight.process, sight.ancestors) = (None, Vec::new());
        }
        sight
    }

    fn told(&self, sign: Sign) -> String {
        let remote = match &self.happened {
            Happened::Tried { remote } | Happened::Connected { remote: Some(remote) } => {
                format!(" with {remote}")
            }
            _ => String::new(),
        };
        let who = match (&self.process, self.exe.as_str()) {
            (Some(process), exe) => format!("pid {} ({})", process.pid, exe.escape_debug()),
            (None, "") => "the pod".into(),
            (None, exe) => exe.escape_debug().to_string(),
        };
        let place = self.cgroup.as_ref().map(|(_, path)| format!(" in {}", path.escape_debug()));
        let what = match sign {
            Sign::Connections => format!("{who} has a connection{remote}"),
            Sign::Return => format!("{who} was started{}", place.unwrap_or_default()),
            Sign::Spread => {
                format!("the same rule speaks of {who}{} on {}", place.unwrap_or_default(), self.node)
            }
        };
        let text: String = format!("{what} ({})", self.source).chars().take(MAX_WHAT).collect();
        text
    }
}

impl Run {
    /// Whether signs are watched for at all now.
    #[must_use]
    pub fn is_watching(&self) -> bool {
        self.actions.iter().any(ActionRun::is_watched)
    }

    /// Whether a sensor's word is a sign that one of the run's steps waits for.
    #[must_use]
    pub fn heeds(&self, sight: &Sight) -> bool {
        (0..self.actions.len()).any(|index| self.sign(index, sight).is_some())
    }

    /// Uids of pods of which it wants to know whether they have connections, and since when.
    #[must_use]
    pub fn watched_pods(&self) -> Vec<(String, Timestamp)> {
        let watched = self.actions.iter().filter(|action| action.is_watched());
        let wants = watched.filter(|action| self.signs(action).contains(&Sign::Connections));
        wants.filter_map(|action| Some((pod_of(action)?, action.applied?))).collect()
    }

    pub(super) fn is_to_be_watched(&self, index: usize) -> bool {
        let action = &self.actions[index];
        let wants = action.step.is_some_and(|step| self.plan.steps[step].observe.is_some());
        wants && action.watch == Watch::NotYet && self.phase == Phase::Forward && !action.wanted_back
    }

    /// Begins to watch, or goes on after the node was away: nothing is seen through eyes that are shut.
    pub(super) fn begin_watch(&mut self, index: usize, now: Timestamp, out: &mut Vec<Effect>) {
        let action = &self.actions[index];
        let observe = action.step.and_then(|step| self.plan.steps[step].observe.as_ref());
        let Some(period) = observe.map(|observe| observe.period.0) else { return };
        let again = action.watch == Watch::On;
        // A node that comes and goes does not keep a run for ever.
        let until = if again { now.plus(period).min(self.last_begin()) } else { now.plus(period) };
        let action = action.id.clone();
        self.record(Change::Watching { action, until }, now, out);
    }

    pub(super) fn observe(&mut self, sight: &Sight, now: Timestamp, out: &mut Vec<Effect>) {
        for index in 0..self.actions.len() {
            let Some(sign) = self.sign(index, sight) else { continue };
            let (action, what) = (self.actions[index].id.clone(), sight.told(sign));
            let told = format!("observed ({sign}): {what}");
            let change = Change::Observed { action: action.clone(), sign, at: sight.at, what };
            self.record(change, now, out);
            out.push(self.audit(AuditKind::Outcome, system(), Some(action), told));
        }
    }

    /// Names of the signs that a step's ways were answered with.
    pub(super) fn signs_of(&self, step: usize) -> Vec<String> {
        let of_step = self.actions.iter().filter(|action| action.step == Some(step));
        let seen = of_step.filter_map(|action| match &action.watch {
            Watch::Seen(sign, _) => Some(sign.to_string()),
            _ => None,
        });
        seen.collect()
    }

    fn signs(&self, action: &ActionRun) -> &[Sign] {
        let observe = action.step.and_then(|step| self.plan.steps[step].observe.as_ref());
        observe.map_or(&[], |observe| &observe.against)
    }

    /// What a sight says of an action that is watched: what came before its effect says nothing of it.
    fn sign(&self, index: usize, sight: &Sight) -> Option<Sign> {
        let action = &self.actions[index];
        let Pending::Watch { until } = action.pending else { return None };
        if action.watch != Watch::On || sight.at > until || action.applied.is_none_or(|at| sight.at <= at) {
            return None;
        }
        let holds = |sign: Sign| match sign {
            Sign::Connections => self.connects(action, sight),
            Sign::Return => self.returns(sight),
            Sign::Spread => self.spreads(sight),
        };
        self.signs(action).iter().copied().find(|sign| holds(*sign))
    }

    fn connects(&self, action: &ActionRun, sight: &Sight) -> bool {
        let came_about = match &sight.happened {
            Happened::Connected { .. } => true,
            Happened::Tried { remote } => a_try_counts(action.action(), *remote),
            Happened::Started | Happened::Other => false,
        };
        came_about && self.is_about(action, sight)
    }

    /// Whether the sight is of what the action was done to, or of what belongs to it.
    fn is_about(&self, action: &ActionRun, sight: &Sight) -> bool {
        let here = sight.node == self.start.node;
        match action.target() {
            Target::Process { process, .. } => {
                here && (sight.process == Some(*process) || sight.ancestors.contains(process))
            }
            Target::Cgroup { path, .. } => {
                let inside = |inner: &str| {
                    inner
                        .strip_prefix(path.as_str())
                        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
                };
                here && sight.cgroup.as_ref().is_some_and(|(_, inner)| inside(inner))
            }
            _ => pod_of(action).is_some_and(|uid| sight.pod.as_deref() == Some(uid.as_str())),
        }
    }

    fn returns(&self, sight: &Sight) -> bool {
        let facts = &self.start.facts;
        let exe = facts.process.get("exe").and_then(|exe| exe.as_str()).unwrap_or_default();
        let another = sight.process.is_none() || sight.process != facts.subject.process;
        sight.happened == Happened::Started
            && another
            && !exe.is_empty()
            && sight.exe == exe
            && self.is_here(sight)
    }

    fn spreads(&self, sight: &Sight) -> bool {
        let rule = self.start.facts.finding.get("rule").and_then(|rule| rule.as_str());
        let certain = sight.pod.is_some() || sight.cgroup.is_some();
        rule.is_some() && sight.rule.as_deref() == rule && certain && !self.is_here(sight)
    }

    /// Whether it happened in the workload that the run is about.
    fn is_here(&self, sight: &Sight) -> bool {
        let subject = &self.start.facts.subject;
        let pod = subject.pod.as_ref().map(|pod| pod.uid.as_str()).filter(|uid| !uid.is_empty());
        if pod.is_some() && sight.pod.is_some() {
            return pod == sight.pod.as_deref();
        }
        let path = |cgroup: &Option<(CgroupId, String)>| cgroup.as_ref().map(|(_, path)| path.clone());
        sight.node == self.start.node
            && subject.cgroup.is_some()
            && path(&sight.cgroup) == path(&subject.cgroup)
    }
}

/// The pod that an action is done to as a whole: a container of it may talk on where another is held.
fn pod_of(action: &ActionRun) -> Option<String> {
    match action.target() {
        Target::Object(object) if object.kind == "Pod" && !object.uid.is_empty() => Some(object.uid.clone()),
        _ => None,
    }
}

impl ActionRun {
    fn is_watched(&self) -> bool {
        matches!(self.pending, Pending::Watch { .. })
    }
}

/// Whether a connection that is only asked for shows that an action does not hold: what has to stand still asks for nothing, and what is
/// cut off may ask in vain.
fn a_try_counts(action: &NodeAction, remote: std::net::IpAddr) -> bool {
    match action {
        NodeAction::NetQuarantine(_) | NodeAction::Cluster(_) => false,
        NodeAction::BlockDestination(block) => !block.destination.contains(&remote),
        _ => true,
    }
}
