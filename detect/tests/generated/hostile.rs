//! Rule files are hostile input.

use hemostat_detect::{
    diagnostic::{Colour, render},
    load::load,
    source::SourceFile,
};
use proptest::{collection::vec, prelude::*, sample::select};

use crate::{generate, print};

fn survive(text: String) {
    let files = [SourceFile { name: "r.yml".into(), text }];
    let loaded = load(&files);
    let said = render(&loaded.diagnostics, &files, Colour::Plain);
    assert!(said.chars().all(|c| c == '\n' || c == '\t' || !c.is_control()), "{said:?}");
    for diagnostic in &loaded.diagnostics {
        assert!(diagnostic.place(&files).is_some(), "{diagnostic:?}");
        for label in &diagnostic.labels {
            assert!(files[0].text.get(label.span.range()).is_some(), "{diagnostic:?}");
        }
    }
}

const SCRAPS: &[&str] = &[
    "title: x\n",
    "detection:\n",
    "  ",
    "    ",
    "condition: ",
    "selection",
    "logsource:",
    "{",
    "}",
    "[",
    "]",
    "- ",
    ": ",
    "\n",
    "---\n",
    "'",
    "\"",
    "|",
    ">",
    "&a ",
    "*a",
    "!!x ",
    "%",
    "\\",
    "contains",
    "|re: ",
    "(",
    ")",
    " of ",
    "them",
    "not ",
    "1",
    "null",
    "correlation:",
    "filter:",
    "rules: ",
    "timespan: 9s",
    "\u{0}",
    "\u{feff}",
    "\t",
    "\r\n",
    "ä",
    "\u{2028}",
    "# ",
    "? ",
    "...\n",
    "condition: 1 of sel*",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn i11_scraps_of_yaml_never_panic(scraps in vec(select(SCRAPS), 0..60)) {
        survive(scraps.concat());
    }

    #[test]
    fn i11_any_text_never_panics(text in ".{0,200}") {
        survive(text);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn i11_damaged_rules_never_panic(
        rule in generate::rule(),
        cuts in vec((any::<prop::sample::Index>(), 0..4_usize, select(SCRAPS)), 1..5),
    ) {
        let mut characters: Vec<char> = print::rule(&rule).chars().collect();
        for (at, remove, insert) in cuts {
            let at = at.index(characters.len() + 1);
            let end = (at + remove).min(characters.len());
            characters.splice(at..end, insert.chars());
        }
        survive(characters.into_iter().collect());
    }
}

#[test]
fn i11_deep_long_and_many_are_refused_quickly() {
    survive("[".repeat(100_000));
    survive("a: ".repeat(50_000));
    survive("---\n".repeat(50_000));
    survive(format!("title: {}\n", "x".repeat(900_000)));
    survive("x".repeat(2_000_000));
    let head =
        "title: t\nlogsource: {product: linux, category: process_creation}\ndetection:\n  s: {Image: a}\n";
    survive(format!("{head}  condition: {}s{}\n", "(".repeat(1500), ")".repeat(1500)));
    survive(format!("{head}  condition: {}s\n", "not ".repeat(1000)));
    survive(format!("{head}  condition: {}s\n", "s or ".repeat(800)));
    survive(format!("{head}  t: {{'CommandLine|re': '{}'}}\n  condition: s\n", "(a{1000}){1000}"));
    survive(format!("{head}  t: {{'CommandLine|windash': '{}'}}\n  condition: s\n", "-".repeat(200)));
}
