//! The narrative of one incident in its three forms, as it was once looked at and found good. `UPDATE_GOLDEN=1` writes it anew.

mod sample;

use std::{fs, path::PathBuf};

use hemostat_narrate::{Document, html, markdown};

fn compare(name: &str, found: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        assert!(fs::write(&path, found).is_ok(), "{}", path.display());
    }
    let known = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(known, found, "{name} is another one now: look at it, then UPDATE_GOLDEN=1");
}

#[test]
fn the_three_forms_are_as_they_were_found_good() {
    let told = sample::told(&str::to_owned);
    compare("incident.md", &markdown::render(&told));
    compare("incident.html", &html::render(&told));
    let json = serde_json::to_string_pretty(&told).unwrap() + "\n";
    compare("incident.json", &json);
    assert_eq!(serde_json::from_str::<Document>(&json).unwrap(), told);
}

#[test]
fn what_a_person_needs_to_decide_stands_in_it() {
    let told = sample::told(&str::to_owned);
    for page in [markdown::render(&told), html::render(&told)] {
        for needed in [
            "hemostat approve inc-7f3a9c21 run",
            "hemostat deny inc-7f3a9c21 run",
            "92.50 %",
            "95.00 %",
            "1 false positives",
            "cut nginx.service off the network",
            "cannot be: the processes are gone",
            "a mining pool",
            "there is no cluster",
            "4250",
            "xmrig",
            "Fell short",
            "group:oncall",
            "198.51.100.9",
        ] {
            assert!(page.to_lowercase().contains(&needed.to_lowercase()), "{needed} is missing:\n{page}");
        }
    }
}
