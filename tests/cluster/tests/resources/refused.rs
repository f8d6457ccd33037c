//! What the API server refuses, by itself and with which words.

use serde_json::{Value, json};

use hemostat_cluster_tests::api_server::ApiServer;

use crate::{KINDS, example};

/// Kind, place, what is put there (`null` removes it), and what the refusal says.
fn cases() -> Vec<(&'static str, &'static str, Value, &'static [&'static str])> {
    let steps = |needs: [&[&str]; 2]| {
        json!([
            {"name": "one", "action": "node.freeze", "needs": needs[0]},
            {"name": "two", "action": "node.freeze", "needs": needs[1]},
        ])
    };
    let many: Vec<Value> =
        (0..65).map(|at| json!({"name": format!("s{at}"), "action": "node.freeze"})).collect();
    vec![
        (
            "Playbook",
            "/spec/steps/0/action",
            json!("node.explode"),
            &["spec.steps[0].action", "Unsupported value", "node.freeze"],
        ),
        ("Playbook", "/spec/steps/0/name", json!("Freeze It"), &["spec.steps[0].name", "^[a-z][a-z0-9_]*$"]),
        ("Playbook", "/spec/steps/1/name", json!("freeze"), &["spec.steps[1]", "Duplicate value"]),
        (
            "Playbook",
            "/spec/steps/1/needs",
            json!(["frieze"]),
            &["spec.steps", "needs names a step that is not in the playbook"],
        ),
        (
            "Playbook",
            "/spec/steps/1/needs",
            json!(["evidence"]),
            &["spec.steps[1]", "a step cannot need itself"],
        ),
        ("Playbook", "/spec/steps", steps([&["two"], &["one"]]), &["spec.steps", "needs has a cycle"]),
        ("Playbook", "/spec/steps", json!([]), &["spec.steps", "at least 1 items"]),
        ("Playbook", "/spec/steps", json!(many), &["spec.steps", "must have at most 64 items"]),
        ("Playbook", "/spec/steps/0/timeout", json!("3 seconds"), &["spec.steps[0].timeout", "should match"]),
        ("Playbook", "/spec/steps/0/when", json!("x".repeat(2049)), &["spec.steps[0].when", "Too long"]),
        (
            "Playbook",
            "/spec/steps/0/verify",
            json!({"attempts": 99}),
            &["spec.steps[0].verify.attempts", "less than or equal to 10"],
        ),
        ("Playbook", "/spec/steps/0/with", json!({"port": 70000}), &["spec.steps[0].with.port", "65535"]),
        (
            "Playbook",
            "/spec/steps/0/with",
            json!({"scope": "Everything"}),
            &["spec.steps[0].with.scope", "Unsupported value"],
        ),
        (
            "Playbook",
            "/spec/steps/0/with",
            json!({"prot": 1}),
            &["unknown field \"spec.steps[0].with.prot\""],
        ),
        ("Playbook", "/spec/steps/0/onFailure", json!("rollback"), &["spec.steps[0].onFailure", "Rollback"]),
        ("Playbook", "/spec/mode", json!("Always"), &["spec.mode", "\"Shadow\", \"Approve\", \"Auto\""]),
        (
            "Playbook",
            "/spec/trigger",
            json!({}),
            &["spec.trigger", "at least one of rules, techniques, minimumLevel and when"],
        ),
        (
            "Playbook",
            "/spec/trigger/techniques",
            json!(["1059"]),
            &["spec.trigger.techniques[0]", "should match"],
        ),
        (
            "Playbook",
            "/spec/blastRadius",
            json!({"maximumTargets": 1000}),
            &["spec.blastRadius.maximumTargets", "less than or equal to 64"],
        ),
        (
            "Playbook",
            "/spec/blastRadius",
            json!({"shortestPrefixV4": 0}),
            &["spec.blastRadius.shortestPrefixV4", "greater than or equal to 8"],
        ),
        (
            "Playbook",
            "/spec/blastRadius",
            json!({"widest": "Everything"}),
            &["spec.blastRadius.widest", "Unsupported value"],
        ),
        ("RuleSet", "/spec", json!({}), &["spec", "at least one of inline, configMaps and artifact"]),
        (
            "RuleSet",
            "/spec/artifact/reference",
            json!("registry.example.com/rules:latest"),
            &["spec.artifact.reference", "sha256"],
        ),
        ("RuleSet", "/spec/inline/0/sigma", json!("x".repeat(65537)), &["spec.inline[0].sigma", "Too long"]),
        (
            "RuleSet",
            "/spec/inline/0/name",
            json!("../../etc/passwd"),
            &["spec.inline[0].name", "should match"],
        ),
        (
            "RuleSet",
            "/spec/configMaps/0/namespace",
            json!("No Such"),
            &["spec.configMaps[0].namespace", "should match"],
        ),
        ("RuleSet", "/spec/configMaps/0/name", Value::Null, &["spec.configMaps[0].name", "Required value"]),
        ("ResponsePolicy", "/spec/mode", json!("auto"), &["spec.mode", "Auto"]),
        (
            "ResponsePolicy",
            "/spec/approvals/approvers",
            json!(["ada"]),
            &["spec.approvals.approvers[0]", "user|group"],
        ),
        (
            "ResponsePolicy",
            "/spec/exclusions/0/match",
            json!({}),
            &["spec.exclusions[0].match", "an exclusion says of which incidents"],
        ),
        (
            "ResponsePolicy",
            "/spec/exclusions/0/reason",
            json!(""),
            &["spec.exclusions[0].reason", "at least 1 char"],
        ),
        (
            "ResponsePolicy",
            "/spec/exclusions/0/expires",
            json!("tomorrow"),
            &["spec.exclusions[0].expires", "date-time"],
        ),
        (
            "ResponsePolicy",
            "/spec/budgets",
            json!({"runsPerHour": -1}),
            &["spec.budgets.runsPerHour", "greater than or equal to 0"],
        ),
        (
            "ResponsePolicy",
            "/spec/standingApprovals/0/expires",
            Value::Null,
            &["spec.standingApprovals[0].expires", "Required value"],
        ),
        (
            "ResponsePolicy",
            "/spec/standingApprovals/0/playbooks",
            json!([]),
            &["spec.standingApprovals[0].playbooks", "at least 1 items"],
        ),
        ("Incident", "/spec/title", json!(""), &["spec.title", "at least 1 char"]),
        ("Incident", "/spec/firstEvent", json!("yesterday"), &["spec.firstEvent", "date-time"]),
        (
            "Incident",
            "/spec/verdict",
            json!({"is": "Perhaps", "by": "ada"}),
            &["spec.verdict.is", "FalsePositive"],
        ),
        (
            "ResponseAction",
            "/spec/plan/action",
            json!("node.reboot"),
            &["spec.plan.action", "Unsupported value"],
        ),
        (
            "ResponseAction",
            "/spec/plan/target",
            json!({}),
            &["spec.plan.target", "exactly one of process, cgroup, file, object, account and channel"],
        ),
        (
            "ResponseAction",
            "/spec/plan/target/cgroup",
            json!({"id": 7, "path": "x"}),
            &["spec.plan.target", "exactly one of"],
        ),
        (
            "ResponseAction",
            "/spec/plan/target/process/pid",
            json!(1),
            &["spec.plan.target.process.pid", "greater than or equal to 2"],
        ),
        (
            "ResponseAction",
            "/spec/plan/target/process/start",
            Value::Null,
            &["spec.plan.target.process.start", "Required value"],
        ),
        (
            "ResponseAction",
            "/spec/plan/undo",
            json!({"class": "Irreversible"}),
            &["spec.plan", "an approval or a standing approval (I5)", "says what stays lost (I5)"],
        ),
        (
            "ResponseAction",
            "/spec/plan/undo",
            json!({"class": "Maybe"}),
            &["spec.plan.undo.class", "Irreversible"],
        ),
        ("ResponseAction", "/spec/plan/key", json!("a b"), &["spec.plan.key"]),
        ("ResponseAction", "/spec/end/how", json!("Forget"), &["spec.end.how", "Revert"]),
        (
            "Approval",
            "/spec/request/approvers",
            json!(["ada"]),
            &["spec.request.approvers[0]", "(user|group)"],
        ),
        ("Approval", "/spec/request/expires", Value::Null, &["spec.request.expires", "Required value"]),
        (
            "Approval",
            "/spec/decision",
            json!({"answer": "Approve", "by": "admin"}),
            &["spec", "made without its decision"],
        ),
        ("Approval", "/spec/request/would", json!("x".repeat(1025)), &["spec.request.would", "Too long"]),
    ]
}

#[test]
fn what_is_wrong_is_refused_with_its_place() {
    let Some(server) = ApiServer::here() else { return };
    let examples = KINDS.map(|kind| (kind, example(&server, kind)));
    let mut wrong = Vec::new();
    for (kind, place, value, expected) in cases() {
        let mut object = examples.iter().find(|(known, _)| *known == kind).unwrap().1.clone();
        put(&mut object, place, value.clone());
        let shown: String = value.to_string().chars().take(60).collect();
        match server.create("admin", &object.to_string(), &["--dry-run=server", "--validate=strict"]) {
            Ok(_) => wrong.push(format!("{kind} {place} {shown}: taken")),
            Err(said) => {
                for part in expected.iter().filter(|part| !said.contains(**part)) {
                    wrong.push(format!("{kind} {place} {shown}: no {part:?} in {said}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What decides over the API server's own health: the worst that the limits allow is refused or taken, not left hanging.
#[test]
fn i11_the_largest_playbook_is_judged() {
    let Some(server) = ApiServer::here() else { return };
    let mut object = example(&server, "Playbook");
    let names: Vec<String> = (0..64).map(|at| format!("{}{at:02}", "s".repeat(38))).collect();
    let steps: Vec<Value> = names
        .iter()
        .enumerate()
        .map(|(at, name)| json!({"name": name, "action": "node.freeze", "needs": names[..at]}))
        .collect();
    object["spec"]["steps"] = json!(steps);
    server.create("admin", &object.to_string(), &["--dry-run=server"]).unwrap();
}

/// Puts `value` at a JSON pointer; its parent is there.
fn put(object: &mut Value, place: &str, value: Value) {
    let (parent, name) = place.rsplit_once('/').unwrap();
    match object.pointer_mut(parent).unwrap_or_else(|| panic!("{place} is not in the example")) {
        Value::Array(items) => items[name.parse::<usize>().unwrap()] = value,
        Value::Object(map) if value.is_null() => drop(map.remove(name)),
        Value::Object(map) => drop(map.insert(name.into(), value)),
        other => panic!("{place}: the parent is {other}"),
    }
}
