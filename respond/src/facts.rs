//! What CEL expressions and targets see of an incident: plain, bounded, and stable whatever the model's own shape becomes.

mod place;

use std::collections::BTreeSet;

use model::{
    Account, Activity, Attribution, Backing, CgroupId, Event, Fact, FactKind, Finding, Incident,
    IntelligenceMatch, NodeId, ObjectRef, ObjectWrite, PodFacts, Process, ProcessKey, Record, Timestamp,
    Workload,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Entries of any list that expressions see, at most (I11).
pub const MAX_LIST: usize = 256;
/// Findings that expressions see, at most (I11); the newest are left out.
pub const MAX_FINDINGS: usize = 64;

/// What is known of an incident when a run is decided.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    /// `incident`.
    pub incident: Value,
    /// `findings`, oldest first.
    pub findings: Value,
    /// `finding`: the one that the playbook answers.
    pub finding: Value,
    /// `process`: who did it.
    pub process: Value,
    /// `node`.
    pub node: Value,
    /// What the steps act on where they do not select something else.
    pub subject: Subject,
}

/// The things of the answered finding, each only if it is certain (I9).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Subject {
    /// The process.
    pub process: Option<ProcessKey>,
    /// Its cgroup: id and path.
    pub cgroup: Option<(CgroupId, String)>,
    /// Its executable: path, inode, device as stat(2) gives it.
    pub executable: Option<(String, u64, u64)>,
    /// The other end of its connection.
    pub destination: Option<std::net::IpAddr>,
    /// Executable and parents, for the protection of what must never be touched.
    pub kernel_thread: KernelThread,
    /// The pod.
    #[serde(default)]
    pub pod: Option<ObjectRef>,
    /// Why there is none.
    #[serde(default)]
    pub pod_unknown: Option<String>,
    /// The pod's topmost owner.
    #[serde(default)]
    pub workload: Option<ObjectRef>,
    /// The pod's namespace, or that of a record's object: the one of that name at the time.
    #[serde(default)]
    pub namespace: Option<ObjectRef>,
    /// The pod's node, likewise.
    #[serde(default)]
    pub host: Option<ObjectRef>,
    /// Who did it, where a record says so; else as whom the pod runs.
    #[serde(default)]
    pub account: Option<Account>,
    /// What a record of the API server is about. Where the log does not tell its uid, the one that had the name then.
    #[serde(default)]
    pub object: Option<ObjectRef>,
    /// What the incident wrote in the API server, oldest first.
    #[serde(default)]
    pub writes: Vec<(ObjectRef, ObjectWrite)>,
    /// When the incident's first event was.
    #[serde(default)]
    pub began: Option<Timestamp>,
    /// The container's image as its pod names it.
    #[serde(default)]
    pub image: Option<String>,
}

/// Whether a process is a kernel thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KernelThread {
    /// A program.
    #[default]
    No,
    /// A thread of the kernel.
    Yes,
}

impl Facts {
    /// Those of `incident` with `answered` as the finding that the playbook answers.
    #[must_use]
    pub fn of(incident: &Incident, answered: &Finding, node: &NodeId) -> Self {
        let process = &answered.event.process;
        Self {
            incident: incident_facts(incident),
            findings: incident.findings.iter().take(MAX_FINDINGS).map(finding).collect(),
            finding: finding(answered),
            process: process_facts(process),
            node: json!({ "name": node.as_str() }),
            subject: Subject::of(incident, answered),
        }
    }

    /// Those of `incident` where no finding tells why: enough for a run without steps, which evaluates nothing.
    #[must_use]
    pub fn without_finding(incident: &Incident, node: &NodeId) -> Self {
        Self {
            incident: incident_facts(incident),
            findings: Value::Array(Vec::new()),
            finding: Value::Null,
            process: Value::Null,
            node: json!({ "name": node.as_str() }),
            subject: Subject::default(),
        }
    }
}

/// What is known beside the findings is what was known when the run was decided: a feed that is read later changes nothing of it.
fn incident_facts(incident: &Incident) -> Value {
    let known = &incident.enrichment.intelligence;
    let facts = incident.enrichment.facts.iter();
    let sensitivity = facts.filter(|fact| fact.kind == FactKind::Sensitivity).map(|fact| fact.what.as_str());
    json!({
        "id": incident.id.as_str(),
        "title": incident.title,
        "severity": incident.severity,
        "techniques": bounded(&incident.techniques),
        "finding_count": incident.findings.len() as u64 + incident.findings_dropped,
        "intelligence": known.iter().take(MAX_LIST).map(intelligence).collect::<Value>(),
        "intelligence_confidence": known.iter().map(|one| one.confidence).max().unwrap_or(0),
        "sensitivity": sensitivity.take(MAX_LIST).collect::<Vec<&str>>(),
        "classes": incident.enrichment.classes,
        "secrets": listed(incident, |pod| pod.secrets.iter().map(|secret| secret.name.clone()).collect()),
        "exposure": listed(incident, |pod| pod.doors.iter().map(|door| door.reach.to_string()).collect()),
        "peers": listed(incident, |pod| pod.peers.iter().map(|peer| peer.other.clone()).collect()),
    })
}

/// What the certainly known pods of an incident have, sorted, each once.
fn listed(incident: &Incident, of: impl Fn(&PodFacts) -> Vec<String>) -> Vec<String> {
    let pods = incident.pods.iter().filter_map(|known| match &known.attribution {
        Attribution::Resolved { pod, .. } => Some(&**pod),
        _ => None,
    });
    let all: BTreeSet<String> = pods.flat_map(of).collect();
    all.into_iter().take(MAX_LIST).collect()
}

/// What a feed says of something that was seen.
fn intelligence(found: &IntelligenceMatch) -> Value {
    json!({
        "observed": found.observed,
        "indicator": found.indicator,
        "relation": found.relation,
        "feed": found.feed,
        "confidence": found.confidence,
    })
}

impl Subject {
    fn of(incident: &Incident, answered: &Finding) -> Self {
        let process = &answered.event.process;
        let mut subject = Self {
            process: (process.key.pid.0 != 0 && process.key.start.0 != 0).then_some(process.key),
            cgroup: process.workload.cgroup_path().map(|path| (process.cgroup, path.to_owned())),
            // a container's path means another file on the host
            executable: (process.exe_file.backing == Backing::File
                && !matches!(*process.workload, Workload::Container { .. })
                && process.exe.starts_with('/')
                && process.exe_file.inode != 0)
                .then(|| (process.exe.clone(), process.exe_file.inode, stat_device(process.exe_file.device))),
            destination: match &answered.event.activity {
                Activity::Connect(flow) | Activity::SocketClose { flow, .. } => Some(flow.remote.addr),
                _ => None,
            },
            kernel_thread: kernel_thread(process),
            ..Self::default()
        };
        place::fill(&mut subject, incident, answered);
        subject
    }
}

/// kthreadd has pid 2, every other kernel thread is its child, and none has an executable.
fn kernel_thread(process: &Process) -> KernelThread {
    let from_kthreadd = process.key.pid.0 == 2 || process.parent.is_some_and(|p| p.pid.0 == 2);
    if from_kthreadd && process.exe.is_empty() { KernelThread::Yes } else { KernelThread::No }
}

/// From the kernel's `major << 20 | minor` to what stat(2) shows: `new_encode_dev` of include/linux/kdev_t.h.
fn stat_device(kernel: u32) -> u64 {
    let (major, minor) = (kernel >> 20, kernel & 0xf_ffff);
    u64::from((minor & 0xff) | (major << 8) | ((minor & !0xff) << 12))
}

fn finding(finding: &Finding) -> Value {
    json!({
        "id": finding.id.as_str(),
        "rule": finding.rule.id,
        "title": finding.rule.title,
        "level": finding.rule.level,
        "techniques": bounded(&finding.rule.techniques),
        "tactics": bounded(&finding.rule.tactics),
        "count": finding.count,
        "matched": finding.matched.iter().take(MAX_LIST).collect::<std::collections::BTreeMap<_, _>>(),
        "event": event(&finding.event),
        "process": process_facts(&finding.event.process),
    })
}

fn event(event: &Event) -> Value {
    let (kind, detail) = match &event.activity {
        Activity::Exec { requested } => ("exec", json!({ "requested": requested })),
        Activity::FileOpen { file, .. }
        | Activity::FileDelete { file }
        | Activity::FileMode { file, .. }
        | Activity::FileOwner { file, .. } => (kind_of_file(&event.activity), json!({ "path": file.path })),
        Activity::FileRename { from, to } => ("file_rename", json!({ "path": to.path, "from": from.path })),
        Activity::FileLink { target, link, .. } => {
            ("file_link", json!({ "path": link.path, "from": target.path }))
        }
        Activity::Connect(flow) => ("connect", remote(flow)),
        Activity::Accept(flow) => ("accept", remote(flow)),
        Activity::SocketClose { flow, .. } => ("socket_close", remote(flow)),
        Activity::DnsQuery { name, .. } => ("dns_query", json!({ "name": name })),
        Activity::ModuleLoad { name } => ("module_load", json!({ "name": name })),
        Activity::MemfdCreate { name, .. } => ("memfd_create", json!({ "name": name })),
        Activity::Fork { .. } => ("fork", json!({})),
        Activity::Exit(_) => ("exit", json!({})),
        Activity::CredentialChange { .. } => ("credential_change", json!({})),
        Activity::NamespaceChange { .. } => ("namespace_change", json!({})),
        Activity::Bind { .. } => ("bind", json!({})),
        Activity::Listen { .. } => ("listen", json!({})),
        Activity::Bpf { .. } => ("bpf", json!({})),
        Activity::Ptrace { .. } => ("ptrace", json!({})),
        Activity::Mount { .. } => ("mount", json!({})),
        Activity::ProcessVmWrite { .. } => ("process_vm_write", json!({})),
        Activity::IoUringSetup { .. } => ("io_uring_setup", json!({})),
        Activity::Record(record) => ("record", record_facts(record)),
    };
    let mut facts = json!({ "kind": kind, "exposure": event.exposure });
    if let (Value::Object(all), Value::Object(more)) = (&mut facts, detail) {
        all.extend(more);
    }
    facts
}

/// `fields` are under the names of docs/fields.md.
fn record_facts(record: &Record) -> Value {
    let value = |fact: &Fact| match fact {
        Fact::Text(text) => json!(text),
        Fact::Number(number) => json!(number),
        Fact::Bool(truth) => json!(truth),
        Fact::Address(addr) => json!(addr.to_string()),
        Fact::List(texts) => json!(bounded(texts)),
    };
    let fields: serde_json::Map<String, Value> =
        record.facts.iter().map(|(name, fact)| (name.to_owned(), value(fact))).collect();
    json!({
        "source": record.kind,
        "principal": record.principal.as_ref().map(|who| json!({ "realm": who.realm, "name": who.name })),
        "origin": record.origin.map(|addr| addr.to_string()),
        "object": record.object,
        "fields": fields,
    })
}

fn kind_of_file(activity: &Activity) -> &'static str {
    match activity {
        Activity::FileDelete { .. } => "file_delete",
        Activity::FileMode { .. } => "file_mode",
        Activity::FileOwner { .. } => "file_owner",
        _ => "file_open",
    }
}

fn remote(flow: &model::Flow) -> Value {
    json!({ "remote_address": flow.remote.addr.to_string(), "remote_port": flow.remote.port })
}

fn process_facts(process: &Process) -> Value {
    let (kind, unit, container, pod) = match process.workload.as_ref() {
        Workload::Container { container_id, pod_uid, .. } => {
            ("container", "", container_id.as_str(), pod_uid.as_deref().unwrap_or(""))
        }
        Workload::Unit { unit, .. } => ("unit", unit.as_str(), "", ""),
        Workload::Host { .. } => ("host", "", "", ""),
        Workload::Unresolved { .. } => ("unresolved", "", "", ""),
    };
    json!({
        "pid": process.key.pid.0,
        "start": process.key.start.0,
        "exe": process.exe,
        "backing": process.exe_file.backing,
        "command_line": process.command_line,
        "args": bounded(&process.args),
        "cwd": process.cwd,
        "uid": process.credentials.uid,
        "euid": process.credentials.euid,
        "tty": process.tty.as_deref().unwrap_or(""),
        "stdio": process.stdio,
        "cgroup": { "id": process.cgroup.0, "path": process.workload.cgroup_path().unwrap_or("") },
        "workload": { "kind": kind, "unit": unit, "container": container, "pod": pod },
    })
}

fn bounded(texts: &[String]) -> &[String] {
    &texts[..texts.len().min(MAX_LIST)]
}

#[cfg(test)]
mod tests {
    use super::stat_device;

    #[test]
    fn expressions_see_what_feeds_say_and_what_is_at_stake() {
        let mut incident = model::Incident {
            id: model::IncidentId::new("inc-1"),
            title: "t".into(),
            severity: model::Level::High,
            state: model::IncidentState::Open,
            entities: vec![],
            pods: vec![],
            sessions: vec![],
            findings: vec![],
            findings_dropped: 0,
            techniques: vec![],
            first_event: model::Timestamp(1),
            opened: model::Timestamp(1),
            updated: model::Timestamp(1),
            contained: None,
            verdict: None,
            enrichment: model::Enrichment::default(),
            actions: vec![],
            runs: vec![],
            timeline: vec![],
        };
        let holds = |incident: &model::Incident, text: &str| {
            let mut facts = super::Facts::without_finding(incident, &model::NodeId::new("n"));
            facts.finding = serde_json::json!({});
            let scope = crate::expression::Scope::Trigger;
            let condition =
                crate::expression::Expression::compile(text, scope, crate::expression::Purpose::Value)
                    .unwrap();
            condition.holds(&crate::expression::Variables::of(&facts)).unwrap()
        };
        let bad =
            "incident.intelligence_confidence >= 80 && incident.intelligence.exists(i, i.feed == 'list')";
        assert!(!holds(&incident, bad));
        incident.enrichment.intelligence.push(model::IntelligenceMatch {
            observed: "198.51.100.7".into(),
            seen_in: "finding 1".into(),
            indicator: "198.51.100.0/24".into(),
            relation: "within".into(),
            feed: "list".into(),
            confidence: 90,
            seen: Some(model::Timestamp(1)),
            expires: None,
            written: model::Timestamp(1),
            note: String::new(),
        });
        incident.enrichment.facts.push(model::StatedFact {
            kind: model::FactKind::Sensitivity,
            what: "data-classification of the pod pay/api: secret".into(),
            source: "the API server".into(),
            known: model::Timestamp(1),
        });
        assert!(holds(&incident, bad));
        assert!(holds(&incident, "incident.sensitivity.exists(s, s.endsWith(': secret'))"));
        assert!(!holds(&incident, "'restricted' in incident.classes"));
        incident.enrichment.classes.push("restricted".into());
        assert!(holds(&incident, "'restricted' in incident.classes"));
        let at_stake =
            "'internet' in incident.exposure && 'db' in incident.secrets && 'pod pay/db-0' in incident.peers";
        assert!(!holds(&incident, at_stake));
        incident.pods.push(in_sight());
        assert!(holds(&incident, at_stake));
    }

    fn in_sight() -> model::AttributedPod {
        let at = model::Timestamp(1);
        let what = "Service pay/web of type LoadBalancer".into();
        let pod = model::PodFacts {
            uid: "u".into(),
            namespace: "pay".into(),
            name: "web-1".into(),
            labels: std::collections::BTreeMap::new(),
            namespace_labels: std::collections::BTreeMap::new(),
            annotations: std::collections::BTreeMap::new(),
            namespace_annotations: std::collections::BTreeMap::new(),
            owners: vec![],
            chain: model::OwnerChain::Whole,
            service_account: None,
            node: None,
            network: model::PodNetwork::Pod,
            origin: model::PodOrigin::Api,
            addresses: vec![],
            created: at,
            deleted: None,
            secrets: vec![model::MountedSecret { name: "db".into(), how: "volume".into() }],
            doors: vec![model::Door { reach: model::Reach::Internet, what, known: at }],
            peers: vec![model::Peer {
                direction: model::Direction::Out,
                other: "pod pay/db-0".into(),
                port: Some(5432),
                count: 1,
                first: at,
                last: at,
            }],
        };
        let source = model::PodSource::Watch;
        let attribution =
            model::Attribution::Resolved { pod: Box::new(pod), container: None, known: at, source };
        model::AttributedPod {
            cgroup_uid: "u".into(),
            container_id: "c".into(),
            node: model::NodeId::new("n"),
            asked: at,
            attribution,
        }
    }

    #[test]
    fn device_numbers_are_those_of_stat() {
        assert_eq!(stat_device(8 << 20 | 1), 0x801);
        assert_eq!(stat_device(259 << 20 | 0x12345), 0x1231_0345);
    }
}
