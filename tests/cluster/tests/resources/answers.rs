//! Who may say what: decisions are bound to the user who makes them, never to oneself, once, and in time.

use serde_json::{Value, json};

use hemostat_cluster_tests::api_server::ApiServer;

use crate::example;

#[track_caller]
fn refused(said: Result<String, String>, parts: &[&str]) {
    let said = said.unwrap_err();
    for part in parts {
        assert!(said.contains(part), "no {part:?} in {said}");
    }
}

fn decision(answer: &str, by: &str) -> Value {
    json!({"spec": {"decision": {"answer": answer, "by": by}}})
}

/// An approval of its own for each test, asked by `by`.
fn ask(server: &ApiServer, name: &str, by: &str, change: impl Fn(&mut Value)) -> String {
    let mut object = example(server, "Approval");
    object["metadata"]["name"] = name.into();
    object["spec"]["request"]["requestedBy"] = by.into();
    change(&mut object["spec"]["request"]);
    server.create("controller", &object.to_string(), &[]).unwrap();
    server.patch_status(&format!("approval/{name}"), &json!({"state": "Pending"})).unwrap();
    format!("approval/{name}")
}

#[test]
fn a_decision_is_bound_to_the_user_who_makes_it() {
    let Some(server) = ApiServer::here() else { return };
    let asked = ask(&server, "bound", "controller", |_| {});
    refused(
        server.patch("bob", &asked, &decision("Approve", "ada")),
        &["spec.decision.by", "you are bob and cannot decide in the name of ada"],
    );
    // In the name of another by impersonation needs the right to impersonate.
    let patch = decision("Approve", "ada").to_string();
    let words = ["patch", "-n", "pay", &asked, "--type=merge", "-p", &patch, "--as=ada", "--as-group=people"];
    refused(server.kubectl_as("bob", &words, None), &["cannot impersonate"]);
    server.kubectl_as("admin", &words, None).unwrap();
    // The controller goes on writing what is not the decision.
    server.patch("controller", &asked, &json!({"metadata": {"labels": {"seen": "yes"}}})).unwrap();
}

#[test]
fn nobody_decides_on_what_they_asked_or_are_part_of() {
    let Some(server) = ApiServer::here() else { return };
    let asked = ask(&server, "own", "ada", |_| {});
    refused(server.patch("ada", &asked, &decision("Approve", "ada")), &["spec.decision", "asked for"]);
    // Under a false name neither: the schema refuses the shape, the policy the name.
    refused(server.patch("bob", &asked, &decision("Approve", "ada")), &["spec.decision.by"]);
    let mut as_one_of_them = decision("Deny", "bob");
    as_one_of_them["spec"]["decision"]["groups"] = json!(["soc-oncall"]);
    server.patch("bob", &asked, &as_one_of_them).unwrap();
    let asked = ask(&server, "party", "controller", |request| request["parties"] = json!(["bob"]));
    refused(server.patch("bob", &asked, &decision("Approve", "bob")), &["spec.decision", "part of"]);
    server.patch("ada", &asked, &decision("Approve", "ada")).unwrap();
}

#[test]
fn only_approvers_decide_by_name_or_by_group() {
    let Some(server) = ApiServer::here() else { return };
    let asked = ask(&server, "named", "controller", |request| request["approvers"] = json!(["user:grace"]));
    refused(
        server.patch("ada", &asked, &decision("Approve", "ada")),
        &["ada is none of the approvers: user:grace"],
    );
    let asked =
        ask(&server, "grouped", "controller", |request| request["approvers"] = json!(["group:soc-oncall"]));
    refused(server.patch("ada", &asked, &decision("Approve", "ada")), &["none of the approvers"]);
    // By which group it is said is written down, and nobody is in a group of their own making.
    refused(
        server.patch("bob", &asked, &decision("Approve", "bob")),
        &["spec.decision.groups", "group:soc-oncall"],
    );
    let by =
        |groups: Value| json!({"spec": {"decision": {"answer": "Approve", "by": "bob", "groups": groups}}});
    refused(server.patch("bob", &asked, &by(json!(["soc-oncall", "admins"]))), &["is not in all of"]);
    let mut as_ada = by(json!(["soc-oncall"]));
    as_ada["spec"]["decision"]["by"] = "ada".into();
    refused(server.patch("ada", &asked, &as_ada), &["is not in all of"]);
    server.patch("bob", &asked, &by(json!(["soc-oncall"]))).unwrap();
}

#[test]
fn a_decision_is_made_once_and_in_time() {
    let Some(server) = ApiServer::here() else { return };
    let asked = ask(&server, "once", "controller", |_| {});
    server.patch("ada", &asked, &decision("Deny", "ada")).unwrap();
    refused(
        server.patch("ada", &asked, &decision("Approve", "ada")),
        &["spec.decision", "cannot be changed"],
    );
    refused(server.patch("bob", &asked, &decision("Deny", "bob")), &["cannot be changed"]);
    refused(server.patch("ada", &asked, &json!({"spec": {"decision": null}})), &["withdrawn"]);
    refused(
        server.patch("controller", &asked, &json!({"spec": {"request": {"would": "something else"}}})),
        &["spec.request", "cannot be changed"],
    );
    server.patch_status(&asked, &json!({"state": "Denied"})).unwrap();
    refused(
        server.patch_status(&asked, &json!({"state": "Approved"})),
        &["status.state", "is over stays so"],
    );

    let asked = ask(&server, "late", "controller", |_| {});
    server.patch_status(&asked, &json!({"state": "Expired"})).unwrap();
    refused(
        server.patch("ada", &asked, &decision("Approve", "ada")),
        &["spec.decision", "the approval is over"],
    );
}

#[test]
fn verdicts_and_ends_are_bound_too() {
    let Some(server) = ApiServer::here() else { return };
    let mut incident = example(&server, "Incident");
    incident["metadata"]["name"] = "inc-verdict".into();
    let words = incident["spec"].as_object_mut().unwrap().remove("verdict").unwrap();
    server.create("controller", &incident.to_string(), &[]).unwrap();
    let verdict = json!({"spec": {"verdict": words}});
    refused(server.patch("bob", "incident/inc-verdict", &verdict), &["spec.verdict.by", "you are bob"]);
    server.patch("ada", "incident/inc-verdict", &verdict).unwrap();
    refused(
        server.patch("ada", "incident/inc-verdict", &json!({"spec": {"verdict": null}})),
        &["can be changed and not withdrawn"],
    );
    refused(
        server.patch("ada", "incident/inc-verdict", &json!({"spec": {"title": "another"}})),
        &["the title cannot be changed"],
    );
    let close = |by: &str| json!({"spec": {"closed": {"by": by, "reason": "done"}}});
    refused(server.patch("bob", "incident/inc-verdict", &close("ada")), &["spec.closed.by"]);
    server.patch("bob", "incident/inc-verdict", &close("bob")).unwrap();
    refused(
        server.patch("bob", "incident/inc-verdict", &json!({"spec": {"closed": null}})),
        &["a closed incident stays closed"],
    );

    let mut action = example(&server, "ResponseAction");
    action["metadata"] = json!({"name": "act-end", "namespace": "pay"});
    let words = action["spec"].as_object_mut().unwrap().remove("end").unwrap();
    server.create("controller", &action.to_string(), &[]).unwrap();
    refused(
        server.patch("bob", "ract/act-end", &json!({"spec": {"end": words.clone()}})),
        &["spec.end.by", "you are bob"],
    );
    server.patch("ada", "ract/act-end", &json!({"spec": {"end": words}})).unwrap();
    refused(
        server.patch("ada", "ract/act-end", &json!({"spec": {"end": {"how": "Accept"}}})),
        &["spec.end.how", "cannot be called off"],
    );
    refused(
        server.patch(
            "controller",
            "ract/act-end",
            &json!({"spec": {"plan": {"target": {"process": {"pid": 4712}}}}}),
        ),
        &["spec.plan", "the plan of an action cannot be changed"],
    );
}

/// I4 in the schema itself: the journal cannot say that something is done before it says what was.
#[test]
fn i4_no_action_goes_on_without_its_captured_state() {
    let Some(server) = ApiServer::here() else { return };
    let mut action = example(&server, "ResponseAction");
    action["metadata"] = json!({"name": "act-capture", "namespace": "pay"});
    action["spec"].as_object_mut().unwrap().remove("end");
    server.create("controller", &action.to_string(), &[]).unwrap();
    let what = "ract/act-capture";
    server.patch_status(what, &json!({"state": "Planned"})).unwrap();
    for state in ["Prepared", "Applying", "Applied", "Verified"] {
        refused(
            server.patch_status(what, &json!({"state": state})),
            &["status.capture", "without its captured state (I4)"],
        );
    }
    let digest = format!("sha256:{}", "0".repeat(64));
    let empty = json!({"at": "2026-01-01T00:00:00Z", "digest": digest});
    refused(
        server.patch_status(what, &json!({"state": "Prepared", "capture": empty})),
        &["is here or stored elsewhere"],
    );
    let capture = json!({"at": "2026-01-01T00:00:00Z", "digest": digest, "here": "{}"});
    server.patch_status(what, &json!({"state": "Prepared", "capture": capture})).unwrap();
    refused(
        server.patch_status(what, &json!({"capture": {"here": "{\"x\": 1}"}})),
        &["status.capture", "cannot be changed (I4)"],
    );
    refused(server.patch_status(what, &json!({"capture": null})), &["status.capture"]);
    server.patch_status(what, &json!({"state": "Reverted"})).unwrap();
    refused(server.patch_status(what, &json!({"state": "Applied"})), &["status.state", "stays so"]);
    refused(server.patch_status(what, &json!({"state": "Undone"})), &["status.state", "Unsupported value"]);
    // Two conditions of one type.
    let condition = json!({"type": "Applied", "status": "True", "reason": "Done", "lastTransitionTime": "2026-01-01T00:00:00Z"});
    refused(
        server.patch_status(what, &json!({"conditions": [condition, condition]})),
        &["status.conditions[1]", "Duplicate value"],
    );
}
