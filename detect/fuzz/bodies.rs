//! What every fuzz target does with its bytes: shared by the cargo-fuzz targets beside this file and by the test that drives them
//! without it (`tests/fuzz`).

use std::sync::Arc;

use hemostat_detect::{
    correlation::{Checkpoint, Correlated, Correlator, Limits, Row},
    diagnostic::{Colour, render},
    explain::{self, explain},
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
pub(crate) const TARGETS: [(&str, Body); 5] = [
    ("load", rule_file),
    ("rule_tests", test_file),
    ("matcher", matcher),
    ("checkpoint", checkpoint),
    ("correlate", correlate),
];

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

/// A rule and correlations of every kind over it.
const CORRELATIONS: &str = "title: a\nname: a\nlogsource: {product: linux, category: process_creation}\ndetection: {s: {Image: /a}, condition: s}\n\
    ---\ntitle: b\nname: b\ncorrelation: {type: event_count, rules: [a], group-by: [User], timespan: 60s, condition: {gte: 2}}\n\
    ---\ntitle: c\nname: c\ncorrelation: {type: value_count, rules: [a], group-by: [User], timespan: 60s, condition: {field: [CommandLine, ProcessId], gte: 2}}\n\
    ---\ntitle: d\nname: d\ncorrelation: {type: value_percentile, rules: [a], group-by: [User], timespan: 60s, condition: {field: ProcessId, percentile: 95, gte: 2}}\n\
    ---\ntitle: e\nname: e\ncorrelation: {type: value_avg, rules: [a], group-by: [User], timespan: 60s, condition: {field: ProcessId, gte: 1.5}}\n\
    ---\ntitle: f\nname: f\ncorrelation: {type: event_count, rules: [a], group-by: [User], timespan: 60s, condition: {gte: 20}}\n\
    ---\ntitle: g\nname: g\ncorrelation: {type: temporal, rules: [b, c], group-by: [User], timespan: 60s, condition: b and not c}\n\
    ---\ntitle: h\nname: h\ncorrelation: {type: temporal_ordered, rules: [a, b], group-by: [User], timespan: 60s}\n";
const CORRELATION_COUNT: usize = 7;

fn correlations() -> Loaded {
    load(&[SourceFile { name: "r.yml".into(), text: CORRELATIONS.into() }])
}

/// Any text as a checkpoint or a row of one: never a panic, and the runtime goes on from it within its bounds.
pub(crate) fn checkpoint(bytes: &[u8]) {
    let loaded = correlations();
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

/// A checkpoint and the rows of a runtime that was used, as JSON, by name: where the fuzzing of [`checkpoint`] begins.
pub(crate) fn checkpoints() -> [(&'static str, Vec<u8>); 2] {
    let loaded = correlations();
    let (mut correlator, _) = Correlator::new(&loaded.correlations, &loaded.rules, Limits::default(), (1, 2));
    feed(&mut correlator, 3);
    let mut rows: Vec<_> = correlator.rows();
    rows.sort_by(|(one, _), (other, _)| one.cmp(other));
    let written = [serde_json::to_vec(&correlator.checkpoint()), serde_json::to_vec(&rows)];
    let [whole, rows] = written.map(Result::unwrap_or_default);
    [("whole", whole), ("rows", rows)]
}

/// Bytes as hits: correlated alike whatever order they come in within the lateness, and over a restart anywhere, with groups that fold and
/// without.
pub(crate) fn correlate(bytes: &[u8]) {
    let loaded = correlations();
    let mut bytes = Bytes(bytes);
    let samples = [4, 1024][bytes.below(2)];
    let cut = bytes.below(24);
    let mut hits: Vec<(i64, u64)> = (0..24)
        .scan(0_i64, |time, number| {
            *time += [0, 100, 900, 20_000, 61_000][bytes.below(5)];
            Some((*time, number))
        })
        .collect();
    let limits = Limits { samples, ..Limits::default() };
    let new = || Correlator::new(&loaded.correlations, &loaded.rules, limits, (1, 2)).0;
    let users: Vec<(u64, u64)> = (0..24).map(|_| (bytes.below(2) as u64, bytes.below(4) as u64)).collect();
    let observe = |correlator: &mut Correlator, (time, number): (i64, u64), told: &mut Vec<Correlated>| {
        let (user, value) = users[number as usize];
        let fields = [
            (Field::Uid, user.to_string()),
            (Field::ProcessId, value.to_string()),
            (Field::CommandLine, "x".repeat(value as usize % 2)),
        ];
        let fields = fields.map(|(field, text)| (field, DraftValue::One(text)));
        if let Ok(drafted) = Drafted::new(Category::ProcessCreation, &fields) {
            let drafted = drafted.at(Timestamp(1_767_225_600_000_000_000 + time * 1_000_000));
            correlator.observe("a", &drafted.view(), number, told);
        }
    };
    let (mut plain, mut told) = (new(), vec![]);
    hits.iter().for_each(|hit| observe(&mut plain, *hit, &mut told));
    plain.finish(&mut told);
    let (mut first, mut again) = (new(), vec![]);
    hits[..cut].iter().for_each(|hit| observe(&mut first, *hit, &mut again));
    let kept =
        serde_json::to_string(&first.checkpoint()).and_then(|text| serde_json::from_str::<Checkpoint>(&text));
    let Ok(kept) = kept else { unreachable!("what it writes it reads") };
    let (mut second, _) = Correlator::restore(&loaded.correlations, &loaded.rules, limits, kept);
    hits[cut..].iter().for_each(|hit| observe(&mut second, *hit, &mut again));
    second.finish(&mut again);
    assert_eq!(told, again, "over a restart");
    hits.reverse();
    let (mut backwards, mut other) = (new(), vec![]);
    hits.iter().for_each(|hit| observe(&mut backwards, *hit, &mut other));
    backwards.finish(&mut other);
    assert_eq!(told, other, "in any order");
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
    assert!(correlator.groups() <= CORRELATION_COUNT * 4, "{} groups", correlator.groups());
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
            let explained = explain(rule, &drafted.view());
            assert_eq!(explained.matched, matches);
            let _ = explain::render(&explained);
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
