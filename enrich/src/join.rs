//! What is known of an incident, joined from all sources. A source that is missing is a stated fact and not a blank.

use std::collections::{BTreeMap, BTreeSet};

use model::{
    AttributedPod, Attribution, ContainerFacts, Enrichment, FactKind, ImageScan, Incident, IncidentId,
    IntelligenceMatch, MissingFact, OwnerChain, PodFacts, PodNetwork, Reach, StatedFact, Timestamp, Verdict,
};

use crate::{classes::Classes, index::Relation, intelligence::Snapshot, observe::observed};

/// Labels and annotations that say what is at stake, on the pod or its namespace, in this order of weight.
pub const SENSITIVITY: [&str; 3] =
    ["hemostat.dev/sensitivity", "data-classification", "app.kubernetes.io/data-classification"];
/// A feed that is older is told as such: nobody writes it any more, or it is not fetched.
const STALE_AFTER: std::time::Duration = std::time::Duration::from_secs(7 * 86_400);
/// Peers of one pod that are told as facts.
const MAX_PEERS_TOLD: usize = 8;
/// Images told to have never been scanned.
const MAX_UNSCANNED: usize = 8;
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
    /// The data classification policy.
    pub classes: &'a Classes,
    /// What was found in images, by their digests (`sha256:…`).
    pub scans: &'a BTreeMap<String, ImageScan>,
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
    let mut classes = BTreeSet::new();
    let mut unscanned = BTreeSet::new();
    for known in &incident.pods {
        match &known.attribution {
            Attribution::Resolved { pod, container, known: since, source } => {
                let told = format!("the API server ({source:?})");
                let state = |kind, what| StatedFact { kind, what, source: told.clone(), known: *since };
                topology(pod).into_iter().for_each(|what| all.facts.push(state(FactKind::Topology, what)));
                all.facts.extend(sensitivity(pod).map(|what| state(FactKind::Sensitivity, what)));
                if let Some(class) = sources.classes.of(pod) {
                    classes.insert(class.name.to_owned());
                    let because = class.because.map(|text| format!(", {text}")).unwrap_or_default();
                    let by = format!("rule {} of the data classification policy{because}", class.rule);
                    let what = format!("class of pod {} ({by}): {}", pod.path(), class.name);
                    let source = "the data classification policy".into();
                    all.facts.push(StatedFact { source, ..state(FactKind::Sensitivity, what) });
                }
                all.facts.extend(secrets(pod).map(|what| state(FactKind::Sensitivity, what)));
                surroundings(all, pod);
                if let Some(container) = container {
                    let digest = container.image_id.as_deref().unwrap_or("digest not told yet");
                    let what = format!("container {}: image {} ({digest})", container.name, container.image);
                    all.facts.push(state(FactKind::Image, what));
                    match digest_of(container).and_then(|digest| Some((digest, sources.scans.get(digest)?))) {
                        Some((digest, scan)) => all.facts.push(scanned(container, digest, scan)),
                        None => drop(unscanned.insert(container.image.as_str())),
                    }
                }
            }
            Attribution::Waiting => {
                all.missing.push(pod_missing(known, "the API server has not told of it yet"))
            }
            Attribution::Unresolved { because } => all.missing.push(pod_missing(known, &because.to_string())),
        }
    }
    all.classes = classes.into_iter().take(Enrichment::MAX_CLASSES).collect();
    for image in unscanned.into_iter().take(MAX_UNSCANNED) {
        let because = "no step cluster.scan-image has looked at it";
        all.missing
            .push(MissingFact { what: format!("vulnerabilities of {image}"), because: because.into() });
    }
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
    SENSITIVITY.iter().find_map(|mark| {
        let places = [
            (&pod.labels, "pod"),
            (&pod.annotations, "pod"),
            (&pod.namespace_labels, "namespace"),
            (&pod.namespace_annotations, "namespace"),
        ];
        let (value, whose) = places.iter().find_map(|(marks, whose)| Some((marks.get(*mark)?, whose)))?;
        let value = &value[..value.floor_char_boundary(MAX_VALUE)];
        Some(format!("{mark} of the {whose} {}: {value}", pod.path()))
    })
}

/// The digest by which a container's image is certain: a name may mean another image by now.
fn digest_of(container: &ContainerFacts) -> Option<&str> {
    image_digest(container.image_id.as_deref()?)
}

/// `sha256:…` of a reference by digest, for example `registry.example/web@sha256:…`.
#[must_use]
pub fn image_digest(reference: &str) -> Option<&str> {
    let digest = &reference[reference.find("sha256:")?..];
    let hex = digest.strip_prefix("sha256:")?;
    (hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(digest)
}

fn scanned(container: &ContainerFacts, digest: &str, scan: &ImageScan) -> StatedFact {
    let found = match scan.known {
        0 => "no known vulnerability".to_owned(),
        known => {
            let ids = scan.ids.join(", ");
            let (critical, high, fixable) = (scan.critical, scan.high, scan.fixable);
            format!(
                "{known} known vulnerabilities ({critical} critical, {high} high, {fixable} fixable): {ids}"
            )
        }
    };
    StatedFact {
        kind: FactKind::Image,
        what: format!("image {} ({digest}): {found}", container.image),
        source: format!("a scan by {}", scan.scanner),
        known: scan.at,
    }
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

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::Intelligence;

    pub(crate) fn pod() -> PodFacts {
        serde_json::from_value(facts()).unwrap()
    }

    fn facts() -> Value {
        json!({
            "uid": "u", "namespace": "shop", "name": "web-1", "labels": {"app": "web"}, "namespace_labels": {}, "owners": [],
            "chain": "whole", "service_account": null, "node": "n1", "network": "pod", "origin": "api",
            "addresses": [], "created": 0, "deleted": null
        })
    }

    const DIGEST: &str = "sha256:00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

    /// What is known of an incident of one pod that `change` changed.
    fn known(classes: &str, scans: &[(&str, ImageScan)], change: impl Fn(&mut Value)) -> Enrichment {
        let mut pod = facts();
        change(&mut pod);
        let attribution = json!({
            "attribution": "resolved", "known": 7, "source": "watch", "pod": pod, "container": {
                "name": "web", "kind": "regular", "image": "web:1", "image_id": format!("registry.example/web@{DIGEST}")}});
        let incident = json!({
            "id": "inc-1", "title": "t", "severity": "high", "state": "Open", "entities": [],
            "pods": [{"cgroup_uid": "u", "container_id": "c", "node": "n1", "asked": 0, "attribution": attribution}],
            "findings": [], "findings_dropped": 0, "techniques": [], "first_event": 0, "opened": 0, "updated": 0, "contained": null,
            "verdict": null, "actions": [], "runs": [], "timeline": []
        });
        let incident: Incident = serde_json::from_value(incident).unwrap();
        let classes = Classes::parse("policy", classes).unwrap();
        let scans = scans.iter().map(|(digest, scan)| ((*digest).to_owned(), scan.clone())).collect();
        let sources = Sources {
            intelligence: &Intelligence::default().snapshot(),
            earlier: &[],
            classes: &classes,
            scans: &scans,
            cluster: Cluster::Known,
            flows: Flows::None,
            now: Timestamp(9),
        };
        enrich(&incident, &sources)
    }

    fn of(kind: FactKind, all: &Enrichment) -> Vec<&str> {
        all.facts.iter().filter(|fact| fact.kind == kind).map(|fact| fact.what.as_str()).collect()
    }

    #[test]
    fn a_mark_is_a_label_or_an_annotation_of_the_pod_before_one_of_its_namespace() {
        let marks = ["labels", "annotations", "namespace_labels", "namespace_annotations"];
        for (first, whose) in (0..4).zip(["pod", "pod", "namespace", "namespace"]) {
            let all = known("classes: []", &[], |pod| {
                for mark in &marks[first..] {
                    pod[*mark] = json!({"hemostat.dev/sensitivity": mark, "other": "x"});
                }
            });
            let mark = marks[first];
            let told = format!("hemostat.dev/sensitivity of the {whose} shop/web-1: {mark}");
            assert_eq!(of(FactKind::Sensitivity, &all), [told]);
        }
    }

    #[test]
    fn the_policys_class_is_told_with_its_rule_and_playbooks_get_its_name() {
        let policy = "classes: [{class: restricted, because: cards, namespaces: [shop]}, {class: all}]";
        let all = known(policy, &[], |_| ());
        let told = "class of pod shop/web-1 (rule 1 of the data classification policy, cards): restricted";
        assert_eq!(of(FactKind::Sensitivity, &all), [told]);
        assert_eq!(all.classes, ["restricted"]);
        assert!(known("classes: []", &[], |_| ()).classes.is_empty());
    }

    #[test]
    fn a_scan_of_the_same_image_is_told_with_its_age_and_none_is_told_as_missing() {
        let scan = ImageScan {
            at: Timestamp(3),
            scanner: "trivy".into(),
            known: 2,
            critical: 1,
            high: 1,
            fixable: 0,
            ids: vec!["CVE-2021-44228".into()],
        };
        let all = known("classes: []", &[(DIGEST, scan.clone())], |_| ());
        let told = all.facts.iter().find(|fact| fact.what.starts_with("image ")).unwrap();
        let what = "2 known vulnerabilities (1 critical, 1 high, 0 fixable): CVE-2021-44228";
        assert_eq!(told.what, format!("image web:1 ({DIGEST}): {what}"));
        assert_eq!((told.source.as_str(), told.known), ("a scan by trivy", Timestamp(3)));
        let missing = |all: &Enrichment| {
            let mut missing = all.missing.iter().map(|one| one.what.clone());
            missing.any(|what| what == "vulnerabilities of web:1")
        };
        assert!(!missing(&all));
        let other = DIGEST.replace('0', "1");
        assert!(missing(&known("classes: []", &[(&other, scan.clone())], |_| ())), "another image's scan");
        let clean = ImageScan { known: 0, ..scan };
        let all = known("classes: []", &[(DIGEST, clean)], |_| ());
        assert!(of(FactKind::Image, &all)[1].ends_with("no known vulnerability"), "{:?}", all.facts);
    }

    #[test]
    fn a_digest_is_whole_or_none() {
        assert_eq!(image_digest(&format!("docker-pullable://x/y@{DIGEST}")), Some(DIGEST));
        assert_eq!(image_digest(&DIGEST[..70]), None);
        assert_eq!(image_digest("web:1"), None);
    }
}
