//! What traffic says of a pod: whether it answers, and whether what it asks is answered.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::stage::{Pod, Stage};

/// Milliseconds after which an unanswered kind of asking counts as cut off, and below which it counts as open. A question is asked every
/// 50 ms and given up after 300.
const CUT: u64 = 1500;
const OPEN: u64 = 600;

/// How long ago each kind of asking last went well, in milliseconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked {
    /// On a connection that was there before.
    held: u64,
    /// On a fresh one.
    fresh: u64,
    /// For a name.
    names: u64,
}

impl Asked {
    fn each(&self) -> [u64; 3] {
        [self.held, self.fresh, self.names]
    }
}

impl Stage {
    /// Both directions are open, in every kind; waits until it is so.
    pub(crate) fn is_open(&self, pod: &Pod) -> Result<bool> {
        self.comes_to(&format!("{} is open", pod.name), || {
            let (asks, answers) = (self.asks(pod)?, self.answers(pod)?);
            ensure!(
                asks.each().iter().all(|age| *age < OPEN) && answers,
                "it answers: {answers}, and {asks:?}"
            );
            Ok(true)
        })
    }

    /// Both directions are closed, in every kind; waits until it is so.
    pub(crate) fn is_cut(&self, pod: &Pod) -> Result<bool> {
        self.comes_to(&format!("{} is cut off", pod.name), || {
            let (asks, answers) = (self.asks(pod)?, self.answers(pod)?);
            ensure!(
                asks.each().iter().all(|age| *age > CUT) && !answers,
                "it answers: {answers}, and {asks:?}"
            );
            Ok(true)
        })
    }

    /// The victim is as it was.
    pub(crate) fn comes_back(&self) -> Result<bool> {
        self.is_open(&self.victim)
    }

    fn asks(&self, pod: &Pod) -> Result<Asked> {
        let line = self.kubectl.ask(&["logs", &pod.name, "--tail=1"])?;
        let line: Value = serde_json::from_str(line.trim()).context("read what a probe says")?;
        let age =
            |kind: &str| line[kind].as_u64().with_context(|| format!("the probe does not tell of {kind}"));
        Ok(Asked { held: age("held")?, fresh: age("fresh")?, names: age("names")? })
    }

    /// Whether a pod's web server answers another pod.
    fn answers(&self, pod: &Pod) -> Result<bool> {
        let url = format!("http://{}:8080/group", pod.address);
        let words = ["exec", &self.pool.name, "--", "timeout", "2", "wget", "-q", "-O", "-", &url];
        Ok(self.kubectl.command(&words).output().context("ask a pod")?.status.success())
    }
}
