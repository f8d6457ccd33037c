//! What findings can have in common, and what says nothing because everything has it in common.

use std::{fmt, net::IpAddr};

use model::{
    Activity, BootNs, CgroupId, Entity, Event, Fact, Finding, INIT_PID, NodeId, Pid, Principal, ProcessKey,
    Record, RecordKind, Workload,
};
use serde::{Deserialize, Serialize};

use super::login;
use crate::schema::Field;

/// Ancestors that are looked at, from the parent upwards.
pub(super) const MAX_ANCESTORS: usize = 16;

/// pid of kthreadd, the parent of all kernel threads.
const KTHREADD: u32 = 2;

/// Something that links findings.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(tag = "key", rename_all = "snake_case")]
pub enum Key {
    /// The process itself, or an ancestor.
    Process {
        /// Where.
        node: NodeId,
        /// Which.
        process: ProcessKey,
    },
    /// A container, a service or a cgroup of one's own.
    Cgroup {
        /// Where.
        node: NodeId,
        /// Which.
        cgroup: CgroupId,
    },
    /// A pod.
    Pod {
        /// Kubernetes uid.
        uid: String,
    },
    /// A login session: the login uid on one terminal.
    Session {
        /// Where.
        node: NodeId,
        /// Login uid.
        auid: u32,
        /// Terminal.
        tty: String,
    },
    /// The other end of a conversation; of a record, from where it was done.
    Address {
        /// Which.
        addr: IpAddr,
    },
    /// Who did what a record tells.
    Principal {
        /// Account and realm.
        who: Principal,
    },
    /// A process let somebody in; it meets [`Key::Served`].
    Login {
        /// Where.
        node: NodeId,
        /// Which process, by that time.
        pid: Pid,
        /// When.
        at: BootNs,
    },
    /// An ancestor that lets people in, and was certainly there for so long; it meets [`Key::Login`].
    Served {
        /// Where.
        node: NodeId,
        /// Which.
        by: ProcessKey,
        /// It was there until then, at least.
        until: BootNs,
    },
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process { node, process } => write!(f, "process {} on {node}", process.pid),
            Self::Cgroup { node, cgroup } => write!(f, "cgroup {} on {node}", cgroup.0),
            Self::Pod { uid } => write!(f, "pod {uid}"),
            Self::Session { node, auid, tty } => write!(f, "session of uid {auid} at {tty} on {node}"),
            Self::Address { addr } => write!(f, "address {addr}"),
            Self::Principal { who } => write!(f, "account {who}"),
            Self::Login { node, pid, .. } => write!(f, "session of sshd process {pid} on {node}"),
            Self::Served { node, by, .. } => write!(f, "session of sshd process {} on {node}", by.pid),
        }
    }
}

/// What somebody else knows of a finding: that something of it is called otherwise, too. The pod that an address belonged to at that time, the
/// account that opened a session.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Alias {
    /// Of which key of the finding, where it is of one: what is a hub has no aliases. What an address stands for stands in its place: who merely
    /// spoke with it is not linked.
    pub of: Option<Key>,
    /// What that is, too.
    pub is: Key,
}

impl Alias {
    /// The pod that acted from an address.
    fn acted(&self) -> Option<&Key> {
        matches!(self.of, Some(Key::Address { .. })).then_some(&self.is)
    }

    /// Whether it would put several pods' stories together: an address is no reason to, for it says who acted and not for whom.
    pub(super) fn glues<'a>(&self, mut others: impl Iterator<Item = &'a Key>) -> bool {
        let Some(pod) = self.acted() else { return false };
        let mut is_other = false;
        let is_among = others.any(|key| {
            is_other |= matches!(key, Key::Pod { .. }) && key != pod;
            key == pod
        });
        is_other && !is_among
    }
}

/// What links `finding`, when its aliases are known: its own keys ([`keys_of`]) but for addresses of which it is known whose they are, and what
/// its aliases say, as far as that puts no several pods together.
#[must_use]
pub fn names_of(finding: &Finding, aliases: &[Alias]) -> Vec<Key> {
    let (mut names, aliases) = own_names(finding, aliases);
    names.extend(aliases.into_iter().map(|alias| alias.is.clone()));
    names
}

/// As [`names_of`], each by itself.
pub(super) fn own_names<'a>(finding: &Finding, aliases: &'a [Alias]) -> (Vec<Key>, Vec<&'a Alias>) {
    let mut own = keys_of(finding);
    let stands_for = |key: &Key| aliases.iter().any(|a| a.of.as_ref() == Some(key) && a.acted().is_some());
    own.retain(|key| !stands_for(key));
    let aliases = aliases.iter().filter(|alias| !alias.glues(own.iter())).collect();
    (own, aliases)
}

/// What can be a hub: an address, and an account that opens sessions. As rows of an address have it, so that older ones are read.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Busy {
    /// From where, or with which.
    Address(IpAddr),
    /// Who is in many places.
    Account(Principal),
}

impl Busy {
    pub(super) fn of(key: &Key) -> Option<Self> {
        match key {
            Key::Address { addr } => Some(Self::Address(*addr)),
            Key::Principal { who } => Some(Self::Account(who.clone())),
            _ => None,
        }
    }
}

/// What is counted of a finding, to know hubs: its own address, and those addresses and accounts that it is learnt from. Who a record names is
/// counted by nothing: all that a log tells comes from one place.
pub(super) fn busy_of(finding: &Finding, aliases: &[Alias]) -> Vec<Busy> {
    let own = keys_of(finding).into_iter().filter(|key| matches!(key, Key::Address { .. }));
    let mut busy: Vec<Busy> =
        own.chain(aliases.iter().map(|alias| alias.is.clone())).filter_map(|key| Busy::of(&key)).collect();
    busy.sort();
    busy.dedup();
    busy
}

/// Links what an account did; `None` for those that say nothing.
#[must_use]
pub fn key_of_account(who: &Principal) -> Option<Key> {
    let own = who.name.strip_prefix("system:");
    let person = !who.name.is_empty() && own.is_none_or(|rest| rest.starts_with("serviceaccount:"));
    person.then(|| Key::Principal { who: who.clone() })
}

/// Links what was done from an address; `None` for those that say nothing.
#[must_use]
pub fn key_of_address(addr: IpAddr) -> Option<Key> {
    address_links(addr).then_some(Key::Address { addr })
}

/// What links `finding` to others, sorted. Left out, as hubs:
///
/// - pid 1, kthreadd, and ancestors whose parent is one of them (daemons and session servers that everything comes from),
///   unless the finding is about that process itself;
/// - ancestors in another cgroup: a container's shim, the service that opened the login session;
/// - the root cgroup, slices, `init.scope`, `user@` managers, the kubelet's `kubepods` parents;
/// - loopback, unspecified, multicast, broadcast and link-local addresses, and DNS servers;
/// - addresses inside the cluster that a pod dials: its services are everybody's;
/// - Kubernetes' own accounts (`system:apiserver`, `system:anonymous`), but not its service accounts.
///
/// An account links who did something, and nobody whom a record only names: a login that was refused, the account that was changed, the one that
/// somebody asked to be taken for.
#[must_use]
pub fn keys_of(finding: &Finding) -> Vec<Key> {
    let event = &finding.event;
    if let Some(record) = event.record() {
        return keys_of_record(record);
    }
    let (node, process) = (&event.id.node, &event.process);
    let mut keys = Vec::with_capacity(8);
    if process.key.pid != INIT_PID {
        keys.push(Key::Process { node: node.clone(), process: process.key });
    }
    for ancestor in finding.ancestors.iter().take(MAX_ANCESTORS) {
        let daemon = ancestor.parent.is_none_or(|parent| is_root(parent.pid.0));
        if !daemon && !is_root(ancestor.key.pid.0) && ancestor.cgroup == process.cgroup {
            keys.push(Key::Process { node: node.clone(), process: ancestor.key });
        }
    }
    if cgroup_links(&process.workload) {
        keys.push(Key::Cgroup { node: node.clone(), cgroup: process.cgroup });
    }
    if let Workload::Container { pod_uid: Some(uid), .. } = &*process.workload {
        keys.push(Key::Pod { uid: uid.clone() });
    }
    if let (Some(auid), Some(tty)) = (process.credentials.auid, &process.tty) {
        keys.push(Key::Session { node: node.clone(), auid, tty: tty.clone() });
    }
    if let Some(addr) = remote(&event.activity).filter(|addr| address_links(*addr))
        && !is_everybodys(event, addr)
    {
        keys.push(Key::Address { addr });
    }
    keys.extend(login::of_process(finding));
    keys.sort();
    keys.dedup();
    keys
}

fn keys_of_record(record: &Record) -> Vec<Key> {
    let who = record.principal.as_ref().filter(|_| has_acted(record)).and_then(key_of_account);
    let addr = record.origin.and_then(key_of_address);
    // The API server says whose token it was; of a token that was taken elsewhere, too.
    let pods = match record.facts.get(Field::RequestPodUid.name()) {
        Some(Fact::List(uids)) => uids.as_slice(),
        _ => &[],
    };
    let pods = pods.iter().filter(|uid| !uid.is_empty()).map(|uid| Key::Pod { uid: uid.clone() });
    let login = login::of_record(record);
    let mut keys: Vec<Key> = who.into_iter().chain(addr).chain(pods).chain(login).collect();
    keys.sort();
    keys.dedup();
    keys
}

/// Whether the account of a record is who did what it tells. A name that somebody tried to log in with, or that a line merely speaks of, is anybody's
/// choice, and would put the stories of two together.
fn has_acted(record: &Record) -> bool {
    let word = |field: Field| match record.facts.get(field.name()) {
        Some(Fact::Text(text)) => text.as_str(),
        _ => "",
    };
    let is_a_line = matches!(record.kind, RecordKind::Sshd | RecordKind::Sudo | RecordKind::Pam);
    let failed = word(Field::AuthOutcome) == "failure";
    match (record.kind, word(Field::AuthAction)) {
        // Such events are about an account: who ended its sessions or changed it does not stand in them.
        (RecordKind::Authentication, action) => action == "login" && !failed,
        // Who fails at a provider has shown nothing, whatever he tried: to register a name that is taken, to be let in by a policy.
        (RecordKind::Okta | RecordKind::Keycloak | RecordKind::Entra, _) if failed => false,
        // Anybody asks for another's password to be sent to him.
        (RecordKind::Keycloak, "credential") => {
            !matches!(word(Field::KeycloakType), "SEND_RESET_PASSWORD" | "RESET_PASSWORD")
        }
        // Who was refused has not shown that the name is his.
        (_, "login" | "mfa" | "session") => !failed,
        // Such lines say whose account was changed and not by whom.
        (_, "account" | "credential") => !is_a_line,
        // A connection that ended before anybody was let in. Of a line that another wrote than it says the kernel tells who that was.
        (_, "other" | "") if is_a_line => word(Field::AuthTrust) == "contradicted",
        _ => true,
    }
}

/// What an incident with `finding` is about, for people: the hubs that do not link are among it.
#[must_use]
pub fn entities_of(finding: &Finding) -> Vec<Entity> {
    let event = &finding.event;
    if let Some(record) = event.record() {
        let who = record.principal.iter().map(|who| Entity::Principal { who: who.clone() });
        let what = record.object.iter().map(|object| Entity::Object { object: object.clone() });
        let addr = record.origin.map(|addr| Entity::Address { addr });
        return who.chain(what).chain(addr).collect();
    }
    let (node, process) = (&event.id.node, &event.process);
    let mut entities = vec![Entity::Process { node: node.clone(), process: process.key }];
    let path = process.workload.cgroup_path().unwrap_or("").to_owned();
    entities.push(Entity::Cgroup { node: node.clone(), cgroup: process.cgroup, path });
    if let Workload::Container { pod_uid: Some(uid), .. } = &*process.workload {
        entities.push(Entity::Pod { uid: uid.clone() });
    }
    if let Some(auid) = process.credentials.auid {
        entities.push(Entity::User { node: node.clone(), auid });
    }
    if let Some(addr) = remote(&event.activity) {
        entities.push(Entity::Address { addr });
    }
    entities.push(Entity::Node { node: node.clone() });
    entities
}

fn is_root(pid: u32) -> bool {
    pid <= KTHREADD
}

fn cgroup_links(workload: &Workload) -> bool {
    match workload {
        Workload::Container { .. } => true,
        // It ended before it was looked up: the root and the slices never do, so it was somebody's own.
        Workload::Unresolved { .. } => true,
        Workload::Unit { unit, cgroup_path, .. } => {
            !unit.ends_with(".slice")
                && unit != "init.scope"
                && !unit.starts_with("user@")
                && !is_shared_path(cgroup_path)
        }
        Workload::Host { cgroup_path } => !is_shared_path(cgroup_path),
    }
}

fn is_shared_path(path: &str) -> bool {
    let last = path.trim_end_matches('/').rsplit('/').next().unwrap_or("");
    last.is_empty()
        || last.ends_with(".slice")
        || matches!(last, "init.scope" | "kubepods" | "burstable" | "besteffort" | "docker" | "containerd")
}

fn remote(activity: &Activity) -> Option<IpAddr> {
    match activity {
        Activity::Connect(flow) | Activity::Accept(flow) | Activity::SocketClose { flow, .. } => {
            Some(flow.remote.addr)
        }
        _ => None,
    }
}

/// Whether a pod dials what stands inside: all pods of a cluster dial the same services, and whoever wants to stand beside another dials what
/// that one dials. Who dialled the pod is another thing, and who closes a connection does not say which of the two it was.
fn is_everybodys(event: &Event, addr: IpAddr) -> bool {
    let in_a_pod = matches!(&*event.process.workload, Workload::Container { pod_uid: Some(_), .. });
    in_a_pod && !matches!(event.activity, Activity::Accept(_)) && is_inside(addr.to_canonical())
}

/// Addresses that no network outside routes: RFC 1918, RFC 6598 (which clouds give to pods), RFC 4193.
fn is_inside(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(v4) => v4.is_private() || matches!(v4.octets(), [100, 64..=127, ..]),
        IpAddr::V6(v6) => v6.is_unique_local(),
    }
}

fn address_links(addr: IpAddr) -> bool {
    if addr.is_loopback() || addr.is_unspecified() || addr.is_multicast() {
        return false;
    }
    match addr {
        IpAddr::V4(v4) => !v4.is_link_local() && !v4.is_broadcast(),
        IpAddr::V6(v6) => !v6.is_unicast_link_local(),
    }
}
