use std::collections::BTreeSet;

use crds::source::{Reading, Resource, read};

use crate::plan::{Checked, Plan};

fn check_with(steps: &str, standing: &[&str]) -> Checked {
    let text = format!(
        "apiVersion: hemostat.dev/v1alpha1\nkind: Playbook\nmetadata: {{name: test}}\nspec:\n  mode: Auto\n  trigger: \
         {{techniques: [T1059]}}\n  steps:\n{steps}"
    );
    let Reading { resources, problems, .. } = read("p.yaml", &text);
    let [Resource::Playbook(playbook)] = &resources[..] else { panic!("{problems:?}\n{text}") };
    Plan::check(playbook, &standing.iter().map(|s| (*s).to_owned()).collect::<BTreeSet<_>>())
}

fn problems(steps: &str) -> Vec<String> {
    check_with(steps, &[]).problems.iter().map(ToString::to_string).collect()
}

#[test]
fn a_sound_playbook_becomes_levels() {
    let checked = check_with(
        r#"
    - {name: freeze, action: node.freeze}
    - {name: cut, action: node.net-quarantine}
    - {name: keep, action: node.capture-evidence, needs: [freeze]}
    - {name: kill, action: node.kill, needs: [keep, cut], approval: Required}
"#,
        &[],
    );
    assert_eq!(checked.problems, []);
    let plan = checked.plan.unwrap();
    let levels: Vec<Vec<&str>> =
        plan.levels().iter().map(|level| level.iter().map(|step| step.as_str()).collect()).collect();
    assert_eq!(levels, [vec!["freeze", "cut"], vec!["keep"], vec!["kill"]]);
    assert!(plan.to_text().contains("kill    node.kill"), "{}", plan.to_text());
    assert!(
        plan.to_text().contains("← cut, keep") || plan.to_text().contains("← keep, cut"),
        "{}",
        plan.to_text()
    );
    assert!(plan.to_dot().contains("\"freeze\" -> \"keep\";"));
}

#[test]
fn every_mistake_is_told_at_once_with_its_place() {
    let found = problems(
        r#"
    - {name: freeze, action: node.freez, needs: [cutt]}
    - {name: cut, action: node.net-quarantine, with: {scope: Process, port: 80}, when: "finding.levl == 'high'"}
    - {name: cut, action: node.block-destination, with: {destination: 10.0.0.0/8}, target: {kind: File}}
    - {name: Bad-Name, action: node.freeze, timeout: 2h}
    - {name: run, action: node.capture-evidence, when: "steps.cut.succeeded && steps.nix.failed"}
"#,
    );
    let expected = [
        "p.yaml:9:30: error: unknown action `node.freez`; there are node.freeze,",
        "p.yaml:9:50: error: there is no step `cutt` (did you mean `cut`?)",
        "p.yaml:10:62: error: node.net-quarantine has no parameter `scope`; it takes allow",
        "p.yaml:10:77: error: node.net-quarantine has no parameter `port`; it takes allow",
        "p.yaml:10:97: error: `finding` has no `levl`; it has id,",
        "p.yaml:11:14: error: step `cut` is there twice; the first is at p.yaml:10:14",
        "p.yaml:11:71: error: 10.0.0.0/8 is wider than allowed: the shortest prefix allowed by blastRadius is /32",
        "p.yaml:11:99: error: node.block-destination is done to Cgroup, not to a File",
        "p.yaml:12:14: error: `Bad-Name` is no name for a step",
        "p.yaml:12:54: error: a timeout is more than nothing and at most 10m",
        "p.yaml:13:14: error: no step may be called `run`",
        "error: step `cut` need not be done before this one",
        "error: there is no step `nix`",
    ];
    for wanted in expected {
        assert!(found.iter().any(|problem| problem.contains(wanted)), "{wanted}\nnot in {found:#?}");
    }
    assert_eq!(found.len(), expected.len(), "{found:#?}");
}

#[test]
fn a_circle_is_told_with_its_steps_in_order() {
    let found = problems(
        r#"
    - {name: a, action: node.freeze, needs: [c]}
    - {name: b, action: node.freeze, needs: [a]}
    - {name: c, action: node.freeze, needs: [b]}
    - {name: d, action: node.freeze, needs: [d]}
    - {name: e, action: node.freeze, needs: [d]}
"#,
    );
    assert_eq!(found.len(), 2, "{found:#?}");
    assert!(found[0].contains("`a` needs `c` needs `b` needs `a`"), "{found:#?}");
    assert!(found[1].contains("`d` needs `d`"), "{found:#?}");
    assert!(check_with("    - {name: a, action: node.freeze, needs: [a]}\n", &[]).plan.is_none());
}

#[test]
fn i5_the_irreversible_comes_after_containment_and_with_consent() {
    let early = problems("    - {name: kill, action: node.kill, approval: Required}\n");
    assert!(early.iter().any(|p| p.contains("error") && p.contains("before any containment")), "{early:?}");
    let steps = "    - {name: a, action: node.freeze}\n    - {name: k, action: node.kill, needs: [a]}\n";
    let found = problems(steps);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found.iter().all(|p| p.contains("warning")), "{found:?}");
    assert!(found.iter().any(|p| p.contains("destroys evidence")), "{found:?}");
    assert!(found.iter().any(|p| p.contains("will wait here for a person")), "{found:?}");
    assert_eq!(check_with(steps, &["node.kill"]).problems.len(), 1, "a standing approval is a consent");
    assert!(check_with(steps, &[]).plan.is_some(), "warnings do not keep it from running");
}

#[test]
fn i6_no_step_is_wider_than_the_playbook_says() {
    let text = "apiVersion: hemostat.dev/v1alpha1\nkind: Playbook\nmetadata: {name: t}\nspec:\n  trigger: {minimumLevel: \
                low}\n  blastRadius: {widest: Process}\n  steps:\n  - {name: a, action: node.net-quarantine}\n  - {name: b, \
                action: node.freeze, with: {scope: Cgroup}}\n  - {name: c, action: node.freeze}\n";
    let reading = read("p.yaml", text);
    let [Resource::Playbook(playbook)] = &reading.resources[..] else { panic!("{:?}", reading.problems) };
    let found = Plan::check(playbook, &BTreeSet::new()).problems;
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found.iter().all(|p| p.message.contains("blastRadius.widest is Process")), "{found:?}");
}

#[test]
fn an_expression_in_a_block_is_placed_within_it() {
    let found = problems(
        "    - name: a\n      action: node.freeze\n      when: |\n        finding.level == 'high' &&\n        proces.pid > 1\n",
    );
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("p.yaml:13:9: error: unknown variable `proces`"), "{found:?}");
}
