//! `hemostat release` on the worst night: no agent, no journal, or no rights.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "tests, and what they share")]

mod program;

use std::{
    fs,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::PathBuf,
    process::{Child, Command, Output},
};

use agent::contain::journals_in_use;

fn hemostat(words: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hemostat"));
    command.env_remove("HEMOSTAT_SOCKET").env_remove("HEMOSTAT_STATE");
    said(command.args(["--socket", "/nonexistent/control.sock"]).args(words).output().unwrap())
}

fn said(output: Output) -> (Option<i32>, String) {
    (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
}

/// A process that stands frozen in a jail, as an agent leaves it; both go with the guard.
struct Frozen {
    around: PathBuf,
    jail: PathBuf,
    child: Child,
}

impl Frozen {
    fn new() -> Option<Self> {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let mount = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let mount = mount.filter(|words| words[2] == "cgroup2").map(|words| PathBuf::from(words[1])).next();
        let around = mount.map(|mount| mount.join(format!("hemostat-test-release-{}", std::process::id())));
        let Some(around) = around.filter(|around| fs::create_dir(around).is_ok()) else {
            println!("SKIPPED: no cgroup can be made: not root, or no cgroup v2");
            return None;
        };
        let jail = around.join("hemostat-jail-00112233445566aa");
        let child = Command::new("sleep").arg("1000").spawn().unwrap();
        let frozen = Self { around, jail, child };
        fs::create_dir(&frozen.jail).unwrap();
        fs::write(frozen.jail.join("cgroup.freeze"), "1").unwrap();
        fs::write(frozen.jail.join("cgroup.procs"), frozen.child.id().to_string()).unwrap();
        Some(frozen)
    }

    fn is_in(&self, cgroup: &std::path::Path) -> bool {
        let inside = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
        inside.lines().any(|line| line == self.child.id().to_string())
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let _killed = self.child.kill();
        let _reaped = self.child.wait();
        let _removed = fs::remove_dir(&self.jail);
        let _removed = fs::remove_dir(&self.around);
    }
}

#[test]
fn i7_without_a_journal_it_still_finds_and_opens_what_stands_frozen() {
    let Some(frozen) = Frozen::new() else { return };
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("none").display().to_string();
    let name = "hemostat-jail-00112233445566aa";
    let (code, text) = hemostat(&["release", "--state", &state]);
    assert!(code == Some(1) && text.contains(name) && text.contains("1 process"), "{code:?} {text}");
    let (code, text) = hemostat(&["release", "--all", "--state", &state]);
    if text.contains("left alone") || !journals_in_use(None).is_empty() && frozen.is_in(&frozen.jail) {
        assert!(code == Some(1) && frozen.is_in(&frozen.jail), "{code:?} {text}");
        println!("SKIPPED: opening it: another process holds a containment journal here: {text}");
        return;
    }
    assert!(code == Some(0) && text.contains(name) && text.contains("is unknown"), "{code:?} {text}");
    assert!(frozen.is_in(&frozen.around) && !frozen.jail.exists(), "{text}");
    assert!(!dir.path().join("none").exists(), "nothing is made in a folder that was not there");
}

#[test]
fn what_cannot_be_looked_at_without_root_is_not_called_empty() {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: not root: this test takes root away from a process, which needs root");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = dir.path().join("hemostat");
    program::copy(env!("CARGO_BIN_EXE_hemostat"), &program);
    let state = dir.path().join("state");
    fs::create_dir_all(state.join("node/contain")).unwrap();
    fs::set_permissions(&state, fs::Permissions::from_mode(0o700)).unwrap();
    let state = state.display().to_string();
    for words in [&["release"][..], &["release", "--all"], &["audit", "verify"]] {
        let mut command = Command::new(&program);
        let output = command.args(words).args(["--state", &state]).uid(65534).gid(65534).output().unwrap();
        let (code, text) = said(output);
        assert!(code == Some(4) && text.contains("needs root"), "{words:?}: {code:?} {text}");
    }
}
