//! How `kubectl get` shows them: golden text, within 80 columns, and within 200 with `-o wide`. To write it anew:
//! `HEMOSTAT_WRITE_TABLES=1 cargo test -p hemostat-cluster-tests --test resources tables`.

use serde_json::{Value, json};

use hemostat_cluster_tests::api_server::{ApiServer, repository};

use crate::example;

const NAMESPACE: &str = "triage";
const GOLDEN: &str = "tests/cluster/tests/resources/tables.txt";

#[test]
fn tables_serve_at_80_and_at_200_columns() {
    let Some(server) = ApiServer::here() else { return };
    server.kubectl(&["create", "namespace", NAMESPACE]).unwrap();
    incidents(&server);
    actions(&server);
    approvals(&server);
    rules_playbooks_and_policies(&server);
    let mut shown = String::new();
    let kinds = ["incidents", "responseactions", "approvals", "rulesets", "playbooks", "responsepolicies"];
    for (kind, wide) in kinds.into_iter().flat_map(|kind| [(kind, false), (kind, true)]) {
        let mut words = vec!["get", kind, "-n", NAMESPACE];
        // Playbooks and rule sets are in no namespace: those of the other tests are left out.
        if ["rulesets", "playbooks"].contains(&kind) {
            words.extend(["-l", "test=tables"]);
        }
        if wide {
            words.extend(["-o", "wide"]);
        }
        let table = ageless(&server.kubectl(&words).unwrap());
        let (most, found) =
            (if wide { 200 } else { 80 }, table.lines().map(|line| line.chars().count()).max());
        assert!(found <= Some(most), "{kind}: {found:?} columns of {most}:\n{table}");
        shown.push_str(&format!("$ kubectl {}\n{table}\n", words.join(" ")));
    }
    let path = repository(GOLDEN);
    if std::env::var_os("HEMOSTAT_WRITE_TABLES").is_some() {
        std::fs::write(&path, &shown).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(golden == shown, "{GOLDEN} is otherwise:\n{shown}");
    // What triage asks for can be selected by the API server.
    let critical = server
        .kubectl(&["get", "inc", "-n", NAMESPACE, "--field-selector=status.severity=Critical", "-o", "name"])
        .unwrap();
    assert_eq!(critical, "incident.hemostat.dev/inc-7f3a9c21\n");
}

/// The age is the last column: the widest that it becomes, `3h10m`, stands for it, so that the width counts.
fn ageless(table: &str) -> String {
    let has_age = table.lines().next().is_some_and(|head| head.ends_with("AGE"));
    table
        .lines()
        .enumerate()
        .map(|(at, line)| match line.rsplit_once(' ') {
            Some((before, _)) if at > 0 && has_age => format!("{before} 3h10m\n"),
            _ => format!("{}\n", line.trim_end()),
        })
        .collect()
}

fn make(server: &ApiServer, mut object: Value, status: &Value) {
    let (kind, name) = (object["kind"].as_str().unwrap().to_owned(), object["metadata"]["name"].clone());
    object["metadata"] =
        json!({"name": name, "labels": {"test": "tables"}, "namespace": object["metadata"]["namespace"]});
    server.create("admin", &object.to_string(), &["--validate=strict"]).unwrap();
    let what = format!("{kind}/{}", name.as_str().unwrap());
    let patch = json!({"status": status}).to_string();
    server
        .kubectl(&["patch", "-n", NAMESPACE, &what, "--subresource=status", "--type=merge", "-p", &patch])
        .unwrap();
}

fn condition(kind: &str, status: &str, reason: &str) -> Value {
    json!({"type": kind, "status": status, "reason": reason, "lastTransitionTime": "2026-01-01T00:00:00Z", "observedGeneration": 1})
}

fn incidents(server: &ApiServer) {
    let rows = [
        (
            "inc-7f3a9c21",
            json!({"state": "NeedsApproval", "severity": "Critical", "confidence": 99, "conditions": [condition("Contained", "True", "AllInForce")],
                "summary": {"target": "payments/api-g…b-x2kq4", "needs": "Approval", "playbook": "credential-t…service", "actions": "14/15",
                    "timeToContain": "1.8s", "technique": "T1496.001+12", "node": "ip-10-0-12-…internal", "ticket": "SECURITY-1234567"}}),
        ),
        (
            "inc-7f21d00f",
            json!({"state": "Remediated", "severity": "High", "confidence": 97, "conditions": [condition("Contained", "True", "AllInForce")],
                "summary": {"target": "batch/job-11-abc", "playbook": "cryptominer", "actions": "5/5", "timeToContain": "240ms",
                    "technique": "T1496.001", "node": "node-1"}}),
        ),
        (
            "inc-7e99aa00",
            json!({"state": "Open", "severity": "Info", "summary": {"target": "host/sshd.service", "technique": "T1110"},
                "conditions": [condition("Contained", "False", "NothingInForce")]}),
        ),
    ];
    for (name, status) in rows {
        let spec =
            json!({"title": "A shell that speaks to somewhere else", "firstEvent": "2026-01-01T00:00:00Z"});
        let object = json!({"apiVersion": "hemostat.dev/v1alpha1", "kind": "Incident", "spec": spec,
            "metadata": {"name": name, "namespace": NAMESPACE}});
        make(server, object, &status);
    }
}

fn actions(server: &ApiServer) {
    let capture =
        json!({"at": "2026-01-01T00:00:00Z", "digest": format!("sha256:{}", "0".repeat(64)), "here": "{}"});
    let mut object = example(server, "ResponseAction");
    object["spec"].as_object_mut().unwrap().remove("end");
    object["metadata"] = json!({"name": "act-7f3a9c21-freeze", "namespace": NAMESPACE});
    let summary = json!({"target": "pid 4711 miner", "took": "2.4ms"});
    make(server, object.clone(), &json!({"state": "Verified", "capture": capture, "summary": summary}));
    object["metadata"] = json!({"name": "act-7f3a9c21-block-destination", "namespace": NAMESPACE});
    object["spec"]["plan"]["action"] = "node.block-destination".into();
    object["spec"]["plan"]["step"] = "block_destination".into();
    object["spec"]["plan"]["target"] = json!({"cgroup": {"id": 7, "path": "kubepods/x"}});
    let summary = json!({"target": "payments/api-g…b-x2kq4", "took": "12.4ms", "detail": "the rule was removed by somebody"});
    make(server, object, &json!({"state": "RevertBlocked", "capture": capture, "summary": summary}));
}

fn approvals(server: &ApiServer) {
    let mut object = example(server, "Approval");
    object["metadata"] = json!({"name": "run-7f3a9c21-kill", "namespace": NAMESPACE});
    let summary = json!({"until": "16:15Z", "would": "kill pid 4711 and its descendants"});
    make(server, object.clone(), &json!({"state": "Pending", "summary": summary}));
    object["metadata"] = json!({"name": "run-7f21d00f-block-destination", "namespace": NAMESPACE});
    object["spec"]["request"]["action"] = "node.block-destination".into();
    object["spec"]["request"]["step"] = "block_destination".into();
    let summary = json!({"until": "3 Jan", "by": "grace@example.com", "would": "refuse traffic of payments/api-g…4 to 192.0.2.7"});
    make(server, object, &json!({"state": "Withdrawn", "summary": summary}));
}

fn rules_playbooks_and_policies(server: &ApiServer) {
    let mut object = example(server, "RuleSet");
    object["metadata"] = json!({"name": "site-rules"});
    let ready = condition("Ready", "False", "RulesFailed");
    let summary = json!({"nodes": "399/400", "firstFailure": "miner.yml:7:12: unknown modifier `contians`; meant `contains`?"});
    let failures = json!([{"rule": "A miner", "file": "miner.yml", "line": 7, "column": 12, "message": "unknown modifier `contians`"}]);
    make(
        server,
        object,
        &json!({"rules": 2799, "failed": 1, "failures": failures, "conditions": [ready], "summary": summary,
        "loaded": [{"generation": 2, "nodes": 399}, {"generation": 1, "nodes": 1}], "nodes": 400}),
    );
    let mut object = example(server, "Playbook");
    object["metadata"] = json!({"name": "credential-theft-by-a-service"});
    let accepted = condition("Accepted", "False", "CycleDetected");
    make(
        server,
        object,
        &json!({"mode": "Shadow", "running": 2, "judged": 120, "right": 119, "conditions": [accepted]}),
    );
    let mut object = example(server, "ResponsePolicy");
    object["metadata"]["namespace"] = NAMESPACE.into();
    let conditions =
        json!([condition("Accepted", "True", "Valid"), condition("Conflicting", "True", "StricterHolds")]);
    make(server, object, &json!({"conditions": conditions}));
}
