//! Which rules may have the node react before anybody has decided: those that a playbook in mode Auto could answer. A playbook in Shadow
//! or Approve is a promise that nothing happens by itself, and a rule that no playbook answers has nobody who would undo what was done.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use agent::edge::Authority;
use clap::ValueEnum;
use crds::{
    Mode,
    source::{Resource, read},
};
use detect::matcher::{RuleIndex, RuleSet};
use model::{Reaction, RuleRef};
use respond::plan::Plan;

use crate::commands::files_below;

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
    /// The authority of the node with these rules and playbooks. What cannot be read gives none.
    pub(crate) fn authority(self, rules: &RuleSet, playbooks: &[PathBuf]) -> Authority {
        match self {
            Self::Off => Authority::Observe,
            Self::Auto => permitted(rules, &automatic(playbooks)),
        }
    }
}

/// Plans in mode Auto that can be used. Why others cannot, the controller says, which reads the same files.
fn automatic(paths: &[PathBuf]) -> Vec<Plan> {
    // One by one: a folder that is not there takes nothing from the others.
    let files = paths.iter().flat_map(|path| {
        files_below(std::slice::from_ref(path), &[".yaml", ".yml"]).unwrap_or_else(|error| {
            tracing::warn!("no playbook there answers anything: {error:#}");
            Vec::new()
        })
    });
    let mut resources = Vec::new();
    for file in files {
        let name = file.display().to_string();
        if [".test.yaml", ".test.yml", "_test.yaml"].iter().any(|ending| name.ends_with(ending)) {
            continue;
        }
        if let Ok(text) = std::fs::read_to_string(&file) {
            resources.extend(read(&name, &text).resources);
        }
    }
    let standing = |playbook: &str| -> BTreeSet<String> {
        resources
            .iter()
            .filter_map(|resource| match resource {
                Resource::ResponsePolicy(policy) => Some(&policy.value.spec.standing_approvals),
                Resource::Playbook(_) => None,
            })
            .flatten()
            .filter(|standing| standing.playbooks.iter().any(|name| name == playbook))
            .map(|standing| standing.action.0.clone())
            .collect()
    };
    // Of two with one name the first counts, as in the controller.
    let mut plans: BTreeMap<String, Plan> = BTreeMap::new();
    for resource in &resources {
        let Resource::Playbook(playbook) = resource else { continue };
        let name = playbook.value.metadata.name.clone().unwrap_or_default();
        if let Some(plan) = Plan::check(playbook, &standing(&name)).plan {
            plans.entry(name).or_insert(plan);
        }
    }
    plans.into_values().filter(|plan| plan.spec().mode == Mode::Auto).collect()
}

fn permitted(rules: &RuleSet, plans: &[Plan]) -> Authority {
    let all = (0..rules.len() as u32).filter_map(|index| rules.rule(RuleIndex(index)));
    let reacting: Vec<&RuleRef> = all.filter(|rule| rule.reaction != Reaction::None).collect();
    let (may, may_not): (Vec<&RuleRef>, Vec<&RuleRef>) =
        reacting.into_iter().partition(|rule| plans.iter().any(|plan| plan.may_answer(rule)));
    for rule in may_not {
        tracing::info!(rule = rule.id, "{}: only observed, no playbook in mode Auto answers it", rule.title);
    }
    Authority::Only(may.into_iter().map(|rule| rule.id.clone()).collect())
}

#[cfg(test)]
mod tests {
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

    fn authority(playbooks: &[String]) -> Authority {
        let folder = tempfile::tempdir().unwrap();
        for (n, text) in playbooks.iter().enumerate() {
            std::fs::write(folder.path().join(format!("{n}.yaml")), text).unwrap();
        }
        Reactions::Auto.authority(&rules(), &[folder.path().into()])
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
    fn broken_or_missing_playbooks_give_no_authority() {
        let twice =
            [playbook("p", "Shadow", "{ rules: [miner] }"), playbook("p", "Auto", "{ rules: [miner] }")];
        assert_eq!(authority(&twice), only(&[]), "the first of one name counts");
        assert_eq!(authority(&[playbook("p", "Auto", "{ rulez: [miner] }")]), only(&[]));
        assert_eq!(Reactions::Auto.authority(&rules(), &["/does/not/exist".into()]), only(&[]));
        assert_eq!(Reactions::Off.authority(&rules(), &[]), Authority::Observe);
    }

    #[test]
    fn every_reacting_rule_of_this_repository_is_answered_by_a_playbook_of_it() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let files = crate::commands::rules::read_rules(&[root.join("rules")]).unwrap();
        let (set, _) = RuleSet::compile(&load(&files).rules, Options::default());
        let Authority::Only(may) = Reactions::Auto.authority(&set, &[root.join("playbooks")]) else {
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
