//! An incident that needs a person is told as one document, with the commands by which it is answered, to whoever may read the incident.

use std::{os::unix::fs::symlink, path::Path, process::Command};

use serde_json::Value;

use crate::{
    node::miner,
    playbook,
    scene::{HOME, Scene, until},
};

/// A shell of a user who has kubectl and the plugin.
struct Shell<'a> {
    scene: &'a Scene,
    folder: tempfile::TempDir,
}

impl<'a> Shell<'a> {
    fn new(scene: &'a Scene) -> Self {
        let folder = tempfile::tempdir().unwrap();
        symlink(&scene.program, folder.path().join("kubectl-hemostat")).unwrap();
        Self { scene, folder }
    }

    /// Runs a line as it stands; its exit code and both its outputs.
    fn run(&self, user: &str, line: &str) -> (i32, String) {
        let programs =
            self.scene.server.kubectl_program().parent().map(Path::to_path_buf).unwrap_or_default();
        let search = std::env::var("PATH").unwrap_or_default();
        let path = format!("{}:{}:{search}", self.folder.path().display(), programs.display());
        let output = Command::new("sh")
            .args(["-c", line])
            .env("PATH", path)
            .env("KUBECONFIG", self.scene.server.kubeconfig(user))
            .output()
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap(), String::from_utf8(text).unwrap())
    }
}

fn told(it: &Value) -> Value {
    it["spec"]["document"].as_str().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

fn command(document: &Value, label: &str) -> String {
    let answers = document["answers"].as_array().unwrap().iter();
    let commands = answers.flat_map(|answer| answer["commands"].as_array().unwrap());
    let mut found = commands.filter(|command| command["label"] == label);
    found.next().unwrap()["command"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_asked_reads_the_whole_story_with_kubectl_and_answers_by_the_commands_that_stand_in_it() {
    let Some(scene) = Scene::new() else { return };
    let (process, node) = scene.opens(&playbook("Auto")).await;
    node.tell(miner("n1", 41));
    let asked = scene.wait(&["appr", "-n", HOME], |it| it["items"][0]["status"]["state"] == "Pending");
    let question = asked["items"][0]["metadata"]["name"].as_str().unwrap();
    let incidents = scene.get(&["inc", "-n", HOME]);
    let incident = &incidents["items"][0]["metadata"];
    let name = incident["name"].as_str().unwrap();
    let kept = scene.wait(&["narrative", name, "-n", HOME], |it| {
        it["spec"]["questions"] == 1
            && told(it)["responses"][0]["plan"]["steps"][1]["state"] == "in force, seen"
    });
    // It goes with its incident, and only we write it.
    let owner = &kept["metadata"]["ownerReferences"][0];
    assert_eq!((&owner["kind"], &owner["uid"]), (&Value::from("Incident"), &incident["uid"]), "{kept:#}");
    assert!(kept["spec"]["document"].as_str().unwrap().len() < 64 * 1024, "small, as most are");
    let document = told(&kept);
    let yes = format!("kubectl hemostat approve {question} -n {HOME}");
    assert_eq!(command(&document, "Approve"), yes);
    assert_eq!(command(&document, "Deny"), yes.replace("approve", "deny"));
    // Through kubectl, by somebody who may read incidents.
    let shell = Shell::new(&scene);
    for (form, needed) in [("html", "<!doctype html>"), ("md", "# "), ("json", "{\n")] {
        let (code, text) = shell.run("ada", &format!("kubectl hemostat show {name} --narrative {form}"));
        assert!(code == 0 && text.starts_with(needed), "{form}: {code} {text}");
        for part in ["xmrig -o pool:3333", yes.as_str(), "node.kill", "miner"] {
            assert!(text.contains(part), "{form} lacks {part}: {text}");
        }
    }
    let (code, text) = shell.run("eve", &format!("kubectl hemostat show {name} -n {HOME} --narrative md"));
    assert!(code == 4 && text.lines().count() == 1, "{code} {text}");

    // The button.
    let (code, text) = shell.run("ada", &command(&document, "Approve"));
    assert_eq!(code, 0, "{text}");
    until("the kill", || node.effects().iter().any(|one| one.starts_with("apply node.kill"))).await;
    // What stands there stays true: nothing is asked any more but what it was.
    let after = scene.wait(&["narrative", name, "-n", HOME], |it| {
        it["spec"]["questions"] == 0 && told(it)["state"] == "Remediated"
    });
    let document = told(&after);
    assert_eq!(document["answers"].as_array().unwrap().len(), 1, "{document:#}");
    let (code, text) = shell.run("ada", &command(&document, "An attack"));
    assert_eq!((code, text), (0, format!("{name}: TruePositive by ada\n")));
    scene.wait(&["narrative", name, "-n", HOME], |it| told(it)["verdict"] == "true_positive");
    node.close().await;
    process.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_needs_nobody_is_not_told_and_a_cluster_without_the_kind_says_so_and_shows_the_rest() {
    let Some(scene) = Scene::new() else { return };
    let (process, node) = scene.opens(&playbook("Shadow")).await;
    node.tell(miner("n1", 41));
    scene.wait(&["inc", "-n", HOME], |it| it["items"][0]["status"]["runs"].is_array());
    // An older chart: definitions without narratives.
    scene.kubectl(&["delete", "crd", "narratives.hemostat.dev"]);
    scene.apply(&playbook("Auto"));
    scene.wait(&["playbook", "miner"], |it| it["status"]["mode"] == "Auto");
    node.tell(miner("n1", 42));
    let asked = scene.wait(&["appr", "-n", HOME], |it| it["items"][0]["status"]["state"] == "Pending");
    assert_eq!(asked["items"].as_array().unwrap().len(), 1, "{asked:#}");
    scene.wait(&["inc", "-n", HOME], |it| {
        it["items"]
            .as_array()
            .is_some_and(|all| all.iter().any(|one| one["status"]["state"] == "NeedsApproval"))
    });
    until("it is said", || {
        process.ask("/readyz").is_some_and(|said| said.contains("narratives cannot be kept"))
    })
    .await;
    // Brought up to date, it is told after all.
    let file = hemostat_cluster_tests::api_server::repository("deploy/crds/narratives.yaml");
    scene.kubectl(&["apply", "--server-side", "-f", &file]);
    scene.kubectl(&["wait", "--for=condition=Established", "crd/narratives.hemostat.dev", "--timeout=60s"]);
    let question = asked["items"][0]["metadata"]["name"].as_str().unwrap();
    crate::answers::decide(&scene, "bob", question, "Deny").unwrap();
    scene.wait(&["narratives", "-n", HOME], |it| {
        it["items"].as_array().is_some_and(|all| all.len() == 1 && all[0]["spec"]["questions"] == 0)
    });
    until("nothing is missing", || {
        process.ask("/readyz").is_some_and(|said| !said.contains("narratives cannot be kept"))
    })
    .await;
    node.close().await;
    process.stop();
}
