//! The controller of a cluster, as a process of its own on a real API server, with a node that is played by the test.

#![expect(clippy::print_stdout, reason = "the runner counts lines of skips")]
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test of its own; what cannot be done fails it")]

mod adaptive;
mod answers;
mod artifact;
mod away;
mod crash;
mod drained;
mod forbidden;
mod guard;
mod heard;
mod identity;
mod inputs;
mod many;
mod merged;
mod node;
mod scene;
mod shown;
mod skew;
mod takeover;
mod told;
mod vigil;
mod watched;

/// A playbook for [`node::miner`].
fn playbook(mode: &str) -> String {
    format!(
        "apiVersion: hemostat.dev/v1alpha1
kind: Playbook
metadata:
  name: miner
spec:
  description: Freeze it, cut it off, then kill it once a person said yes.
  mode: {mode}
  trigger:
    rules: [rule-miner]
  steps:
    - name: freeze
      action: node.freeze
      target: {{ kind: Process }}
      timeout: 30s
    - name: isolate
      action: node.net-quarantine
      target: {{ kind: Cgroup }}
      timeout: 30s
    - name: kill
      action: node.kill
      target: {{ kind: Process }}
      needs: [freeze]
      approval: Required
      timeout: 30s
"
    )
}

/// A playbook for the same that acts by itself: its steps, each as one line.
fn steps(lines: &[&str]) -> String {
    let steps: String = lines.iter().map(|line| format!("    - {{{line}, timeout: 60s}}\n")).collect();
    format!(
        "apiVersion: hemostat.dev/v1alpha1\nkind: Playbook\nmetadata: {{name: miner}}\nspec:\n  mode: Auto\n  \
         trigger: {{rules: [rule-miner]}}\n  steps:\n{steps}"
    )
}

/// [`steps`] that hold the attack on the node.
const FREEZE: &str = "name: freeze, action: node.freeze, target: {kind: Process}";
