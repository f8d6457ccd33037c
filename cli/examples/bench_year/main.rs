//! `cargo run --release -p hemostat --example bench_year [-- --quick] [--json]`: a simulated year with a known truth ([`world`]), through replay's
//! virtual time, with the shipped rules and playbooks and analysts who know the truth half an hour later. Ends with 1 if a target is missed.
//!
//! What the figures mean, each over incidents that a playbook answers:
//!
//! - automation coverage: attacks that were answered without a person ÷ attacks;
//! - containment precision: automatic containments of attacks ÷ automatic containments;
//! - escalation quality: asked about no attack, or about an attack for which the gate names a signal that fell short ÷ asked;
//! - rollback rate: automatic containments that were rolled back ÷ automatic containments.
#![expect(
    clippy::print_stdout,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "a bench prints its figures"
)]
#![expect(dead_code, reason = "of the load only its chance is used here")]

#[path = "../bench_pipeline/load.rs"]
mod load;
mod world;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use controller::replay::{Decided, Item, Outcome, People, Recording, Setup, Story, Surroundings, Word, play};
use detect::{rule_test::written_events, source::SourceFile};
use model::{
    AgentEpoch, Event, EventId, GateOutcome, Incident, IncidentId, IncidentState, LossWindow, NodeId, Seq,
    Timestamp, Verdict,
};
use serde_json::json;
use world::{Parameters, Truth, World, make};

type Failed = Box<dyn std::error::Error>;

fn main() -> Result<ExitCode, Failed> {
    let given = |name: &str| std::env::args().any(|word| word == name);
    let templates = templates()?;
    let (mut parameters, mut few) = (Parameters::default(), Parameters::few());
    if given("--quick") {
        for (one, attacks) in [(&mut parameters, 3_000), (&mut few, 160)] {
            (one.days, one.attacks, one.migrations, one.people, one.scans) = (60, attacks, 1, 1, 2);
        }
    }
    if !given("--json") {
        println!("{} events that a shipped playbook answers by itself; {parameters:?}", templates.len());
    }
    let year = simulate(&parameters, &templates)?;
    let mut lines = vec![
        ("attacks", year.attacks as f64, "", None, true),
        ("automation coverage", year.coverage(), "%", Some(68.0), year.coverage() >= 68.0),
        ("containment precision", year.precision(), "%", Some(99.5), year.precision() >= 99.5),
        ("escalation quality", year.escalation(), "%", Some(91.0), year.escalation() >= 91.0),
        ("rollback rate", year.rollbacks(), "%", Some(0.5), year.rollbacks() <= 0.5),
        ("automatic containments", year.automatic as f64, "", None, true),
        ("of them of no attack", year.wrong as f64, "", None, true),
        ("asked", year.asked as f64, "", None, true),
        ("migrations over 14 namespaces", year.migrations as f64, "", None, true),
        (
            "of them paused and asked about by the fifth namespace",
            year.paused as f64,
            "",
            Some(year.migrations as f64),
            year.paused == year.migrations,
        ),
    ]
    .into_iter()
    .map(|(metric, value, unit, target, ok)| (metric.to_owned(), value, unit, target, ok))
    .collect::<Vec<_>>();
    // Coverage against precision: the more people do by hand what looks like an attack, the less is done without asking.
    let base = few.people.max(1);
    for people in [0, base, base * 4, base * 16, base * 64] {
        let one = simulate(&Parameters { people, ..few.clone() }, &templates)?;
        let per_thousand = people as f64 * 1000.0 / (one.attacks.max(1) as f64);
        lines.push((
            format!("few attacks, {per_thousand:.0} mistakable acts for 1,000: coverage"),
            one.coverage(),
            "%",
            None,
            true,
        ));
        lines.push((
            format!("few attacks, {per_thousand:.0} mistakable acts for 1,000: precision"),
            one.precision(),
            "%",
            None,
            true,
        ));
    }
    for (metric, value, unit, target, ok) in &lines {
        if given("--json") {
            println!(
                "{}",
                json!({"bench": "year", "metric": metric, "value": value, "unit": unit, "target": target, "ok": ok, "peer": null})
            );
        } else {
            let target = target.map_or_else(|| "–".to_owned(), |target| format!("{target}"));
            println!("{metric:<62} {value:>12.2} {unit:<4} {target:>8} {}", if *ok { "ok" } else { "MISS" });
        }
    }
    Ok(if lines.iter().all(|line| line.4) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What came of a year.
#[derive(Debug, Default)]
struct Year {
    attacks: u64,
    automatic: u64,
    wrong: u64,
    of_attacks: u64,
    asked: u64,
    asked_well: u64,
    rolled_back: u64,
    migrations: u64,
    paused: u64,
}

impl Year {
    fn coverage(&self) -> f64 {
        percent(self.of_attacks, self.attacks)
    }

    fn precision(&self) -> f64 {
        percent(self.automatic - self.wrong, self.automatic)
    }

    fn escalation(&self) -> f64 {
        percent(self.asked_well, self.asked)
    }

    fn rollbacks(&self) -> f64 {
        percent(self.rolled_back, self.automatic)
    }
}

fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 100.0 } else { part as f64 * 100.0 / whole as f64 }
}

fn simulate(parameters: &Parameters, templates: &[Event]) -> Result<Year, Failed> {
    let World { items, facts, truth } = make(parameters, templates);
    let known = Arc::clone(&truth);
    let setup = Setup {
        people: Some(Arc::new(move || {
            Box::new(Analysts { truth: Arc::clone(&known), said: BTreeSet::new() })
        })),
        ..shipped()
    };
    let around = Surroundings { facts, ..Surroundings::default() };
    let recording = Recording::items(NodeId::new("world"), items.into_iter());
    let outcome = play(vec![recording], &[setup], &around)?.remove(0);
    Ok(judge(&outcome, &truth, parameters))
}

fn judge(outcome: &Outcome, truth: &BTreeMap<String, Truth>, parameters: &Parameters) -> Year {
    let mut year = Year { migrations: parameters.migrations, ..Year::default() };
    let mut steps: BTreeMap<u64, Vec<(Timestamp, bool)>> = BTreeMap::new();
    for story in outcome.incidents.values().filter(|story| !story.decisions.is_empty()) {
        let Some(what) = truth_of(&story.events, truth) else { continue };
        let attack = what == Truth::Attack;
        let automatic = any(story, GateOutcome::Automatic);
        year.attacks += u64::from(attack);
        if let Truth::Migration(number) = what {
            steps.entry(number).or_default().push((story.first_event, automatic));
        }
        if automatic {
            year.automatic += 1;
            year.wrong += u64::from(!attack);
            year.of_attacks += u64::from(attack);
            year.rolled_back += u64::from(story.state == IncidentState::RolledBack);
        } else if any(story, GateOutcome::Approval) {
            year.asked += 1;
            let said = story.decisions.iter().any(|one: &Decided| !one.short.is_empty());
            year.asked_well += u64::from(!attack || said);
        }
    }
    for steps in steps.values_mut() {
        steps.sort();
        let by_itself = steps.iter().filter(|(_, automatic)| *automatic).count();
        let later = steps.iter().skip(4).any(|(_, automatic)| *automatic);
        year.paused += u64::from(by_itself <= 4 && !later && steps.len() >= 14);
    }
    year
}

fn any(story: &Story, outcome: GateOutcome) -> bool {
    story.decisions.iter().any(|one| one.outcome == outcome)
}

fn truth_of(events: &BTreeSet<String>, truth: &BTreeMap<String, Truth>) -> Option<Truth> {
    events.iter().filter_map(|event| truth.get(event)).min().copied()
}

/// They know the truth, but not at once.
struct Analysts {
    truth: Arc<BTreeMap<String, Truth>>,
    said: BTreeSet<(IncidentId, u8)>,
}

impl People for Analysts {
    fn look(&mut self, now: Timestamp, incident: &Incident) -> Vec<(Timestamp, Word)> {
        let events: BTreeSet<String> = incident.findings.iter().map(|one| one.event.id.to_string()).collect();
        let Some(what) = truth_of(&events, &self.truth) else { return Vec::new() };
        let attack = what == Truth::Attack;
        let mut words = Vec::new();
        let mut once = |kind: u8, after: u64, word: Word| {
            if self.said.insert((incident.id.clone(), kind)) {
                words.push((now.plus(Duration::from_secs(after)), word));
            }
        };
        if incident.runs.iter().any(|run| !run.waiting.is_empty()) {
            once(0, 300, if attack { Word::Approve } else { Word::Deny });
        }
        if !incident.runs.is_empty() {
            let verdict = if attack { Verdict::TruePositive } else { Verdict::FalsePositive };
            once(1, 1800, Word::Verdict(verdict));
        }
        words
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// In a cluster the playbooks for pods come with the others.
fn shipped() -> Setup {
    Setup {
        name: "shipped".into(),
        rules: vec![root().join("rules/linux")],
        playbooks: vec![root().join("playbooks")],
        ..Setup::default()
    }
}

/// Events of the shipped rules' own tests that a shipped playbook in mode Auto answers, each tried alone.
fn templates() -> Result<Vec<Event>, Failed> {
    let mut tests = Vec::new();
    below(&root().join("rules/linux"), &mut tests)?;
    let mut events = written_events(&tests);
    for (n, event) in events.iter_mut().enumerate() {
        event.time = Timestamp(1_767_000_000_000_000_000 + n as i64 * 3_600_000_000_000);
        event.id =
            EventId { node: NodeId::new(format!("try-{n}")), epoch: AgentEpoch(1), seq: Seq(n as u64 + 1) };
    }
    let by_id: BTreeMap<String, Event> =
        events.iter().map(|event| (event.id.to_string(), event.clone())).collect();
    let item =
        |event: Event| Item::Event { event: Box::new(event), context: vec![], loss: LossWindow::default() };
    let recording = Recording::items(NodeId::new("tests"), events.into_iter().map(item));
    let outcome = play(vec![recording], &[shipped()], &Surroundings::default())?.remove(0);
    let found: BTreeSet<String> = outcome
        .incidents
        .values()
        .filter(|story| any(story, GateOutcome::Automatic))
        .flat_map(|story| story.events.clone())
        .collect();
    let all: Vec<Event> = found.iter().filter_map(|id| by_id.get(id)).cloned().collect();
    if all.is_empty() { Err("no event of the rules' tests is answered by itself".into()) } else { Ok(all) }
}

fn below(folder: &Path, tests: &mut Vec<SourceFile>) -> Result<(), Failed> {
    let mut paths: Vec<PathBuf> =
        fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    paths.sort();
    for path in paths {
        let name = path.display().to_string();
        if path.is_dir() {
            below(&path, tests)?;
        } else if name.ends_with(".test.yml") {
            tests.push(SourceFile { text: fs::read_to_string(&path)?, name });
        }
    }
    Ok(())
}
