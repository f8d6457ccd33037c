//! Generated things are compared: deploy/crds and the tables of docs/resources.md are what the types say. `cargo xtask crds` writes them.

#![expect(clippy::unwrap_used, reason = "a test of its own; what cannot be done fails it")]

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use hemostat_crds::definitions::{all, files, tables};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().into()
}

fn compare(path: &Path, wanted: &str) {
    if env::var_os("HEMOSTAT_WRITE_CRDS").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, wanted).unwrap();
    }
    let found = fs::read_to_string(path).unwrap_or_default();
    assert!(found == wanted, "{} is not what the types say: run `cargo xtask crds`", path.display());
}

#[test]
fn the_yaml_is_that_of_the_types() {
    let folder = root().join("deploy/crds");
    let files = files().unwrap();
    for (name, wanted) in &files {
        compare(&folder.join(name), wanted);
    }
    for entry in fs::read_dir(&folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(files.iter().any(|(known, _)| *known == name), "deploy/crds/{name} belongs to no type");
    }
}

/// Between `<!-- fields of KIND -->` and `<!-- end -->` stand the tables.
#[test]
fn the_page_is_that_of_the_types() {
    let path = root().join("docs/resources.md");
    let mut page = fs::read_to_string(&path).unwrap();
    for definition in all().unwrap() {
        let begin = format!("<!-- fields of {} -->\n", definition.spec.names.kind);
        let from = page.find(&begin).unwrap_or_else(|| panic!("docs/resources.md has no line {begin}"))
            + begin.len();
        let to = from + page[from..].find("<!-- end -->").expect("an end of the table");
        page.replace_range(from..to, &format!("\n{}\n", tables(&definition)));
    }
    compare(&path, &page);
}

/// I11 of what users write: every list and every text has a limit, which the costs of the API server's rules are reckoned from, too.
#[test]
fn i11_every_list_and_text_is_bounded() {
    for definition in all().unwrap() {
        let value = serde_json::to_value(&definition).unwrap();
        let schema = value.pointer("/spec/versions/0/schema/openAPIV3Schema/properties").unwrap();
        let mut without = Vec::new();
        unbounded(schema, "", &mut without);
        assert_eq!(without, Vec::<String>::new(), "{}", definition.spec.names.kind);
    }
}

fn unbounded(value: &serde_json::Value, path: &str, out: &mut Vec<String>) {
    match value {
        serde_json::Value::Object(map) => {
            let limit = match map.get("type").and_then(|kind| kind.as_str()) {
                Some("array") => Some("maxItems"),
                Some("string") if !map.contains_key("enum") && !map.contains_key("format") => {
                    Some("maxLength")
                }
                _ => None,
            };
            if limit.is_some_and(|limit| !map.contains_key(limit)) {
                out.push(path.to_owned());
            }
            for (name, inner) in map {
                unbounded(inner, &format!("{path}/{name}"), out);
            }
        }
        serde_json::Value::Array(items) => items.iter().for_each(|item| unbounded(item, path, out)),
        _ => {}
    }
}
