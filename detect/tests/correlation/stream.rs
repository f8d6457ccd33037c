//! Random correlations of every kind, and hits of three rules.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::time::Duration;

use hemostat_detect::{
    load::Loaded,
    schema::{Category, DraftValue, Drafted, Field},
};
use model::Timestamp;
use proptest::{collection::vec, prelude::*, sample::select};

/// 2026-01-01 in nanoseconds.
pub(crate) const EPOCH: i64 = 1_767_225_600_000_000_000;

const NAMES: [&str; 3] = ["a", "b", "c"];

/// A hit of a rule.
#[derive(Debug, Clone, Default)]
pub(crate) struct At {
    /// When it happened, in milliseconds from the start.
    pub(crate) time: i64,
    /// How much later it comes, in milliseconds.
    pub(crate) delay: i64,
    pub(crate) rule: usize,
    pub(crate) user: u32,
    pub(crate) value: u32,
    pub(crate) tty: Option<u8>,
    pub(crate) parent: u8,
}

impl At {
    pub(crate) fn arrival(&self) -> i64 {
        self.time + self.delay
    }

    pub(crate) fn rule(&self) -> &'static str {
        NAMES[self.rule]
    }

    /// A field by its name, as a text.
    pub(crate) fn field(&self, name: &str) -> Option<String> {
        match name {
            "Uid" => Some(self.user.to_string()),
            "ProcessId" => Some(self.value.to_string()),
            "Tty" => self.tty.map(|tty| format!("/d{tty}")),
            "ParentImage" => Some(format!("/d{}", self.parent)),
            _ => None,
        }
    }

    pub(crate) fn event(&self) -> Drafted {
        let named = [Field::Uid, Field::ProcessId, Field::Tty, Field::ParentImage];
        let fields: Vec<_> = named
            .iter()
            .filter_map(|field| Some((*field, DraftValue::One(self.field(field.name())?))))
            .collect();
        let drafted = Drafted::new(Category::ProcessCreation, &fields).unwrap();
        drafted.at(Timestamp(EPOCH + self.time * 1_000_000))
    }
}

/// Those that come within the lateness by the caller's clock, and how many of the others some correlation looks at.
pub(crate) fn in_time(hits: &[At], lateness: Duration, loaded: &Loaded) -> (Vec<(u64, At)>, u64) {
    let fed =
        |at: &At| loaded.correlations.iter().any(|one| one.rules.iter().any(|rule| rule.key == at.rule()));
    let lateness = i64::try_from(lateness.as_millis()).unwrap();
    let (mut clock, mut late, mut kept) = (i64::MIN, 0, vec![]);
    for (reference, at) in (0..).zip(hits) {
        clock = clock.max(at.arrival());
        if at.time < clock - lateness {
            late += u64::from(fed(at));
        } else {
            kept.push((reference, at.clone()));
        }
    }
    (kept, late)
}

pub(crate) fn rules() -> String {
    let rule = |name: &&str| {
        format!(
            "title: {name}\nid: {name}\nname: {name}\nlogsource: {{product: linux, category: process_creation}}\n\
             detection: {{s: {{Image: /{name}}}, condition: s}}\n---\n"
        )
    };
    NAMES.iter().map(rule).collect()
}

/// A correlation by this name over these keys.
pub(crate) fn correlation(name: &str, body: &str) -> String {
    format!("title: {name}\nid: {name}\nname: {name}\ncorrelation: {{{body}}}\n---\n")
}

/// Lengths of windows as rules write them, and in milliseconds.
const SPANS: [(&str, i64); 3] = [("30s", 30_000), ("1h", 3_600_000), ("24h", 86_400_000)];

/// Rules that a correlation is over.
fn over() -> impl Strategy<Value = String> {
    select(&["[a]", "[a, b]", "[a, b, c]", "[b, c]", "[c, a]"][..]).prop_map(str::to_owned)
}

fn bounds() -> impl Strategy<Value = String> {
    let number = || prop_oneof![3 => (0..9_u32).prop_map(|n| n.to_string()), 1 => (0..9_u32).prop_map(|n| format!("{n}.5"))];
    let one = (select(&["gte", "gt", "eq", "neq", "lt", "lte"][..]), number());
    prop_oneof![
        4 => one.prop_map(|(how, than)| format!("{how}: {than}")),
        1 => (number(), number()).prop_map(|(low, high)| format!("gt: {low}, lte: {high}")),
        1 => (number(), number()).prop_map(|(low, high)| format!("gte: {low}, lt: {high}")),
    ]
}

/// Whole numbers, as rsigma takes them.
fn whole() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => (select(&["gte", "gt", "eq", "neq", "lt", "lte"][..]), 0..7_u32).prop_map(|(how, than)| format!("{how}: {than}")),
        1 => (0..4_u32, 2..7_u32).prop_map(|(low, high)| format!("gt: {low}, lte: {high}")),
    ]
}

const EXPRESSIONS: [&str; 8] = [
    "a and b",
    "a or c",
    "a and not b",
    "not c",
    "(a or b) and not c",
    "a and b and c",
    "not (a or b) or c",
    "a and (b or not c)",
];

/// Kind, rules and condition.
fn body() -> impl Strategy<Value = String> {
    let valued = select(&["value_sum", "value_avg"][..]);
    let counted = select(&["ProcessId", "[ProcessId]", "[ProcessId, Tty]", "[Tty, ParentImage]"][..]);
    let ordered = select(&["", ", condition: {gte: 2}", ", condition: {eq: 1}"][..]);
    prop_oneof![
        2 => (over(), bounds()).prop_map(|(rules, bounds)| format!("type: event_count, rules: {rules}, condition: {{{bounds}}}")),
        2 => (over(), bounds(), counted)
            .prop_map(|(rules, bounds, field)| format!("type: value_count, rules: {rules}, condition: {{field: {field}, {bounds}}}")),
        2 => (valued, over(), bounds())
            .prop_map(|(kind, rules, bounds)| format!("type: {kind}, rules: {rules}, condition: {{field: ProcessId, {bounds}}}")),
        2 => (over(), bounds(), 0..=100_u32).prop_map(|(rules, bounds, percentile)| {
            format!("type: value_percentile, rules: {rules}, condition: {{field: ProcessId, percentile: {percentile}, {bounds}}}")
        }),
        1 => (over(), ordered.clone()).prop_map(|(rules, condition)| format!("type: temporal, rules: {rules}{condition}")),
        2 => prop_oneof![select(&EXPRESSIONS[..]), select(&["1 of them", "2 of them", "all of them", "2 of *"][..])]
            .prop_map(|expr| format!("type: temporal, rules: [a, b, c], condition: {expr}")),
        1 => (over(), ordered).prop_map(|(rules, condition)| format!("type: temporal_ordered, rules: {rules}{condition}")),
        1 => select(&["a and b", "c and a", "a and not b", "a and c and not b", "all of them", "b and not (a or c)"][..])
            .prop_map(|expr| format!("type: temporal_ordered, rules: [a, b, c], condition: {expr}")),
    ]
}

fn group_by() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => Just("group-by: [Uid]".to_owned()),
        1 => Just("group-by: [Uid, Tty]".to_owned()),
        1 => Just("group-by: []".to_owned()),
        1 => Just("group-by: [Uid, ParentImage]".to_owned()),
    ]
}

/// One to four correlations, of which later ones may refer to earlier ones, and their window.
pub(crate) fn correlations() -> impl Strategy<Value = (Vec<String>, i64)> {
    let one = (body(), group_by(), prop::option::weighted(0.4, select(&["first", "last"][..])));
    (vec(one, 1..5), select(&SPANS[..])).prop_map(|(bodies, (span, millis))| {
        let texts = bodies.into_iter().enumerate().map(|(number, (body, group_by, chained))| {
            let mut body = body;
            // In the place of one of its rules, wherever that stands; expressions name their rules.
            let expression = [" and ", " or ", "not ", "of "].iter().any(|word| body.contains(word));
            if let Some(which) = chained.filter(|_| number > 0 && !expression) {
                let feeder = format!("[k{}", if which == "first" { 0 } else { number - 1 });
                body = body.replacen("[a", &feeder, 1).replacen("[c", &feeder, 1);
            }
            let aliased = group_by == "group-by: [Uid, ParentImage]" && body.contains("rules: [a, b]");
            let (group_by, aliases) = if aliased {
                ("group-by: [Uid, where]", ", aliases: {where: {a: Tty, b: ParentImage}}")
            } else {
                (group_by.as_str(), "")
            };
            correlation(&format!("k{number}"), &format!("{body}, {group_by}, timespan: {span}{aliases}"))
        });
        (texts.collect(), millis)
    })
}

/// Those that rsigma has as they are here: whole thresholds, no percentile between the ends (its own are interpolated), and of the chained
/// ones those whose first is true for one hit at most.
pub(crate) fn correlations_of_peer() -> impl Strategy<Value = (Vec<String>, i64)> {
    let counted = select(&["ProcessId", "[ProcessId]", "[ProcessId, ParentImage]"][..]);
    let one = prop_oneof![
        3 => (over(), whole()).prop_map(|(rules, bounds)| format!("type: event_count, rules: {rules}, condition: {{{bounds}}}")),
        3 => (over(), whole(), counted)
            .prop_map(|(rules, bounds, field)| format!("type: value_count, rules: {rules}, condition: {{field: {field}, {bounds}}}")),
        3 => (select(&["value_sum", "value_avg"][..]), over(), whole())
            .prop_map(|(kind, rules, bounds)| format!("type: {kind}, rules: {rules}, condition: {{field: ProcessId, {bounds}}}")),
        1 => (over(), whole(), select(&[0_u32, 100][..])).prop_map(|(rules, bounds, percentile)| {
            format!("type: value_percentile, rules: {rules}, condition: {{field: ProcessId, percentile: {percentile}, {bounds}}}")
        }),
        2 => over().prop_map(|rules| all_of("temporal", &rules)),
        2 => select(&EXPRESSIONS[..]).prop_map(|expr| format!("type: temporal, rules: [a, b, c], condition: {expr}")),
        2 => over().prop_map(|rules| all_of("temporal_ordered", &rules)),
    ];
    (vec((one, select(&["group-by: [Uid]", "group-by: [Uid, ParentImage]"][..])), 1..4), select(&SPANS[..]))
        .prop_map(|(bodies, (span, millis))| {
            let texts = bodies.into_iter().enumerate().map(|(number, (body, group_by))| {
                correlation(&format!("k{number}"), &format!("{body}, {group_by}, timespan: {span}"))
            });
            (texts.collect(), millis)
        })
}

/// With the number of rules said: without it rsigma is content with one.
fn all_of(kind: &str, rules: &str) -> String {
    format!("type: {kind}, rules: {rules}, condition: {{gte: {}}}", rules.split(',').count())
}

/// How the hits' times lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pace {
    /// As they like, at the window's very end too, and they come late.
    Any,
    /// Multiples of seven seconds, which no two that are a window apart are: rsigma counts the hit exactly one window ago. In order, since it
    /// takes hits as they come.
    Seconds,
}

/// Correlations and hits at the pace of their window, in order of arrival.
pub(crate) fn case(
    correlations: impl Strategy<Value = (Vec<String>, i64)>,
    pace: Pace,
) -> impl Strategy<Value = (Vec<String>, Vec<At>)> {
    correlations.prop_flat_map(move |(texts, span)| (Just(texts), hits(span, pace)))
}

fn hits(span: i64, pace: Pace) -> impl Strategy<Value = Vec<At>> {
    let gap = match pace {
        Pace::Any => prop_oneof![
            4 => 0..span / 6,
            2 => 0..1500_i64,
            2 => Just(0_i64),
            1 => Just(span),
            1 => span - 2..span + 3,
            1 => Just(span / 3),
        ]
        .boxed(),
        Pace::Seconds => prop_oneof![5 => 1..(span / 42_000).max(2), 1 => 1..span / 7_000 + 2]
            .prop_map(|sevens| sevens * 7000)
            .boxed(),
    };
    let delay = match pace {
        Pace::Any => prop_oneof![3 => Just(0_i64), 4 => 0..2001_i64, 1 => 0..3000_i64].boxed(),
        Pace::Seconds => Just(0).boxed(),
    };
    let (tty, parent) = (prop::option::weighted(0.9, 0..2_u8), 0..2_u8);
    vec((gap, delay, 0..3_usize, 0..2_u32, 0..6_u32, tty, parent), 0..40).prop_map(|hits| {
        let mut time = 0;
        let mut all: Vec<At> = hits
            .into_iter()
            .map(|(gap, delay, rule, user, value, tty, parent)| {
                time += gap;
                At { time, delay, rule, user, value, tty, parent }
            })
            .collect();
        all.sort_by_key(At::arrival);
        all
    })
}

/// Many hits of one group in a few windows of 30 s.
pub(crate) fn flood() -> impl Strategy<Value = Vec<At>> {
    vec((0..400_i64, 0..10_u32), 100..600).prop_map(|hits| {
        let mut time = 0;
        hits.into_iter()
            .map(|(gap, value)| {
                time += gap;
                At { time, value, ..At::default() }
            })
            .collect()
    })
}
