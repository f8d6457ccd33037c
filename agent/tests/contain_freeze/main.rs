//! Freeze, stop and kill on the real kernel.

#![expect(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "tests, and what they share")]

mod command;
#[path = "../ground/mod.rs"]
mod ground;
mod hold;
mod kill;
mod property;
mod protect;
mod stop;
mod undo;

use std::{fs, process::Command};

use ground::{Ground, wait_for};
use model::{
    ActionId, CommandKey, FreezeScope, IncidentId, NodeAction, NodeCommand, NodeId, Phase, Target, Timestamp,
};
use rustix::process::Signal;

const SUBTREE: NodeAction = NodeAction::Freeze(FreezeScope::Subtree);
const CGROUP: NodeAction = NodeAction::Freeze(FreezeScope::Cgroup);

/// `sh TREE W1 W2 …` is a process with W1 children, each of which has W2 children, …
const TREE: &str = r#"w=$1; [ $# -gt 0 ] && shift; i=0
while [ $i -lt ${w:-0} ]; do sh "$0" "$@" & i=$((i+1)); done
if [ ${w:-0} = 0 ]; then exec sleep 1000; fi
wait"#;

fn tree(ground: &Ground, widths: &[u32]) -> u32 {
    let script = ground.dir.path().join("tree.sh");
    fs::write(&script, TREE).unwrap();
    let root = ground.start(Command::new("sh").arg(&script).args(widths.iter().map(u32::to_string)));
    let mut level = 1;
    let mut count = 1;
    for width in widths {
        level *= width;
        count += level;
    }
    ground.await_members(usize::try_from(count).unwrap());
    wait_for("the leaves", || {
        let names = ground
            .members()
            .into_iter()
            .map(|pid| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default());
        names.filter(|name| name.trim() == "sleep").count() == usize::try_from(level).unwrap()
    });
    root
}

fn command(action: &NodeAction, target: &Target, phase: Phase, key: &str) -> NodeCommand {
    NodeCommand {
        key: CommandKey::new(key),
        action_id: ActionId::new(format!("act-{key}")),
        incident: IncidentId::new("inc-1"),
        node: NodeId::new("test-node"),
        deadline: Timestamp(i64::MAX),
        action: action.clone(),
        target: target.clone(),
        phase,
    }
}

/// From somebody else than the agent.
fn signal(pid: u32, signal: Signal) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}
