//! I7 in the cluster: killed between the ResponseAction and the command, the controller goes on to the same end.

use std::{path::PathBuf, sync::Arc, time::Duration};

use controller::{
    ControllerConfig,
    crash::{CrashPoints, Moment},
    reconcile::{self, ClusterConfig, lease::LeaseConfig},
};
use serde_json::Value;

use crate::{
    node::miner,
    playbook,
    scene::{HOME, Scene, until},
};

/// Kills the process with SIGKILL where it is told to.
struct Die(String);

impl CrashPoints for Die {
    fn reached(&self, _: Moment, _: &[String]) {}

    fn witnessed(&self, action: &str) {
        if action.ends_with(&self.0) {
            let me = std::process::id().to_string();
            let _killed = std::process::Command::new("kill").args(["-s", "KILL", &me]).status();
            // Nothing of this process goes on meanwhile.
            std::thread::sleep(Duration::from_secs(60));
        }
    }
}

/// Not a test of its own: the controller that dies.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child() {
    let Ok(words) = std::env::var("HEMOSTAT_CRASH_CHILD") else { return };
    let words: Value = serde_json::from_str(&words).unwrap();
    let text = |key: &str| words[key].as_str().unwrap().to_owned();
    let read = kube::config::Kubeconfig::read_from(text("kubeconfig")).unwrap();
    let config = kube::Config::from_custom_kubeconfig(read, &Default::default()).await.unwrap();
    let client = kube::Client::try_from(config).unwrap();
    let state = PathBuf::from(text("state"));
    let cluster = ClusterConfig {
        namespace: HOME.into(),
        identity: text("identity"),
        links: text("links").parse().unwrap(),
        probes: text("probes").parse().unwrap(),
        agents: format!("{HOME}/hemostat-agent"),
        certificate_life: Duration::from_secs(3600),
        lease: LeaseConfig::new(HOME, text("identity")),
        service: None,
        sources: vec![],
        channels: vec![],
        scanner: None,
    };
    let controller = ControllerConfig {
        crash: Arc::new(Die(text("crash"))),
        ..ControllerConfig::in_folders(&state, &state)
    };
    reconcile::run(client, cluster, controller, tokio_util::sync::CancellationToken::new()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i7_killed_between_the_response_action_and_the_command_it_goes_on_and_nothing_is_done_twice() {
    let Some(scene) = Scene::new() else { return };
    scene.apply(&playbook("Auto"));
    let mut first = scene.spawn_to_die("first", "shared", "-freeze");
    first.wait_to_serve();
    let node = scene.node(&first, "n1").await;
    scene.accepted();
    node.tell(miner("n1", 41));
    first.wait_for_death();
    // It stands there with what was captured, and was not begun.
    let freeze = |it: &Value| {
        let all = it["items"].as_array().cloned().unwrap_or_default();
        all.into_iter().find(|one| one["spec"]["plan"]["action"] == "node.freeze")
    };
    let written = freeze(&scene.get(&["ract", "-n", HOME])).unwrap();
    assert_eq!(written["status"]["state"], "Applying", "{written:#}");
    assert!(written["status"]["capture"]["here"].is_string());
    assert!(!node.effects().iter().any(|one| one.contains("node.freeze")), "{:?}", node.effects());
    let before = node.effects();
    node.close().await;
    let second = scene.start("shared");
    let again = scene.node_again(&second, before).await;
    scene
        .wait(&["ract", "-n", HOME], |it| freeze(it).is_some_and(|one| one["status"]["state"] == "Verified"));
    until("the question", || again.effects().iter().any(|one| one.starts_with("apply node.freeze"))).await;
    scene.wait(&["inc", "-n", HOME], |it| it["items"][0]["status"]["state"] == "NeedsApproval");
    let effects = again.effects();
    let distinct: std::collections::BTreeSet<&String> = effects.iter().collect();
    assert_eq!(distinct.len(), effects.len(), "nothing twice: {effects:?}");
    assert_eq!(
        scene.get(&["ract", "-n", HOME])["items"].as_array().unwrap().len(),
        2,
        "none is orphaned or doubled"
    );
    again.close().await;
    second.stop();
}
