//! Whose noise it is. What is remembered is shared out among tenants, so that one that invents ever other things pushes out his own and nobody
//! else's.

use model::{Event, Record, RecordKind, Workload, machine_of, short_hash};
use serde::{Deserialize, Serialize};

/// Who an event is laid to the account of, as a digest. Chosen from what he cannot make up: in the API server's audit log who was let in
/// (of a service account its namespace), in a cloud's log the account, elsewhere the host or domain that tells and the address from
/// which it was done; of processes their pod, their unit, or the user whose session it is: below these anybody may make cgroups of his own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Tenant(String);

impl Tenant {
    /// Of what happened in `event`.
    #[must_use]
    pub fn of(event: &Event) -> Self {
        if let Some(record) = event.record() {
            return Self::of_record(record);
        }
        let node = event.id.node.as_str();
        match &*event.process.workload {
            Workload::Container { pod_uid: Some(uid), cgroup_path, .. } if !is_a_users(cgroup_path) => {
                Self::made("pod", uid, "")
            }
            Workload::Container { cgroup_path, .. }
            | Workload::Unit { cgroup_path, .. }
            | Workload::Host { cgroup_path } => Self::made("cgroup", node, top(cgroup_path)),
            // nobody knows any more whose it was, and he may have made and removed it for that
            Workload::Unresolved { .. } => Self::made("cgroup", node, ""),
        }
    }

    fn of_record(record: &Record) -> Self {
        let (realm, name) = record.principal.as_ref().map_or(("", ""), |who| (&who.realm, &who.name));
        match record.kind {
            RecordKind::KubernetesAudit => {
                let account = name.strip_prefix("system:serviceaccount:");
                match account.and_then(|account| account.split_once(':')) {
                    Some((namespace, _)) => Self::made("namespace", namespace, ""),
                    None => Self::made("user", name, ""),
                }
            }
            RecordKind::CloudTrail => Self::made("account", realm, ""),
            _ => {
                let origin = record.origin.map(|addr| machine_of(addr).to_string()).unwrap_or_default();
                Self::made("origin", realm, &origin)
            }
        }
    }

    fn made(kind: &str, one: &str, other: &str) -> Self {
        Self(short_hash([kind, one, other], 8))
    }
}

/// Below this systemd gives every user a tree of his own (systemd.special(7)), in which he may call cgroups like pods.
const USERS: &str = "/user.slice/";

fn is_a_users(cgroup_path: &str) -> bool {
    cgroup_path.starts_with(USERS)
}

/// The unit or scope that a path leads to through slices, of which only root makes any, and at least two names of it: `/docker/ID`. Below
/// [`USERS`] the user.
fn top(cgroup_path: &str) -> &str {
    let slices = cgroup_path.split('/').skip(1).take_while(|name| name.ends_with(".slice")).count();
    let names = if is_a_users(cgroup_path) { 2 } else { (slices + 1).max(2) };
    let mut ends = cgroup_path.match_indices('/').map(|(at, _)| at).filter(|at| *at > 0);
    ends.nth(names - 1).map_or(cgroup_path, |end| &cgroup_path[..end])
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use model::{CgroupId, Facts, NodeId, Principal, Runtime, Timestamp};

    use super::*;

    fn tenant(kind: RecordKind, realm: &str, name: &str, origin: &str) -> Tenant {
        let principal = Some(Principal { realm: realm.into(), name: name.into() });
        let (object, sight, writer, facts) = (None, None, None, Facts::default());
        let origin = origin.parse().ok();
        let record = Record { kind, id: "x".into(), principal, origin, object, sight, writer, facts };
        Tenant::of(&record.into_event(&NodeId::new("n"), Timestamp(1)))
    }

    fn of_process(workload: Workload) -> Tenant {
        let record = Record {
            kind: RecordKind::Sshd,
            id: "x".into(),
            principal: None,
            origin: None,
            object: None,
            sight: None,
            writer: None,
            facts: Facts::default(),
        };
        let mut event = record.into_event(&NodeId::new("n"), Timestamp(1));
        event.activity = model::Activity::Exec { requested: "/bin/sh".into() };
        let mut process = (*event.process).clone();
        process.workload = Arc::new(workload);
        event.process = Arc::new(process);
        Tenant::of(&event)
    }

    #[test]
    fn i11_cgroups_that_anybody_can_make_are_no_other_tenants() {
        let host = |path: &str| of_process(Workload::Host { cgroup_path: path.into() });
        let pod = |path: &str, uid: &str| {
            of_process(Workload::Container {
                runtime: Runtime::Containerd,
                container_id: "c".into(),
                pod_uid: Some(uid.into()),
                cgroup_path: path.into(),
            })
        };
        let dana = "/user.slice/user-1000.slice";
        assert_eq!(host(&format!("{dana}/user@1000.service/a")), host(&format!("{dana}/session-3.scope")));
        let forged = |uid: &str| pod(&format!("{dana}/user@1000.service/kubepods/pod{uid}/c"), uid);
        assert_eq!(forged("one"), forged("two"), "a user calls his cgroups what he likes");
        assert_eq!(forged("one"), host(dana));
        let gone = |id| of_process(Workload::Unresolved { cgroup: CgroupId(id) });
        assert_eq!(gone(1), gone(2));
        let others = [
            host(dana),
            host("/user.slice/user-1001.slice/session-9.scope"),
            host("/system.slice/nginx.service"),
            host("/system.slice/system-runner.slice/runner@1.service"),
            host("/system.slice/system-runner.slice/runner@2.service/x.slice/y.service"),
            host("/system.slice/docker-0f.scope"),
            host("/docker/0f"),
            host("/init.scope"),
            pod("/kubepods/burstable/podone/c", "one"),
            pod("/kubepods/burstable/podtwo/c", "two"),
            gone(1),
        ];
        let apart: std::collections::BTreeSet<&Tenant> = others.iter().collect();
        assert_eq!(apart.len(), others.len());
        assert_eq!(host("/system.slice/nginx.service/worker"), host("/system.slice/nginx.service"));
    }

    #[test]
    fn what_can_be_made_up_makes_no_other_tenant() {
        use RecordKind::{CloudTrail, KubernetesAudit as Audit, Sshd};
        let same = |a: Tenant, b: Tenant| assert_eq!(a, b);
        same(
            tenant(Audit, "kubernetes", "system:serviceaccount:pay:one", "10.0.0.1"),
            tenant(Audit, "kubernetes", "system:serviceaccount:pay:two", "10.0.0.2"),
        );
        same(tenant(Sshd, "bastion", "root", "192.0.2.1"), tenant(Sshd, "bastion", "u7", "192.0.2.1"));
        same(tenant(Sshd, "h", "root", "2001:db8::1"), tenant(Sshd, "h", "root", "2001:db8::ffff:1"));
        same(tenant(CloudTrail, "1234", "a", "192.0.2.1"), tenant(CloudTrail, "1234", "b", "192.0.2.2"));
        let others = [
            tenant(Audit, "kubernetes", "system:serviceaccount:pay:one", ""),
            tenant(Audit, "kubernetes", "system:serviceaccount:shop:one", ""),
            tenant(Audit, "kubernetes", "pay", ""),
            tenant(Sshd, "bastion", "root", "192.0.2.1"),
            tenant(Sshd, "bastion", "root", "::ffff:192.0.2.2"),
            tenant(Sshd, "db", "root", "192.0.2.1"),
            tenant(Sshd, "h", "root", "2001:db8:0:1::1"),
        ];
        let apart: std::collections::BTreeSet<&Tenant> = others.iter().collect();
        assert_eq!(apart.len(), others.len());
    }
}
