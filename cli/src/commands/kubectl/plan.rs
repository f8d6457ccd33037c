//! `kubectl hemostat plan`: what a playbook would do in this cluster, without doing any of it.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use crds::{
    Memory, Mode, Parameters, Playbook, Radius, ResponsePolicy,
    source::{Resource as Read, Severity, read},
};
use k8s_openapi::api::rbac::v1::ClusterRole;
use kube::{
    Api, ResourceExt as _,
    api::{ListParams, Patch, PatchParams},
};
use respond::{action::ActionKind, plan::Plan};

use super::Cluster;
use crate::{
    exit::{Ended, Exit},
    render::{Column, Fit, Table, Window, write_out},
};

/// The right that `cluster.collect-evidence` needs for memory, as the crate `act` calls it.
const CHECKPOINT: &str = "cluster.collect-evidence-memory";

/// The label of a role of the chart: which action it is for.
const ACTION_LABEL: &str = "hemostat.dev/action";

pub(super) async fn plan(cluster: &Cluster, file: &std::path::Path, window: Window) -> Result<Exit> {
    let text = std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    let reading = read(&file.display().to_string(), &text);
    let error = |one: &&crds::source::Problem| one.severity == Severity::Error;
    let mut problems: Vec<String> = reading.problems.iter().filter(error).map(ToString::to_string).collect();
    let mut worst = Exit::Bad;
    let mut out = String::new();
    let enabled = enabled(cluster).await;
    let policies = cluster.all::<ResponsePolicy>().await.ok();
    let api: Api<Playbook> = Api::all(cluster.client.clone());
    let mut playbooks = 0;
    for resource in reading.resources {
        let Read::Playbook(playbook) = resource else { continue };
        playbooks += 1;
        let name = playbook.value.metadata.name.clone().unwrap_or_default();
        let checked = Plan::check(&playbook, &standing(policies.as_deref().unwrap_or_default(), &name));
        problems.extend(checked.problems.iter().filter(error).map(ToString::to_string));
        // Not forced: whoever else owns a field of it is named, as `kubectl apply --server-side` would.
        let params = PatchParams::apply("kubectl-hemostat").dry_run();
        if let Err(error) = api.patch(&name, &params, &Patch::Apply(&playbook.value)).await {
            let refused = cluster.refused(error);
            let ended = refused.downcast_ref::<Ended>();
            worst = ended.map_or(worst, |ended| ended.exit);
            problems.push(format!("{name}: the API server would not take it: {refused}"));
        }
        let Some(plan) = checked.plan else { continue };
        for told in checked.problems.iter().filter(|one| one.severity != Severity::Error) {
            out.push_str(&format!("{told}\n"));
        }
        out.push_str(&page(&plan, &name, enabled.as_ref(), policies.as_deref(), window));
    }
    if playbooks == 0 && problems.is_empty() {
        problems.push(format!("{}: there is no Playbook in it", file.display()));
    }
    write_out(&out)?;
    if problems.is_empty() { Ok(Exit::Good) } else { Err(Ended::with(worst, problems.join("\n"))) }
}

fn page(
    plan: &Plan,
    name: &str,
    enabled: Option<&BTreeSet<String>>,
    policies: Option<&[ResponsePolicy]>,
    window: Window,
) -> String {
    let mut out = format!("{name}: mode {:?}\n", plan.spec().mode);
    let mut table = Table::new(vec![
        Column { heading: "STEP", fit: Fit::Keep },
        Column { heading: "ACTION", fit: Fit::Keep },
        Column { heading: "FOR", fit: Fit::Drop(2) },
        Column { heading: "NEEDS", fit: Fit::Shrink(8) },
        Column { heading: "ASKS", fit: Fit::Keep },
        Column { heading: "UNDO", fit: Fit::Drop(3) },
        Column { heading: "ENABLED", fit: Fit::Keep },
        Column { heading: "ON FAILURE", fit: Fit::Drop(1) },
    ]);
    let (mut lacks, mut without_memory) = (BTreeSet::new(), Vec::new());
    for step in &plan.spec().steps {
        let ways = [(step.name.clone(), &step.action.0, &step.with)];
        let others = step.alternatives.iter().map(|one| ("  else".to_owned(), &one.action.0, &one.with));
        for (at, (shown, action, with)) in ways.into_iter().chain(others).enumerate() {
            let kind = ActionKind::named(action);
            let residual = kind.is_some_and(|kind| kind.undo().residual().is_some());
            let asks = match (step.approval, residual) {
                (crds::Approval::Required, _) => "always",
                (_, true) => "unless standing",
                (_, false) => "as the gate says",
            };
            let may = Allowed::of(action, with, enabled);
            match may {
                Allowed::No => drop(lacks.insert(action.clone())),
                Allowed::NotMemory => without_memory.push(step.name.clone()),
                Allowed::Yes | Allowed::Unknown => {}
            }
            let of_step = |text: String| if at == 0 { text } else { String::new() };
            table.row([
                shown,
                action.clone(),
                kind.map(|kind| format!("{:?}", kind.purpose())).unwrap_or_default(),
                of_step(step.needs.join(" ")),
                asks.into(),
                if residual { "with loss".into() } else { "exact".into() },
                may.word().into(),
                of_step(format!("{:?}", step.on_failure)),
            ]);
        }
    }
    out.push_str(&table.render(window));
    if !lacks.is_empty() {
        let lacks: Vec<String> = lacks.into_iter().collect();
        out.push_str(&format!(
            "the controller has no right to {}: these steps would fail; add them to the chart's actions.enabled\n",
            lacks.join(", ")
        ));
    }
    if !without_memory.is_empty() {
        without_memory.dedup();
        out.push_str(&format!(
            "the controller has no right to {CHECKPOINT}: {} would collect all but memory; add it to the chart's actions.enabled\n",
            without_memory.join(", ")
        ));
    }
    match policies {
        None => {
            out.push_str("which policies speak of it cannot be told: you may not list ResponsePolicies\n")
        }
        Some(policies) => out.extend(policies.iter().filter_map(|policy| speaks(policy, name))),
    }
    out
}

/// Whether the chart gave the controller the rights that a step needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Allowed {
    Yes,
    No,
    /// To everything but what holds memory, which is a right of its own.
    NotMemory,
    /// The caller may not see it.
    Unknown,
}

impl Allowed {
    fn of(action: &str, with: &Parameters, enabled: Option<&BTreeSet<String>>) -> Self {
        if action.starts_with("node.") || action == "notify.send" {
            return Self::Yes;
        }
        let Some(enabled) = enabled else { return Self::Unknown };
        let asks_for_memory = action == "cluster.collect-evidence" && with.memory == Some(Memory::Private);
        match enabled.contains(action) {
            false => Self::No,
            true if asks_for_memory && !enabled.contains(CHECKPOINT) => Self::NotMemory,
            true => Self::Yes,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Yes => "yes",
            Self::No => "no",
            Self::NotMemory => "not memory",
            Self::Unknown => "?",
        }
    }
}

/// What a policy says of this playbook, if anything.
fn speaks(policy: &ResponsePolicy, playbook: &str) -> Option<String> {
    let named = &policy.spec.matches.playbooks;
    if !named.is_empty() && !named.iter().any(|one| one == playbook) {
        return None;
    }
    let mut words = Vec::new();
    if let Some(mode) = policy.spec.mode.filter(|mode| *mode != Mode::Auto) {
        words.push(format!("at most {mode:?}"));
    }
    if let Some(widest) = policy.spec.widest.filter(|widest| *widest < Radius::Cluster) {
        words.push(format!("nothing wider than {widest:?}"));
    }
    if !policy.spec.approvals.approvers.is_empty() {
        words.push(format!("asks {}", policy.spec.approvals.approvers.join(" ")));
    }
    let place = format!("{}/{}", policy.namespace().unwrap_or_default(), policy.name_any());
    (!words.is_empty()).then(|| format!("policy {place}: {}\n", words.join(", ")))
}

/// What policies approve of once and for all for this playbook.
fn standing(policies: &[ResponsePolicy], playbook: &str) -> BTreeSet<String> {
    let all = policies.iter().flat_map(|policy| &policy.spec.standing_approvals);
    all.filter(|one| one.playbooks.iter().any(|name| name == playbook))
        .map(|one| one.action.0.clone())
        .collect()
}

/// The actions that the chart gave the controller rights for; `None` where the caller may not see that, or it was not installed by the chart.
async fn enabled(cluster: &Cluster) -> Option<BTreeSet<String>> {
    let roles: Api<ClusterRole> = Api::all(cluster.client.clone());
    let list = roles.list(&ListParams::default().labels(ACTION_LABEL)).await.ok()?;
    let named = list.items.iter().filter_map(|role| role.labels().get(ACTION_LABEL).cloned());
    let found: BTreeSet<String> = named.collect();
    (!found.is_empty()).then_some(found)
}
