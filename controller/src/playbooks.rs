//! The playbooks and policies in use, read from folders. One that is broken is named with its place; the others are used.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use crds::{
    ResponsePolicySpec,
    source::{Resource, Severity, read},
};
use detect::source::SourceFile;
use model::{Attribution, Incident};
use respond::plan::Plan;

use crate::{
    api::{PlaybookView, Playbooks},
    files,
    health::{HealthBoard, Part},
};

/// Problems kept (I11).
const MAX_PROBLEMS: usize = 256;

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
    plans: BTreeMap<String, Entry>,
    policies: Vec<(String, ResponsePolicySpec)>,
    /// Of each policy, the namespace that it holds for.
    scopes: Vec<Option<String>>,
    broken: Vec<String>,
}

/// The file that a resource came from, the namespace that it holds for, and itself.
type Found = (String, Option<String>, Resource);

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
        let mut book = Self::default();
        let found = files::yaml_below(folders);
        for problem in found.problems {
            book.problem(format!("{}: {}", problem.name, problem.reason));
        }
        let mut resources = Vec::new();
        for file in &found.files {
            book.read(file, &mut resources);
        }
        for text in &sources.resources {
            book.take(&text.name, text.scope.as_deref(), &text.text, &mut resources);
        }
        book.check(resources);
        book
    }

    /// Tells of what is broken.
    pub(crate) fn report(&self, health: &HealthBoard) {
        for problem in &self.broken {
            tracing::warn!(problem, "a playbook or policy is not used");
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
        self.plans.values().map(|entry| &entry.plan)
    }

    pub(crate) fn policies(&self) -> &[(String, ResponsePolicySpec)] {
        &self.policies
    }

    /// The policies that speak of an incident: those for all, and those of its namespace.
    pub(crate) fn policies_for(&self, incident: &Incident) -> Vec<(String, ResponsePolicySpec)> {
        let place = Place::of(incident);
        let all = self.policies.iter().zip(&self.scopes);
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
        self.plans.len()
    }

    pub(crate) fn show(&self) -> Playbooks {
        Playbooks {
            loaded: self
                .plans
                .iter()
                .map(|(name, entry)| PlaybookView {
                    name: name.clone(),
                    mode: format!("{:?}", entry.plan.spec().mode),
                    description: entry.plan.spec().description.clone(),
                    steps: entry.plan.spec().steps.len() as u64,
                    file: entry.file.clone(),
                })
                .collect(),
            broken: self.broken.clone(),
            policies: self.policies.iter().map(|(name, _)| name.clone()).collect(),
        }
    }

    fn read(&mut self, file: &Path, resources: &mut Vec<Found>) {
        let name = file.display().to_string();
        let text = files::read_file(file)
            .and_then(|bytes| String::from_utf8(bytes).map_err(|_| std::io::Error::other("it is not UTF-8")));
        match text {
            Ok(text) => self.take(&name, None, &text, resources),
            Err(error) => self.problem(format!("{name}: cannot be read: {error}")),
        }
    }

    fn take(&mut self, name: &str, scope: Option<&str>, text: &str, resources: &mut Vec<Found>) {
        let reading = read(name, text);
        for problem in reading.problems.iter().filter(|p| p.severity == Severity::Error) {
            self.problem(problem.to_string());
        }
        let found = |resource| (name.to_owned(), scope.map(str::to_owned), resource);
        resources.extend(reading.resources.into_iter().map(found));
    }

    /// Policies first: a playbook is checked against the standing approvals that they give it.
    fn check(&mut self, resources: Vec<Found>) {
        let mut playbooks = Vec::new();
        for (file, scope, resource) in resources {
            match resource {
                Resource::ResponsePolicy(policy) => {
                    let name = policy.value.metadata.name.unwrap_or_default();
                    let name = match &scope {
                        Some(scope) => format!("{scope}/{name}"),
                        None => name,
                    };
                    self.policies.push((name, policy.value.spec));
                    self.scopes.push(scope);
                }
                Resource::Playbook(playbook) => playbooks.push((file, playbook)),
            }
        }
        for (file, playbook) in playbooks {
            let name = playbook.value.metadata.name.clone().unwrap_or_default();
            let standing: BTreeSet<String> = self
                .policies
                .iter()
                .flat_map(|(_, policy)| &policy.standing_approvals)
                .filter(|standing| standing.playbooks.contains(&name))
                .map(|standing| standing.action.0.clone())
                .collect();
            let checked = Plan::check(&playbook, &standing);
            for problem in checked.problems.iter().filter(|p| p.severity == Severity::Error) {
                self.problem(problem.to_string());
            }
            let Some(plan) = checked.plan else { continue };
            if let Some(first) = self.plans.get(&name) {
                let message = format!("{file}: a playbook {name} was already read from {}", first.file);
                self.problem(message);
            } else {
                self.plans.insert(name, Entry { plan: Arc::new(plan), file });
            }
        }
    }

    fn problem(&mut self, what: String) {
        if self.broken.len() < MAX_PROBLEMS {
            self.broken.push(what);
        }
    }
}
