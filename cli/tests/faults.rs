//! Bad input and faults, as a person at the machine meets them: each gets its exit code, its place and the next step.
#![expect(clippy::unwrap_used, reason = "tests, and what they share")]

mod program;

use std::{
    fs,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::Path,
    process::{Command, Output},
};

fn hemostat(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hemostat"));
    command.env_remove("HEMOSTAT_SOCKET").env_remove("HEMOSTAT_STATE").args(words);
    command
}

fn run(words: &[&str]) -> (Option<i32>, String) {
    said(hemostat(words).output().unwrap())
}

fn said(output: Output) -> (Option<i32>, String) {
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

fn file(dir: &Path, name: &str, text: &str) -> String {
    let path = dir.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, text).unwrap();
    path.display().to_string()
}

fn playbook(steps: &str) -> String {
    format!(
        "apiVersion: hemostat.dev/v1alpha1\nkind: Playbook\nmetadata: {{name: p}}\nspec:\n  trigger: {{minimumLevel: high}}\n  steps:\n{steps}"
    )
}

#[test]
fn a_broken_playbook_is_told_with_line_and_column() {
    let dir = tempfile::tempdir().unwrap();
    for (name, steps, words) in [
        (
            "unknown.yaml",
            "    - {name: a, action: node.freez}\n",
            &["unknown action `node.freez`", "node.freeze"][..],
        ),
        (
            "circle.yaml",
            "    - {name: a, action: node.freeze, needs: [b]}\n    - {name: b, action: node.freeze, needs: [a]}\n",
            &["in a circle", "`a` needs `b`"],
        ),
        ("needs.yaml", "    - {name: a, action: node.freeze, needs: [c]}\n", &["`c`"]),
        ("field.yaml", "    - {name: a, action: node.freeze, neds: [a]}\n", &["neds", "needs"]),
    ] {
        let path = file(dir.path(), name, &playbook(steps));
        let (code, text) = run(&["playbook", "check", &path]);
        assert_eq!(code, Some(1), "{text}");
        assert!(text.contains(&format!("{name}:7:")), "the place: {text}");
        for word in words {
            assert!(text.contains(word), "{word}: {text}");
        }
    }
    let path = file(
        dir.path(),
        "torn.yaml",
        "apiVersion: hemostat.dev/v1alpha1\nkind: Playbook\nmetadata: {name: \"p\n",
    );
    let (code, text) = run(&["playbook", "check", &path]);
    assert!(code == Some(1) && text.contains("torn.yaml:"), "{text}");
    let (code, text) = run(&["playbook", "check", "/nonexistent/p.yaml"]);
    assert!(
        code == Some(1) && text.contains("/nonexistent/p.yaml") && text.contains("No such file"),
        "{text}"
    );
}

#[test]
fn a_broken_rule_is_told_with_line_and_column_and_the_others_load() {
    let dir = tempfile::tempdir().unwrap();
    let sound = "title: Good\nid: good\nlogsource: {product: linux, category: process_creation}\ndetection: {s: {Image: /x}, condition: s}\n";
    file(dir.path(), "a.yml", sound);
    file(
        dir.path(),
        "b.yml",
        "title: Bad\nid: bad\nlogsource: {product: linux, category: process_creation}\ndetection: {s: {Imag: /x}, condition: t}\n",
    );
    let dir = dir.path().display().to_string();
    let (code, text) = run(&["rules", "check", &dir]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("b.yml:4:") && text.contains("1 rule"), "{text}");
}

#[test]
fn i11_what_is_no_regular_file_or_endless_is_refused_and_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("pipe.yml");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    fs::File::create(dir.path().join("long.yaml")).unwrap().set_len(1 << 40).unwrap();
    let (pipe, long) = (pipe.display().to_string(), dir.path().join("long.yaml").display().to_string());
    for what in ["rules", "playbook"] {
        for (path, word) in [(pipe.as_str(), "regular"), ("/dev/zero", "regular"), (long.as_str(), "longer")]
        {
            let (code, text) = run(&[what, "check", path]);
            assert!(code == Some(1) && text.contains(word) && text.contains(path), "{what} {path}: {text}");
        }
    }
}

#[test]
fn a_name_of_a_node_is_one_line() {
    let (code, text) = run(&["standalone", "--node", "a\nb"]);
    assert!(code == Some(2) && text.contains("a node's name has"), "{code:?} {text}");
}

#[test]
fn checking_nothing_is_no_success() {
    let dir = tempfile::tempdir().unwrap();
    let empty = dir.path().display().to_string();
    for what in ["rules", "playbook"] {
        let (code, text) = run(&[what, "check", &empty]);
        assert!(code == Some(5) && text.contains(&empty), "{what}: {code:?} {text}");
    }
}

#[test]
fn without_root_it_says_what_is_needed() {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: not root: this test takes root away from a process, which needs root");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    // The build folder need not be open to everybody.
    let program = dir.path().join("hemostat");
    program::copy(env!("CARGO_BIN_EXE_hemostat"), &program);
    let as_nobody =
        |words: &[&str]| said(Command::new(&program).args(words).uid(65534).gid(65534).output().unwrap());
    let (code, text) = as_nobody(&["standalone"]);
    assert!(code == Some(4) && text.contains("needs root") && text.contains("sudo"), "{code:?} {text}");
    // The socket of another: made here by root, closed to others.
    let socket = dir.path().join("control.sock");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o600)).unwrap();
    let (code, text) = as_nobody(&["--socket", &socket.display().to_string(), "status"]);
    assert!(code == Some(4) && text.contains("ermission denied"), "{code:?} {text}");
    drop(listener);
}

#[test]
fn a_controller_that_is_not_there_is_said_with_its_socket() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("none.sock").display().to_string();
    for words in [&["status"][..], &["incidents"], &["audit", "show"], &["approve", "inc-1"]] {
        let (code, text) = run(&[&["--socket", &socket], words].concat());
        assert!(code == Some(3) && text.contains(&socket), "{words:?}: {code:?} {text}");
    }
    let (code, text) = run(&["audit", "show", "--since", "yesterday"]);
    assert!(code == Some(2) && text.contains("90m"), "{code:?} {text}");
}

#[test]
fn i10_what_is_wrong_with_the_files_of_the_audit_log_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().display().to_string();
    let (code, text) = run(&["audit", "verify", "--state", &state]);
    assert!(code == Some(5) && text.contains("nothing was verified"), "nothing of it is there: {text}");
    file(dir.path(), "audit.anchor", "{}");
    let (code, text) = run(&["audit", "verify", "--state", &state]);
    assert!(code == Some(1) && text.contains("audit.key"), "no key: {text}");
    let key = file(dir.path(), "keys/audit.key", &"a".repeat(64));
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let (code, text) = run(&["audit", "verify", "--state", &state]);
    assert!(
        code == Some(1) && text.contains("can be read by others") && text.contains("chmod 600"),
        "{text}"
    );
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    file(dir.path(), "audit.anchor", "{}");
    let (code, text) = run(&["audit", "verify", "--state", &state]);
    assert!(code == Some(1) && text.contains("audit.anchor"), "{text}");
    file(dir.path(), "audit.anchor", "{\"count\":3,\"hash\":\"00\",\"mac\":\"00\"}\n");
    let (code, text) = run(&["audit", "verify", "--state", &state]);
    assert!(code == Some(1) && text.contains("audit.jsonl"), "no log: {text}");
    file(dir.path(), "audit/audit.jsonl", "not an entry\n");
    let (code, text) = run(&["audit", "verify", "--state", &state]);
    assert!(code == Some(1) && text.contains("audit.jsonl, line 1: not an audit entry"), "{text}");
    assert!(text.contains("the anchor was changed"), "{text}");
}
