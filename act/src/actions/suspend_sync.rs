//! `cluster.suspend-sync`: whoever keeps the target as Git says, Argo CD or Flux, leaves it alone meanwhile: it would undo the response.
//!
//! Argo CD: the Application's `syncPolicy.automated` goes. Flux: `spec.suspend` of the Kustomization or HelmRelease.
//!
//! Labels and annotations of the target only say where to look: whoever makes a pod writes them. That an Application, Kustomization or
//! HelmRelease keeps it is believed if it is there and lists the target, or what owns the target, among what it keeps in this cluster.

use model::{ActionFailure, ClusterState, Edit, ObjectRef};
use serde_json::Value;

use super::owners;
use crate::{
    api::{Api, ApiFault, percent_encoded, reference, text},
    fields,
    job::{Job, changed, labels, state},
    permissions::{Rule, rule},
    protect,
};

const ARGO: (&str, &str) = ("argoproj.io/v1alpha1", "Application");
const TRACKING: &str = "argocd.argoproj.io/tracking-id";
const INSTANCE: &str = "app.kubernetes.io/instance";
/// How Argo CD names the cluster that it is in.
const HERE: (&str, &str) = ("in-cluster", "https://kubernetes.default.svc");
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

/// What is known of who keeps an object as Git says.
pub(super) enum Kept {
    /// It lists the object.
    By(Box<Value>),
    /// The object's labels name somebody who does not.
    Claimed(String),
    /// Nothing tells of anybody.
    Nobody,
}

pub(super) async fn capture(job: &Job<'_>) -> Result<ClusterState, ActionFailure> {
    let (_, found) = job.read().await?;
    protect::pods(job, &found)?;
    let keeps = match keeper(job.api, &found).await? {
        Kept::By(keeps) => keeps,
        Kept::Claimed(because) => return Err(job.unsupported(because)),
        Kept::Nobody => {
            return Err(job.unsupported(
                "neither Argo CD nor Flux keeps it, as far as its labels and annotations tell",
            ));
        }
    };
    let keeper = reference(&keeps);
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

/// Who keeps an object, or what owns it, as Git says.
pub(super) async fn keeper(api: &Api, found: &Value) -> Result<Kept, ActionFailure> {
    let mut at = found.clone();
    let mut claims = Vec::new();
    for _ in 0..MAX_OWNERS {
        let mut keepers = Vec::new();
        for (name, keeper) in named(api, &at).await? {
            match keeper {
                Some(keeper) => match lists(&keeper, &at) {
                    Ok(()) => keepers.push(keeper),
                    Err(because) => claims.push(format!("its labels name {name}, which {because}")),
                },
                None => claims.push(format!("its labels name {name}, which is not there")),
            }
        }
        match keepers.as_slice() {
            [] => {}
            [keeper] => return Ok(Kept::By(Box::new(keeper.clone()))),
            several => {
                let names: Vec<String> = several.iter().map(|one| reference(one).to_string()).collect();
                return Ok(Kept::Claimed(format!("several say that they keep it: {}", names.join(", "))));
            }
        }
        let Some(owner) = owners::controller(&at) else { break };
        if !api.has(&owner.api_version, &owner.kind).await? {
            break;
        }
        match api.get(&owner).await {
            Ok(owner) => at = owner,
            Err(ApiFault::NotFound { .. }) => break,
            Err(fault) => return Err(fault.into()),
        }
    }
    claims.truncate(4);
    Ok(if claims.is_empty() { Kept::Nobody } else { Kept::Claimed(claims.join("; ")) })
}

/// Those that an object's marks name, with what is there of that name.
async fn named(api: &Api, found: &Value) -> Result<Vec<(String, Option<Value>)>, ActionFailure> {
    let mut all = Vec::new();
    for keeper in of_flux(found) {
        let there = match api.find(&keeper).await {
            Ok(there) => there,
            Err(ApiFault::NoKind { .. }) => None,
            Err(fault) => return Err(fault.into()),
        };
        all.push((keeper.to_string(), there));
    }
    let tracked = text(found, &["metadata", "annotations", TRACKING])
        .and_then(|id| id.split(':').next())
        .map(str::to_owned);
    let Some(name) = tracked.or_else(|| labels(found).remove(INSTANCE)) else { return Ok(all) };
    if !api.has(ARGO.0, ARGO.1).await? {
        return Ok(all);
    }
    // With applications in any namespace, Argo CD writes `namespace_name`.
    let (namespace, name) = match name.split_once('_') {
        Some((namespace, name)) => (Some(namespace.to_owned()), name.to_owned()),
        None => (None, name),
    };
    // Whoever made the object wrote the name.
    let escaped = name.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=");
    let selected = format!("fieldSelector={}", percent_encoded(&format!("metadata.name={escaped}")));
    let applications = api.list(ARGO.0, ARGO.1, namespace.as_deref(), &selected).await?;
    let before = all.len();
    let of_name = applications.into_iter().filter(|one| one["metadata"]["name"] == name.as_str());
    all.extend(of_name.map(|one| (reference(&one).to_string(), Some(one))));
    // Helm uses the same label for its own releases.
    if all.len() == before && text(found, &["metadata", "annotations", TRACKING]).is_some() {
        all.push((format!("Application {name}"), None));
    }
    Ok(all)
}

fn of_flux(found: &Value) -> Vec<ObjectRef> {
    let labels = labels(found);
    let kinds = [
        ("kustomize.toolkit.fluxcd.io", "kustomize.toolkit.fluxcd.io/v1", "Kustomization"),
        ("helm.toolkit.fluxcd.io", "helm.toolkit.fluxcd.io/v2", "HelmRelease"),
    ];
    let of_kind = |(domain, api_version, kind): (&str, &str, &str)| {
        let name = labels.get(&format!("{domain}/name"))?;
        let namespace = labels.get(&format!("{domain}/namespace"))?;
        Some(ObjectRef {
            api_version: api_version.into(),
            kind: kind.into(),
            namespace: Some(namespace.clone()),
            name: name.clone(),
            uid: String::new(),
            as_of: None,
        })
    };
    kinds.into_iter().filter_map(of_kind).collect()
}

/// Whether a keeper lists an object among what it keeps in this cluster; else why it is not believed to keep it.
fn lists(keeper: &Value, found: &Value) -> Result<(), String> {
    let object = reference(found);
    let group = object.api_version.split_once('/').map_or("", |(group, _)| group);
    let namespace = object.namespace.as_deref().unwrap_or_default();
    let listed = if keeper["kind"] == ARGO.1 {
        let to = &keeper["spec"]["destination"];
        let elsewhere = to["name"].as_str().is_some_and(|name| !name.is_empty() && name != HERE.0)
            || to["server"].as_str().is_some_and(|server| !server.is_empty() && server != HERE.1);
        if elsewhere {
            return Err("keeps another cluster".into());
        }
        let all = keeper["status"]["resources"].as_array().into_iter().flatten();
        all.into_iter().any(|one| {
            one["group"].as_str().unwrap_or_default() == group
                && one["kind"] == object.kind.as_str()
                && one["namespace"].as_str().unwrap_or_default() == namespace
                && one["name"] == object.name.as_str()
        })
    } else {
        if !keeper["spec"]["kubeConfig"].is_null() {
            return Err("keeps another cluster".into());
        }
        let Some(entries) = keeper["status"]["inventory"]["entries"].as_array() else {
            return Err("does not tell what it keeps (a HelmRelease does since Flux 2.7)".into());
        };
        // github.com/fluxcd/cli-utils, object.ObjMetadata: colons of RBAC names are written as two underscores.
        let name = object.name.replace(':', "__");
        let id = format!("{namespace}_{name}_{group}_{}", object.kind);
        entries.iter().any(|entry| entry["id"] == id.as_str())
    };
    if listed { Ok(()) } else { Err("does not list it among what it keeps".into()) }
}
