//! What the controller tells of an incident: when what was done, by the clock of the node, which is also the controller's here. Times in the
//! API server have seconds only.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde_json::Value;

use super::stage::{NAMESPACE, Stage, name};

/// One incident's times, in nanoseconds since 1970.
#[derive(Debug, Clone)]
pub(crate) struct Report {
    pub(crate) name: String,
    /// Of the first event.
    first: i64,
    /// When the node's own reaction was in force.
    reaction: Option<i64>,
    /// By step.
    steps: BTreeMap<String, Step>,
}

/// One step's action.
#[derive(Debug, Clone, Default)]
pub(crate) struct Step {
    /// Where it is in its life.
    pub(crate) state: String,
    /// Decided: the finding is known to the controller, and stored.
    planned: Option<i64>,
    /// What its undo needs is stored and was read back; it may begin.
    intent: Option<i64>,
    /// In force, by the node's clock.
    applied: Option<i64>,
    /// The last word on it.
    last: Option<i64>,
}

/// Steps of the playbook that go by themselves.
const AUTOMATIC: [&str; 5] = ["freeze", "cut_off", "evidence", "manifest", "tell"];

impl Report {
    /// Milliseconds from the first event to the node's own containment.
    pub(crate) fn reaction(&self) -> Option<f64> {
        self.after(self.reaction)
    }

    /// To the quarantine of the network by the playbook, through the controller.
    pub(crate) fn cut_off(&self) -> Option<f64> {
        self.after(self.step("cut_off").applied)
    }

    /// Of that: until the playbook's action was decided; from there until it might begin; from there until it was in force.
    pub(crate) fn ways(&self) -> Option<[f64; 3]> {
        let step = self.step("cut_off");
        let (planned, intent, applied) = (step.planned?, step.intent?, step.applied?);
        Some([ms(self.first, planned), ms(planned, intent), ms(intent, applied)])
    }

    /// To the network's own rule being written.
    pub(crate) fn isolated(&self) -> Option<f64> {
        self.after(self.step("isolate").applied)
    }

    /// What the network took from there until it honoured it.
    pub(crate) fn honoured(&self) -> Option<f64> {
        let step = self.step("isolate");
        (step.state == "Verified").then(|| Some(ms(step.applied?, step.last?))).flatten()
    }

    /// To the last word on the last step that goes by itself; of the network's rule, to its being written.
    pub(crate) fn whole(&self) -> Option<f64> {
        let ends = AUTOMATIC.iter().map(|name| self.step(name).last);
        let last = ends.chain([self.step("isolate").applied]).flatten().max();
        self.after(last)
    }

    pub(crate) fn step(&self, name: &str) -> Step {
        self.steps.get(name).cloned().unwrap_or_default()
    }

    fn after(&self, at: Option<i64>) -> Option<f64> {
        at.map(|at| ms(self.first, at))
    }
}

impl Stage {
    /// Asks the controller.
    pub(crate) fn report(&self, incident: &Value) -> Result<Report> {
        let id = name(incident);
        let answer = self.controller_says(&["incidents", "show", id])?;
        let story = answer.get("incident").unwrap_or(&answer);
        let id = story["id"].as_str().context("the controller does not tell the incident's id")?;
        let first = story["first_event"].as_i64().context("the controller does not tell the first event")?;
        let mut report = Report { name: id.to_owned(), first, reaction: None, steps: BTreeMap::new() };
        let mut of_action: BTreeMap<&str, &str> = BTreeMap::new();
        for action in story["actions"].as_array().into_iter().flatten() {
            let applied = action["applied"].as_i64();
            match action["step"].as_str() {
                None => report.reaction = report.reaction.max(applied),
                Some(step) => {
                    of_action.insert(action["id"].as_str().unwrap_or_default(), step);
                    let state = action["state"].as_str().unwrap_or_default().to_owned();
                    let planned = action["planned"].as_i64();
                    report.steps.insert(step.to_owned(), Step { state, planned, applied, ..Step::default() });
                }
            }
        }
        let log = self.controller_says(&["audit", "show", "--incident", id])?;
        for entry in log["entries"].as_array().into_iter().flatten() {
            let step = entry["action"].as_str().and_then(|action| of_action.get(action));
            let Some(step) = step.and_then(|step| report.steps.get_mut(*step)) else { continue };
            let at = entry["at"].as_i64();
            match entry["kind"].as_str() {
                Some("intent") => step.intent = step.intent.or(at),
                Some("outcome") => step.last = step.last.max(at),
                _ => {}
            }
        }
        Ok(report)
    }

    /// Waits until the network's own rule was seen to hold, or was looked for in vain.
    pub(crate) fn is_honoured(&self, incident: &Value) -> Result<()> {
        self.wait("the network's own rule is looked for", || {
            let state = self.report(incident)?.step("isolate").state;
            Ok(matches!(state.as_str(), "Verified" | "Unverified" | "Failed"))
        })
    }

    /// One of the controller's own commands, run beside it.
    fn controller_says(&self, words: &[&str]) -> Result<Value> {
        let begin =
            ["exec", "--namespace", NAMESPACE, "deployment/hemostat-controller", "--", "/usr/bin/hemostat"];
        let answer = self.kubectl.ask(&[&begin, words, &["--output=json"]].concat())?;
        serde_json::from_str(&answer).context("read the controller's answer")
    }
}

#[expect(clippy::cast_precision_loss, reason = "some seconds in nanoseconds")]
fn ms(from: i64, to: i64) -> f64 {
    (to - from) as f64 / 1e6
}
