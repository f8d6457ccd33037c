//! The playbooks and policies in use, read from folders. One that is broken is named with its place; the others are used.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use crds::{
    ResponsePolicySpec,
    source::{Resource, Severity, read},
};
use respond::plan::Plan;

use crate::{
    api::{PlaybookView, Playbooks},
    files,
    health::{HealthBoard, Part},
};

/// Problems kept (I11).
const MAX_PROBLEMS: usize = 256;

/// What is in use.
#[derive(Debug, Default)]
pub(crate) struct Book {
    plans: BTreeMap<String, Entry>,
    policies: Vec<(String, ResponsePolicySpec)>,
    broken: Vec<String>,
}

#[derive(Debug)]
struct Entry {
    plan: Arc<Plan>,
    file: String,
}

impl Book {
    /// Reads all `*.yaml` and `*.yml` in `sources`, which are files or folders. Never fails as a whole.
    pub(crate) fn load(sources: &[PathBuf]) -> Self {
        let mut book = Self::default();
        let found = files::yaml_below(sources);
        for problem in found.problems {
            book.problem(problem);
        }
        let mut resources = Vec::new();
        for file in &found.files {
            book.read(file, &mut resources);
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

    fn read(&mut self, file: &Path, resources: &mut Vec<(String, Resource)>) {
        let name = file.display().to_string();
        match fs::read_to_string(file) {
            Ok(text) => {
                let reading = read(&name, &text);
                for problem in reading.problems.iter().filter(|p| p.severity == Severity::Error) {
                    self.problem(problem.to_string());
                }
                resources.extend(reading.resources.into_iter().map(|resource| (name.clone(), resource)));
            }
            Err(error) => self.problem(format!("{name}: cannot be read: {error}")),
        }
    }

    /// Policies first: a playbook is checked against the standing approvals that they give it.
    fn check(&mut self, resources: Vec<(String, Resource)>) {
        let mut playbooks = Vec::new();
        for (file, resource) in resources {
            match resource {
                Resource::ResponsePolicy(policy) => {
                    let name = policy.value.metadata.name.unwrap_or_default();
                    self.policies.push((name, policy.value.spec));
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
