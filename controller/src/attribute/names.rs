//! What else something of a finding is called: the pod that acted from an address at that moment, the pod of a cgroup that is called otherwise,
//! and who opened the session that a process is in.

use detect::incident::{Alias, Key, key_of_account, key_of_address, keys_of};
use model::Finding;

use super::index::Index;

impl Index {
    /// Nothing that is not certain: where two pods, or two people's requests, fit, there is no alias. And an address is one only of who acted from
    /// it: anybody can dial a pod, and would have his story put into the pod's.
    #[must_use]
    pub fn aliases(&self, finding: &Finding) -> Vec<Alias> {
        let mut aliases = Vec::new();
        for key in keys_of(finding) {
            let is = match &key {
                Key::Address { addr } if finding.event.record().is_some() => {
                    self.pod_at(*addr, finding.event.time)
                }
                Key::Pod { uid } => self.uid_of(&finding.event.id.node, uid).filter(|own| own != uid),
                _ => None,
            };
            if let Some(uid) = is {
                aliases.push(Alias { of: Some(key), is: Key::Pod { uid: uid.to_owned() } });
            }
        }
        if let [session] = &self.sessions_of(finding)[..] {
            // From another pod: that is who acted there, and its story is not the one of the pod here.
            let from = session.origin.filter(|from| !self.is_a_pods(*from)).and_then(key_of_address);
            let of = |is: Key| Alias { of: None, is };
            aliases.extend(key_of_account(&session.user).into_iter().chain(from).map(of));
        }
        aliases.sort();
        aliases.dedup();
        aliases
    }
}
