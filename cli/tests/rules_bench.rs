//! `hemostat rules bench`, as a rule's author meets it. No figure is judged: only that what is counted is counted rightly.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::{fs, path::Path, process::Command};

use detect::schema::{Category, DraftValue, Drafted, Field};
use serde_json::Value;

const RULES: &str = "title: Often
id: often
logsource: {product: linux, category: process_creation}
detection: {s: {CommandLine|contains: needle}, condition: s}
level: high
---
title: Looked At in Vain
id: in-vain
logsource: {product: linux, category: process_creation}
detection: {s: {CommandLine|contains: needle}, t: {Image: /nowhere}, condition: s and t}
level: high
";

fn bench(words: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hemostat"));
    let output =
        command.args(["-o", "json", "rules", "bench", "--seconds", "1"]).args(words).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn event(line: &str) -> String {
    let fields = [(Field::Image, "/bin/x"), (Field::CommandLine, line)];
    let fields = fields.map(|(field, text)| (field, DraftValue::One(text.to_owned())));
    serde_json::to_string(Drafted::new(Category::ProcessCreation, &fields).unwrap().event()).unwrap()
}

fn write(folder: &Path, name: &str, text: &str) -> String {
    fs::write(folder.join(name), text).unwrap();
    folder.join(name).display().to_string()
}

#[test]
fn recorded_events_are_judged_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let rules = write(dir.path(), "rules.yml", RULES);
    let lines: Vec<String> = (0..8).map(|n| event(if n % 4 == 0 { "a needle" } else { "hay" })).collect();
    let events = write(dir.path(), "events.jsonl", &format!("\n{}\n", lines.join("\n")));
    let (code, out, _) = bench(&[&rules, "--events", &events, "--top", "1"]);
    assert_eq!(code, Some(0));
    let benched: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (&benched["rules"], &benched["events"], &benched["source"]),
        (&2.into(), &8.into(), &"recorded".into())
    );
    assert_eq!(benched["matches_per_event"], 0.25, "{benched}");
    let (each, rate) =
        (benched["nanoseconds_per_event"].as_f64().unwrap(), benched["events_per_second"].as_f64().unwrap());
    assert!(each > 0.0 && (each * rate / 1e9 - 1.0).abs() < 1e-6, "{benched}");
    assert!(benched["table_bytes"].as_u64().unwrap() > 0);
    let slowest = benched["slowest"].as_array().unwrap();
    assert_eq!(slowest.len(), 1, "--top");
    assert_eq!((&slowest[0]["rule"], &slowest[0]["match_share"]), (&"often".into(), &0.25.into()));
    assert!(
        slowest[0]["candidate_share"].as_f64().unwrap() >= 0.25
            && slowest[0]["alone_nanoseconds"].as_f64().unwrap() > 0.0
    );
}

#[test]
fn without_events_it_makes_them_from_the_rules_and_their_tests() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "rules.yml", RULES);
    let tests = "tests:\n  - name: one\n    rule: often\n    event: {category: process_creation, CommandLine: needle}\n    expect: match\n";
    let folder = dir.path().display().to_string();
    let count = |out: &str| serde_json::from_str::<Value>(out).unwrap()["events"].as_u64().unwrap();
    let (code, out, _) = bench(&[&folder]);
    assert_eq!(
        (code, serde_json::from_str::<Value>(&out).unwrap()["source"].clone()),
        (Some(0), "made".into())
    );
    let alone = count(&out);
    assert!(alone > 0);
    write(dir.path(), "rules.test.yml", tests);
    let (_, out, _) = bench(&[&folder]);
    assert_eq!(count(&out), alone + 1);
    assert!(serde_json::from_str::<Value>(&out).unwrap()["matches_per_event"].as_f64().unwrap() > 0.0);
}

#[test]
fn what_cannot_be_measured_is_said_with_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let rules = write(dir.path(), "rules.yml", RULES);
    let broken = write(dir.path(), "events.jsonl", &format!("{}\n{{\"no\": \"event\"}}\n", event("x")));
    let empty = write(dir.path(), "empty.jsonl", "\n");
    let none = write(dir.path(), "none.yml", "");
    for (words, code, said) in [
        (&[rules.as_str(), "--events", broken.as_str()][..], 5, "events.jsonl, line 2: no event"),
        (&[&rules, "--events", &empty], 5, "no event to measure with"),
        (&[&rules, "--events", "/nonexistent/e.jsonl"], 1, "/nonexistent/e.jsonl"),
        (&[&none], 5, "no rule to measure"),
    ] {
        let (ended, _, err) = bench(words);
        assert_eq!(ended, Some(code), "{err}");
        assert!(err.contains(said), "{said}: {err}");
    }
}
