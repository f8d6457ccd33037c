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
    let expression = Expression::compile(text, Scope::Step).unwrap_or_else(|f| panic!("{text}: {f:?}"));
    expression.holds(&Variables::with_steps(&facts(), &steps))
}

fn faults(text: &str) -> Vec<String> {
    let faults = Expression::compile(text, Scope::Step).expect_err(text);
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
    let use_of_steps =
        Expression::compile("steps.a.succeeded", Scope::Trigger).expect_err("no steps in a trigger");
    assert!(use_of_steps[0].message.contains("unknown variable `steps`"));
}

#[test]
fn knows_which_steps_are_asked_about() {
    let expression =
        Expression::compile("has(steps.a.outputs.x)\n && steps['b'].failed", Scope::Step).unwrap();
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
        assert!(Expression::compile(&deep, Scope::Step).is_err(), "{open}");
    }
    let deepest = vec!["1"; super::cost::MAX_TREE - 1].join(" + ");
    assert_eq!(holds(&format!("{deepest} > 0")), Ok(true));
    assert!(Expression::compile(&format!("'{}' == ''", "x".repeat(5000)), Scope::Step).is_err());
}

proptest! {
    #[test]
    fn no_text_makes_it_fall(text in "\\PC{0,60}") {
        let _ = Expression::compile(&text, Scope::Step);
    }

    #[test]
    fn no_expression_makes_it_fall(parts in proptest::collection::vec(
        prop_oneof![Just("findings"), Just("process.pid"), Just("finding"), Just("+"), Just("=="), Just("("), Just(")"),
            Just("[0]"), Just(".exists(x, x)"), Just("'a'"), Just("1"), Just("?"), Just(":"), Just("-"), Just("/"),
            Just("0"), Just("%"), Just("in"), Just(".map(y, y)"), Just("9223372036854775807")], 1..12)) {
        if let Ok(expression) = Expression::compile(&parts.join(" "), Scope::Step) {
            let _ = expression.evaluate(&Variables::of(&facts()));
        }
    }
}
