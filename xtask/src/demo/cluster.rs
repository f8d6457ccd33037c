//! `cargo xtask demo --cluster`: the cryptominer in a pod of a real Kubernetes. Only its pod is cut off, its sibling serves on, and a word
//! of an analyst gives everything back.

mod evidence;
pub(crate) mod report;
pub(crate) mod stage;
pub(crate) mod traffic;

use std::path::Path;

use anyhow::Result;

use super::stage::Stages;
use crate::cluster::Cni;
use stage::{Asks, Setup, Stage};

pub(crate) fn run(stages: &mut Stages, profile: &str, program: Option<&Path>, cni: Cni) -> Result<u64> {
    let stage = Stage::up(stages, &Setup { profile, program, cni, ..Setup::default() })?;
    stages.title("A miner in one pod of two");
    play(&stage, stages)?;
    stage.uninstall(stages, Asks::Nobody)?;
    drop(stage);
    stages.title("The cluster is gone");
    Ok(stages.proofs())
}

/// A miner, its containment, an analyst's word, with what traffic says at each point.
pub(crate) fn play(stage: &Stage, stages: &mut Stages) -> Result<()> {
    let (victim, sibling) = (&stage.victim, &stage.sibling);
    let both = stage.is_open(victim)? && stage.is_open(sibling)?;
    stages.proof("before", both, "both pods answer and ask; a NetworkPolicy allows them everything")?;
    let miner = stage.mine()?;
    stages.attack("miner", &format!("somebody runs a miner in pod {} with kubectl exec", victim.name));
    let incident = stage.contained()?;
    let report = stage.report(&incident)?;
    let target = incident["status"]["target"].as_str().unwrap_or("?").to_owned();
    stages.defence("contained", report.cut_off(), &format!("{} is contained: {target}", report.name));
    stages.picture(&stage.kubectl.ask(&["get", "incidents", "--all-namespaces"])?);
    stages.proof(
        "cut-off",
        stage.is_cut(victim)?,
        "the miner's pod neither answers nor asks: connections that stood, fresh ones, names",
    )?;
    stages.proof(
        "sibling",
        stage.is_open(sibling)?,
        "its sibling of the same Deployment answers and asks on",
    )?;
    stages.proof("attributed", target.contains(&victim.name), "the incident names the pod")?;
    let incident = stage.asked(&incident)?;
    stages.proof(
        "evidence",
        stage.evidence_is_whole(&incident)?,
        "the evidence of the node is there, each file with the hash that its manifest says, and so is that of the cluster",
    )?;
    stages.title("A false positive: everything is given back");
    stage.false_positive(&incident)?;
    stages.proof("back", stage.comes_back()?, "the pod answers and asks again")?;
    stages.proof("settled", stage.is_settled(&incident)?, "nothing that was done is in force any more")?;
    miner.end(stage)
}
