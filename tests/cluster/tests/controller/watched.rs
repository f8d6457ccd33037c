//! What the controller lists and watches is what docs/kubernetes.md says, and no more: the page's table is what the requests are compared with.

use hemostat_cluster_tests::{
    api_server::repository,
    recorder::{Allowed, unbounded},
};
use model::{FindingId, Level, Report, Seq, Timestamp};
use serde_json::{Value, json};

use crate::{
    FREEZE,
    node::miner_in_pod,
    scene::{HOME, Scene, all_undone},
    steps,
};

/// Somebody else's, of no use to us, with a label that ours have.
const STRANGE: &str = r#"{"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "strange", "namespace": "hemostat-system",
    "labels": {"hemostat.dev/reports": "true"}}, "type": "hemostat.dev/reports", "stringData": {"reports.jsonl": "{}"}}"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i11_every_list_and_watch_of_a_leader_and_of_one_that_takes_over_is_bounded_as_the_table_says() {
    let Some(scene) = Scene::recorded() else { return };
    let recorder = scene.recorder.as_ref().unwrap();
    scene.apply(STRANGE);
    scene.grant("cluster.isolate-pod");
    let isolate = "name: isolate, action: cluster.isolate-pod, target: {kind: Pod}";
    let (mut first, node, uid) = scene.opens_with_pod(&steps(&[FREEZE, isolate])).await;
    node.tell(miner_in_pod("n1", 41, &uid));
    let applied = |it: &Value| {
        let all = it["items"].as_array().cloned().unwrap_or_default();
        all.len() == 2 && all.iter().all(|one| one["status"]["state"] == "Verified")
    };
    scene.wait(&["ract", "-n", "pay"], applied);
    // Another takes over with an empty journal: it reads what the first one left.
    first.kill();
    let effects = node.effects();
    node.close().await;
    let second = scene.start("fresh");
    let node = scene.node_again(&second, effects).await;
    let incident =
        scene.wait(&["inc", "-n", "pay"], |it| it["items"][0]["status"]["summary"]["actions"] == "2/2");
    let name = incident["items"][0]["metadata"]["name"].as_str().unwrap();
    scene.false_positive("pay", name);
    scene.wait(&["ract", "-n", "pay"], all_undone);

    let asked = recorder.asked();
    let wide = unbounded(&asked, HOME);
    assert!(
        wide.is_empty(),
        "no row of docs/kubernetes.md, \"What it reads of the API server\", allows {wide:#?}"
    );
    // And the table tells of nothing that is not so any more.
    let watched: Vec<Allowed> = Allowed::table().into_iter().filter(Allowed::is_watched).collect();
    for row in &watched {
        for verb in ["list", "watch"] {
            assert!(
                asked.iter().any(|one| one.verb == verb && row.covers(one, HOME)),
                "nobody asks for it: {verb} of {}",
                row.row
            );
        }
    }
    assert!(watched.len() >= 16, "{watched:#?}");
    node.close().await;
    second.stop();
}

#[test]
fn the_chart_gives_no_right_to_list_or_watch_that_the_table_does_not_tell_of() {
    let text = std::fs::read_to_string(repository("deploy/chart/files/own-rights.yaml")).unwrap();
    let rights: Value = serde_saphyr::from_str(&text).unwrap();
    let (table, mut checked) = (Allowed::table(), 0);
    let words = |rule: &Value, of: &str| {
        let all = rule[of].as_array().cloned().unwrap_or_default();
        all.into_iter().map(|one| one.as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    for rule in rights.as_object().unwrap().values().flat_map(|rules| rules.as_array().unwrap()) {
        for verb in
            words(rule, "verbs").into_iter().filter(|verb| ["list", "watch", "*"].contains(&verb.as_str()))
        {
            for resource in words(rule, "resources") {
                assert!(table.iter().any(|row| row.tells(&verb, &resource)), "{verb} of {resource}");
                checked += 1;
            }
        }
    }
    assert!(checked > 20, "{checked}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_incident_that_loses_its_label_gets_it_back_and_people_are_heard_as_before() {
    let Some(scene) = Scene::new() else { return };
    let (process, node, uid) = scene.opens_with_pod(&steps(&[FREEZE])).await;
    node.tell(miner_in_pod("n1", 41, &uid));
    let shown = scene.wait(&["inc", "-n", "pay"], |it| it["items"][0]["status"]["state"].is_string());
    let name = shown["items"][0]["metadata"]["name"].as_str().unwrap().to_owned();
    let label = json!({"metadata": {"labels": {"hemostat.dev/incident": null}}}).to_string();
    scene.kubectl(&["patch", "-n", "pay", "inc", &name, "--type=merge", "-p", &label]);
    scene.wait(&["inc", &name, "-n", "pay"], |it| {
        it["metadata"]["labels"]["hemostat.dev/incident"] == name.as_str()
    });
    scene.false_positive("pay", &name);
    scene.wait(&["inc", &name, "-n", "pay"], |it| it["status"]["state"] == "RolledBack");
    node.close().await;
    process.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_incident_that_loses_its_label_gets_it_back_though_it_has_grown_graver_and_begun_earlier() {
    let Some(scene) = Scene::new() else { return };
    let (process, node, uid) = scene.opens_with_pod(&steps(&[FREEZE])).await;
    let finding = || match miner_in_pod("n1", 41, &uid) {
        Report::Finding(finding) => finding,
        _ => unreachable!("a miner is a finding"),
    };
    let mut first = finding();
    first.rule.level = Level::High;
    node.tell(Report::Finding(first));
    let shown = scene.wait(&["inc", "-n", "pay"], |it| it["items"][0]["status"]["state"].is_string());
    let spec = shown["items"][0]["spec"].clone();
    assert_eq!(spec["title"], "Cryptominer");
    let name = shown["items"][0]["metadata"]["name"].as_str().unwrap().to_owned();
    let mut graver = finding();
    graver.event.id.seq = Seq(1041);
    (graver.rule.id, graver.rule.title) = ("rule-graver".into(), "Ransomware".into());
    graver.id = FindingId::derive(&graver.event.id, "rule-graver");
    graver.first = Timestamp(graver.first.0 - 60_000_000_000);
    node.tell(Report::Finding(graver));
    scene.wait(&["inc", &name, "-n", "pay"], |it| it["status"]["findings"] == 2);
    let label = json!({"metadata": {"labels": {"hemostat.dev/incident": null}}}).to_string();
    scene.kubectl(&["patch", "-n", "pay", "inc", &name, "--type=merge", "-p", &label]);
    let back = scene.wait(&["inc", &name, "-n", "pay"], |it| {
        it["metadata"]["labels"]["hemostat.dev/incident"] == name.as_str()
    });
    assert_eq!(back["spec"], spec, "neither ever changes");
    scene.false_positive("pay", &name);
    scene.wait(&["inc", &name, "-n", "pay"], |it| it["status"]["state"] == "RolledBack");
    node.close().await;
    process.stop();
}
