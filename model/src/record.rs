//! What other sources than the kernel tell: audit logs, logins, network flows.
//!
//! A record is one typed event of one kind. What rules ask of it are [`Facts`]: values under the names of `detect`'s field table, which is
//! the only list of them, so that a source's reader, the rules, their tests and the documentation cannot disagree. What the rest of the
//! product needs (who, from where, to what) are fields of their own.

use std::{borrow::Cow, fmt, net::IpAddr, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    Activity, AgentEpoch, BootNs, CgroupId, Credentials, Event, EventId, ExeFile, Exposure, Namespaces,
    NodeId, Pid, Process, ProcessKey, ProcessOrigin, Seq, Stdio, Timestamp, Truncated, Workload,
    entries::{Entries, FactName},
    ids::hash_number,
};

/// Kind of a record: which log it is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecordKind {
    /// A request in the Kubernetes API server's audit log (audit.k8s.io/v1).
    KubernetesAudit,
    /// OpenSSH's server.
    Sshd,
    /// sudo.
    Sudo,
    /// Other programs that log in through PAM: su, login, cron, systemd.
    Pam,
    /// Okta's System Log.
    Okta,
    /// Keycloak's user and admin events.
    Keycloak,
    /// Entra ID's sign-ins.
    Entra,
    /// A login, or another event of an account, that a source without a kind of its own tells (OCSF 3002, security events).
    Authentication,
    /// A flow that Cilium's Hubble saw.
    HubbleFlow,
    /// A line of an AWS VPC flow log.
    VpcFlow,
    /// A flow that a source without a kind of its own tells (OCSF 4001, NetFlow, IPFIX, GCP).
    Flow,
    /// A call in AWS CloudTrail.
    CloudTrail,
}

/// Something that another source than the kernel tells.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Which log it is from.
    pub kind: RecordKind,
    /// Its identity in that log (`auditID` and stage, `uuid`), or of its place there.
    pub id: String,
    /// Who did it.
    pub principal: Option<Principal>,
    /// From where.
    pub origin: Option<IpAddr>,
    /// To what.
    pub object: Option<RecordObject>,
    /// Which of all that ever had the object's name, as far as the log tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sight: Option<ObjectSight>,
    /// Which process wrote it, where a kernel says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub writer: Option<RecordWriter>,
    /// What rules ask of it.
    pub facts: Facts,
}

/// What an answer says of the very object that a request was about. Only what the server itself answered: a client may write anything
/// into its request.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ObjectSight {
    /// Its uid; empty where the log does not tell.
    pub uid: String,
    /// Its version after a write that the server took; empty for what wrote nothing, and where the log does not tell.
    pub version: String,
    /// When the request was answered.
    pub answered: Timestamp,
}

/// The process that wrote a line, as its machine's kernel told who keeps the log. What the line itself says of that is no part of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordWriter {
    /// On which machine, in lower case.
    pub host: NodeId,
    /// Its id there; it means another process before and after.
    pub pid: Pid,
    /// When it wrote.
    pub at: BootNs,
}

/// An account, certainly: a name alone may mean two people in two realms.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Principal {
    /// Who gives the name its meaning: `kubernetes`, a host, an identity provider's domain.
    pub realm: String,
    /// The name there.
    pub name: String,
}

/// `name@realm`.
impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.name, self.realm)
    }
}

/// What a record is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RecordObject {
    /// For example `pods`, `host`, `application`.
    pub kind: String,
    /// Namespace, where there is one.
    pub namespace: Option<String>,
    /// Name; empty where the request names none.
    pub name: String,
}

/// `kind namespace/name`.
impl fmt::Display for RecordObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.kind)?;
        self.namespace.as_ref().map_or(Ok(()), |namespace| write!(f, "{namespace}/"))?;
        f.write_str(&self.name)
    }
}

/// For people: `dana@kubernetes from 192.0.2.10: pods pay/api-0`, as far as it is known.
impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.principal {
            Some(who) => write!(f, "{who}")?,
            None => f.write_str("somebody")?,
        }
        self.origin.map_or(Ok(()), |addr| write!(f, " from {addr}"))?;
        self.object.as_ref().map_or(Ok(()), |object| write!(f, ": {object}"))
    }
}

impl Record {
    /// Fields of [`Record::facts`] that say what came of it.
    pub const OUTCOME: [&str; 6] =
        ["AuthAction", "AuthOutcome", "AuthMethod", "verb", "objectRef.subresource", "responseStatus.code"];

    /// As [`Record`] is shown, with what came of it as far as its log tells: `(login failure by password)`, `(create exec answered 101)`.
    #[must_use]
    pub fn told(&self) -> String {
        let [action, outcome, method, verb, below, code] = Self::OUTCOME.map(|name| {
            self.facts.get(name).and_then(|fact| match fact {
                Fact::Text(text) => Some(text.clone()),
                Fact::Number(number) => Some(number.to_string()),
                Fact::Bool(_) | Fact::Address(_) | Fact::List(_) => None,
            })
        });
        let by = |word: &str, text: Option<String>| text.map(|text| format!("{word} {text}"));
        let parts = [action, outcome, by("by", method), verb, below, by("answered", code)];
        let parts: Vec<String> = parts.into_iter().flatten().filter(|part| !part.is_empty()).collect();
        match parts.is_empty() {
            true => self.to_string(),
            false => format!("{self} ({})", parts.join(" ")),
        }
    }
}

/// One value of a record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fact {
    /// A text.
    Text(String),
    /// A whole number.
    Number(i64),
    /// `true` or `false`.
    Bool(bool),
    /// An address.
    Address(IpAddr),
    /// Several texts.
    List(Vec<String>),
}

/// Values by field name, bounded (I11), each field for itself so that none can take another's room. What does not fit is cut, and
/// [`Facts::cut`] names the field: rules saw less of it than there was.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Facts {
    entries: Entries,
    truncated: Truncated,
    /// Sorted names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    cut: Vec<String>,
    /// Less is kept than rules saw.
    #[serde(default)]
    shortened: Truncated,
}

impl Facts {
    /// Fields that rules see.
    pub const MAX_FIELDS: usize = 96;
    /// Elements of one list that rules see.
    pub const MAX_LIST: usize = 4096;
    /// Bytes of one text that rules see: what the matcher compares.
    pub const MAX_TEXT: usize = 16 * 1024;
    /// Bytes of one list that rules see.
    pub const MAX_LIST_BYTES: usize = 256 * 1024;
    /// Bytes of all texts together that rules see: a record of the longest kind may stand in three fields.
    pub const MAX_BYTES: usize = 3 << 20;
    /// Bytes of all texts together that are kept with a finding.
    pub const MAX_KEPT: usize = 64 * 1024;

    /// A field's value.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Fact> {
        self.entries.get(self.entries.find(name).ok()?)
    }

    /// As [`Facts::get`], of a name that is known beforehand.
    #[must_use]
    #[inline]
    pub fn named(&self, name: FactName) -> Option<&Fact> {
        self.entries.get(self.entries.find_named(name).ok()?)
    }

    /// Gives a field a value; an earlier one goes.
    pub fn set(&mut self, name: impl Into<Cow<'static, str>>, fact: Fact) {
        let name = name.into();
        self.put(self.entries.find(&name), name, fact);
    }

    /// As [`Facts::set`], of a name that is known beforehand.
    pub fn set_named(&mut self, name: FactName, fact: Fact) {
        self.put(self.entries.find_named(name), name.text().into(), fact);
    }

    fn put(&mut self, place: Result<usize, usize>, name: Cow<'static, str>, fact: Fact) {
        if let Ok(at) = place {
            self.entries.remove(at);
        }
        let mut room = match &fact {
            Fact::List(_) => Self::MAX_LIST_BYTES,
            _ => Self::MAX_TEXT,
        };
        if self.bytes() + room > Self::MAX_BYTES {
            room = Self::MAX_BYTES.saturating_sub(self.bytes()).min(room);
        }
        let (Ok(at) | Err(at)) = place;
        let (fact, left) = fact.within(room, Self::MAX_TEXT, Self::MAX_LIST);
        if left == Left::Something || self.entries.len() >= Self::MAX_FIELDS {
            self.miss(&name);
        }
        if self.entries.len() < Self::MAX_FIELDS {
            self.entries.insert(at, name, fact);
        }
    }

    /// Says that rules see less of `name` than there was.
    pub fn miss(&mut self, name: &str) {
        self.truncated = Truncated::Yes;
        if let Err(at) = self.cut.binary_search_by(|known| known.as_str().cmp(name))
            && self.cut.len() < Self::MAX_FIELDS
        {
            self.cut.insert(at, name.to_owned());
        }
    }

    /// All, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Fact)> {
        self.entries.iter()
    }

    /// Whether rules saw less than there was.
    #[must_use]
    pub fn truncated(&self) -> Truncated {
        self.truncated
    }

    /// Of which fields, sorted.
    #[must_use]
    pub fn cut(&self) -> &[String] {
        &self.cut
    }

    /// Whether less is kept than rules saw.
    #[must_use]
    pub fn shortened(&self) -> Truncated {
        self.shortened
    }

    /// What is kept with a finding: at most [`Facts::MAX_KEPT`] bytes, the longest fields cut first, so that who, what and where stay whole.
    #[must_use]
    pub fn to_keep(&self) -> Self {
        let mut kept = self.clone();
        if self.bytes() <= Self::MAX_KEPT {
            return kept;
        }
        let mut by_size: Vec<(usize, usize)> =
            kept.iter().enumerate().map(|(at, (_, fact))| (fact.bytes(), at)).collect();
        by_size.sort_unstable();
        let (mut left, mut fields) = (Self::MAX_KEPT, by_size.len());
        for (_, at) in by_size {
            let room = left / fields.max(1);
            kept.entries.replace(at, |fact| fact.within(room, room, Self::MAX_LIST).0);
            left -= kept.entries.get(at).map_or(0, Fact::bytes).min(left);
            fields -= 1;
        }
        kept.shortened = Truncated::Yes;
        kept
    }

    fn bytes(&self) -> usize {
        self.entries.bytes()
    }
}

/// Whether something did not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    Nothing,
    Something,
}

impl Fact {
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::List(texts) => texts.iter().map(String::len).sum(),
            Self::Number(_) | Self::Bool(_) | Self::Address(_) => 0,
        }
    }

    /// As much of it as fits: bytes in all, bytes of one text, elements.
    fn within(self, mut room: usize, text: usize, elements: usize) -> (Self, Left) {
        let mut left = Left::Nothing;
        let mut cut = |one: String| {
            let keep = one.floor_char_boundary(text.min(room));
            room -= keep;
            if keep < one.len() {
                left = Left::Something;
                return one[..keep].to_owned();
            }
            one
        };
        let fact = match self {
            Self::Text(one) => Self::Text(cut(one)),
            Self::List(mut texts) => {
                let too_many = texts.len() > elements;
                texts.truncate(elements);
                let texts: Vec<String> = texts.into_iter().map(cut).collect();
                if too_many {
                    left = Left::Something;
                }
                Self::List(texts)
            }
            other => other,
        };
        (fact, left)
    }
}

impl Record {
    /// The event that it is. There is no process behind it: [`Event::process`] is [`Process::nobody`], which nothing can be done to (I9).
    ///
    /// `source` is its source's name and takes the place of the node. The event's number comes from the record's own identity, so a log that
    /// is read twice gives the same events (I3).
    #[must_use]
    pub fn into_event(self, source: &NodeId, time: Timestamp) -> Event {
        // 53 bits: a number that every JSON reader keeps whole.
        let seq = hash_number([self.id.as_str()]) >> 11;
        Event {
            id: EventId { node: source.clone(), epoch: AgentEpoch(1), seq: Seq(seq) },
            time,
            process: Arc::new(Process::nobody(self.principal.as_ref(), self.origin)),
            parent: None,
            ancestors: Arc::new([]),
            exposure: Exposure::None,
            activity: Activity::Record(Arc::new(self)),
        }
    }
}

impl Event {
    /// What another source than the kernel told; `None` for what a process did.
    #[must_use]
    pub fn record(&self) -> Option<&Record> {
        match &self.activity {
            Activity::Record(record) => Some(record),
            _ => None,
        }
    }
}

impl Process {
    /// Stands where no process is known: pid 0, which no action takes for a target, in no cgroup. Its start tells principals apart, and
    /// where nobody is named the addresses that something came from, so that what was said of one is not taken for the other.
    #[must_use]
    pub fn nobody(of: Option<&Principal>, from: Option<IpAddr>) -> Self {
        // 48 bits, as it always was: it is part of what is stored.
        let start = match (of, from) {
            (Some(of), _) => hash_number([of.realm.as_str(), of.name.as_str()]) >> 16,
            (None, Some(from)) => hash_number(["from", &from.to_canonical().to_string()]) >> 16,
            (None, None) => 0,
        };
        Self {
            key: ProcessKey { pid: Pid(0), start: BootNs(start) },
            parent: None,
            exe: String::new(),
            exe_file: ExeFile::default(),
            command_line: String::new(),
            args: Vec::new(),
            args_truncated: Truncated::No,
            cwd: String::new(),
            comm: String::new(),
            credentials: Credentials::default(),
            namespaces: Namespaces::default(),
            tty: None,
            stdio: Stdio::default(),
            cgroup: CgroupId(0),
            workload: Arc::new(Workload::Unresolved { cgroup: CgroupId(0) }),
            origin: ProcessOrigin::Recovered,
            exit: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i11_facts_are_bounded_and_say_of_which_fields_something_is_missing() {
        let mut facts = Facts::default();
        facts.set("b", Fact::Text("ä".repeat(Facts::MAX_TEXT)));
        assert_eq!((facts.truncated(), facts.cut()), (Truncated::Yes, &["b".to_owned()][..]));
        let Some(Fact::Text(text)) = facts.get("b") else { panic!() };
        assert_eq!(text.len(), Facts::MAX_TEXT);
        for n in 0..200 {
            facts.set(format!("f{n}"), Fact::List(vec!["x".repeat(100); 5000]));
        }
        assert!(facts.iter().count() <= Facts::MAX_FIELDS);
        assert!(facts.bytes() <= Facts::MAX_BYTES);
        assert!(facts.cut().len() <= Facts::MAX_FIELDS && facts.cut().is_sorted());
        assert!(facts.iter().map(|(name, _)| name).is_sorted());
    }

    #[test]
    fn no_field_takes_the_room_of_another_and_what_is_kept_is_short_fields_first() {
        let mut facts = Facts::default();
        facts.set("a", Fact::List(vec!["x".repeat(1000); 1000]));
        facts.set("verb", Fact::Text("create".into()));
        facts.set("z", Fact::Text("y".repeat(9000)));
        assert_eq!(facts.cut(), ["a"]);
        assert_eq!(facts.get("z"), Some(&Fact::Text("y".repeat(9000))));
        let kept = facts.to_keep();
        assert!(kept.bytes() <= Facts::MAX_KEPT, "{}", kept.bytes());
        assert_eq!(kept.get("verb"), facts.get("verb"));
        assert_eq!(kept.get("z"), facts.get("z"));
        assert_eq!((kept.shortened(), kept.cut()), (Truncated::Yes, facts.cut()));
        assert_eq!(Facts::default().to_keep(), Facts::default());
    }

    #[test]
    fn a_field_has_one_value() {
        let mut facts = Facts::default();
        facts.set("a", Fact::Number(1));
        facts.set("a", Fact::Number(2));
        assert_eq!((facts.get("a"), facts.iter().count()), (Some(&Fact::Number(2)), 1));
        assert_eq!(facts.truncated(), Truncated::No);
    }

    #[test]
    fn i3_the_same_record_is_the_same_event_and_i9_nobody_is_no_target() {
        let record = |id: &str| Record {
            kind: RecordKind::Sshd,
            id: id.into(),
            principal: Some(Principal { realm: "host".into(), name: "root".into() }),
            origin: None,
            object: None,
            sight: None,
            writer: None,
            facts: Facts::default(),
        };
        let event = |id: &str| record(id).into_event(&NodeId::new("auth"), Timestamp(1));
        assert_eq!(event("a"), event("a"));
        assert_ne!(event("a").id, event("b").id);
        assert_eq!(event("a").process.key.pid, Pid(0));
        let text = serde_json::to_string(&event("a")).unwrap();
        assert_eq!(serde_json::from_str::<Event>(&text).unwrap().record(), event("a").record());
        assert_eq!(event("a").record().unwrap().to_string(), "root@host");
    }
}
