//! What the kernel may drop (I1) and which execs it holds, from the loaded rules.
//!
//! For each rule and category the cheapest set of tests is sought without which the rule cannot match. Only tests that the
//! kernel can make count; where there are none, the class passes whole, and [`Planned::explanations`] says why.

mod hold;
mod pass;
mod passing;
mod tests_of;

use std::collections::{BTreeMap, BTreeSet};

use model::{ClassPlan, EventClass, FilterPlan, KernelTest, Reaction};

pub use pass::{holds, passes};

use crate::{
    ast::{Rule, Search},
    diagnostic::Diagnostic,
    matcher::{Interner, Logic},
    schema::{BPF_COMMANDS, Category, Field},
};

/// The plan of a rule set.
#[derive(Debug, Clone, Default)]
pub(crate) struct Planned {
    /// For the kernel.
    pub(crate) filter: FilterPlan,
    /// For each rule, what it needs from the kernel and why it is not less.
    pub(crate) explanations: Vec<Vec<String>>,
    /// Rules that asked to be held in the kernel and cannot be.
    pub(crate) unheld: BTreeSet<usize>,
}

/// Plans for `rules`. The diagnostics name rules whose `reaction: stop` is refused.
pub(crate) fn plan(rules: &[Rule]) -> (Planned, Vec<Diagnostic>) {
    let mut planned = Planned { explanations: vec![Vec::new(); rules.len()], ..Planned::default() };
    let mut diagnostics = Vec::new();
    let mut any_of = BTreeMap::<EventClass, BTreeSet<KernelTest>>::new();
    let mut all = BTreeSet::new();
    let mut hold = BTreeSet::new();
    for category in Category::ALL {
        let Some(class) = category.class() else { continue };
        let mut interner = Interner::new(*category);
        for (position, rule) in rules.iter().enumerate() {
            if !rule.routing.categories.contains(*category) {
                continue;
            }
            let logic = interner.lower(&rule.detection);
            if logic == Logic::Constant(false) {
                continue;
            }
            let name = category.name();
            let explanation = &mut planned.explanations[position];
            match tests_of::tests_of(*category, &logic, &interner) {
                Ok(tests) => {
                    explanation.push(format!("{name} ({}): {}", class_name(class), listed(&tests)));
                    any_of.entry(class).or_default().extend(tests);
                }
                Err(because) => {
                    explanation
                        .push(format!("{name} ({}): every event, because {because}", class_name(class)));
                    all.insert(class);
                }
            }
            if *category == Category::ProcessCreation
                && rule.hemostat.reaction_or_default() == Reaction::Stop
                && let Ok(tests) = hold::tests_of(&logic, &interner)
            {
                explanation.push(format!("held in the kernel: {tests:?}"));
                hold.extend(tests);
            }
        }
    }
    for (position, rule) in rules.iter().enumerate() {
        // What the network can reach is derived from listeners, so these classes are needed though no rule looks at them.
        if !planned.explanations[position].is_empty() && uses(rule, Field::Exposure) {
            all.extend([EventClass::Listen, EventClass::Bind]);
            planned.explanations[position].push(
                "network_listen, network_bind: every event, because Exposure is derived from them".into(),
            );
        }
        if let Some(refusal) = hold::refusal(rule) {
            planned.unheld.insert(position);
            planned.explanations[position]
                .push("not held in the kernel: reaction `freeze` instead of `stop`".into());
            diagnostics.push(refusal);
        }
    }
    planned.filter.classes = any_of
        .into_iter()
        .map(|(class, tests)| (class, ClassPlan::AnyOf(tests.into_iter().collect())))
        .chain(all.into_iter().map(|class| (class, ClassPlan::All)))
        .collect();
    planned.filter.hold = hold.into_iter().collect();
    (planned, diagnostics)
}

/// Whether a test of the rule looks at the field.
fn uses(rule: &Rule, field: Field) -> bool {
    fn looks(search: &Search, field: Field) -> bool {
        match search {
            Search::Item(item) => item.field.as_ref().is_some_and(|name| name.field == Some(field)),
            Search::All(parts, _) | Search::Any(parts, _) => parts.iter().any(|part| looks(part, field)),
        }
    }
    rule.detection.identifiers.iter().any(|identifier| looks(&identifier.search, field))
}

fn listed(tests: &BTreeSet<KernelTest>) -> String {
    let first: Vec<_> = tests.iter().take(8).map(shown).collect();
    let more = if tests.len() > first.len() {
        format!(", or {} more", tests.len() - first.len())
    } else {
        String::new()
    };
    format!("{}{more}", first.join(", or "))
}

fn shown(test: &KernelTest) -> String {
    match test {
        KernelTest::PathPrefix(text) => format!("path begins with {text:?}"),
        KernelTest::PathSuffix(text) => format!("path ends with {text:?}"),
        KernelTest::PathIs(text) => format!("path is {text:?}"),
        KernelTest::PathContains(text) => format!("path contains {text:?}"),
        KernelTest::Write => "opened for writing or created".into(),
        KernelTest::Port(port) => format!("port {port}"),
        KernelTest::Net(net) => format!("address in {net}"),
        KernelTest::BpfCommand(command) => {
            BPF_COMMANDS.get(*command as usize).map_or_else(|| command.to_string(), |name| (*name).to_owned())
        }
        KernelTest::AllOf(parts) => parts.iter().map(shown).collect::<Vec<_>>().join(" and "),
    }
}

fn class_name(class: EventClass) -> String {
    format!("{class:?}").to_lowercase()
}

#[cfg(test)]
mod tests;
