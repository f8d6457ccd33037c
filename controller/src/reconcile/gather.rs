//! RuleSets: their files from wherever they come, and what is said of them in their status.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use crds::{
    Condition, Holds,
    rule_set::{Artifact, Loaded, RuleSet as Shown},
};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{Api, ResourceExt as _, api::DynamicObject};
use model::{RulesVersion, Timestamp};
use serde_json::json;

use super::{
    inputs::Inputs,
    people::parsed,
    reach::Failure,
    rules::{Compiled, Given, rules_status},
    show::{bounded, condition},
};
use crate::{
    api::{LinkView, Status},
    artifact::{PULL_SECRET_KEY, Wanted},
    core::Ask,
};

/// How long artifacts are waited for before nodes are told their rules for the first time.
const FIRST_FETCH: Duration = Duration::from_secs(10);

/// What a node last said it has loaded.
#[derive(Debug, Clone)]
pub(super) struct Has {
    linked: bool,
    loaded: RulesVersion,
}

/// How many nodes have loaded what follows from rules and playbooks as they stand now. A controller knows the nodes that were linked since it
/// leads, and of no other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OnNodes {
    /// The core does not say.
    Unsaid,
    Said {
        have: usize,
        linked: usize,
        /// Those that are not linked any more, and had not loaded it when they were.
        gone: usize,
    },
}

impl OnNodes {
    fn of(nodes: Option<&[Has]>, digest: &str) -> Self {
        let Some(nodes) = nodes else { return Self::Unsaid };
        let count = |linked, has: bool| {
            nodes.iter().filter(|node| node.linked == linked && (node.loaded.digest == digest) == has).count()
        };
        let have = count(true, true);
        Self::Said { have, linked: have + count(true, false), gone: count(false, false) }
    }

    /// A mode that was changed holds for what a node does by itself only once that node has loaded it.
    pub(super) fn condition(self, now: Timestamp, generation: i64) -> Condition {
        let (holds, reason, message) = match self {
            Self::Unsaid => (Holds::Unknown, "NotSaid", "it is not known which nodes are linked".to_owned()),
            Self::Said { linked: 0, .. } => (Holds::Unknown, "NoNodes", "no node is linked".to_owned()),
            Self::Said { have, linked, .. } if have < linked => {
                (Holds::False, "Loading", format!("{have} of {linked} linked nodes go by it"))
            }
            Self::Said { gone: 0, .. } => (Holds::True, "Loaded", "every linked node goes by it".to_owned()),
            Self::Said { gone, .. } => (
                Holds::Unknown,
                "NotLinked",
                format!("every linked node goes by it; {gone} that did not are not linked any more"),
            ),
        };
        condition("OnNodes", holds, reason, message, now, generation)
    }
}

impl Inputs {
    /// Who goes by these rules, with what playbooks let them do.
    pub(super) async fn on_nodes(&self, compiled: &Compiled) -> OnNodes {
        OnNodes::of(self.nodes().await.as_deref(), &compiled.bundle.version.digest)
    }

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
        let nodes = self.nodes().await;
        let said = compiled.reports.iter().zip(&compiled.bundle.version.sets);
        for (((object, lacks), set), (report, version)) in objects.iter().zip(missing).zip(sets).zip(said) {
            let generation = object.metadata.generation.unwrap_or(0);
            let known = parsed::<Shown>(object).and_then(|known| known.status);
            let mut status = rules_status(report, generation);
            status.artifact.clone_from(&set.artifact);
            status.conditions = known.as_ref().map(|status| status.conditions.clone()).unwrap_or_default();
            if let Some(nodes) = &nodes {
                let loaded = |node: &&Has| node.loaded.sets.iter().any(|set| set == version);
                let here = nodes.iter().filter(loaded).count();
                status.nodes = u32::try_from(nodes.len()).unwrap_or(u32::MAX);
                status.loaded = generations(nodes, &version.name);
                status.summary.nodes = bounded(&format!("{here}/{}", nodes.len()), 16);
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

    /// What each node that was linked since this controller leads says it has loaded; `None` where the core does not answer. Sources of
    /// records are no nodes.
    async fn nodes(&self) -> Option<Vec<Has>> {
        let json = self.asker.ask(Ask::Status).await.ok()?;
        let status: Status = serde_json::from_slice(&json).ok()?;
        let nodes = status
            .nodes
            .into_iter()
            .filter(|node| !node.node.as_str().contains(':') && node.node != model::NodeId::cluster())
            .map(|node| Has {
                linked: node.link == LinkView::Up,
                loaded: node.status.and_then(|status| status.loaded).unwrap_or_default(),
            });
        Some(nodes.collect())
    }
}

fn generations(nodes: &[Has], name: &str) -> Vec<Loaded> {
    let mut count: BTreeMap<i64, u32> = BTreeMap::new();
    for set in nodes.iter().flat_map(|node| &node.loaded.sets).filter(|set| set.name == name) {
        *count.entry(set.generation).or_default() += 1;
    }
    let newest = count.into_iter().rev().take(16);
    newest.map(|(generation, nodes)| Loaded { generation, nodes }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_playbook_holds_on_nodes_only_once_every_linked_one_has_loaded_it() {
        let has = |linked, digest: &str| Has {
            linked,
            loaded: RulesVersion { digest: digest.into(), ..RulesVersion::default() },
        };
        let said = |nodes: Option<&[Has]>| {
            let said = OnNodes::of(nodes, "new").condition(Timestamp(1), 7);
            assert_eq!(said.observed_generation, 7);
            (said.status, said.reason)
        };
        assert_eq!(said(None), (Holds::Unknown, "NotSaid".into()));
        assert_eq!(said(Some(&[])), (Holds::Unknown, "NoNodes".into()));
        assert_eq!(said(Some(&[has(false, "new")])), (Holds::Unknown, "NoNodes".into()), "it was linked");
        assert_eq!(said(Some(&[has(true, "new"), has(true, "")])), (Holds::False, "Loading".into()));
        assert_eq!(said(Some(&[has(true, "new"), has(true, "new")])), (Holds::True, "Loaded".into()));
        assert_eq!(said(Some(&[has(true, "new"), has(false, "new")])), (Holds::True, "Loaded".into()));
        assert_eq!(said(Some(&[has(true, "new"), has(false, "old")])), (Holds::Unknown, "NotLinked".into()));
        let message = OnNodes::Said { have: 1, linked: 1, gone: 0 }.condition(Timestamp(1), 7).message;
        assert_eq!(message, "every linked node goes by it", "of others it knows nothing");
    }
}
