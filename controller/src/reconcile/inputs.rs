//! In: Playbooks, ResponsePolicies and RuleSets of the API server are read by the code that reads folders, given to the core and to the
//! nodes, and what is wrong with them is said in their status.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use crds::{
    Condition, Holds, Mode, Playbook, PlaybookStatus, ResponsePolicy, ResponsePolicySpec,
    ResponsePolicyStatus, conflicts,
    response_action::{FINALIZER, ResponseAction},
    source::{Resource, Severity, read},
};
use kube::{
    Resource as _, ResourceExt as _,
    api::DynamicObject,
    runtime::events::{Event, EventType, Recorder},
};
use model::RuleBundle;
use respond::{alone::Scoped, plan::Plan};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    equipment::Equipment,
    follow::{Due, Known},
    guard::InForce,
    nodes::{Agents, OnNodes},
    object::{PLAYBOOK, with_meta},
    people::parsed,
    reach::{Failure, Reach},
    rules::{Compiled, compile},
    show::{condition, is_settled_state},
};
use crate::{
    api::{PlaybookView, Playbooks},
    artifact::Artifacts,
    config::Clock,
    core::{Ask, Asker, Change, controller},
    playbooks::{Plans, Sources, Text},
};

/// What no change tells of (nodes, ConfigMaps) is looked at this often.
const LOOK: Duration = Duration::from_secs(5);

/// Takes in what the API server tells.
pub(crate) struct Inputs {
    pub(crate) reach: Reach,
    pub(crate) artifacts: Arc<Artifacts>,
    pub(crate) asker: Asker,
    pub(crate) clock: Clock,
    pub(crate) home: String,
    pub(crate) playbooks: Known,
    pub(crate) policies: Known,
    pub(crate) rule_sets: Known,
    pub(crate) actions: Known,
    pub(crate) due: Due,
    pub(crate) recorder: Recorder,
    /// What nodes are given.
    pub(crate) bundle: watch::Sender<Arc<RuleBundle>>,
    /// What nodes leave alone follows from them; `None` until they were read.
    pub(crate) policies_in_force: watch::Sender<InForce>,
    /// Everything was read and given to the core once.
    pub(crate) ready: watch::Sender<bool>,
    /// Whether everything automatic is paused: then no rule lets a node act.
    pub(crate) paused: watch::Receiver<bool>,
    /// The playbooks in use, each in the mode that holds: one that was taken back lets no node act by itself.
    pub(crate) in_use: watch::Receiver<Plans>,
    /// What steps may need of this controller.
    pub(crate) equipment: Equipment,
    /// Where agents are.
    pub(crate) nodes: Agents,
}

/// One playbook or policy as it was read.
struct Checked {
    plan: Option<Arc<Plan>>,
    problems: Vec<String>,
}

impl Inputs {
    /// Works until `stop`.
    pub(crate) async fn run(self, stop: CancellationToken) {
        for known in [&self.playbooks, &self.policies, &self.rule_sets] {
            tokio::select! {
                () = stop.cancelled() => return,
                () = known.ready() => {}
            }
        }
        self.expect_artifacts().await;
        let mut fetched = self.artifacts.changes();
        let mut paused = self.paused.clone();
        let mut in_use = self.in_use.clone();
        let mut compiled: (String, Compiled) = Default::default();
        let mut given = String::new();
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.due.come() => {}
                Ok(()) = fetched.changed() => {}
                Ok(()) = paused.changed() => {}
                Ok(()) = in_use.changed() => {}
                _ = look.tick() => {}
            }
            drop(self.due.take());
            if let Err(failure) = self.pass(&mut compiled, &mut given).await
                && !failure.is_away()
            {
                tracing::warn!(%failure, "playbooks, policies or rules could not be dealt with wholly; tried again");
            }
        }
    }

    async fn pass(&self, compiled: &mut (String, Compiled), given: &mut String) -> Result<(), Failure> {
        let policies = self.policies.all();
        let scoped = policies.iter().map(|object| scoped(object, &self.home)).collect();
        self.policies_in_force.send_if_modified(|known| {
            let is_news = known.as_deref() != Some(&scoped);
            if is_news {
                *known = Some(Arc::new(scoped));
            }
            is_news
        });
        let playbooks: Vec<Arc<DynamicObject>> = self
            .playbooks
            .all()
            .into_iter()
            .filter(|object| object.metadata.deletion_timestamp.is_none())
            .collect();
        let texts: Vec<Text> = policies
            .iter()
            .map(|object| text_of::<ResponsePolicy>(object, &self.home))
            .chain(playbooks.iter().map(|object| text_of::<Playbook>(object, &self.home)))
            .collect();
        let standing = standing_of(&texts);
        let checked: BTreeMap<String, Checked> =
            texts.iter().map(|text| (text.name.clone(), check(text, &standing))).collect();
        let plans: Vec<Arc<Plan>> = checked.values().filter_map(|one| one.plan.clone()).collect();

        let mut sets = Vec::new();
        let mut missing = Vec::new();
        let mut objects = self.rule_sets.all();
        objects.sort_by_key(|object| object.name_any());
        for object in &objects {
            let (set, lacks) = self.gather(object).await?;
            sets.push(set);
            missing.push(lacks);
        }
        self.artifacts.keep_only(&sets.iter().map(|set| set.name.as_str()).collect());
        let Some(known) = self.known_playbooks().await else {
            tracing::warn!(
                "the core does not say which modes hold: what nodes may do stays as it is; tried again"
            );
            return Ok(());
        };
        let plans: Vec<Arc<Plan>> = plans.iter().map(|plan| as_it_holds(plan, &known)).collect();
        let modes: Vec<(String, Mode)> =
            plans.iter().map(|plan| (plan.name().to_string(), plan.spec().mode)).collect();
        let paused = *self.paused.borrow();
        let digest = hash(&(
            format!("{sets:?}"),
            format!("{paused} {modes:?}"),
            texts.iter().map(|text| &text.text).collect::<Vec<_>>(),
        ));
        if compiled.0 != digest {
            let (of, for_rules) = (sets.clone(), if paused { Vec::new() } else { plans.clone() });
            // Thousands of rules take seconds: not on a thread that others need.
            match tokio::task::spawn_blocking(move || compile(&of, &for_rules)).await {
                Ok(fresh) => *compiled = (digest.clone(), fresh),
                Err(error) => tracing::error!(%error, "the rules could not be compiled"),
            }
        }
        if *given != digest {
            let sources = Sources { resources: texts.clone(), rules: compiled.1.sources.clone() };
            match self.asker.change(Change::Use(Arc::new(sources)), controller()).await {
                Ok(_) => {
                    tracing::info!(
                        playbooks = plans.len(),
                        policies = policies.len(),
                        sets = sets.len(),
                        "taken in from the API server"
                    );
                    *given = digest;
                    self.bundle.send_replace(Arc::new(compiled.1.bundle.clone()));
                    self.ready.send_replace(true);
                }
                Err(error) => {
                    tracing::warn!(%error, "the core does not take what the API server tells; tried again")
                }
            }
        }
        let nodes = self.nodes.all(&self.asker, (self.clock)()).await;
        let on_nodes = OnNodes::of(nodes.as_ref(), &compiled.1.bundle.version.digest);
        self.say_playbooks(&checked, &known, &on_nodes).await?;
        self.say_policies(&policies, &checked).await?;
        self.say_rule_sets(&objects, (&sets, &missing), &compiled.1).await
    }

    /// The playbooks as the core knows them, by name; `None` where it does not answer.
    async fn known_playbooks(&self) -> Option<BTreeMap<String, PlaybookView>> {
        let asked = self.asker.ask(Ask::Playbooks).await.ok()?;
        let known: Playbooks = serde_json::from_slice(&asked).ok()?;
        Some(known.loaded.into_iter().map(|view| (view.name.clone(), view)).collect())
    }

    async fn say_playbooks(
        &self,
        checked: &BTreeMap<String, Checked>,
        runs: &BTreeMap<String, PlaybookView>,
        on_nodes: &OnNodes,
    ) -> Result<(), Failure> {
        for object in self.playbooks.all() {
            let name = object.name_any();
            let generation = object.metadata.generation.unwrap_or(0);
            let in_force = self.in_force(&name);
            let going = object.metadata.deletion_timestamp.is_some();
            self.hold_playbook(&object, &in_force, going).await?;
            if going && in_force.is_empty() {
                continue;
            }
            let known = parsed::<Playbook>(&object).and_then(|known| known.status);
            let before = known.as_ref().map(|status| status.conditions.clone()).unwrap_or_default();
            let mut status =
                PlaybookStatus { observed_generation: generation, ..known.clone().unwrap_or_default() };
            status.conditions = before;
            if let Some(one) = checked.get(&file_of::<Playbook>(&object)) {
                status.mode = one.plan.as_ref().map(|plan| as_it_holds(plan, runs).spec().mode);
                let said = accepted(&one.problems, (self.clock)(), generation);
                Condition::set(&mut status.conditions, said);
                let spec = one.plan.as_ref().map(|plan| plan.spec());
                match spec.and_then(|spec| self.equipment.condition(spec, (self.clock)(), generation)) {
                    Some(said) => Condition::set(&mut status.conditions, said),
                    None => status.conditions.retain(|one| one.kind != "Equipped"),
                }
                match one.plan {
                    Some(_) => {
                        Condition::set(&mut status.conditions, on_nodes.condition((self.clock)(), generation))
                    }
                    None => status.conditions.retain(|one| one.kind != "OnNodes"),
                }
            }
            if let Some(view) = runs.get(&name) {
                let count = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
                (status.judged, status.right, status.running) =
                    (count(view.judged), count(view.right), count(view.running));
            }
            if going {
                let message = format!(
                    "actions of it are in force: {}. Undo them (spec.end.how: Revert) or accept them (Accept); then it goes",
                    in_force.iter().cloned().collect::<Vec<_>>().join(", ")
                );
                let said = condition(
                    "Deletable",
                    Holds::False,
                    "ActionsInForce",
                    &message,
                    (self.clock)(),
                    generation,
                );
                let news =
                    !status.conditions.iter().any(|one| one.kind == said.kind && one.message == said.message);
                Condition::set(&mut status.conditions, said);
                if news {
                    self.tell(&object, "ActionsInForce", &message).await;
                }
            }
            if known.as_ref() != Some(&status) {
                self.put::<Playbook>("", &name, &json!({ "status": status })).await?;
            }
        }
        Ok(())
    }

    /// A playbook of which something is in force does not go before that is undone or accepted: what it did must not be orphaned.
    async fn hold_playbook(
        &self,
        object: &DynamicObject,
        in_force: &BTreeSet<String>,
        going: bool,
    ) -> Result<(), Failure> {
        let held = object.finalizers().iter().any(|name| name == FINALIZER);
        let holds = !in_force.is_empty();
        if held == holds || (going && holds) {
            return Ok(());
        }
        let name = object.name_any();
        let finalizers: &[&str] = if holds { &[FINALIZER] } else { &[] };
        let mut ours = with_meta::<Playbook>(&name, "", &json!({}), &json!({}), &json!({}));
        ours["metadata"]["finalizers"] = json!(finalizers);
        self.reach.apply(&self.reach.everywhere::<Playbook>(), &name, &ours).await.map(drop)
    }

    /// Names of the actions of a playbook that are in force.
    fn in_force(&self, playbook: &str) -> BTreeSet<String> {
        let of_it =
            |object: &Arc<DynamicObject>| object.labels().get(PLAYBOOK).is_some_and(|name| name == playbook);
        let all = self.actions.all();
        all.iter()
            .filter(|object| of_it(object))
            .filter_map(|object| parsed::<ResponseAction>(object))
            .filter(|action| action.finalizers().iter().any(|name| name == FINALIZER))
            .filter(|action| !action.status.as_ref().is_some_and(|status| is_settled_state(status.state)))
            .map(|action| action.name_any())
            .collect()
    }

    async fn say_policies(
        &self,
        objects: &[Arc<DynamicObject>],
        checked: &BTreeMap<String, Checked>,
    ) -> Result<(), Failure> {
        let specs: Vec<_> = objects
            .iter()
            .filter_map(|object| Some((object, parsed::<ResponsePolicy>(object)?.spec)))
            .collect();
        for object in objects {
            let Some(one) = checked.get(&file_of::<ResponsePolicy>(object)) else { continue };
            let generation = object.metadata.generation.unwrap_or(0);
            let known = parsed::<ResponsePolicy>(object).and_then(|known| known.status);
            let mut status =
                ResponsePolicyStatus { observed_generation: generation, ..known.clone().unwrap_or_default() };
            Condition::set(&mut status.conditions, accepted(&one.problems, (self.clock)(), generation));
            let others = conflicting(object, &specs, &self.home);
            let (holds, reason, message) = match others.as_slice() {
                [] => {
                    (Holds::False, "NoOther", "no other policy says otherwise of the same incidents".into())
                }
                others => (Holds::True, "StricterHolds", others.join("; ")),
            };
            let said = condition("Conflicting", holds, reason, message, (self.clock)(), generation);
            Condition::set(&mut status.conditions, said);
            if known.as_ref() != Some(&status) {
                let namespace = object.namespace().unwrap_or_default();
                self.put::<ResponsePolicy>(&namespace, &object.name_any(), &json!({ "status": status }))
                    .await?;
            }
        }
        Ok(())
    }

    pub(super) async fn put<K>(&self, namespace: &str, name: &str, rest: &Value) -> Result<(), Failure>
    where
        K: kube::Resource<DynamicType = ()>,
    {
        let object = with_meta::<K>(name, namespace, &json!({}), &json!({}), rest);
        let api = if namespace.is_empty() {
            self.reach.everywhere::<K>()
        } else {
            self.reach.in_namespace::<K>(namespace)
        };
        match self.reach.apply_status(&api, name, &object).await {
            // It was deleted meanwhile.
            Err(Failure::Missing(_)) => Ok(()),
            other => other.map(drop),
        }
    }

    async fn tell(&self, object: &DynamicObject, reason: &str, what: &str) {
        let mut about = object.object_ref(&kube::core::ApiResource::erase::<Playbook>(&()));
        // Events about what has no namespace stand in `default`, as kubectl expects.
        about.namespace = None;
        let event = Event {
            type_: EventType::Warning,
            reason: reason.into(),
            note: Some(crds::cut(what, 1000)),
            action: reason.into(),
            secondary: None,
        };
        if let Err(failure) = self.reach.write(self.recorder.publish(&event, &about)).await {
            tracing::debug!(%failure, reason, "an Event could not be written");
        }
    }
}

/// A playbook in the mode that holds: the written one, or less where its record took it back.
fn as_it_holds(plan: &Arc<Plan>, known: &BTreeMap<String, PlaybookView>) -> Arc<Plan> {
    let written = plan.spec().mode;
    let view = known.get(plan.name().as_str());
    // A mode that was just written anew is known to the core a moment later, and what it says of the old one says nothing of it.
    let holds = view.filter(|view| view.mode == format!("{written:?}")).map(|view| view.in_force.as_str());
    match holds {
        Some("Shadow") if written > Mode::Shadow => Arc::new(plan.in_mode(Mode::Shadow)),
        Some("Approve") if written > Mode::Approve => Arc::new(plan.in_mode(Mode::Approve)),
        _ => Arc::clone(plan),
    }
}

/// A policy as far as nodes go by it. Of one that cannot be read wholly what it protects is taken all the same, and it lets nodes do nothing
/// by themselves where it holds.
fn scoped(object: &DynamicObject, home: &str) -> Scoped {
    let name = object.name_any();
    let scope = object.namespace().filter(|namespace| namespace != home);
    let spec = parsed::<ResponsePolicy>(object).map(|policy| policy.spec).unwrap_or_else(|| {
        let protected = object.data.get("spec").and_then(|spec| spec.get("protected")).cloned();
        let protected = protected.and_then(|said| serde_json::from_value(said).ok()).unwrap_or_default();
        ResponsePolicySpec { protected, mode: Some(Mode::Approve), ..ResponsePolicySpec::default() }
    });
    Scoped { name, scope, spec }
}

/// The name under which an object's text is read.
fn file_of<K: kube::Resource<DynamicType = ()>>(object: &DynamicObject) -> String {
    let kind = K::kind(&()).to_lowercase();
    match object.namespace() {
        Some(namespace) => format!("{kind}/{namespace}/{}", object.name_any()),
        None => format!("{kind}/{}", object.name_any()),
    }
}

/// What folders have as a file: only what a person writes.
fn text_of<K: kube::Resource<DynamicType = ()>>(object: &DynamicObject, home: &str) -> Text {
    let text = json!({
        "apiVersion": K::api_version(&()),
        "kind": K::kind(&()),
        "metadata": {"name": object.name_any()},
        "spec": object.data.get("spec").cloned().unwrap_or_default(),
    });
    Text {
        name: file_of::<K>(object),
        scope: object.namespace().filter(|namespace| namespace != home),
        text: serde_json::to_string_pretty(&text).unwrap_or_default(),
    }
}

fn standing_of(texts: &[Text]) -> BTreeMap<String, BTreeSet<String>> {
    let mut standing: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for text in texts {
        for resource in read(&text.name, &text.text).resources {
            let Resource::ResponsePolicy(policy) = resource else { continue };
            for approval in policy.value.spec.standing_approvals {
                for playbook in approval.playbooks {
                    standing.entry(playbook).or_default().insert(approval.action.0.clone());
                }
            }
        }
    }
    standing
}

fn check(text: &Text, standing: &BTreeMap<String, BTreeSet<String>>) -> Checked {
    let reading = read(&text.name, &text.text);
    let mut problems = reading.problems;
    let mut plan = None;
    for resource in reading.resources {
        let Resource::Playbook(playbook) = resource else { continue };
        let name = playbook.value.metadata.name.clone().unwrap_or_default();
        let checked = Plan::check(&playbook, standing.get(&name).unwrap_or(&BTreeSet::new()));
        problems.extend(checked.problems);
        plan = checked.plan.map(Arc::new);
    }
    problems.sort();
    let told = problems.iter().filter(|problem| problem.severity == Severity::Error).map(|problem| {
        let place = path_of_line(&text.text, problem.place.line);
        let help = problem.help.as_ref().map(|help| format!(" ({help})")).unwrap_or_default();
        if problem.message.starts_with(&place) {
            format!("{}{help}", problem.message)
        } else {
            format!("{place}: {}{help}", problem.message)
        }
    });
    Checked { plan, problems: told.collect() }
}

/// What other policies say otherwise than this one. One in Hemostat's own namespace speaks of all incidents, another of those of its own.
fn conflicting(
    this: &DynamicObject,
    all: &[(&Arc<DynamicObject>, ResponsePolicySpec)],
    home: &str,
) -> Vec<String> {
    let place = |one: &DynamicObject| (one.namespace().unwrap_or_default(), one.name_any());
    let (namespace, name) = place(this);
    let Some((_, ours)) = all.iter().find(|(object, _)| place(object) == (namespace.clone(), name.clone()))
    else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for (object, theirs) in all {
        let (there, other) = place(object);
        let meet = there == namespace || there == home || namespace == home;
        if meet && (&there, &other) != (&namespace, &name) {
            found.extend(
                conflicts(ours, theirs).into_iter().map(|what| format!("{there}/{other} says {what}")),
            );
        }
    }
    found
}

/// The path of what stands in a line of a text that [`text_of`] made: people know their object by its fields, not by our lines.
fn path_of_line(text: &str, line: u32) -> String {
    fn walk(value: &Value, path: &str, at: &mut u32, wanted: u32) -> Option<String> {
        if *at == wanted {
            return Some(path.to_owned());
        }
        let children: Vec<(String, &Value)> = match value {
            Value::Object(map) => map
                .iter()
                .map(|(key, value)| {
                    (if path.is_empty() { key.clone() } else { format!("{path}.{key}") }, value)
                })
                .collect(),
            Value::Array(items) => {
                items.iter().enumerate().map(|(n, value)| (format!("{path}[{n}]"), value)).collect()
            }
            _ => return None,
        };
        if children.is_empty() {
            return None;
        }
        for (path, child) in children {
            *at += 1;
            if let Some(found) = walk(child, &path, at, wanted) {
                return Some(found);
            }
        }
        // The closing bracket.
        *at += 1;
        (*at == wanted).then(|| path.to_owned())
    }
    let value: Value = serde_json::from_str(text).unwrap_or_default();
    let mut at = 1;
    walk(&value, "", &mut at, line).filter(|path| !path.is_empty()).unwrap_or_else(|| "spec".into())
}

fn accepted(problems: &[String], now: model::Timestamp, generation: i64) -> Condition {
    match problems {
        [] => condition("Accepted", Holds::True, "Checked", "it is in use", now, generation),
        problems => condition("Accepted", Holds::False, "Broken", problems.join("; "), now, generation),
    }
}

fn hash(value: &impl serde::Serialize) -> String {
    hex::encode(Sha256::digest(serde_json::to_vec(value).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_text_is_a_path_of_the_object() {
        let value = json!({"a": {"b": [{"c": 1, "d": []}, {"c": 2}], "e": {}}, "z": true});
        let text = serde_json::to_string_pretty(&value).unwrap();
        let place = |needle: &str| {
            let line = text.lines().position(|line| line.contains(needle)).unwrap() as u32 + 1;
            path_of_line(&text, line)
        };
        assert_eq!(place("\"c\": 1"), "a.b[0].c");
        assert_eq!(place("\"c\": 2"), "a.b[1].c");
        assert_eq!(place("\"d\""), "a.b[0].d");
        assert_eq!(place("\"e\""), "a.e");
        assert_eq!(place("\"z\""), "z");
        assert_eq!(path_of_line(&text, 999), "spec");
    }

    #[test]
    fn a_broken_playbook_is_told_with_the_path_in_its_object() {
        let object: DynamicObject = serde_json::from_value(json!({
            "apiVersion": "hemostat.dev/v1alpha1", "kind": "Playbook", "metadata": {"name": "p"},
            "spec": {"trigger": {"rules": ["x"]}, "steps": [
                {"name": "a", "action": "node.freeze", "target": {"kind": "Process"}},
                {"name": "b", "action": "node.freeze", "needs": ["a"], "when": "1 +", "target": {"kind": "Process"}},
            ]},
        })).unwrap();
        let checked = check(&text_of::<Playbook>(&object, "home"), &BTreeMap::new());
        assert!(checked.plan.is_none());
        assert_eq!(checked.problems.len(), 1, "{:?}", checked.problems);
        assert!(checked.problems[0].starts_with("spec.steps[1].when"), "{:?}", checked.problems);
    }
}
