//! Whose noise it is. What is remembered is shared out among tenants, so that one that invents ever other things pushes out his own and nobody
//! else's.

use model::{Event, Record, RecordKind, Workload, machine_of, short_hash};
use serde::{Deserialize, Serialize};

/// Who an event is laid to the account of, as a digest. Chosen from what he cannot make up: in the API server's audit log who was let in
/// (of a service account its namespace), in a cloud's log the account, elsewhere the host or domain that tells and the address from
/// which it was done; of processes their pod or cgroup.
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
        let process = &event.process;
        match &*process.workload {
            Workload::Container { pod_uid: Some(uid), .. } => Self::made("pod", uid, ""),
            _ => Self::made("cgroup", event.id.node.as_str(), &process.cgroup.0.to_string()),
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

#[cfg(test)]
mod tests {
    use model::{Facts, NodeId, Principal, Timestamp};

    use super::*;

    fn tenant(kind: RecordKind, realm: &str, name: &str, origin: &str) -> Tenant {
        let principal = Some(Principal { realm: realm.into(), name: name.into() });
        let (object, sight, facts) = (None, None, Facts::default());
        let origin = origin.parse().ok();
        let record = Record { kind, id: "x".into(), principal, origin, object, sight, facts };
        Tenant::of(&record.into_event(&NodeId::new("n"), Timestamp(1)))
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
