//! Random rules and events of every category in the schema's table, made from the table itself: what a category or a field is, its kind
//! and the words that it takes come from there, so that a new one is tested by being in it.

use std::{collections::BTreeMap, sync::LazyLock};

use hemostat_detect::{
    load::load,
    plan, reference,
    schema::{Category, DraftError, DraftValue, Drafted, Field, Kind},
    source::SourceFile,
};
use proptest::{collection::vec, prelude::*, sample::select};

use crate::compile;

/// Values that fields of any kind may take; each field is asked which are its own.
const VALUES: [&str; 34] = [
    "a",
    "ab",
    "sh",
    "/bin/sh",
    "/tmp/a",
    "Ab",
    "x y",
    "ä",
    "root",
    "0",
    "1",
    "22",
    "443",
    "6",
    "17",
    "true",
    "false",
    "10.0.0.1",
    "10.1.2.3",
    "192.168.1.1",
    "2001:db8::1",
    "tcp",
    "udp",
    "TCP",
    "get",
    "create",
    "pods",
    "default",
    "kube-system",
    "alice",
    "2026-01-01T03:30:00Z",
    "2026-07-01T12:00:00Z",
    "GET",
    "example.org",
];

/// The fields of a category, each with what may stand there.
type Legal = Vec<(Field, Vec<String>)>;

static LEGAL: LazyLock<BTreeMap<Category, Legal>> = LazyLock::new(|| {
    let of = |category: Category| {
        let fields = Field::ALL.iter().copied().filter(|field| field.exists_in(category));
        (
            category,
            fields
                .map(|field| (field, legal(category, field)))
                .filter(|(_, values)| !values.is_empty())
                .collect(),
        )
    };
    Category::ALL.iter().copied().map(of).collect()
});

fn legal(category: Category, field: Field) -> Vec<String> {
    let draft = |text: &str| Drafted::new(category, &[(field, DraftValue::One(text.to_owned()))]);
    let mut values: Vec<String> =
        VALUES.iter().filter(|text| draft(text).is_ok()).map(|text| (*text).to_owned()).collect();
    // A field of certain words says which.
    if let Err(DraftError::BadValue { expected, .. }) = draft("no such word") {
        let words =
            expected.split([',', ' ', '`', ':']).filter(|word| !word.is_empty() && draft(word).is_ok());
        values.extend(words.map(str::to_owned));
    }
    values
}

fn category() -> impl Strategy<Value = Category> {
    select(Category::ALL)
}

/// An item of a rule for the category, `key: values` in YAML.
fn item(category: Category) -> impl Strategy<Value = String> {
    select(LEGAL[&category].as_slice()).prop_flat_map(|(field, values)| {
        let kind = field.spec().kind;
        let modifiers: &[&str] = match kind {
            Kind::Text | Kind::Keyword | Kind::List => &[
                "",
                "|contains",
                "|startswith",
                "|endswith",
                "|cased",
                "|contains|cased",
                "|neq",
                "|windash|contains",
                "|re",
                "|expand",
            ],
            Kind::Number => &["", "|gt", "|lte", "|neq", "|contains"],
            Kind::Address => &["", "|startswith", "|neq", "|cidr"],
            Kind::Time => &["|minute", "|hour|gte", "|day|lt", "|week", "|month|lte", "|year"],
            Kind::Bool => &["", "|neq", "|contains"],
        };
        let value = (select(values), 0..4_usize, any::<bool>()).prop_map(|(text, cut, star)| {
            // Pieces of values, so that modifiers matter.
            let piece: String = text.chars().skip(cut.saturating_sub(2)).collect();
            if star { format!("{piece}*") } else { piece }
        });
        (select(modifiers), vec(value, 1..4), 0..4_usize, 0..60_u32).prop_map(
            move |(modifier, values, other, number)| {
                let name = field.name();
                match (kind, modifier, other) {
                    (_, _, 0) => format!("{name}|exists: {}", number % 2 == 0),
                    (_, _, 1) if number % 4 == 0 => format!("{name}: null"),
                    (Kind::Time, "|year", _) => format!("{name}|year: {}", 2025 + number % 3),
                    (Kind::Time, _, _) => format!("{name}{modifier}: {}", number % 32),
                    (Kind::Number, "|gt" | "|lte", _) => format!("{name}{modifier}: {}", number * 9),
                    (_, "|cidr", _) => format!("{name}|cidr: ['10.0.0.0/8', '2001:db8::/32']"),
                    (_, "|re", _) => format!("{name}|re: '(a|s)[bh]|^/'"),
                    (_, "|expand", _) => format!("{name}|fieldref: {name}"),
                    _ => format!(
                        "{name}{modifier}: [{}]",
                        values.iter().map(|value| format!("'{value}'")).collect::<Vec<_>>().join(", ")
                    ),
                }
            },
        )
    })
}

/// A rule's text for the category, without an id.
pub(crate) fn rule_text(category: Category) -> impl Strategy<Value = String> {
    let condition = select(
        &[
            "s1",
            "s1 and s2",
            "s1 or s2",
            "s1 and not s2",
            "1 of them",
            "all of s*",
            "not s1",
            "s1 or (s2 and not s3)",
        ][..],
    );
    let search = vec(item(category), 1..3).prop_map(|items| {
        let mut seen = vec![];
        let fresh = |item: &String| {
            let key = item.split(':').next().map(str::to_owned);
            let fresh = !seen.contains(&key);
            seen.push(key);
            fresh
        };
        items.into_iter().filter(fresh).map(|item| format!("        {item}\n")).collect::<String>()
    });
    (vec(search, 3), condition).prop_map(move |(searches, condition)| {
        let named: String = searches
            .iter()
            .enumerate()
            .map(|(number, search)| format!("    s{}:\n{search}", number + 1))
            .collect();
        format!(
            "title: Random\nlogsource:\n    category: {}\ndetection:\n{named}    condition: {condition}\n",
            category.name()
        )
    })
}

/// An event of the category: some of its fields.
pub(crate) fn event(category: Category) -> impl Strategy<Value = Drafted> {
    let fields = &LEGAL[&category];
    vec(prop::option::weighted(0.7, any::<prop::sample::Index>()), fields.len())
        .prop_map(move |chosen| {
            let mut written = vec![];
            for ((field, values), chosen) in fields.iter().zip(chosen) {
                let Some(chosen) = chosen else { continue };
                written.push((*field, DraftValue::One(values[chosen.index(values.len())].clone())));
                // What contradicts the others is left out.
                if Drafted::new(category, &written).is_err() {
                    written.pop();
                }
            }
            let drafted = Drafted::new(category, &written);
            assert!(drafted.is_ok(), "{written:?}");
            drafted.into_iter().next()
        })
        .prop_filter_map("no such event", |drafted| drafted)
}

#[test]
fn every_category_has_a_rule_and_fields_to_test() {
    for category in Category::ALL {
        let text = format!(
            "title: t\nlogsource: {{category: {}}}\ndetection: {{s: {{UtcTime|hour: 3}}, condition: s}}\n",
            category.name()
        );
        let loaded = load(&[SourceFile { name: "r.yml".into(), text }]);
        assert!(
            loaded.rules[0].routing.categories.contains(*category),
            "{category:?}: {:?}",
            loaded.rules[0].routing
        );
        let (fields, all) =
            (&LEGAL[category], Field::ALL.iter().filter(|field| field.exists_in(*category)).count());
        assert!(
            fields.len() * 10 >= all * 7,
            "{category:?}: {} of {all} fields have values here",
            fields.len()
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    /// I1 as well: what comes from the kernel at all and matches passes its filter.
    #[test]
    fn matcher_says_what_the_interpreter_says_of_every_category(
        (texts, events) in category().prop_flat_map(|category| (vec(rule_text(category), 1..8), vec(event(category), 1..6))),
    ) {
        let rules = crate::arbitrary::rules(&texts);
        let set = compile(&rules);
        let mut matcher = set.matcher();
        for drafted in events.iter().chain(&events) {
            let mut hits = vec![];
            matcher.evaluate_with(drafted.event(), drafted.context(), &mut hits);
            let found: Vec<usize> = hits.iter().map(|hit| hit.0 as usize).collect();
            let expected: Vec<usize> =
                (0..rules.len()).filter(|index| reference::matches(&rules[*index], &drafted.view())).collect();
            prop_assert_eq!(&found, &expected, "{:#?}\n{}", drafted.event(), texts.join("---\n"));
            let filtered = Category::of(drafted.event()).class().is_some() && !plan::passes(set.plan(), drafted.event());
            prop_assert!(found.is_empty() || !filtered, "{:#?}\n{}", drafted.event(), texts.join("---\n"));
        }
    }
}
