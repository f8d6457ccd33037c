//! `cargo xtask demo --cluster` as a user runs it: every stage of the story happens, and nothing of it is left.

use hemostat_cluster_tests::{Xtask, traces};
use serde_json::Value;

/// What is told, in its order.
const STORY: [&str; 12] = [
    "installed",
    "ready",
    "before",
    "miner",
    "contained",
    "cut-off",
    "sibling",
    "attributed",
    "evidence",
    "back",
    "settled",
    "uninstalled",
];

#[test]
fn the_demo_plays_every_stage_on_a_real_kubernetes_and_leaves_nothing() {
    let Some(xtask) = Xtask::here() else { return };
    let Some(program) = std::env::var("HEMOSTAT_PROGRAM").ok() else {
        println!("SKIPPED: the demo in a cluster: HEMOSTAT_PROGRAM does not name the hemostat program");
        return;
    };
    xtask.cluster(&["down"]).unwrap();
    let output = xtask.demo(&["--json", "--profile", "dev", "--program", &program]).unwrap();
    let (told, complained) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{told}\n{complained}");
    let lines: Vec<Value> = told.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines.iter().all(|line| line["ok"] == true), "{told}");
    let stages = lines.iter().filter_map(|line| line["stage"].as_str()).filter(|stage| *stage != "title");
    assert_eq!(stages.collect::<Vec<_>>(), STORY, "{told}");
    let seconds = lines.last().and_then(|line| line["at_s"].as_f64()).unwrap();
    println!("the demo in a cluster took {seconds:.0} s");
    assert!(traces().is_empty(), "{:?}", traces());
}

#[test]
fn a_demo_that_cannot_be_played_says_so_by_its_exit_code_and_leaves_nothing() {
    let Some(xtask) = Xtask::here() else { return };
    xtask.cluster(&["down"]).unwrap();
    let output = xtask.demo(&["--json", "--program", "/nowhere/hemostat"]).unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!String::from_utf8_lossy(&output.stdout).contains("\"ready\""));
    assert!(traces().is_empty(), "{:?}", traces());
}
