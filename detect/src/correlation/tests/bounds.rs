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

/// What was folded to stay within a bound leaves the window with all that it stood for.
#[test]
fn an_average_forgets_folded_values_whole() {
    let loaded = loaded(&correlation(
        "mean",
        "type: value_avg, rules: [a], group-by: [User], timespan: 10s, condition: {field: ProcessId, gte: 4.5}",
    ));
    let (mut correlator, mut told) =
        (correlator(&loaded, Limits { samples: 2, ..Limits::default() }), vec![]);
    for (time, value) in [(0_i64, 1), (1000, 1), (2000, 1), (5000, 1), (12_500, 8)] {
        hit(&mut correlator, At { value, reference: time.unsigned_abs(), ..at(time, 0, 1) }, &mut told);
    }
    correlator.finish(&mut told);
    assert_eq!(told.iter().map(|one| (one.trigger, one.value)).collect::<Vec<_>>(), [(12_500, 4.5)]);
    assert_eq!(correlator.counts().folded, 2);
}
