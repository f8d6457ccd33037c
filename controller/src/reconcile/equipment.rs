//! What a playbook's steps need of this controller beside the API server: channels by their names, and a scanner. A step whose own is not there
//! fails when it is its turn, and the run goes on as its `onFailure` says; that it will is told before anything happens.

use std::collections::BTreeSet;

use crds::{Condition, Holds, PlaybookSpec};
use model::Timestamp;
use serde_json::Value;

use super::show::condition;

/// What this controller has.
#[derive(Debug, Clone, Default)]
pub(crate) struct Equipment {
    /// Names of the channels.
    pub(crate) channels: BTreeSet<String>,
    pub(crate) scanner: Scans,
}

/// Whether there is a scanner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Scans {
    #[default]
    No,
    Yes,
}

impl Equipment {
    /// What a playbook says of it in its status; nothing where its steps need nothing of the kind.
    pub(crate) fn condition(
        &self,
        spec: &PlaybookSpec,
        now: Timestamp,
        generation: i64,
    ) -> Option<Condition> {
        let (mut needs, mut lacks) = (false, BTreeSet::new());
        let spec = serde_json::to_value(spec).unwrap_or_default();
        self.walk(&spec["steps"], "", &mut needs, &mut lacks);
        let lacks: Vec<String> = lacks.into_iter().collect();
        needs.then(|| match lacks.as_slice() {
            [] => condition(
                "Equipped",
                Holds::True,
                "AllThere",
                "the controller has what its steps need",
                now,
                generation,
            ),
            lacks => condition("Equipped", Holds::False, "Missing", lacks.join("; "), now, generation),
        })
    }

    /// Steps, and the other ways that each may have.
    fn walk(&self, value: &Value, step: &str, needs: &mut bool, lacks: &mut BTreeSet<String>) {
        match value {
            Value::Array(all) => all.iter().for_each(|one| self.walk(one, step, needs, lacks)),
            Value::Object(map) => {
                let step = map.get("name").and_then(Value::as_str).unwrap_or(step);
                match map.get("action").and_then(Value::as_str) {
                    Some("notify.send") => {
                        *needs = true;
                        let channel = value["with"]["channel"].as_str().unwrap_or_default();
                        if !channel.is_empty() && !self.channels.contains(channel) {
                            lacks.insert(format!(
                                "step {step} tells nobody: there is no channel {channel} (--channels; notifications.channels of the chart)"
                            ));
                        }
                    }
                    Some("cluster.scan-image") => {
                        *needs = true;
                        if self.scanner == Scans::No {
                            lacks.insert(format!(
                                "step {step} looks at no image: there is no scanner (--scanner; scanner of the chart)"
                            ));
                        }
                    }
                    _ => {}
                }
                map.iter()
                    .filter(|(key, _)| *key != "with")
                    .for_each(|(_, one)| self.walk(one, step, needs, lacks));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn spec(steps: &Value) -> PlaybookSpec {
        serde_json::from_value(json!({"trigger": {"rules": ["x"]}, "steps": steps})).unwrap()
    }

    fn said(equipment: &Equipment, steps: &Value) -> Option<(Holds, String)> {
        let said = equipment.condition(&spec(steps), Timestamp(1), 1)?;
        Some((said.status, said.message))
    }

    #[test]
    fn a_playbook_says_which_steps_will_fail_for_want_of_a_channel_or_a_scanner() {
        let steps = json!([
            {"name": "freeze", "action": "node.freeze"},
            {"name": "tell", "action": "notify.send", "with": {"channel": "soc"}},
            {"name": "scan", "action": "cluster.scan-image"},
        ]);
        let (status, message) = said(&Equipment::default(), &steps).unwrap();
        assert_eq!(status, Holds::False);
        assert!(
            message.contains("step tell") && message.contains("channel soc") && message.contains("step scan"),
            "{message}"
        );
        let all = Equipment { channels: ["soc".to_owned()].into(), scanner: Scans::Yes };
        assert_eq!(said(&all, &steps).unwrap().0, Holds::True);
        assert_eq!(said(&Equipment::default(), &json!([{"name": "freeze", "action": "node.freeze"}])), None);
    }
}
