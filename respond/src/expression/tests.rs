use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::facts::{Facts, Subject};

fn facts() -> Facts {
    Facts {
        incident: json!({ "id": "inc-1", "severity": "high", "techniques": ["T1059"], "finding_count": 2 }),
        findings: json!([{ "level": "high" }, { "level": "low" }]),
        finding: json!({ "level": "high", "matched": { "Image": "/bin/sh" } }),
        process: json!({ "pid": 42, "start": 7, "exe": "/bin/sh", "args": ["-c", "id"], "euid": 0 }),
        node: json!({ "name": "n1" }),
        subject: Subject::default(),
    }
}

fn holds(text: &str) -> Result<bool, EvaluationError> {
    let steps =
        json!({ "look": { "state": "Verified", "succeeded": true, "outputs": { "files": ["/a", "/b"] } } });
    let expression =
        Expression::compile(text, Scope::Step, Purpose::Value).unwrap_or_else(|f| panic!("{text}: {f:?}"));
    expression.holds(&Variables::with_steps(&facts(), &steps))
}

fn faults(text: &str) -> Vec<String> {
    let faults = Expression::compile(text, Scope::Step, Purpose::Value).expect_err(text);
    faults.into_iter().map(|f| format!("{}:{}: {} {:?}", f.line, f.column, f.message, f.help)).collect()
}

#[test]
fn evaluates_what_playbooks_need() {
    for text in [
        "finding.level == 'high' && process.euid == 0",
        "findings.exists(f, f.level == 'low')",
        "process.exe.startsWith('/bin/') || process.exe.matches('^/tmp/')",
        "'T1059' in incident.techniques",
        "steps.look.succeeded && size(steps.look.outputs.files) == 2",
        "steps['look'].outputs.files[0] == '/a'",
        "has(finding.matched.Image) && !has(finding.matched.Nothing)",
        "process.pid + 1 == 43",
        "process.args.map(a, size(a)).exists(n, n > 1)",
    ] {
        assert_eq!(holds(text), Ok(true), "{text}");
    }
    assert!(matches!(holds("process.pid"), Err(EvaluationError::Kind { .. })));
    assert!(matches!(holds("finding.matched.Nothing == 'x'"), Err(EvaluationError::Failed { .. })));
}

#[test]
fn says_what_is_unknown_and_where() {
    assert_eq!(
        faults("finding.level == 'high' && proces.pid > 1"),
        ["1:28: unknown variable `proces`; there are incident, findings, finding, process, node, steps \
          Some(\"did you mean `process`?\")"]
    );
    assert!(faults("process.exee == ''")[0].contains("did you mean `exe`?"));
    assert!(faults("steps.look.output.x == ''")[0].contains("did you mean `outputs`?"));
    assert!(faults("process.exe.startWith('/')")[0].contains("did you mean `startsWith`?"));
    assert!(faults("now() > 1")[0].contains("unknown function `now`"));
    assert!(faults("finding.level ==")[0].starts_with("1:1"), "{:?}", faults("finding.level =="));
    let use_of_steps = Expression::compile("steps.a.succeeded", Scope::Trigger, Purpose::Value)
        .expect_err("no steps in a trigger");
    assert!(use_of_steps[0].message.contains("unknown variable `steps`"));
}

fn amiss(text: &str) -> Vec<String> {
    let faults = Expression::compile(text, Scope::Step, Purpose::Condition).err().unwrap_or_default();
    let help = |f: &Fault| f.help.as_ref().map(|help| format!(" ({help})")).unwrap_or_default();
    faults.iter().map(|f| format!("{}:{}: {}{}", f.line, f.column, f.message, help(f))).collect()
}

#[test]
fn a_condition_that_can_hold_for_no_incident_is_told_with_what_was_meant() {
    for (text, wanted) in [
        (
            "process.stdio.stdn == 'socket'",
            "1:15: `process.stdio` has no `stdn`; it has stdin, stdout, stderr (did you mean `stdin`?)",
        ),
        (
            "process.exe == 3",
            "1:9: `process.exe` is a text and `3` is a number, so they are never equal (did you mean `'3'`?)",
        ),
        (
            "process.pid == '3'",
            "1:9: `process.pid` is a number and `'3'` is a text, so they are never equal (did you mean `3`?)",
        ),
        (
            "size(process.exe)",
            "1:1: `size(process.exe)` is a number, where true or false is needed (did you mean `size(process.exe) > 0`?)",
        ),
        (
            "process.exe",
            "1:9: `process.exe` is a text, where true or false is needed (did you mean `process.exe != ''`?)",
        ),
        ("process", "1:1: `process` is a mapping, where true or false is needed"),
        (
            "finding.level == 'hihg'",
            "1:18: `finding.level` is never 'hihg'; it is one of informational, low, medium, high, critical \
             (did you mean `'high'`?)",
        ),
        (
            "findings.exists(f, f.levl == 'high')",
            "1:22: `finding` has no `levl`; it has id, rule, title, level, techniques, tactics, count, matched, event, process \
             (did you mean `level`?)",
        ),
        (
            "findings.filter(f, f.level == 'high').exists(f, f.process.workload.pd != '')",
            "1:68: `process.workload` has no `pd`; it has kind, unit, container, pod (did you mean `pod`?)",
        ),
        (
            "has(finding['process'].cgroup.pth)",
            "1:31: `process.cgroup` has no `pth`; it has id, path (did you mean `path`?)",
        ),
        ("process.exe.name == 'sh'", "1:13: `process.exe` is a text and has no `name`"),
        (
            "'/tmp' in process.exe",
            "1:19: `process.exe` is a text, and no list to look in (did you mean `process.exe.contains('/tmp')`?)",
        ),
        (
            "1059 in incident.techniques",
            "1:18: `1059` is a number, and each entry of `incident.techniques` is a text",
        ),
        (
            "process.exe > 3",
            "1:9: `process.exe` is a text and `3` is a number, so neither is greater (did you mean `'3'`?)",
        ),
        (
            "steps.a.succeeded == 'yes'",
            "1:9: `steps.a.succeeded` is true or false and `'yes'` is a text, so they are never equal",
        ),
        ("process.euid.startsWith('0')", "1:9: `process.euid` is a number, where a text is needed"),
        ("process.exe.exists(c, c == 'a')", "1:9: `process.exe` is a text, and no list to look through"),
    ] {
        assert_eq!(amiss(text), [wanted], "{text}");
    }
    assert_eq!(amiss("process.exee == '' || process.pid == 'x' || process.cwd").len(), 3, "all at once");
    let begun = Expression::compile("process.exe == 3", Scope::Step, Purpose::Continuation);
    assert!(begun.is_ok(), "a run that has begun comes to its end");
}

#[test]
fn what_is_not_known_before_it_happens_is_not_complained_of() {
    for text in [
        "steps.a.outputs.count == 3 || steps.a.outputs.count == 'three' || steps.a.outputs.ok",
        "finding.event.fields['objectRef.name'] == 1 && has(finding.event.principal)",
        "finding.event.principal != null && finding.event.principal.name == 'system:admin'",
        "findings.map(f, f.process.pid).exists(p, p > 1)",
        "findings.exists_one(f, f.level in ['high', 'critical'])",
        "(process.euid == 0 ? 'root' : process.cwd) == 'root'",
        "incident.intelligence.exists(i, i.confidence >= 80.5 && i.relation == 'same')",
        "incident.techniques == [] || process.args + ['x'] != process.args",
        "process['exe'] == \"/bin/sh\" && 'Image' in finding.matched",
        "int(finding.matched.DestinationPort) > 1024",
        "findings[0].process.args[0].endsWith('sh')",
        "dyn(process.exe) == 3 && type(process.exe) == string",
        "steps.a.outputs.files.all(f, f.startsWith('/tmp') || f.size > 3)",
    ] {
        assert_eq!(amiss(text), [""; 0], "{text}");
    }
}

#[test]
fn knows_which_steps_are_asked_about() {
    let expression =
        Expression::compile("has(steps.a.outputs.x)\n && steps['b'].failed", Scope::Step, Purpose::Value)
            .unwrap();
    let uses: Vec<_> = expression.uses().iter().map(|u| (u.step.as_str(), u.line, u.column)).collect();
    assert_eq!(uses, [("a", 1, 11), ("b", 1, 1)]);
}

#[test]
fn i11_what_could_take_too_long_is_refused() {
    let three = "findings.all(a, findings.all(b, findings.all(c, a.level == b.level && b.level == c.level)))";
    assert!(faults(three)[0].contains("3 loops"));
    let wide = format!("({}).all(a, findings.all(b, a.level == b.level))", vec!["findings"; 28].join(" + "));
    assert!(faults(&wide)[0].contains("could take"), "{:?}", faults(&wide));
    for (open, close) in [("[", "]"), ("size(", ")"), ("{'a':", "}"), ("true ? 1 : ", ""), ("1 + ", "")] {
        let deep = format!("{}1{}", open.repeat(150), close.repeat(150));
        assert!(Expression::compile(&deep, Scope::Step, Purpose::Value).is_err(), "{open}");
    }
    let deepest = vec!["1"; super::cost::MAX_TREE - 1].join(" + ");
    assert_eq!(holds(&format!("{deepest} > 0")), Ok(true));
    assert!(
        Expression::compile(&format!("'{}' == ''", "x".repeat(5000)), Scope::Step, Purpose::Value).is_err()
    );
}

proptest! {
    #[test]
    fn no_text_makes_it_fall(text in "\\PC{0,60}") {
        let _ = Expression::compile(&text, Scope::Step, Purpose::Value);
    }

    #[test]
    fn no_expression_makes_it_fall(parts in proptest::collection::vec(
        prop_oneof![Just("findings"), Just("process.pid"), Just("finding"), Just("+"), Just("=="), Just("("), Just(")"),
            Just("[0]"), Just(".exists(x, x)"), Just("'a'"), Just("1"), Just("?"), Just(":"), Just("-"), Just("/"),
            Just("0"), Just("%"), Just("in"), Just(".map(y, y)"), Just("9223372036854775807")], 1..12)) {
        if let Ok(expression) = Expression::compile(&parts.join(" "), Scope::Step, Purpose::Value) {
            let _ = expression.evaluate(&Variables::of(&facts()));
        }
    }
}
