use hemostat_detect::{
    diagnostic::{Colour, render},
    source::SourceFile,
};
use proptest::prelude::*;

use crate::{generate, print};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn a_printed_rule_is_read_as_it_was(rule in generate::rule()) {
        let text = print::rule(&rule);
        let files = [SourceFile { name: "r.yml".into(), text: text.clone() }];
        let loaded = generate::load(&text);
        let said = render(&loaded.diagnostics, &files, Colour::Plain);
        prop_assert_eq!(loaded.rules.len(), 1, "{}\n{}", text, said);
        prop_assert_eq!(&print::rule(&loaded.rules[0]), &text);
        // Every node's span lies in the text, and holds what it says.
        for identifier in &loaded.rules[0].detection.identifiers {
            prop_assert_eq!(&text[identifier.name.span.range()], &identifier.name.value);
            for item in identifier.search.items() {
                if let Some(field) = &item.field {
                    prop_assert_eq!(&text[field.span.range()], &field.text);
                }
                for modifier in &item.modifiers {
                    prop_assert_eq!(&text[modifier.span.range()], modifier.value.name());
                }
                prop_assert!(item.values.iter().all(|value| !value.tests.is_empty()));
            }
        }
    }
}
