//! I11 on the hot path: evaluating an event allocates nothing, whatever it contains.

#[path = "../examples/bench_detect/chance.rs"]
mod chance;
#[path = "../examples/bench_detect/events.rs"]
mod events;
#[path = "../examples/bench_detect/rules.rs"]
mod rules;

use std::sync::Arc;

use events::Strings;
use hemostat_detect::{
    load::load,
    matcher::{Options, RuleSet},
    source::SourceFile,
};

#[test]
fn i11_evaluating_an_event_allocates_nothing() {
    let control = allocation_counter::measure(|| drop(std::hint::black_box(vec![1_u8])));
    assert_eq!(control.count_total, 1, "the allocator counts");
    let text = rules::yaml(900, 11);
    let loaded = load(&[SourceFile { name: "rules.yml".into(), text }]);
    assert_eq!(loaded.rules.len(), 900);
    let set = Arc::new(RuleSet::compile(&loaded.rules, Options::default()).0);
    for strings in [Strings::Repeating, Strings::Unique] {
        let mut matcher = set.matcher();
        let mut hits = Vec::with_capacity(1024);
        // The working memory of each category, and the states of lazy regular expressions, come with the first events.
        for event in &events::generate(4000, 1, strings) {
            hits.clear();
            matcher.evaluate(event, &mut hits);
        }
        let fresh = events::generate(4000, 2, strings);
        let mut total = 0;
        let counted = allocation_counter::measure(|| {
            for event in &fresh {
                hits.clear();
                matcher.evaluate(event, &mut hits);
                total += hits.len();
            }
        });
        assert!(total > 100, "only {total} hits: nothing was put to the test");
        // A lazy expression may still meet a state for the first time: a handful, not one for each event.
        assert!(
            counted.count_total <= 40,
            "{} allocations in 4,000 events ({strings:?})",
            counted.count_total
        );
        println!(
            "{} allocations, {} bytes in 4,000 events ({strings:?})",
            counted.count_total, counted.bytes_total
        );
    }
}
