//! The table of others' mistakes in docs/architecture.md names tests that are there.

use std::{fs, path::Path};

#[test]
fn each_mistake_of_others_is_held_by_a_test_that_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let page = fs::read_to_string(root.join("docs/architecture.md")).unwrap();
    let (_, table) = page.split_once("## Mistakes that others made").unwrap();
    let rows: Vec<&str> =
        table.lines().filter(|line| line.starts_with("| ") && line.contains(". ")).collect();
    assert_eq!(rows.len(), 13);
    for (number, row) in rows.iter().enumerate() {
        assert!(row.starts_with(&format!("| {}. ", number + 1)), "{row}");
        let held = row.rsplit(" | ").next().unwrap().trim_end_matches(" |");
        for test in held.split("; ") {
            let (file, name) = test.split_once("` \"").unwrap();
            let (file, name) = (file.split_once('`').unwrap().1, name.trim_end_matches('"'));
            let text = fs::read_to_string(root.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
            assert!(text.contains(name), "{file} has no test {name}");
        }
    }
}
