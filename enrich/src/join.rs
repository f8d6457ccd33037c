//! What is known of an incident, joined from all sources. A source that is missing is a stated fact and not a blank.

use model::{
    AttributedPod, Attribution, Enrichment, FactKind, Incident, IncidentId, IntelligenceMatch, MissingFact,
    OwnerChain, PodFacts, PodNetwork, Reach, StatedFact, Timestamp, Verdict,
};

use crate::{index::Relation, intelligence::Snapshot, observe::observed};

/// Labels that say what is at stake, on the pod or its namespace, in this order of weight.
pub const SENSITIVITY: [&str; 3] =
    ["hemostat.dev/sensitivity", "data-classification", "app.kubernetes.io/data-classification"];
/// A feed that is older is told as such: nobody writes it any more, or it is not fetched.
const STALE_AFTER: std::time::Duration = std::time::Duration::from_secs(7 * 86_400);
/// Peers of one pod that are told as facts.
const MAX_PEERS_TOLD: usize = 8;
/// Bytes of a label's value shown.
const MAX_VALUE: usize = 128;

/// An earlier incident of the same thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Earlier {
    /// Which.
    pub id: IncidentId,
    /// What it was called.
    pub title: String,
    /// When it was opened.
    pub opened: Timestamp,
    /// What an analyst said.
    pub verdict: Option<Verdict>,
}

/// What is joined.
#[derive(Debug)]
pub struct Sources<'a> {
    /// The feeds.
    pub intelligence: &'a Snapshot,
    /// Earlier incidents of the same thing, newest first.
    pub earlier: &'a [Earlier],
    /// Whether there is a cluster that could know of pods.
    pub cluster: Cluster,
    /// Whether flow logs are read.
    pub flows: Flows,
    /// Now.
    pub now: Timestamp,
}

/// Whether there is a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cluster {
    /// There is.
    Known,
    /// There is none, or it is not asked.
    None,
}

/// Whether flow logs are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flows {
    /// Some were.
    Known,
    /// None was, so that a pod without peers need not be alone.
    None,
}

/// Puts together what is known of an incident.
#[must_use]
pub fn enrich(incident: &Incident, sources: &Sources<'_>) -> Enrichment {
    let mut all = Enrichment { at: sources.now, ..Enrichment::default() };
    intelligence(&mut all, incident, sources);
    places(&mut all, incident, sources);
    history(&mut all, sources);
    all.facts.truncate(Enrichment::MAX_FACTS);
    all
}

fn intelligence(all: &mut Enrichment, incident: &Incident, sources: &Sources<'_>) {
    let mut feeds = 0;
    for feed in sources.intelligence.feeds() {
        feeds += 1;
        let age = sources.now.since(feed.written);
        if age > STALE_AFTER {
            let because = format!("it was written {} days ago", age.as_secs() / 86_400);
            all.missing.push(MissingFact { what: format!("news from feed {}", feed.spec.name), because });
        }
    }
    if feeds == 0 {
        return all.missing.push(MissingFact {
            what: "threat intelligence".into(),
            because: "no feed is configured (--feed)".into(),
        });
    }
    for seen in observed(incident) {
        for (feed, hit) in sources.intelligence.look_up(&seen, sources.now) {
            all.intelligence.push(IntelligenceMatch {
                observed: seen.what.to_string(),
                seen_in: seen.place.clone(),
                indicator: hit.indicator,
                relation: match hit.relation {
                    Relation::Same => "same",
                    Relation::Within => "within",
                    Relation::Below => "below",
                    Relation::Host => "host",
                }
                .into(),
                feed: feed.spec.name.clone(),
                confidence: hit.confidence,
                seen: hit.seen,
                expires: hit.expires,
                written: feed.written,
                note: hit.note.to_owned(),
            });
        }
    }
    all.intelligence.sort_by_key(|one| std::cmp::Reverse(one.confidence));
    all.intelligence.truncate(Enrichment::MAX_INTELLIGENCE);
}

fn places(all: &mut Enrichment, incident: &Incident, sources: &Sources<'_>) {
    if incident.pods.is_empty() {
        if sources.cluster == Cluster::None {
            let because = "no cluster is asked: this is a machine of its own".into();
            all.missing.push(MissingFact { what: "owners, labels and sensitivity".into(), because });
        }
        return;
    }
    for known in &incident.pods {
        match &known.attribution {
            Attribution::Resolved { pod, container, known: since, source } => {
                let told = format!("the API server ({source:?})");
                let state = |kind, what| StatedFact { kind, what, source: told.clone(), known: *since };
                topology(pod).into_iter().for_each(|what| all.facts.push(state(FactKind::Topology, what)));
                all.facts.extend(sensitivity(pod).map(|what| state(FactKind::Sensitivity, what)));
                all.facts.extend(secrets(pod).map(|what| state(FactKind::Sensitivity, what)));
                surroundings(all, pod);
                if let Some(container) = container {
                    let digest = container.image_id.as_deref().unwrap_or("digest not told yet");
                    let what = format!("container {}: image {} ({digest})", container.name, container.image);
                    all.facts.push(state(FactKind::Image, what));
                }
            }
            Attribution::Waiting => {
                all.missing.push(pod_missing(known, "the API server has not told of it yet"))
            }
            Attribution::Unresolved { because } => all.missing.push(pod_missing(known, &because.to_string())),
        }
    }
    let because = "image scans are made by a step (cluster.scan-image), not beforehand";
    all.missing.push(MissingFact { what: "vulnerabilities".into(), because: because.into() });
    if sources.flows == Flows::None {
        let because = "no flow log is read (--source hubble=…, vpc=…, netflow=…)";
        all.missing.push(MissingFact { what: "who talks to whom".into(), because: because.into() });
    }
}

fn pod_missing(known: &AttributedPod, because: &str) -> MissingFact {
    MissingFact { what: format!("pod {}", known.cgroup_uid), because: because.into() }
}

fn topology(pod: &PodFacts) -> Vec<String> {
    let mut owners: Vec<String> =
        pod.owners.iter().map(|owner| format!("{} {}", owner.kind, owner.name)).collect();
    if pod.chain == OwnerChain::Open {
        owners.push("whose owner is not known".into());
    }
    let made = if owners.is_empty() {
        "made by nobody's template".into()
    } else {
        format!("of {}", owners.join(", of "))
    };
    let mut all = vec![format!("pod {} {made}", pod.path())];
    if let Some(account) = &pod.service_account {
        all.push(format!("acts as service account {}/{account}", pod.namespace));
    }
    if pod.network == PodNetwork::Host {
        all.push("uses the node's network".into());
    }
    all
}

fn sensitivity(pod: &PodFacts) -> Option<String> {
    SENSITIVITY.iter().find_map(|label| {
        let of_pod = pod.labels.get(*label).map(|value| (value, "pod"));
        let (value, whose) =
            of_pod.or_else(|| pod.namespace_labels.get(*label).map(|value| (value, "namespace")))?;
        let value = &value[..value.floor_char_boundary(MAX_VALUE)];
        Some(format!("{label} of the {whose} {}: {value}", pod.path()))
    })
}

fn secrets(pod: &PodFacts) -> Option<String> {
    let names: Vec<String> =
        pod.secrets.iter().map(|secret| format!("{} ({})", secret.name, secret.how)).collect();
    (!names.is_empty()).then(|| format!("pod {} has Secrets before it: {}", pod.path(), names.join(", ")))
}

/// From where it is reached is a matter of what is at stake; with whom it talks, of where it is.
fn surroundings(all: &mut Enrichment, pod: &PodFacts) {
    for door in &pod.doors {
        let from = match door.reach {
            Reach::Internet => "the internet",
            Reach::Network => "the nodes' network",
        };
        all.facts.push(StatedFact {
            kind: FactKind::Sensitivity,
            what: format!("pod {} is reached from {from} by {}", pod.path(), door.what),
            source: "the API server".into(),
            known: door.known,
        });
    }
    for peer in pod.peers.iter().take(MAX_PEERS_TOLD) {
        all.facts.push(StatedFact {
            kind: FactKind::Topology,
            what: format!("pod {} talks {peer}, {} times", pod.path(), peer.count),
            source: "flow logs".into(),
            known: peer.last,
        });
    }
}

fn history(all: &mut Enrichment, sources: &Sources<'_>) {
    for earlier in sources.earlier.iter().take(8) {
        let said = match earlier.verdict {
            Some(Verdict::TruePositive) => "a true positive",
            Some(Verdict::FalsePositive) => "a false positive",
            None => "not judged",
        };
        all.facts.push(StatedFact {
            kind: FactKind::History,
            what: format!("{} before: {} ({said})", earlier.id, earlier.title),
            source: "Hemostat's own incidents".into(),
            known: earlier.opened,
        });
    }
    if let Some(more @ 1..) = sources.earlier.len().checked_sub(8) {
        let (first, judged) =
            (sources.earlier.last(), sources.earlier.iter().filter(|e| e.verdict.is_some()).count());
        all.facts.push(StatedFact {
            kind: FactKind::History,
            what: format!("{more} more incidents of the same before; {judged} of all were judged"),
            source: "Hemostat's own incidents".into(),
            known: first.map_or(sources.now, |first| first.opened),
        });
    }
}
