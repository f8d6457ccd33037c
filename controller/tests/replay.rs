//! Recordings played: the same incidents whenever and however they are played, what would be done, and how two setups differ.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use detect::{rule_test::written_events, source::SourceFile};
use hemostat_controller::{
    config::rules_below,
    ingest::{Format, Zone},
    replay::{
        Item, Outcome, Recording, ReplayError, Setup, Story, Surroundings,
        compare::{compare, word},
        page, play,
    },
};
use proptest::prelude::*;

use model::{Event, GateOutcome, LossWindow, NodeId, RunState, Timestamp};

const RULES: &str = "title: A Failed Login
id: failed
logsource: {product: linux, service: sshd}
detection: {s: {AuthAction: login, AuthOutcome: failure, AuthMethod|exists: true}, condition: s}
level: low
---
title: Many Failed Logins
id: many-failed
correlation:
  type: event_count
  rules: [failed]
  group-by: [IpAddress]
  timespan: 10m
  condition: {gte: 5}
level: high
tags: [attack.t1110]
";

struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("rules")).unwrap();
        fs::create_dir(folder.path().join("playbooks")).unwrap();
        fs::write(folder.path().join("rules/failed.yml"), RULES).unwrap();
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn setup(&self, rules: &str) -> Setup {
        Setup {
            name: rules.to_owned(),
            rules: vec![self.path(rules)],
            playbooks: vec![self.path("playbooks")],
            ..Setup::default()
        }
    }

    fn log(&self, name: &str, text: &str) -> PathBuf {
        fs::write(self.path(name), text).unwrap();
        self.path(name)
    }
}

/// A month: each day one host guesses six passwords, and hundreds of logins succeed.
fn month() -> String {
    let mut text = String::new();
    for day in 1..=30 {
        for n in 0..200 {
            let (hour, minute) = (n / 10, n % 10 * 6);
            writeln!(
                text,
                "2026-06-{day:02}T{hour:02}:{minute:02}:00+00:00 web sshd[{}]: Accepted publickey for ada from 192.0.2.{} port 40000 ssh2",
                1000 + n,
                n % 9 + 1
            )
            .unwrap();
        }
        for n in 0..6 {
            writeln!(
                text,
                "2026-06-{day:02}T21:00:{n:02}+00:00 web sshd[9]: Failed password for root from 198.51.100.{day} port 4{n} ssh2"
            )
            .unwrap();
        }
    }
    text
}

fn around(threads: usize) -> Surroundings {
    Surroundings { threads, lateness: Duration::from_secs(60), ..Surroundings::default() }
}

fn auth(path: &Path) -> Recording {
    Recording::log(Format::Auth, &[path.to_owned()], NodeId::new("auth:/var/log/auth.log"), &Zone::UTC)
        .unwrap()
}

fn one(recordings: Vec<Recording>, setup: Setup, threads: usize) -> Outcome {
    play(recordings, &[setup], &around(threads)).unwrap().remove(0)
}

#[test]
fn a_month_is_played_and_gives_the_same_however_it_is_done() {
    let place = Place::new();
    let log = place.log("auth.log", &month());
    let first = without_time(one(vec![auth(&log)], place.setup("rules"), 1));
    assert_eq!(first.problems, [], "nothing was late or ahead in the time of then");
    assert_eq!((first.read.events, first.read.refused), (30 * 206, 0), "{:?}", first.read.refusals);
    assert_eq!(first.incidents.len(), 30, "one for each day");
    assert_eq!(first.matches["failed"].matches, 180);
    assert!(first.incidents.values().all(|story| story.rules.contains("many-failed")));
    let opened: Vec<Timestamp> = first.incidents.values().map(|story| story.opened).collect();
    assert!(opened.iter().all(|at| at.unix_seconds() / 86_400 >= 20_605), "in the time of then: {opened:?}");
    for threads in [1, 3, 8] {
        let again = without_time(one(vec![auth(&log)], place.setup("rules"), threads));
        assert!(again == first, "with {threads} threads");
    }
    // In two files of which the second is the first's middle, packed.
    let text = month();
    let (a, b): (Vec<&str>, Vec<&str>) =
        (text.lines().step_by(2).collect(), text.lines().skip(1).step_by(2).collect());
    let (a, b) = (place.log("a.log", &(a.join("\n") + "\n")), place.log("b.log", &(b.join("\n") + "\n")));
    let split = one(vec![auth(&a), auth(&b)], place.setup("rules"), 2);
    let told = |outcome: &Outcome| outcome.incidents.values().map(|one| one.opened).collect::<Vec<_>>();
    assert_eq!(sorted(told(&split)), sorted(told(&first)), "two logs are put into one order");
}

#[test]
fn two_rule_sets_are_compared_as_a_report() {
    let place = Place::new();
    let log = place.log("auth.log", &month());
    fs::create_dir(place.path("new")).unwrap();
    fs::write(place.path("new/failed.yml"), RULES.replace("gte: 5", "gte: 7")).unwrap();
    let setups = [place.setup("rules"), place.setup("new")];
    let outcomes = play(vec![auth(&log)], &setups, &around(2)).unwrap();
    let difference = compare(&outcomes[0], &outcomes[1]);
    assert_eq!((difference.gone.len(), difference.new.len(), difference.same), (30, 0, 0));
    let text = page::difference(&difference, &outcomes[0], &outcomes[1]);
    assert!(text.contains("| incidents | 30 | 0 | −30 |"), "{text}");
    assert!(text.contains("### Incidents that are gone (30)"), "{text}");
    let same = compare(&outcomes[0], &outcomes[0]);
    assert_eq!((same.same, same.changed.len(), same.rules.len()), (30, 0, 0));
    assert!(
        page::difference(&same, &outcomes[0], &outcomes[0]).contains("**No difference** in 30 incidents")
    );
    let json = serde_json::to_string(&difference).unwrap();
    assert_eq!(
        serde_json::from_str::<hemostat_controller::replay::compare::Difference>(&json).unwrap(),
        difference
    );
}

/// The events written in the tests of the shipped rules, a minute apart, on nodes of their own.
fn written() -> Vec<Event> {
    let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("../rules/linux");
    let mut tests = Vec::new();
    let mut paths = Vec::new();
    below(&rules, &mut paths);
    paths.sort();
    for path in paths.iter().filter(|path| path.to_string_lossy().ends_with(".test.yml")) {
        let text = fs::read_to_string(path).unwrap();
        tests.push(SourceFile { name: path.display().to_string(), text });
    }
    let mut events = written_events(&tests);
    for (n, event) in events.iter_mut().enumerate() {
        event.time = Timestamp(1_780_000_000_000_000_000 + n as i64 * 60_000_000_000);
        event.id.node = NodeId::new(format!("node-{}", n % 40));
        event.id.seq = model::Seq(n as u64);
    }
    events
}

#[test]
fn shipped_playbooks_are_planned_and_nothing_is_done() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let setup = Setup {
        name: "shipped".into(),
        rules: vec![root.join("rules")],
        playbooks: vec![root.join("playbooks")],
        ..Setup::default()
    };
    let recording = || {
        let item =
            |event| Item::Event { event: Box::new(event), context: vec![], loss: LossWindow::default() };
        Recording::items(NodeId::new("events"), written().into_iter().map(item))
    };
    assert!(rules_below(&setup.rules).files.len() > 100);
    let outcome = one(vec![recording()], setup.clone(), 2);
    assert!(outcome.read.events > 40, "{}", outcome.read.events);
    assert!(
        outcome.incidents.len() > 20,
        "{} of {} findings, {} events: {:?}",
        outcome.incidents.len(),
        outcome.findings,
        outcome.read.events,
        outcome.problems
    );
    let decisions: Vec<_> = outcome.incidents.values().flat_map(|story| &story.decisions).collect();
    let automatic: Vec<_> = decisions.iter().filter(|one| one.outcome == GateOutcome::Automatic).collect();
    assert!(!automatic.is_empty(), "an attack of the rules' own tests is answered");
    assert!(automatic.iter().all(|one| one.state == RunState::Succeeded), "{automatic:?}");
    let killed = |story: &Story| story.actions.iter().any(|a| a.action == "node.kill");
    assert!(!outcome.incidents.values().any(killed), "nobody said yes to what cannot be undone");
    assert!(outcome.commands > 0);
    let frozen =
        outcome.incidents.values().find(|story| story.actions.iter().any(|a| a.action == "node.freeze"));
    assert_eq!(frozen.map(|story| word(story.answer())), Some("acts by itself"));
    assert!(without_time(one(vec![recording()], setup, 4)) == without_time(outcome));
}

/// What nodes write is read by a reader of that form, anything else by serde, and by any number of threads: it must not show.
#[test]
fn a_file_of_events_gives_the_same_however_it_is_written_and_by_however_many_it_is_read() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let setup = Setup { name: "shipped".into(), rules: vec![root.join("rules")], ..Setup::default() };
    let place = Place::new();
    let events = written();
    let lines = |open: &str| -> String {
        let one = |event| serde_json::to_string(event).unwrap().replacen('{', open, 1) + "\n";
        events.iter().chain(&events).map(one).collect()
    };
    let files = [place.log("nodes.jsonl", &lines("{")), place.log("others.jsonl", &lines("{ "))];
    let mut outcomes = Vec::new();
    for (file, threads) in [(&files[0], 1), (&files[0], 8), (&files[1], 2)] {
        let recording = Recording::events(std::slice::from_ref(file), NodeId::new("events")).unwrap();
        outcomes.push(without_time(one(vec![recording], setup.clone(), threads)));
    }
    let first = outcomes[0].clone();
    assert_eq!((first.read.events, first.read.refused), (events.len() as u64 * 2, 0));
    assert!(first.incidents.len() > 20, "{}", first.incidents.len());
    for (n, mut outcome) in outcomes.into_iter().enumerate() {
        // The blank of each line is counted.
        outcome.read.bytes = first.read.bytes;
        assert!(outcome == first, "played for the {}. time", n + 1);
    }
}

#[test]
fn what_cannot_be_read_is_counted_and_a_broken_setup_is_refused() {
    let place = Place::new();
    let log = place.log("audit.log", "{\"kind\":\n{}\nnonsense\n");
    let audit = || {
        Recording::log(
            Format::KubernetesAudit,
            std::slice::from_ref(&log),
            NodeId::new("kubernetes-audit:x"),
            &Zone::UTC,
        )
        .unwrap()
    };
    let outcome = one(vec![audit()], place.setup("rules"), 2);
    assert_eq!(outcome.incidents.len(), 0);
    assert!(outcome.read.refused >= 2, "{:?}", outcome.read);
    assert!(
        outcome.read.refusals[0].starts_with("kubernetes-audit:x, byte 0"),
        "{:?}",
        outcome.read.refusals
    );
    fs::write(place.path("rules/broken.yml"), "title: [").unwrap();
    let refused = play(vec![audit()], &[place.setup("rules")], &around(1));
    assert!(matches!(refused, Err(ReplayError::Setup { .. })), "{refused:?}");
    let none = play(vec![], &[place.setup("playbooks")], &around(1));
    assert!(matches!(none, Err(ReplayError::Count(0))));
}

#[test]
fn one_record_from_the_future_makes_nothing_late() {
    let place = Place::new();
    let mut text = month();
    text.insert_str(
        0,
        "2099-01-01T00:00:00+00:00 web sshd[9]: Accepted publickey for ada from 192.0.2.1 port 1 ssh2\n",
    );
    let log = place.log("auth.log", &text);
    assert_eq!(one(vec![auth(&log)], place.setup("rules"), 2).incidents.len(), 30);
}

fn below(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { below(&path, found) } else { found.push(path) }
    }
}

fn without_time(mut outcome: Outcome) -> Outcome {
    outcome.read.seconds = 0.0;
    outcome
}

fn sorted(mut all: Vec<Timestamp>) -> Vec<Timestamp> {
    all.sort_unstable();
    all
}

/// One request of the audit log: second, account, address.
type Asked = (u32, u8, u8);

fn request((second, who, from): Asked) -> String {
    let (hour, minute, second_of) = (second / 3600, second / 60 % 60, second % 60);
    let at = format!("2026-06-01T{hour:02}:{minute:02}:{second_of:02}.000000Z");
    format!(
        r#"{{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"Metadata","auditID":"a-{second}","stage":"ResponseComplete","requestURI":"/x","verb":"create","user":{{"username":"user-{who}"}},"sourceIPs":["192.0.2.{from}"],"objectRef":{{"resource":"pods","namespace":"pay","name":"api","apiVersion":"v1","subresource":"exec"}},"responseStatus":{{"code":101}},"requestReceivedTimestamp":"{at}","stageTimestamp":"{at}"}}"#
    ) + "\n"
}

const EXEC: &str = "title: A Shell in a Pod
id: exec
logsource: {product: kubernetes, service: audit}
detection: {s: {objectRef.subresource: exec, verb: create}, condition: s}
level: high
";

/// Each line is a block of its own, so that nothing but the order of arrival holds them together.
fn arrives(place: &Place, lines: Vec<Asked>, lateness: Duration) -> Outcome {
    let texts = lines.into_iter().map(|one| request(one).into_bytes());
    let name = NodeId::new("kubernetes-audit:/log");
    let recording = Recording::lines(Format::KubernetesAudit, name, Timestamp(0), texts);
    let around = Surroundings { threads: 1, lateness, ..Surroundings::default() };
    play(vec![recording], &[place.setup("rules")], &around).unwrap().remove(0)
}

fn parts(outcome: &Outcome) -> BTreeSet<BTreeSet<String>> {
    outcome.incidents.values().map(|story| story.events.clone()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Accounts and addresses of a few, over two hours of which a quarter of an hour links; permuted within the lateness, some told twice.
    #[test]
    fn i3_late_doubled_and_replayed_input_gives_the_same_incidents(
        asked in prop::collection::btree_map(0_u32..7200, (0_u8..6, 1_u8..6), 2..24),
        shifts in prop::collection::vec(0_u32..120, 48),
        doubled in prop::collection::vec(any::<bool>(), 24),
    ) {
        let place = Place::new();
        fs::write(place.path("rules/failed.yml"), EXEC).unwrap();
        let in_order: Vec<Asked> = asked.iter().map(|(second, (who, from))| (*second, *who, *from)).collect();
        let mut mixed: Vec<(u32, Asked)> = Vec::new();
        for (n, one) in in_order.iter().enumerate() {
            mixed.push((one.0 + shifts[n % 48], *one));
            if doubled[n % 24] {
                mixed.push((one.0 + shifts[(n + 24) % 48], *one));
            }
        }
        mixed.sort_by_key(|(arrival, _)| *arrival);
        let mixed: Vec<Asked> = mixed.into_iter().map(|(_, one)| one).collect();
        let expected = arrives(&place, in_order, Duration::from_secs(130));
        let sorted = arrives(&place, mixed.clone(), Duration::from_secs(130));
        prop_assert_eq!(&sorted.incidents, &expected.incidents, "put into order, all is the same, ids included");
        let late = arrives(&place, mixed, Duration::ZERO);
        prop_assert_eq!(parts(&late), parts(&expected), "as it comes, the same belongs together");
    }
}
