//! What happens exactly at a limit, and that what is left out is counted as often as it came.

use super::*;

fn folded(
    at: At,
    fields: &[(Field, &str)],
    count: u32,
    correlator: &mut Correlator,
    told: &mut Vec<Correlated>,
) {
    let time = Timestamp(EPOCH + at.time * 1_000_000).to_string();
    let mut all = vec![(Field::UtcTime, DraftValue::One(time))];
    all.extend(fields.iter().map(|(field, text)| (*field, DraftValue::One((*text).to_owned()))));
    let drafted = Drafted::new(Category::ProcessCreation, &all).unwrap();
    let folded = Folded { reference: at.reference, count, values: Values::Same };
    correlator.observe_folded(RULES[at.rule], &drafted.view(), folded, told);
}

fn advance(correlator: &mut Correlator, seconds: i64, told: &mut Vec<Correlated>) {
    correlator.advance(Timestamp(EPOCH + seconds * SECOND), told);
}

#[test]
fn i2_each_repetition_that_is_left_out_is_counted() {
    let loaded = loaded(&correlation(
        "many",
        "type: event_count, rules: [a], group-by: [Tty], timespan: 10s, condition: {gte: 5}",
    ));
    let limits = Limits { catch_up: std::time::Duration::ZERO, ..Limits::default() };
    let (mut correlator, mut told) = (correlator(&loaded, limits), vec![]);
    folded(at(0, 0, 1), &[], 7, &mut correlator, &mut told);
    assert_eq!(
        correlator.counts(),
        Counts { seen: 7, ungrouped: 7, ..Counts::default() },
        "it has no terminal"
    );
    advance(&mut correlator, 100, &mut told);
    folded(at(0, 0, 1), &[(Field::Tty, "pts0")], 7, &mut correlator, &mut told);
    assert_eq!(correlator.counts(), Counts { seen: 14, ungrouped: 7, late: 7, ..Counts::default() });
    folded(at(999_000, 0, 1), &[(Field::Tty, "pts0")], 7, &mut correlator, &mut told);
    assert_eq!(correlator.counts().ahead, 7);
}

#[test]
fn what_is_dated_exactly_as_far_ahead_as_allowed_is_taken_in() {
    let loaded = loaded(&correlation(
        "many",
        "type: event_count, rules: [a], group-by: [User], timespan: 10s, condition: {gte: 1}",
    ));
    let (mut correlator, mut told) = (correlator(&loaded, Limits::default()), vec![]);
    advance(&mut correlator, 0, &mut told);
    let ahead = i64::try_from(Limits::default().ahead.as_millis()).unwrap();
    hit(&mut correlator, at(ahead, 0, 1), &mut told);
    assert_eq!(correlator.counts().ahead, 0);
    hit(&mut correlator, at(ahead + 1, 0, 1), &mut told);
    assert_eq!(correlator.counts().ahead, 1);
}

/// A hit exactly as old as the window is outside, for an expression as for a list of rules.
#[test]
fn an_expression_looks_at_the_window_and_no_further() {
    let loaded = loaded(&correlation(
        "both",
        "type: temporal, rules: [a, b], group-by: [User], timespan: 10s, condition: a and b",
    ));
    assert_eq!(run(&loaded, &[at(0, 0, 1), At { reference: 2, ..at(10_000, 1, 1) }]), []);
    assert_eq!(run(&loaded, &[at(0, 0, 1), At { reference: 2, ..at(9_999, 1, 1) }]).len(), 1);
}

#[test]
fn i11_a_restart_keeps_as_many_groups_as_are_allowed_and_no_more() {
    let loaded = loaded(&correlation(
        "many",
        "type: event_count, rules: [a], group-by: [User], timespan: 1h, condition: {gte: 2}",
    ));
    let limits = |groups| Limits { groups, ..Limits::default() };
    let (mut before, _) = Correlator::resume(&loaded.correlations, &loaded.rules, limits(3), SEED, []);
    let mut told = vec![];
    for user in 0..3 {
        hit(&mut before, at(0, 0, user), &mut told);
    }
    advance(&mut before, 60, &mut told);
    assert_eq!(before.groups(), 3);
    for allowed in [3, 2] {
        let (restored, _) =
            Correlator::restore(&loaded.correlations, &loaded.rules, limits(allowed), before.checkpoint());
        assert_eq!(restored.groups(), allowed);
        let (mut resumed, _) =
            Correlator::resume(&loaded.correlations, &loaded.rules, limits(allowed), SEED, before.rows());
        assert_eq!(resumed.groups(), allowed);
        // What found no room is taken out of the database, too.
        let removed = resumed.changes().into_iter().filter(|(_, row)| row.is_none()).count();
        assert_eq!(removed, 3 - allowed);
    }
}

/// A window that has emptied is a new one: what comes true in it is told again.
#[test]
fn a_hit_exactly_a_window_later_is_the_first_of_a_new_one() {
    let loaded = loaded(&correlation(
        "once",
        "type: event_count, rules: [a], group-by: [User], timespan: 10s, condition: {gte: 1}",
    ));
    let second = |time| At { reference: 2, ..at(time, 0, 1) };
    assert_eq!(run(&loaded, &[at(0, 0, 1), second(10_000)]).len(), 2);
    assert_eq!(run(&loaded, &[at(0, 0, 1), second(9_999)]).len(), 1);
}

/// Beyond the bound, hits of one slice of the window leave with the newest of them: two slices of 5 s here.
#[test]
fn an_average_forgets_a_slice_whole_and_no_later_than_a_slice_too_late() {
    let loaded = loaded(&correlation(
        "mean",
        "type: value_avg, rules: [a], group-by: [User], timespan: 10s, condition: {field: ProcessId, gte: 7.5}",
    ));
    let (mut correlator, mut told) =
        (correlator(&loaded, Limits { samples: 4, ..Limits::default() }), vec![]);
    // Two alone, three in one slice; when the first of those three leaves at 16 s it stays with them to 19 s.
    let hits =
        [(0_i64, 1), (1000, 1), (6000, 1), (7000, 1), (9000, 1), (15_900, 8), (16_500, 8), (19_100, 8)];
    for (time, value) in hits {
        hit(&mut correlator, At { value, reference: time.unsigned_abs(), ..at(time, 0, 1) }, &mut told);
    }
    correlator.finish(&mut told);
    assert_eq!(told.iter().map(|one| (one.trigger, one.value)).collect::<Vec<_>>(), [(19_100, 8.0)]);
    assert_eq!(correlator.counts().folded, 3);
}

/// A group that is hit for ever at a steady rate is judged by its window, not by all that it ever had.
#[test]
fn i11_a_flood_does_not_add_up_beyond_its_window() {
    let bodies = [
        "type: value_sum, rules: [a], group-by: [User], timespan: 10s, condition: {field: ProcessId, gt: 1400}",
        "type: event_count, rules: [a], group-by: [User], timespan: 10s, condition: {gt: 1400}",
        "type: value_percentile, rules: [a], group-by: [User], timespan: 10s, condition: {field: ProcessId, percentile: 50, gt: 1}",
    ];
    let all: String =
        bodies.iter().enumerate().map(|(n, body)| correlation(&format!("x{n}"), body)).collect();
    let loaded = loaded(&all);
    let (mut correlator, mut told) =
        (correlator(&loaded, Limits { samples: 64, ..Limits::default() }), vec![]);
    let mut give = |from: i64, to: i64, value, told: &mut Vec<Correlated>| {
        for time in from..to {
            hit(&mut correlator, At { value, reference: time.unsigned_abs(), ..at(time * 10, 0, 1) }, told);
            if time % 100 == 0 {
                advance(&mut correlator, time / 100, told);
            }
        }
    };
    give(0, 20_000, 1, &mut told);
    assert_eq!(told, [], "a thousand in a window are not 1400, however long it goes on");
    give(20_000, 20_900, 4, &mut told);
    // Where slices leave at once, a sum near its threshold may cross it more than once.
    let told: std::collections::BTreeSet<_> = told.iter().map(|one| one.correlation.as_str()).collect();
    assert_eq!(told, ["x0", "x2"].into(), "their sum is, and half of them are not 1");
}

/// Each rule has a memory of its own: what it is used up by begins no new group, and those that exist go on.
#[test]
fn i11_a_rules_memory_is_bounded_and_nobody_is_pushed_out() {
    let loaded = loaded(&correlation(
        "many",
        "type: event_count, rules: [a], group-by: [User], timespan: 10s, condition: {gte: 3}",
    ));
    let limits = Limits { bytes: 20_000, ..Limits::default() };
    let (mut correlator, mut told) = (correlator(&loaded, limits), vec![]);
    hit(&mut correlator, at(1, 0, 7), &mut told);
    hit(&mut correlator, at(2, 0, 7), &mut told);
    for noise in 0..1000 {
        hit(&mut correlator, at(3, 0, 1000 + noise), &mut told);
    }
    hit(&mut correlator, at(4, 0, 7), &mut told);
    correlator.finish(&mut told);
    assert_eq!(told.iter().map(|one| one.trigger).collect::<Vec<_>>(), [4]);
    let groups = correlator.groups();
    assert!((10..200).contains(&groups), "{groups}");
    assert_eq!(correlator.counts().refused, 1001 - groups as u64);
    // What is freed is free again.
    hit(&mut correlator, at(60_000, 0, 9), &mut told);
    correlator.finish(&mut told);
    for user in 0..5 {
        hit(&mut correlator, at(60_001, 0, 20 + user), &mut told);
    }
    correlator.finish(&mut told);
    assert_eq!(correlator.counts().refused, 1001 - groups as u64);
}
