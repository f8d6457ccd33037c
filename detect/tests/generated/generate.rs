//! Random rules and events that often match each other: both are made of the same few pieces.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use hemostat_detect::{
    ast::{
        Condition, Detection, Expr, FieldName, Identifier, Item, ItemValue, Join, Logsource, Meta, Modifier,
        Number, Polarity, Quantifier, Rule, Search, Selector, Value,
    },
    load::{Loaded, Options, load_with},
    schema::{Category, DraftValue, Drafted, Field, Firing, Routing},
    source::{SourceFile, Span, Spanned},
};
use model::Timestamp;
use proptest::{collection::vec, prelude::*, sample::select};

const PIECES: &[&str] = &[
    "/", "sh", "SH", "bin", "cu", "rl", " ", "-", "a", "A", "b", "ä", "Ä", "x1", ".", "*", "?", "\\", "'",
    "%", "|",
];

fn spanned<T>(value: T) -> Spanned<T> {
    Spanned::new(value, Span::default())
}

fn text() -> impl Strategy<Value = String> {
    vec(select(PIECES), 0..5).prop_map(|pieces| pieces.concat())
}

/// A text that an event holds; no wildcard characters' meaning there.
fn held() -> impl Strategy<Value = String> {
    vec(select(PIECES), 0..6).prop_map(|pieces| pieces.concat())
}

/// Keys and values of one kind that go together.
fn item() -> impl Strategy<Value = Search> {
    use Modifier as M;
    let texts = prop_oneof![
        Just(vec![]),
        Just(vec![M::Contains]),
        Just(vec![M::StartsWith]),
        Just(vec![M::EndsWith]),
        Just(vec![M::Contains, M::All]),
        Just(vec![M::EndsWith, M::Cased]),
        Just(vec![M::Contains, M::Cased, M::All]),
        Just(vec![M::Cased]),
        Just(vec![M::Neq]),
        Just(vec![M::Contains, M::Neq]),
    ];
    let field = || select(&["Image", "CommandLine", "ParentImage", "Tty", "Nonsense"][..]);
    let value = || prop_oneof![8 => text().prop_map(Value::Text), 1 => (0..99_i64).prop_map(int), 1 => any::<bool>().prop_map(Value::Bool)];
    let number_field = || select(&["ProcessId", "Uid", "CommandLine"][..]);
    prop_oneof![
        10 => (field(), texts, vec(value(), 1..4)).prop_map(|(field, modifiers, values)| make(Some(field), modifiers, values)),
        1 => field().prop_map(|field| make(Some(field), vec![], vec![Value::Null])),
        1 => (field(), any::<bool>()).prop_map(|(field, wanted)| make(Some(field), vec![M::Exists], vec![Value::Bool(wanted)])),
        2 => (number_field(), select(&[M::Lt, M::Lte, M::Gt, M::Gte][..]), 0..99_i64)
            .prop_map(|(field, modifier, n)| make(Some(field), vec![modifier], vec![int(n)])),
        1 => (field(), select(&[M::Lt, M::Gte][..]), 0..99_i64)
            .prop_map(|(field, modifier, n)| make(Some(field), vec![modifier], vec![Value::Number(Number::Float(n as f64 + 0.5))])),
        2 => (field(), select(vec![vec![M::Re], vec![M::Re, M::IgnoreCase], vec![M::Re, M::DotAll, M::MultiLine]]), regex())
            .prop_map(|(field, modifiers, source)| make(Some(field), modifiers, vec![Value::Text(source)])),
        2 => (field(), field(), select(vec![vec![M::FieldRef], vec![M::FieldRef, M::Contains], vec![M::FieldRef, M::EndsWith]]))
            .prop_map(|(field, other, modifiers)| make(Some(field), modifiers, vec![Value::Text(other.into())])),
        1 => (field(), select(&[" -a", "/b -x", "-"][..])).prop_map(|(field, flag)| {
            make(Some(field), vec![M::Windash, M::Contains], vec![Value::Text(flag.into())])
        }),
        1 => (field(), select(&["abc", "/bin/sh", "wörter"][..]), select(vec![vec![M::Base64, M::Contains], vec![M::Base64Offset, M::Contains],
              vec![M::Wide, M::Base64Offset, M::Contains]]))
            .prop_map(|(field, word, modifiers)| make(Some(field), modifiers, vec![Value::Text(word.into())])),
        2 => (field(), select(&["abc", "/bin/sh", "wörter"][..]), select(&[M::Wide, M::Utf16Le, M::Utf16Be, M::Utf16][..]), select(&[M::Base64, M::Base64Offset][..]))
            .prop_map(|(field, word, form, base)| make(Some(field), vec![form, base, M::Contains], vec![Value::Text(word.into())])),
        1 => (field(), select(&["a", "sh", "b-"][..]), select(&[M::Wide, M::Utf16Le, M::Utf16Be][..]), any::<bool>()).prop_map(|(field, word, form, within)| {
            let modifiers = if within { vec![form, M::Contains] } else { vec![form] };
            make(Some(field), modifiers, vec![Value::Text(word.into())])
        }),
        2 => (field(), select(&["%tools%", "/%dirs%/%tools%", "x%dirs%", "%tools%%tools%"][..]), select(vec![vec![M::Expand], vec![M::Expand, M::Contains], vec![M::Expand, M::EndsWith]]))
            .prop_map(|(field, value, modifiers)| make(Some(field), modifiers, vec![Value::Text(value.into())])),
        3 => (select(&[M::Minute, M::Hour, M::Day, M::Week, M::Month, M::Year][..]), proptest::option::of(select(&[M::Lt, M::Lte, M::Gt, M::Gte][..])), 0..60_i64).prop_map(|(part, how, n)| {
            let n = if part == M::Year { 2020 + n % 10 } else { n };
            make(Some("UtcTime"), [Some(part), how].into_iter().flatten().collect(), vec![int(n)])
        }),
        1 => (select(&["SourceIp", "CommandLine"][..]), select(&["10.0.0.0/8", "2001:db8::/32", "10.1.2.3/32"][..]))
            .prop_map(|(field, net)| make(Some(field), vec![M::Cidr], vec![Value::Text(net.into())])),
    ]
}

fn int(n: i64) -> Value {
    Value::Number(Number::Int(n))
}

fn regex() -> impl Strategy<Value = String> {
    vec(select(&["a", "[ab]", "sh", "/", ".", ".*", "(cu|b)", "x1?", "^a", "l$"][..]), 1..4)
        .prop_map(|pieces| pieces.concat())
}

fn make(field: Option<&str>, mut modifiers: Vec<Modifier>, values: Vec<Value>) -> Search {
    // "Single item values are not allowed to have an `all` modifier": we warn, rsigma refuses.
    if values.len() == 1 {
        modifiers.retain(|modifier| *modifier != Modifier::All);
    }
    let join = if modifiers.contains(&Modifier::All) { Join::All } else { Join::Any };
    Search::Item(Item {
        span: Span::default(),
        field: field.map(|text| FieldName { text: text.into(), span: Span::default(), field: None }),
        modifiers: modifiers.into_iter().map(spanned).collect(),
        values: values.into_iter().map(|value| ItemValue { value: spanned(value), tests: vec![] }).collect(),
        join,
        polarity: Polarity::Must,
    })
}

/// A mapping, its keys each once.
fn mapping() -> impl Strategy<Value = Search> {
    vec(item(), 1..4).prop_map(|items| {
        let mut seen = vec![];
        let unique = items.into_iter().filter(|search| {
            let Search::Item(item) = search else { return false };
            let key = (item.field.as_ref().map(|field| field.text.clone()), item.modifiers.clone());
            let new = !seen.contains(&key);
            seen.push(key);
            new
        });
        Search::All(unique.collect(), Span::default())
    })
}

fn search() -> impl Strategy<Value = Search> {
    // An empty keyword is in every text for us, in none for rsigma.
    let word = || text().prop_filter("empty", |word| !word.is_empty());
    let words = move |least: usize| vec(word().prop_map(Value::Text), least..3);
    prop_oneof![
        6 => mapping(),
        2 => vec(mapping(), 1..3).prop_map(|maps| Search::Any(maps, Span::default())),
        1 => words(1).prop_map(|words| make(None, vec![], words)),
        1 => words(2).prop_map(|words| Search::All(vec![make(None, vec![Modifier::All], words)], Span::default())),
    ]
}

const NAMES: &[&str] = &["selection", "selection_b", "filter", "_hidden", "other"];

fn expr(count: usize) -> impl Strategy<Value = Expr> {
    let span = Span::default();
    let group = move |selector: Selector, quantifier| {
        let fits = move |name: &str| match &selector {
            Selector::Them => !name.starts_with('_'),
            Selector::Pattern(pattern) => {
                name.starts_with(pattern.trim_end_matches('*')) && !name.starts_with('_')
            }
        };
        let targets = (0..count).filter(|index| fits(NAMES[*index])).collect();
        (quantifier, targets)
    };
    let leaf = prop_oneof![
        4 => (0..count).prop_map(move |index| Expr::Identifier { index, span }),
        1 => (any::<bool>(), any::<bool>()).prop_map(move |(them, all)| {
            let selector = if them { Selector::Them } else { Selector::Pattern("sel*".into()) };
            let quantifier = if all { Quantifier::All } else { Quantifier::AtLeast(1) };
            let (quantifier, targets) = group(selector.clone(), quantifier);
            Expr::Of { quantifier, selector, targets, span }
        }),
    ];
    leaf.prop_recursive(3, 12, 3, move |part| {
        prop_oneof![
            part.clone().prop_map(move |part| Expr::Not(Box::new(part), span)),
            vec(part.clone(), 2..4).prop_map(move |parts| Expr::And(parts, span)),
            vec(part, 2..4).prop_map(move |parts| Expr::Or(parts, span)),
        ]
    })
}

/// A rule for process creation, as far as its text says it: the parser fills in the rest.
pub(crate) fn rule() -> impl Strategy<Value = Rule> {
    vec(search(), 1..=NAMES.len())
        .prop_flat_map(|searches| {
            let count = searches.len();
            (Just(searches), vec(expr(count), 1..3))
        })
        .prop_map(|(searches, exprs)| {
            let identifiers = searches
                .into_iter()
                .zip(NAMES)
                .map(|(search, name)| Identifier { name: spanned((*name).to_owned()), search });
            let conditions =
                exprs.into_iter().map(|expr| Condition { text: String::new(), span: Span::default(), expr });
            Rule {
                meta: meta(),
                logsource: Logsource {
                    span: Span::default(),
                    category: Some(spanned("process_creation".into())),
                    product: Some(spanned("linux".into())),
                    service: None,
                },
                routing: Routing::default(),
                firing: Firing::Can,
                detection: Detection {
                    span: Span::default(),
                    identifiers: identifiers.collect(),
                    conditions: conditions.collect(),
                },
                fields: vec![],
                filters: vec![],
                hemostat: hemostat_detect::ast::Extension::default(),
            }
        })
}

fn meta() -> Meta {
    Meta {
        span: Span::default(),
        key: String::new(),
        id: None,
        name: None,
        title: spanned("It's a rule".into()),
        description: None,
        author: None,
        status: None,
        level: None,
        tags: vec![],
        references: vec![],
        false_positives: vec![],
    }
}

/// What placeholders stand for.
pub(crate) const PLACEHOLDERS: [(&str, &[&str]); 2] =
    [("tools", &["curl", "sh", "b*"]), ("dirs", &["bin", "a"])];

/// A file of one rule, with the placeholders.
pub(crate) fn load(text: &str) -> Loaded {
    let listed = |(name, values): &(&str, &[&str])| {
        ((*name).to_owned(), values.iter().map(|value| (*value).to_owned()).collect())
    };
    let options = Options { placeholders: PLACEHOLDERS.iter().map(listed).collect(), ..Options::default() };
    load_with(&[SourceFile { name: "r.yml".into(), text: text.to_owned() }], &options)
}

/// The same rule with each placeholder replaced by what it stands for, for an engine that has no table of them.
pub(crate) fn expanded(rule: &Rule) -> Rule {
    fn of(search: &mut Search) {
        match search {
            Search::All(parts, _) | Search::Any(parts, _) => parts.iter_mut().for_each(of),
            Search::Item(item) => {
                let before = item.modifiers.len();
                item.modifiers.retain(|modifier| modifier.value != Modifier::Expand);
                if item.modifiers.len() < before {
                    item.values = item.values.iter().flat_map(values).collect();
                }
            }
        }
    }
    fn values(value: &ItemValue) -> Vec<ItemValue> {
        let Value::Text(text) = &value.value.value else { return vec![value.clone()] };
        let mut texts = vec![text.clone()];
        for (name, stands_for) in PLACEHOLDERS {
            let mark = format!("%{name}%");
            while texts.iter().any(|text| text.contains(&mark)) {
                let replaced = |text: &String| match text.contains(&mark) {
                    true => stands_for.iter().map(|one| text.replacen(&mark, one, 1)).collect(),
                    false => vec![text.clone()],
                };
                texts = texts.iter().flat_map(replaced).collect();
            }
        }
        texts.into_iter().map(|text| ItemValue { value: spanned(Value::Text(text)), tests: vec![] }).collect()
    }
    let mut rule = rule.clone();
    rule.detection.identifiers.iter_mut().for_each(|identifier| of(&mut identifier.search));
    rule
}

/// Whether a mapping of the rule has a key twice.
pub(crate) fn repeats_a_key(rule: &Rule) -> bool {
    fn of(search: &Search) -> bool {
        match search {
            Search::Any(parts, _) => parts.iter().any(of),
            Search::All(parts, _) => {
                let keys: Vec<_> = parts.iter().flat_map(Search::items).map(key).collect();
                (1..keys.len()).any(|at| keys[..at].contains(&keys[at]))
            }
            Search::Item(_) => false,
        }
    }
    fn key(item: &Item) -> (Option<&str>, Vec<Modifier>) {
        let name = item.field.as_ref().map(|field| field.text.as_str());
        (name, item.modifiers.iter().map(|modifier| modifier.value).collect())
    }
    rule.detection.identifiers.iter().any(|identifier| of(&identifier.search))
}

/// The event of these fields.
pub(crate) fn drafted(fields: &[(Field, DraftValue)]) -> Drafted {
    Drafted::new(Category::ProcessCreation, fields).unwrap()
}

/// A process creation, by its fields.
pub(crate) fn event() -> impl Strategy<Value = Vec<(Field, DraftValue)>> {
    let encoded = select(
        &[
            "",
            "YWJj",
            "L2Jpbi9zaA==",
            "eC9iaW4vc2h5",
            "YQBiAGMA",
            "AGEAYgBj",
            "//5hAGIAYwA",
            "a\0",
            "10.1.2.3",
            "17",
            "true",
        ][..],
    );
    let time = (2022..2028_i64, 0..366_i64, 0..86_400_i64).prop_map(|(year, day, second)| {
        Timestamp(((year - 1970) * 31_556_952 + day * 86_400 + second) * 1_000_000_000)
    });
    (
        held(),
        held(),
        encoded,
        proptest::option::of(held()),
        proptest::option::of(held()),
        0..99_u32,
        0..3_u32,
        time,
    )
        .prop_map(|(image, line, extra, parent, tty, pid, uid, time)| {
            let line = if line.len() % 2 == 0 { format!("{line}{extra}") } else { extra.to_owned() };
            let mut fields = vec![
                (Field::Image, image),
                (Field::CommandLine, line),
                (Field::ProcessId, pid.to_string()),
                (Field::Uid, uid.to_string()),
                (Field::UtcTime, time.to_string()),
            ];
            fields.extend(parent.map(|parent| (Field::ParentImage, parent)));
            fields.extend(tty.map(|tty| (Field::Tty, tty)));
            fields.into_iter().map(|(field, text)| (field, DraftValue::One(text))).collect()
        })
}
