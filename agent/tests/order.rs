//! In which order what happened comes out of the rings: what a judgement looks at comes before what is judged.

use std::{net::TcpListener, path::PathBuf, process::Command};

use hemostat_agent::{
    probe::{ProbeConfig, Probes},
    record::{Body, Record},
};
use model::{Activity, ClassPlan, EventClass, FilterPlan};

/// Not a test: it waits for peers, and its child is executed right after.
#[test]
fn server_with_a_child() {
    if std::env::var_os("HEMOSTAT_SERVER").is_none() {
        return;
    }
    let _listener = TcpListener::bind("127.0.0.1:0").unwrap();
    assert!(Command::new("/bin/true").status().unwrap().success());
}

/// The pins of this test.
struct Pins(PathBuf);

impl Drop for Pins {
    fn drop(&mut self) {
        let _gone = std::fs::remove_file(self.0.join("held"));
        let _gone = std::fs::remove_dir(&self.0);
    }
}

#[test]
fn a_listen_comes_before_what_its_process_starts_afterwards() {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: order of listen and exec: needs root");
        return;
    }
    let pins = PathBuf::from(format!("/sys/fs/bpf/hemostat-order-{}", std::process::id()));
    let config = ProbeConfig { pins: pins.clone(), ..ProbeConfig::default() };
    let _pins = Pins(pins);
    let plan = FilterPlan {
        classes: [(EventClass::Listen, ClassPlan::All), (EventClass::Exec, ClassPlan::All)].into(),
        hold: vec![],
    };
    let mut probes = match Probes::load(&config, &plan) {
        Ok(probes) => probes,
        Err(error) => {
            println!("SKIPPED: order of listen and exec: {error}");
            return;
        }
    };
    let mut reader = probes.reader().unwrap();
    // nobody reads meanwhile: both stand in the rings when they are looked at
    let server = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "server_with_a_child", "--test-threads=1"])
        .env("HEMOSTAT_SERVER", "1")
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let pid = server.id();
    assert!({ server }.wait().unwrap().success());
    let mut order = Vec::new();
    let mut note = |record: Record| match record.body {
        Body::Act(Activity::Listen { .. }) if record.task.key.pid.0 == pid => order.push("listen"),
        Body::Exec(_) if record.task.parent.pid.0 == pid => order.push("exec"),
        _ => {}
    };
    reader.look(&mut note).unwrap();
    assert_eq!(order, ["listen", "exec"]);
}
