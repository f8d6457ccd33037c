//! A secret that only the user's own rule knows: in an argument and in the environment of a program, looked for in everything that leaves
//! the agent and everything that it leaves on the disk. Needs root and eBPF.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "tests, and what they share; the runner counts lines of skips"
)]

mod place;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use place::{Place, skipped, until};

const RULE: &str = "title: A Badge Was Shown
id: badge-shown
logsource: {product: linux, category: process_creation}
detection: {s: {Image: PROGRAM}, condition: s}
level: high
";
const PLAYBOOK: &str = "apiVersion: hemostat.dev/v1alpha1
kind: Playbook
metadata: {name: badges}
spec:
  mode: Approve
  trigger: {rules: [badge-shown]}
  steps:
    - {name: keep, action: node.capture-evidence, target: {kind: Process}}
";
const MASK: &str = "version: 1
rules:
  - name: badge
    pattern: 'badge-(?<secret>[A-Za-z0-9]+)'
";
/// None of the rules that come with Hemostat knows it for a secret.
const SECRET: &str = "Zq7Xk9Wv3Tn5";

struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _killed = self.0.kill();
        let _reaped = self.0.wait();
    }
}

fn files_below(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.file_type().unwrap() {
            kind if kind.is_dir() => files_below(&entry.path(), found),
            kind if kind.is_file() => found.push(entry.path()),
            _ => {}
        }
    }
}

fn holds(path: &Path, word: &str) -> bool {
    match fs::read(path) {
        Ok(bytes) => bytes.windows(word.len()).any(|window| window == word.as_bytes()),
        // It was there when the folder was listed: a segment of the spool that was acknowledged since.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => false,
        Err(error) => panic!("{}: {error}", path.display()),
    }
}

#[test]
fn what_a_users_rule_masks_is_in_no_finding_incident_spool_log_or_evidence() {
    if skipped("masking by a user's rule", &["unshare"]) {
        return;
    }
    let mut place = Place::new();
    let program = place.at("hemostat-badge");
    place::program::copy("/bin/sh", &program);
    fs::write(place.at("rules/probe.yml"), RULE.replace("PROGRAM", &program.display().to_string())).unwrap();
    fs::write(place.at("playbooks/badges.yaml"), PLAYBOOK).unwrap();
    fs::write(place.at("mask.yaml"), MASK).unwrap();
    place.more = vec!["--mask".into(), place.at("mask.yaml").display().to_string()];
    let mut running = match place.start("exec") {
        Ok(running) => running,
        Err(said) => {
            println!("SKIPPED: masking by a user's rule: standalone does not start here: {said}");
            return;
        }
    };
    let badge = format!("badge-{SECRET}");
    let mut shown = Command::new(&program);
    // It waits for its standard input, as the very program that was started.
    shown.args(["-c", "read line", badge.as_str()]).env("CARRIED", &badge).stdin(Stdio::piped());
    let shown = Ended(shown.spawn().unwrap());
    let id = until("no incident that waits for a person", || {
        let list = place.ask(&["incidents"])?;
        let found = list.as_array()?.iter().find(|one| one["waiting"].as_u64() > Some(0))?;
        found["id"].as_str().map(str::to_owned)
    });
    let (code, said) = place.run(&["approve", &id, "--all"]);
    assert_eq!(code, Some(0), "{said}");
    let files = || {
        let mut files = Vec::new();
        files_below(&place.at("state"), &mut files);
        files
    };
    // Whole, and under its own name.
    let kept = |name: &str| {
        let mut files = files().into_iter();
        files.find(|path| path.ends_with(name) && !path.to_string_lossy().contains(".part/"))
    };
    until("the evidence was not kept", || kept("manifest.json"));
    let environment = kept("environ.json").unwrap();
    drop(shown);
    for words in [
        &["-o", "json", "incidents", "show", id.as_str()][..],
        &["incidents", "show", &id],
        &["incidents", "show", &id, "--narrative", "md"],
        &["-o", "json", "audit", "show"],
        &["-o", "json", "status"],
    ] {
        let (code, said) = place.run(words);
        assert!(code == Some(0) && !said.contains(SECRET), "{words:?}: {said}");
    }
    let (_, said) = place.run(&["-o", "json", "incidents", "show", &id]);
    assert!(said.contains("badge-***"), "it is masked and not missing: {said}");
    assert!(holds(&environment, "badge-***") && holds(&environment, "CARRIED"), "{}", environment.display());
    // As it stands while it runs, and as it is left.
    for when in ["running", "ended"] {
        if when == "ended" {
            assert_eq!(running.terminate().code(), Some(0));
        }
        let files = [files(), vec![place.at("log")]].concat();
        assert!(files.iter().any(|path| holds(path, "badge-***")), "the look finds what is there");
        for path in files {
            assert!(!holds(&path, SECRET), "{when}: {} holds the secret", path.display());
        }
    }
}
