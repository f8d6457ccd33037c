//! The playbooks and policies in use, read from folders. One that is broken is named with its place and stays in force as it was before, if it
//! was; the others are used.

mod keep;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
};

use crds::{
    Playbook, ResponsePolicySpec,
    source::{Located, Problem, Resource, Severity, read},
};
use detect::source::SourceFile;
use model::{Attribution, Incident};
use respond::plan::Plan;

use self::keep::{Found, Kept};
use crate::{
    api::{PlaybookView, Playbooks},
    health::{HealthBoard, Part},
};

/// Problems kept (I11).
const MAX_PROBLEMS: usize = 256;

/// The playbooks in use, by name.
pub type Plans = Arc<[Arc<Plan>]>;

/// Texts from elsewhere than folders: in a cluster, from the API server.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    /// Playbooks and policies.
    pub(crate) resources: Vec<Text>,
    /// Rules.
    pub(crate) rules: Vec<SourceFile>,
}

/// One text of resources.
#[derive(Debug, Clone)]
pub(crate) struct Text {
    /// Its name, for messages.
    pub(crate) name: String,
    /// Its policies hold for incidents in this namespace only; for all when absent.
    pub(crate) scope: Option<String>,
    /// YAML or JSON.
    pub(crate) text: String,
}

/// What is in use.
#[derive(Debug, Default)]
pub(crate) struct Book {
    assembled: Assembled,
    broken: Vec<String>,
    /// Files as they were when they could be used.
    kept: Kept,
}

/// What some texts hold.
#[derive(Debug, Default)]
struct Assembled {
    plans: BTreeMap<String, Entry>,
    policies: Vec<(String, ResponsePolicySpec)>,
    /// Of each policy, the namespace that it holds for.
    scopes: Vec<Option<String>>,
    /// Of each policy, the text that it was read from.
    policy_files: Vec<String>,
    /// What is wrong, with the position of its text; as many as are told.
    problems: Vec<(usize, String)>,
    /// Texts with anything wrong.
    faulty: BTreeSet<usize>,
    /// Of each text, what is used.
    held: Vec<BTreeSet<String>>,
}

/// Where in a cluster an incident is.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    /// Not in any pod.
    Machine,
    /// In pods of these.
    Namespaces(BTreeSet<String>),
    /// In a pod that is not known.
    Unknown,
}

impl Place {
    fn of(incident: &Incident) -> Self {
        if incident.pods.is_empty() {
            return Self::Machine;
        }
        let resolved = incident.pods.iter().map(|known| match &known.attribution {
            Attribution::Resolved { pod, .. } => Some(pod.namespace.clone()),
            _ => None,
        });
        resolved.collect::<Option<BTreeSet<String>>>().map_or(Self::Unknown, Self::Namespaces)
    }
}

#[derive(Debug)]
struct Entry {
    plan: Arc<Plan>,
    file: String,
}

impl Book {
    /// Reads all `*.yaml` and `*.yml` in `folders`, which are files or folders, and `sources`. Never fails as a whole.
    pub(crate) fn load(folders: &[PathBuf], sources: &Sources) -> Self {
        Self::reload(folders, sources, &Self::default())
    }

    /// The same, but what is broken, empty or not to be read keeps what `before` had of it: it may be half written, and nothing would answer
    /// an attack meanwhile.
    pub(crate) fn reload(folders: &[PathBuf], sources: &Sources, before: &Self) -> Self {
        let mut kept = before.kept.clone();
        let (assembled, mut broken) = kept.take(Found::look(folders, sources));
        broken.truncate(MAX_PROBLEMS);
        Self { assembled, broken, kept }
    }

    /// Tells of what is broken.
    pub(crate) fn report(&self, health: &HealthBoard) {
        for problem in &self.broken {
            tracing::warn!(problem, "a playbook or policy cannot be used");
        }
        match self.broken.as_slice() {
            [] => health.restored(Part::Playbooks),
            [first, rest @ ..] => {
                let more =
                    if rest.is_empty() { String::new() } else { format!(" (and {} more)", rest.len()) };
                health.degraded(Part::Playbooks, format!("{first}{more}"));
            }
        }
    }

    pub(crate) fn plans(&self) -> impl Iterator<Item = &Arc<Plan>> {
        self.assembled.plans.values().map(|entry| &entry.plan)
    }

    pub(crate) fn policies(&self) -> &[(String, ResponsePolicySpec)] {
        &self.assembled.policies
    }

    /// A playbook, and the text that it was read from.
    pub(crate) fn find(&self, name: &str) -> Option<(&Arc<Plan>, &str)> {
        self.assembled.plans.get(name).map(|entry| (&entry.plan, entry.file.as_str()))
    }

    /// Every policy, and the text that it was read from.
    pub(crate) fn policies_and_files(&self) -> impl Iterator<Item = (&str, &ResponsePolicySpec, &str)> {
        let all = self.assembled.policies.iter().zip(&self.assembled.policy_files);
        all.map(|((name, spec), file)| (name.as_str(), spec, file.as_str()))
    }

    /// The policies that speak of an incident: those for all, and those of its namespace.
    pub(crate) fn policies_for(&self, incident: &Incident) -> Vec<(String, ResponsePolicySpec)> {
        let place = Place::of(incident);
        let all = self.assembled.policies.iter().zip(&self.assembled.scopes);
        all.filter_map(|((name, spec), scope)| {
            let mut spec = match (scope, &place) {
                (Some(scope), Place::Namespaces(known)) if !known.contains(scope) => return None,
                (Some(_), Place::Machine) => return None,
                _ => spec.clone(),
            };
            if scope.is_some() && place == Place::Unknown {
                // It might be its own: what it forbids holds, what it allows does not (I9).
                spec.standing_approvals.clear();
            }
            Some((name.clone(), spec))
        })
        .collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.assembled.plans.len()
    }

    pub(crate) fn show(&self) -> Playbooks {
        Playbooks {
            loaded: self
                .assembled
                .plans
                .iter()
                .map(|(name, entry)| PlaybookView {
                    name: name.clone(),
                    mode: format!("{:?}", entry.plan.spec().mode),
                    // Less where it was taken back, which those tell who know of runs.
                    in_force: format!("{:?}", entry.plan.spec().mode),
                    trigger: answers(&entry.plan.spec().trigger),
                    description: entry.plan.spec().description.clone(),
                    steps: entry.plan.spec().steps.len() as u64,
                    file: entry.file.clone(),
                    // Told by those who know of runs.
                    judged: 0,
                    right: 0,
                    running: 0,
                })
                .collect(),
            broken: self.broken.clone(),
            policies: self.assembled.policies.iter().map(|(name, _)| name.clone()).collect(),
        }
    }
}

/// What a trigger asks for, on one line.
fn answers(trigger: &crds::Trigger) -> String {
    let mut parts = Vec::new();
    if !trigger.rules.is_empty() {
        parts.push(format!("rules {}", trigger.rules.join(", ")));
    }
    if !trigger.techniques.is_empty() {
        parts.push(format!("techniques {}", trigger.techniques.join(", ")));
    }
    if let Some(level) = trigger.minimum_level {
        parts.push(format!("level {} or higher", format!("{level:?}").to_lowercase()));
    }
    if let Some(when) = &trigger.when {
        parts.push(format!("when {}", when.0));
    }
    if parts.is_empty() { "every finding".into() } else { parts.join("; ") }
}

impl Assembled {
    /// Policies first: a playbook is checked against the standing approvals that they give it.
    fn of(texts: &[Text]) -> Self {
        let mut all = Self { held: vec![BTreeSet::new(); texts.len()], ..Self::default() };
        let mut playbooks = Vec::new();
        for (of, text) in texts.iter().enumerate() {
            let reading = read(&text.name, &text.text);
            all.wrong(of, &reading.problems);
            for resource in reading.resources {
                match resource {
                    Resource::ResponsePolicy(policy) => {
                        let name = policy.value.metadata.name.unwrap_or_default();
                        let name = match &text.scope {
                            Some(scope) => format!("{scope}/{name}"),
                            None => name,
                        };
                        all.held[of].insert(format!("policy {name}"));
                        all.policies.push((name, policy.value.spec));
                        all.scopes.push(text.scope.clone());
                        all.policy_files.push(text.name.clone());
                    }
                    Resource::Playbook(playbook) => playbooks.push((of, playbook)),
                }
            }
        }
        for (of, playbook) in playbooks {
            all.take(of, &texts[of].name, &playbook);
        }
        all
    }

    fn take(&mut self, of: usize, file: &str, playbook: &Located<Playbook>) {
        let name = playbook.value.metadata.name.clone().unwrap_or_default();
        let standing: BTreeSet<String> = self
            .policies
            .iter()
            .flat_map(|(_, policy)| &policy.standing_approvals)
            .filter(|standing| standing.playbooks.contains(&name))
            .map(|standing| standing.action.0.clone())
            .collect();
        let checked = Plan::check(playbook, &standing);
        self.wrong(of, &checked.problems);
        let Some(plan) = checked.plan else { return };
        if let Some(first) = self.plans.get(&name) {
            let message = format!("a playbook {name} was already read from {}", first.file);
            self.wrong(of, &[Problem::error(playbook.places.of("metadata.name"), message)]);
        } else {
            self.held[of].insert(format!("playbook {name}"));
            self.plans.insert(name, Entry { plan: Arc::new(plan), file: file.to_owned() });
        }
    }

    fn wrong(&mut self, of: usize, problems: &[Problem]) {
        let mut errors = problems.iter().filter(|problem| problem.severity == Severity::Error).peekable();
        if errors.peek().is_some() {
            self.faulty.insert(of);
        }
        let room = MAX_PROBLEMS.saturating_sub(self.problems.len());
        self.problems.extend(errors.take(room).map(|problem| (of, problem.to_string())));
    }
}
