//! Each modifier by an example that holds and one that does not, on the interpreter and on the compiled matcher.
#![expect(clippy::expect_used, reason = "helpers of tests")]

use std::sync::Arc;

use hemostat_detect::{
    load::{Options as LoadOptions, load_with},
    matcher::{Options, RuleSet},
    reference,
    schema::{Category, DraftValue, Drafted, Field},
    source::SourceFile,
};

/// All of Sigma 2.1, by name.
const MODIFIERS: [&str; 31] = [
    "contains",
    "startswith",
    "endswith",
    "all",
    "exists",
    "cased",
    "neq",
    "lt",
    "lte",
    "gt",
    "gte",
    "re",
    "i",
    "m",
    "s",
    "windash",
    "base64",
    "base64offset",
    "wide",
    "utf16le",
    "utf16be",
    "utf16",
    "cidr",
    "expand",
    "fieldref",
    "minute",
    "hour",
    "day",
    "week",
    "month",
    "year",
];

/// An item, a command line for which it holds, and one for which it does not. The events have process number 4242, happen on
/// 2026-01-01 at 00:00:00 UTC and have the parent `/bin/sh`; `None` is that no command line makes it so.
const EXAMPLES: [(&str, Option<&str>, Option<&str>); 50] = [
    ("CommandLine|contains: bc", Some("aBCd"), Some("b c")),
    ("CommandLine|startswith: ab", Some("ABc"), Some("cab")),
    ("CommandLine|endswith: bc", Some("aBC"), Some("bca")),
    ("CommandLine|contains|all: [a, b]", Some("xbya"), Some("xby")),
    ("CommandLine|exists: true", Some(""), None),
    ("Tty|exists: false", Some(""), None),
    ("CommandLine|exists: false", None, Some("")),
    ("CommandLine|contains|cased: Bc", Some("aBcd"), Some("abcd")),
    ("CommandLine|neq: [a, b]", Some("c"), Some("B")),
    ("CommandLine|neq|contains: a", Some("c"), Some("cAc")),
    ("ProcessId|lt: 4243", Some(""), None),
    ("ProcessId|lt: 4242", None, Some("")),
    ("ProcessId|lte: 4242", Some(""), None),
    ("ProcessId|lte: 4241.5", None, Some("")),
    ("ProcessId|gt: 4241.5", Some(""), None),
    ("ProcessId|gt: 4242", None, Some("")),
    ("ProcessId|gte: 4242", Some(""), None),
    ("ProcessId|gte: 4243", None, Some("")),
    ("CommandLine|gt: 9", Some("10"), Some("9")),
    ("CommandLine|re: 'a+b$'", Some("xaab"), Some("aabx")),
    ("CommandLine|re: 'AB'", Some("AB"), Some("ab")),
    ("CommandLine|re|i: 'AB'", Some("xab"), Some("xb")),
    ("CommandLine|re|m: '^b$'", Some("a\nb\nc"), Some("a\nbc")),
    ("CommandLine|re|s: 'a.b'", Some("a\nb"), Some("ab")),
    ("CommandLine|re: 'a.b'", Some("axb"), Some("a\nb")),
    ("CommandLine|windash|contains: ' -x'", Some("a \u{2013}x"), Some("a x")),
    ("CommandLine|windash|contains: ' /x'", Some("a \u{2015}x"), Some("a.x")),
    ("CommandLine|base64: foobar", Some("Zm9vYmFy"), Some("zm9vymfz")),
    ("CommandLine|base64|contains: foobar", Some("x Zm9vYmFy x"), Some("foobar")),
    ("CommandLine|base64offset|contains: /bin/sh", Some("eC9iaW4vc2h5"), Some("/bin/sh")),
    ("CommandLine|wide|base64offset|contains: ping", Some("x cABpAG4AZwA= x"), Some("cGluZw==")),
    ("CommandLine|wide|base64: a", Some("YQA="), Some("YQ==")),
    ("CommandLine|utf16le|base64: a", Some("YQA="), Some("AGE=")),
    ("CommandLine|utf16be|base64: a", Some("AGE="), Some("YQA=")),
    ("CommandLine|utf16|base64: a", Some("//5hAA=="), Some("YQA=")),
    ("CommandLine|cidr: 10.0.0.0/8", Some("10.200.3.4"), Some("11.0.0.1")),
    ("CommandLine|cidr: '2001:db8::/32'", Some("2001:db8:1::7"), Some("2001:db9::7")),
    ("CommandLine|cidr: 192.168.1.7", Some("192.168.1.7"), Some("192.168.1.8")),
    ("CommandLine|expand: '%tools%'", Some("/bin/B"), Some("%tools%")),
    ("CommandLine|expand|endswith: '%tools%'", Some("x/bin/b"), Some("/bin/c")),
    ("CommandLine|fieldref: ParentImage", Some("/BIN/sh"), Some("/bin/sh x")),
    ("CommandLine|fieldref|endswith: ParentImage", Some("x /bin/SH"), Some("/bin/sh x")),
    ("CommandLine|fieldref|contains: ParentImage", Some("x /bin/sh x"), Some("x /bin/s")),
    ("CommandLine|fieldref|startswith: ParentImage", Some("/bin/sh x"), Some("x /bin/sh")),
    ("UtcTime|minute: 0", Some(""), None),
    ("UtcTime|hour|lt: 1", Some(""), None),
    ("UtcTime|day: 1", Some(""), None),
    ("UtcTime|week: 1", Some(""), None),
    ("UtcTime|month|gt: 1", None, Some("")),
    ("UtcTime|year: 2026", Some(""), None),
];

fn event(line: &str) -> Drafted {
    let fields = [(Field::CommandLine, line), (Field::ParentImage, "/bin/sh"), (Field::ProcessId, "4242")];
    let fields = fields.map(|(field, text)| (field, DraftValue::One(text.to_owned())));
    Drafted::new(Category::ProcessCreation, &fields).expect("an event")
}

#[test]
fn every_modifier_means_what_its_example_says() {
    for (item, holds, fails) in EXAMPLES {
        let text = format!(
            "title: t\nid: t\nlogsource: {{product: linux, category: process_creation}}\ndetection:\n  s:\n    {item}\n  condition: s\n"
        );
        let placeholders = [("tools".to_owned(), vec!["/bin/a".to_owned(), "/bin/b".to_owned()])].into();
        let options = LoadOptions { placeholders, ..LoadOptions::default() };
        let loaded = load_with(&[SourceFile { name: "r.yml".into(), text }], &options);
        assert_eq!(loaded.errors(), 0, "{item}: {:?}", loaded.diagnostics);
        let (set, _) = RuleSet::compile(&loaded.rules, Options::default());
        let set = Arc::new(set);
        let mut matcher = set.matcher();
        for (line, expected) in [(holds, true), (fails, false)] {
            let Some(line) = line else { continue };
            let drafted = event(line);
            assert_eq!(reference::matches(&loaded.rules[0], &drafted.view()), expected, "{item} on {line:?}");
            let mut hits = vec![];
            matcher.evaluate(drafted.event(), &mut hits);
            assert_eq!(!hits.is_empty(), expected, "{item} on {line:?}, compiled");
            // What speaks for the match is the field that is asked for, where it is not its absence.
            let field = item.split(['|', ':']).next().unwrap_or("");
            if expected && !item.contains("|neq") && !item.contains("|exists") && !item.contains("null") {
                let said: Vec<String> =
                    hits.iter().flat_map(|hit| set.matched(*hit, drafted.event()).into_keys()).collect();
                assert_eq!(said, [field], "{item} on {line:?}");
            }
        }
    }
}

#[test]
fn every_modifier_has_an_example() {
    for modifier in MODIFIERS {
        let named = |item: &str| {
            let key = item.split(": ").next().unwrap_or("");
            key.split('|').skip(1).any(|name| name == modifier)
        };
        assert!(EXAMPLES.iter().any(|(item, ..)| named(item)), "{modifier}");
    }
}
