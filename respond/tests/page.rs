//! The examples of docs/playbooks.md are playbooks and policies without a fault.

use std::{collections::BTreeSet, fs, path::Path};

use crds::source::{Resource, read};
use hemostat_respond::{
    action::{ActionKind, ClusterKind},
    plan::Plan,
};

#[test]
fn the_examples_of_the_page_are_sound_and_name_every_action() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/playbooks.md");
    let text = fs::read_to_string(page).unwrap();
    let mut seen = 0;
    for block in text.split("```yaml\n").skip(1) {
        let example = block.split("```").next().unwrap();
        let reading = read("docs/playbooks.md", example);
        assert_eq!(reading.problems, []);
        for resource in reading.resources {
            seen += 1;
            if let Resource::Playbook(playbook) = resource {
                let checked = Plan::check(&playbook, &BTreeSet::new());
                assert_eq!(checked.problems, []);
            }
        }
    }
    assert_eq!(seen, 2);
    for kind in ActionKind::all() {
        let row = text.lines().find(|line| line.starts_with(&format!("| `{}` |", kind.name())));
        let row = row.unwrap_or_else(|| panic!("docs/playbooks.md has no row of {}", kind.name()));
        assert!(row.contains(kind.d3fend()), "{row}");
        for target in kind.targets() {
            assert!(row.contains(&target.to_string()), "{row}");
        }
        for parameter in kind.parameters() {
            assert!(row.contains(&format!("`{parameter}`")), "{row}");
        }
    }
}

/// The table of docs/actions.md is the catalogue. HEMOSTAT_WRITE_ACTIONS=1 writes it.
#[test]
fn the_page_of_actions_is_the_catalogue() {
    let mut table = String::from(
        "| action | done to | undo | D3FEND | answers ATT&CK |\n| --- | --- | --- | --- | --- |\n",
    );
    for kind in ClusterKind::ALL {
        let action = ActionKind::Cluster(kind);
        let targets: Vec<String> = kind.targets().iter().map(ToString::to_string).collect();
        let undo = match action.undo() {
            model::UndoClass::Exact => "exact".into(),
            model::UndoClass::Nothing => "changes nothing".into(),
            model::UndoClass::Compensable { residual } => {
                format!("exact for what it changed, but {residual}")
            }
            model::UndoClass::Irreversible { residual } => format!("none: {residual}"),
        };
        let attack = if kind.attack().is_empty() { "–".into() } else { kind.attack().join(", ") };
        table.push_str(&format!(
            "| `{}` | {} | {undo} | {} | {attack} |\n",
            action.name(),
            targets.join(", "),
            kind.d3fend()
        ));
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/actions.md");
    let page = fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once("<!-- cluster actions -->\n").unwrap();
    let (found, after) = rest.split_once("<!-- end -->").unwrap();
    if std::env::var_os("HEMOSTAT_WRITE_ACTIONS").is_some() {
        fs::write(&path, format!("{before}<!-- cluster actions -->\n\n{table}\n<!-- end -->{after}"))
            .unwrap();
    } else {
        assert_eq!(found.trim(), table.trim(), "run the test with HEMOSTAT_WRITE_ACTIONS=1");
    }
}

#[test]
fn the_playbooks_of_the_repository_are_sound() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../playbooks");
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|kind| kind != "yaml" && kind != "yml") {
            continue;
        }
        let reading = read(&path.display().to_string(), &fs::read_to_string(&path).unwrap());
        assert_eq!(reading.problems, [], "{}", path.display());
        for resource in reading.resources {
            if let Resource::Playbook(playbook) = resource {
                let checked = Plan::check(&playbook, &BTreeSet::new());
                assert!(checked.plan.is_some(), "{:?}", checked.problems);
            }
        }
    }
}
