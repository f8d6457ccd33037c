//! The chart is not removed while something is in force: its hook's Job runs in a real pod, with its own account, and names what it found.

use anyhow::{Result, ensure};

use crate::demo::cluster::stage::{NAMESPACE, Stage, name};

pub(super) fn prove(stage: &Stage) -> Result<()> {
    let miner = stage.mine()?;
    let incident = stage.contained()?;
    let incident = stage.asked(&incident)?;
    let said = stage.uninstall_refused()?;
    let in_force = stage.actions(&incident)?;
    let named = in_force.iter().find(|one| said.contains(name(one)));
    ensure!(named.is_some(), "the hook names nothing of what is in force: {said}");
    let ours = ["get", "deployment", "hemostat-controller", "--namespace", NAMESPACE];
    stage.kubectl.ask(&ours)?;
    ensure!(stage.is_cut(&stage.victim)?, "what was in force is not in force any more");
    stage.false_positive(&incident)?;
    ensure!(stage.is_settled(&incident)?, "it is not settled");
    miner.end(stage)
}
