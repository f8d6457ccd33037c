//! The second signal: whether something else explains what was found.

use crds::Maintenance;
use model::{
    Attribution, OwnerChain, PodFacts, Process, Signal, SignalKind, SignalSays, StartedBy, Timestamp,
    Workload,
};

use super::{Situation, rules::Rules, wants};
use crate::plan::Plan;

/// A label on a pod or its namespace: `off` keeps everything automatic away from it.
pub const SWITCH: &str = "hemostat.dev/automatic";
/// Labels by which pipelines mark their pods.
const PIPELINES: [&str; 8] = [
    "tekton.dev/taskRun",
    "tekton.dev/pipelineRun",
    "actions.github.com/scale-set-name",
    "job.runner.gitlab.com/id",
    "job.gitlab.com/id",
    "workflows.argoproj.io/workflow",
    "jenkins/label",
    "buildkite.com/job-uuid",
];
/// Beginnings of the names of units that run pipelines.
const RUNNERS: [&str; 4] = ["gitlab-runner", "actions.runner.", "jenkins", "buildkite-agent"];
/// Programs that start scheduled jobs, and their units.
const SCHEDULERS: [&str; 5] = ["cron", "crond", "anacron", "atd", "fcron"];
/// Where programs are that only root puts there.
const INSTALLED: [&str; 5] = ["/usr/", "/sbin/", "/bin/", "/nix/store/", "/gnu/store/"];
/// Beginning of the cgroups in which OpenRC starts services.
const OPENRC: &str = "/openrc";
/// Scheduled task: what an attack by cron is found as.
const BY_SCHEDULE: &str = "T1053";

pub(super) fn signal(plan: &Plan, situation: &Situation<'_>, rules: &Rules<'_>) -> Signal {
    let mut conflicts = Vec::new();
    if let Some(switch) = switched_off(situation) {
        conflicts.push(switch);
    }
    conflicts.extend(
        rules.maintenance.iter().filter(|(_, one)| is_on(one, situation.now)).map(|(policy, one)| {
            format!("policy {policy}: planned work until {}: {}", one.until.0, one.reason)
        }),
    );
    conflicts.extend(schedule(situation));
    conflicts.extend(pipeline(situation));
    let underway = [("a rollout", &situation.evidence.rollout), ("a drain", &situation.evidence.drain)];
    conflicts.extend(underway.into_iter().filter_map(|(what, one)| match one {
        Underway::None => None,
        Underway::Goes(which) => Some(which.clone()),
        Underway::Unknown(because) => Some(format!("whether {what} goes on is not known: {because}")),
    }));
    conflicts.extend(wants::conflicts(plan, situation, rules));
    let says = if conflicts.is_empty() { SignalSays::Act } else { SignalSays::Ask };
    if conflicts.is_empty() {
        conflicts.push(
            "no planned work, no schedule, pipeline, rollout or drain, and neither many targets at once nor one actor in many namespaces"
                .into(),
        );
    }
    Signal { kind: SignalKind::Context, says, found: None, needed: None, evidence: conflicts }
}

/// Whether something goes on that the cluster's operators do and that moves workloads about: a rollout, a drain.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Underway {
    /// It does not, or there is nothing that it could be about.
    #[default]
    None,
    /// It does: what.
    Goes(String),
    /// It cannot be known.
    Unknown(String),
}

fn pod<'a>(situation: &Situation<'a>) -> Option<&'a PodFacts> {
    match &wants::pod_of(situation.incident, situation.finding)?.attribution {
        Attribution::Resolved { pod, .. } => Some(pod),
        _ => None,
    }
}

fn switched_off(situation: &Situation<'_>) -> Option<String> {
    let pod = pod(situation)?;
    let is_off = |value: Option<&String>| value.is_some_and(|value| value != "on");
    if is_off(pod.labels.get(SWITCH)) {
        Some(format!("label {SWITCH} of pod {} keeps automatic response away", pod.path()))
    } else if is_off(pod.namespace_labels.get(SWITCH)) {
        Some(format!("label {SWITCH} of namespace {} keeps automatic response away", pod.namespace))
    } else {
        None
    }
}

fn schedule(situation: &Situation<'_>) -> Option<String> {
    if let Some(pod) = pod(situation) {
        let job = pod.owners.iter().rev().find(|owner| matches!(owner.kind.as_str(), "CronJob" | "Job"));
        let open = if pod.chain == OwnerChain::Open { ", whose owner is not known" } else { "" };
        return job.map(|job| format!("pod {} is of {} {}{open}", pod.path(), job.kind, job.name));
    }
    let findings = situation.incident.findings.iter().chain([situation.finding]);
    let mut techniques = findings.flat_map(|finding| &finding.rule.techniques);
    if techniques
        .any(|one| one.strip_prefix(BY_SCHEDULE).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')))
    {
        // The schedule is what was found.
        return None;
    }
    if let Some(by) = situation.finding.ancestors.iter().find(|ancestor| schedules(ancestor)) {
        return Some(format!("{} started it: a scheduled job", by.exe));
    }
    // A login that a job makes (su, sudo -i) is in a scope of its own: whose it is stands above it.
    [&situation.finding.event.process].into_iter().chain(&situation.finding.ancestors).find_map(|process| {
        let workload = process.workload.as_ref();
        let unit = workload.system_unit()?;
        match workload {
            _ if unit.strip_suffix(".service").is_some_and(|name| SCHEDULERS.contains(&name)) => {
                Some(format!("it is of {unit}: a scheduled job"))
            }
            Workload::Unit { started_by: StartedBy::Timer { timer }, .. } => {
                Some(format!("{timer} starts unit {unit}: a scheduled job"))
            }
            Workload::Unit { started_by: StartedBy::Unknown, .. } => {
                Some(format!("whether a timer starts unit {unit} could not be read there"))
            }
            _ => None,
        }
    })
}

/// Whether it is a program of the host that starts scheduled jobs. By its name alone anybody's would be, and by its path that of whoever is root in a
/// container.
fn schedules(process: &Process) -> bool {
    let named = process.exe.rsplit('/').next().is_some_and(|name| SCHEDULERS.contains(&name));
    let installed = INSTALLED.iter().any(|folder| process.exe.starts_with(folder));
    let on_host = match process.workload.as_ref() {
        Workload::Unit { .. } => process.workload.system_unit().is_some(),
        Workload::Host { cgroup_path } => cgroup_path == "/" || cgroup_path.starts_with(OPENRC),
        Workload::Container { .. } | Workload::Unresolved { .. } => false,
    };
    // atd runs as another user, with root as its real one.
    named && installed && on_host && (process.credentials.uid == 0 || process.credentials.euid == 0)
}

fn pipeline(situation: &Situation<'_>) -> Option<String> {
    if let Some(pod) = pod(situation) {
        let label = PIPELINES.iter().find(|label| pod.labels.contains_key(**label))?;
        return Some(format!("pod {} is part of a pipeline ({label})", pod.path()));
    }
    let unit = situation.finding.event.process.workload.system_unit()?;
    RUNNERS.iter().any(|name| unit.starts_with(name)).then(|| format!("unit {unit} runs pipelines"))
}

/// Whether it is time.
pub(crate) fn is_on(one: &Maintenance, now: Timestamp) -> bool {
    let (from, until) = (one.from.0, one.until.0);
    if now < from || until <= from {
        return false;
    }
    let Some(every) = one.every.filter(|every| !every.0.is_zero()) else { return now < until };
    let into = now.since(from).as_nanos() % every.0.as_nanos();
    into < until.since(from).as_nanos()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planned_work_comes_once_or_again() {
        let window = |every: &str| -> Maintenance {
            let text = format!(
                r#"{{"from":"2026-11-01T02:00:00Z","until":"2026-11-01T04:00:00Z","reason":"x"{every}}}"#
            );
            serde_json::from_str(&text).unwrap()
        };
        let at = |hours: i64| Timestamp(window("").from.0.0 + hours * 3_600_000_000_000);
        let (once, weekly) = (window(""), window(r#","every":"7d""#));
        let on = |one: &Maintenance| {
            [-1, 0, 1, 2, 7 * 24, 7 * 24 + 1, 7 * 24 + 2].map(|hours| is_on(one, at(hours)))
        };
        assert_eq!(on(&once), [false, true, true, false, false, false, false]);
        assert_eq!(on(&weekly), [false, true, true, false, true, true, false]);
    }
}
