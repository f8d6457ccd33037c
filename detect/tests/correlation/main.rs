//! The correlation runtime against a naive interpreter (`naive.rs`: all hits so far are looked at again with each hit) for every kind, and
//! against rsigma-eval 0.23 (`peer.rs`) where it has the kind, on random streams of events.

mod naive;
mod peer;
mod stream;

use hemostat_detect::{
    correlation::{Correlated, Correlator, Counts, Limits},
    load::{Loaded, load},
    source::SourceFile,
};
use model::Timestamp;
use proptest::prelude::*;
use stream::{At, EPOCH};

/// Of all limits the lateness is the only one that these streams reach.
fn limits() -> Limits {
    Limits { samples: 100_000, ..Limits::default() }
}

fn loaded(correlations: &str) -> Loaded {
    let loaded = load(&[SourceFile { name: "c.yml".into(), text: stream::rules() + correlations }]);
    assert_eq!(loaded.diagnostics, [], "{correlations}");
    loaded
}

/// Gives hits in order of their arrival, with the clock of each.
fn run(loaded: &Loaded, limits: Limits, hits: &[At]) -> (Vec<Correlated>, Counts) {
    let (mut correlator, diagnostics) = Correlator::new(&loaded.correlations, &loaded.rules, limits, (1, 2));
    assert_eq!(diagnostics, []);
    let mut told = vec![];
    for (reference, at) in (0..).zip(hits) {
        let event = at.event();
        correlator.advance(Timestamp(EPOCH + at.arrival() * 1_000_000), &mut told);
        correlator.observe(at.rule(), &event.view(), reference, &mut told);
    }
    correlator.finish(&mut told);
    (told, correlator.counts())
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 2000, ..ProptestConfig::with_cases(1000) })]

    /// Every kind, several at once, chained and not, in windows of 30 s, an hour and a day, over hits that come up to 3 s late where 2 s are
    /// allowed.
    #[test]
    fn the_runtime_says_what_the_naive_interpreter_says(
        (texts, hits) in stream::case(stream::correlations(), stream::Pace::Any),
    ) {
        let loaded = loaded(&texts.concat());
        let (told, counts) = run(&loaded, limits(), &hits);
        let (in_time, late) = stream::in_time(&hits, limits().lateness, &loaded);
        let wanted = naive::run(&loaded, &in_time);
        prop_assert_eq!(counts.late, late);
        let shown = || format!("{}\n{hits:#?}\ntold {told:#?}\nwanted {wanted:#?}", texts.concat());
        prop_assert_eq!(told.len(), wanted.len(), "{}", shown());
        for (told, wanted) in told.iter().zip(&wanted) {
            prop_assert_eq!((&told.correlation, told.trigger), (&wanted.correlation, wanted.trigger), "{}", shown());
            prop_assert_eq!(told.time, Timestamp(EPOCH + wanted.time * 1_000_000));
            // Counts are exact up to one above the threshold.
            let exact = told.value == wanted.value || (wanted.counted && told.value > wanted.above && told.value < wanted.value);
            prop_assert!(exact, "{told:?} {wanted:?}\n{}", shown());
        }
        prop_assert_eq!(counts.folded + counts.refused + counts.early + counts.ahead, 0);
    }

    /// Where rsigma has the kind: each time that it goes from "no" to "yes" within a window is one that is told here.
    #[test]
    fn the_runtime_says_what_rsigma_says(
        (texts, hits) in stream::case(stream::correlations_of_peer(), stream::Pace::Seconds),
    ) {
        let loaded = loaded(&texts.concat());
        let mut ordered = hits.clone();
        ordered.sort_by_key(|at| at.time);
        let (told, _) = run(&loaded, limits(), &ordered);
        let mut ours: Vec<(String, u64)> = told.iter().map(|one| (one.correlation.clone(), one.trigger)).collect();
        let mut theirs = peer::run(&(stream::rules() + &texts.concat()), &loaded, &ordered);
        ours.sort();
        theirs.sort();
        prop_assert_eq!(ours, theirs, "ours, theirs of\n{}\n{:#?}", texts.concat(), ordered);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// With few samples a percentile counts some hits for a slice of the window too long, and for those its decision is exact: it lies between
    /// what the window and what the window and a slice say.
    #[test]
    fn beyond_the_bound_a_percentile_is_that_of_the_window_to_within_a_slice(
        hits in stream::flood(), percentile in 0_u32..=100, than in 0_u32..10,
    ) {
        const SAMPLES: usize = 64;
        let text = stream::correlation("p", &format!(
            "type: value_percentile, rules: [a], group-by: [Uid], timespan: 30s, condition: {{field: ProcessId, percentile: {percentile}, gte: {than}}}"
        ));
        let loaded = loaded(&text);
        let (told, counts) = run(&loaded, Limits { samples: SAMPLES, ..limits() }, &hits);
        let slice = 30_000 * 2 / SAMPLES as i64;
        for (index, now) in hits.iter().enumerate() {
            let holds = |span: i64| naive::percentile_holds(&hits[..=index], now, span, percentile, than);
            // Wherever the boundary of the window is put within the slice, the answer is the same: then it must be ours.
            let answers: Vec<bool> = hits[..=index].iter().map(|at| now.time - at.time).chain([30_000, 30_000 + slice])
                .filter(|span| (30_000..=30_000 + slice).contains(span)).map(holds).collect();
            if told.iter().any(|one| one.trigger == index as u64) {
                prop_assert!(answers.contains(&true), "told at {index} of {hits:#?}");
            }
        }
        let ever = (0..hits.len()).any(|index| naive::percentile_holds(&hits[..=index], &hits[index], 30_000, percentile, than));
        prop_assert!(ever || told.is_empty() || counts.folded > 0);
    }
}

#[test]
fn value_count_over_several_fields_counts_their_combinations() {
    let text = stream::correlation(
        "v",
        "type: value_count, rules: [a], group-by: [Uid], timespan: 30s, condition: {field: [ProcessId, Tty], gte: 3}",
    );
    let loaded = loaded(&text);
    let at = |time, value, tty| At { time, value, tty, ..At::default() };
    // Two values of each field make four combinations; the same once more, and one without a terminal, are none.
    let hits = [
        at(0, 1, Some(1)),
        at(1, 1, Some(1)),
        at(2, 2, Some(1)),
        at(3, 5, None),
        at(4, 1, Some(2)),
        at(5, 2, Some(2)),
    ];
    let (told, counts) = run(&loaded, limits(), &hits);
    assert_eq!(told.iter().map(|one| (one.trigger, one.value)).collect::<Vec<_>>(), [(4, 3.0)]);
    assert_eq!(counts.ungrouped, 1);
}

/// What docs/sigma.md says of expressions: judged with each hit, over the rules that matched in the window, `not` included.
#[test]
fn an_expression_of_a_temporal_correlation_is_judged_with_each_hit() {
    let told = |body: &str, hits: &[(i64, usize)]| -> Vec<u64> {
        let loaded = loaded(&stream::correlation("t", &format!("{body}, group-by: [Uid], timespan: 30s")));
        let hits: Vec<At> =
            hits.iter().map(|(time, rule)| At { time: *time, rule: *rule, ..At::default() }).collect();
        run(&loaded, limits(), &hits).0.iter().map(|one| one.trigger).collect()
    };
    let (a, b, c) = (0, 1, 2);
    let any = "type: temporal, rules: [a, b, c], condition";
    assert_eq!(
        told(&format!("{any}: a and not b"), &[(0, b), (1, a), (40_000, a), (41_000, b), (42_000, a)]),
        [2]
    );
    assert_eq!(told(&format!("{any}: a and (b or c)"), &[(0, a), (1, c), (2, b)]), [1]);
    assert_eq!(told(&format!("{any}: 2 of them"), &[(0, c), (1, c), (2, a), (3, b)]), [2]);
    assert_eq!(told(&format!("{any}: all of them"), &[(0, c), (1, a), (2, b)]), [2]);
    let ordered = "type: temporal_ordered, rules: [a, b, c], condition";
    assert_eq!(
        told(&format!("{ordered}: a and c"), &[(0, c), (1, a), (2, c)]),
        [2],
        "in the order of `rules`"
    );
    assert_eq!(
        told(&format!("{ordered}: c and a and not b"), &[(0, a), (1, b), (2, c), (40_000, a), (40_001, c)]),
        [4]
    );
}

/// An order of alternatives is not defined, so it is refused and not guessed.
#[test]
fn an_ordered_correlation_takes_no_alternatives() {
    for condition in ["a or b", "not a", "not (a and b)", "2 of them"] {
        let text = stream::correlation(
            "t",
            &format!(
                "type: temporal_ordered, rules: [a, b, c], group-by: [Uid], timespan: 30s, condition: {condition}"
            ),
        );
        let loaded = load(&[SourceFile { name: "c.yml".into(), text: stream::rules() + &text }]);
        assert_eq!((loaded.errors(), loaded.correlations.len()), (1, 0), "{condition}");
        assert!(loaded.diagnostics[0].message.contains("follow one another"), "{:?}", loaded.diagnostics);
    }
}

/// A rule that stands twice is one source of what is counted.
#[test]
fn a_rule_that_stands_twice_is_counted_once() {
    let text = stream::correlation(
        "e",
        "type: event_count, rules: [a, a], group-by: [Uid], timespan: 30s, condition: {gte: 2}",
    );
    let at = |time| At { time, ..At::default() };
    let (told, _) = run(&loaded(&text), limits(), &[at(0), at(1)]);
    assert_eq!(told.iter().map(|one| one.trigger).collect::<Vec<_>>(), [1]);
}
