//! Which rules may have the node react before anybody has decided: those that a playbook in mode Auto could answer. A playbook in Shadow
//! or Approve is a promise that nothing happens by itself, and a rule that no playbook answers has nobody who would undo what was done.

use std::sync::Arc;

use agent::edge::Authority;
use clap::ValueEnum;
use crds::Mode;
use detect::matcher::{RuleIndex, RuleSet};
use model::{Reaction, RuleRef};
use respond::plan::Plan;

/// What the node does by itself at a match.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Reactions {
    /// What a rule asks for, if a playbook in mode Auto could answer it.
    #[default]
    Auto,
    /// Nothing.
    Off,
}

impl Reactions {
    /// The authority of the node with these rules and the playbooks that the controller uses.
    pub(crate) fn authority(self, rules: &RuleSet, playbooks: &[Arc<Plan>]) -> Authority {
        match self {
            Self::Off => Authority::Observe,
            Self::Auto => permitted(rules, playbooks),
        }
    }
}

fn permitted(rules: &RuleSet, plans: &[Arc<Plan>]) -> Authority {
    let automatic = |plan: &&Arc<Plan>| plan.spec().mode == Mode::Auto;
    let all = (0..rules.len() as u32).filter_map(|index| rules.rule(RuleIndex(index)));
    let reacting: Vec<&RuleRef> = all.filter(|rule| rule.reaction != Reaction::None).collect();
    let (may, may_not): (Vec<&RuleRef>, Vec<&RuleRef>) = reacting
        .into_iter()
        .partition(|rule| plans.iter().filter(automatic).any(|plan| plan.may_answer(rule)));
    for rule in may_not {
        tracing::info!(rule = rule.id, "{}: only observed, no playbook in mode Auto answers it", rule.title);
    }
    Authority::Only(may.into_iter().map(|rule| rule.id.clone()).collect())
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, path::Path};

    use crds::source::{Resource, read};
    use detect::{load::load, matcher::Options, source::SourceFile};

    use super::*;

    fn rules() -> RuleSet {
        let rule = |name: &str, level: &str, tag: &str, reaction: &str| SourceFile {
            name: format!("{name}.yml"),
            text: format!(
                "title: {name}\nid: {name}\ntags: [{tag}]\nlogsource:\n  product: linux\n  category: process_creation\ndetection:\n  \
                 s:\n    CommandLine|contains: {name}\n  condition: s\nlevel: {level}\nhemostat:\n  reaction: {reaction}\n"
            ),
        };
        let files = [
            rule("shell", "critical", "attack.t1059.004", "freeze"),
            rule("lowshell", "medium", "attack.t1059.004", "freeze"),
            rule("miner", "critical", "attack.t1496", "stop"),
            rule("quiet", "critical", "attack.t1059.004", "none"),
        ];
        let loaded = load(&files);
        assert_eq!(loaded.errors(), 0, "{:?}", loaded.diagnostics);
        RuleSet::compile(&loaded.rules, Options::default()).0
    }

    fn playbook(name: &str, mode: &str, trigger: &str) -> String {
        format!(
            "apiVersion: hemostat.dev/v1alpha1\nkind: Playbook\nmetadata:\n  name: {name}\nspec:\n  mode: {mode}\n  trigger: {trigger}\n  \
             steps:\n    - name: freeze\n      action: node.freeze\n      target: {{ kind: Process }}\n"
        )
    }

    fn plans(texts: &[String]) -> Vec<Arc<Plan>> {
        let resources = texts.iter().flat_map(|text| read("playbooks.yaml", text).resources);
        resources
            .filter_map(|resource| match resource {
                Resource::Playbook(playbook) => Plan::check(&playbook, &BTreeSet::new()).plan.map(Arc::new),
                Resource::ResponsePolicy(_) => None,
            })
            .collect()
    }

    fn authority(playbooks: &[String]) -> Authority {
        Reactions::Auto.authority(&rules(), &plans(playbooks))
    }

    fn only(ids: &[&str]) -> Authority {
        Authority::Only(ids.iter().map(|id| (*id).to_owned()).collect())
    }

    #[test]
    fn i8_only_rules_that_an_auto_playbook_could_answer_react() {
        let shell = "{ techniques: [T1059], minimumLevel: critical }";
        assert_eq!(authority(&[]), only(&[]), "no playbook, nobody who would undo it");
        assert_eq!(authority(&[playbook("p", "Shadow", shell)]), only(&[]));
        assert_eq!(authority(&[playbook("p", "Approve", shell)]), only(&[]));
        assert_eq!(authority(&[playbook("p", "Auto", shell)]), only(&["shell"]), "level and technique count");
        let both = [playbook("p", "Shadow", shell), playbook("q", "Auto", "{ rules: [miner] }")];
        assert_eq!(authority(&both), only(&["miner"]));
        let by_level = [playbook("p", "Auto", "{ minimumLevel: medium }")];
        assert_eq!(authority(&by_level), only(&["lowshell", "miner", "shell"]));
    }

    #[test]
    fn i8_who_shall_only_observe_reacts_to_nothing() {
        let auto = plans(&[playbook("p", "Auto", "{ rules: [miner] }")]);
        assert_eq!(Reactions::Off.authority(&rules(), &auto), Authority::Observe);
    }

    #[test]
    fn every_reacting_rule_of_this_repository_is_answered_by_a_playbook_of_it() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let files = crate::commands::rules::read_rules(&[root.join("rules")]).unwrap();
        let (set, _) = RuleSet::compile(&load(&files).rules, Options::default());
        let books = std::fs::read_dir(root.join("playbooks")).unwrap().map(|entry| entry.unwrap().path());
        let books = books.filter(|path| path.is_file() && !path.to_string_lossy().contains(".test."));
        let texts: Vec<String> = books.map(|path| std::fs::read_to_string(path).unwrap()).collect();
        let Authority::Only(may) = Reactions::Auto.authority(&set, &plans(&texts)) else {
            panic!("neither all nor none is meant")
        };
        let reacting: BTreeSet<String> = (0..set.len() as u32)
            .filter_map(|index| set.rule(RuleIndex(index)))
            .filter(|rule| rule.reaction != Reaction::None)
            .map(|rule| rule.id.clone())
            .collect();
        assert!(!reacting.is_empty());
        assert_eq!(may, reacting);
    }
}
