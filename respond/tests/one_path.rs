//! I2 and mistake 7 of peers.md: one path leads to an action, through the gate, and none beside it. Each station of that path is named in
//! the one file that may stand there; whoever opens another path has to come here and say why.

#![expect(clippy::unwrap_used, reason = "tests, and what they share")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// What opens, passes or ends the path, and where alone that may stand.
const STATIONS: &[(&str, &[&str])] = &[
    // a run begins by what the gate decided, and the gate alone makes that
    ("RunStart {", &["respond/src/gate.rs", "respond/src/run/journal.rs"]),
    ("Run::begin(", &["controller/src/core/answers.rs"]),
    // a run alone gives commands
    ("NodeCommand {", &["model/src/link.rs", "respond/src/run/drive.rs"]),
    // they are carried out where they arrive
    ("executor.carry_out(", &["act/src/serve.rs"]),
    ("commands.carry_out(", &["agent/src/uplink.rs"]),
    ("contain.handle(", &["agent/src/agent.rs"]),
    // the node's own reaction: the edge asks its authority first
    ("reactor.react(", &["agent/src/edge.rs"]),
    ("contain.react", &[]),
];

#[test]
fn i2_no_path_leads_to_an_action_beside_the_gate() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut sources = Vec::new();
    for name in ["act", "agent", "cli", "controller", "detect", "model", "respond", "wire", "crds"] {
        collect(&root.join(name).join("src"), &mut sources);
    }
    assert!(sources.len() > 100, "the sources are there");
    let texts: Vec<(String, String)> = sources
        .iter()
        .map(|path| {
            let name = path.strip_prefix(root).unwrap().display().to_string();
            let text = fs::read_to_string(path).unwrap();
            let code = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
            let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
            (name, lines.collect::<Vec<_>>().join("\n"))
        })
        .collect();
    for (station, allowed) in STATIONS {
        let found: BTreeSet<&str> = texts
            .iter()
            .filter(|(_, text)| text.lines().any(|line| is_at(line, station)))
            .map(|(name, _)| name.as_str())
            .collect();
        assert_eq!(found, allowed.iter().copied().collect(), "`{station}` stands elsewhere than it may");
    }
}

/// Named to be made or called: not in an `impl`, nor as the type that a function gives.
fn is_at(line: &str, station: &str) -> bool {
    let declares = line.trim_start().starts_with("impl") || line.contains("->");
    format!(" {line}").contains(station) && !declares
}

fn collect(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "tests" {
            collect(&path, found);
        } else if name.ends_with(".rs") && name != "tests.rs" && !name.ends_with("_tests.rs") {
            found.push(path);
        }
    }
}
