//! What rules and events may cost: lengths, expressions, windows (I11).

use std::sync::Arc;

use hemostat_detect::{
    diagnostic::{Code, Colour, render},
    limits,
    load::{Loaded, load},
    matcher::{Options, RuleSet},
    schema::{Category, DraftValue, Drafted, Field},
    source::SourceFile,
};
use model::Truncated;

fn text_of(detection: &str) -> String {
    format!(
        "title: t\nid: t\nlogsource: {{product: linux, category: process_creation}}\ndetection:\n  s: {{{detection}}}\n  condition: s\n"
    )
}

fn one(text: &str) -> (Loaded, [SourceFile; 1]) {
    let files = [SourceFile { name: "rules/r.yml".into(), text: text.to_owned() }];
    (load(&files), files)
}

/// A text beyond the limit is compared only up to it, and each evaluation says so: whichever field, test or cache it goes through.
#[test]
fn i11_texts_beyond_the_limit_are_cut_in_every_kind_of_test_and_flagged() {
    let needle = format!("{}NEEDLE", "x".repeat(200));
    for detection in [
        "CommandLine|contains: needle",
        "CommandLine|endswith: needle",
        "CommandLine|contains|cased: NEEDLE",
        "CommandLine|endswith|cased: NEEDLE",
        "CommandLine|re: 'NEEDLE$'",
        "CommandLine: '*?needle'",
        "ParentCommandLine|contains: needle",
        "ParentCommandLine|re|i: 'needle'",
        "Args|contains: needle",
        "Args|endswith: needle",
        "Args|re: 'NEEDLE'",
        "CommandLine|fieldref|endswith: Tty",
    ] {
        let (loaded, _) = one(&text_of(detection));
        assert_eq!(loaded.errors(), 0, "{detection}");
        let many = |text: &str| DraftValue::Many(vec!["a".into(), text.to_owned()]);
        let event = |text: &str| {
            let one = |text: &str| DraftValue::One(text.to_owned());
            let fields = [
                (Field::CommandLine, one(text)),
                (Field::ParentCommandLine, one(text)),
                (Field::Args, many(text)),
                (Field::Tty, one("NEEDLE")),
            ];
            Drafted::new(Category::ProcessCreation, &fields).unwrap()
        };
        let set =
            Arc::new(RuleSet::compile(&loaded.rules, Options { text_bytes: 100, ..Options::default() }).0);
        let mut matcher = set.matcher();
        let cases = [
            (needle.as_str(), false, Truncated::Yes),
            ("a NEEDLE", true, Truncated::No),
            (&needle[106..], true, Truncated::No),
            (&needle[105..], false, Truncated::Yes),
        ]
        .map(|(text, hit, truncated)| (event(text), hit, truncated));
        // The same events again and again: what is known of a text or of a process must neither find more nor forget the flag.
        for _ in 0..5 {
            for (event, hit, truncated) in &cases {
                let mut hits = vec![];
                let evaluation = matcher.evaluate(event.event(), &mut hits);
                assert_eq!((!hits.is_empty(), evaluation.truncated), (*hit, *truncated), "{detection}");
            }
        }
    }
}

/// No text is cut where no rule looks.
#[test]
fn a_long_text_that_no_rule_looks_at_raises_no_flag() {
    let (loaded, _) = one(&text_of("Image: /a"));
    let set = Arc::new(RuleSet::compile(&loaded.rules, Options { text_bytes: 100, ..Options::default() }).0);
    let fields = [(Field::CommandLine, DraftValue::One("x".repeat(1000)))];
    let event = Drafted::new(Category::ProcessCreation, &fields).unwrap();
    assert_eq!(set.matcher().evaluate(event.event(), &mut vec![]).truncated, Truncated::No);
}

/// Expressions that cost without bound are refused at their place, with what to do instead; those that only look dangerous run in linear time.
#[test]
fn i11_expressions_that_cannot_be_bounded_are_refused_with_their_place() {
    for (expression, said) in [
        ("(?=a)b", "look-around"),
        ("(?<!a)b", "look-around"),
        ("(a)\\1", "backreferences"),
        ("(a{1000}){1000}", "repeats too much"),
        ("(\\w{200}){200}", "repeats too much"),
        ("((a|b){500}c{500}){500}", "repeats too much"),
        ("(((((a{99}){99}){99}){99}){99}){99}", "repeats too much"),
        ("\\pL{900}", "size limit"),
        ("[ab]*a[ab]{2000}c", "repeats too much"),
        ("(a?){600}a{600}", "repeats too much"),
        ("((a|b){40}){40}", "repeats too much"),
        ("(", "unclosed group"),
        ("a{2,1}", "range"),
        ("[z-a]", "range"),
        ("\\p{Nothing}", "not found"),
    ] {
        let (loaded, files) = one(&text_of(&format!("'CommandLine|re': '{expression}'")));
        let [error] = loaded.diagnostics.as_slice() else { panic!("{expression}: {:?}", loaded.diagnostics) };
        assert_eq!(
            (error.code, error.place(&files)),
            (Code::BadRegex, Some(("rules/r.yml", 5, 25))),
            "{expression}"
        );
        let text = render(&loaded.diagnostics, &files, Colour::Plain);
        assert!(text.contains(said), "{expression}: {text}");
        assert_eq!(loaded.rules, []);
    }
    // A long list of words and a repetition that public rules have are well within.
    let words: Vec<String> = (0..200).map(|n| format!("programme{n}")).collect();
    for expression in
        [words.join("|"), "a{1000,}".into(), "(?:[A-Za-z0-9+/]{4}){200,}".into(), "^.{500}".into()]
    {
        let (loaded, _) = one(&text_of(&format!("'CommandLine|re': '{expression}'")));
        assert_eq!(loaded.errors(), 0, "{expression}");
    }
    // What takes exponential time where expressions are tried by going back takes a look at each character here.
    let hostile = format!("{}!", "a".repeat(16_000));
    for expression in ["^(a+)+$", "^(a|aa)+$", "(a*)*b", "^(a?){60}a{60}$", "(.*a){24}x", "(x+x+)+y"] {
        let (loaded, _) = one(&text_of(&format!("'CommandLine|re': '{expression}'")));
        assert_eq!(loaded.errors(), 0, "{expression}");
        let mut matcher = Arc::new(RuleSet::compile(&loaded.rules, Options::default()).0).matcher();
        let event = Drafted::new(
            Category::ProcessCreation,
            &[(Field::CommandLine, DraftValue::One(hostile.clone()))],
        )
        .unwrap();
        let mut hits = vec![];
        matcher.evaluate(event.event(), &mut hits);
        assert_eq!(hits, [], "{expression}");
    }
}

/// A value of very many wildcards would be tried at every place of a text.
#[test]
fn i11_wildcards_of_one_value_are_bounded() {
    let with = |count: usize| one(&text_of(&format!("Image: '{}'", "?a*".repeat(count)))).0;
    assert_eq!(with(limits::WILDCARDS / 2).errors(), 0);
    let loaded = with(limits::WILDCARDS / 2 + 1);
    assert_eq!(loaded.diagnostics.iter().map(|one| one.code).collect::<Vec<_>>(), [Code::Limit]);
    // Escaped ones are characters.
    assert_eq!(one(&text_of(&format!("Image: '{}'", "\\*".repeat(1000)))).0.errors(), 0);
}

#[test]
fn windows_last_from_a_second_to_thirty_days() {
    let correlation = |timespan: &str| {
        let rule = text_of("Image: /a");
        one(&format!(
            "{rule}---\ntitle: c\nid: c\ncorrelation: {{type: event_count, rules: [t], group-by: [User], timespan: {timespan}, condition: {{gte: 2}}}}\n"
        ))
    };
    for (timespan, seconds) in [
        ("30s", 30),
        ("24h", 86_400),
        ("1d", 86_400),
        ("90m", 5400),
        ("1s", 1),
        ("30d", 2_592_000),
        ("4w", 2_419_200),
    ] {
        let (loaded, _) = correlation(timespan);
        assert_eq!(
            loaded.correlations.first().map(|one| one.timespan.value.as_secs()),
            Some(seconds),
            "{timespan}"
        );
    }
    for (timespan, code) in [
        ("0s", Code::Limit),
        ("31d", Code::Limit),
        ("99999999999999999999h", Code::BadValue),
        ("18446744073709551615w", Code::BadValue),
        ("-5m", Code::BadValue),
        ("5M", Code::BadValue),
        ("5", Code::BadValue),
        ("h", Code::BadValue),
        ("1.5h", Code::BadValue),
        ("'5 m'", Code::BadValue),
        ("ä", Code::BadValue),
    ] {
        let (loaded, files) = correlation(timespan);
        assert_eq!(loaded.diagnostics.iter().map(|one| one.code).collect::<Vec<_>>(), [code], "{timespan}");
        assert_eq!(loaded.diagnostics[0].place(&files).map(|(_, line, _)| line), Some(10), "{timespan}");
        assert_eq!((loaded.rules.len(), loaded.correlations.len()), (1, 0));
    }
}
