//! What a replay reads and compares: flows of Hubble, audit logs, OCSF, a spool's reports; two sets of playbooks, two of policies; and a report
//! of which nothing speaks to a terminal or becomes markup.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use detect::{rule_test::written_events, source::SourceFile};
use hemostat_controller::{
    ingest::{Format, Zone},
    replay::{
        Item, Outcome, Recording, Setup, Surroundings,
        compare::{Difference, compare},
        page, play,
    },
};
use model::{
    Event, Finding, FindingId, GateOutcome, Level, LossWindow, NodeId, Reaction, Report, RuleRef, Seq,
    Timestamp,
};

const RULES: &str = "title: A Shell in a Pod
id: exec
logsource: {product: kubernetes, service: audit}
detection: {s: {verb|exists: true}, condition: s}
level: high
---
title: A Flow Was Dropped
id: dropped
logsource: {product: cilium}
detection: {s: {FlowVerdict|exists: true}, condition: s}
level: high
---
title: A Login Elsewhere
id: login
logsource: {category: authentication}
detection: {s: {TargetUserName|exists: true}, condition: s}
level: high
";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn around() -> Surroundings {
    Surroundings { threads: 2, lateness: Duration::from_secs(3600), ..Surroundings::default() }
}

fn recorded(format: Format, path: &Path) -> Recording {
    let name = NodeId::new(format!("{}:/log", format.name()));
    Recording::log(format, &[path.to_owned()], name, &Zone::UTC).unwrap()
}

fn below(folder: &Path, tests: &mut Vec<SourceFile>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            below(&path, tests);
        } else if path.to_string_lossy().ends_with(".test.yml") {
            let text = fs::read_to_string(&path).unwrap();
            tests.push(SourceFile { name: path.display().to_string(), text });
        }
    }
}

/// The events written in the tests of the shipped rules, a minute apart, on nodes of their own.
fn attacks() -> Vec<Event> {
    let mut tests = Vec::new();
    below(&root().join("rules/linux"), &mut tests);
    tests.sort_by(|a, b| a.name.cmp(&b.name));
    let mut events = written_events(&tests);
    for (n, event) in events.iter_mut().enumerate() {
        event.time = Timestamp(1_780_000_000_000_000_000 + n as i64 * 60_000_000_000);
        event.id.node = NodeId::new(format!("node-{}", n % 40));
        event.id.seq = Seq(n as u64);
    }
    events
}

fn played(before: Setup, after: Setup) -> (Difference, Vec<Outcome>) {
    let item = |event| Item::Event { event: Box::new(event), context: vec![], loss: LossWindow::default() };
    let recording = Recording::items(NodeId::new("events"), attacks().into_iter().map(item));
    let outcomes = play(vec![recording], &[before, after], &around()).unwrap();
    (compare(&outcomes[0], &outcomes[1]), outcomes)
}

fn automatic(outcome: &Outcome) -> usize {
    let decisions = outcome.incidents.values().flat_map(|story| &story.decisions);
    decisions.filter(|one| one.outcome == GateOutcome::Automatic).count()
}

fn shipped(playbooks: Vec<PathBuf>) -> Setup {
    Setup {
        name: playbooks
            .iter()
            .map(|path| path.file_name().unwrap().to_string_lossy())
            .collect::<Vec<_>>()
            .join("+"),
        rules: vec![root().join("rules")],
        playbooks,
        ..Setup::default()
    }
}

#[test]
fn two_sets_of_playbooks_are_compared_as_a_report() {
    let folder = tempfile::tempdir().unwrap();
    let mut held = 0;
    for entry in fs::read_dir(root().join("playbooks")).unwrap() {
        let path = entry.unwrap().path();
        let Ok(text) = fs::read_to_string(&path) else { continue };
        held += text.matches("mode: Auto").count();
        fs::write(folder.path().join(path.file_name().unwrap()), text.replace("mode: Auto", "mode: Shadow"))
            .unwrap();
    }
    assert!(held > 0, "some shipped playbook acts by itself");
    let (difference, outcomes) =
        played(shipped(vec![root().join("playbooks")]), shipped(vec![folder.path().to_owned()]));
    assert!(automatic(&outcomes[0]) > 0);
    assert_eq!(automatic(&outcomes[1]), 0, "those in shadow only say what they would do");
    assert!(difference.gone.is_empty() && difference.new.is_empty() && !difference.changed.is_empty());
    let text = page::difference(&difference, &outcomes[0], &outcomes[1]);
    assert!(text.contains("### Incidents that differ") && text.contains("acts by itself"), "{text}");
    assert!(text.contains("shadow"), "{text}");
}

#[test]
fn two_sets_of_policies_are_compared_as_a_report() {
    let folder = tempfile::tempdir().unwrap();
    let policy = folder.path().join("careful.yaml");
    let text = "apiVersion: hemostat.dev/v1alpha1\nkind: ResponsePolicy\nmetadata: {name: careful}\nspec: {mode: Approve}\n";
    fs::write(&policy, text).unwrap();
    let playbooks = root().join("playbooks");
    let (difference, outcomes) = played(shipped(vec![playbooks.clone()]), shipped(vec![playbooks, policy]));
    assert!(automatic(&outcomes[0]) > 0);
    assert_eq!(automatic(&outcomes[1]), 0, "the policy asks for a person");
    assert!(difference.gone.is_empty() && difference.new.is_empty() && !difference.changed.is_empty());
    let text = page::difference(&difference, &outcomes[0], &outcomes[1]);
    assert!(text.contains("acts by itself") && text.contains("asks"), "{text}");
}

#[test]
fn flows_of_hubble_audit_logs_and_ocsf_are_played() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("rules.yml"), RULES).unwrap();
    fs::create_dir(folder.path().join("none")).unwrap();
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ingest");
    for (format, rule) in
        [(Format::Hubble, "dropped"), (Format::KubernetesAudit, "exec"), (Format::Ocsf, "login")]
    {
        let recording = recorded(format, &samples.join(format!("{}.log", format.name())));
        let setup = Setup {
            name: "new".into(),
            rules: vec![folder.path().join("rules.yml")],
            playbooks: vec![folder.path().join("none")],
            ..Setup::default()
        };
        let outcome = play(vec![recording], &[setup], &around()).unwrap().remove(0);
        assert!(outcome.matches[rule].matches > 0, "{}: {:?}", format.name(), outcome.read);
        assert!(!outcome.incidents.is_empty() && outcome.read.refused > 0, "{}", format.name());
    }
}

#[test]
fn a_spools_reports_are_judged_anew() {
    let setup = shipped(vec![root().join("playbooks")]);
    let report = |event: Event| {
        Report::Finding(Finding {
            id: FindingId::derive(&event.id, "of-then"),
            rule: RuleRef {
                id: "of-then".into(),
                title: "What a rule of then said".into(),
                level: Level::High,
                techniques: vec![],
                tactics: vec![],
                reaction: Reaction::None,
            },
            matched: std::collections::BTreeMap::new(),
            count: 1,
            first: event.time,
            last: event.time,
            ancestors: event.ancestors.to_vec(),
            context: vec![],
            reactions: vec![],
            moments: model::Moments::default(),
            loss: LossWindow::default(),
            event,
        })
    };
    let events = attacks();
    let count = events.len() as u64;
    let recording = Recording::reports(NodeId::new("spool:/s"), events.into_iter().map(report));
    let outcome = play(vec![recording], &[setup], &around()).unwrap().remove(0);
    assert_eq!(outcome.read.events, count);
    assert!(outcome.incidents.len() > 20, "{}", outcome.incidents.len());
    let of_then = |story: &hemostat_controller::replay::Story| story.rules.contains("of-then");
    assert!(!outcome.incidents.values().any(of_then), "what is in force now judges");
}

#[test]
fn nothing_of_a_record_speaks_to_a_terminal_or_becomes_markup() {
    const EVIL: &str = "eve\u{1b}[2J\u{9b}31m\u{202e}|<script>`x`\u{200b}";
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("rules.yml"), RULES).unwrap();
    fs::write(folder.path().join("others.yml"), RULES.replace("id: exec", "id: other")).unwrap();
    fs::create_dir(folder.path().join("none")).unwrap();
    let event = serde_json::json!({
        "kind": "Event", "auditID": EVIL, "stage": "ResponseComplete", "verb": "create", "requestURI": EVIL,
        "user": {"username": EVIL}, "objectRef": {"resource": "pods", "namespace": EVIL, "name": EVIL},
        "requestReceivedTimestamp": "2026-11-22T14:10:03.000000Z",
    });
    let login = serde_json::json!({
        "class_uid": 3002, "activity_id": 1, "time": 1_795_360_000_000_i64, "status_id": 2, "status_detail": EVIL,
        "user": {"name": EVIL}, "service": {"name": EVIL}, "metadata": {"uid": EVIL},
    });
    let bad = format!("{event}\n{{\"kind\": \"{EVIL}\"\n");
    fs::write(folder.path().join("audit.log"), bad).unwrap();
    fs::write(folder.path().join("ocsf.log"), format!("{login}\n")).unwrap();
    let setup = |rules: &str| Setup {
        name: format!("{rules} {EVIL}"),
        rules: vec![folder.path().join(rules)],
        playbooks: vec![folder.path().join("none")],
        ..Setup::default()
    };
    let recordings = vec![
        recorded(Format::KubernetesAudit, &folder.path().join("audit.log")),
        recorded(Format::Ocsf, &folder.path().join("ocsf.log")),
    ];
    let outcomes = play(recordings, &[setup("rules.yml"), setup("others.yml")], &around()).unwrap();
    assert!(!outcomes[0].incidents.is_empty() && outcomes[0].read.refused > 0);
    let difference = compare(&outcomes[0], &outcomes[1]);
    let pages = [page::outcome(&outcomes[0]), page::difference(&difference, &outcomes[0], &outcomes[1])];
    for text in pages {
        assert!(text.contains("eve"), "{text}");
        let obeyed = |c: char| (c.is_control() && c != '\n') || matches!(c, '\u{202e}' | '\u{200b}');
        assert!(!text.contains(obeyed) && !text.contains("<script"), "{text:?}");
    }
}
