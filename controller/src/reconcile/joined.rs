//! Where the parts that read the API server and write to it are joined.

use std::{path::Path, sync::Arc};

use kube::runtime::events::{Recorder, Reporter};
use model::RuleBundle;
use tokio::sync::{mpsc, watch};

use super::{
    ClusterConfig, actions, captures,
    equipment::{Equipment, Scans},
    fence,
    follow::{Due, Which, follow, label_of},
    guard::InForce,
    inputs::Inputs,
    journal,
    mirror::Mirror,
    nodes::Agents,
    reach::Reach,
    unread::Unread,
};
use crate::{Clock, artifact::Artifacts, attribute::Pods, crash::CrashPoints, start::Inside};

#[expect(clippy::too_many_arguments, reason = "the one place where the parts are joined")]
pub(super) fn start_reconcilers(
    (reach, unread, pods): (&Reach, &Unread, &Pods),
    config: &ClusterConfig,
    parts: &Inside,
    me: String,
    told: mpsc::Receiver<Box<model::NodeCommand>>,
    (bundle, policies_in_force): (watch::Sender<Arc<RuleBundle>>, watch::Sender<InForce>),
    ready: watch::Sender<bool>,
    (clock, state, crash): (&Clock, &Path, Arc<dyn CrashPoints>),
) -> Arc<Mirror> {
    let (tasks, stop) = (&parts.tasks, &parts.stop);
    let (came_in, came_out) = (Due::default(), Due::default());
    let any = |_: &kube::api::DynamicObject| Some(String::from("all"));
    let of_incident = |object: &kube::api::DynamicObject| label_of(object).map(str::to_owned);
    let playbooks = follow::<crds::Playbook>(
        (reach.everywhere::<crds::Playbook>(), Which::All),
        (tasks, stop),
        (&came_in, unread),
        any,
    );
    let policies = follow::<crds::ResponsePolicy>(
        (reach.everywhere::<crds::ResponsePolicy>(), Which::All),
        (tasks, stop),
        (&came_in, unread),
        any,
    );
    let rule_sets = follow::<crds::rule_set::RuleSet>(
        (reach.everywhere::<crds::rule_set::RuleSet>(), Which::All),
        (tasks, stop),
        (&came_in, unread),
        any,
    );
    let incidents = follow::<crds::incident::Incident>(
        (reach.everywhere::<crds::incident::Incident>(), Which::OfIncidents),
        (tasks, stop),
        (&came_out, unread),
        of_incident,
    );
    let actions = follow::<crds::response_action::ResponseAction>(
        (reach.everywhere::<crds::response_action::ResponseAction>(), Which::All),
        (tasks, stop),
        (&came_out, unread),
        of_incident,
    );
    let approvals = follow::<crds::approval::Approval>(
        (reach.everywhere::<crds::approval::Approval>(), Which::OfIncidents),
        (tasks, stop),
        (&came_out, unread),
        of_incident,
    );
    let reporter =
        Reporter { controller: "hemostat.dev/controller".into(), instance: Some(config.identity.clone()) };
    let recorder = Recorder::new(reach.client.clone(), reporter);
    let artifacts = Artifacts::new(state.join("artifacts"));
    tasks.spawn(Arc::clone(&artifacts).run(stop.clone()));
    let inputs = Inputs {
        reach: reach.clone(),
        artifacts,
        asker: parts.asker.clone(),
        clock: clock.clone(),
        home: config.namespace.clone(),
        playbooks: playbooks.clone(),
        policies,
        rule_sets,
        actions: actions.clone(),
        due: came_in,
        recorder: recorder.clone(),
        bundle,
        policies_in_force,
        ready,
        paused: parts.paused.clone(),
        in_use: parts.plans.clone(),
        equipment: Equipment {
            channels: config.channels.iter().map(|channel| channel.name.clone()).collect(),
            scanner: if config.scanner.is_some() { Scans::Yes } else { Scans::No },
        },
        nodes: Agents::new(pods.clone(), &config.agents),
    };
    tasks.spawn(inputs.run(stop.clone()));
    let mirror = Arc::new(Mirror {
        reach: reach.clone(),
        asker: parts.asker.clone(),
        health: parts.health.clone(),
        clock: clock.clone(),
        home: config.namespace.clone(),
        me,
        incidents,
        actions,
        approvals,
        playbooks,
        due: came_out,
        recorder,
        places: std::sync::Mutex::default(),
        action_places: std::sync::Mutex::default(),
        captures: captures::Captures::new(reach.clone(), config.namespace.clone()),
        swept: std::sync::Mutex::default(),
        skewed: std::sync::Mutex::default(),
        shown: std::sync::Mutex::default(),
        told: std::sync::Mutex::default(),
        gone: std::sync::Mutex::default(),
        crash,
        started: clock(),
        locks: (0..Mirror::LOCKS).map(|_| tokio::sync::Mutex::new(())).collect(),
        pens: (0..actions::PENS).map(|_| tokio::sync::Mutex::new(0)).collect(),
        effects: watch::Sender::new(0),
    });
    tasks.spawn(fence::watch(reach.lease(), parts.inbox.clone(), parts.health.clone(), stop.clone()));
    journal::keep(&mirror, told, parts.inbox.clone(), tasks, stop);
    mirror
}
