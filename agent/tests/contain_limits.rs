//! Containment where the machine does not give everything: no jail to be made, a disk that is full, a bpffs that is not mounted, parents
//! that have ended.

#![expect(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "tests, and what they share")]

mod ground;

use std::{fs, sync::Arc};

use ground::{Ground, cgroup_of, key, now, process, state_of, wait_for};
use hemostat_agent::contain::{Lineage, Which};
use model::{
    ActionFailure, FreezeScope, KillScope, NetQuarantine, NodeAction, PhaseDone, ProcessKey, RollbackState,
};

const TREE: &str = "sleep 1000 & (sleep 1000; true) & while :; do :; done";

fn tree(ground: &Ground) -> u32 {
    let root = ground.shell(TREE);
    ground.await_members(4);
    wait_for("the sleepers", || {
        let names = ground
            .members()
            .into_iter()
            .map(|pid| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default());
        names.filter(|name| name.trim() == "sleep").count() == 2
    });
    // the sleepers and the shell that waits for one
    wait_for("the others to rest", || {
        ground.members().into_iter().filter(|pid| *pid != root).all(|pid| state_of(pid) == Some('S'))
    });
    root
}

/// Ways in which no jail can be made below a cgroup.
fn forbid_jails(ground: &Ground, how: &str) {
    match how {
        "no descendants" => fs::write(ground.cgroup.join("cgroup.max.descendants"), "0").unwrap(),
        "threaded" => {
            let (sub, _) = ground.sub("threads");
            fs::write(sub.join("cgroup.type"), "threaded").unwrap();
        }
        other => panic!("{other}"),
    }
}

#[test]
fn i5_without_a_jail_the_tree_is_stopped_and_only_ours_goes_on() {
    for how in ["no descendants", "threaded"] {
        let Some(ground) = Ground::new("fallback") else { return };
        let root = tree(&ground);
        let theirs =
            ground.members().into_iter().find(|pid| *pid != root && state_of(*pid) == Some('S')).unwrap();
        let raw = rustix::process::Pid::from_raw(i32::try_from(theirs).unwrap()).unwrap();
        rustix::process::kill_process(raw, rustix::process::Signal::STOP).unwrap();
        wait_for("their stop", || state_of(theirs) == Some('T'));
        forbid_jails(&ground, how);
        let before = ground.snapshot();
        let contain = ground.contain();
        let record = contain.react_freeze(key(root), now()).unwrap();
        let Some(RollbackState::Freeze { stopped, .. }) = &record.rollback else { panic!("{record:?}") };
        assert_eq!(stopped.len(), 4, "{how}");
        // one that has not come to its stop yet has it pending
        wait_for("all to stand", || ground.members().into_iter().all(|pid| state_of(pid) == Some('T')));
        // an accomplice continues one of them
        let raw = rustix::process::Pid::from_raw(i32::try_from(root).unwrap()).unwrap();
        rustix::process::kill_process(raw, rustix::process::Signal::CONT).unwrap();
        assert_eq!(contain.watch(now()).len(), 1, "{how}");
        wait_for("it to stand again", || state_of(root) == Some('T'));
        let lifted = contain.release(&Which::All);
        assert!(matches!(lifted[0].result, Ok(PhaseDone::Reverted { .. })), "{lifted:?}");
        wait_for("ours to go on", || ground.snapshot() == before);
        assert_eq!(state_of(theirs), Some('T'), "{how}");
        // and killed without one
        contain.react(NodeAction::Kill(KillScope::Subtree), process(root), now()).unwrap();
        wait_for("their end", || ground.members().is_empty());
    }
}

#[test]
fn a_full_disk_refuses_and_leaves_nothing_half_done() {
    let Some(ground) = Ground::new("full disk") else { return };
    let state = ground.dir.path().join("state");
    fs::create_dir(&state).unwrap();
    let small =
        rustix::mount::mount("tmpfs", &state, "tmpfs", rustix::mount::MountFlags::empty(), c"size=64k");
    if let Err(error) = small {
        println!("SKIPPED: full disk: no tmpfs can be mounted: {error}");
        return;
    }
    let _mounted = Mounted(state.clone());
    let root = tree(&ground);
    let before = ground.snapshot();
    let contain = ground.contain();
    while fs::write(state.join(format!("fill-{}", fs::read_dir(&state).unwrap().count())), [0; 4096]).is_ok()
    {
    }
    let refused = contain.react_freeze(key(root), now());
    assert!(matches!(refused, Err(ActionFailure::Io { .. })), "{refused:?}");
    assert_eq!(ground.snapshot(), before);
    for entry in fs::read_dir(&state).unwrap().flatten() {
        if entry.file_name().to_string_lossy().starts_with("fill-") {
            fs::remove_file(entry.path()).unwrap();
        }
    }
    contain.react_freeze(key(root), now()).unwrap();
    contain.release(&Which::All);
    assert_eq!(ground.snapshot(), before);
}

/// The disk is full from the middle of a freeze on: in whichever line the room ends, what is said is what is so.
#[test]
fn i7_a_disk_that_fills_in_the_middle_neither_frees_nor_lies() {
    let Some(ground) = Ground::new("filling disk") else { return };
    let state = ground.dir.path().join("state");
    fs::create_dir(&state).unwrap();
    let small =
        rustix::mount::mount("tmpfs", &state, "tmpfs", rustix::mount::MountFlags::empty(), c"size=256k");
    if let Err(error) = small {
        println!("SKIPPED: filling disk: no tmpfs can be mounted: {error}");
        return;
    }
    let _mounted = Mounted(state.clone());
    let root = tree(&ground);
    let leaf = ground.members().into_iter().find(|pid| *pid != root && state_of(*pid) == Some('S')).unwrap();
    let before = ground.snapshot();
    let journal = state.join("journal");
    let mut fills = Vec::new();
    let mut count = 0;
    let mut fill = |fills: &mut Vec<std::path::PathBuf>| {
        loop {
            count += 1;
            let at = state.join(format!("fill-{count}"));
            if fs::write(&at, [0; 4096]).is_err() {
                fs::remove_file(at).unwrap();
                break;
            }
            fills.push(at);
        }
    };
    let mut contain = ground.contain();
    fill(&mut fills);
    let (mut refused, mut unwritten) = (0, 0);
    for round in 0..200 {
        // of different lengths in the journal, so that the room ends in every kind of line
        let of = if round % 3 == 0 { root } else { leaf };
        let full = match contain.react_freeze(key(of), now()) {
            Err(failure) => {
                assert!(matches!(failure, ActionFailure::Io { .. }), "{failure:?}");
                assert_eq!(ground.snapshot(), before, "refused, so nothing is done");
                assert!(contain.in_force().is_empty());
                true
            }
            Ok(record) => {
                assert!(cgroup_of(of).unwrap().contains("hemostat-jail-"));
                assert_eq!(contain.in_force(), std::slice::from_ref(&record));
                let text = fs::read_to_string(&journal).unwrap();
                let written = text
                    .split_inclusive('\n')
                    .filter(|line| line.ends_with("}\n"))
                    .any(|line| line.contains("\"line\":\"applied\"") && line.contains(record.id.as_str()));
                if !written {
                    // the agent dies before there is room again: its successor finds the decision and keeps to it
                    unwritten += 1;
                    drop(contain);
                    fills.drain(..).for_each(|fill| fs::remove_file(fill).unwrap());
                    contain = ground.contain();
                    let recovered = contain.recover(now());
                    assert!(recovered.iter().all(|one| one.failure.is_none()), "{recovered:?}");
                    assert!(cgroup_of(of).unwrap().contains("hemostat-jail-"));
                    assert_eq!(contain.in_force().len(), 1);
                    fill(&mut fills);
                }
                contain.release(&Which::All).iter().any(|lifted| lifted.result.is_err())
            }
        };
        if full {
            refused += 1;
            // room for some more lines
            let Some(page) = fills.pop() else { break };
            fs::remove_file(page).unwrap();
            contain.release(&Which::All);
        }
        assert_eq!(ground.snapshot(), before);
        if unwritten > 2 && refused > 2 {
            return;
        }
    }
    // how often the disk is full at just that moment is a matter of the lengths of lines: once shows it, more are taken where they come
    assert!(
        refused > 0 && unwritten > 0,
        "{refused} refused, {unwritten} unwritten: the disk was never full at the right moment"
    );
}

struct Mounted(std::path::PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _unmounted = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

#[test]
fn bpffs_is_mounted_where_it_is_not_and_taken_away_again() {
    let Some(ground) = Ground::new("bpffs") else { return };
    let at = ground.dir.path().join("own-bpffs");
    let mut config = ground.config();
    config.bpffs = at.clone();
    let contain = ground::open(&config);
    let quarantine = NodeAction::NetQuarantine(NetQuarantine::default());
    let done = contain.react(quarantine, ground.target(), now());
    let _mounted = Mounted(at.clone());
    if let Err(ActionFailure::Io { because, .. }) = &done
        && because.contains("not permitted")
    {
        println!("SKIPPED: bpffs: {because}");
        return;
    }
    done.unwrap();
    let mounts = || fs::read_to_string("/proc/self/mounts").unwrap();
    let line = format!(" {} bpf ", at.display());
    assert!(mounts().contains(&line));
    assert!(contain.uninstall().is_err(), "not while something is in force");
    contain.release(&Which::All);
    // Somebody who looks at mounts at this very moment keeps it busy, and then it is left.
    wait_for("it to be unmounted", || {
        contain.uninstall().unwrap();
        !mounts().contains(&line)
    });
    contain.uninstall().unwrap();
}

/// Knows one descendant that /proc has forgotten.
struct Memory(ProcessKey);

impl Lineage for Memory {
    fn descendants(&self, _: ProcessKey) -> Vec<ProcessKey> {
        vec![self.0]
    }
}

#[test]
fn an_orphan_that_the_process_tree_remembers_is_frozen_too() {
    let Some(ground) = Ground::new("orphan") else { return };
    let mark = ground.dir.path().join("orphan");
    let script =
        format!("(sleep 1000 & echo $! > {}.new; mv {0}.new {0}); while :; do :; done", mark.display());
    let root = ground.shell(&script);
    wait_for("the orphan", || mark.exists());
    let orphan: u32 = fs::read_to_string(&mark).unwrap().trim().parse().unwrap();
    wait_for("its parent's end", || ground.members().len() == 2 && ground.members().contains(&orphan));
    let before = ground.snapshot();
    let mut config = ground.config();
    config.lineage = Some(Arc::new(Memory(key(orphan))));
    let contain = ground::open(&config);
    contain.react(NodeAction::Freeze(FreezeScope::Subtree), process(root), now()).unwrap();
    let jail = cgroup_of(root).unwrap();
    assert!(jail.contains("hemostat-jail-"));
    assert_eq!(cgroup_of(orphan).unwrap(), jail);
    contain.release(&Which::All);
    assert_eq!(ground.snapshot(), before);
}

/// Not a test: an agent that may have few files open, and contains a tree that is larger.
#[test]
fn agent_with_few_files() {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let Ok(errand) = std::env::var("HEMOSTAT_FEW_FILES") else { return };
    let (state, root) = errand.split_once(' ').unwrap();
    setrlimit(Resource::Nofile, Rlimit { current: Some(128), maximum: Some(128) }).unwrap();
    let node = model::NodeId::new("test-node");
    let config = hemostat_agent::contain::ContainConfig::new(node, state.into());
    let contain = ground::open(&config);
    let root = root.parse().unwrap();
    contain.react_freeze(key(root), now()).unwrap();
    let jail = cgroup_of(root).unwrap();
    assert!(jail.contains("hemostat-jail-"));
    contain.react(NodeAction::Kill(KillScope::Subtree), process(root), now()).unwrap();
    contain.release(&Which::All);
}

#[test]
fn i11_a_tree_of_more_processes_than_open_files_is_contained() {
    const CHILDREN: usize = 300;
    let Some(ground) = Ground::new("few files") else { return };
    let root =
        ground.shell(&format!("i=0; while [ $i -lt {CHILDREN} ]; do sleep 1000 & i=$((i+1)); done; wait"));
    ground.await_members(CHILDREN + 1);
    let errand = format!("{} {root}", ground.dir.path().join("state").display());
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "agent_with_few_files", "--nocapture", "--test-threads=1"]);
    let output = command.env("HEMOSTAT_FEW_FILES", errand).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    wait_for("their end", || ground.members().is_empty());
}

/// What a failed action did cannot be taken back at once: it is not over until it is.
#[test]
fn i7_a_clean_up_that_fails_is_tried_again() {
    let Some(ground) = Ground::new("clean-up") else { return };
    let state = ground.dir.path().join("state");
    fs::create_dir(&state).unwrap();
    let small =
        rustix::mount::mount("tmpfs", &state, "tmpfs", rustix::mount::MountFlags::empty(), c"size=64k");
    if let Err(error) = small {
        println!("SKIPPED: clean-up: no tmpfs can be mounted: {error}");
        return;
    }
    let _mounted = Mounted(state.clone());
    // more than fits into what is left of the journal's last page
    let root = ground.shell("i=0; while [ $i -lt 60 ]; do sleep 1000 & i=$((i+1)); done; wait");
    ground.await_members(61);
    wait_for("all to rest", || ground.members().into_iter().all(|pid| state_of(pid) == Some('S')));
    let before = ground.snapshot();
    let mut config = ground.config();
    let (disk, cgroup) = (state.clone(), ground.cgroup.clone());
    let jail = move || {
        let names = fs::read_dir(&cgroup).unwrap().flatten().map(|entry| entry.path());
        names.into_iter().find(|path| path.display().to_string().contains("hemostat-jail-"))
    };
    let in_the_way = jail.clone();
    config.on_step = Some(Arc::new(move |step| match step {
        // nothing more can be written down from now on, so the freeze fails
        "jail" => {
            let mut count = 0;
            while fs::write(disk.join(format!("fill-{count}")), [0; 4096]).is_ok() {
                count += 1;
            }
        }
        // and its jail cannot be removed
        "remove jail" => {
            let jail = in_the_way().unwrap();
            let _raised = fs::write(jail.join("cgroup.max.descendants"), "max");
            let _there = fs::create_dir(jail.join("in-the-way"));
        }
        _ => {}
    }));
    let contain = ground::open(&config);
    let refused = contain.react_freeze(key(root), now());
    assert!(matches!(refused, Err(ActionFailure::Io { .. })), "{refused:?}");
    let records = contain.in_force();
    assert!(matches!(&records[..], [one] if one.state == model::ActionState::Reverting), "{records:?}");
    contain.watch(now());
    assert_eq!(contain.in_force().len(), 1, "it still does not go");
    drop(contain);
    for entry in fs::read_dir(&state).unwrap().flatten() {
        if entry.file_name().to_string_lossy().starts_with("fill-") {
            fs::remove_file(entry.path()).unwrap();
        }
    }
    let contain = ground.contain();
    contain.recover(now());
    contain.watch(now());
    let _gone = jail().map(|jail| fs::remove_dir(jail.join("in-the-way")));
    contain.watch(now());
    assert!(contain.in_force().is_empty());
    wait_for("all to be as before", || ground.snapshot() == before);
}
