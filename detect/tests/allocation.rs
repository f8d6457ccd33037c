//! I11 on the hot path: evaluating an event allocates nothing, whatever it contains.

#[path = "../examples/bench_detect/events.rs"]
mod events;
#[path = "../examples/bench_detect/rules.rs"]
mod rules;

use std::sync::Arc;

use events::Strings;
use hemostat_detect::{
    load::load,
    matcher::{Options, RuleSet},
    schema::{Field, RecordBuilder},
    source::SourceFile,
};
use model::{NodeId, RecordKind, Timestamp};

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

/// What is said of a finding is said as often as it is met: a process in a loop must not make it cost more where rules are many.
#[test]
fn i11_what_is_said_of_a_match_takes_no_more_memory_where_rules_are_many() {
    let events = events::generate(4000, 1, Strings::Repeating);
    let said = |count: usize| {
        let loaded = load(&[SourceFile { name: "rules.yml".into(), text: rules::yaml(count, 11) }]);
        let set = Arc::new(RuleSet::compile(&loaded.rules, Options::default()).0);
        let (mut matcher, mut hits, mut explained, mut largest) = (set.matcher(), vec![], 0, 0);
        for event in &events {
            hits.clear();
            matcher.evaluate(event, &mut hits);
            for hit in &hits {
                let counted = allocation_counter::measure(|| drop(set.matched(*hit, event)));
                (explained, largest) = (explained + 1, largest.max(counted.bytes_total));
            }
        }
        assert!(explained > 1, "only {explained} hits of {count} rules");
        println!("{count} rules: {largest} bytes at most for one of {explained} hits");
        largest
    };
    assert!(said(50) < 128 * 1024 && said(900) < 128 * 1024);
}

/// Records are no exception: an audit log, too, is read at thousands a second.
#[test]
fn i11_evaluating_a_record_allocates_nothing() {
    let rule = |number: usize| {
        format!(
            "title: R{number}\nid: r{number}\nlogsource: {{product: kubernetes, service: audit}}\ndetection:\n  s:\n    verb: [create, patch]\n    \
             objectRef.resource: pods\n    objectRef.name|startswith: pod-{number}\n    requestObject.spec.containers.image|contains: image-{number}\n    \
             responseStatus.code|lt: 300\n  f: {{user.username|endswith: 'system{number}'}}\n  condition: s and not f\n"
        )
    };
    let files = (0..200).map(|number| SourceFile { name: format!("{number}.yml"), text: rule(number) });
    let loaded = load(&files.collect::<Vec<_>>());
    assert_eq!((loaded.rules.len(), loaded.errors()), (200, 0));
    let set = Arc::new(RuleSet::compile(&loaded.rules, Options::default()).0);
    let event = |number: usize| {
        let mut builder = RecordBuilder::new(RecordKind::KubernetesAudit);
        builder.id(&number.to_string()).text(Field::Verb, "create").text(Field::ObjectResource, "pods");
        builder
            .text(Field::ObjectName, &format!("pod-{}-{number}", number % 300))
            .number(Field::ResponseCode, 201);
        builder.list(Field::PodImages, [format!("registry/image-{}:1", number % 300).as_str(), "other"]);
        builder.text(Field::RequestUser, "dana");
        builder.build().into_event(&NodeId::new("s"), Timestamp(0))
    };
    let mut matcher = set.matcher();
    let mut hits = Vec::with_capacity(16 * 1024);
    for number in 0..2000 {
        matcher.evaluate(&event(number), &mut hits);
    }
    let fresh: Vec<_> = (2000..4000).map(event).collect();
    hits.clear();
    let counted = allocation_counter::measure(|| {
        for event in &fresh {
            matcher.evaluate(event, &mut hits);
        }
    });
    assert!(hits.len() > 1000, "only {} hits", hits.len());
    assert!(counted.count_total <= 8, "{} allocations", counted.count_total);
}
