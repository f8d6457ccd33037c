mod bounds;
mod floods;

use proptest::{collection::vec, prelude::*, sample::select};

use super::*;
use crate::{
    ast::{Bound, Comparison, Correlation, CorrelationKind},
    load::{Loaded, load},
    schema::{Category, DraftValue, Drafted, Field},
    source::SourceFile,
};

const SECOND: i64 = 1_000_000_000;
const EPOCH: i64 = 1_767_225_600 * SECOND;
const SEED: (u64, u64) = (1, 2);

fn loaded(correlations: &str) -> Loaded {
    let rules: String = ["a", "b", "c"]
        .iter()
        .map(|name| format!("title: {name}\nname: {name}\nlogsource: {{product: linux, category: process_creation}}\ndetection: {{s: {{Image: /{name}}}, condition: s}}\n---\n"))
        .collect();
    let loaded = load(&[SourceFile { name: "c.yml".into(), text: rules + correlations }]);
    assert_eq!(loaded.diagnostics, []);
    loaded
}

/// A correlation named `name` over these keys.
fn correlation(name: &str, body: &str) -> String {
    format!("title: {name}\nname: {name}\ncorrelation: {{{body}}}\n---\n")
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct At {
    /// Milliseconds from the start.
    time: i64,
    rule: usize,
    user: u32,
    value: u32,
    reference: u64,
}

const RULES: [&str; 3] = ["a", "b", "c"];

fn hit(correlator: &mut Correlator, at: At, told: &mut Vec<Correlated>) {
    let time = Timestamp(EPOCH + at.time * 1_000_000).to_string();
    let fields =
        [(Field::UtcTime, time), (Field::Uid, at.user.to_string()), (Field::ProcessId, at.value.to_string())];
    let fields = fields.map(|(field, text)| (field, DraftValue::One(text)));
    let drafted = Drafted::new(Category::ProcessCreation, &fields).unwrap();
    correlator.observe(RULES[at.rule], &drafted.view(), at.reference, told);
}

fn correlator(loaded: &Loaded, limits: Limits) -> Correlator {
    let (correlator, diagnostics) = Correlator::new(&loaded.correlations, &loaded.rules, limits, SEED);
    assert_eq!(diagnostics, []);
    correlator
}

fn run(loaded: &Loaded, hits: &[At]) -> Vec<Correlated> {
    let mut correlator = correlator(loaded, Limits::default());
    let mut told = vec![];
    hits.iter().for_each(|at| hit(&mut correlator, *at, &mut told));
    correlator.finish(&mut told);
    told
}

/// The definition, from all hits so far each time.
fn plainly(correlation: &Correlation, hits: &[At]) -> Vec<(i64, u64, f64)> {
    let span = i64::try_from(correlation.timespan.value.as_millis()).unwrap();
    let mut told = vec![];
    let mut ordered = hits.to_vec();
    ordered.sort_by_key(|at| (at.time, at.reference));
    for user in 0..5 {
        let of_group: Vec<At> = ordered.iter().copied().filter(|at| at.user == user).collect();
        let of_rules: Vec<At> = of_group
            .into_iter()
            .filter(|at| correlation.rules.iter().any(|rule| rule.key == RULES[at.rule]))
            .collect();
        let mut held = false;
        for (index, now) in of_rules.iter().enumerate() {
            let inside: Vec<At> =
                of_rules[..=index].iter().copied().filter(|at| at.time > now.time - span).collect();
            let (value, holds) = judge(correlation, &inside);
            // Alone in its window: the one before has passed.
            if inside.len() == 1 {
                held = false;
            }
            if holds && !held {
                told.push((now.time, now.reference, value));
            }
            held = holds;
        }
    }
    told.sort_by_key(|(time, reference, _)| (*time, *reference));
    told
}

fn judge(correlation: &Correlation, inside: &[At]) -> (f64, bool) {
    let mut values: Vec<u32> = inside.iter().map(|at| at.value).collect();
    values.sort_unstable();
    let sum = f64::from(values.iter().sum::<u32>());
    let count = inside.len() as f64;
    let value = match correlation.kind.value {
        CorrelationKind::EventCount => count,
        CorrelationKind::ValueCount => {
            values.dedup();
            values.len() as f64
        }
        CorrelationKind::ValueSum => sum,
        CorrelationKind::ValueAvg => sum / count,
        CorrelationKind::ValuePercentile => {
            let percent = correlation.condition.percentile.as_ref().unwrap().value;
            let rank = (percent / 100.0 * count).ceil().max(1.0) as usize;
            f64::from(values[rank - 1])
        }
        CorrelationKind::Temporal => {
            let seen = |key: &str| inside.iter().any(|at| RULES[at.rule] == key);
            correlation.rules.iter().filter(|rule| seen(&rule.key)).count() as f64
        }
        CorrelationKind::TemporalOrdered => {
            // The longest beginning of the list of rules that stands in the window in order.
            let mut rest = inside.iter();
            let fits = |rule: &&crate::ast::RuleReference| rest.any(|at| RULES[at.rule] == rule.key);
            correlation.rules.iter().take_while(fits).count() as f64
        }
    };
    let within = |bound: &Bound| {
        let order = value.total_cmp(&bound.than);
        match bound.how {
            Comparison::Lt => order.is_lt(),
            Comparison::Lte => order.is_le(),
            Comparison::Gt => order.is_gt(),
            Comparison::Gte => order.is_ge(),
            Comparison::Eq => order.is_eq(),
            Comparison::Neq => order.is_ne(),
        }
    };
    let holds = match correlation.condition.bounds.is_empty() {
        true => value >= correlation.rules.len() as f64,
        false => correlation.condition.bounds.iter().all(within),
    };
    (value, holds)
}

fn some_hits() -> impl Strategy<Value = Vec<At>> {
    vec((0..60_i64, 0..3_usize, 0..3_u32, 0..6_u32), 0..60).prop_map(|hits| {
        hits.into_iter()
            .enumerate()
            .map(|(reference, (time, rule, user, value))| At {
                time: time * 500,
                rule,
                user,
                value,
                reference: reference as u64,
            })
            .collect()
    })
}

const BODIES: &[&str] = &[
    "type: event_count, rules: [a, b], group-by: [Uid], timespan: 5s, condition: {gte: 3}",
    "type: event_count, rules: [a], group-by: [Uid], timespan: 9s, condition: {gt: 1, lt: 3}",
    "type: event_count, rules: [a, b, c], group-by: [Uid], timespan: 3s, condition: {eq: 2}",
    "type: event_count, rules: [a, b, c], group-by: [Uid], timespan: 3s, condition: {neq: 1}",
    "type: value_count, rules: [a, b, c], group-by: [Uid], timespan: 6s, condition: {field: ProcessId, gte: 3}",
    "type: value_count, rules: [a, b], group-by: [Uid], timespan: 4s, condition: {field: ProcessId, eq: 2}",
    "type: value_sum, rules: [a, b], group-by: [Uid], timespan: 6s, condition: {field: ProcessId, gte: 7.5}",
    "type: value_avg, rules: [a, b], group-by: [Uid], timespan: 6s, condition: {field: ProcessId, gte: 3.5}",
    "type: value_percentile, rules: [a, b], group-by: [Uid], timespan: 6s, condition: {field: ProcessId, percentile: 75, gte: 4}",
    "type: value_percentile, rules: [a, b], group-by: [Uid], timespan: 6s, condition: {field: ProcessId, percentile: 10, lte: 2}",
    "type: value_avg, rules: [a, c], group-by: [Uid], timespan: 6s, condition: {field: ProcessId, gt: 1, lte: 3}",
    "type: value_sum, rules: [a, c], group-by: [Uid], timespan: 6s, condition: {field: ProcessId, gt: 5, lt: 9}",
    "type: temporal, rules: [a, b, c], group-by: [Uid], timespan: 5s",
    "type: temporal, rules: [a, b, c], group-by: [Uid], timespan: 5s, condition: {gte: 2}",
    "type: temporal_ordered, rules: [a, b, c], group-by: [Uid], timespan: 8s",
    "type: temporal_ordered, rules: [b, a], group-by: [Uid], timespan: 4s",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn every_kind_is_its_definition_in_any_order_of_arrival(body in select(BODIES), hits in some_hits().prop_shuffle()) {
        let loaded = loaded(&correlation("x", body));
        let told: Vec<(i64, u64, f64)> = run(&loaded, &hits)
            .iter()
            .map(|one| ((one.time.0 - EPOCH) / 1_000_000, one.trigger, one.value))
            .collect();
        let wanted = plainly(&loaded.correlations[0], &hits);
        prop_assert_eq!(told.len(), wanted.len(), "{:?} {:?}", told, wanted);
        for (told, wanted) in told.iter().zip(&wanted) {
            prop_assert_eq!((told.0, told.1), (wanted.0, wanted.1));
            prop_assert!(told.2 <= wanted.2 && loaded.correlations[0].condition.bounds.iter().all(|bound| told.2 == wanted.2 || told.2 > bound.than));
        }
    }

    #[test]
    fn a_restart_at_any_point_forgets_nothing(hits in some_hits(), cut in any::<prop::sample::Index>()) {
        let all: String = BODIES.iter().enumerate().map(|(n, body)| correlation(&format!("x{n}"), body)).collect();
        let loaded = loaded(&all);
        let mut ordered = hits;
        ordered.sort_by_key(|at| at.time);
        let cut = cut.index(ordered.len() + 1);
        let mut first = correlator(&loaded, Limits::default());
        let mut told = vec![];
        for at in &ordered[..cut] {
            hit(&mut first, *at, &mut told);
            first.advance(Timestamp(EPOCH + at.time * 1_000_000), &mut told);
        }
        let text = serde_json::to_string(&first.checkpoint()).unwrap();
        let (mut second, _) =
            Correlator::restore(&loaded.correlations, &loaded.rules, Limits::default(), serde_json::from_str(&text).unwrap());
        prop_assert_eq!(serde_json::to_string(&second.checkpoint()).unwrap(), text);
        ordered[cut..].iter().for_each(|at| hit(&mut second, *at, &mut told));
        second.finish(&mut told);
        prop_assert_eq!(told, run(&loaded, &ordered));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// I3, I7: as a database keeps it, row by row, killed after any step.
    #[test]
    fn i7_rows_are_the_state_after_every_step(hits in some_hits(), cut in any::<prop::sample::Index>()) {
        let all: String = BODIES.iter().enumerate().map(|(n, body)| correlation(&format!("x{n}"), body)).collect();
        let loaded = loaded(&all);
        let mut ordered = hits;
        ordered.sort_by_key(|at| at.time);
        let cut = cut.index(ordered.len() + 1);
        let mut rows = std::collections::BTreeMap::<Vec<u8>, String>::new();
        let resume = |rows: &std::collections::BTreeMap<Vec<u8>, String>| {
            let rows = rows.iter().map(|(key, text)| (key.clone(), serde_json::from_str(text).unwrap()));
            Correlator::resume(&loaded.correlations, &loaded.rules, Limits::default(), SEED, rows.collect::<Vec<_>>()).0
        };
        let keep = |correlator: &mut Correlator, rows: &mut std::collections::BTreeMap<Vec<u8>, String>| {
            for (key, row) in correlator.changes() {
                match row {
                    Some(row) => drop(rows.insert(key, serde_json::to_string(&row).unwrap())),
                    None => assert!(rows.remove(&key).is_some(), "only what is there is removed"),
                }
            }
        };
        let mut correlator = resume(&rows);
        let mut unwritten = resume(&rows).unwritten();
        let (mut told, mut told_unwritten) = (vec![], vec![]);
        for (position, at) in ordered.iter().enumerate() {
            if position == cut {
                correlator = resume(&rows);
            }
            hit(&mut correlator, *at, &mut told);
            correlator.advance(Timestamp(EPOCH + at.time * 1_000_000), &mut told);
            hit(&mut unwritten, *at, &mut told_unwritten);
            unwritten.advance(Timestamp(EPOCH + at.time * 1_000_000), &mut told_unwritten);
            prop_assert_eq!(unwritten.changes().len(), 0, "nobody goes on with it");
            keep(&mut correlator, &mut rows);
            let whole: std::collections::BTreeMap<_, _> =
                correlator.rows().into_iter().map(|(key, row)| (key, serde_json::to_string(&row).unwrap())).collect();
            let mut kept = rows.clone();
            // The clock alone is no change worth a write.
            let clock = whole.get(b"c".as_slice()).cloned();
            kept.extend(clock.map(|clock| (b"c".to_vec(), clock)));
            prop_assert_eq!(&kept, &whole);
        }
        correlator.finish(&mut told);
        unwritten.finish(&mut told_unwritten);
        prop_assert_eq!(&told_unwritten, &told);
        prop_assert_eq!(told, run(&loaded, &ordered));
    }
}

#[test]
fn rows_of_another_definition_begin_anew_and_are_removed() {
    let before = loaded(&correlation("x", BODIES[0]));
    let mut correlator =
        Correlator::resume(&before.correlations, &before.rules, Limits::default(), SEED, []).0;
    let mut told = vec![];
    hit(&mut correlator, at(1, 0, 7), &mut told);
    hit(&mut correlator, at(2, 0, 7), &mut told);
    correlator.advance(Timestamp(EPOCH + SECOND), &mut told);
    let rows = correlator.rows();
    assert_eq!(rows.len(), 3);
    let after = loaded(&correlation("x", BODIES[1]));
    let mut correlator =
        Correlator::resume(&after.correlations, &after.rules, Limits::default(), SEED, rows).0;
    let changes = correlator.changes();
    assert_eq!(changes.iter().filter(|(_, row)| row.is_none()).count(), 2, "the hits that wait");
    assert!(correlator.pending.len() == 0 && correlator.groups() == 0);
}

#[test]
fn folded_hits_count_as_many_and_mixed_ones_only_where_nothing_differs() {
    let by_user = correlation("user", BODIES[0]);
    let anywhere = "type: event_count, rules: [a], group-by: [Image], timespan: 5s, condition: {gte: 8}";
    let sum = correlation(
        "sum",
        "type: value_sum, rules: [a], group-by: [Uid], timespan: 5s, condition: {field: ProcessId, gte: 8}",
    );
    let loaded = loaded(&(by_user + &correlation("image", anywhere) + &sum));
    let mut correlator = correlator(&loaded, Limits::default());
    let mut told = vec![];
    let mut folded = |correlator: &mut Correlator, time: i64, count, values| {
        let stamp = Timestamp(EPOCH + time * 1_000_000).to_string();
        let fields = [
            (Field::UtcTime, stamp.as_str()),
            (Field::Uid, "7"),
            (Field::ProcessId, "2"),
            (Field::Image, "/a"),
        ];
        let fields = fields.map(|(field, text)| (field, DraftValue::One(text.to_owned())));
        let drafted = Drafted::new(Category::ProcessCreation, &fields).unwrap();
        correlator.observe_folded("a", &drafted.view(), Folded { reference: 1, count, values }, &mut told);
    };
    folded(&mut correlator, 0, 1, Values::Same);
    folded(&mut correlator, 10, 0, Values::Same);
    folded(&mut correlator, 20, 2, Values::Same);
    folded(&mut correlator, 30, 4, Values::Mixed);
    folded(&mut correlator, 40, 1, Values::Same);
    correlator.finish(&mut told);
    let told: Vec<(&str, f64)> = told.iter().map(|one| (one.correlation.as_str(), one.value)).collect();
    assert_eq!(told, [("user", 3.0), ("image", 8.0), ("sum", 8.0)]);
    assert_eq!((correlator.counts().seen, correlator.counts().mixed), (8, 8));
}

#[test]
fn what_a_node_that_was_cut_off_saw_counts_where_its_groups_have_not_gone_on() {
    let loaded = loaded(&correlation("x", BODIES[0]));
    let limits = Limits { catch_up: Duration::from_secs(600), ..Limits::default() };
    let mut correlator = correlator(&loaded, limits);
    let mut told = vec![];
    let clock = |seconds: i64| Timestamp(EPOCH + seconds * SECOND);
    hit(&mut correlator, at(1_000, 0, 7), &mut told);
    hit(&mut correlator, at(1_000, 0, 8), &mut told);
    // Another group keeps the clock going meanwhile, long past the window of the first.
    for time in [60, 120, 180] {
        hit(&mut correlator, at(time * 1000, 0, 9), &mut told);
        correlator.advance(clock(time + 3), &mut told);
    }
    hit(&mut correlator, at(183_500, 0, 8), &mut told);
    correlator.advance(clock(200), &mut told);
    for (time, user) in [(3_000, 7), (2_000, 7), (2_000, 8), (3_000, 8)] {
        hit(&mut correlator, at(time, 0, user), &mut told);
    }
    correlator.advance(clock(201), &mut told);
    assert_eq!(told, [], "they wait for what may still come before them");
    correlator.advance(clock(202), &mut told);
    assert_eq!(told.iter().map(|one| (one.trigger, one.value)).collect::<Vec<_>>(), [(3_000, 3.0)]);
    assert_eq!(correlator.counts().late, 2, "those of the group that has gone on");
    hit(&mut correlator, at(1_000, 0, 7), &mut told);
    correlator.advance(clock(1000), &mut told);
    hit(&mut correlator, at(2_000, 0, 7), &mut told);
    assert_eq!(correlator.counts().late, 4, "and those that are too old");
    // A clock that is set back holds nothing up.
    hit(&mut correlator, at(990_000, 0, 5), &mut told);
    correlator.advance(clock(500), &mut told);
    correlator.advance(clock(502), &mut told);
    assert_eq!(correlator.pending.len(), 0);
}

fn at(time: i64, rule: usize, user: u32) -> At {
    At { time, rule, user, value: 1, reference: time.unsigned_abs() }
}

#[test]
fn correlations_feed_correlations() {
    let many = "type: event_count, rules: [a], group-by: [Uid], timespan: 10s, condition: {gte: 3}";
    let then = "type: temporal_ordered, rules: [many, b], group-by: [Uid], timespan: 60s";
    let loaded = loaded(&(correlation("then", then) + &correlation("many", many)));
    let told = run(&loaded, &[at(1, 0, 7), at(2, 0, 7), at(3, 1, 7), at(4, 0, 7), at(5, 1, 8), at(6, 1, 7)]);
    let told: Vec<(&str, u64)> = told.iter().map(|one| (one.correlation.as_str(), one.trigger)).collect();
    assert_eq!(told, [("many", 4), ("then", 6)]);
}

#[test]
fn evidence_is_the_windows_newest_hits() {
    let loaded = loaded(&correlation("x", BODIES[0]));
    let told = run(&loaded, &[at(1, 0, 7), at(9_000, 0, 7), at(9_500, 1, 7), at(9_600, 0, 7)]);
    assert_eq!(told[0].evidence, [9_000, 9_500, 9_600]);
}

#[test]
fn late_and_misdated_hits_are_counted_and_a_wrong_clock_harms_nobody() {
    let loaded = loaded(&correlation("x", BODIES[0]));
    let mut correlator = correlator(&loaded, Limits::default());
    let mut told = vec![];
    correlator.advance(Timestamp(EPOCH + 100 * SECOND), &mut told);
    hit(&mut correlator, at(97_000, 0, 7), &mut told);
    hit(&mut correlator, at(300_000, 0, 7), &mut told);
    for time in [99_000, 99_100, 99_200] {
        hit(&mut correlator, at(time, 0, 7), &mut told);
    }
    correlator.advance(Timestamp(EPOCH + 110 * SECOND), &mut told);
    assert_eq!(told.len(), 1);
    assert_eq!((correlator.counts().late, correlator.counts().ahead), (1, 1));
}

#[test]
fn i11_noise_cannot_push_a_victims_window_out() {
    let loaded = loaded(&correlation("x", BODIES[0]));
    let mut correlator = correlator(&loaded, Limits { groups: 50, ..Limits::default() });
    let mut told = vec![];
    hit(&mut correlator, at(1, 0, 7), &mut told);
    hit(&mut correlator, at(2, 0, 7), &mut told);
    for noise in 0..10_000 {
        hit(&mut correlator, at(3 + noise / 1000, 0, 1000 + u32::try_from(noise).unwrap()), &mut told);
    }
    hit(&mut correlator, at(20, 0, 7), &mut told);
    correlator.finish(&mut told);
    assert_eq!(told.iter().map(|one| one.trigger).collect::<Vec<_>>(), [20]);
    assert_eq!(correlator.groups(), 50);
    assert_eq!(correlator.counts().refused, 10_000 - 49);
    // Once their windows have passed, groups make room.
    hit(&mut correlator, at(60_000, 0, 99), &mut told);
    correlator.finish(&mut told);
    assert!(correlator.groups() < 50);
    assert_eq!(correlator.counts().refused, 10_000 - 49);
}

#[test]
fn i11_a_group_is_bounded_whatever_comes() {
    let body = "type: value_percentile, rules: [a], group-by: [Uid], timespan: 1d, condition: {field: ProcessId, percentile: 50, gte: 4}";
    let all = correlation("p", body)
        + &correlation("s", BODIES[6])
        + &correlation("d", BODIES[4])
        + &correlation("e", BODIES[0]);
    let loaded = loaded(&all);
    let mut correlator = correlator(&loaded, Limits { samples: 100, waiting: 10, ..Limits::default() });
    let mut told = vec![];
    for n in 0..20_000_u32 {
        let one = At { time: i64::from(n) / 10, rule: 0, user: 7, value: n, reference: u64::from(n) };
        hit(&mut correlator, one, &mut told);
    }
    correlator.finish(&mut told);
    assert!(correlator.bytes() < 40_000, "{}", correlator.bytes());
    assert!(correlator.counts().folded > 0 && correlator.counts().early > 0);
}

#[test]
fn i11_room_is_made_by_groups_whose_window_has_passed_even_while_they_linger() {
    let loaded = loaded(&correlation("x", BODIES[0]));
    let hour = std::time::Duration::from_secs(3600);
    let mut correlator = correlator(&loaded, Limits { groups: 3, catch_up: hour, ..Limits::default() });
    let mut told = vec![];
    (0..3).for_each(|user| hit(&mut correlator, at(i64::from(user), 0, user), &mut told));
    correlator.finish(&mut told);
    hit(&mut correlator, at(60_000, 0, 9), &mut told);
    correlator.finish(&mut told);
    assert_eq!((correlator.counts().refused, correlator.groups()), (0, 1));
}

/// Beyond the bound the oldest are kept as one, so that sums stay exact in value while all are in the window.
#[test]
fn sums_are_exact_beyond_the_bound_of_samples() {
    let body = "type: value_sum, rules: [a], group-by: [Uid], timespan: 1h, condition: {field: ProcessId, gte: 5050}";
    let loaded = loaded(&correlation("x", body));
    let mut correlator = correlator(&loaded, Limits { samples: 4, ..Limits::default() });
    let mut told = vec![];
    for n in 1..=100_u32 {
        let one = At { time: i64::from(n), rule: 0, user: 7, value: n, reference: u64::from(n) };
        hit(&mut correlator, one, &mut told);
    }
    correlator.finish(&mut told);
    assert_eq!(told.iter().map(|one| (one.trigger, one.value)).collect::<Vec<_>>(), [(100, 5050.0)]);
    assert!(correlator.counts().folded > 0);
}

/// Whatever of a definition changes, what was counted under the old one means something else.
#[test]
fn a_checkpoint_of_another_definition_begins_anew() {
    let of = |body: &str| loaded(&correlation("x", body));
    let body = "type: value_count, rules: [a, b], group-by: [Uid], timespan: 5s, condition: {field: ProcessId, gte: 3}";
    let groups_after = |other: &str| {
        let (before, after) = (of(body), of(other));
        let mut first = correlator(&before, Limits::default());
        hit(&mut first, at(1, 0, 7), &mut vec![]);
        first.finish(&mut vec![]);
        assert_eq!(first.groups(), 1);
        let (second, _) =
            Correlator::restore(&after.correlations, &after.rules, Limits::default(), first.checkpoint());
        let (third, _) =
            Correlator::resume(&after.correlations, &after.rules, Limits::default(), SEED, first.rows());
        assert_eq!(second.groups(), third.groups());
        second.groups()
    };
    assert_eq!(groups_after(body), 1);
    assert_eq!(groups_after(&format!("{body}, generate: true")), 1, "who reports is another matter");
    for (from, to) in [
        ("type: value_count", "type: value_sum"),
        ("rules: [a, b]", "rules: [b, a]"),
        ("rules: [a, b]", "rules: [a]"),
        ("group-by: [Uid]", "group-by: [Gid]"),
        ("group-by: [Uid]", "group-by: [Uid, Gid]"),
        ("timespan: 5s", "timespan: 6s"),
        ("gte: 3", "gte: 2"),
        ("gte: 3", "gt: 3"),
        ("gte: 3", "gte: 3, lt: 9"),
        ("field: ProcessId", "field: Gid"),
        ("timespan: 5s", "timespan: 5s, aliases: {who: {a: Uid}}"),
    ] {
        assert_eq!(groups_after(&body.replace(from, to)), 0, "{to}");
    }
}

/// A hit of a node that was cut off waits for its release; a restart meanwhile does not lose it.
#[test]
fn late_hits_that_wait_survive_a_restart() {
    let loaded = loaded(&correlation("x", BODIES[0]));
    let hour = std::time::Duration::from_secs(3600);
    let limits = Limits { catch_up: hour, ..Limits::default() };
    let mut first = correlator(&loaded, limits);
    let mut told = vec![];
    first.advance(Timestamp(EPOCH + 100 * SECOND), &mut told);
    for time in [50_000, 50_100, 50_200] {
        hit(&mut first, at(time, 0, 7), &mut told);
    }
    assert_eq!(told, []);
    let (mut second, _) =
        Correlator::restore(&loaded.correlations, &loaded.rules, limits, first.checkpoint());
    second.finish(&mut told);
    assert_eq!(told.iter().map(|one| one.trigger).collect::<Vec<_>>(), [50_200]);
}

fn with_texts(correlator: &mut Correlator, texts: &[(Field, &str)], reference: u64) {
    let fields: Vec<_> =
        texts.iter().map(|(field, text)| (*field, DraftValue::One((*text).to_owned()))).collect();
    let drafted = Drafted::new(Category::ProcessCreation, &fields).unwrap().at(Timestamp(EPOCH));
    correlator.observe("a", &drafted.view(), reference, &mut vec![]);
}

/// (`ab`, `c`) is not (`a`, `bc`), and what lacks one of the fields is in no group.
#[test]
fn i11_groups_are_the_values_of_all_their_fields() {
    let body =
        "type: event_count, rules: [a], group-by: [CurrentDirectory, Tty], timespan: 5s, condition: {gte: 2}";
    let loaded = loaded(&correlation("x", body));
    let mut correlator = correlator(&loaded, Limits::default());
    with_texts(&mut correlator, &[(Field::CurrentDirectory, "ab"), (Field::Tty, "c")], 1);
    with_texts(&mut correlator, &[(Field::CurrentDirectory, "a"), (Field::Tty, "bc")], 2);
    with_texts(&mut correlator, &[(Field::CurrentDirectory, "abc")], 3);
    let mut told = vec![];
    correlator.finish(&mut told);
    assert_eq!(told, []);
    assert_eq!((correlator.groups(), correlator.counts().ungrouped), (2, 1));
}

/// Each rule has its own field for the name that an alias joins them by.
#[test]
fn an_alias_is_each_rules_own_field() {
    let body = "type: temporal, rules: [a, b], group-by: [who], timespan: 5s, aliases: {who: {a: CurrentDirectory, b: ParentImage}}";
    let loaded = loaded(&correlation("x", body));
    let mut correlator = correlator(&loaded, Limits::default());
    let mut told = vec![];
    with_texts(&mut correlator, &[(Field::CurrentDirectory, "/x"), (Field::ParentImage, "/y")], 1);
    for (parent, reference) in [("/y", 2), ("/x", 3)] {
        let fields = [(Field::CurrentDirectory, "/z"), (Field::ParentImage, parent)]
            .map(|(field, text)| (field, DraftValue::One(text.to_owned())));
        let drafted = Drafted::new(Category::ProcessCreation, &fields).unwrap().at(Timestamp(EPOCH));
        correlator.observe("b", &drafted.view(), reference, &mut told);
    }
    correlator.finish(&mut told);
    assert_eq!(told.iter().map(|one| one.trigger).collect::<Vec<_>>(), [3]);
}

#[test]
fn only_correlations_that_do_not_generate_silence_their_rules() {
    let quiet_of = |generate: &str| {
        let both =
            correlation("x", &format!("{}, generate: {generate}", BODIES[0])) + &correlation("y", BODIES[1]);
        quiet(&loaded(&both).correlations)
    };
    assert_eq!(quiet_of("false"), BTreeSet::from(["a".to_owned(), "b".to_owned()]));
    assert_eq!(quiet_of("true"), BTreeSet::new());
}

#[test]
fn what_was_left_out_is_counted_whole() {
    let counts = Counts { late: 1, ahead: 20, refused: 300, mixed: 4000, ..Counts::default() };
    assert_eq!(counts.left_out(), 4321);
}
