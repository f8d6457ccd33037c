//! Adaptive runs: what the node finds after a step's effect was seen moves the run to the step's alternative.

use std::fs;

use model::{Level, Report, RunState};

use crate::{
    lab::{Lab, config, new_dir},
    support::{Faint, finding},
};

const PLAYBOOK: &str = "apiVersion: hemostat.dev/v1alpha1
kind: Playbook
metadata:
  name: miner
spec:
  description: Freeze it; if it comes back, cut it off.
  mode: Auto
  trigger: {rules: [rule-miner]}
  steps:
    - name: freeze
      action: node.freeze
      target: {kind: Process}
      observe: {for: 10m, against: [Return]}
      alternatives:
        - {action: node.net-quarantine}
";

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_comes_back_moves_the_run_to_its_alternative_and_the_record_says_why() {
    let dir = new_dir("Auto");
    for file in fs::read_dir(dir.path().join("playbooks")).unwrap() {
        fs::remove_file(file.unwrap().path()).unwrap();
    }
    fs::write(dir.path().join("playbooks/miner.yaml"), PLAYBOOK).unwrap();
    let mut lab = Lab::start_in(dir, |_| {}).await;
    lab.spool(Report::Finding(finding(1, 100, Level::High)));
    lab.connect(Faint::Never);
    lab.until(|line| line.contained.is_some()).await;
    assert!(
        lab.until_world(|world| world.in_force.len() == 1)
            .await
            .in_force
            .values()
            .all(|name| name == "node.freeze")
    );
    // A weak rule, which no playbook answers, sees the same executable in the same place; the controller begins anew in between.
    lab.disconnect().await;
    let mut lab = lab.restart().await;
    let mut back = finding(2, 101, Level::Low);
    back.rule.id = "rule-program-in-tmp".into();
    lab.spool(Report::Finding(back.clone()));
    lab.connect(Faint::Never);
    let world = lab.until_world(|world| world.in_force.len() == 2).await;
    assert!(world.in_force.values().any(|name| name == "node.net-quarantine"), "{world:?}");
    let incident = lab.until(|line| line.contained.is_some()).await;
    assert!(
        incident.runs.iter().all(|run| run.state == RunState::Running),
        "it watches on: {:?}",
        incident.runs
    );
    let seen: Vec<&str> = incident.timeline.iter().map(|line| line.what.as_str()).collect();
    let observed: Vec<_> =
        seen.iter().filter(|line| line.starts_with("observed (Return): pid 101 (/tmp/xmrig)")).collect();
    assert_eq!(observed.len(), 1, "{seen:#?}");
    assert!(
        seen.iter()
            .any(|line| line.contains("the attack goes on (Return)")
                && line.contains("alternative 1 is tried"))
    );
    let dir = lab.stop().await;
    let log = fs::read_to_string(config(dir.path()).audit_log).unwrap();
    assert_eq!(log.matches("observed (Return)").count(), 1, "{log}");
}
