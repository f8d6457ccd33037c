//! `hemostat rules check`, `test`, `explain` and `coverage`, as a rule's author meets them: what is printed, as text and as JSON, and the exit code.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::{fs, path::Path, process::Command};

use detect::schema::{Category, DraftValue, Drafted, Field};
use serde_json::Value;

const RULES: &str = "title: Needles
id: 00000000-0000-4000-8000-000000000001
name: needles
tags: [attack.execution, attack.t1059.004]
logsource: {product: linux, category: process_creation}
detection: {s: {CommandLine|contains: needle, Image|endswith: /sh}, f: {User: root}, condition: s and not f}
level: high
---
title: Of No Source Here
id: 00000000-0000-4000-8000-000000000002
tags: [attack.persistence, attack.t1547.001]
logsource: {product: windows, category: registry_set}
detection: {s: {TargetObject: x}, condition: s}
level: high
---
title: Untagged
id: 00000000-0000-4000-8000-000000000003
logsource: {product: linux, category: process_creation}
detection: {s: {Image: /bin/true}, condition: s}
level: low
---
title: Many Needles
id: 00000000-0000-4000-8000-000000000004
correlation: {type: event_count, rules: [needles], group-by: [User], timespan: 5m, condition: {gte: 3}}
level: high
";

/// One that matches, one that must not, and one that expects what is not so.
const TESTS: &str = "tests:
  - {name: found, rule: 00000000-0000-4000-8000-000000000001, event: {category: process_creation, Image: /bin/sh, CommandLine: a needle, User: 1000}, expect: match}
  - {name: hay, rule: 00000000-0000-4000-8000-000000000001, event: {category: process_creation, Image: /bin/sh, CommandLine: hay, User: 1000}, expect: no match}
";

fn rules(words: &[&str]) -> (Option<i32>, String, String) {
    let output =
        Command::new(env!("CARGO_BIN_EXE_hemostat")).env("COLUMNS", "160").args(words).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn json(words: &[&str]) -> (Option<i32>, Value) {
    let (code, out, err) = rules(&[&["-o", "json", "rules"], words].concat());
    (code, serde_json::from_str(&out).unwrap_or_else(|error| unreachable!("{error}: {out}{err}")))
}

fn write(folder: &Path, name: &str, text: &str) -> String {
    fs::write(folder.join(name), text).unwrap();
    folder.join(name).display().to_string()
}

#[test]
fn check_says_what_is_wrong_and_where_and_what_was_expected() {
    let dir = tempfile::tempdir().unwrap();
    let good = write(dir.path(), "good.yml", RULES);
    let (code, out, _) = rules(&["rules", "check", &good]);
    assert_eq!(code, Some(0), "{out}");
    assert!(out.contains("1 file: 3 rules, 1 correlation, 0 filters loaded; 0 errors"), "{out}");
    assert!(
        out.contains(
            "correlation Many Needles (event_count within 300 s) runs in the controller over needles"
        ),
        "{out}"
    );
    assert!(out.contains("1 rule cannot fire on this product's sources"), "{out}");
    let bad = write(dir.path(), "bad.yml", &RULES.replace("|contains", "|contians"));
    let (code, out, _) = rules(&["rules", "check", &bad]);
    assert_eq!(code, Some(1));
    for said in ["contians", "bad.yml:6:", "contains", "2 rules", "^"] {
        assert!(out.contains(said), "{said} in:\n{out}");
    }
    let (code, checked) = json(&["check", &bad]);
    let diagnostics = checked["diagnostics"].as_array().unwrap();
    let first = diagnostics.iter().find(|one| one["severity"] == "error").unwrap();
    assert_eq!((code, &first["line"], first["column"].as_u64()), (Some(1), &6.into(), Some(29)), "{checked}");
    assert!(first["help"][0].as_str().is_some_and(|help| help.contains("contains")), "{first}");
}

#[test]
fn strict_makes_warnings_count() {
    let dir = tempfile::tempdir().unwrap();
    let warned =
        write(dir.path(), "w.yml", &RULES.replace("00000000-0000-4000-8000-000000000003", "no-uuid"));
    assert_eq!(rules(&["rules", "check", &warned]).0, Some(0));
    let (code, out, _) = rules(&["rules", "check", "--strict", &warned]);
    assert_eq!(code, Some(1), "{out}");
    assert!(out.contains("no-uuid"), "{out}");
}

#[test]
fn test_runs_what_stands_beside_the_rules_and_explains_what_failed() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "rules.yml", RULES);
    write(dir.path(), "rules.test.yml", TESTS);
    let folder = dir.path().display().to_string();
    let (code, tested) = json(&["test", &folder]);
    assert_eq!((&tested["passed"], tested["failed"].as_array().unwrap().len()), (&2.into(), 0), "{tested}");
    let untested: Vec<&str> =
        tested["untested"].as_array().unwrap().iter().map(|one| one["rule"].as_str().unwrap()).collect();
    assert!(untested.contains(&"00000000-0000-4000-8000-000000000003"), "{tested}");
    assert!(!untested.contains(&"00000000-0000-4000-8000-000000000001"), "{tested}");
    assert_eq!(code, Some(0), "what has no test is told, and no test failed");
    write(dir.path(), "rules.test.yml", &TESTS.replace("CommandLine: hay", "CommandLine: needle"));
    let (code, out, _) = rules(&["rules", "test", &folder]);
    assert_eq!(code, Some(1));
    for said in ["FAILED", "hay", "+ CommandLine", "1 case passed, 1 failed"] {
        assert!(out.contains(said), "{said} in:\n{out}");
    }
}

/// Rules of another taxonomy and with placeholders, and the tables that say what they mean: all of them files of one folder.
#[test]
fn tables_among_the_rules_reach_check_and_test() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().display().to_string();
    let rule = "title: Salt\nid: 00000000-0000-4000-8000-000000000009\ntaxonomy: acme\nlogsource: {product: linux, category: process_creation}\n\
        detection: {s: {proc.path|expand: '%tools%', process.command_line|contains: x}, condition: s}\nlevel: low\n";
    let tests = "tests:\n  - {name: a, event: {category: process_creation, Image: /opt/salt/minion, CommandLine: x}, expect: match}\n  \
        - {name: b, event: {category: process_creation, Image: /opt/other, CommandLine: x}, expect: no match}\n";
    write(dir.path(), "a.yml", &rule.replace("process.command_line", "CommandLine"));
    write(dir.path(), "a.test.yml", tests);
    let (code, out, _) = rules(&["rules", "check", &folder]);
    assert_eq!(code, Some(1));
    for said in ["the taxonomy `acme` is not known", "unknown placeholder `%tools%`"] {
        assert!(out.contains(said), "{said} in:\n{out}");
    }
    write(
        dir.path(),
        "z.yml",
        "placeholders:\n  tools: /opt/salt/*\n---\ntaxonomy: acme\nfields: {proc.path: Image}\n",
    );
    let (code, out, _) = rules(&["rules", "check", "--strict", &folder]);
    assert_eq!(code, Some(0), "{out}");
    assert!(out.contains("the files give: placeholder tools, taxonomy acme"), "{out}");
    let (code, tested) = json(&["test", &folder]);
    assert_eq!((code, &tested["passed"]), (Some(0), &2.into()), "{tested}");
    // What is wrong with a table is told at its place.
    write(
        dir.path(),
        "z.yml",
        "placeholders: {tools: /opt/salt/*}\n---\ntaxonomy: acme\nfields: {proc.path: Imag}\n",
    );
    let (code, out, _) = rules(&["rules", "check", &folder]);
    assert_eq!(code, Some(1));
    for said in ["unknown field `Imag`", "z.yml:4:21", "did you mean `Image`"] {
        assert!(out.contains(said), "{said} in:\n{out}");
    }
}

#[test]
fn explain_shows_each_predicate_of_an_event() {
    let dir = tempfile::tempdir().unwrap();
    let file = write(dir.path(), "rules.yml", RULES);
    let fields = [(Field::Image, "/bin/sh"), (Field::CommandLine, "a needle"), (Field::User, "0")]
        .map(|(field, text)| (field, DraftValue::One(text.to_owned())));
    let drafted = Drafted::new(Category::ProcessCreation, &fields)
        .or_else(|_| Drafted::new(Category::ProcessCreation, &fields[..2]))
        .unwrap();
    let event = write(dir.path(), "event.json", &serde_json::to_string(drafted.event()).unwrap());
    let (code, out, err) = rules(&["rules", "explain", "needles", "--rules", &file, "--event", &event]);
    assert_eq!(code, Some(0), "{err}");
    for said in [
        "can fire on this product's sources",
        "from the kernel:",
        "+ CommandLine",
        "the event has `a needle`",
        "+ Image",
        "condition: s and not f",
    ] {
        assert!(out.contains(said), "{said} in:\n{out}");
    }
    let (code, out, _) = rules(&["rules", "explain", "Of No Source Here", "--rules", &file]);
    assert_eq!(code, Some(0));
    assert!(out.contains("cannot fire on this product's sources: "), "{out}");
    let (code, _, err) = rules(&["rules", "explain", "nothing like it", "--rules", &file]);
    assert_eq!(code, Some(5), "{err}");
    let (code, _, err) = rules(&["rules", "explain", "needles", "--rules", &file, "--event", &file]);
    assert!(code == Some(1) && err.contains("holds no event, finding or incident"), "{err}");
}

#[test]
fn where_no_rule_is_none_was_checked_tested_or_covered() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().display().to_string();
    for words in [["rules", "check"], ["rules", "test"], ["rules", "coverage"]] {
        let (code, _, err) = rules(&[words[0], words[1], &folder]);
        assert!(code == Some(5) && err.contains(&folder), "{words:?}: {code:?} {err}");
    }
    let empty = dir.path().join("empty.yml");
    fs::write(&empty, "").unwrap();
    let (code, _, err) = rules(&["rules", "check", empty.to_str().unwrap()]);
    assert!(code == Some(5) && err.contains("no rule in") && err.contains("empty.yml"), "{code:?} {err}");
}

#[test]
fn of_many_that_fit_it_is_said_how_many_are_not_named() {
    let dir = tempfile::tempdir().unwrap();
    for n in 0..12 {
        let rule = format!(
            "title: Alike {n}\nid: alike-{n}\nlogsource: {{category: process_creation, product: linux}}\ndetection:\n  s: {{Image: /x{n}}}\n  condition: s\nlevel: low\n"
        );
        fs::write(dir.path().join(format!("{n}.yml")), rule).unwrap();
    }
    let folder = dir.path().display().to_string();
    let (code, _, err) = rules(&["rules", "explain", "alike", "--rules", &folder]);
    assert!(code == Some(5) && err.contains("12 rules fit") && err.contains("and 2 more"), "{code:?} {err}");
}

#[test]
fn coverage_is_a_table_and_a_layer_of_the_navigator() {
    let dir = tempfile::tempdir().unwrap();
    let file = write(dir.path(), "rules.yml", RULES);
    let (code, out, _) = rules(&["rules", "coverage", &file]);
    assert_eq!(code, Some(0));
    for said in ["TECHNIQUE", "T1059.004", "Needles", "execution", "T1547.001", "rules name none"] {
        assert!(out.contains(said), "{said} in:\n{out}");
    }
    let (_, rows) = json(&["coverage", &file]);
    let row = rows.as_array().unwrap().iter().find(|row| row["technique"] == "T1547.001").unwrap().clone();
    assert_eq!(
        (&row["live"], row["rules"].as_array().unwrap().len()),
        (&0.into(), 1),
        "one that cannot fire covers nothing"
    );
    let (code, out, _) = rules(&["rules", "coverage", "--navigator", &file]);
    assert_eq!(code, Some(0));
    layer(&serde_json::from_str(&out).unwrap());
}

/// What the Navigator's layer format 4.5 asks for (mitre-attack/attack-navigator, layers/spec/v4.5/layerformat.md).
fn layer(layer: &Value) {
    assert!(layer["name"].as_str().is_some_and(|name| !name.is_empty()), "{layer}");
    assert_eq!(layer["domain"], "enterprise-attack");
    assert!(layer["versions"]["layer"].as_str().is_some_and(|version| version.starts_with("4.")), "{layer}");
    let techniques = layer["techniques"].as_array().unwrap();
    assert!(!techniques.is_empty());
    let known = [
        "techniqueID",
        "tactic",
        "comment",
        "enabled",
        "score",
        "color",
        "metadata",
        "links",
        "showSubtechniques",
    ];
    for technique in techniques {
        let object = technique.as_object().unwrap();
        assert!(object.keys().all(|key| known.contains(&key.as_str())), "{technique}");
        let id = technique["techniqueID"].as_str().unwrap();
        let digits = id.strip_prefix('T').unwrap().replacen('.', "", 1);
        assert!(matches!(digits.len(), 4 | 7) && digits.bytes().all(|byte| byte.is_ascii_digit()), "{id}");
        assert!(technique.get("score").is_none_or(Value::is_number), "{technique}");
        assert!(
            technique.get("tactic").is_none_or(
                |tactic| tactic.is_null() || tactic.as_str().is_some_and(|name| !name.contains('_'))
            ),
            "{technique}"
        );
    }
    let score =
        |id: &str| techniques.iter().find(|one| one["techniqueID"] == id).map(|one| one["score"].clone());
    assert_eq!(score("T1059.004"), Some(1.into()));
}

#[test]
fn no_rule_file_is_a_mistake_in_the_path() {
    let dir = tempfile::tempdir().unwrap();
    let (code, _, err) = rules(&["rules", "check", &dir.path().display().to_string()]);
    assert_eq!(code, Some(5), "{err}");
}
