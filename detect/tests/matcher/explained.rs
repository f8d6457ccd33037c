//! What `rules explain` says against the compiled matcher, predicate by predicate: each step of its tree is asked again as a rule of its own.

use std::sync::Arc;

use hemostat_detect::{
    explain::{Step, explain, render},
    load::load,
    matcher::{Options, RuleSet},
    schema::{Category, Drafted, View},
    source::SourceFile,
};
use model::Event;
use proptest::{prelude::*, sample::select};

use crate::{arbitrary, every_category};

/// What a rule of this text says of the event, by the compiled matcher; `None` if it does not load.
fn says(text: &str, view: &View<'_>, evaluate: &dyn Fn(&Arc<RuleSet>) -> bool) -> Option<bool> {
    let loaded = load(&[SourceFile { name: "r.yml".into(), text: text.to_owned() }]);
    let rule = loaded.rules.first()?;
    rule.routing.categories.contains(view.category()).then_some(())?;
    Some(evaluate(&Arc::new(RuleSet::compile(&loaded.rules, Options::default()).0)))
}

/// A rule with the head of this one and another detection.
fn with(text: &str, detection: &str) -> Option<String> {
    let (head, _) = text.split_once("detection:\n")?;
    Some(format!("{head}detection:\n{detection}"))
}

/// Each step holds as its parts and its word say; a field's item as the matcher says. How many items were asked.
fn check(
    step: &Step,
    text: &str,
    view: &View<'_>,
    evaluate: &dyn Fn(&Arc<RuleSet>) -> bool,
) -> Result<usize, String> {
    let parts: Vec<bool> = step.parts.iter().map(|part| part.holds).collect();
    let held = parts.iter().filter(|holds| **holds).count();
    let wanted = match (step.what.as_str(), step.what.split_once(" of ")) {
        ("not", _) => Some(!parts[0]),
        ("all of these", _) => Some(held == parts.len()),
        ("one of these", _) => Some(held > 0),
        (what, _) if what.starts_with("condition: ") => Some(parts[0]),
        (_, Some(("all", _))) if step.found.is_none() => Some(held == parts.len()),
        (_, Some((count, _))) if step.found.is_none() => count.parse().ok().map(|count: usize| held >= count),
        // Not a joined item: that is a field's, and asked below.
        _ => None,
    };
    if wanted.is_some_and(|wanted| wanted != step.holds) {
        return Err(format!("{step:#?} is not what its parts are"));
    }
    let mut asked = 0;
    if step.found.is_some() {
        // Its span begins with the field's name, and each stands on a line of its own.
        let item = text[step.span.range().start..].lines().next().unwrap_or_default();
        let alone = with(text, &format!("    s:\n        {}\n    condition: s\n", item.trim()))
            .ok_or("no detection")?;
        if let Some(said) = says(&alone, view, evaluate) {
            asked += 1;
            if said != step.holds {
                return Err(format!("explained as {}, matched as {said}: {item}", step.holds));
            }
        }
    }
    for part in &step.parts {
        asked += check(part, text, view, evaluate)?;
    }
    Ok(asked)
}

fn agree(text: &str, view: &View<'_>, evaluate: &dyn Fn(&Arc<RuleSet>) -> bool) -> Result<usize, String> {
    let loaded = load(&[SourceFile { name: "r.yml".into(), text: text.to_owned() }]);
    let Some(rule) = loaded.rules.first() else { return Ok(0) };
    let explanation = explain(rule, view);
    let matched = evaluate(&Arc::new(RuleSet::compile(&loaded.rules, Options::default()).0));
    let total =
        explanation.not_for.is_none() && explanation.conditions.iter().any(|condition| condition.holds);
    if explanation.matched != matched || total != matched {
        return Err(format!("matched {matched}, explained {} and {total}", explanation.matched));
    }
    let said = if matched { " matches\n" } else { " does not match\n" };
    if !render(&explanation).lines().next().is_some_and(|line| format!("{line}\n").ends_with(said)) {
        return Err("the first line says otherwise".into());
    }
    let mut asked = 0;
    for condition in &explanation.conditions {
        asked += check(condition, text, view, evaluate)?;
    }
    // Each name by itself.
    for identifier in &rule.detection.identifiers {
        let name = &identifier.name.value;
        let Some((_, detection)) = text.split_once("detection:\n") else { continue };
        let searches: String = detection
            .lines()
            .take_while(|line| !line.trim().starts_with("condition:"))
            .map(|line| format!("{line}\n"))
            .collect();
        let indent = " ".repeat(searches.len() - searches.trim_start().len());
        let alone = with(text, &format!("{searches}{indent}condition: {name}\n")).ok_or("no detection")?;
        let step = explanation.conditions.iter().find_map(|condition| named(condition, name));
        if let (Some(said), Some(step)) = (says(&alone, view, evaluate), step)
            && said != step.holds
        {
            return Err(format!("{name} is explained as {} and matched as {said}", step.holds));
        }
    }
    Ok(asked)
}

fn named<'s>(step: &'s Step, name: &str) -> Option<&'s Step> {
    if step.what == name { Some(step) } else { step.parts.iter().find_map(|part| named(part, name)) }
}

fn matches(set: &Arc<RuleSet>, event: &Event) -> bool {
    let mut hits = vec![];
    set.matcher().evaluate(event, &mut hits);
    !hits.is_empty()
}

fn matches_drafted(set: &Arc<RuleSet>, drafted: &Drafted) -> bool {
    let mut hits = vec![];
    set.matcher().evaluate_with(drafted.event(), drafted.context(), &mut hits);
    !hits.is_empty()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn explain_says_of_each_predicate_what_the_matcher_says(
        text in prop_oneof![arbitrary::rule_text(), arbitrary::kind().prop_flat_map(arbitrary::narrow_rule_text)],
        events in prop::collection::vec(arbitrary::event(), 2),
    ) {
        for event in &events {
            let agreed = agree(&text, &View::new(event), &|set| matches(set, event));
            prop_assert!(agreed.is_ok(), "{}\n{text}\n{event:#?}", agreed.err().unwrap_or_default());
        }
    }

    #[test]
    fn explain_says_what_the_matcher_says_of_every_category(
        (text, drafted) in select(Category::ALL).prop_flat_map(|category| (every_category::rule_text(category), every_category::event(category))),
    ) {
        let agreed = agree(&text, &drafted.view(), &|set| matches_drafted(set, &drafted));
        prop_assert!(agreed.as_ref().is_ok_and(|asked| *asked > 0), "{agreed:?}\n{text}\n{:#?}", drafted.event());
    }
}
