//! The compiled matcher and the kernel plan against the plain interpreter, and against rsigma-eval.

mod arbitrary;
#[path = "../../examples/bench_detect/events.rs"]
mod events;
mod every_category;
mod explained;
mod from_rule;
#[path = "../../examples/bench_detect/peer.rs"]
#[expect(dead_code, reason = "the bench uses all of it")]
mod peer;
#[path = "../../examples/bench_detect/rules.rs"]
mod rules;
mod shipped;

use std::{cell::Cell, collections::BTreeMap, sync::Arc};

use hemostat_detect::{
    ast::Rule,
    load::load,
    matcher::{Matcher, Options, RuleIndex, RuleSet, Swap},
    plan, reference,
    schema::{Category, View},
    source::SourceFile,
};
use model::{ClassPlan, Event, Reaction, Truncated};
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};

fn compile(rules: &[Rule]) -> Arc<RuleSet> {
    Arc::new(RuleSet::compile(rules, Options::default()).0)
}

fn hits(matcher: &mut Matcher, event: &Event) -> Vec<usize> {
    let mut hits = Vec::new();
    matcher.evaluate(event, &mut hits);
    hits.into_iter().map(|RuleIndex(index)| index as usize).collect()
}

fn by_reference(rules: &[Rule], event: &Event) -> Vec<usize> {
    let view = View::new(event);
    rules
        .iter()
        .enumerate()
        .filter(|(_, rule)| reference::matches(rule, &view))
        .map(|(index, _)| index)
        .collect()
}

fn generated(count: usize) -> (String, Vec<Rule>) {
    let text = rules::yaml(count, 7);
    let documents: Vec<_> = text.split("---\n").collect();
    let files: Vec<_> = documents
        .chunks(400)
        .enumerate()
        .map(|(number, chunk)| SourceFile { name: format!("{number}.yml"), text: chunk.join("---\n") })
        .collect();
    let loaded = load(&files);
    assert_eq!(loaded.rules.len(), count);
    (text, loaded.rules)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    /// Each event comes twice and a third time, so that the caches answer too.
    #[test]
    fn matcher_says_what_the_interpreter_says(
        texts in prop::collection::vec(prop_oneof![
            arbitrary::rule_text(),
            arbitrary::kind().prop_flat_map(arbitrary::narrow_rule_text)
        ], 1..16),
        events in prop::collection::vec(arbitrary::event(), 1..16),
    ) {
        let rules = arbitrary::rules(&texts);
        let mut matcher = compile(&rules).matcher();
        for _ in 0..3 {
            for event in &events {
                let expected = by_reference(&rules, event);
                let found = hits(&mut matcher, event);
                prop_assert_eq!(&found, &expected, "{:#?}\n{}", event, texts.join("---\n"));
            }
        }
    }

    /// Events of few processes: what is known of a process must never be said of another, nor of a field that is the event's.
    #[test]
    fn events_that_share_processes_are_judged_each_by_itself(
        texts in prop::collection::vec(prop_oneof![
            arbitrary::rule_text(),
            arbitrary::kind().prop_flat_map(arbitrary::narrow_rule_text)
        ], 1..12),
        events in prop::collection::vec(arbitrary::event(), 4..16),
        choices in prop::collection::vec((0_usize..4, 0_usize..4), 16..48),
    ) {
        let rules = arbitrary::rules(&texts);
        let mut matcher = compile(&rules).matcher();
        for (at, (process, parent)) in choices.into_iter().enumerate() {
            let mut event = events[at % events.len()].clone();
            event.process = Arc::clone(&events[process].process);
            event.parent = Some(Arc::clone(&events[parent].process));
            for _ in 0..2 {
                let (found, expected) = (hits(&mut matcher, &event), by_reference(&rules, &event));
                prop_assert_eq!(found, expected, "{:#?}\n{}", event, texts.join("---\n"));
            }
        }
    }

    /// A process that is changed in place by its only owner is another one to the matcher.
    #[test]
    fn a_changed_process_is_looked_at_again(
        texts in prop::collection::vec(arbitrary::rule_text(), 1..8),
        event in arbitrary::event(),
        images in prop::collection::vec(arbitrary::text(), 1..6),
    ) {
        let rules = arbitrary::rules(&texts);
        let mut matcher = compile(&rules).matcher();
        let mut event = event;
        for image in images {
            Arc::make_mut(&mut event.process).exe = image;
            for _ in 0..4 {
                prop_assert_eq!(hits(&mut matcher, &event), by_reference(&rules, &event));
            }
        }
    }

    /// What a sample says of frequencies changes which predicates are looked up, never what matches.
    #[test]
    fn a_sample_changes_only_speed(
        texts in prop::collection::vec(arbitrary::rule_text(), 1..8),
        events in prop::collection::vec(arbitrary::event(), 40..60),
    ) {
        let rules = arbitrary::rules(&texts);
        let (set, _) = RuleSet::compile(&rules, Options { sample: &events, ..Options::default() });
        let mut matcher = Arc::new(set).matcher();
        for event in &events {
            let (found, expected) = (hits(&mut matcher, event), by_reference(&rules, event));
            prop_assert_eq!(found, expected, "{:#?}\n{}", event, texts.join("---\n"));
        }
    }
}

/// I1: what a rule matches passes the kernel, and is held there if the rule asks for it and was granted it. Each rule is
/// planned alone, so that no other rule's tests let its events through.
#[test]
fn i1_the_plan_passes_whatever_a_rule_matches() {
    let (passed_by_tests, held) = (Cell::new(0), Cell::new(0));
    let mut runner = TestRunner::new(Config { cases: 1500, failure_persistence: None, ..Config::default() });
    let case = arbitrary::kind().prop_flat_map(|kind| {
        let text = prop_oneof![5 => arbitrary::narrow_rule_text(kind), 1 => arbitrary::rule_text()];
        (text, prop::collection::vec(arbitrary::event_of(kind), 24))
    });
    let outcome = runner.run(&case, |(text, events)| {
        let rules = arbitrary::rules(std::slice::from_ref(&text));
        let set = compile(&rules);
        let granted = set.rule(RuleIndex(0)).is_some_and(|rule| rule.reaction == Reaction::Stop);
        for event in events.iter().filter(|event| !by_reference(&rules, event).is_empty()) {
            prop_assert!(plan::passes(set.plan(), event), "{text}\n{event:#?}\n{:#?}", set.plan());
            let class = Category::of(event).class().and_then(|class| set.plan().classes.get(&class));
            passed_by_tests
                .set(passed_by_tests.get() + usize::from(matches!(class, Some(ClassPlan::AnyOf(_)))));
            if granted && matches!(event.activity, model::Activity::Exec { .. }) {
                prop_assert!(plan::holds(set.plan(), event), "{text}\n{event:#?}\n{:#?}", set.plan());
                held.set(held.get() + 1);
            }
        }
        Ok(())
    });
    assert!(outcome.is_ok(), "{}", outcome.err().map_or_else(String::new, |error| error.to_string()));
    assert!(passed_by_tests.get() > 300 && held.get() > 50, "too few matches: {passed_by_tests:?} {held:?}");
}

/// Every generated rule gets an event made from itself and the same event with one character changed in each text.
#[test]
fn rules_and_their_own_events_agree_with_both_oracles() {
    let (text, rules) = generated(1200);
    let mut matcher = compile(&rules).matcher();
    let peer = peer::Peer::new(&text).expect("rsigma-eval takes the rules");
    let (mut positive, mut negative, mut compared) = (0, 0, 0);
    for (index, rule) in rules.iter().enumerate() {
        for event in from_rule::events(rule, index as u64) {
            let expected = by_reference(&rules, &event);
            assert_eq!(hits(&mut matcher, &event), expected, "event of {}: {event:#?}", rule.key());
            // That a rule for files being made also sees a rename is our routing: rsigma-eval goes by the name of the category.
            let category = rule.logsource.category.as_ref().map(|category| category.value.as_str());
            if category == Some(Category::of(&event).name()) {
                let mut of_peer = peer.evaluate(&event);
                of_peer.sort();
                let mut ids: Vec<_> = expected.iter().map(|index| rules[*index].key().to_owned()).collect();
                ids.sort();
                assert_eq!(of_peer, ids, "rsigma-eval on the event of {}: {event:#?}", rule.key());
                compared += 1;
            }
            if expected.contains(&index) {
                positive += 1;
            } else {
                negative += 1;
            }
        }
    }
    // Each rule has one event meant to match; a few conditions demand what no single event can be.
    assert!(positive >= 1100, "only {positive} of 1200 rules were made to match");
    assert!(negative >= 1200, "only {negative} near misses");
    assert!(compared >= 4000, "only {compared} events were shown to rsigma-eval");
}

#[test]
fn generated_events_hit_what_the_interpreter_says() {
    let (_, rules) = generated(1200);
    let events = events::generate(1500, 3, events::Strings::Repeating);
    let mut matcher = compile(&rules).matcher();
    let mut counts = BTreeMap::<usize, usize>::new();
    for event in &events {
        let found = hits(&mut matcher, event);
        assert_eq!(found, by_reference(&rules, event));
        found.into_iter().for_each(|rule| *counts.entry(rule).or_default() += 1);
    }
    assert!(counts.len() > 10, "only {counts:?} hit");
    let matched: u64 = matcher.costs().values().map(|cost| cost.matched).sum();
    assert_eq!(matched as usize, counts.values().sum::<usize>());
}

#[test]
fn matched_fields_are_those_that_speak_for_the_match() {
    let rules = arbitrary::rules(&[concat!(
        "title: T\nlogsource: {product: linux, category: process_creation}\ndetection:\n",
        "    selection: {Image|endswith: /curl, CommandLine|contains: secret}\n",
        "    filter: {CurrentDirectory|startswith: /home/}\n    condition: selection and not filter\n"
    )
    .to_owned()]);
    let set = compile(&rules);
    let mut event = events::generate(1, 1, events::Strings::Repeating).remove(0);
    let mut process = (*event.process).clone();
    process.exe = "/usr/bin/curl".into();
    process.command_line = "curl --data SECRET".into();
    process.cwd = "/tmp".into();
    event.process = Arc::new(process);
    event.activity = model::Activity::Exec { requested: "curl".into() };
    assert_eq!(hits(&mut set.matcher(), &event), [0]);
    let matched = set.matched(RuleIndex(0), &event);
    let expected = [("CommandLine", "curl --data SECRET"), ("Image", "/usr/bin/curl")];
    assert_eq!(matched, expected.map(|(field, value)| (field.to_owned(), value.to_owned())).into());
}

#[test]
fn i11_a_text_beyond_the_limit_is_cut_and_said_to_be() {
    let rules = arbitrary::rules(&[
        "title: T\nlogsource: {product: linux, category: process_creation}\ndetection:\n    s: {CommandLine|contains: needle}\n    condition: s\n".to_owned(),
    ]);
    let (set, _) = RuleSet::compile(&rules, Options { text_bytes: 100, ..Options::default() });
    let mut matcher = Arc::new(set).matcher();
    let mut event = events::generate(1, 1, events::Strings::Repeating).remove(0);
    event.activity = model::Activity::Exec { requested: "x".into() };
    for (padding, hit, truncated) in [
        (50, true, Truncated::No),
        (94, true, Truncated::No),
        (95, false, Truncated::Yes),
        (5000, false, Truncated::Yes),
    ] {
        let mut process = (*event.process).clone();
        process.command_line = format!("{}needle", "x".repeat(padding));
        event.process = Arc::new(process);
        let mut found = Vec::new();
        let evaluation = matcher.evaluate(&event, &mut found);
        assert_eq!((!found.is_empty(), evaluation.truncated), (hit, truncated), "padding {padding}");
    }
}

#[test]
fn rule_sets_swap_while_events_flow() {
    fn shared<T: Send + Sync>(_: &T) {}
    let (_, rules) = generated(200);
    let sets = [compile(&rules[..100]), compile(&rules[100..])];
    shared(&sets);
    let swap = Arc::new(Swap::new(Arc::clone(&sets[0])));
    let events = events::generate(3000, 5, events::Strings::Repeating);
    let expected: Vec<Vec<Vec<usize>>> = sets
        .iter()
        .map(|set| {
            let mut matcher = set.matcher();
            events.iter().map(|event| hits(&mut matcher, event)).collect()
        })
        .collect();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            let mut follower = swap.follow();
            let (events, expected) = (&events, &expected);
            scope.spawn(move || {
                let mut last = 0;
                for (event, number) in events.iter().zip(0..) {
                    let (generation, matcher) = follower.matcher();
                    assert!(generation >= last);
                    last = generation;
                    // Odd generations are the first set.
                    assert_eq!(
                        hits(matcher, event),
                        expected[(generation as usize + 1) % 2][number as usize]
                    );
                }
            });
        }
        for turn in 1..40_usize {
            assert_eq!(swap.replace(Arc::clone(&sets[turn % 2])), turn as u64 + 1);
        }
    });
}

/// A set that is in force is in force from the next event on, for everybody who follows.
#[test]
fn a_new_rule_set_holds_from_the_next_event_on() {
    let rule = |image: &str| {
        format!(
            "title: T\nlogsource: {{product: linux, category: process_creation}}\ndetection: {{s: {{Image: {image}}}, condition: s}}\n"
        )
    };
    let set = |image: &str| compile(&arbitrary::rules(&[rule(image)]));
    let mut event = events::generate(1, 1, events::Strings::Repeating).remove(0);
    event.activity = model::Activity::Exec { requested: "x".into() };
    Arc::make_mut(&mut event.process).exe = "/a".into();
    let swap = Arc::new(Swap::new(set("/a")));
    let mut followers = [swap.follow(), swap.follow()];
    for turn in 2..6 {
        let image = if turn % 2 == 0 { "/b" } else { "/a" };
        assert_eq!(swap.replace(set(image)), turn);
        for follower in &mut followers {
            let (generation, matcher) = follower.matcher();
            assert_eq!((generation, hits(matcher, &event).len()), (turn, usize::from(image == "/a")));
        }
    }
}

/// A value or a process that meets more literals than the caches keep is looked at again each time, and nothing of it is forgotten.
#[test]
fn what_meets_more_than_the_caches_keep_is_found_each_time() {
    let letters: Vec<String> = ('a'..='w').map(|letter| format!("x{letter}yz")).collect();
    let rule = |piece: &String| {
        format!(
            "title: T\nlogsource: {{product: linux, category: CATEGORY}}\ndetection: {{s: {{Image|contains: {piece}, CommandLine|contains: {piece}}}, condition: s}}\n"
        )
    };
    let mut event = events::generate(1, 1, events::Strings::Repeating).remove(0);
    let process = Arc::make_mut(&mut event.process);
    (process.exe, process.command_line) = (letters.concat(), letters.concat());
    let file = model::FilePath { path: "/x".into(), truncated: Truncated::No };
    let exec = model::Activity::Exec { requested: "x".into() };
    for (category, activity) in
        [("process_creation", exec), ("file_delete", model::Activity::FileDelete { file })]
    {
        event.activity = activity;
        let texts: Vec<String> =
            letters.iter().map(|piece| rule(piece).replace("CATEGORY", category)).collect();
        let mut matcher = compile(&arbitrary::rules(&texts)).matcher();
        for round in 0..5 {
            assert_eq!(hits(&mut matcher, &event).len(), letters.len(), "{category}, round {round}");
        }
    }
}

#[test]
fn a_stop_that_the_kernel_cannot_select_is_refused_aloud() {
    let rule = |detection: &str| {
        format!(
            "title: T\nlogsource: {{product: linux, category: process_creation}}\ndetection:\n    s: {detection}\n    condition: s\nhemostat: {{reaction: stop}}\n"
        )
    };
    for (detection, granted) in [
        ("{Image|endswith: /xmrig}", true),
        ("{Image: /opt/x/miner}", true),
        ("{Image|startswith: /dev/shm/, CommandLine|contains: x}", true),
        ("{ExeBacking: memfd}", true),
        ("{ExeBacking: file}", false),
        ("{Image|startswith: /usr/}", false),
        ("{Image|contains: xmrig}", false),
        ("{CommandLine|contains: xmrig}", false),
        ("[{Image|endswith: /xmrig}, {CommandLine|contains: stratum}]", false),
    ] {
        let rules = arbitrary::rules(&[rule(detection)]);
        assert_eq!(rules.len(), 1, "{detection}");
        let (set, diagnostics) = RuleSet::compile(&rules, Options::default());
        let refused =
            diagnostics.iter().any(|diagnostic| diagnostic.message.contains("`reaction: stop` is refused"));
        assert_eq!(
            (refused, !set.plan().hold.is_empty()),
            (!granted, granted),
            "{detection}: {diagnostics:?}"
        );
        let reaction = set.rule(RuleIndex(0)).map(|rule| rule.reaction);
        assert_eq!(reaction, Some(if granted { Reaction::Stop } else { Reaction::Freeze }), "{detection}");
        assert!(!set.explain_plan(RuleIndex(0)).is_empty());
        // A whole path is held by its end, which fewer programs have than its start.
        if detection == "{Image: /opt/x/miner}" {
            assert_eq!(set.plan().hold, [model::ExecTest::ExeSuffix("/opt/x/miner".into())]);
        }
    }
}
