//! Golden files (`tests/ingest/NAME.log` and `NAME.golden`) and hostile input.
//!
//! `HEMOSTAT_WRITE_GOLDEN=1 cargo test -p hemostat-controller --lib ingest::read` writes the golden files anew.

use std::{fmt::Write, path::PathBuf};

use detect::schema::{Category, Field};
use model::{Fact, Facts, NodeId};
use proptest::prelude::*;

use super::*;

const NOW: Timestamp = Timestamp(1_795_359_845_000_000_000);

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/ingest")
}

fn sample(format: Format) -> String {
    std::fs::read_to_string(folder().join(format!("{}.log", format.name()))).unwrap()
}

fn place(offset: u64) -> Place {
    Place { offset, now: NOW }
}

fn read_all(format: Format, text: &str) -> String {
    let (mut reader, mut page, mut offset) = (Reader::new(format, Zone::UTC), String::new(), 0);
    for line in text.lines() {
        let mut told = vec![];
        let outcome = reader.read(line.as_bytes(), place(offset), &mut told);
        offset += line.len() as u64 + 1;
        let shown = line.get(..line.floor_char_boundary(70)).unwrap_or_default();
        writeln!(page, "<<< {shown}").unwrap();
        for one in &told {
            writeln!(page, "  {} {:?}", one.time, one.record.kind).unwrap();
            let record = &one.record;
            for (name, value) in [
                ("principal", record.principal.as_ref().map(ToString::to_string)),
                ("origin", record.origin.map(|addr| addr.to_string())),
                ("object", record.object.as_ref().map(ToString::to_string)),
            ] {
                if let Some(value) = value {
                    writeln!(page, "    ({name} {value})").unwrap();
                }
            }
            for (name, fact) in record.facts.iter() {
                writeln!(page, "    {name} = {}", shown_fact(fact)).unwrap();
            }
        }
        if let Err(rejected) = outcome {
            writeln!(page, "  rejected: {rejected}").unwrap();
        }
    }
    page
}

fn shown_fact(fact: &Fact) -> String {
    match fact {
        Fact::Text(text) => format!("{text:?}"),
        Fact::Number(number) => number.to_string(),
        Fact::Bool(truth) => truth.to_string(),
        Fact::Address(addr) => addr.to_string(),
        Fact::List(texts) => format!("{texts:?}"),
    }
}

#[test]
fn samples_are_read_as_the_golden_files_say() {
    for format in Format::ALL {
        let path = folder().join(format!("{}.golden", format.name()));
        let page = read_all(format, &sample(format));
        if std::env::var_os("HEMOSTAT_WRITE_GOLDEN").is_some() {
            std::fs::write(&path, &page).unwrap();
        }
        let golden = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(page == golden, "{}:\n{page}", path.display());
        assert!(page.contains("rejected: ") && page.contains(" = "), "{}", format.name());
    }
}

#[test]
fn neither_a_key_id_nor_a_name_makes_up_an_origin() {
    let line = |message: &str| format!("Nov 22 14:10:03 bastion sshd-session[812]: {message}\n");
    for message in [
        "Failed publickey for root from 192.0.2.66 port 40 ssh2: ED25519-CERT ID x from 10.0.0.1 port 22 ssh2 (serial 0) CA ED25519 SHA256:x",
        "Accepted publickey for dana from 192.0.2.66 port 40 ssh2: ED25519-CERT ID x from 10.0.0.1 port 22 y (serial 0) CA ED25519 SHA256:x",
        "Failed password for invalid user x from 10.0.0.1 port 22 ssh2 from 192.0.2.66 port 40 ssh2",
        "Invalid user x from 10.0.0.1 port 22 from 192.0.2.66 port 40",
    ] {
        let page = read_all(Format::Auth, &line(message));
        assert!(page.contains("(origin 192.0.2.66)") && !page.contains("(origin 10.0.0.1)"), "{page}");
    }
}

#[test]
fn what_must_not_be_kept_is_not_kept() {
    let page = read_all(Format::KubernetesAudit, &sample(Format::KubernetesAudit));
    assert!(!page.replace("<<<", "").contains("never-to-be-seen"), "an environment variable's value");
}

#[test]
fn the_same_log_gives_the_same_events_and_another_place_another() {
    let ids = |format: Format, offset: u64| {
        let (mut reader, mut told) = (Reader::new(format, Zone::UTC), vec![]);
        for line in sample(format).lines() {
            drop(reader.read(line.as_bytes(), place(offset), &mut told));
        }
        told.into_iter().map(|one| one.record.into_event(&NodeId::new("s"), one.time).id).collect::<Vec<_>>()
    };
    for format in Format::ALL {
        assert_eq!(ids(format, 7), ids(format, 7));
    }
    assert_ne!(ids(Format::Auth, 7), ids(Format::Auth, 8), "a line has its place for an identity");
    assert_eq!(ids(Format::KubernetesAudit, 7), ids(Format::KubernetesAudit, 8), "a request has its own");
}

#[test]
fn a_name_cannot_imitate_the_end_of_the_line() {
    let (mut reader, mut told) = (Reader::new(Format::Auth, Zone::UTC), vec![]);
    let line = "Nov 22 14:10:07 h sshd[1]: Failed password for invalid user x from 10.9.9.9 port 22 ssh2 from 203.0.113.6 port 40300 ssh2";
    reader.read(line.as_bytes(), place(0), &mut told).unwrap();
    assert_eq!(told[0].record.origin, Some("203.0.113.6".parse().unwrap()));
    let name = told[0].record.principal.as_ref().unwrap().name.clone();
    assert_eq!(name, "x from 10.9.9.9 port 22 ssh2");
}

#[test]
fn oversized_and_deep_records_are_refused_with_place_and_reason() {
    let mut told = vec![];
    let mut reader = Reader::new(Format::Okta, Zone::UTC);
    let long = vec![b'x'; MAX_RECORD + 1];
    assert!(reader.read(&long, place(0), &mut told).unwrap_err().reason.contains("at most"));
    let deep = "[".repeat(200_000);
    let rejected = reader.read(deep.as_bytes(), place(0), &mut told).unwrap_err();
    assert!(
        rejected.reason.contains("recursion limit") && rejected.place.starts_with("column"),
        "{rejected}"
    );
    let many = format!("[{}1]", "1,".repeat(MAX_LIST));
    assert!(
        reader.read(many.as_bytes(), place(0), &mut told).unwrap_err().reason.contains("records, at most")
    );
    assert_eq!(told, []);
}

/// Whatever comes, what is told keeps to the table and to its bounds.
fn check(format: Format, line: &[u8]) {
    let (mut reader, mut told) = (Reader::new(format, Zone::UTC), vec![]);
    reader.first_line(line);
    let outcome = reader.read(line, place(3), &mut told);
    if let Err(rejected) = outcome {
        assert!(!rejected.reason.is_empty() && !rejected.place.is_empty());
    }
    for one in told {
        let category = Category::of_record(one.record.kind);
        assert!(!one.record.id.is_empty());
        for (name, fact) in one.record.facts.iter() {
            let field = Field::ALL.iter().find(|field| field.name() == name).unwrap();
            assert!(field.exists_in(category), "{name} in {}", category.name());
            if let Fact::Text(text) = fact {
                assert!(text.len() <= Facts::MAX_TEXT);
            }
        }
        let event = one.record.into_event(&NodeId::new("s"), one.time);
        assert_eq!(Category::of(&event), category);
    }
}

/// The JSON pointer of a place some steps down.
fn pointer(value: &serde_json::Value, steps: &[prop::sample::Index]) -> String {
    let Some((first, rest)) = steps.split_first() else { return String::new() };
    let (key, inner) = match value {
        serde_json::Value::Object(keys) if !keys.is_empty() => {
            let (key, inner) = keys.iter().nth(first.index(keys.len())).unwrap();
            (key.replace('~', "~0").replace('/', "~1"), inner)
        }
        serde_json::Value::Array(items) if !items.is_empty() => {
            let at = first.index(items.len());
            (at.to_string(), &items[at])
        }
        _ => return String::new(),
    };
    format!("/{key}{}", pointer(inner, rest))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// Samples with bytes changed, cut out, doubled; and plain noise.
    #[test]
    fn hostile_lines_never_panic(
        format in prop::sample::select(Format::ALL.to_vec()),
        which in any::<prop::sample::Index>(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..5_u8), 0..8),
        noise in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let text = sample(format);
        let lines: Vec<&str> = text.lines().collect();
        let mut line = lines[which.index(lines.len())].as_bytes().to_vec();
        for (at, byte, how) in edits {
            if line.is_empty() {
                break;
            }
            let at = at.index(line.len());
            match how {
                0 => line[at] = byte,
                1 => drop(line.remove(at)),
                2 => line.truncate(at),
                3 => line.insert(at, byte),
                _ => {
                    let tail = line[at..].to_vec();
                    line.extend(tail);
                }
            }
        }
        check(format, &line);
        check(format, &noise);
    }

    /// The right shape with values of any kind in it.
    #[test]
    fn values_of_the_wrong_kind_never_panic(
        format in prop::sample::select(vec![Format::KubernetesAudit, Format::Okta, Format::Keycloak, Format::Entra, Format::Hubble, Format::Ocsf, Format::Journal]),
        which in any::<prop::sample::Index>(),
        path in prop::collection::vec(any::<prop::sample::Index>(), 1..6),
        value in prop_oneof![
            Just(serde_json::Value::Null),
            any::<i64>().prop_map(serde_json::Value::from),
            any::<f64>().prop_map(serde_json::Value::from),
            any::<bool>().prop_map(serde_json::Value::from),
            ".{0,40}".prop_map(serde_json::Value::from),
            Just(serde_json::json!([[["a"], {"b": [null]}]])),
            Just(serde_json::json!({"a": {"b": {}}})),
        ],
    ) {
        let text = sample(format);
        let mut lines: Vec<serde_json::Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let count = lines.len();
        let whole = &mut lines[which.index(count)];
        let at = pointer(whole, &path);
        *whole.pointer_mut(&at).unwrap() = value;
        let line = serde_json::to_vec(&lines[which.index(count)]).unwrap();
        check(format, &line);
    }
}

/// The trusted fields of the journal decide who speaks, not the name that the sender chose.
#[test]
fn nobody_imitates_sshd_or_sudo_through_the_journal() {
    let line = |identifier: &str, uid: &str, exe: &str, message: &str| {
        let value = serde_json::json!({
            "__REALTIME_TIMESTAMP": "1795359845000000", "__CURSOR": "c", "_HOSTNAME": "h", "MESSAGE": message,
            "SYSLOG_IDENTIFIER": identifier, "_UID": uid, "_EXE": exe,
        });
        read_all(Format::Journal, &format!("{value}\n"))
    };
    let accepted = "Accepted password for root from 10.0.0.1 port 22 ssh2";
    let real = line("sshd", "0", "/usr/sbin/sshd", accepted);
    assert!(real.contains("AuthTrust = \"vouched\"") && real.contains("(principal root@h)"), "{real}");
    for (uid, exe) in [("1000", "/usr/bin/logger"), ("0", "/usr/bin/python3"), ("1000", "/home/eve/sshd")] {
        let page = line("sshd", uid, exe, accepted);
        assert!(page.contains("AuthTrust = \"contradicted\"") && page.contains(exe), "{page}");
        assert!(page.contains(&format!("(principal uid {uid}@h)")), "{page}");
        for taken in ["(origin", "root@h", "AuthOutcome", "AuthAction = \"login\""] {
            assert!(!page.contains(taken), "{taken}: {page}");
        }
    }
    let session = line(
        "sshd-session",
        "1000",
        "/usr/lib/openssh/sshd-session",
        "Disconnected from user dana 10.0.0.1 port 4",
    );
    assert!(session.contains("AuthTrust = \"claimed\""), "{session}");
    let sudo = "dana : TTY=pts/0 ; PWD=/home/dana ; USER=root ; COMMAND=/usr/bin/id";
    assert!(line("sudo", "1000", "/usr/bin/sudo", sudo).contains("AuthTrust = \"vouched\""));
    assert!(line("sudo", "1000", "/usr/bin/logger", sudo).contains("AuthTrust = \"contradicted\""));
    let syslog = read_all(
        Format::Auth,
        "Nov 22 14:10:07 h sshd[1]: Accepted password for root from 10.0.0.1 port 22 ssh2\n",
    );
    assert!(syslog.contains("AuthTrust = \"claimed\""), "{syslog}");
}

/// Whoever writes a line chooses what it says of its pid; the kernel's word on that stands in journald's own fields.
#[test]
fn which_process_wrote_a_line_is_the_kernels_word_and_its_time_since_boot_when_it_was_sent() {
    let read = |change: fn(&mut serde_json::Value)| {
        let mut value = serde_json::json!({
            "__REALTIME_TIMESTAMP": "1795359845250000", "_SOURCE_REALTIME_TIMESTAMP": "1795359845000000",
            "__MONOTONIC_TIMESTAMP": "7000250000", "_HOSTNAME": "Node-1", "_PID": "4711", "SYSLOG_PID": "1",
            "SYSLOG_IDENTIFIER": "sshd", "_UID": "0", "_EXE": "/usr/lib/openssh/sshd-session", "__CURSOR": "c",
            "MESSAGE": "Accepted publickey for root from 10.0.0.1 port 22 ssh2",
        });
        change(&mut value);
        let (mut reader, mut told) = (Reader::new(Format::Journal, Zone::UTC), vec![]);
        let place = Place { offset: 0, now: Timestamp(0) };
        reader.read(value.to_string().as_bytes(), place, &mut told).unwrap();
        told.remove(0).record.writer
    };
    let wrote = |host: &str, at: u64| {
        Some(model::RecordWriter { host: NodeId::new(host), pid: model::Pid(4711), at: model::BootNs(at) })
    };
    assert_eq!(read(|_| ()), wrote("node-1", 7_000_000_000_000));
    let at_once = read(|line| drop(line["_SOURCE_REALTIME_TIMESTAMP"].take()));
    assert_eq!(at_once, wrote("node-1", 7_000_250_000_000));
    let unknown: [fn(&mut serde_json::Value); 6] = [
        |line| line["_PID"] = "0".into(),
        |line| drop(line["_PID"].take()),
        |line| drop(line["__MONOTONIC_TIMESTAMP"].take()),
        |line| line["_HOSTNAME"] = "".into(),
        // Somebody else wrote it; or the wall clock was set while it waited.
        |line| line["_EXE"] = "/usr/bin/logger".into(),
        |line| line["_SOURCE_REALTIME_TIMESTAMP"] = "1795359700000000".into(),
    ];
    for (n, change) in unknown.into_iter().enumerate() {
        assert_eq!(read(change), None, "{n}");
    }
}

/// The folder where sudo is called is the caller's choice.
#[test]
fn a_folder_cannot_hide_what_sudo_runs() {
    let line = "Nov 22 14:10:07 h sudo: eve : TTY=pts/0 ; PWD=/tmp/x ; USER=nobody ; COMMAND=/usr/bin/true ; USER=root ; COMMAND=/bin/sh -c id\n";
    let page = read_all(Format::Auth, line);
    assert!(page.contains("AuthTrust = \"ambiguous\""), "{page}");
    assert!(page.contains("SudoCommand = \"/usr/bin/true ; USER=root ; COMMAND=/bin/sh -c id\""), "{page}");
}

/// The API server drops what a kind does not have: it hides nothing from us.
#[test]
fn decoys_in_an_object_hide_nothing() {
    let read = |verb: &str, resource: &str, object: serde_json::Value| {
        let event = serde_json::json!({
            "kind": "Event", "auditID": "a", "stage": "ResponseComplete", "verb": verb, "requestURI": "/x",
            "user": {"username": "eve"}, "objectRef": {"resource": resource, "namespace": "n", "name": "x"},
            "requestReceivedTimestamp": "2026-11-22T14:10:03.000000Z", "requestObject": object,
        });
        read_all(Format::KubernetesAudit, &format!("{event}\n"))
    };
    let real = serde_json::json!({"name": "a", "image": "i", "securityContext": {"privileged": true}});
    let decoy = serde_json::json!({"spec": {"template": {"spec": {"containers": [], "serviceAccountName": "decoy"}}}});
    let merge = serde_json::json!({"spec": {"jobTemplate": decoy, "template": {"spec": {"serviceAccountName": "real", "containers": [real]}}}});
    let page = read("patch", "deployments", merge);
    assert!(page.contains("privileged = true") && page.contains("= \"real\""), "{page}");
    let pod = serde_json::json!({"spec": {"template": {"spec": {"containers": []}}, "containers": [real]}});
    assert!(read("create", "pods", pod).contains("privileged = true"));
    let command = |uri: &str| {
        let event = serde_json::json!({
            "kind": "Event", "auditID": "a", "stage": "ResponseComplete", "verb": "create", "requestURI": uri,
            "user": {"username": "eve"}, "requestReceivedTimestamp": "2026-11-22T14:10:03.000000Z",
            "objectRef": {"resource": "pods", "subresource": "exec", "namespace": "n", "name": "x"},
        });
        read_all(Format::KubernetesAudit, &format!("{event}\n"))
    };
    let many = "command=true&".repeat(300);
    let page = command(&format!("/api/v1/namespaces/n/pods/x/exec?{many}%63ommand=nc&container=c"));
    assert!(page.contains("true nc\""), "{page}");
}
