//! An attacker who can make as many hits as they like cannot make a window disappear that somebody else has begun to fill, of any kind.

use super::*;

/// Time in ms, rule, value.
type Given = (i64, usize, u32);

/// Per kind: the correlation, and the victim's hits of which the last makes it true.
const KINDS: &[(&str, &[Given])] = &[
    (
        "type: event_count, rules: [a, b], group-by: [Uid], timespan: 24h, condition: {gte: 3}",
        &[(1, 0, 0), (2, 1, 0), (90, 0, 0)],
    ),
    (
        "type: event_count, rules: [a], group-by: [Uid], timespan: 30s, condition: {gte: 5}",
        &[(1, 0, 0), (2, 0, 0), (3, 0, 0), (4, 0, 0), (90, 0, 0)],
    ),
    (
        "type: value_count, rules: [a], group-by: [Uid], timespan: 1h, condition: {field: ProcessId, gte: 3}",
        &[(1, 0, 1), (2, 0, 2), (90, 0, 3)],
    ),
    (
        "type: value_count, rules: [a], group-by: [Uid], timespan: 1h, condition: {field: [ProcessId, Image], gte: 2}",
        &[(1, 0, 1), (90, 0, 2)],
    ),
    (
        "type: value_sum, rules: [a], group-by: [Uid], timespan: 1h, condition: {field: ProcessId, gt: 99.5}",
        &[(1, 0, 50), (90, 0, 50)],
    ),
    (
        "type: value_avg, rules: [a], group-by: [Uid], timespan: 1h, condition: {field: ProcessId, gte: 5.5}",
        &[(1, 0, 1), (90, 0, 10)],
    ),
    (
        "type: value_percentile, rules: [a], group-by: [Uid], timespan: 1h, condition: {field: ProcessId, percentile: 50, gte: 4}",
        &[(1, 0, 1), (2, 0, 9), (90, 0, 9)],
    ),
    ("type: temporal, rules: [a, b, c], group-by: [Uid], timespan: 1h", &[(1, 2, 0), (2, 0, 0), (90, 1, 0)]),
    (
        "type: temporal, rules: [a, b, c], group-by: [Uid], timespan: 1h, condition: a and b and not c",
        &[(1, 1, 0), (90, 0, 0)],
    ),
    (
        "type: temporal_ordered, rules: [a, b, c], group-by: [Uid], timespan: 1h",
        &[(1, 0, 0), (2, 1, 0), (90, 2, 0)],
    ),
];
const VICTIM: u32 = 7;

fn victim(hits: &[Given]) -> Vec<At> {
    hits.iter()
        .map(|(time, rule, value)| At {
            time: *time,
            rule: *rule,
            user: VICTIM,
            value: *value,
            reference: time.unsigned_abs(),
        })
        .collect()
}

fn of_victim(told: &[Correlated]) -> Vec<u64> {
    told.iter().map(|one| one.trigger).filter(|trigger| *trigger <= 90).collect()
}

#[test]
fn i11_other_groups_push_no_window_out_of_any_kind() {
    let with = |limits: Limits| {
        for (body, hits) in KINDS {
            let loaded = loaded(&correlation("x", body));
            let mut correlator = correlator(&loaded, limits);
            let (mut told, hits) = (vec![], victim(hits));
            let (last, first) = hits.split_last().unwrap();
            first.iter().for_each(|at| hit(&mut correlator, *at, &mut told));
            for noise in 0..3000_u32 {
                let time = 10 + i64::from(noise / 100);
                let one = At {
                    time,
                    rule: (noise % 3) as usize,
                    user: 1000 + noise,
                    value: noise,
                    reference: 1000,
                };
                hit(&mut correlator, one, &mut told);
            }
            hit(&mut correlator, *last, &mut told);
            correlator.finish(&mut told);
            assert_eq!(of_victim(&told), [90], "{body}");
            assert!(
                correlator.counts().refused > 0 && correlator.groups() < 100,
                "{body}: {:?}",
                correlator.counts()
            );
        }
    };
    with(Limits { groups: 20, ..Limits::default() });
    // The same where memory is what is used up.
    with(Limits { bytes: 12_000, ..Limits::default() });
}

/// A flood in one's own group: as much of the attacker's own window as is remembered, and nobody else's.
#[test]
fn i11_one_group_of_many_hits_leaves_others_alone() {
    for (body, hits) in KINDS {
        let loaded = loaded(&correlation("x", body));
        let mut correlator = correlator(&loaded, Limits { samples: 16, evidence: 4, ..Limits::default() });
        let (mut told, hits) = (vec![], victim(hits));
        let (last, first) = hits.split_last().unwrap();
        first.iter().for_each(|at| hit(&mut correlator, *at, &mut told));
        for noise in 0..3000_u32 {
            let time = 10 + i64::from(noise / 100);
            hit(&mut correlator, At { time, rule: 0, user: 9, value: noise, reference: 1000 }, &mut told);
        }
        hit(&mut correlator, *last, &mut told);
        correlator.finish(&mut told);
        assert_eq!(of_victim(&told), [90], "{body}");
        assert_eq!(correlator.counts().refused, 0);
    }
}

/// The buffer of hits that wait is everybody's. Whoever fills it, with hits dated as far ahead as is allowed, makes the others' late: they are
/// taken all the same, as those of a node that was cut off.
#[test]
fn i11_a_full_buffer_of_hits_dated_ahead_loses_nobody_elses() {
    for (body, hits) in KINDS {
        let loaded = loaded(&correlation("x", body));
        let hour = std::time::Duration::from_secs(3600);
        let mut correlator = correlator(&loaded, Limits { waiting: 50, catch_up: hour, ..Limits::default() });
        let (mut told, hits) = (vec![], victim(hits));
        correlator.advance(Timestamp(EPOCH), &mut told);
        let mut noise = 0;
        for at in &hits {
            for _ in 0..200 {
                noise += 1;
                let ahead = At { time: 59_000, rule: 0, user: 1000 + noise, value: noise, reference: 1000 };
                hit(&mut correlator, ahead, &mut told);
            }
            hit(&mut correlator, *at, &mut told);
        }
        for second in 1..10 {
            correlator.advance(Timestamp(EPOCH + second * SECOND), &mut told);
        }
        assert_eq!(of_victim(&told), [90], "{body}: {:?}", correlator.counts());
        assert_eq!(correlator.counts().late, 0);
        assert!(correlator.counts().early > 100);
    }
}
