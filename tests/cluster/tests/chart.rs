//! The Helm chart: what it refuses, which rights it gives, and that the actions' rights are those the actions ask for.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test of its own; the runner counts lines of skips"
)]

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use hemostat_cluster_tests::cache;

fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/chart")
}

/// helm, as it was built with the cluster's programs.
fn helm(words: &[&str]) -> Option<Output> {
    let program = cache()?.join("cluster/bin/helm");
    if !program.exists() {
        println!("SKIPPED: the chart: `cargo xtask cluster build` builds helm");
        return None;
    }
    Some(Command::new(program).args(words).current_dir(chart()).output().unwrap())
}

fn template(more: &[&str]) -> Option<Result<String, String>> {
    let output = helm(&[&["template", "hemostat", ".", "--namespace", "hemostat-system"], more].concat())?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Some(if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) })
}

#[test]
fn helm_itself_finds_nothing_wrong() {
    let Some(output) = helm(&["lint", ".", "--strict"]) else { return };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn a_value_or_an_action_that_does_not_exist_is_refused_by_name() {
    let Some(bogus) = template(&["--set", "bogus=1"]) else { return };
    assert!(bogus.unwrap_err().contains("bogus"));
    let unknown = template(&["--set", "actions.enabled={cluster.conquer}"]).unwrap().unwrap_err();
    assert!(unknown.contains("there is no action cluster.conquer; there are: cluster."), "{unknown}");
    let none = template(&["--set", "controller.replicas=0"]).unwrap();
    assert!(none.is_err());
}

#[test]
fn rights_are_given_for_the_enabled_actions_and_for_no_others() {
    let Some(few) = template(&["--set", "actions.enabled={cluster.cordon}"]) else { return };
    let few = few.unwrap();
    assert!(
        few.contains("hemostat.dev/action: cluster.cordon")
            && !few.contains("hemostat.dev/action: cluster.isolate-pod")
    );
    assert!(!few.contains("networkpolicies"), "isolation is not enabled");
    let none = template(&["--set-json", "actions.enabled=[]"]).unwrap().unwrap();
    assert!(!none.contains("hemostat.dev/action"));
    // Nobody asks for everything.
    for line in few.lines().chain(none.lines()).filter(|line| line.trim_start().starts_with("verbs:")) {
        assert!(!line.contains('*'), "{line}");
    }
}

#[test]
fn the_right_to_speak_to_kubelets_comes_only_to_whoever_names_it() {
    let Some(usual) = template(&[]) else { return };
    assert!(!usual.unwrap().contains("nodes/proxy"), "evidence alone needs it not");
    let named = "actions.enabled={cluster.collect-evidence,cluster.collect-evidence-memory}";
    let named = template(&["--set", named]).unwrap().unwrap();
    assert!(named.contains("hemostat.dev/action: cluster.collect-evidence-memory"));
    assert_eq!(named.matches("nodes/proxy").count(), 1);
}

#[test]
fn agents_have_no_rights_in_the_api_server_and_are_not_privileged() {
    let Some(all) = template(&[]) else { return };
    let all = all.unwrap();
    let bound: BTreeSet<&str> = all
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- {kind: ServiceAccount, name: ")?.split(',').next())
        .collect();
    // The third exists only while the chart is removed, and only reads actions.
    assert_eq!(bound, ["hemostat-controller", "hemostat-uninstall"].into());
    assert!(!all.contains("privileged: true") && all.contains("drop: [ALL]"));
    assert!(all.contains("runAsNonRoot: true") && all.contains("audience: hemostat"));
}

/// What helm takes for ready: all replicas but those that may be missing in an update.
#[test]
fn an_install_that_waits_waits_for_the_controllers() {
    let Some(usual) = template(&[]) else { return };
    assert!(usual.unwrap().contains("rollingUpdate: {maxUnavailable: 0, maxSurge: 1}"));
    let alone =
        template(&["--set", "controller.hostNetwork=true", "--set", "controller.replicas=1"]).unwrap();
    assert!(alone.unwrap().contains("strategy: {type: Recreate}"));
    // One of a node's port each: the old one goes first.
    let several = template(&["--set", "controller.hostNetwork=true"]).unwrap().unwrap();
    assert!(several.contains("rollingUpdate: {maxUnavailable: 1, maxSurge: 0}"));
}

#[test]
fn the_definitions_are_those_of_deploy_and_stay_unless_told_otherwise() {
    let Some(all) = template(&[]) else { return };
    let count = |text: &str, what: &str| text.matches(what).count();
    let all = all.unwrap();
    assert_eq!(count(&all, "kind: CustomResourceDefinition"), 7);
    assert_eq!(count(&all, "helm.sh/resource-policy: keep"), 7);
    let gone = template(&["--set", "crds.keep=false"]).unwrap().unwrap();
    assert_eq!(count(&gone, "helm.sh/resource-policy: keep"), 0);
    let none = template(&["--set", "crds.install=false"]).unwrap().unwrap();
    assert_eq!(count(&none, "kind: CustomResourceDefinition"), 0);
}

#[test]
fn pull_secrets_are_read_by_name_and_registries_reached_by_address() {
    let Some(none) = template(&[]) else { return };
    let none = none.unwrap();
    assert_eq!(none.matches("resources: [secrets]").count(), 0, "no Secret but our own, which is made here");
    let some = template(&[
        "--set",
        "artifacts.pullSecrets={rules-pull}",
        "--set-json",
        r#"networkPolicies.registries=[{"cidr":"192.0.2.7/32","port":5000}]"#,
    ]);
    let some = some.unwrap().unwrap();
    let rule = "resources: [secrets]\n    resourceNames:\n      - rules-pull\n    verbs: [get]\n";
    assert!(some.contains(rule), "{some}");
    assert!(
        some.contains("- {protocol: TCP, port: 5000}\n      to:\n        - ipBlock: {cidr: 192.0.2.7/32}")
    );
    let wrong = template(&["--set", "artifacts.pullSecrets={*}"]).unwrap().unwrap_err();
    assert!(wrong.contains("pullSecrets"), "{wrong}");
}

#[test]
fn a_data_classification_policy_comes_as_a_file_and_a_changed_one_makes_new_pods() {
    let Some(none) = template(&[]) else { return };
    assert!(!none.unwrap().contains("--classes"));
    let with = |text: &str| template(&["--set-json", &format!("classes={text}")]).unwrap();
    let of = |chart: &str| {
        let policy =
            chart.split("  classes.yaml: |\n").nth(1).unwrap().split("---").next().unwrap().to_owned();
        let policy: String =
            policy.lines().map(|line| format!("{}\n", line.trim_start_matches("    "))).collect();
        let mark = chart.lines().find(|line| line.contains("hemostat.dev/classes:")).unwrap().to_owned();
        (policy, mark)
    };
    let chart =
        with(r#"[{"class":"restricted","because":"cards: \"all\"","namespaces":["pay-*"]},{"class":"x"}]"#)
            .unwrap();
    assert!(chart.contains("--classes=/etc/hemostat/classes/classes.yaml"));
    let (policy, mark) = of(&chart);
    let read = enrich::Classes::parse("chart", &policy).unwrap();
    let pod = |namespace: &str| -> model::PodFacts {
        serde_json::from_value(serde_json::json!({
            "uid": "u", "namespace": namespace, "name": "p", "labels": {}, "namespace_labels": {}, "owners": [],
            "chain": "whole", "service_account": null, "node": null, "network": "pod", "origin": "api",
            "addresses": [], "created": 0, "deleted": null
        }))
        .unwrap()
    };
    let class = |namespace: &str| {
        let pod = pod(namespace);
        let class = read.of(&pod).unwrap();
        (class.name.to_owned(), class.because.map(str::to_owned))
    };
    assert_eq!(class("pay-eu"), ("restricted".into(), Some("cards: \"all\"".into())));
    assert_eq!(class("web"), ("x".into(), None));
    let (_, other) = of(&with(r#"[{"class":"y"}]"#).unwrap());
    assert_ne!(mark, other);
    let wrong = with(r#"[{"class":"y","namespace":["x"]}]"#).unwrap_err();
    assert!(wrong.contains("namespace"), "{wrong}");
}

#[test]
fn removal_asks_first_what_is_in_force_unless_told_otherwise() {
    let Some(usual) = template(&[]) else { return };
    let usual = usual.unwrap();
    let job = |text: &str| text.split("---").find(|part| part.contains("kind: Job")).map(str::to_owned);
    let asks = job(&usual).unwrap();
    assert!(
        asks.contains("helm.sh/hook: pre-delete")
            && asks.contains("- in-force")
            && !asks.contains("--revert")
    );
    assert!(asks.contains("backoffLimit: 0") && asks.contains("activeDeadlineSeconds: 300"));
    assert!(asks.contains("runAsNonRoot: true") && asks.contains("capabilities: {drop: [ALL]}"));
    assert!(usual.contains("verbs: [get, list]\n"));
    let reverts = template(&["--set", "uninstall.inForce=Revert"]).unwrap().unwrap();
    assert!(job(&reverts).unwrap().contains("- --revert") && reverts.contains("verbs: [get, list, patch]"));
    let leaves = template(&["--set", "uninstall.inForce=Leave"]).unwrap().unwrap();
    assert!(job(&leaves).is_none() && !leaves.contains("hemostat-uninstall"));
    assert!(template(&["--set", "uninstall.inForce=Perhaps"]).unwrap().is_err());
}

/// Ours, which a node that is short of memory keeps, that are not all drained at once, that are asked whether they are well, and that speak to
/// nobody but the API server, the resolver and agents.
#[test]
fn our_own_parts_are_guarded() {
    let Some(all) = template(&["--set-json", r#"networkPolicies.apiServer=["192.0.2.1/32"]"#]) else {
        return;
    };
    let all = all.unwrap();
    let one = |kind: &str, name: &str| {
        let found = all
            .split("\n---\n")
            .find(|part| part.contains(&format!("kind: {kind}\n")) && part.contains(name));
        found.unwrap_or_else(|| panic!("no {kind} {name}")).to_owned()
    };
    let policy = one("NetworkPolicy", "hemostat-controller");
    assert!(
        policy.contains("policyTypes: [Ingress, Egress]") && policy.contains("cidr: 192.0.2.1/32"),
        "{policy}"
    );
    let budget = one("PodDisruptionBudget", "hemostat-controller");
    assert!(budget.contains("maxUnavailable: 1"), "{budget}");
    assert!(one("PriorityClass", "hemostat").contains("value: 1000000000"));
    let controller = one("Deployment", "hemostat-controller");
    for probe in [
        "startupProbe",
        "livenessProbe",
        "readinessProbe",
        "priorityClassName: hemostat",
        "automountServiceAccountToken: true",
    ] {
        assert!(controller.contains(probe), "{probe}");
    }
    assert!(one("DaemonSet", "hemostat-agent").contains("priorityClassName: hemostat"));
    assert!(one("DaemonSet", "hemostat-agent").contains("automountServiceAccountToken: false"));
    let alone = template(&["--set", "controller.replicas=1"]).unwrap().unwrap();
    assert!(!alone.contains("kind: PodDisruptionBudget"), "it would keep a node from being drained");
}

/// `HEMOSTAT_UPDATE=1` writes the file from what the actions say.
#[test]
fn the_rights_of_the_chart_are_those_that_the_actions_ask_for() {
    let file = chart().join("files/action-rights.yaml");
    let mut wanted = String::from(
        "# Rights of each action in the API server, as the actions themselves say (crate act, `permissions`). Written by\n\
         # HEMOSTAT_UPDATE=1 cargo test -p hemostat-cluster-tests --test chart\n",
    );
    let actions = respond::action::ActionKind::all().map(respond::action::ActionKind::name);
    let names = actions.filter(|name| !name.starts_with("node.")).chain(act::permissions::FURTHER);
    for name in names {
        let rules = act::permissions::needed(name);
        if rules.is_empty() {
            wanted.push_str(&format!("{name}: []\n"));
            continue;
        }
        wanted.push_str(&format!("{name}:\n"));
        for rule in rules {
            wanted.push_str(&format!(
                "  - apiGroups: [{:?}]\n    resources: [{}]\n    verbs: [{}]\n",
                rule.group,
                rule.resources.join(", "),
                rule.verbs.join(", ")
            ));
        }
    }
    if std::env::var_os("HEMOSTAT_UPDATE").is_some() {
        std::fs::write(&file, &wanted).unwrap();
    }
    assert_eq!(std::fs::read_to_string(file).unwrap(), wanted, "write it with HEMOSTAT_UPDATE=1");
}
