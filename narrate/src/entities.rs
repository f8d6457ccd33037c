//! What has to do with what: the entities of an incident and what joins them, from its findings.

use std::collections::BTreeMap;

use model::{Activity, Event, Incident, Protocol, Workload};

use crate::{
    document::{EntityKind, EntityNode, Graph, Link},
    processes::{holds, in_force},
    text::shown,
};

/// Things and what joins them in one picture (I11).
const MOST: usize = 36;
const MOST_LINKS: usize = 80;

/// The graph of an incident.
pub(crate) fn graph(incident: &Incident) -> Graph {
    let mut drawn = Drawing { incident, graph: Graph::default(), places: BTreeMap::new() };
    for finding in &incident.findings {
        match finding.event.record() {
            Some(record) => drawn.record(record),
            None => {
                drawn.event(&finding.event);
                for event in &finding.context {
                    drawn.event(event);
                }
            }
        }
    }
    drawn.graph
}

struct Drawing<'a> {
    incident: &'a Incident,
    graph: Graph,
    places: BTreeMap<(EntityKind, String), u32>,
}

impl Drawing<'_> {
    fn event(&mut self, event: &Event) {
        let process = &event.process;
        let name = process.exe.rsplit('/').next().unwrap_or(&process.exe);
        let held = self.incident.actions.iter().any(|action| holds(action, process));
        let who = self.thing(EntityKind::Process, &format!("{} {}", process.key.pid, name), held);
        let place = match &*process.workload {
            Workload::Container { container_id, pod_uid, .. } => {
                let known = self.incident.pods.iter().find_map(|pod| match &pod.attribution {
                    model::Attribution::Resolved { pod: facts, .. }
                        if Some(&pod.cgroup_uid) == pod_uid.as_ref() =>
                    {
                        Some(facts.path())
                    }
                    _ => None,
                });
                let short: String = container_id.chars().take(12).collect();
                known.map_or_else(|| format!("container {short}"), |path| format!("pod {path}"))
            }
            Workload::Unit { unit, .. } => format!("unit {unit}"),
            Workload::Host { cgroup_path } if cgroup_path != "/" => {
                format!("{} {cgroup_path}", event.id.node)
            }
            Workload::Host { .. } | Workload::Unresolved { .. } => format!("node {}", event.id.node),
        };
        let cut_off = self.incident.actions.iter().any(|action| match &action.target {
            model::Target::Cgroup { id, .. } => {
                *id == process.cgroup && in_force(action) && action.action.undo().has_undo()
            }
            _ => false,
        });
        let place = self.thing(EntityKind::Place, &place, cut_off);
        self.link(place, who, "runs");
        if let Some(auid) = process.credentials.auid {
            let login = self.thing(EntityKind::Account, &format!("login {auid}"), false);
            self.link(login, who, "started");
        }
        if let Some((kind, label, what)) = touched(&event.activity) {
            let other = self.thing(kind, &label, false);
            self.link(who, other, what);
        }
    }

    fn record(&mut self, record: &model::Record) {
        let who =
            record.principal.as_ref().map(|who| self.thing(EntityKind::Account, &who.to_string(), false));
        let origin = record.origin.map(|addr| self.thing(EntityKind::Origin, &addr.to_string(), false));
        let object =
            record.object.as_ref().map(|object| self.thing(EntityKind::Object, &object.to_string(), false));
        if let (Some(origin), Some(to)) = (origin, who.or(object)) {
            self.link(origin, to, "came from");
        }
        if let (Some(who), Some(object)) = (who, object) {
            self.link(who, object, "acted on");
        }
    }

    /// The place of a thing; nothing where there are too many.
    fn thing(&mut self, kind: EntityKind, label: &str, held: bool) -> Option<u32> {
        let label = shown(label, 120);
        let known = self.places.get(&(kind, label.clone())).copied();
        let Some(index) = known else {
            if self.graph.entities.len() >= MOST {
                self.graph.left_out += 1;
                return None;
            }
            let index = u32::try_from(self.graph.entities.len()).ok()?;
            let bad = |found: &model::IntelligenceMatch| {
                !found.observed.is_empty() && label.contains(&shown(&found.observed, 120))
            };
            let known_bad = self.incident.enrichment.intelligence.iter().any(bad);
            self.places.insert((kind, label.clone()), index);
            self.graph.entities.push(EntityNode { kind, label, held, known_bad });
            return Some(index);
        };
        if let Some(entity) = self.graph.entities.get_mut(index as usize) {
            entity.held |= held;
        }
        Some(index)
    }

    fn link(&mut self, from: impl Into<Option<u32>>, to: impl Into<Option<u32>>, what: &str) {
        let (Some(from), Some(to)) = (from.into(), to.into()) else { return };
        let link = Link { from, to, what: what.to_owned() };
        if from != to && self.graph.links.len() < MOST_LINKS && !self.graph.links.contains(&link) {
            self.graph.links.push(link);
        }
    }
}

/// What an activity touched, and how.
fn touched(activity: &Activity) -> Option<(EntityKind, String, &'static str)> {
    use EntityKind::{File, Object, Peer, Process};
    Some(match activity {
        Activity::FileOpen { file, created, .. } => {
            (File, file.path.clone(), if *created == model::Created::Yes { "made" } else { "opened" })
        }
        Activity::FileDelete { file } => (File, file.path.clone(), "deleted"),
        Activity::FileRename { to, .. } => (File, to.path.clone(), "renamed to"),
        Activity::FileLink { link, .. } => (File, link.path.clone(), "linked"),
        Activity::FileMode { file, .. } => (File, file.path.clone(), "changed the mode of"),
        Activity::FileOwner { file, .. } => (File, file.path.clone(), "changed the owner of"),
        Activity::Connect(flow) => (Peer, endpoint(&flow.remote, flow.protocol), "connected to"),
        Activity::Accept(flow) => (Peer, endpoint(&flow.remote, flow.protocol), "was called by"),
        Activity::SocketClose { flow, .. } => (Peer, endpoint(&flow.remote, flow.protocol), "spoke with"),
        Activity::DnsQuery { name, .. } => (Peer, name.clone(), "asked for"),
        Activity::ModuleLoad { name } => (Object, format!("kernel module {name}"), "loaded"),
        Activity::Bpf { name, .. } => (Object, format!("bpf {name}"), "loaded"),
        Activity::Ptrace { target, .. } => (Process, format!("{} (traced)", target.pid), "traced"),
        Activity::ProcessVmWrite { target } => {
            (Process, format!("{} (written into)", target.pid), "wrote into")
        }
        Activity::Mount { target, .. } => (File, target.path.clone(), "mounted"),
        _ => return None,
    })
}

fn endpoint(end: &model::Endpoint, protocol: Protocol) -> String {
    let protocol = match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Other(_) => "ip",
    };
    match end.addr {
        std::net::IpAddr::V4(addr) => format!("{addr}:{} {protocol}", end.port),
        std::net::IpAddr::V6(addr) => format!("[{addr}]:{} {protocol}", end.port),
    }
}
