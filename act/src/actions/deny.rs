//! `cluster.deny-exec`, `cluster.deny-image`, `cluster.deny-writes`: a ValidatingAdmissionPolicy of our own and its binding. Nothing of
//! others is touched; the undo deletes both, the binding first.
//!
//! Admission sees no reads. The policy's own failure denies (`failurePolicy: Fail`). Of sessions and writes our own account and the
//! cluster's are never refused, so that neither we nor the control plane are locked out. An image is refused whoever brings it in: nearly
//! every pod is made by the cluster's own controllers. What keeps the cluster alive all the same is the place: the policy holds in one
//! namespace, which is none of the system's and not ours.

use std::collections::BTreeSet;

use model::{AccountKind, ActionFailure, ClusterState, DenyImage, Edit, ObjectRef, Target};
use serde_json::{Value, json};

use crate::{
    job::{Job, state},
    permissions::{Rule, rule},
    protect,
};

/// Names of Docker Hub.
const HUBS: [&str; 3] = ["docker.io", "index.docker.io", "registry-1.docker.io"];
const LIBRARY: &str = "library/";

const VERSION: &str = "admissionregistration.k8s.io/v1";

/// What everybody must still be able to do while writes of an account are denied: ask, and prove who they are.
const SPARED: &str = "!(request.resource.group in ['authentication.k8s.io', 'authorization.k8s.io'])";

pub(super) fn permissions() -> Vec<Rule> {
    vec![
        rule(
            "admissionregistration.k8s.io",
            &["validatingadmissionpolicies", "validatingadmissionpolicybindings"],
            &["get", "create", "delete"],
        ),
        rule("", &["namespaces"], &["get"]),
    ]
}

pub(super) async fn exec(job: &Job<'_>) -> Result<ClusterState, ActionFailure> {
    let namespace = namespace(job).await?;
    let rules = json!([
        {
            "apiGroups": [""], "apiVersions": ["*"], "operations": ["CONNECT"], "scope": "Namespaced",
            "resources": ["pods/exec", "pods/attach", "pods/portforward"],
        },
        {
            "apiGroups": [""], "apiVersions": ["*"], "operations": ["UPDATE"], "scope": "Namespaced",
            "resources": ["pods/ephemeralcontainers"],
        },
    ]);
    let message = format!("Hemostat: no sessions in {namespace} while {} lasts", job.incident);
    let spared = [the_clusters_own(job)];
    Ok(policy(job, rules, Some(&namespace), &spared, json!([{"expression": "false", "message": message}])))
}

pub(super) async fn image(job: &Job<'_>, with: &DenyImage) -> Result<ClusterState, ActionFailure> {
    let namespace = namespace(job).await?;
    let image = &with.image;
    if !is_image(image) {
        return Err(job.unsupported(format!("`{image}` is no name of an image")));
    }
    // A digest is refused under every name that carries it.
    let hit = if image.starts_with("sha256:") {
        format!("c.image.endsWith('@{image}')")
    } else {
        let names: Vec<String> = aliases(image).iter().map(|name| format!("'{name}'")).collect();
        format!("c.image in [{}]", names.join(", "))
    };
    let of = |list: &str| format!("(has(variables.pod.{list}) && variables.pod.{list}.exists(c, {hit}))");
    let lists = ["containers", "initContainers", "ephemeralContainers"].map(of).join(" || ");
    let rules = json!([
        {
            "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"], "scope": "Namespaced",
            "resources": ["pods", "pods/ephemeralcontainers"],
        },
        {
            "apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"], "scope": "Namespaced",
            "resources": ["deployments", "statefulsets", "daemonsets", "replicasets"],
        },
        {
            "apiGroups": ["batch"], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"], "scope": "Namespaced",
            "resources": ["jobs", "cronjobs"],
        },
    ]);
    // What runs already may still be changed (labelled, finished, deleted): only what brings the image in is refused.
    let variables = json!([
        {"name": "pod", "expression": "object.kind == 'Pod' ? object.spec : object.kind == 'CronJob' ? object.spec.jobTemplate.spec.template.spec : object.spec.template.spec"},
        {"name": "hit", "expression": lists},
        {"name": "known", "expression": format!("oldObject != null && (oldObject.kind == 'Pod' ? [oldObject.spec] : oldObject.kind == 'CronJob' ? [oldObject.spec.jobTemplate.spec.template.spec] : [oldObject.spec.template.spec]).exists(s, (has(s.containers) && s.containers.exists(c, {hit})) || (has(s.initContainers) && s.initContainers.exists(c, {hit})) || (has(s.ephemeralContainers) && s.ephemeralContainers.exists(c, {hit})))")},
    ]);
    let message =
        format!("Hemostat: the image {image} is refused in {namespace} while {} lasts", job.incident);
    let validations = json!([{"expression": "!variables.hit || variables.known", "message": message}]);
    let own = quoted(&job.config.own.namespace);
    let conditions = [
        // A node shows its static pods, which run whatever the API server says.
        ("not-a-nodes-picture", "!('system:nodes' in request.userInfo.groups)".to_owned()),
        (
            "not-the-systems-place",
            format!("!request.namespace.startsWith('kube-') && request.namespace != {own}"),
        ),
    ];
    let mut captured = policy(job, rules, Some(&namespace), &conditions, validations);
    if let Some(Edit::Make { content, .. }) = captured.edits.first_mut() {
        content["spec"]["variables"] = variables;
    }
    Ok(captured)
}

pub(super) async fn writes(job: &Job<'_>) -> Result<ClusterState, ActionFailure> {
    let Target::Account(account) = job.target else {
        return Err(job.unsupported("it is done to an account"));
    };
    protect::account(job, account).await?;
    let is = match account.kind {
        AccountKind::Group => format!("{} in request.userInfo.groups", quoted(&account.name)),
        AccountKind::User | AccountKind::ServiceAccount => {
            format!("request.userInfo.username == {}", quoted(&account.user_name()))
        }
    };
    let rules = json!([{
        "apiGroups": ["*"], "apiVersions": ["*"], "operations": ["CREATE", "UPDATE", "DELETE", "CONNECT"],
        "resources": ["*/*"], "scope": "*",
    }]);
    let message = format!("Hemostat: {account} may change nothing while {} lasts", job.incident);
    let conditions = [the_clusters_own(job), ("account", is), ("spared", SPARED.to_owned())];
    Ok(policy(job, rules, None, &conditions, json!([{"expression": "false", "message": message}])))
}

/// The policy and its binding.
fn policy(
    job: &Job<'_>,
    rules: Value,
    namespace: Option<&str>,
    conditions: &[(&str, String)],
    validations: Value,
) -> ClusterState {
    let all: Vec<Value> =
        conditions.iter().map(|(name, expression)| json!({"name": name, "expression": expression})).collect();
    let spec = json!({
        "failurePolicy": "Fail",
        "matchConstraints": {"resourceRules": rules},
        "matchConditions": all,
        "validations": validations,
    });
    let policy = job.made(VERSION, "ValidatingAdmissionPolicy", None, json!({"spec": spec}));
    let name = crate::edits::object_of(&policy).name.clone();
    let mut spec = json!({"policyName": name, "validationActions": ["Deny"]});
    if let Some(namespace) = namespace {
        spec["matchResources"] =
            json!({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}});
    }
    let binding = job.made(VERSION, "ValidatingAdmissionPolicyBinding", None, json!({"spec": spec}));
    state([policy, binding])
}

/// The cluster's own parts and ours work on: they are protected like their namespaces.
fn the_clusters_own(job: &Job<'_>) -> (&'static str, String) {
    let ours = quoted(&format!("system:serviceaccounts:{}", job.config.own.namespace));
    let expression = format!(
        "!request.userInfo.groups.exists(g, g in ['system:nodes', 'system:serviceaccounts:kube-system', {ours}]) \
         && !request.userInfo.username.startsWith('system:kube-')"
    );
    ("not-the-clusters-own", expression)
}

/// Whether a text is the name or the digest of an image, and nothing that means more in an expression or on a command line.
pub(super) fn is_image(image: &str) -> bool {
    let sound = |c: char| c.is_ascii_alphanumeric() || "._-/:@".contains(c);
    image.starts_with(|c: char| c.is_ascii_alphanumeric()) && image.len() <= 512 && image.chars().all(sound)
}

/// Every name by which pods may mean the same image: Docker Hub's may leave out its registry and its library, and `latest` is what no
/// tag means. github.com/distribution/reference, `ParseNormalizedNamed`.
fn aliases(image: &str) -> BTreeSet<String> {
    let (name, digest) = image.split_at(image.find('@').unwrap_or(image.len()));
    let last = name.rfind('/').map_or(0, |at| at + 1);
    let (repository, tag) = name.split_at(name[last..].find(':').map_or(name.len(), |at| last + at));
    let (first, rest) = repository.split_once('/').unwrap_or(("", repository));
    let elsewhere = first.contains(['.', ':']) || first == "localhost";
    let path = match (HUBS.contains(&first), elsewhere) {
        (true, _) => Some(rest),
        (false, false) => Some(repository),
        (false, true) => None,
    };
    let mut names = BTreeSet::from([repository.to_owned()]);
    if let Some(path) = path {
        let short = path.strip_prefix(LIBRARY).unwrap_or(path);
        let whole = if short.contains('/') { short.to_owned() } else { format!("{LIBRARY}{short}") };
        for path in [short, &whole] {
            names.insert(path.to_owned());
            names.extend(HUBS.iter().map(|hub| format!("{hub}/{path}")));
        }
    }
    let tags: &[&str] =
        if digest.is_empty() && matches!(tag, "" | ":latest") { &["", ":latest"] } else { &[tag] };
    names.iter().flat_map(|name| tags.iter().map(move |tag| format!("{name}{tag}{digest}"))).collect()
}

async fn namespace(job: &Job<'_>) -> Result<String, ActionFailure> {
    let (object, _): (ObjectRef, Value) = job.read_a(&["Namespace"]).await?;
    Ok(object.name)
}

/// A text as a CEL literal.
fn quoted(text: &str) -> String {
    let mut out = String::from("'");
    for c in text.chars() {
        match c {
            '\\' | '\'' => out.extend(['\\', c]),
            c if c.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('\'');
    out
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn an_image_is_known_under_every_name_that_means_it() {
        let of = |image: &str| super::aliases(image);
        for name in [
            "nginx",
            "nginx:latest",
            "library/nginx",
            "docker.io/nginx:latest",
            "index.docker.io/library/nginx",
        ] {
            for other in ["nginx", "docker.io/library/nginx:latest", "registry-1.docker.io/nginx"] {
                assert!(of(name).contains(other), "{name} is {other}: {:?}", of(name));
            }
            assert_eq!(of(name), of("nginx"));
        }
        assert!(
            of("evil/miner:1").contains("docker.io/evil/miner:1")
                && !of("evil/miner:1").contains("evil/miner")
        );
        assert_eq!(of("registry.example:5000/miner:1").len(), 1);
        assert_eq!(of("localhost/miner").len(), 2, "with its tag and without");
        assert_eq!(
            of("registry.example/a@sha256:00").into_iter().collect::<Vec<_>>(),
            ["registry.example/a@sha256:00"]
        );
    }

    #[test]
    fn the_name_of_an_image_is_no_option_and_no_expression() {
        for good in ["api:1", "registry.example:5000/a/b@sha256:00ff", "sha256:00ff"] {
            assert!(super::is_image(good), "{good}");
        }
        for bad in ["", "--server=evil", "a b", "a')||true", "@x", "/x", &"a".repeat(513)] {
            assert!(!super::is_image(bad), "{bad}");
        }
    }

    #[test]
    fn an_accounts_name_cannot_leave_its_literal() {
        assert_eq!(quoted("dana"), "'dana'");
        assert_eq!(quoted(r"' || true || '\"), r"'\' || true || \'\\'");
        assert_eq!(quoted("a\nb"), r"'a\u000ab'");
    }
}
