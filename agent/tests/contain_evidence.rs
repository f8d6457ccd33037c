//! Evidence of real processes: complete, bounded, without secrets, and tamper-evident.

#![expect(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "tests, and what they share")]

mod ground;

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf, process::Command, time::Duration};

use ground::{Ground, fuse::Fuse, key, now, process};
use hemostat_agent::{
    aside::Patience,
    contain::{Contain, EvidenceLimits, Which},
    tree::{ProcSource, Procfs},
};
use model::{
    ActionId, CaptureEvidence, Effect, MemoryCapture, NodeAction, Phase, PhaseDone, RollbackState, Target,
};
use serde_json::Value;
use sha2::{Digest, Sha256};

const SECRET: &str = "hunter2-swordfish";

fn capture(
    contain: &Contain,
    target: &Target,
    memory: MemoryCapture,
) -> (model::NodeCommand, model::Outputs) {
    let apply = model::NodeCommand {
        key: model::CommandKey::new("k"),
        action_id: ActionId::new("act-evidence"),
        incident: model::IncidentId::new("inc-1"),
        node: model::NodeId::new("test-node"),
        deadline: model::Timestamp(i64::MAX),
        action: NodeAction::CaptureEvidence(CaptureEvidence { memory }),
        target: target.clone(),
        phase: Phase::Apply { rollback: RollbackState::Nothing },
    };
    match contain.handle(&apply, now()).result {
        Ok(PhaseDone::Applied { outputs }) => (apply, outputs),
        other => panic!("{other:?}"),
    }
}

fn bundle(outputs: &model::Outputs) -> PathBuf {
    PathBuf::from(outputs["path"].as_str().unwrap())
}

fn json(path: PathBuf) -> Value {
    serde_json::from_slice(&fs::read(&path).unwrap()).unwrap()
}

/// A program with a secret in its arguments, its environment and its memory, run from a file that is gone.
fn suspect(ground: &Ground) -> u32 {
    let copy = ground.dir.path().join("tool");
    // by another program: a child that a test beside this one forks meanwhile would hold our descriptor of it ("text file busy")
    assert!(
        Command::new("cp").arg(fs::canonicalize("/bin/sh").unwrap()).arg(&copy).status().unwrap().success()
    );
    let script = "x=in-memory-marker; while :; do sleep 1000; done";
    let pid = ground.start(
        Command::new(&copy)
            .args(["-c", script, "name\nwith newline", "--password", SECRET])
            .env("DB_PASSWORD", SECRET)
            .stdin(fs::File::open("/dev/null").unwrap()),
    );
    ground.await_members(2);
    fs::remove_file(&copy).unwrap();
    pid
}

#[test]
fn evidence_is_whole_and_masked_and_its_change_is_found() {
    let Some(ground) = Ground::new("evidence") else { return };
    let pid = suspect(&ground);
    let binary = fs::read(fs::canonicalize("/bin/sh").unwrap()).unwrap();
    let before = ground.snapshot();
    let contain = ground.contain();
    let (apply, outputs) = capture(&contain, &process(pid), MemoryCapture::None);
    assert_eq!(ground.snapshot(), before, "it changes nothing");
    let bundle = bundle(&outputs);
    let sum = hex::encode(Sha256::digest(&binary));
    assert_eq!(fs::read(bundle.join("binaries").join(&sum)).unwrap(), binary, "though its file is gone");
    let facts = json(bundle.join(format!("{pid}/process.json")));
    assert_eq!(facts["exe_sha256"], sum);
    assert!(facts["exe"].as_str().unwrap().ends_with("(deleted)"));
    assert_eq!(facts["descriptors"]["0"]["target"], "/dev/null");
    assert_eq!(facts["arguments"][3], "name\nwith newline");
    for name in ["status", "maps", "cgroup", "mountinfo", "limits"] {
        assert!(fs::metadata(bundle.join(format!("{pid}/{name}"))).unwrap().len() > 0, "{name}");
    }
    let tree = json(bundle.join("tree.json"));
    assert_eq!(tree["targets"].as_array().unwrap().len(), 2, "the process and its child");
    let pids: Vec<u64> =
        tree["processes"].as_array().unwrap().iter().map(|one| one["pid"].as_u64().unwrap()).collect();
    assert!(pids.contains(&1) && pids.contains(&u64::from(std::process::id())), "ancestors, too: {pids:?}");
    let manifest = json(bundle.join("manifest.json"));
    let listed: Vec<&str> =
        manifest["files"].as_array().unwrap().iter().map(|file| file["path"].as_str().unwrap()).collect();
    let mut all = 0;
    visit(&bundle, &mut |path| {
        all += 1;
        let name = path.strip_prefix(&bundle).unwrap().to_str().unwrap();
        assert!(name == "manifest.json" || listed.contains(&name), "{name} is not in the manifest");
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
        let content = fs::read(path).unwrap();
        let found = content.windows(SECRET.len()).any(|window| window == SECRET.as_bytes());
        assert!(!found, "the secret is in {name}");
    });
    assert_eq!(all, listed.len() + 1);
    let text = fs::read(bundle.join("manifest.json")).unwrap();
    assert_eq!(outputs["manifest_sha256"], hex::encode(Sha256::digest(&text)));

    let verify = model::NodeCommand { phase: Phase::Verify { rollback: RollbackState::Nothing }, ..apply };
    let look = || contain.handle(&verify, now()).result;
    assert_eq!(look(), Ok(PhaseDone::Verified { effect: Effect::InForce }));
    let victim = bundle.join(format!("{pid}/status"));
    let original = fs::read(&victim).unwrap();
    let missing = |result| matches!(result, Ok(PhaseDone::Verified { effect: Effect::Missing { .. } }));
    fs::write(&victim, "changed").unwrap();
    assert!(missing(look()));
    fs::write(&victim, original).unwrap();
    assert_eq!(look(), Ok(PhaseDone::Verified { effect: Effect::InForce }));
    fs::write(bundle.join("manifest.json"), [&text[..], b" "].concat()).unwrap();
    assert!(missing(look()), "the manifest itself");
}

#[test]
fn memory_is_taken_with_its_addresses() {
    let Some(ground) = Ground::new("memory") else { return };
    let pid = suspect(&ground);
    let contain = ground.contain();
    contain.react_freeze(key(pid), now()).unwrap();
    let (_, outputs) = capture(&contain, &process(pid), MemoryCapture::Private);
    let bundle = bundle(&outputs);
    let memory = fs::read(bundle.join(format!("{pid}/memory.bin"))).unwrap();
    let index = json(bundle.join(format!("{pid}/memory.json")));
    let entries = index.as_array().unwrap();
    assert_eq!(entries.iter().map(|one| one["length"].as_u64().unwrap()).sum::<u64>(), memory.len() as u64);
    assert!(entries.iter().any(|one| one["mapping"] == "[stack]"));
    let marker = b"in-memory-marker";
    assert!(memory.windows(marker.len()).any(|window| window == marker));
}

#[test]
fn i11_a_bundle_is_bounded_and_says_what_is_missing() {
    let Some(ground) = Ground::new("bounded evidence") else { return };
    let pid = suspect(&ground);
    let mut config = ground.config();
    config.evidence = EvidenceLimits {
        processes: 1,
        proc_file_bytes: 100,
        binary_bytes: 1000,
        memory_bytes: 8192,
        bundle_bytes: 200_000,
        ..EvidenceLimits::default()
    };
    let contain = ground::open(&config);
    let (_, outputs) = capture(&contain, &process(pid), MemoryCapture::Private);
    assert!(outputs["bytes"].as_u64().unwrap() <= 200_000);
    let manifest = json(bundle(&outputs).join("manifest.json"));
    let notes: Vec<&str> =
        manifest["incomplete"].as_array().unwrap().iter().map(|note| note.as_str().unwrap()).collect();
    for word in ["maps: cut", "binaries/", "memory.bin"] {
        assert!(notes.iter().any(|note| note.contains(word)), "{word}: {notes:?}");
    }
    drop(contain);
    config.evidence.store_bytes = 10;
    let contain = ground::open(&config);
    let full = contain.react(NodeAction::CaptureEvidence(CaptureEvidence::default()), process(pid), now());
    assert!(matches!(full, Err(model::ActionFailure::Unsupported { .. })), "{full:?}");
}

#[test]
fn sockets_of_the_process_are_listed() {
    let Some(ground) = Ground::new("evidence sockets") else { return };
    let mut puppet = ground::puppet::Puppet::new(Some(&ground));
    // loopback is down in the new namespace: a socket that is bound to any address needs none
    assert_eq!(puppet.tell("echo 0.0.0.0:7007"), "ok");
    let contain = ground.contain();
    let (_, outputs) = capture(&contain, &process(puppet.pid()), MemoryCapture::None);
    let facts = json(bundle(&outputs).join(format!("{}/process.json", puppet.pid())));
    let port = format!(":{:04X}", 7007);
    for table in ["tcp", "udp"] {
        assert!(facts["sockets"][table][0].as_str().unwrap().contains(&port), "{facts}");
    }
}

/// A program may bring its filesystem with it, and so freeze the server of its own file with itself.
#[test]
fn i11_a_file_that_never_answers_is_said_to_be_missing_and_holds_nobody_up() {
    let Some(ground) = Ground::new("silent file") else { return };
    let sleep = fs::read(fs::canonicalize("/bin/sleep").unwrap()).unwrap();
    let Some(fuse) = Fuse::serve(&ground.dir.path().join("fuse"), sleep) else { return };
    let pid = ground.start(Command::new(fuse.tool()).arg("1000"));
    let shell = ground.shell("exec sleep 1000");
    fuse.fall_silent();
    let mut config = ground.config();
    config.evidence.patience = Patience { silence: Duration::from_millis(300), all: Duration::from_secs(20) };
    let contain = ground::open(&config);
    let (_, outputs) = capture(&contain, &ground.target(), MemoryCapture::Private);
    let bundle = bundle(&outputs);
    let manifest = json(bundle.join("manifest.json"));
    let notes: Vec<&str> =
        manifest["incomplete"].as_array().unwrap().iter().map(|note| note.as_str().unwrap()).collect();
    let said = format!("/proc/{pid}/exe: not taken: it did not answer in");
    assert!(notes.iter().any(|note| note.starts_with(&said)), "{notes:?}");
    assert!(fs::metadata(bundle.join(format!("{pid}/status"))).unwrap().len() > 0, "the rest is there");
    let facts = json(bundle.join(format!("{pid}/process.json")));
    assert_eq!(facts["exe_sha256"], Value::Null);
    assert_eq!(facts["arguments"][1], "1000");
    let other = json(bundle.join(format!("{shell}/process.json")));
    assert!(other["exe_sha256"].is_string(), "who comes after it is whole");
    // nor does the process tree wait for it
    let found = Procfs::new().all().into_iter().find(|facts| facts.pid.0 == pid).unwrap();
    assert!(found.exe.ends_with("/fuse/tool") && found.exe_file.inode != 0, "{found:?}");
    // and the next command is done
    let frozen = contain.react_freeze(key(pid), now()).unwrap();
    contain.release(&Which::One(frozen.id));
}

/// Not a test: the program that the tests start.
#[test]
fn puppet() {
    ground::puppet::perform();
}

fn visit(dir: &std::path::Path, each: &mut dyn FnMut(&std::path::Path)) {
    for entry in fs::read_dir(dir).unwrap().flatten() {
        if entry.file_type().unwrap().is_dir() {
            visit(&entry.path(), each);
        } else {
            each(&entry.path());
        }
    }
}
