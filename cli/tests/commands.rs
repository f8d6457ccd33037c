//! Every command as a person meets it who has no Hemostat running, no rights, a typing error or a broken file: exit code, what, where, and the
//! next step.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests, and what they share")]

mod program;

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::{fs::PermissionsExt as _, net::UnixListener, process::CommandExt as _},
    path::Path,
    process::{Command, Output, Stdio},
    thread::JoinHandle,
};

use serde_json::Value;

fn hemostat(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hemostat"));
    command.env_remove("HEMOSTAT_SOCKET").env_remove("HEMOSTAT_STATE").args(words).stdin(Stdio::null());
    command
}

fn said(output: Output) -> (Option<i32>, String) {
    (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
}

fn run(words: &[&str]) -> (Option<i32>, String) {
    said(hemostat(words).output().unwrap())
}

/// All that ask the controller.
const ASKING: [&[&str]; 17] = [
    &["status"],
    &["incidents"],
    &["incidents", "list"],
    &["incidents", "show", "inc-1"],
    &["incidents", "watch"],
    &["approve", "inc-1", "step"],
    &["deny", "inc-1", "--all"],
    &["rollback", "inc-1"],
    &["rollback", "act-1"],
    &["verdict", "inc-1", "false-positive"],
    &["close", "inc-1"],
    &["pause"],
    &["resume"],
    &["policy", "explain", "inc-1"],
    &["trust", "begin-anew", "rule", "--reason", "x"],
    &["audit", "show"],
    &["playbook", "list"],
];

#[test]
fn without_a_running_hemostat_each_says_where_it_looked_and_asks_whether_it_runs() {
    let dir = tempfile::tempdir().unwrap();
    let nobody = dir.path().join("nobody.sock");
    drop(UnixListener::bind(&nobody).unwrap());
    for socket in [dir.path().join("none.sock"), nobody] {
        let socket = socket.display().to_string();
        for words in ASKING {
            for form in ["table", "json", "yaml"] {
                let output = hemostat(&["--socket", &socket, "-o", form]).args(words).output().unwrap();
                assert!(output.stdout.is_empty(), "{words:?}: an error is no result: {output:?}");
                let (code, text) = said(output);
                assert_eq!(code, Some(3), "{words:?}: {text}");
                assert!(text.contains(&socket) && text.contains("is it running?"), "{words:?}: {text}");
            }
        }
    }
}

/// Something else listens there.
fn stranger(socket: &Path, answer: &'static [u8]) -> JoinHandle<()> {
    let listener = UnixListener::bind(socket).unwrap();
    std::thread::spawn(move || {
        for _ in 0..ASKING.len() {
            let (mut stream, _) = listener.accept().unwrap();
            let _asked = stream.read(&mut [0; 4096]);
            let _answered = stream.write_all(answer);
        }
    })
}

#[test]
fn whatever_listens_on_the_socket_it_ends_with_a_message_and_never_with_a_success() {
    let dir = tempfile::tempdir().unwrap();
    let answers: [&[u8]; 4] = [
        b"",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\nconnection: close\r\n\r\n{\"a\": 1}\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 900\r\nconnection: close\r\n\r\n{\"inc",
    ];
    for (n, answer) in answers.into_iter().enumerate() {
        let socket = dir.path().join(format!("{n}.sock"));
        let answering = stranger(&socket, answer);
        for words in ASKING {
            let (code, text) = run(&[&["--socket", socket.to_str().unwrap()], words].concat());
            assert!(matches!(code, Some(1 | 3)), "{words:?}: {code:?} {text}");
            assert!(text.starts_with("error: ") && text.contains("the controller"), "{words:?}: {text}");
            assert!(!text.contains("panicked"), "{text}");
        }
        answering.join().unwrap();
    }
}

#[test]
fn what_makes_no_sense_is_usage_and_what_was_meant_is_said() {
    for (words, part) in [
        (&["aprove", "inc-1"][..], "approve"),
        (&["approve"], "<INCIDENT>"),
        (&["deny"], "<INCIDENT>"),
        (&["approve", "inc-1", "step", "--all"], "--all"),
        (&["incidents", "show"], "<ID>"),
        (&["incidents", "list", "--limit", "many"], "--limit"),
        (&["status", "-o", "xml"], "json"),
        (&["completions", "tcsh"], "bash"),
        (&["release", "act-1", "--all"], "--all"),
        (&["verdict", "inc-1", "bad"], "false-positive"),
        (&["trust", "begin-anew", "rule"], "--reason"),
        // As an unset variable leaves it.
        (&["approve", "", "kill"], "is a variable empty?"),
        (&["deny", "", "--all"], "is a variable empty?"),
        (&["rollback", ""], "is a variable empty?"),
        (&["rollback", "act-"], "is a variable empty?"),
        (&["verdict", "inc-", "false-positive"], "is a variable empty?"),
        (&["close", " "], "is a variable empty?"),
        (&["incidents", "show", ""], "is a variable empty?"),
        (&["policy", "explain", ""], "is a variable empty?"),
        (&["audit", "show", "--incident", ""], "is a variable empty?"),
        (&["incidents", "--limit", "0"], "--limit"),
        (&["incidents", "list", "--limit", "0"], "--limit"),
        (&["audit", "show", "--limit", "0"], "--limit"),
        (&["doctor", "--certificate", "x"], "--key"),
        (&["audit"], "verify"),
        (&["standalone", "--reactions", "sometimes"], "auto"),
        (&["standalone", "--feed", "wrong"], "--feed"),
        (&["standalone", "--source", "nonsense=/x"], "--source"),
    ] {
        let (code, text) = run(words);
        assert!(code == Some(2) && text.contains(part), "{words:?}: {code:?} {text}");
    }
}

#[test]
fn each_shell_takes_its_completions() {
    for (shell, command, check) in [
        ("bash", "complete -F _hemostat", "complete -p hemostat"),
        ("zsh", "#compdef hemostat", "whence _hemostat"),
        ("fish", "complete -c hemostat", "complete -c hemostat"),
        ("elvish", "edit:completion", ""),
        ("powershell", "Register-ArgumentCompleter", ""),
    ] {
        let (code, text) = run(&["completions", shell]);
        assert!(code == Some(0) && text.contains(command), "{shell}: {code:?}");
        for word in ["standalone", "incidents", "rollback", "audit", "completions"] {
            assert!(text.contains(word), "{shell}: {word}");
        }
        if check.is_empty() {
            continue;
        }
        let program = Command::new(shell).args(["-c", "true"]).status();
        if !program.is_ok_and(|status| status.success()) {
            println!("SKIPPED: the shell's own look at its completions: {shell} is not here");
            continue;
        }
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("completions");
        fs::write(&file, &text).unwrap();
        let prelude = if shell == "zsh" { "autoload -U compinit; compinit -u -D;" } else { "" };
        let script = format!("{prelude} source {} && {check}", file.display());
        let (code, told) = said(Command::new(shell).args(["-c", &script]).output().unwrap());
        assert!(code == Some(0), "{shell} does not take it: {told}");
    }
    // What bash offers for a beginning.
    let script = "source <(\"$0\" completions bash); COMP_WORDS=(hemostat inc); COMP_CWORD=1; _hemostat hemostat inc hemostat; echo \"${COMPREPLY[@]}\"";
    let mut bash = Command::new("bash");
    match bash.args(["-c", script, env!("CARGO_BIN_EXE_hemostat")]).output() {
        Ok(output) => {
            let (_, offered) = said(output);
            assert_eq!(offered.trim(), "incidents");
        }
        Err(error) => println!("SKIPPED: what bash offers: {error}"),
    }
}

fn doctor(words: &[&str]) -> (Option<i32>, Vec<Value>) {
    let words = [&["-o", "json", "--socket", "/nonexistent/control.sock", "doctor", "--no-hooks"], words];
    let output = hemostat(&words.concat()).output().unwrap();
    (output.status.code(), serde_json::from_slice(&output.stdout).unwrap())
}

fn look<'a>(looks: &'a [Value], what: &str) -> &'a Value {
    looks.iter().find(|look| look["what"] == what).unwrap_or_else(|| panic!("no look at {what}: {looks:#?}"))
}

#[test]
fn doctor_says_of_each_thing_how_it_is_and_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    let state = at("state");
    let (_, looks) = doctor(&["--state", &state]);
    for what in [
        "kernel",
        "kernel types (BTF)",
        "rights",
        "cgroup v2",
        "bpffs",
        "BPF LSM",
        "socket destroy",
        "clock",
        "disk",
    ] {
        let verdict = look(&looks, what)["verdict"].as_str().unwrap().to_owned();
        assert!(["good", "lesser", "bad", "skipped"].contains(&verdict.as_str()), "{what}: {verdict}");
        assert!(!look(&looks, what)["found"].as_str().unwrap().is_empty(), "{what}");
    }
    let controller = look(&looks, "controller");
    assert_eq!(controller["verdict"], "skipped");
    assert!(controller["next"].as_str().unwrap().contains("hemostat standalone"), "{controller}");
    assert!(!Path::new(&state).exists(), "a look makes nothing");
    // rules and playbooks with a mistake
    fs::write(at("r.yml"), "title: A\nid: a\ndetection: {s: {Imag: /x}, condition: t}\n").unwrap();
    fs::write(at("p.yaml"), "apiVersion: hemostat.dev/v1alpha1\nkind: Playbook\nmetadata: {name: p}\nspec: {steps: [{name: a, action: no}]}\n").unwrap();
    let (code, looks) = doctor(&["--rules", &at("r.yml"), "--playbooks", &at("p.yaml")]);
    assert_eq!(code, Some(1));
    for (what, next) in [("rules", "hemostat rules check"), ("playbooks", "hemostat playbook check")] {
        let look = look(&looks, what);
        assert!(look["verdict"] == "bad" && look["next"].as_str().unwrap().contains(next), "{look}");
    }
    let (code, looks) = doctor(&["--rules", &at("none"), "--playbooks", &at("none")]);
    assert_eq!(code, Some(1));
    for what in ["rules", "playbooks"] {
        assert!(look(&looks, what)["found"].as_str().unwrap().contains(&at("none")), "{looks:#?}");
    }
    // a table of it, and the same in YAML
    let words = ["--socket", "/nonexistent/s", "doctor", "--no-hooks", "--state", &state];
    let (_, page) = run(&words);
    assert!(page.contains("kernel types (BTF)") && page.contains(" skipped"), "{page}");
    let yaml = hemostat(&[&["-o", "yaml"], &words[..]].concat()).output().unwrap().stdout;
    let yaml: Vec<Value> = serde_saphyr::from_str(&String::from_utf8(yaml).unwrap()).unwrap();
    assert_eq!(yaml.len(), looks.len());
}

#[test]
fn doctor_looks_at_a_certificate_as_the_other_end_will() {
    use wire::identity::{Authority, Subject, write_secret};
    const DAY: std::time::Duration = std::time::Duration::from_secs(86_400);
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let now = model::Timestamp(i64::try_from(since.as_nanos()).unwrap());
    let long_ago = model::Timestamp(now.0 - 3 * 86_400_000_000_000);
    let node = Subject::Node(model::NodeId::new("n1"));
    let ours = Authority::create("ours", now, DAY).unwrap();
    let theirs = Authority::create("theirs", now, DAY).unwrap();
    fs::write(at("ca.pem"), ours.certificate()).unwrap();
    let issued = [
        ("good", ours.issue(&node, now, DAY).unwrap()),
        ("controller", ours.issue(&Subject::Controller, now, DAY).unwrap()),
        ("expired", ours.issue(&node, long_ago, DAY).unwrap()),
        ("foreign", theirs.issue(&node, now, DAY).unwrap()),
    ];
    for (name, pem) in &issued {
        fs::write(at(&format!("{name}.pem")), &pem.certificate).unwrap();
        write_secret(&at(&format!("{name}.key")), &pem.key).unwrap();
    }
    fs::write(at("torn.pem"), &issued[0].1.certificate[..100]).unwrap();
    for (certificate, key, verdict, part) in [
        ("good", "good", "good", "certificate of node n1 (valid 20"),
        ("controller", "controller", "good", "certificate of the controller (valid 20"),
        ("expired", "expired", "bad", "has expired"),
        ("foreign", "foreign", "bad", "give both ends certificates of one authority"),
        ("good", "foreign", "bad", "the key is another certificate's"),
        ("torn", "good", "bad", "torn.pem"),
        ("none", "good", "bad", "none.pem"),
    ] {
        let file = |name: &str, kind: &str| at(&format!("{name}.{kind}")).display().to_string();
        let (_, looks) = doctor(&[
            "--certificate",
            &file(certificate, "pem"),
            "--key",
            &file(key, "key"),
            "--authority",
            &file("ca", "pem"),
        ]);
        let look = look(&looks, "certificate");
        assert_eq!(look["verdict"], verdict, "{certificate} with the key of {key}: {look}");
        assert!(look["found"].as_str().unwrap().contains(part), "{certificate}, {key}: {look}");
        assert_eq!(look["next"].as_str().unwrap().is_empty(), verdict == "good", "{look}");
    }
}

#[test]
fn without_root_doctor_names_the_rights_that_are_missing() {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: not root: this test takes root away from a process, which needs root");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = dir.path().join("hemostat");
    program::copy(env!("CARGO_BIN_EXE_hemostat"), &program);
    let mut command = Command::new(&program);
    command.args(["-o", "json", "--socket", "/nonexistent/s", "doctor"]).current_dir(dir.path());
    let output = command.uid(65534).gid(65534).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let looks: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let rights = look(&looks, "rights");
    assert!(rights["found"].as_str().unwrap().contains("CAP_BPF"), "{rights}");
    assert!(rights["next"].as_str().unwrap().contains("sudo"), "{rights}");
    assert_eq!(look(&looks, "hooks")["verdict"], "bad");
    for words in
        [&["standalone"][..], &["agent", "--controller", "https://localhost:1", "--enrol-token", "/x"]]
    {
        let (code, text) = said(Command::new(&program).args(words).uid(65534).gid(65534).output().unwrap());
        assert!(matches!(code, Some(2 | 4)) && !text.contains("panicked"), "{words:?}: {code:?} {text}");
    }
}

#[test]
fn a_broken_file_for_standalone_is_told_with_its_name_before_anything_is_attached() {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: not root: standalone looks at its rights first");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    fs::create_dir(at("rules")).unwrap();
    fs::write(at("mask.yaml"), "version: 1\nrules:\n  - name: mine\n    pattern: '('\n").unwrap();
    fs::write(at("torn.yaml"), "version: 1\nrules: [\n").unwrap();
    fs::write(at("a-file"), "").unwrap();
    fs::create_dir_all(at("state")).unwrap();
    fs::write(at("state/journal.redb"), "this is no journal").unwrap();
    let (rules, socket) = (at("rules"), at("control.sock"));
    let standalone = |more: &[&str]| {
        run(&[&["--socket", &socket, "standalone", "--reactions", "off", "--playbooks", &rules], more]
            .concat())
    };
    let fresh = at("fresh");
    for (more, parts) in [
        (&["--rules", &at("none"), "--state", &fresh][..], &[at("none"), "--rules".to_owned()][..]),
        (
            &["--rules", &rules, "--state", &fresh, "--mask", &at("mask.yaml")],
            &[at("mask.yaml"), "mine".into()],
        ),
        (&["--rules", &rules, "--state", &fresh, "--mask", &at("torn.yaml")], &[at("torn.yaml")]),
        (
            &["--rules", &rules, "--state", &fresh, "--mask", &at("gone.yaml")],
            &[at("gone.yaml"), "No such file".into()],
        ),
        (&["--rules", &rules, "--state", &at("a-file")], &[at("a-file")]),
        (&["--rules", &rules, "--state", &at("state")], &[at("state/journal.redb")]),
    ] {
        let (code, text) = standalone(more);
        assert_eq!(code, Some(1), "{more:?}: {text}");
        for part in parts {
            assert!(text.contains(part.as_str()), "{more:?} does not say {part}: {text}");
        }
        assert!(!text.contains("panicked") && !text.contains("watching this host"), "{text}");
    }
    assert_eq!(fs::read_to_string(at("state/journal.redb")).unwrap(), "this is no journal", "left as it was");
}

#[test]
fn where_no_audit_log_is_nothing_was_tampered_with() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().display().to_string();
    for words in [["audit", "verify", "--state", &state], ["audit", "show", "--state", &state]] {
        let (code, text) = run(&words);
        assert_eq!(code, Some(5), "{words:?}: {text}");
        assert!(text.contains(&state) && text.contains("--state is the state folder"), "{words:?}: {text}");
    }
    // A log without its key is another matter.
    fs::create_dir(dir.path().join("audit")).unwrap();
    fs::write(dir.path().join("audit/audit.jsonl"), "").unwrap();
    let (code, text) = run(&["audit", "verify", "--state", &state]);
    assert!(code == Some(1) && text.contains("audit.key"), "{code:?} {text}");
}

#[test]
fn whoever_finds_nobody_there_is_told_what_lifts_that_which_was_left() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state").display().to_string();
    let output = hemostat(&["--socket", "/nonexistent/control.sock", "status"])
        .env("HEMOSTAT_STATE", &state)
        .output()
        .unwrap();
    let (code, text) = said(output);
    assert!(code == Some(3) && text.contains("`hemostat release`"), "{code:?} {text}");
    let (_, looks) = doctor(&["--state", &state]);
    let left = look(&looks, "containments");
    assert_eq!(left["verdict"], "good");
    assert!(left["found"].as_str().unwrap().contains("none in force"), "{left}");
    // A journal that cannot be read is not called empty.
    fs::create_dir_all(dir.path().join("state/node/contain/journal")).unwrap();
    let (code, looks) = doctor(&["--state", &state]);
    let left = look(&looks, "containments");
    assert!(code == Some(1) && left["verdict"] == "bad", "{left}");
    assert!(left["next"].as_str().unwrap().contains("hemostat release"), "{left}");
}

/// The pages as a newcomer follows them.
#[test]
fn what_the_pages_tell_to_do_can_be_done() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let page = |name: &str| fs::read_to_string(root.join(name)).unwrap();
    let readme = page("README.md");
    let (_, steps) = readme.split_once("## Run it").unwrap();
    let (kernel_side, build) = (steps.find("cargo xtask ebpf"), steps.find("cargo build --release"));
    assert!(kernel_side.is_some() && kernel_side < build, "the build takes the kernel side in");
    // The whole file for whoever only wants to watch.
    let (_, policy) = readme.split_once("```yaml\n").unwrap();
    let (policy, _) = policy.split_once("```").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("only-watch.yaml");
    fs::write(&file, policy).unwrap();
    let (code, text) = run(&["playbook", "check", "--strict", file.to_str().unwrap()]);
    assert!(code == Some(0) && text.contains("1 policy"), "{code:?} {text}");
    for name in ["docs/controller.md", "docs/cli.md", "README.md"] {
        assert!(
            !page(name).contains("/run/hemostat/controller.sock"),
            "{name}: a host's socket is control.sock"
        );
    }
    assert!(!page("docs/gate.md").contains("hemostat incidents ID"), "a word is missing");
}

#[test]
fn playbook_check_tells_every_mistake_in_one_round_with_what_was_meant() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("p.yaml").display().to_string();
    let text = "apiVersion: hemostat.dev/v1alpha1\nkind: Playbook\nmetadata: {name: p}\nspec:\n  trigger:\n    when: process.stdio.stdn == 'socket'\n  steps:\n    - {name: run, action: node.net-quarantine, with: {alow: [10.0.0.0/8]}}\n    - {name: a, action: node.freeze, when: process.exe == 3}\n    - {name: b, action: node.freeze, when: size(process.exe)}\n";
    fs::write(&path, text).unwrap();
    let (code, told) = run(&["playbook", "check", &path]);
    assert_eq!(code, Some(1), "{told}");
    for wanted in [
        ":6:25: error: `process.stdio` has no `stdn`",
        "did you mean `stdin`?",
        ":8:14: error: no step may be called `run`",
        "unknown field `alow`",
        "did you mean `allow`?",
        ":9:52: error: `process.exe` is a text and `3` is a number",
        ":10:44: error: `size(process.exe)` is a number, where true or false is needed",
        "5 errors",
    ] {
        assert!(told.contains(wanted), "{wanted} is not in\n{told}");
    }
}

#[test]
fn what_is_meant_where_nothing_is_named_is_said_with_where_it_was_looked_for() {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path().canonicalize().unwrap().display().to_string();
    for (words, option) in [
        (&["rules", "explain", "x"][..], "--rules"),
        (&["rules", "check"], "name files or folders"),
        (&["playbook", "graph", "x"], "--playbooks"),
        (&["playbook", "check", "nope"], "nope"),
    ] {
        let (code, text) = said(hemostat(words).current_dir(&here).output().unwrap());
        assert_eq!(code, Some(1), "{words:?}: {text}");
        assert!(text.contains(option) && text.contains(&here), "{words:?}: {text}");
    }
    let (_, looks) = doctor(&["--rules", "nope", "--playbooks", "nope"]);
    for what in ["rules", "playbooks"] {
        assert!(look(&looks, what)["next"].as_str().unwrap().contains(&format!("--{what}")), "{looks:#?}");
    }
}

#[test]
fn what_cannot_start_is_told_before_anything_is_made() {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: not root: standalone looks at its rights first");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    fs::create_dir(at("rules")).unwrap();
    fs::create_dir(at("broken")).unwrap();
    fs::write(at("broken/r.yml"), "title: A\nid: a\nlogsource: {product: linux, category: process_creation}\ndetection: {s: {Image|containz: /x}, condition: s}\nlevel: high\n").unwrap();
    let (long, used) = (at(&"x".repeat(120)), at("used.sock"));
    let _answers = UnixListener::bind(&used).unwrap();
    let standalone = |socket: &str, rules: &str, playbooks: &str| {
        let words = ["--socket", socket, "standalone", "--reactions", "off", "--rules", rules, "--playbooks"];
        run(&[&words[..], &[playbooks, "--state", &at("state")]].concat())
    };
    let free = at("free.sock");
    for ((code, text), parts) in [
        (standalone(&long, &at("rules"), &at("rules")), &["at most 107", "--socket"][..]),
        (
            standalone(&used, &at("rules"), &at("rules")),
            &["another controller answers", "hemostat status", "--socket"],
        ),
        (standalone(&free, &at("rules"), &at("nope")), &["nope", "--playbooks"]),
        (
            standalone(&free, &at("broken"), &at("rules")),
            &["no rule can be used", "containz", "hemostat rules check"],
        ),
    ] {
        assert_eq!(code, Some(1), "{text}");
        for part in parts {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        assert!(!text.contains("is in force"), "nothing is: {text}");
        assert!(!Path::new(&at("state")).exists(), "nothing is left behind: {text}");
    }
    for words in [&["standalone", "--spool-mb", "0"][..], &["standalone", "--node", "A_b!"]] {
        let (code, text) = run(words);
        assert_eq!(code, Some(2), "{words:?}: {text}");
    }
}

#[test]
fn a_broken_data_classification_policy_is_told_with_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let policy = dir.path().join("classes.yaml");
    let policy = policy.to_str().unwrap();
    fs::write(policy, "classes:\n  - class: restricted\n    namespace: [pay]\n").unwrap();
    let state = dir.path().join("state");
    let controller = ["controller", "--state", state.to_str().unwrap(), "--classes"];
    let recording = dir.path().join("events.jsonl");
    fs::write(&recording, "").unwrap();
    let recording = format!("events={}", recording.display());
    for words in [&controller[..], &["replay", "--from", &recording, "--classes"]] {
        let (code, text) = run(&[words, &[policy]].concat());
        assert_eq!(code, Some(1), "{words:?}: {text}");
        for part in ["classes.yaml", "namespace", "namespaces", "3"] {
            assert!(text.contains(part), "{words:?}: {part} is not in {text}");
        }
        let (code, text) = run(&[words, &["/nowhere/classes.yaml"]].concat());
        assert_eq!(code, Some(1), "{words:?}: {text}");
        assert!(text.contains("/nowhere/classes.yaml"), "{text}");
    }
    assert!(!state.exists(), "nothing is left behind");
}

#[test]
fn a_recording_of_which_nothing_can_be_read_is_no_replay() {
    let dir = tempfile::tempdir().unwrap();
    let recording = dir.path().join("pretty.json");
    let from = format!("events={}", recording.display());
    fs::write(&recording, "[\n  {\"id\": 1}\n]\n").unwrap();
    let rules = concat!(env!("CARGO_MANIFEST_DIR"), "/../rules/linux/collection");
    let playbooks = concat!(env!("CARGO_MANIFEST_DIR"), "/../playbooks");
    let replay = ["replay", "--from", &from, "--rules", rules, "--playbooks", playbooks];
    let (code, text) = run(&replay);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("0 events") && text.contains("3 refused") && text.contains("jq -c"), "{text}");
    // Where there was nothing, nothing is amiss.
    fs::write(&recording, "").unwrap();
    let (code, text) = run(&replay);
    assert_eq!(code, Some(0), "{text}");
}

#[test]
fn a_controller_without_a_cluster_says_what_to_give_it() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let mut command = hemostat(&["controller", "--state", state.to_str().unwrap()]);
    command.env_remove("KUBECONFIG").env_remove("KUBERNETES_SERVICE_HOST").env("HOME", dir.path());
    let (code, text) = said(command.output().unwrap());
    assert_eq!(code, Some(1), "{text}");
    for part in ["--kubeconfig", "KUBECONFIG", "hemostat standalone"] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    assert!(!state.exists(), "nothing is left behind");
}
