use std::collections::BTreeMap;

use model::{
    AgentEpoch, BootNs, CgroupId, Credentials, EventId, ExeFile, Exposure, FindingId, Level, LossWindow,
    Namespaces, NodeId, Pid, ProcessKey, ProcessOrigin, Reaction, RuleRef, Seq, Stdio, Timestamp, Truncated,
    Workload,
};
use proptest::prelude::*;

use super::*;

fn masker() -> Masker {
    Masker::new(None).unwrap()
}

fn words(line: &[&str]) -> Vec<String> {
    line.iter().map(|word| (*word).to_owned()).collect()
}

#[test]
fn argument_vectors_as_people_type_them() {
    let masker = masker();
    let table: [(&[&str], &str); 22] = [
        (&["app", "--password=hunter2"], "app --password=***"),
        (&["app", "--password=two words", "-v"], "app --password=*** -v"),
        (&["app", "--db-password", "two words", "-v"], "app --db-password *** -v"),
        (&["app", "--client-secret", "abc", "--port", "80"], "app --client-secret *** --port 80"),
        (&["mysql", "-u", "root", "-phunter2", "shop"], "mysql -u root -p*** shop"),
        (&["/usr/bin/mysqldump", "-phunter2"], "/usr/bin/mysqldump -p***"),
        (&["env", "PGPASSWORD=hun ter2", "psql"], "env PGPASSWORD=*** psql"),
        (&["sh", "-c", "PGPASSWORD=hunter2 psql -h db"], "sh -c PGPASSWORD=*** psql -h db"),
        (&["sh", "-c", "mysql -phunter2 shop; ls"], "sh -c mysql -p*** shop; ls"),
        (&["curl", "-u", "me:hunter2", "http://x"], "curl -u me:*** http://x"),
        (
            &["curl", "-H", "Authorization: Bearer abcdefgh12345678", "x"],
            "curl -H Authorization: Bearer *** x",
        ),
        (&["curl", "https://me:hunter2@host/path"], "curl https://me:***@host/path"),
        (&["curl", "https://h/p?access_token=hunter2&page=2"], "curl https://h/p?access_token=***&page=2"),
        (&["psql", "postgres://me:p@ss@db:5432/x"], "psql postgres://me:***@db:5432/x"),
        (&["sshpass", "-p", "hunter2", "ssh", "h"], "sshpass -p *** ssh h"),
        (&["redis-cli", "-a", "hunter2", "ping"], "redis-cli -a *** ping"),
        (&["docker", "login", "-u", "me", "-p", "hunter2"], "docker login -u me -p ***"),
        (&["smbclient", "//h/s", "-U", "me%hunter2"], "smbclient //h/s -U me%***"),
        (&["openssl", "rsa", "-passin", "pass:hunter2"], "openssl rsa -passin pass:***"),
        (
            &["aws", "configure", "set", "aws_access_key_id", "AKIAIOSFODNN7EXAMPLE"],
            "aws configure set aws_access_key_id ***",
        ),
        (&["x", "Server=db;User=me;Password=hunter2;Port=1"], "x Server=db;User=me;Password=***;Port=1"),
        (&["sh", "-c", "echo root:hunter2 | chpasswd"], "sh -c echo root:*** | chpasswd"),
    ];
    for (line, expected) in table {
        assert_eq!(masker.arguments(&words(line)).join(" "), expected);
    }
}

#[test]
fn what_is_no_secret_stays() {
    let masker = masker();
    for line in [
        &["ls", "-la", "/etc/passwd"][..],
        &["passwd", "root"],
        &["mysql", "-u", "root", "shop"],
        &["ssh", "-p", "2222", "host"],
        &["grep", "-r", "password", "/srv"],
        &["cat", "/run/secrets/kubernetes.io/serviceaccount/token"],
        &["mkdir", "-p", "/srv/data"],
        &["openssl", "genrsa", "-out", "key.pem", "2048"],
        &["xmrig", "-o", "stratum+tcp://pool.example:3333", "-u", "wallet"],
        &["git", "clone", "https://github.com/a/b"],
        &["python3", "-m", "tokenize", "x.py"],
    ] {
        assert_eq!(masker.arguments(&words(line)), words(line));
    }
}

#[test]
fn texts_and_environments() {
    let masker = masker();
    assert_eq!(masker.environment("DB_PASSWORD", "hunter 2"), MASK);
    assert_eq!(masker.environment("HOME", "/root"), "/root");
    assert_eq!(masker.environment("DATABASE_URL", "mysql://u:hunter2@h/d"), "mysql://u:***@h/d");
    assert_eq!(
        masker.text("-----BEGIN RSA PRIVATE KEY-----\nabc\n-----END"),
        "-----BEGIN RSA PRIVATE KEY-----***-----END"
    );
    assert_eq!(masker.text(r#"{"api_key": "abc", "n": 1}"#), r#"{"api_key": "***", "n": 1}"#);
    let token = format!("ghp_{}", "a1".repeat(18));
    assert_eq!(masker.text(&format!("clone with {token} now")), "clone with *** now");
}

#[test]
fn users_add_rules_and_mistakes_are_named() {
    let own = "version: 1\nrules:\n  - name: badge\n    pattern: 'badge-(?<secret>[0-9]+)'\n";
    let masker = Masker::new(Some(("own.yaml", own))).unwrap();
    assert_eq!(masker.text("badge-12345 --password=x1"), "badge-*** --password=***");
    let error = |text: &str| Masker::new(Some(("own.yaml", text))).unwrap_err().to_string();
    assert!(error("version: 2\nrules: []").contains("own.yaml: version 2"));
    let e = error("version: 1\nrules:\n  - name: a\n    pattern: '('");
    assert!(e.contains("own.yaml: rule a"), "{e}");
    let e = error("version: 1\nrules:\n  - name: a\n    pattern: 'x'");
    assert!(e.contains("nothing would be masked"), "{e}");
    let e = error("version: 1\nrules:\n  - name: a\n    pattern: '(?<secret>\\w{1000}){1000}'");
    assert!(e.contains("rule a"), "{e}");
    let e = error("version: 1\nrulez: []");
    assert!(e.contains("own.yaml") && e.contains("rulez"), "{e}");
}

fn process(pid: u32, args: Vec<String>) -> Arc<Process> {
    Arc::new(Process {
        key: ProcessKey { pid: Pid(pid), start: BootNs(1) },
        parent: None,
        exe: "/bin/app".into(),
        exe_file: ExeFile::default(),
        command_line: args.join(" "),
        args,
        args_truncated: Truncated::No,
        cwd: "/".into(),
        comm: "app".into(),
        credentials: Credentials::default(),
        namespaces: Namespaces::default(),
        tty: None,
        stdio: Stdio::default(),
        cgroup: CgroupId(1),
        workload: Arc::new(Workload::Host { cgroup_path: "/".into() }),
        origin: ProcessOrigin::Exec,
        exit: None,
    })
}

fn event(process: Arc<Process>, parent: Option<Arc<Process>>, activity: Activity) -> Event {
    Event {
        id: EventId { node: NodeId::new("n"), epoch: AgentEpoch(1), seq: Seq(1) },
        time: Timestamp(0),
        process,
        ancestors: parent.clone().into_iter().collect(),
        parent,
        exposure: Exposure::None,
        activity,
    }
}

/// A finding whose texts hold the secret wherever one can be.
fn finding(args: Vec<String>, secret: &str) -> Finding {
    let shell = process(1, words(&["sh", "-c"]).into_iter().chain([args.join(" ")]).collect());
    let child = process(2, args);
    let exec = Activity::Exec { requested: format!("/srv/{secret}/app") };
    let open = Activity::FileOpen {
        file: FilePath { path: format!("/tmp/{secret}"), truncated: Truncated::No },
        flags: 0,
        created: model::Created::Yes,
    };
    let matched = BTreeMap::from([
        ("CommandLine".to_owned(), child.command_line.clone()),
        ("ParentCommandLine".to_owned(), shell.command_line.clone()),
        ("TargetFilename".to_owned(), format!("/tmp/{secret}")),
    ]);
    Finding {
        id: FindingId::new("fnd-1"),
        rule: RuleRef {
            id: "r".into(),
            title: "t".into(),
            level: Level::High,
            techniques: vec![],
            tactics: vec![],
            reaction: Reaction::None,
        },
        event: event(child.clone(), Some(shell.clone()), exec),
        matched,
        count: 1,
        first: Timestamp(0),
        last: Timestamp(0),
        ancestors: vec![shell],
        context: vec![event(child, None, open)],
        reactions: vec![],
        moments: model::Moments::default(),
        loss: LossWindow::default(),
    }
}

#[test]
fn what_only_a_process_of_the_context_was_given_is_masked_too() {
    let mut finding = finding(words(&["app"]), "plain");
    let earlier = process(7, words(&["app", "--password=QZhunter2QZ"]));
    finding.context.push(event(earlier, None, Activity::IoUringSetup { entries: 1 }));
    masker_once().finding(&mut finding);
    let out = serde_json::to_string(&finding).unwrap();
    assert!(!out.contains("QZhunter2QZ"), "{out}");
}

/// The ways in which a secret is handed to a program.
fn carrier() -> impl Strategy<Value = fn(&str) -> Vec<String>> {
    let carriers: Vec<fn(&str) -> Vec<String>> = vec![
        |s| vec!["app".into(), format!("--password={s}")],
        |s| vec!["app".into(), "--db-password".into(), s.into(), "tail".into()],
        |s| vec!["app".into(), "--api-key".into(), s.into()],
        |s| vec!["app".into(), format!("--token={s}"), "tail".into()],
        |s| vec!["env".into(), format!("AWS_SECRET_ACCESS_KEY={s}"), "aws".into()],
        |s| vec!["mysql".into(), "-uroot".into(), format!("-p{s}")],
        |s| vec!["curl".into(), format!("https://u:{s}@host/")],
        |s| vec!["curl".into(), "-u".into(), format!("u:{s}")],
        |s| vec!["curl".into(), "-H".into(), format!("Authorization: Bearer {s}")],
        |s| vec!["sshpass".into(), "-p".into(), s.into(), "ssh".into()],
        |s| vec!["redis-cli".into(), "-a".into(), s.into()],
        |s| vec!["app".into(), format!("Server=db;Pwd={s};X=1")],
        |s| vec!["sh".into(), "-c".into(), format!("PGPASSWORD='{s}' psql -h db")],
    ];
    proptest::sample::select(carriers)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn a_planted_secret_never_leaves(
        carry in carrier(),
        // No part of any other text here, and no character that ends a value in a shell.
        secret in "[A-Za-z0-9_+.~%!-]{1,4}QZ[A-Za-z0-9_+.~%!-]{4,60}",
        before in proptest::collection::vec("[a-z]{1,8}", 0..3),
    ) {
        let mut args = carry(&secret);
        args.extend(before);
        let mut finding = finding(args, &secret);
        masker_once().finding(&mut finding);
        let out = serde_json::to_string(&finding).unwrap();
        prop_assert!(!out.contains(&secret), "{secret} in {out}");
        let debug = format!("{finding:?}");
        prop_assert!(!debug.contains(&secret), "{secret} in {debug}");
    }

    #[test]
    fn any_text_is_masked_without_panic_and_in_bounds(text in "\\PC{0,400}", args in proptest::collection::vec(".{0,40}", 0..8)) {
        let masker = masker_once();
        let _ = masker.text(&text);
        prop_assert_eq!(masker.arguments(&args).len(), args.len());
    }

    #[test]
    fn masking_twice_is_masking_once(carry in carrier(), secret in "[A-Za-z0-9]{6,20}") {
        let once = masker_once().arguments(&carry(&secret));
        prop_assert_eq!(masker_once().arguments(&once), once);
    }
}

fn masker_once() -> &'static Masker {
    static MASKER: std::sync::OnceLock<Masker> = std::sync::OnceLock::new();
    MASKER.get_or_init(masker)
}

#[test]
fn a_broken_table_is_told_once_with_its_file() {
    let Err(error) = Masker::new(Some(("/etc/mask.yaml", "version: 1\nrules: 7\n"))) else { panic!("read") };
    let text = error.to_string();
    assert!(text.contains("/etc/mask.yaml") && !text.contains("<input>"), "{text}");
    assert!(std::error::Error::source(&error).is_none(), "the cause is in the message: {text}");
}
