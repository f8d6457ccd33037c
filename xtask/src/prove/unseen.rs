//! I9 on a real cluster: a node that does not see its pods' cgroups refuses what it is told and what its rules ask for, says why, and touches
//! nothing; when it sees them again all goes on.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::crash::vouch;
use crate::{
    demo::cluster::stage::{BY_ITSELF, Stage, states},
    progress::cache,
};

/// What the node says of somebody who lives and whom it does not see.
const BECAUSE: &str = "and yet it is there";
/// Steps that the node is told to do to the pod.
const STEPS: [&str; 2] = ["freeze", "cut_off"];

pub(super) fn prove(stage: &Stage) -> Result<()> {
    vouch(stage)?;
    let cover = Cover::over(stage)?;
    let miner = stage.mine()?;
    let mut incident = Value::Null;
    let mut actions = Vec::new();
    stage.wait("the node refuses what it does not see, with the reason in status", || {
        let Some(found) = stage.incident()? else { return Ok(false) };
        incident = found;
        actions = stage.actions(&incident)?;
        let refused = |step: &str| {
            actions.iter().any(|one| {
                one["spec"]["plan"]["step"].as_str().unwrap_or(BY_ITSELF) == step
                    && one["status"]["state"] == "Failed"
                    && one["status"]["detail"].as_str().is_some_and(|detail| detail.contains(BECAUSE))
            })
        };
        let all = STEPS.iter().all(|step| refused(step)) && refused(BY_ITSELF);
        ensure!(all, "its actions are {:?}", actions.iter().map(|one| &one["status"]).collect::<Vec<_>>());
        Ok(true)
    })?;
    stage.wait("an Event tells of it", || {
        let events = stage.kubectl.ask_json(&["get", "events"])?;
        let tells = |one: &Value| {
            one["reason"] == "ActionFailed"
                && one["message"].as_str().is_some_and(|said| said.contains(BECAUSE))
        };
        Ok(events["items"].as_array().is_some_and(|all| all.iter().any(tells)))
    })?;
    let done = actions.iter().find(|one| {
        let of_node = one["spec"]["plan"]["action"].as_str().is_some_and(|name| name.starts_with("node."));
        of_node && one["spec"]["plan"]["undo"]["class"] != "Nothing" && !one["status"]["applied"].is_null()
    });
    ensure!(done.is_none(), "the node acted: {done:?}");
    let script = "m=$(cat /miner); cat /proc/$m/cgroup /proc/$m/status";
    let now = stage.kubectl.ask(&["exec", &stage.victim.name, "--", "sh", "-c", script])?;
    ensure!(!now.contains("hemostat-jail") && !now.contains("(stopped)"), "the miner was touched: {now}");
    ensure!(stage.comes_back()?, "the pod was cut off");
    // The node tries its own reaction again for some seconds; of one that has ended it does nothing.
    miner.end(stage)?;
    cover.lift()?;
    stage.judge(&incident)?;
    ensure!(stage.is_settled(&incident)?, "it is not settled: {:?}", states(&stage.actions(&incident)?));

    // The same attack again, and the node sees it.
    vouch(stage)?;
    let miner = stage.mine()?;
    let incident = stage.contained()?;
    stage.false_positive(&incident)?;
    ensure!(stage.is_settled(&incident)?, "the second one is not settled");
    ensure!(stage.comes_back()?, "traffic does not come back");
    miner.end(stage)?;
    vouch(stage)
}

/// An empty file system over the pods' cgroups, as the agent alone sees them.
struct Cover {
    agent: u32,
    /// A program that can mount, where the agent's container has it, too.
    program: PathBuf,
    place: String,
}

impl Cover {
    fn over(stage: &Stage) -> Result<Self> {
        let agents = stage.cluster.processes("/usr/bin/hemostat agent");
        let agent = *agents.first().context("no agent runs")?;
        let mounts =
            fs::read_to_string(format!("/proc/{agent}/mounts")).context("read the agent's mounts")?;
        let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let cgroups =
            mounts.lines().map(words).find(|words| words.get(2).is_some_and(|kind| kind == "cgroup2"));
        let cgroups = cgroups.and_then(|words| words.get(1).cloned()).context("the agent sees no cgroups")?;
        let own = stage.kubectl.ask(&["exec", &stage.victim.name, "--", "cat", "/proc/1/cgroup"])?;
        let own = own.lines().find_map(|line| line.strip_prefix("0::")).context("the pod is in no cgroup")?;
        let (before, _) = own.split_once("/kubepods").context("the pod is not among the pods")?;
        let program = stage.cluster.state().join("agent-run/busybox");
        let from = cache()?.join("cluster/bin/busybox");
        fs::copy(&from, &program).with_context(|| format!("copy {}", from.display()))?;
        let this = Self { agent, program, place: format!("{cgroups}{before}/kubepods") };
        this.run(&["mount", "-t", "tmpfs", "none", &this.place])?;
        Ok(this)
    }

    fn lift(self) -> Result<()> {
        self.run(&["umount", &self.place])
    }

    /// In the agent's view of the machine.
    fn run(&self, words: &[&str]) -> Result<()> {
        let mut command = Command::new("nsenter");
        command.arg(format!("--mount=/proc/{}/ns/mnt", self.agent)).arg("--").arg(&self.program).args(words);
        let output = command.output().context("run nsenter")?;
        if !output.status.success() {
            bail!("{}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }
}

impl Drop for Cover {
    fn drop(&mut self) {
        // Lifted already where all went well.
        let _lifted = self.run(&["umount", &self.place]);
        let program: &Path = &self.program;
        let _removed = fs::remove_file(program);
    }
}
