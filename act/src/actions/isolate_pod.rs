//! `cluster.isolate-pod`: a policy cuts one pod off, in both directions.
//!
//! The policy selects a label that no other pod has. Its form is the strongest that the cluster has: a CiliumNetworkPolicy that denies,
//! an AdminNetworkPolicy that denies, or a NetworkPolicy. NetworkPolicies add up, so where the last is all there is, the pod is taken
//! out of every other that allows something, by labels that go (and come back); where none does (a policy for all pods), it is said
//! that it cannot be done. The undo withdraws the policy before the label: Cilium honours a changed label only after 5 s.

use std::collections::{BTreeMap, BTreeSet};

use model::{ActionFailure, ClusterState, Edit, IsolatePod, IsolationForm, Outputs};
use serde_json::{Value, json};

use super::owners;
use crate::{
    fields,
    job::{Job, Look, changed, labels, state},
    permissions::{Rule, rule},
    protect,
    selector::{selects, ways_out},
};

const POLICIES: &str = "networking.k8s.io/v1";
const CILIUM: (&str, &str) = ("cilium.io/v2", "CiliumNetworkPolicy");
const ENDPOINT: (&str, &str) = ("cilium.io/v2", "CiliumEndpoint");
const ADMIN: (&str, &str) = ("policy.networking.k8s.io/v1alpha1", "AdminNetworkPolicy");

pub(super) fn permissions() -> Vec<Rule> {
    vec![
        rule("", &["pods"], &["get", "patch"]),
        rule("apps", &["replicasets"], &["get"]),
        rule("networking.k8s.io", &["networkpolicies"], &["get", "list", "create", "delete"]),
        rule("cilium.io", &["ciliumnetworkpolicies"], &["get", "create", "delete"]),
        rule("cilium.io", &["ciliumendpoints"], &["get"]),
        rule("policy.networking.k8s.io", &["adminnetworkpolicies"], &["get", "list", "create", "delete"]),
    ]
}

pub(super) async fn capture(job: &Job<'_>, with: &IsolatePod) -> Result<ClusterState, ActionFailure> {
    let (_, pod) = job.read_a(&["Pod"]).await?;
    protect::pods(job, &pod)?;
    if pod["spec"]["hostNetwork"] == true {
        return Err(job.unsupported("it uses its node's network, which no policy of pods holds"));
    }
    let form = form(job, with.form).await?;
    let key = label(job);
    let value = "true";
    let mut gone = BTreeSet::new();
    if form == IsolationForm::Plain {
        gone = labels_in_the_way(job, &pod).await?;
    }
    let policy = policy(job, form, &pod, &key, value);
    let mut fields: Vec<_> =
        fields::set(&pod, &["metadata", "labels", &key], Some(value.into())).into_iter().collect();
    fields.extend(gone.iter().filter_map(|name| fields::set(&pod, &["metadata", "labels", name], None)));
    let mut captured = state([policy].into_iter().chain(changed(&pod, fields)));
    if !gone.is_empty() {
        let names: Vec<&str> = gone.iter().map(String::as_str).collect();
        captured.notes.push(format!(
            "taken out of policies that allow something by removing the labels {}; Services and a ReplicaSet that select by them lose the pod, too",
            names.join(", ")
        ));
    }
    Ok(captured)
}

pub(super) async fn verify(job: &Job<'_>, captured: &ClusterState) -> Result<Look, ActionFailure> {
    let (object, pod) = job.read().await?;
    let form = captured.edits.iter().find_map(|edit| match edit {
        Edit::Make { object, .. } => Some(object.kind.as_str()),
        _ => None,
    });
    match form {
        Some("NetworkPolicy") => {
            let policies = others(job).await?;
            let labels = labels(&pod);
            let through: Vec<String> =
                policies.iter().filter(|policy| allows(policy, &labels)).map(name_of).collect();
            Ok(match through.as_slice() {
                [] => Look::InForce,
                names => Look::Missing(format!("NetworkPolicy {} lets traffic through", names.join(", "))),
            })
        }
        Some("CiliumNetworkPolicy") if job.api.has(ENDPOINT.0, ENDPOINT.1).await? => {
            let endpoint = model::ObjectRef {
                api_version: ENDPOINT.0.into(),
                kind: ENDPOINT.1.into(),
                uid: String::new(),
                ..object
            };
            let wanted = format!("k8s:{}=true", label(job));
            Ok(match job.api.find(&endpoint).await? {
                Some(found) if !honours(&found, &wanted) => {
                    Look::Missing("Cilium does not honour the pod's label yet (it takes 5 s)".into())
                }
                _ => Look::InForce,
            })
        }
        _ => Ok(Look::InForce),
    }
}

pub(super) fn outputs(captured: &ClusterState) -> Outputs {
    let made = captured.edits.iter().find_map(|edit| match edit {
        Edit::Make { object, .. } => Some(object),
        _ => None,
    });
    made.map(|policy| ("policy".to_owned(), json!(policy.to_string()))).into_iter().collect()
}

/// The label by which the policy knows the pod: of this action alone.
fn label(job: &Job<'_>) -> String {
    format!("isolate.hemostat.dev/{}", job.hash())
}

async fn form(job: &Job<'_>, wanted: IsolationForm) -> Result<IsolationForm, ActionFailure> {
    let has = async |(version, kind): (&str, &str)| job.api.has(version, kind).await;
    match wanted {
        IsolationForm::Plain => Ok(IsolationForm::Plain),
        IsolationForm::Cilium if !has(CILIUM).await? => {
            Err(job.unsupported("the cluster has no CiliumNetworkPolicy"))
        }
        IsolationForm::Cilium => Ok(IsolationForm::Cilium),
        IsolationForm::Admin if !has(ADMIN).await? => {
            Err(job.unsupported("the cluster has no AdminNetworkPolicy"))
        }
        IsolationForm::Admin => match rival(job).await? {
            Some(rival) => Err(job.unsupported(format!(
                "AdminNetworkPolicy {rival} has priority 0, too: which wins is not defined"
            ))),
            None => Ok(IsolationForm::Admin),
        },
        IsolationForm::Auto if has(CILIUM).await? => Ok(IsolationForm::Cilium),
        IsolationForm::Auto if has(ADMIN).await? && rival(job).await?.is_none() => Ok(IsolationForm::Admin),
        IsolationForm::Auto => Ok(IsolationForm::Plain),
    }
}

/// Another policy of the highest priority.
async fn rival(job: &Job<'_>) -> Result<Option<String>, ActionFailure> {
    let all = job.api.list(ADMIN.0, ADMIN.1, None, "").await?;
    Ok(all.iter().find(|policy| policy["spec"]["priority"] == 0).map(name_of))
}

fn policy(job: &Job<'_>, form: IsolationForm, pod: &Value, key: &str, value: &str) -> Edit {
    let namespace = pod["metadata"]["namespace"].as_str().unwrap_or_default();
    let selector = json!({"matchLabels": {key: value}});
    let mut edit = match form {
        IsolationForm::Cilium => {
            let spec = json!({
                "endpointSelector": selector,
                "ingressDeny": [{"fromEntities": ["all"]}],
                "egressDeny": [{"toEntities": ["all"]}],
            });
            job.made(CILIUM.0, CILIUM.1, Some(namespace), json!({"spec": spec}))
        }
        IsolationForm::Admin => {
            let everywhere = json!([{"namespaces": {}}]);
            let spec = json!({
                "priority": 0,
                "subject": {"pods": {
                    "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
                    "podSelector": selector,
                }},
                "ingress": [{"name": "deny", "action": "Deny", "from": everywhere}],
                "egress": [
                    {"name": "deny", "action": "Deny", "to": everywhere},
                    {"name": "deny-outside", "action": "Deny", "to": [{"networks": ["0.0.0.0/0", "::/0"]}]},
                ],
            });
            job.made(ADMIN.0, ADMIN.1, None, json!({"spec": spec}))
        }
        IsolationForm::Auto | IsolationForm::Plain => {
            let spec = json!({"podSelector": selector, "policyTypes": ["Ingress", "Egress"]});
            job.made(POLICIES, "NetworkPolicy", Some(namespace), json!({"spec": spec}))
        }
    };
    // A policy in the pod's namespace goes when the pod goes.
    if let Edit::Make { object, content } = &mut edit
        && object.namespace.is_some()
    {
        content["metadata"]["ownerReferences"] = json!([{
            "apiVersion": "v1", "kind": "Pod",
            "name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"],
        }]);
    }
    edit
}

/// The labels without which no policy that allows something selects the pod.
async fn labels_in_the_way(job: &Job<'_>, pod: &Value) -> Result<BTreeSet<String>, ActionFailure> {
    let policies = others(job).await?;
    let of_owner = owners::selected_by_owner(job.api, pod).await?;
    let mut left = labels(pod);
    let mut gone = BTreeSet::new();
    // Each round takes one label away, so there are no more rounds than labels.
    while let Some(policy) = policies.iter().find(|policy| allows(policy, &left)) {
        let ways = ways_out(&policy["spec"]["podSelector"]);
        let spared = ways.iter().find(|name| !of_owner.contains(*name) && left.contains_key(*name));
        let Some(name) = spared.or_else(|| ways.iter().find(|name| left.contains_key(*name))).cloned() else {
            return Err(job.unsupported(format!(
                "NetworkPolicy {} lets traffic through and selects the pod by no label that could be taken away; policies add up. \
                 A CiliumNetworkPolicy or AdminNetworkPolicy would win over it, and so does the node's quarantine",
                name_of(policy)
            )));
        };
        left.remove(&name);
        gone.insert(name);
    }
    Ok(gone)
}

/// NetworkPolicies of the pod's namespace that are not ours.
async fn others(job: &Job<'_>) -> Result<Vec<Value>, ActionFailure> {
    let namespace = job.object()?.namespace.clone().unwrap_or_default();
    Ok(job.api.list(POLICIES, "NetworkPolicy", Some(&namespace), "").await?)
}

/// Whether a policy selects a pod of these labels and lets something through.
fn allows(policy: &Value, labels: &BTreeMap<String, String>) -> bool {
    let rules = |way: &str| policy["spec"][way].as_array().is_some_and(|rules| !rules.is_empty());
    (rules("ingress") || rules("egress")) && selects(Some(&policy["spec"]["podSelector"]), labels)
}

/// Whether an endpoint's identity has the label.
fn honours(endpoint: &Value, wanted: &str) -> bool {
    let labels = endpoint["status"]["identity"]["labels"].as_array().into_iter().flatten();
    labels.filter_map(Value::as_str).any(|label| label == wanted)
}

fn name_of(policy: &Value) -> String {
    policy["metadata"]["name"].as_str().unwrap_or_default().to_owned()
}
