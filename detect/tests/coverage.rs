//! What rules cover, by technique, and the Navigator's layer of it.

use hemostat_detect::{
    coverage::{Coverage, coverage},
    load::load,
    source::SourceFile,
};
use serde_json::Value;

/// A rule of each kind that counts differently.
const RULES: &str = "\
title: Shell
name: shell
id: 00000000-0000-4000-8000-000000000001
tags: [attack.execution, attack.t1059.004]
logsource: {product: linux, category: process_creation}
detection: {s: {Image: /bin/sh}, condition: s}
level: high
---
title: Another Shell
id: 00000000-0000-4000-8000-000000000002
tags: [attack.t1059.004, attack.t1059]
logsource: {product: linux, category: process_creation}
detection: {s: {Image: /bin/dash}, condition: s}
level: low
---
title: Of No Source Here
id: 00000000-0000-4000-8000-000000000003
tags: [attack.persistence, attack.t1547.001]
logsource: {product: windows, category: registry_set}
detection: {s: {TargetObject: x}, condition: s}
level: high
---
title: Untagged
id: 00000000-0000-4000-8000-000000000004
logsource: {product: linux, category: process_creation}
detection: {s: {Image: /bin/true}, condition: s}
level: low
---
title: Many Shells
id: 00000000-0000-4000-8000-000000000005
tags: [attack.t1110]
correlation: {type: event_count, rules: [shell], group-by: [User], timespan: 5m, condition: {gte: 3}}
level: high
";

fn of_the_rules() -> Coverage {
    let loaded = load(&[SourceFile { name: "rules.yml".into(), text: RULES.into() }]);
    assert_eq!(loaded.errors(), 0, "{:?}", loaded.diagnostics);
    coverage(&loaded.rules, &loaded.correlations)
}

#[test]
fn a_technique_has_its_rules_and_one_that_cannot_fire_covers_nothing() {
    let coverage = of_the_rules();
    let lines: Vec<String> = coverage
        .techniques
        .iter()
        .flat_map(|(technique, rules)| {
            rules.iter().map(move |rule| {
                format!("{technique} {:?} {} {:?} {}", rule.level, rule.title, rule.tactics, rule.live)
            })
        })
        .collect();
    assert_eq!(
        lines,
        [
            "T1059 Low Another Shell {} true",
            "T1059.004 High Shell {\"execution\"} true",
            "T1059.004 Low Another Shell {} true",
            "T1110 High Many Shells {} true",
            "T1547.001 High Of No Source Here {\"persistence\"} false",
        ]
    );
    assert_eq!(coverage.untagged.len(), 1, "{:?}", coverage.untagged);
    assert_eq!(coverage.covered(), 3);
}

#[test]
fn the_layer_has_what_the_navigator_asks_for() {
    let layer: Value = serde_json::from_str(&of_the_rules().navigator_layer("ours")).unwrap();
    assert_eq!(layer["name"], "ours");
    assert_eq!(layer["domain"], "enterprise-attack");
    assert_eq!(layer["versions"]["layer"], "4.5");
    assert_eq!(layer["gradient"]["maxValue"], 2);
    let rows: Vec<_> = layer["techniques"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| {
            let shown = row["showSubtechniques"].as_bool().unwrap();
            (row["techniqueID"].as_str().unwrap(), row["score"].as_u64().unwrap(), shown)
        })
        .collect();
    assert_eq!(
        rows,
        [("T1059", 1, true), ("T1059.004", 2, false), ("T1110", 1, true), ("T1547.001", 0, false),]
    );
    let comment = layer["techniques"][3]["comment"].as_str().unwrap();
    assert_eq!(comment, "Of No Source Here (cannot fire here)");
}

#[test]
fn without_rules_there_is_an_empty_layer() {
    let layer: Value = serde_json::from_str(&Coverage::default().navigator_layer("none")).unwrap();
    assert_eq!(layer["techniques"].as_array().unwrap().len(), 0);
    assert_eq!(layer["gradient"]["maxValue"], 1, "no gradient from nought to nought");
}
