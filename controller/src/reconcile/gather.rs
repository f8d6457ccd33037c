//! RuleSets: their files from wherever they come, and what is said of them in their status.

use std::{sync::Arc, time::Duration};

use crds::{
    Condition, Holds,
    rule_set::{Artifact, RuleSet as Shown},
};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{Api, ResourceExt as _, api::DynamicObject};
use serde_json::json;

use super::{
    inputs::Inputs,
    people::parsed,
    reach::Failure,
    rules::{Compiled, Given, rules_status},
    show::{bounded, condition},
};
use crate::artifact::{PULL_SECRET_KEY, Wanted};

/// How long artifacts are waited for before nodes are told their rules for the first time.
const FIRST_FETCH: Duration = Duration::from_secs(10);

impl Inputs {
    /// The files of a RuleSet, and what of it is not to be had.
    pub(super) async fn gather(&self, object: &DynamicObject) -> Result<(Given, Vec<String>), Failure> {
        let mut given = Given {
            name: object.name_any(),
            generation: object.metadata.generation.unwrap_or(0),
            ..Given::default()
        };
        let Some(set) = parsed::<Shown>(object) else {
            return Ok((given, vec!["its spec cannot be read by this version".into()]));
        };
        let mut lacks = Vec::new();
        given.disabled = set.spec.disabled.clone();
        given.files.extend(set.spec.inline.iter().map(|file| (file.name.clone(), file.sigma.clone())));
        for source in &set.spec.config_maps {
            let path = format!("{}/{}", source.namespace, source.name);
            let maps: Api<ConfigMap> = Api::namespaced(self.reach.client.clone(), &source.namespace);
            let data = match self.reach.read(maps.get_opt(&source.name)).await {
                Ok(Some(map)) => map.data.unwrap_or_default(),
                Ok(None) => {
                    lacks.push(format!("there is no ConfigMap {path}"));
                    continue;
                }
                Err(Failure::Refused { because, .. }) => {
                    lacks.push(format!("the ConfigMap {path} may not be read: {because}"));
                    continue;
                }
                Err(failure) => return Err(failure),
            };
            for key in &source.keys {
                if !data.contains_key(key) {
                    lacks.push(format!("the ConfigMap {path} has no key {key}"));
                }
            }
            let wanted = |key: &String| source.keys.is_empty() || source.keys.contains(key);
            given.files.extend(
                data.into_iter()
                    .filter(|(key, _)| wanted(key))
                    .map(|(key, text)| (format!("{path}/{key}"), text)),
            );
        }
        if let Some(artifact) = &set.spec.artifact {
            let held = self.artifacts.held(&given.name, self.wanted(artifact).await?);
            given.files.extend(held.files.iter().cloned());
            given.artifact = held.of;
            lacks.extend(held.lacks);
        } else {
            self.artifacts.forget(&given.name);
        }
        Ok((given, lacks))
    }

    /// What is on disk is in force again, and what is not is waited for a little, before nodes are told anything: they have the rules of the
    /// leader before, and shall not lose them for a moment.
    pub(super) async fn expect_artifacts(&self) {
        let artifacts = Arc::clone(&self.artifacts);
        if let Err(error) = tokio::task::spawn_blocking(move || artifacts.recall()).await {
            tracing::error!(%error, "the artifacts on disk could not be read");
        }
        for object in self.rule_sets.all() {
            let Some(artifact) = parsed::<Shown>(&object).and_then(|set| set.spec.artifact) else { continue };
            match self.wanted(&artifact).await {
                Ok(wanted) => drop(self.artifacts.held(&object.name_any(), wanted)),
                Err(failure) => tracing::debug!(%failure, "what an artifact needs is asked for again"),
            }
        }
        self.artifacts.tried(FIRST_FETCH).await;
    }

    /// An artifact with what it needs from the API server.
    async fn wanted(&self, artifact: &Artifact) -> Result<Wanted, Failure> {
        let mut wanted = Wanted { reference: artifact.reference.clone(), login: None, authorities: None };
        if let Some(name) = &artifact.pull_secret {
            let secrets: Api<Secret> = Api::namespaced(self.reach.client.clone(), &self.home);
            let of = |secret: Secret| secret.data?.remove(PULL_SECRET_KEY).map(|bytes| bytes.0);
            wanted.login = Some(match self.reach.read(secrets.get_opt(name)).await {
                Ok(Some(secret)) => of(secret).ok_or(format!("the Secret {name} has no {PULL_SECRET_KEY}")),
                Ok(None) => Err(format!("there is no Secret {name} in {}", self.home)),
                Err(Failure::Refused { .. }) => Err(format!(
                    "the Secret {name} may not be read: name it in the chart's artifacts.pullSecrets"
                )),
                Err(failure) => return Err(failure),
            });
        }
        if let Some(name) = &artifact.ca_config_map {
            let maps: Api<ConfigMap> = Api::namespaced(self.reach.client.clone(), &self.home);
            let of = |map: ConfigMap| map.data?.remove("ca.crt");
            wanted.authorities = Some(match self.reach.read(maps.get_opt(name)).await {
                Ok(Some(map)) => of(map).ok_or(format!("the ConfigMap {name} has no ca.crt")),
                Ok(None) => Err(format!("there is no ConfigMap {name} in {}", self.home)),
                Err(Failure::Refused { because, .. }) => {
                    Err(format!("the ConfigMap {name} may not be read: {because}"))
                }
                Err(failure) => return Err(failure),
            });
        }
        Ok(wanted)
    }

    pub(super) async fn say_rule_sets(
        &self,
        objects: &[Arc<DynamicObject>],
        (sets, missing): (&[Given], &[Vec<String>]),
        compiled: &Compiled,
    ) -> Result<(), Failure> {
        let nodes = self.nodes.all(&self.asker, (self.clock)()).await;
        let said = compiled.reports.iter().zip(&compiled.bundle.version.sets);
        for (((object, lacks), set), (report, version)) in objects.iter().zip(missing).zip(sets).zip(said) {
            let generation = object.metadata.generation.unwrap_or(0);
            let known = parsed::<Shown>(object).and_then(|known| known.status);
            let mut status = rules_status(report, generation);
            status.artifact.clone_from(&set.artifact);
            status.conditions = known.as_ref().map(|status| status.conditions.clone()).unwrap_or_default();
            if let Some(nodes) = &nodes {
                status.nodes = u32::try_from(nodes.count()).unwrap_or(u32::MAX);
                status.loaded = nodes.generations(&version.name);
                let here = nodes.with(version);
                status.summary.nodes = bounded(&format!("{here}/{}", nodes.count()), 16);
            } else if let Some(known) = &known {
                (status.nodes, status.loaded) = (known.nodes, known.loaded.clone());
                status.summary.nodes.clone_from(&known.summary.nodes);
            }
            let now = (self.clock)();
            let (holds, reason, message) = match (lacks.as_slice(), report.failures.as_slice()) {
                ([], _) if compiled.withheld.is_some() => {
                    (Holds::False, "TooLarge", compiled.withheld.clone().unwrap_or_default())
                }
                ([], []) => (Holds::True, "Loaded", format!("{} rules are compiled", report.rules)),
                ([], failures) => (
                    Holds::False,
                    "RulesBroken",
                    format!("{} rules are not loaded, see failures", failures.len()),
                ),
                (lacks, _) => (Holds::False, "NotFetched", lacks.join("; ")),
            };
            Condition::set(
                &mut status.conditions,
                condition("Ready", holds, reason, message, now, generation),
            );
            let fetched = if lacks.is_empty() {
                condition("Fetched", Holds::True, "Fetched", "all of its sources were read", now, generation)
            } else {
                condition("Fetched", Holds::False, "NotFetched", lacks.join("; "), now, generation)
            };
            Condition::set(&mut status.conditions, fetched);
            if known.as_ref() != Some(&status) {
                self.put::<Shown>("", &object.name_any(), &json!({ "status": status })).await?;
            }
        }
        Ok(())
    }
}
