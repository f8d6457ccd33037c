//! Objects and accounts of the API server as targets.

use crds::{Protected, TargetKind};
use model::{Account, AccountKind, ObjectRef, RestoreObject, Target};
use serde_json::Value;

use super::{Unfit, text};
use crate::{
    action::{WORKLOADS, is_system},
    expression::Expression,
    facts::Subject,
    plan::Way,
};

/// Namespaces without which a cluster does not work. Those that begin with `kube-` are protected, too; our own is told by whoever decides
/// the run, since its name is its installer's choice.
const PROTECTED_NAMESPACES: [&str; 4] = ["calico-system", "tigera-operator", "cilium", "cilium-secrets"];

/// What a step's target is where it is none of a node's things; `None` where it is.
pub(super) fn target(
    way: &Way,
    subject: &Subject,
    selected: Option<(&Expression, &Value)>,
) -> Option<Result<Target, Unfit>> {
    let kind = way.target;
    Some(match (kind, selected) {
        (TargetKind::Process | TargetKind::Cgroup | TargetKind::File, _) => return None,
        (TargetKind::Channel, _) => match &way.with.channel {
            Some(name) => Ok(Target::Channel { name: name.clone() }),
            None => Err(unresolved("channel", "the step names none".into())),
        },
        (TargetKind::Account, None) => match &subject.account {
            Some(account) => Ok(Target::Account(account.clone())),
            None => Err(unresolved("account", "neither a user nor a service account is known".into())),
        },
        (TargetKind::Account, Some((select, found))) => account(select, found),
        (_, None) => own(kind, subject),
        (_, Some((select, found))) => object(kind, select, found),
    })
}

fn own(kind: TargetKind, subject: &Subject) -> Result<Target, Unfit> {
    let why = || subject.pod_unknown.clone().unwrap_or_else(|| "it is not about a pod".into());
    let (name, known) = match kind {
        TargetKind::Pod => ("pod", &subject.pod),
        TargetKind::Workload => ("workload", &subject.workload),
        TargetKind::Namespace => ("namespace", &subject.namespace),
        TargetKind::Node => ("cluster node", &subject.host),
        _ => ("object", &subject.object),
    };
    let object = known.clone().ok_or_else(|| unresolved(name, why()))?;
    Ok(Target::Object(object))
}

fn account(select: &Expression, found: &Value) -> Result<Target, Unfit> {
    let wanted = "one account as {kind, namespace, name}, or a user's name";
    if let Some(name) = found.as_str().filter(|name| !name.is_empty()) {
        return Ok(Target::Account(Account::of_user(name)));
    }
    let kind = match text(found, "kind") {
        Some("User") => AccountKind::User,
        Some("Group") => AccountKind::Group,
        Some("ServiceAccount") => AccountKind::ServiceAccount,
        _ => return Err(select.kind(wanted, found).into()),
    };
    let namespace = text(found, "namespace").filter(|namespace| !namespace.is_empty()).map(str::to_owned);
    match text(found, "name").filter(|name| !name.is_empty()) {
        Some(name) if namespace.is_some() == (kind == AccountKind::ServiceAccount) => {
            Ok(Target::Account(Account { kind, namespace, name: name.into(), as_of: None }))
        }
        _ => Err(select.kind(wanted, found).into()),
    }
}

fn object(kind: TargetKind, select: &Expression, found: &Value) -> Result<Target, Unfit> {
    let wanted = "one object as {apiVersion, kind, namespace, name, uid}";
    let part = |name: &str| text(found, name).filter(|part| !part.is_empty()).map(str::to_owned);
    let (Some(api_version), Some(is), Some(name), Some(uid)) =
        (part("apiVersion"), part("kind"), part("name"), part("uid"))
    else {
        return Err(select.kind(wanted, found).into());
    };
    let fits = match kind {
        TargetKind::Pod => is == "Pod",
        TargetKind::Workload => WORKLOADS.contains(&is.as_str()),
        TargetKind::Namespace => is == "Namespace",
        TargetKind::Node => is == "Node",
        _ => true,
    };
    if !fits {
        return Err(unresolved("object", format!("the step wants a {kind}, `select` gave a {is}")));
    }
    let namespace = part("namespace");
    Ok(Target::Object(ObjectRef { api_version, kind: is, namespace, name, uid, as_of: None }))
}

/// What the incident wrote to an object, and since when it goes on.
pub(super) fn restoration(subject: &Subject, target: &ObjectRef) -> RestoreObject {
    let same = |object: &ObjectRef| {
        (&object.api_version, &object.kind, &object.namespace, &object.name)
            == (&target.api_version, &target.kind, &target.namespace, &target.name)
            && (object.uid == target.uid || object.uid.is_empty() || target.uid.is_empty())
    };
    let of_object = subject.writes.iter().filter(|(object, _)| same(object));
    RestoreObject { writes: of_object.map(|(_, write)| write.clone()).collect(), began: subject.began }
}

/// Why an object must not be touched (I6).
pub(super) fn protected_object(object: &ObjectRef, protected: &Protected) -> Option<String> {
    let namespace = match (object.kind.as_str(), &object.namespace) {
        ("Namespace", _) => Some(&object.name),
        (_, namespace) => namespace.as_ref(),
    };
    if let Some(namespace) = namespace {
        return protected_namespace(namespace, protected);
    }
    let ours = object.name.starts_with("system:") || object.name.starts_with("hemostat");
    let rbac = object.api_version.starts_with("rbac.authorization.k8s.io/");
    (rbac && ours).then(|| "the cluster, or Hemostat, cannot do without it".into())
}

pub(crate) fn protected_namespace(namespace: &str, protected: &Protected) -> Option<String> {
    if PROTECTED_NAMESPACES.contains(&namespace) || namespace.starts_with("kube-") {
        return Some(format!("the namespace {namespace} is"));
    }
    let kept = protected.namespaces.iter().any(|kept| kept == namespace);
    kept.then(|| format!("a policy protects the namespace {namespace}"))
}

/// Why an account must not be touched (I6).
pub(super) fn protected_account(account: &Account, protected: &Protected) -> Option<String> {
    if is_system(account) {
        return Some("the cluster cannot do without it".into());
    }
    if protected.accounts.contains(&account.user_name()) {
        return Some("a policy protects it".into());
    }
    account.namespace.as_ref().and_then(|namespace| protected_namespace(namespace, protected))
}

fn unresolved(kind: &'static str, because: String) -> Unfit {
    Unfit::Unresolved { kind, because }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(namespace: &str) -> ObjectRef {
        ObjectRef {
            api_version: "v1".into(),
            kind: "Pod".into(),
            namespace: Some(namespace.into()),
            name: "p".into(),
            uid: "u".into(),
            as_of: None,
        }
    }

    #[test]
    fn i6_system_namespaces_and_accounts_are_never_targets() {
        let none = Protected::default();
        for namespace in ["kube-system", "kube-node-lease", "cilium", "calico-system"] {
            assert!(protected_object(&pod(namespace), &none).is_some(), "{namespace}");
            let account = Account::of_user(&format!("system:serviceaccount:{namespace}:x"));
            assert!(protected_account(&account, &none).is_some(), "{namespace}");
        }
        assert_eq!(protected_object(&pod("pay"), &none), None);
        for name in ["system:admin", "system:node:n1", "system:kube-controller-manager"] {
            assert!(protected_account(&Account::of_user(name), &none).is_some(), "{name}");
        }
        assert_eq!(protected_account(&Account::of_user("dana"), &none), None);
        assert_eq!(protected_account(&Account::of_user("system:anonymous"), &none), None);
        let kept = Protected {
            namespaces: vec!["pay".into()],
            accounts: vec!["dana".into()],
            ..Protected::default()
        };
        assert!(protected_object(&pod("pay"), &kept).is_some());
        assert!(protected_account(&Account::of_user("dana"), &kept).is_some());
        assert!(protected_account(&Account::of_user("system:serviceaccount:pay:api"), &kept).is_some());
    }
}
