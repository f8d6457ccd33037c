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

/// What makes other loaders grow without bound: refused by name, and the rule beside it loads.
#[test]
fn i11_bombs_are_refused_and_the_rule_beside_them_loads() {
    let good = "title: g\nid: g\nlogsource: {product: linux, category: process_creation}\ndetection: {s: {Image: a}, condition: s}\n";
    let with = |search: &str| {
        let rule = good.replace("s: {Image: a}", search).replace("title: g\nid: g", "title: b\nid: b");
        let files = [
            SourceFile { name: "bad.yml".into(), text: rule },
            SourceFile { name: "good.yml".into(), text: good.to_owned() },
        ];
        let loaded = load(&files);
        assert!(loaded.errors() > 0, "{}", &search[..search.len().min(60)]);
        assert_eq!(loaded.rules.iter().map(|rule| rule.key()).collect::<Vec<_>>(), ["g"]);
    };
    let laughs: String =
        (1..10).map(|n| format!("b{n}: &b{n} [{}]\n", vec![format!("*b{}", n - 1); 9].join(", "))).collect();
    with(&format!("s: {{Image: &b0 lol}}, x: {{ {} }}", laughs.replace('\n', ", ")));
    with("s: {Image: !!binary aGVsbG8=}");
    with("s: {CommandLine|re: '(a{1000}){1000}'}");
    with("s: {CommandLine|re: '((((a{99}){99}){99}){99})'}");
    with(&format!("s: {}{}", "[".repeat(40), "]".repeat(40)));
    with(&format!("s: {{CommandLine: [{}]}}", "a, ".repeat(25_000)));
    with(&format!("s: {{CommandLine|windash: '{}'}}", "-".repeat(9)));
    with(&format!("s: {{CommandLine: '{}'}}", "x".repeat(20_000)));
    // A NUL, and what was no UTF-8 when it was read, are characters like others: nothing is cut short at them.
    let files =
        [SourceFile { name: "n.yml".into(), text: good.replace("Image: a", "Image: \"a\\0\u{fffd}b\"") }];
    assert_eq!(load(&files).errors(), 0);
    survive(format!("{good}\0---\n{good}"));
}
