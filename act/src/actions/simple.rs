//! Actions that set a field or two of their target: `cluster.label`, `cluster.cordon`, `cluster.taint`, `cluster.pause-rollout`,
//! `cluster.suspend`.

use model::{ActionFailure, ClusterState, Label, Taint};
use serde_json::json;

use crate::{
    fields,
    job::{INCIDENT, Job, changed, state},
    permissions::{Rule, rule},
    protect,
};

/// Kinds of object that may be labelled; what is not here could mean more than a mark.
const LABELLED: [&str; 9] =
    ["Pod", "Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job", "CronJob", "Namespace", "Node"];

pub(super) mod label {
    use super::*;

    pub(in crate::actions) fn permissions() -> Vec<Rule> {
        vec![
            rule("", &["pods", "namespaces", "nodes"], &["get", "patch"]),
            rule("apps", &["deployments", "statefulsets", "daemonsets", "replicasets"], &["get", "patch"]),
            rule("batch", &["jobs", "cronjobs"], &["get", "patch"]),
        ]
    }

    pub(in crate::actions) async fn capture(
        job: &Job<'_>,
        with: &Label,
    ) -> Result<ClusterState, ActionFailure> {
        let (_, found) = job.read_a(&LABELLED).await?;
        protect::pods(job, &found)?;
        // Labels of Kubernetes' own change what it does: roles of nodes, security levels of namespaces.
        let reserved = |name: &&String| {
            let domain = name.split_once('/').map_or("", |(domain, _)| domain);
            ["kubernetes.io", "k8s.io"]
                .iter()
                .any(|own| domain == *own || domain.ends_with(&format!(".{own}")))
        };
        if let Some(name) = with.labels.keys().find(reserved) {
            return Err(job.unsupported(format!("the label {name} is Kubernetes' own and no mark")));
        }
        let fields = with.labels.iter().filter_map(|(name, value)| {
            fields::set(&found, &["metadata", "labels", name], Some(value.as_str().into()))
        });
        Ok(state(changed(&found, fields.collect())))
    }
}

pub(super) mod cordon {
    use super::*;

    pub(in crate::actions) fn permissions() -> Vec<Rule> {
        vec![rule("", &["nodes"], &["get", "patch"])]
    }

    pub(in crate::actions) async fn capture(job: &Job<'_>) -> Result<ClusterState, ActionFailure> {
        let (_, node) = job.read_a(&["Node"]).await?;
        let field = fields::set(&node, &["spec", "unschedulable"], Some(true.into()));
        Ok(state(changed(&node, field.into_iter().collect())))
    }
}

pub(super) mod taint {
    use super::*;

    pub(in crate::actions) fn permissions() -> Vec<Rule> {
        vec![rule("", &["nodes"], &["get", "patch"])]
    }

    pub(in crate::actions) async fn capture(
        job: &Job<'_>,
        with: &Taint,
    ) -> Result<ClusterState, ActionFailure> {
        let (_, node) = job.read_a(&["Node"]).await?;
        let taint = json!({
            "key": format!("{INCIDENT}-{}", job.hash()),
            "value": "held",
            "effect": format!("{:?}", with.effect),
        });
        let field = fields::put(&node, &["spec", "taints"], taint, Some("key"));
        Ok(state(changed(&node, field.into_iter().collect())))
    }
}

pub(super) mod pause_rollout {
    use super::*;

    pub(in crate::actions) fn permissions() -> Vec<Rule> {
        vec![rule("apps", &["deployments"], &["get", "patch"])]
    }

    pub(in crate::actions) async fn capture(job: &Job<'_>) -> Result<ClusterState, ActionFailure> {
        let (_, found) = job.read_a(&["Deployment"]).await?;
        protect::pods(job, &found)?;
        let field = fields::set(&found, &["spec", "paused"], Some(true.into()));
        Ok(state(changed(&found, field.into_iter().collect())))
    }
}

pub(super) mod suspend {
    use super::*;

    pub(in crate::actions) fn permissions() -> Vec<Rule> {
        vec![rule("batch", &["jobs", "cronjobs"], &["get", "patch"])]
    }

    pub(in crate::actions) async fn capture(job: &Job<'_>) -> Result<ClusterState, ActionFailure> {
        let (_, found) = job.read_a(&["CronJob", "Job"]).await?;
        protect::pods(job, &found)?;
        let over = found["status"]["conditions"].as_array().into_iter().flatten().any(|condition| {
            matches!(condition["type"].as_str(), Some("Complete" | "Failed")) && condition["status"] == "True"
        });
        if over {
            return Err(job.unsupported("it is over: there is nothing to suspend"));
        }
        let field = fields::set(&found, &["spec", "suspend"], Some(true.into()));
        Ok(state(changed(&found, field.into_iter().collect())))
    }
}
