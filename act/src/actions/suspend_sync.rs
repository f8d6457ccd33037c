//! `cluster.suspend-sync`: whoever keeps the target as Git says, Argo CD or Flux, leaves it alone meanwhile: it would undo the response.
//!
//! Argo CD: the Application's `syncPolicy.automated` goes. Flux: `spec.suspend` of the Kustomization or HelmRelease.

use model::{ActionFailure, ClusterState, Edit, ObjectRef};
use serde_json::Value;

use super::owners;
use crate::{
    api::{Api, text},
    fields,
    job::{Job, changed, labels, state},
    permissions::{Rule, rule},
    protect,
};

const ARGO: (&str, &str) = ("argoproj.io/v1alpha1", "Application");
const TRACKING: &str = "argocd.argoproj.io/tracking-id";
const INSTANCE: &str = "app.kubernetes.io/instance";
/// Owners followed upwards to the object that Git knows.
const MAX_OWNERS: usize = 8;

pub(super) fn permissions() -> Vec<Rule> {
    vec![
        rule("", &["pods", "configmaps"], &["get"]),
        rule("apps", &["deployments", "statefulsets", "daemonsets", "replicasets"], &["get"]),
        rule("batch", &["jobs", "cronjobs"], &["get"]),
        rule("argoproj.io", &["applications"], &["get", "list", "patch"]),
        rule("kustomize.toolkit.fluxcd.io", &["kustomizations"], &["get", "patch"]),
        rule("helm.toolkit.fluxcd.io", &["helmreleases"], &["get", "patch"]),
    ]
}

pub(super) async fn capture(job: &Job<'_>) -> Result<ClusterState, ActionFailure> {
    let (_, found) = job.read().await?;
    protect::pods(job, &found)?;
    let Some(keeper) = keeper(job.api, &found).await? else {
        return Err(
            job.unsupported("neither Argo CD nor Flux keeps it, as far as its labels and annotations tell")
        );
    };
    let keeps = job.api.get(&keeper).await?;
    let fields = if keeper.kind == ARGO.1 {
        fields::set(&keeps, &["spec", "syncPolicy", "automated"], None)
    } else {
        fields::set(&keeps, &["spec", "suspend"], Some(true.into()))
    };
    let edits: Vec<Edit> = changed(&keeps, fields.into_iter().collect()).into_iter().collect();
    let mut captured = state(edits);
    if captured.edits.is_empty() {
        captured.notes.push(format!("{keeper} does nothing by itself already"));
    }
    Ok(captured)
}

/// Who keeps an object as Git says: found by the marks on it, or on what owns it.
pub(super) async fn keeper(api: &Api, found: &Value) -> Result<Option<ObjectRef>, ActionFailure> {
    let mut at = found.clone();
    for _ in 0..MAX_OWNERS {
        if let Some(keeper) = of_flux(&at) {
            return Ok(Some(keeper));
        }
        if let Some(keeper) = of_argo(api, &at).await? {
            return Ok(Some(keeper));
        }
        let Some(owner) = owners::controller(&at) else { return Ok(None) };
        if !api.has(&owner.api_version, &owner.kind).await? {
            return Ok(None);
        }
        match api.find(&owner).await? {
            Some(owner) => at = owner,
            None => return Ok(None),
        }
    }
    Ok(None)
}

fn of_flux(found: &Value) -> Option<ObjectRef> {
    let labels = labels(found);
    let kinds = [
        ("kustomize.toolkit.fluxcd.io", "kustomize.toolkit.fluxcd.io/v1", "Kustomization"),
        ("helm.toolkit.fluxcd.io", "helm.toolkit.fluxcd.io/v2", "HelmRelease"),
    ];
    kinds.into_iter().find_map(|(domain, api_version, kind)| {
        let name = labels.get(&format!("{domain}/name"))?;
        let namespace = labels.get(&format!("{domain}/namespace"))?;
        Some(ObjectRef {
            api_version: api_version.into(),
            kind: kind.into(),
            namespace: Some(namespace.clone()),
            name: name.clone(),
            uid: String::new(),
        })
    })
}

async fn of_argo(api: &Api, found: &Value) -> Result<Option<ObjectRef>, ActionFailure> {
    let tracked = text(found, &["metadata", "annotations", TRACKING])
        .and_then(|id| id.split(':').next())
        .map(str::to_owned);
    let Some(name) = tracked.or_else(|| labels(found).remove(INSTANCE)) else { return Ok(None) };
    if !api.has(ARGO.0, ARGO.1).await? {
        return Ok(None);
    }
    // With applications in any namespace, Argo CD writes `namespace_name`.
    let (namespace, name) = match name.split_once('_') {
        Some((namespace, name)) => (Some(namespace.to_owned()), name.to_owned()),
        None => (None, name),
    };
    let all = api.list(ARGO.0, ARGO.1, namespace.as_deref(), "").await?;
    let mut named = all.iter().filter(|one| one["metadata"]["name"] == name.as_str());
    match (named.next(), named.next()) {
        (Some(one), None) => Ok(Some(crate::api::reference(one))),
        (Some(_), Some(_)) => Err(ActionFailure::Unsupported {
            operation: "finding what Argo CD keeps it".into(),
            because: format!("several Applications are called {name}"),
        }),
        (None, _) => Ok(None),
    }
}
