//! What a machine withholds: the kernel's types, rights, a second processor, room on the disk. The real program in standalone, as a
//! person meets it. Needs root and eBPF; what is taken away is taken from a mount namespace or from one process, never from the machine.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "tests, and what they share; the runner counts lines of skips"
)]

mod place;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use place::{Place, RULES, skipped, until};

#[test]
fn without_the_kernels_types_it_says_where_they_should_be_and_what_to_do() {
    const HIDE: &str = "if [ -d /sys/kernel/btf ]; then mount -t tmpfs none /sys/kernel/btf; fi; exec";
    if skipped("a kernel without BTF", &["unshare"]) {
        return;
    }
    let place = Place::new();
    let said = place.start(HIDE).err().unwrap();
    assert!(
        said.contains("/sys/kernel/btf/vmlinux") && said.contains("CONFIG_DEBUG_INFO_BTF=y"),
        "the place and the next step: {said}"
    );
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", &format!("{HIDE} \"$@\""), "sh"])
        .args([env!("CARGO_BIN_EXE_hemostat"), "-o", "json", "doctor", "--no-hooks", "--state"])
        .arg(place.at("state"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let looks: Value = serde_json::from_slice(&output.stdout).unwrap();
    let look = looks.as_array().unwrap().iter().find(|look| look["what"] == "kernel types (BTF)").unwrap();
    assert_eq!(look["verdict"], "bad");
    assert!(look["found"].as_str().unwrap().contains("/sys/kernel/btf/vmlinux"), "{look}");
    assert!(look["next"].as_str().unwrap().contains("CONFIG_DEBUG_INFO_BTF=y"), "{look}");
}

/// Without CAP_NET_ADMIN the kernel takes no program on a cgroup's connections; the programs of tracepoints it takes.
#[test]
fn a_hook_that_fails_is_told_and_the_others_watch() {
    if skipped("a hook that fails to load", &["unshare", "setpriv"]) {
        return;
    }
    let place = Place::new();
    let _running = match place.start("exec setpriv --bounding-set=-net_admin,-sys_admin") {
        Ok(running) => running,
        Err(said) => {
            println!("SKIPPED: a hook that fails to load: standalone does not start here: {said}");
            return;
        }
    };
    let node = until("the node says how it is", || place.node());
    let hook =
        |name: &str| node["hooks"].as_array().unwrap().iter().find(|hook| hook["hook"] == name).unwrap();
    let (connect, exec) = (hook("connect").to_string(), hook("exec").to_string());
    assert!(connect.contains("failed") && connect.contains("Operation not permitted"), "{connect}");
    assert!(exec.contains("attached"), "{exec}");
    let degraded = node["degraded"].to_string();
    assert!(
        degraded.contains("hook connect is not attached") && !degraded.contains("hook exec"),
        "{degraded}"
    );
    let log = fs::read_to_string(place.at("log")).unwrap();
    assert!(log.contains("degraded: hook connect is not attached"), "said at the start, too: {log}");
    place.run_probe();
    until("what the live hooks see is not found", || place.has_incident_of_the_probe());
}

/// Mistake 6 of peers.md: reads that block the workers of the runtime. One processor, nothing happening: it answers, sees the one event
/// that comes, and ends when it is told.
#[test]
fn idle_on_one_processor_it_answers_sees_and_ends_when_told() {
    if skipped("one processor without traffic", &["unshare", "taskset"]) {
        return;
    }
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap().trim();
    let first = allowed.split([',', '-']).next().unwrap();
    let place = Place::new();
    let mut running = match place.start(&format!("exec taskset -c {first}")) {
        Ok(running) => running,
        Err(said) => {
            println!("SKIPPED: one processor without traffic: standalone does not start here: {said}");
            return;
        }
    };
    until("the node says how it is", || place.node());
    place.run_probe();
    until("the event was never seen", || place.has_incident_of_the_probe());
    assert_eq!(running.terminate().code(), Some(0));
    let log = fs::read_to_string(place.at("log")).unwrap();
    assert!(log.contains("the core has stopped"), "all of it has ended: {log}");
}

/// Mistakes 7 and 2 of peers.md: an agent that finds itself, and one that leaves others out by a name that they can choose.
#[test]
fn its_own_files_are_no_findings_and_a_program_of_its_name_is_seen() {
    if skipped("own events", &["unshare"]) {
        return;
    }
    let place = Place::new();
    let state = place.at("state").display().to_string();
    let rule = format!(
        "title: A File in the State Folder\nid: in-state\nlogsource: {{product: linux, category: file_event}}\n\
         detection: {{s: {{TargetFilename|startswith: {state}/}}, condition: s}}\nlevel: high\n"
    );
    fs::write(place.at("rules/state.yml"), rule).unwrap();
    let namesake = place.at("hemostat");
    place::program::copy("/usr/bin/touch", &namesake);
    let _running = match place.start("exec") {
        Ok(running) => running,
        Err(said) => {
            println!("SKIPPED: own events: standalone does not start here: {said}");
            return;
        }
    };
    // What is found of it has the agent write into its state folder.
    place.run_probe();
    until("the probe was never seen", || place.has_incident_of_the_probe());
    assert!(Command::new(&namesake).arg(place.at("state/by-another")).status().unwrap().success());
    let found = until("the namesake was never seen", || {
        let list = place.ask(&["incidents"])?;
        let ids = list.as_array()?.iter().filter_map(|incident| incident["id"].as_str().map(str::to_owned));
        let shown = ids.filter_map(|id| place.ask(&["incidents", "show", &id])).collect::<Vec<_>>();
        let findings =
            shown.iter().flat_map(|incident| incident["findings"].as_array().cloned().unwrap_or_default());
        let found: Vec<Value> = findings.filter(|finding| finding["rule"]["id"] == "in-state").collect();
        (!found.is_empty()).then_some(found)
    });
    let mine: Vec<&Value> =
        found.iter().filter(|finding| !finding.to_string().contains("state/by-another")).collect();
    assert!(mine.is_empty(), "it found itself: {mine:#?}");
}

/// A file system of 24 MB over the state folder, seen by everybody; taken away at the end whatever happens.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn over(folder: &Path) -> Option<Self> {
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=24m,mode=0700", "tmpfs"]).arg(folder);
        if mount.status().is_ok_and(|status| status.success()) {
            return Some(Self(folder.into()));
        }
        println!("SKIPPED: a full disk below the state folder: a tmpfs cannot be mounted here");
        None
    }

    fn fill(&self) {
        let (file, mut ballast) = (self.0.join("ballast"), Vec::new());
        while fs::write(&file, &ballast).is_ok() {
            ballast.resize(ballast.len() + (64 << 10), 1);
        }
    }

    fn empty(&self) {
        fs::remove_file(self.0.join("ballast")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let gone = Command::new("umount").arg("-l").arg(&self.0).status();
        assert!(std::thread::panicking() || gone.is_ok_and(|status| status.success()), "the tmpfs stays");
    }
}

#[test]
fn a_full_state_folder_is_said_and_no_finding_is_lost() {
    if skipped("a full disk below the state folder", &["unshare"]) {
        return;
    }
    let place = Place::new();
    let Some(disk) = SmallDisk::over(&place.at("state")) else { return };
    let mut running = match place.start("exec") {
        Ok(running) => running,
        Err(said) => {
            println!("SKIPPED: a full disk below the state folder: standalone does not start here: {said}");
            return;
        }
    };
    disk.fill();
    place.run_probe();
    let log = || fs::read_to_string(place.at("log")).unwrap();
    until("that the disk is full was never said", || {
        let log = log();
        (log.contains("the disk is full") && log.contains("No space left on device")).then_some(())
    });
    disk.empty();
    until("the finding is lost", || place.has_incident_of_the_probe());
    assert_eq!(running.terminate().code(), Some(0));
    let mut verify = Command::new(env!("CARGO_BIN_EXE_hemostat"));
    let verified = verify.args(["audit", "verify", "--state"]).arg(place.at("state")).output().unwrap();
    assert!(verified.status.success(), "the audit log is whole: {verified:?}");
    drop((running, disk));
}

/// What goes wrong with the rules of a running node takes none of them out of force, and it is told until it is mended.
#[test]
fn rules_that_are_broken_or_away_at_sighup_stay_in_force_and_the_status_says_where() {
    if skipped("rules that break while it runs", &["unshare"]) {
        return;
    }
    let place = Place::new();
    let mut running = match place.start("exec") {
        Ok(running) => running,
        Err(said) => {
            println!("SKIPPED: rules that break while it runs: standalone does not start here: {said}");
            return;
        }
    };
    let told = |what: &str| {
        running.signal(rustix::process::Signal::HUP);
        until(what, || {
            let node = place.node()?;
            let said = node["degraded"].to_string();
            let board = place.ask(&["status"])?["health"]["problems"].to_string();
            let known = said.contains(what) && said.contains("stays in force") && board.contains(what);
            known.then(|| assert_eq!(node["rules"], 2, "{node}"))
        });
    };
    fs::write(place.at("rules/probe.yml"), RULES.replacen("Image|endswith", "Image|endzwith", 1)).unwrap();
    told("rules/probe.yml:4:23: unknown modifier `endzwith`");
    let log = fs::read_to_string(place.at("log")).unwrap();
    assert!(log.contains("did you mean `endswith`"), "the log shows the place: {log}");
    fs::rename(place.at("rules"), place.at("elsewhere")).unwrap();
    told("rules: cannot be read: No such file");
    fs::create_dir(place.at("rules")).unwrap();
    told("rules: holds no rule file any more");
    place.run_probe();
    until("a rule that is broken on disk found nothing", || place.has_incident_of_the_probe());
    fs::write(place.at("rules/probe.yml"), RULES).unwrap();
    running.signal(rustix::process::Signal::HUP);
    until("what is mended is still told", || {
        let (node, status) = (place.node()?, place.ask(&["status"])?);
        let all = format!("{}{}", node["degraded"], status["health"]["problems"]);
        (!all.contains("before stays in force")).then_some(())
    });
    assert_eq!(running.terminate().code(), Some(0));
}
