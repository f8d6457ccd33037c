//! What every fuzz target does with its bytes: shared by the cargo-fuzz targets beside this file and by the test that drives them
//! without it (`tests/fuzz`).

use std::sync::Arc;

use hemostat_detect::{
    correlation::{Checkpoint, Correlator, Limits, Row},
    diagnostic::{Colour, render},
    load::{self, Loaded, load},
    matcher::{Options, RuleIndex, RuleSet},
    plan, reference,
    rule_test::run_rule_tests,
    schema::{Category, DraftValue, Drafted, Field},
    source::SourceFile,
};
use model::Timestamp;

/// What a target does with its bytes.
pub(crate) type Body = fn(&[u8]);

/// By name.
pub(crate) const TARGETS: [(&str, Body); 4] =
    [("load", rule_file), ("rule_tests", test_file), ("matcher", matcher), ("checkpoint", checkpoint)];

/// Any text as a rule file: never a panic, every span inside the text, and what loads is evaluated alike by both engines.
pub(crate) fn rule_file(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let files = [SourceFile { name: "r.yml".into(), text: text.clone().into_owned() }];
    let loaded = load(&files);
    let _ = render(&loaded.diagnostics, &files, Colour::Plain);
    for diagnostic in &loaded.diagnostics {
        assert!(diagnostic.labels.iter().all(|label| text.get(label.span.range()).is_some()));
    }
    let fields = [
        (Field::Image, DraftValue::One("/bin/sh".into())),
        (Field::CommandLine, DraftValue::One(text.into_owned())),
    ];
    let categories = [Category::ProcessCreation, Category::FileEvent, Category::NetworkConnection];
    let events: Vec<_> =
        categories.iter().filter_map(|category| Drafted::new(*category, &fields).ok()).collect();
    judged_alike(&loaded, &events);
}

/// Any text as a test file for a fixed rule: never a panic.
pub(crate) fn test_file(bytes: &[u8]) {
    const RULE: &str = "title: t\nid: t\nlogsource: {product: linux, category: process_creation}\n\
        detection: {s: {Image|endswith: /sh, CommandLine|contains: x}, condition: s}\n";
    let rules = [SourceFile { name: "r.yml".into(), text: RULE.into() }];
    let tests = [SourceFile { name: "r.test.yml".into(), text: String::from_utf8_lossy(bytes).into_owned() }];
    let _ = run_rule_tests(&rules, &tests, &load::Options::default());
}

/// Bytes as rules and events of one small vocabulary, so that they meet: both engines and the kernel plan agree.
pub(crate) fn matcher(bytes: &[u8]) {
    let mut bytes = Bytes(bytes);
    let text: String = (0..1 + bytes.below(4)).map(|number| rule(number, &mut bytes)).collect();
    let loaded = load(&[SourceFile { name: "r.yml".into(), text }]);
    let events: Vec<_> = (0..1 + bytes.below(6)).filter_map(|_| event(&mut bytes)).collect();
    judged_alike(&loaded, &events);
}

/// Any text as a checkpoint or a row of one: never a panic, and the runtime goes on from it within its bounds.
pub(crate) fn checkpoint(bytes: &[u8]) {
    const RULES: &str = "title: a\nname: a\nlogsource: {product: linux, category: process_creation}\ndetection: {s: {Image: /a}, condition: s}\n\
        ---\ntitle: b\nname: b\ncorrelation: {type: event_count, rules: [a], group-by: [User], timespan: 60s, condition: {gte: 2}}\n\
        ---\ntitle: c\nname: c\ncorrelation: {type: value_count, rules: [a], group-by: [User], timespan: 60s, condition: {field: CommandLine, gte: 2}}\n\
        ---\ntitle: d\nname: d\ncorrelation: {type: value_percentile, rules: [a], group-by: [User], timespan: 60s, condition: {field: ProcessId, percentile: 95, gte: 2}}\n";
    let loaded = load(&[SourceFile { name: "r.yml".into(), text: RULES.into() }]);
    let limits = Limits { groups: 4, waiting: 4, samples: 4, ..Limits::default() };
    if let Ok(kept) = serde_json::from_slice::<Checkpoint>(bytes) {
        let (correlator, _) = Correlator::restore(&loaded.correlations, &loaded.rules, limits, kept);
        goes_on(correlator);
    }
    if let Ok(rows) = serde_json::from_slice::<Vec<(Vec<u8>, Row)>>(bytes) {
        let (correlator, _) = Correlator::resume(&loaded.correlations, &loaded.rules, limits, (1, 2), rows);
        goes_on(correlator);
    }
}

/// A checkpoint and the rows of a runtime that was used, as JSON: where the fuzzing of [`checkpoint`] begins.
pub(crate) fn a_checkpoint() -> [Vec<u8>; 2] {
    const RULES: &str = "title: a\nname: a\nlogsource: {product: linux, category: process_creation}\ndetection: {s: {Image: /a}, condition: s}\n\
        ---\ntitle: b\nname: b\ncorrelation: {type: event_count, rules: [a], group-by: [User], timespan: 60s, condition: {gte: 2}}\n\
        ---\ntitle: d\nname: d\ncorrelation: {type: value_percentile, rules: [a], group-by: [User], timespan: 60s, condition: {field: ProcessId, percentile: 95, gte: 2}}\n";
    let loaded = load(&[SourceFile { name: "r.yml".into(), text: RULES.into() }]);
    let (mut correlator, _) = Correlator::new(&loaded.correlations, &loaded.rules, Limits::default(), (1, 2));
    feed(&mut correlator, 3);
    let rows: Vec<_> = correlator.rows();
    [&serde_json::to_vec(&correlator.checkpoint()), &serde_json::to_vec(&rows)]
        .map(|written| written.as_ref().map_or_else(|_| Vec::new(), Clone::clone))
}

fn goes_on(mut correlator: Correlator) {
    feed(&mut correlator, 6);
    let mut told = vec![];
    correlator.finish(&mut told);
    let _ = correlator.bytes();
    let _ = correlator.changes();
    // What it would write is read again as the same.
    let written = serde_json::to_string(&correlator.checkpoint());
    assert!(written.is_ok_and(|text| serde_json::from_str::<Checkpoint>(&text).is_ok()));
    assert!(correlator.groups() <= 3 * 4, "{} groups", correlator.groups());
}

fn feed(correlator: &mut Correlator, hits: u64) {
    let mut told = vec![];
    for number in 0..hits {
        let fields = [(Field::Uid, number.to_string()), (Field::ProcessId, number.to_string())]
            .map(|(f, text)| (f, DraftValue::One(text)));
        let Ok(drafted) = Drafted::new(Category::ProcessCreation, &fields) else { continue };
        let time = Timestamp(1_767_225_600_000_000_000 + number as i64 * 1_000_000_000);
        let drafted = drafted.at(time);
        correlator.observe("a", &drafted.view(), number, &mut told);
        correlator.advance(time, &mut told);
    }
}

fn judged_alike(loaded: &Loaded, events: &[Drafted]) {
    let (set, _) = RuleSet::compile(&loaded.rules, Options::default());
    let set = Arc::new(set);
    let mut matcher = set.matcher();
    // Three times, so that the caches answer too.
    for drafted in events.iter().chain(events).chain(events) {
        let mut hits = vec![];
        matcher.evaluate_with(drafted.event(), drafted.context(), &mut hits);
        for (position, rule) in loaded.rules.iter().enumerate() {
            let matches = reference::matches(rule, &drafted.view());
            assert_eq!(matches, hits.contains(&RuleIndex(position as u32)), "{:#?}", drafted.event());
            // I1.
            let has_class = Category::of(drafted.event()).class().is_some();
            assert!(!matches || !has_class || plan::passes(set.plan(), drafted.event()));
        }
    }
}

/// Bytes as choices; when they are used up, the first of everything.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn below(&mut self, below: usize) -> usize {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        usize::from(*first) % below
    }

    fn pick<'b>(&mut self, of: &[&'b str]) -> &'b str {
        of[self.below(of.len())]
    }

    fn text(&mut self) -> String {
        const PIECES: [&str; 16] = [
            "/", "usr", "bin", "/tmp/", "a", "A", "ab", "sh", " -c ", "curl", "ä", "\u{212a}", "443", "-",
            ".", "x y",
        ];
        (0..1 + self.below(4)).map(|_| self.pick(&PIECES)).collect()
    }
}

fn rule(number: usize, bytes: &mut Bytes<'_>) -> String {
    const CATEGORIES: [&str; 4] = ["process_creation", "file_event", "network_connection", "dns_query"];
    const FIELDS: [&str; 9] = [
        "Image",
        "CommandLine",
        "ParentImage",
        "CurrentDirectory",
        "User",
        "TargetFilename",
        "DestinationPort",
        "DestinationIp",
        "Args",
    ];
    const MODIFIERS: [&str; 9] = [
        "",
        "|contains",
        "|startswith",
        "|endswith",
        "|contains|all",
        "|cased",
        "|endswith|cased",
        "|re",
        "|neq",
    ];
    const CONDITIONS: [&str; 6] = ["a", "a and b", "a or b", "a and not b", "1 of them", "not a and b"];
    let mut search = |name: &str| {
        let items: Vec<_> = (0..1 + bytes.below(2))
            .map(|_| {
                let (field, modifiers) = (bytes.pick(&FIELDS), bytes.pick(&MODIFIERS));
                let values: Vec<_> = (0..1 + bytes.below(3)).map(|_| format!("'{}'", bytes.text())).collect();
                format!("      - {field}{modifiers}: [{}]\n", values.join(", "))
            })
            .collect();
        format!("    {name}:\n{}", items.concat())
    };
    let searches = format!("{}{}", search("a"), search("b"));
    let (category, condition) = (bytes.pick(&CATEGORIES), bytes.pick(&CONDITIONS));
    format!(
        "title: r{number}\nid: r{number}\nlogsource: {{product: linux, category: {category}}}\ndetection:\n{searches}    condition: {condition}\n---\n"
    )
}

fn event(bytes: &mut Bytes<'_>) -> Option<Drafted> {
    const CATEGORIES: [Category; 4] =
        [Category::ProcessCreation, Category::FileEvent, Category::NetworkConnection, Category::DnsQuery];
    let category = CATEGORIES[bytes.below(CATEGORIES.len())];
    let mut fields = vec![
        (Field::Image, bytes.text()),
        (Field::CommandLine, bytes.text()),
        (Field::ParentImage, bytes.text()),
        (Field::CurrentDirectory, bytes.text()),
        (Field::Uid, bytes.below(2).to_string()),
    ];
    match category {
        Category::FileEvent => fields.push((Field::TargetFilename, bytes.text())),
        Category::NetworkConnection => {
            fields.push((Field::DestinationPort, if bytes.below(2) == 0 { "443" } else { "22" }.to_owned()));
        }
        _ => {}
    }
    let fields: Vec<_> = fields.into_iter().map(|(field, text)| (field, DraftValue::One(text))).collect();
    Drafted::new(category, &fields).ok()
}
