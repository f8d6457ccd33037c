//! Correlations as they are written: each thing that may be said is read, and each mistake is told at its place.

use hemostat_detect::{
    ast::{Comparison, Correlation, CorrelationKind, Generate},
    correlation::{fields, quiet},
    diagnostic::{Code, Colour, Severity, render},
    load::{Loaded, load},
    schema::Field,
    source::SourceFile,
};

const RULES: &str = "title: A\nname: a\nlogsource: {product: linux, category: process_creation}\ndetection: {s: {Image: /a}, condition: s}\n\
    ---\ntitle: B\nname: b\nlogsource: {product: linux, category: process_creation}\ndetection: {s: {Image: /b}, condition: s}\n---\n";
/// Where the first correlation's section stands.
const LINE: usize = 13;

fn file(text: String) -> [SourceFile; 1] {
    [SourceFile { name: "rules/c.yml".into(), text }]
}

fn correlation(body: &str) -> String {
    format!("title: C\nname: c\ncorrelation: {{{body}}}\n---\n")
}

fn sound(text: &str) -> Loaded {
    let files = file(format!("{RULES}{text}"));
    let loaded = load(&files);
    assert_eq!(loaded.diagnostics, [], "{}", render(&loaded.diagnostics, &files, Colour::Plain));
    loaded
}

fn one(body: &str) -> Correlation {
    sound(&correlation(body)).correlations.remove(0)
}

#[test]
fn every_kind_is_read_with_what_it_compares() {
    for (body, kind, bounds) in [
        (
            "type: event_count, rules: [a, b], group-by: [User], timespan: 30s, condition: {gte: 10}",
            CorrelationKind::EventCount,
            &[(Comparison::Gte, 10.0)][..],
        ),
        (
            "type: event_count, rules: a, timespan: 24h, condition: {gt: 1, lte: 20, neq: 7}",
            CorrelationKind::EventCount,
            &[(Comparison::Gt, 1.0), (Comparison::Lte, 20.0), (Comparison::Neq, 7.0)],
        ),
        (
            "type: value_count, rules: [a], group-by: User, timespan: 1h, condition: {field: [Image, CommandLine], gte: 3}",
            CorrelationKind::ValueCount,
            &[(Comparison::Gte, 3.0)],
        ),
        (
            "type: value_sum, rules: [a], timespan: 1h, condition: {field: ProcessId, gt: 1.5e3}",
            CorrelationKind::ValueSum,
            &[(Comparison::Gt, 1500.0)],
        ),
        (
            "type: value_avg, rules: [a], timespan: 1h, condition: {field: ProcessId, lt: 0.25, gte: -1}",
            CorrelationKind::ValueAvg,
            &[(Comparison::Lt, 0.25), (Comparison::Gte, -1.0)],
        ),
        (
            "type: value_percentile, rules: [a], timespan: 1h, condition: {field: ProcessId, percentile: 99.9, eq: 7}",
            CorrelationKind::ValuePercentile,
            &[(Comparison::Eq, 7.0)],
        ),
        ("type: temporal, rules: [a, b], timespan: 1h", CorrelationKind::Temporal, &[]),
        (
            "type: temporal, rules: [a, b], timespan: 1h, condition: {gte: 2}",
            CorrelationKind::Temporal,
            &[(Comparison::Gte, 2.0)],
        ),
        ("type: temporal_ordered, rules: [a, b], timespan: 1h", CorrelationKind::TemporalOrdered, &[]),
    ] {
        let correlation = one(body);
        assert_eq!(correlation.kind.value, kind, "{body}");
        let read: Vec<_> = correlation.condition.bounds.iter().map(|bound| (bound.how, bound.than)).collect();
        assert_eq!(read, bounds, "{body}");
        assert_eq!(correlation.generate, Generate::Correlation, "{body}");
    }
    let several =
        one("type: value_count, rules: [a], timespan: 1h, condition: {field: [Image, CommandLine], gte: 3}");
    assert_eq!(
        several.condition.fields.iter().map(|field| field.value.as_str()).collect::<Vec<_>>(),
        ["Image", "CommandLine"]
    );
    assert_eq!(one("type: value_percentile, rules: [a], timespan: 1h, condition: {field: ProcessId, percentile: 99.9, eq: 7}").condition.percentile.unwrap().value, 99.9);
}

/// Within the section, where the specification has it, and beside it, where older rules do.
#[test]
fn generate_decides_who_reports() {
    let body = "type: event_count, rules: [a], timespan: 1h, condition: {gte: 2}";
    for (text, generate) in [
        (correlation(body), Generate::Correlation),
        (correlation(&format!("{body}, generate: false")), Generate::Correlation),
        (correlation(&format!("{body}, generate: true")), Generate::RulesToo),
        (correlation(body).replace("name: c\n", "name: c\ngenerate: true\n"), Generate::RulesToo),
    ] {
        let loaded = sound(&text);
        assert_eq!(loaded.correlations[0].generate, generate, "{text}");
        assert_eq!(quiet(&loaded.correlations).contains("a"), generate == Generate::Correlation, "{text}");
    }
}

/// A correlation over correlations, in any order in the file: by name, and each field it looks at is asked of the rules below.
#[test]
fn correlations_refer_to_correlations() {
    let chain = "title: Top\nname: top\ncorrelation: {type: temporal_ordered, rules: [middle, b], group-by: [Uid], timespan: 1h}\n---\n\
        title: Middle\nname: middle\ncorrelation: {type: event_count, rules: [low], group-by: [User], timespan: 1h, condition: {gte: 2}}\n---\n\
        title: Low\nname: low\ncorrelation: {type: value_count, rules: [a], group-by: [CommandLine], timespan: 1h, condition: {field: Image, gte: 2}}\n";
    let loaded = sound(chain);
    let asked = fields(&loaded.correlations, &loaded.rules);
    // Names as keys: a and b have names and no ids.
    let of = |key: &str| asked.get(key).unwrap().iter().copied().collect::<Vec<_>>();
    let mut a = [Field::Uid, Field::User, Field::CommandLine, Field::Image];
    a.sort_unstable();
    assert_eq!((of("a"), of("b")), (a.to_vec(), vec![Field::Uid]));
    assert_eq!(quiet(&loaded.correlations).into_iter().collect::<Vec<_>>(), ["a", "b", "low", "middle"]);
}

/// One mistake each: its kind, its line and column, and a part of what is said. The rules and the sound correlation behind it load.
#[test]
fn each_mistake_is_told_at_its_place() {
    let good = "title: Good\nname: good\ncorrelation: {type: temporal, rules: [a, b], timespan: 5m}\n";
    for (body, code, column, said) in [
        ("rules: [a], timespan: 1h, condition: {gte: 2}", Code::Missing, 15, "`correlation` has no `type`"),
        (
            "type: event_cuont, rules: [a], timespan: 1h, condition: {gte: 2}",
            Code::BadValue,
            21,
            "did you mean `event_count`",
        ),
        (
            "type: event_count, timespan: 1h, condition: {gte: 2}",
            Code::Missing,
            15,
            "`correlation` has no `rules`",
        ),
        (
            "type: event_count, rules: [], timespan: 1h, condition: {gte: 2}",
            Code::BadValue,
            41,
            "`rules` is empty",
        ),
        (
            "type: event_count, rules: [nobody], timespan: 1h, condition: {gte: 2}",
            Code::UnknownRule,
            42,
            "no rule has the id or name `nobody`",
        ),
        (
            "type: event_count, rules: [a], condition: {gte: 2}",
            Code::Missing,
            15,
            "`correlation` has no `timespan`",
        ),
        (
            "type: event_count, rules: [a], timespan: 1h",
            Code::Missing,
            15,
            "`correlation` has no `condition`",
        ),
        (
            "type: event_count, rules: [a], timespan: 1h, condition: {}",
            Code::Missing,
            71,
            "compares with nothing",
        ),
        (
            "type: event_count, rules: [a], timespan: 1h, condition: {gte: many}",
            Code::BadValue,
            77,
            "expected a number",
        ),
        (
            "type: event_count, rules: [a], timespan: 1h, condition: {gtee: 2}",
            Code::UnknownKey,
            72,
            "did you mean `gte`",
        ),
        (
            "type: event_count, rules: [a], timespan: 1h, condition: {field: Image, gte: 2}",
            Code::UnknownKey,
            72,
            "`field` is not a condition of this kind",
        ),
        (
            "type: value_count, rules: [a], timespan: 1h, condition: {gte: 2}",
            Code::Missing,
            71,
            "which field?",
        ),
        (
            "type: value_sum, rules: [a], timespan: 1h, condition: {field: [Uid, Gid], gte: 2}",
            Code::BadValue,
            83,
            "only `value_count` takes several fields",
        ),
        (
            "type: value_count, rules: [a], timespan: 1h, condition: {field: Image, gte: 65537}",
            Code::Limit,
            86,
            "at most 65536 different values",
        ),
        (
            "type: value_percentile, rules: [a], timespan: 1h, condition: {field: Uid, gte: 2}",
            Code::Missing,
            76,
            "`value_percentile` wants `percentile`",
        ),
        (
            "type: value_percentile, rules: [a], timespan: 1h, condition: {field: Uid, percentile: 101, gte: 2}",
            Code::BadValue,
            101,
            "between 0 and 100",
        ),
        (
            "type: event_count, rules: [a], timespan: 1h, condition: {gte: 2}, generate: maybe",
            Code::BadValue,
            91,
            "`generate` must be `true` or `false`",
        ),
        (
            "type: event_count, rules: [a], timespan: 1h, condition: {gte: 2}, grupo-by: [User]",
            Code::UnknownKey,
            81,
            "`grupo-by` is not a key of `correlation`",
        ),
        ("type: temporal, rules: [a, b], timespan: 1h, condition: a and d", Code::UnknownIdentifier, 77, "d"),
        ("type: temporal, rules: [a, b], timespan: 1h, condition: a and", Code::BadCondition, 73, ""),
        (
            "type: temporal_ordered, rules: [a, b], timespan: 1h, condition: a or b",
            Code::BadCondition,
            79,
            "follow one another",
        ),
        (
            "type: temporal, rules: [a], timespan: 1h, group-by: [who], aliases: {who: {b: Image}}",
            Code::UnknownRule,
            90,
            "not among the correlation's rules",
        ),
        ("type: temporal, rules: [c], timespan: 1h", Code::Cycle, 39, "to itself"),
    ] {
        let files = file(format!("{RULES}{}{good}", correlation(body)));
        let loaded = load(&files);
        let text = render(&loaded.diagnostics, &files, Colour::Plain);
        let errors: Vec<_> =
            loaded.diagnostics.iter().filter(|one| one.severity == Severity::Error).collect();
        let [error] = errors.as_slice() else { panic!("{body}: {text}") };
        assert_eq!(
            (error.code, error.place(&files)),
            (code, Some(("rules/c.yml", LINE, column))),
            "{body}: {text}"
        );
        assert!(text.contains(said), "{body}: {text}");
        assert_eq!(
            (
                loaded.rules.len(),
                loaded.correlations.iter().map(|one| one.meta.key.as_str()).collect::<Vec<_>>()
            ),
            (2, vec!["good"]),
            "{body}"
        );
    }
}

/// A field that no event of a rule has: its hits would belong to no group. Told when the file is checked, not when nothing is found.
#[test]
fn a_field_that_hits_cannot_have_is_warned_of() {
    for (body, column, said) in [
        (
            "type: event_count, rules: [a, b], group-by: [User, Userr], timespan: 1h, condition: {gte: 2}",
            66,
            "`Userr`",
        ),
        (
            "type: event_count, rules: [a], group-by: [QueryName], timespan: 1h, condition: {gte: 2}",
            57,
            "`QueryName`",
        ),
        ("type: value_count, rules: [a], timespan: 1h, condition: {field: Nothing, gte: 2}", 79, "`Nothing`"),
        (
            "type: temporal, rules: [a, b], group-by: [who], timespan: 1h, aliases: {who: {a: User}}",
            57,
            "`who`",
        ),
    ] {
        let files = file(format!("{RULES}{}", correlation(body)));
        let loaded = load(&files);
        assert_eq!((loaded.errors(), loaded.correlations.len()), (0, 1), "{body}");
        let first = loaded.diagnostics.first().unwrap();
        assert_eq!((first.code, first.severity), (Code::AbsentField, Severity::Warning), "{body}: {first:?}");
        assert_eq!(first.place(&files), Some(("rules/c.yml", LINE, column)), "{body}");
        assert!(first.message.contains(said), "{body}: {}", first.message);
    }
}

/// What refers to a rule that was refused is refused with it, and what refers to that.
#[test]
fn who_waits_for_a_refused_rule_is_refused_too() {
    let text = format!(
        "{RULES}{}title: D\nname: d\ncorrelation: {{type: temporal, rules: [c, b], timespan: 1h}}\n",
        correlation("type: event_count, rules: [a], timespan: 1h, condition: {gte: 2}")
    );
    let files = file(text.replace("Image: /a", "Imagee|containz: /a"));
    let loaded = load(&files);
    assert_eq!((loaded.rules.len(), loaded.correlations.len()), (1, 0));
    let unknown: Vec<_> = loaded
        .diagnostics
        .iter()
        .filter(|one| one.code == Code::UnknownRule)
        .map(|one| one.message.as_str())
        .collect();
    assert_eq!(unknown, ["no rule has the id or name `a`", "no rule has the id or name `c`"]);
}
