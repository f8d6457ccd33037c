//! Any text as a rule file: never a panic, every span inside the text, and what loads is evaluated alike by both engines.
#![no_main]

use std::sync::Arc;

use detect::{
    diagnostic::{Colour, render},
    load::load,
    matcher::{Options, RuleIndex, RuleSet},
    reference,
    schema::{Category, DraftValue, Drafted, Field},
    source::SourceFile,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let files = [SourceFile { name: "r.yml".into(), text: text.into() }];
    let loaded = load(&files);
    let _ = render(&loaded.diagnostics, &files, Colour::Plain);
    for diagnostic in &loaded.diagnostics {
        assert!(diagnostic.labels.iter().all(|label| text.get(label.span.range()).is_some()));
    }
    let (set, _) = RuleSet::compile(&loaded.rules, Options::default());
    let mut matcher = Arc::new(set).matcher();
    let fields = [(Field::Image, DraftValue::One("/bin/sh".into())), (Field::CommandLine, DraftValue::One(text.into()))];
    for category in [Category::ProcessCreation, Category::FileEvent, Category::NetworkConnection] {
        let Ok(event) = Drafted::new(category, &fields) else { continue };
        let mut hits = vec![];
        matcher.evaluate_with(event.event(), event.context(), &mut hits);
        for (position, rule) in loaded.rules.iter().enumerate() {
            assert_eq!(reference::matches(rule, &event.view()), hits.contains(&RuleIndex(position as u32)));
        }
    }
});
