//! The commands of the person on call, each as the real program against a real `hemostat standalone`: what they answer, in every form, and how
//! they refuse. Needs root and eBPF; what is contained are sleepers in a cgroup of the test's own.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "tests, and what they share; the runner counts lines of skips"
)]

mod place;

use std::{
    fs,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use serde_json::Value;

use place::{Place, Standalone, said, skipped, until};

const RULE: &str = "title: A Sleeper Ran
id: sleeper-ran
tags: [attack.t1496]
logsource: {product: linux, category: process_creation}
detection: {s: {Image: PROGRAM}, condition: s}
level: high
hemostat: {reaction: freeze}
";

fn playbook(mode: &str) -> String {
    format!(
        "apiVersion: hemostat.dev/v1alpha1\nkind: Playbook\nmetadata: {{name: sleepers}}\nspec:\n  mode: {mode}\n  trigger: {{rules: [sleeper-ran]}}\n  \
         steps:\n    - name: hold\n      action: node.freeze\n      target: {{kind: Process}}\n      with: {{scope: Subtree}}\n"
    )
}

/// Sleepers in a cgroup of their own; both go with the guard.
struct Sleepers {
    cgroup: PathBuf,
    children: Vec<Child>,
}

impl Sleepers {
    fn new(name: &str) -> Option<Self> {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let mut mounts = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let mount = mounts.find(|words| words[2] == "cgroup2").map(|words| PathBuf::from(words[1]));
        let cgroup = mount.map(|at| at.join(format!("hemostat-test-{name}-{}", std::process::id())));
        let cgroup = cgroup.filter(|at| fs::create_dir(at).is_ok());
        if cgroup.is_none() {
            println!("SKIPPED: {name}: no cgroup can be made here");
        }
        Some(Self { cgroup: cgroup?, children: Vec::new() })
    }

    fn start(&mut self, place: &Place) -> u32 {
        let program = place.at("hemostat-sleeper");
        if !program.exists() {
            assert!(Command::new("cp").arg("/bin/sleep").arg(&program).status().unwrap().success());
        }
        let script = "echo 0 > \"$0/cgroup.procs\"; exec \"$1\" 1000";
        let mut shell = Command::new("sh");
        shell.args(["-c", script]).arg(&self.cgroup).arg(&program).stdin(Stdio::null());
        let child = shell.spawn().unwrap();
        let pid = child.id();
        self.children.push(child);
        pid
    }

    /// The cgroup that it stands in, where that is frozen.
    fn is_frozen(&self, pid: u32) -> bool {
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        let path = text.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or_default();
        let Some(jail) = path.rsplit('/').next().filter(|name| name.starts_with("hemostat-jail-")) else {
            return false;
        };
        fs::read_to_string(self.cgroup.join(jail).join("cgroup.events"))
            .is_ok_and(|events| events.contains("frozen 1"))
    }

    fn is_home(&self, pid: u32) -> bool {
        let inside = fs::read_to_string(self.cgroup.join("cgroup.procs")).unwrap_or_default();
        inside.lines().any(|line| line == pid.to_string())
    }
}

impl Drop for Sleepers {
    fn drop(&mut self) {
        let _killed = fs::write(self.cgroup.join("cgroup.kill"), "1");
        for child in &mut self.children {
            let _killed = child.kill();
            let _reaped = child.wait();
        }
        for entry in fs::read_dir(&self.cgroup).into_iter().flatten().flatten() {
            let _removed = fs::remove_dir(entry.path());
        }
        let _removed = fs::remove_dir(&self.cgroup);
    }
}

struct Scene {
    place: Place,
    sleepers: Sleepers,
    running: Standalone,
}

impl Scene {
    fn start(name: &str, mode: &str, reactions: &'static str) -> Option<Self> {
        if skipped(name, &["unshare"]) {
            return None;
        }
        let sleepers = Sleepers::new(name)?;
        let place = Place { reactions, ..Place::new() };
        // By its whole path: another test's agent sees this machine's processes, too.
        let program = place.at("hemostat-sleeper").display().to_string();
        fs::write(place.at("rules/probe.yml"), RULE.replace("PROGRAM", &program)).unwrap();
        fs::write(place.at("playbooks/sleepers.yaml"), playbook(mode)).unwrap();
        match place.start("exec") {
            Ok(running) => Some(Self { place, sleepers, running }),
            Err(said) => {
                println!("SKIPPED: {name}: standalone does not start here: {said}");
                None
            }
        }
    }

    /// The newest incident, once it is as wanted.
    fn incident(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> String {
        until(what, || {
            let list = self.place.ask(&["incidents", "list"])?;
            let found = list.as_array()?.iter().find(|one| wanted(one))?;
            found["id"].as_str().map(str::to_owned)
        })
    }

    fn says(&self, words: &[&str], code: i32, parts: &[&str]) -> String {
        let (ended, text) = self.place.run(words);
        assert_eq!(ended, Some(code), "{words:?}: {text}");
        for part in parts {
            assert!(text.contains(part), "{words:?} does not say {part:?}: {text}");
        }
        text
    }

    /// The same in both forms for programs. What a command says to a person beside it goes to standard error.
    fn both_forms(&self, words: &[&str]) -> Value {
        let read = |form: &str| {
            let output = self.place.command(&[&["-o", form], words].concat()).output().unwrap();
            (output.status.code(), String::from_utf8(output.stdout).unwrap())
        };
        let (json_code, json) = read("json");
        let (yaml_code, yaml) = read("yaml");
        let json: Value =
            serde_json::from_str(&json).unwrap_or_else(|error| panic!("{words:?}: {error}: {json}"));
        let yaml: Value =
            serde_saphyr::from_str(&yaml).unwrap_or_else(|error| panic!("{words:?}: {error}: {yaml}"));
        assert_eq!((json_code, shape(&json)), (yaml_code, shape(&yaml)), "{words:?}");
        json
    }
}

/// What does not change between two looks: names and kinds, not numbers.
fn shape(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            Value::Object(map.iter().map(|(key, value)| (key.clone(), shape(value))).collect())
        }
        Value::Array(all) => Value::Array(all.first().map(shape).into_iter().collect()),
        Value::String(_) => "text".into(),
        Value::Number(_) => "number".into(),
        other => other.clone(),
    }
}

#[test]
fn a_person_decides_undoes_and_looks_by_command() {
    let Some(mut scene) = Scene::start("deciding", "Approve", "off") else { return };
    until("the node says how it is", || scene.place.node());
    scene.says(&["incidents"], 0, &[]);
    assert_eq!(scene.both_forms(&["incidents", "list"]), Value::Array(vec![]));
    scene.says(&["status"], 0, &["0 open incidents", "1 playbook"]);
    assert!(scene.both_forms(&["status"])["nodes"][0]["status"].is_object());

    // approve
    let first = scene.sleepers.start(&scene.place);
    let one = scene.incident("the first incident waits", |one| one["waiting"] == 1);
    let one = one.as_str();
    scene.says(&["incidents", "list"], 0, &[one, "A Sleeper Ran"]);
    let page = scene.says(&["incidents", "show", one], 0, &["A Sleeper Ran", "hemostat-sleeper", "T1496"]);
    assert!(page.contains(&first.to_string()), "the process: {page}");
    assert_eq!(scene.both_forms(&["incidents", "show", one])["id"], one);
    scene.says(&["incidents", "show", "inc-none"], 5, &["inc-none"]);
    scene.says(&["incidents", "frobnicate"], 2, &["frobnicate"]);
    scene.says(&["approve", one], 2, &["run: node.freeze", "--all", "nothing was decided"]);
    scene.says(&["approve", "inc-none", "run"], 5, &["inc-none"]);
    scene.says(&["approve", one, "nothing"], 6, &["nothing"]);
    assert!(scene.sleepers.is_home(first), "nothing was done as yet");
    scene.says(&["approve", one, "run", "--reason", "drill"], 0, &[one]);
    until("the sleeper is frozen", || scene.sleepers.is_frozen(first).then_some(()));
    scene.incident("the freeze is told", |line| line["id"] == one && line["actions_in_force"] == 1);
    scene.says(&["approve", one, "run"], 6, &["error: "]);

    // release, through the controller that runs beside the journal's owner
    let state = scene.place.at("state").display().to_string();
    let listed = scene.both_forms(&["release", "--state", &state]);
    let act = listed[0]["id"].as_str().unwrap().to_owned();
    scene.says(&["release", "--state", &state], 0, &[&act, "node.freeze"]);
    scene.says(&["release", "act-none", "--state", &state], 5, &["act-none", "not in force"]);
    scene.says(&["rollback", "act-none"], 5, &["act-none"]);
    scene.says(&["rollback", "inc-none"], 5, &["inc-none"]);
    scene.says(&["close", "inc-none"], 5, &["inc-none"]);
    scene.says(&["release", &act, "--state", &state], 0, &[&act]);
    until("the sleeper goes on", || scene.sleepers.is_home(first).then_some(()));
    scene.says(&["verdict", one, "perhaps"], 2, &["true-positive"]);
    scene.says(&["verdict", "inc-none", "true-positive"], 5, &["inc-none"]);
    scene.says(&["verdict", one, "true-positive", "--reason", "drill"], 0, &[one]);
    scene.says(&["policy", "explain", one], 0, &["sleepers"]);
    scene.says(&["policy", "explain", "inc-none"], 5, &["inc-none"]);
    assert!(scene.both_forms(&["policy", "explain", one]).is_object());
    scene.says(&["trust", "begin-anew", "no-such-rule", "--reason", "drill"], 5, &["no-such-rule"]);
    scene.says(&["close", one, "--reason", "over"], 0, &[one, "closed"]);

    // deny
    scene.says(&["pause", "--reason", "a drill"], 0, &["resume"]);
    scene.says(&["status"], 0, &["PAUSED by", "a drill"]);
    assert_eq!(scene.both_forms(&["status"])["paused"]["because"], "a drill");
    scene.says(&["resume"], 0, &[]);
    assert_eq!(scene.both_forms(&["status"])["paused"], Value::Null);
    let second = scene.sleepers.start(&scene.place);
    let two = scene.incident("the second waits", |line| line["id"] != one && line["waiting"] == 1);
    scene.says(&["incidents", "show", "inc-"], 2, &["inc-", "id is needed"]);
    scene.says(&["deny", &two, "--all", "--reason", "harmless"], 0, &[&two]);
    scene.says(&["deny", &two, "run"], 6, &["error: "]);
    assert!(scene.sleepers.is_home(second) && !scene.sleepers.is_frozen(second));

    // rollback
    scene.says(&["close", &two], 0, &[&two]);
    let third = scene.sleepers.start(&scene.place);
    let three = scene.incident("the third waits", |line| {
        line["id"] != one && line["id"] != two.as_str() && line["waiting"] == 1
    });
    scene.says(&["approve", &three, "--all"], 0, &[&three]);
    until("the third is frozen", || scene.sleepers.is_frozen(third).then_some(()));
    scene
        .incident("the freeze is told", |line| line["id"] == three.as_str() && line["actions_in_force"] == 1);
    scene.says(&["rollback", &three, "--reason", "drill"], 0, &["undone"]);
    until("the third goes on", || scene.sleepers.is_home(third).then_some(()));

    // audit and doctor
    scene.says(&["audit", "show"], 0, &["anchor (keep it elsewhere)"]);
    assert!(scene.both_forms(&["audit", "show"]).to_string().contains("drill"));
    assert!(scene.both_forms(&["audit", "show", "--incident", &two]).to_string().contains("harmless"));
    assert!(scene.both_forms(&["audit", "show", "--limit", "3"])["entries"].as_array().unwrap().len() == 3);
    scene.says(&["audit", "verify", "--state", &state], 0, &["the chain is whole"]);
    assert!(scene.both_forms(&["audit", "verify", "--state", &state]).is_object());
    let looks = scene.both_forms(&["doctor", "--no-hooks", "--state", &state]);
    let looked =
        |what: &str| looks.as_array().unwrap().iter().find(|look| look["what"] == what).unwrap().clone();
    assert_eq!(looked("controller")["verdict"], "good", "{looks}");
    assert_eq!(looked("rights")["verdict"], "good", "{looks}");

    // the end, which a watcher is told
    let watching = scene
        .place
        .command(&["incidents", "watch"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    assert_eq!(scene.running.terminate().code(), Some(0));
    let (code, text) = said(watching.wait_with_output().unwrap());
    assert_eq!(code, Some(3), "{text}");
    scene.says(&["release", "--state", &state], 0, &["Nothing is in force"]);
    scene.says(&["status"], 3, &["control.sock", "is it running?"]);
    assert!(scene.both_forms(&["audit", "show", "--state", &state]).to_string().contains("harmless"));
    // a byte of it changed
    let log = walk(&scene.place.at("state")).into_iter().find(|path| path.ends_with("audit.jsonl")).unwrap();
    let text = fs::read_to_string(&log).unwrap();
    fs::write(&log, text.replacen("harmless", "harmful!", 1)).unwrap();
    scene.says(&["audit", "verify", "--state", &state], 1, &["audit.jsonl", "line"]);
    let report = scene.both_forms(&["audit", "verify", "--state", &state]);
    assert!(!report["problems"].as_array().unwrap().is_empty(), "{report}");
}

fn walk(folder: &std::path::Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

/// The mistake of an editor disarms nobody: neither the controller's playbook nor what the node may do by itself.
#[test]
fn a_playbook_that_breaks_at_sighup_still_answers_and_the_status_says_where() {
    let Some(mut scene) = Scene::start("broken playbook", "Auto", "auto") else { return };
    until("the node says how it is", || scene.place.node());
    let file = scene.place.at("playbooks/sleepers.yaml");
    fs::write(&file, playbook("Auto").replace("node.freeze", "node.freez")).unwrap();
    scene.running.signal(rustix::process::Signal::HUP);
    let told = until("it is never told", || {
        let status = scene.place.ask(&["status"])?;
        let problems = status["health"]["problems"].as_array()?.clone();
        problems.into_iter().find(|problem| problem["part"] == "playbooks")
    });
    let what = told["what"].as_str().unwrap();
    assert!(what.contains("sleepers.yaml:9:15: error: unknown action `node.freez`"), "{what}");
    assert!(what.contains("what it held before stays in force"), "{what}");
    scene.says(&["status"], 1, &["DEGRADED", "sleepers.yaml:9:15"]);
    let pid = scene.sleepers.start(&scene.place);
    until("nobody answers", || scene.sleepers.is_frozen(pid).then_some(()));
    let id = scene.incident("the incident", |line| line["playbooks"] == serde_json::json!(["sleepers"]));
    let shown = scene.place.ask(&["incidents", "show", &id]).unwrap();
    let by_the_node = shown["actions"]
        .as_array()
        .unwrap()
        .iter()
        .any(|action| action["run"].is_null() || action["step"].is_null());
    assert!(
        by_the_node || shown["actions"].as_array().unwrap().len() > 1,
        "the node reacted by itself: {shown:#}"
    );
    scene.says(&["rollback", &id], 0, &["undone"]);
    until("it goes on", || scene.sleepers.is_home(pid).then_some(()));
    fs::write(&file, playbook("Auto")).unwrap();
    scene.running.signal(rustix::process::Signal::HUP);
    until("what is mended is still told", || {
        let status = scene.place.ask(&["status"])?;
        (status["health"]["condition"] == "good").then_some(())
    });
    assert_eq!(scene.running.terminate().code(), Some(0));
}
