//! RuleSets: which rules there are, what is wrong with which of them, and what nodes are given.

use std::{collections::BTreeMap, sync::Arc};

use crds::{
    Mode,
    rule_set::{Failure as Broken, RuleSetStatus},
};
use detect::{
    diagnostic::{Diagnostic, Severity},
    load::load,
    matcher::{Options, RuleIndex, RuleSet},
    source::SourceFile,
};
use model::{Reaction, RuleBundle, RuleFile, RuleSetVersion, RulesPart, RulesVersion};
use respond::plan::Plan;
use sha2::{Digest as _, Sha256};

use super::show::bounded;

/// One RuleSet with its files, wherever they came from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Given {
    pub(crate) name: String,
    pub(crate) generation: i64,
    /// Name within the set, and text.
    pub(crate) files: Vec<(String, String)>,
    /// Ids of rules that are left out.
    pub(crate) disabled: Vec<String>,
    /// The artifact that some of the files are of.
    pub(crate) artifact: Option<String>,
}

/// What came of one RuleSet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) rules: u32,
    pub(crate) failures: Vec<Broken>,
    pub(crate) digest: String,
}

/// What came of all.
#[derive(Debug, Default)]
pub(crate) struct Compiled {
    /// In the order in which they were given.
    pub(crate) reports: Vec<Report>,
    pub(crate) bundle: RuleBundle,
    /// Why nodes are not given the bundle.
    pub(crate) withheld: Option<String>,
    /// For the core's correlations.
    pub(crate) sources: Vec<SourceFile>,
}

/// Compiles all sets together: rules refer to each other, and no id may be there twice. `plans` say which rules may act at once. Takes
/// seconds for thousands of rules.
pub(crate) fn compile(sets: &[Given], plans: &[Arc<Plan>]) -> Compiled {
    let mut sources = Vec::new();
    // Of each file: its set, and its name there.
    let mut homes: Vec<(usize, &str)> = Vec::new();
    for (at, set) in sets.iter().enumerate() {
        for (name, text) in &set.files {
            sources.push(SourceFile { name: format!("{}/{name}", set.name), text: text.clone() });
            homes.push((at, name));
        }
    }
    let mut loaded = load(&sources);
    let left_out: Vec<String> = sets.iter().flat_map(|set| set.disabled.iter().cloned()).collect();
    loaded.rules.retain(|rule| !left_out.iter().any(|id| id == rule.key()));
    let (compiled, further) = RuleSet::compile(&loaded.rules, Options::default());

    let mut reports: Vec<Report> =
        sets.iter().map(|set| Report { digest: digest(set), ..Report::default() }).collect();
    let mut count = |file: u32| {
        if let Some((set, _)) = homes.get(file as usize) {
            reports[*set].rules += 1;
        }
    };
    loaded.rules.iter().for_each(|rule| count(rule.meta.span.file.0));
    loaded.correlations.iter().for_each(|correlation| count(correlation.meta.span.file.0));
    let mut refused_later = BTreeMap::new();
    for (late, diagnostic) in
        loaded.diagnostics.iter().map(|one| (false, one)).chain(further.iter().map(|one| (true, one)))
    {
        if diagnostic.severity != Severity::Error {
            continue;
        }
        let Some((set, broken)) = broken(diagnostic, &sources, &homes) else { continue };
        if late {
            *refused_later.entry(set).or_insert(0_u32) += 1;
        }
        if !reports[set].failures.contains(&broken) {
            reports[set].failures.push(broken);
        }
    }
    // What loads and yet does not compile is no rule that is in force.
    for (set, n) in refused_later {
        reports[set].rules = reports[set].rules.saturating_sub(n);
    }

    let may_act = (0..u32::try_from(compiled.len()).unwrap_or(u32::MAX))
        .filter_map(|index| compiled.rule(RuleIndex(index)))
        .filter(|rule| rule.reaction != Reaction::None)
        .filter(|rule| plans.iter().any(|plan| plan.spec().mode == Mode::Auto && plan.may_answer(rule)))
        .map(|rule| rule.id.clone())
        .collect();
    let mut bundle = RuleBundle {
        version: RulesVersion::default(),
        files: sources
            .iter()
            .map(|file| RuleFile { name: file.name.clone(), text: file.text.clone() })
            .collect(),
        left_out,
        may_act,
    };
    let version = |(set, report): (&Given, &Report)| RuleSetVersion {
        name: set.name.clone(),
        generation: set.generation,
        digest: report.digest.clone(),
    };
    bundle.version.sets = sets.iter().zip(&reports).map(version).collect();
    bundle.version.digest = hex::encode(Sha256::digest(serde_json::to_vec(&bundle).unwrap_or_default()));
    let withheld = withheld(serde_json::to_vec(&bundle).unwrap_or_default().len());
    Compiled { reports, bundle, withheld, sources }
}

/// The rules of a bundle, compiled as far as they compile: what is wrong is said elsewhere.
pub(crate) fn set_of(bundle: &RuleBundle) -> Arc<RuleSet> {
    let file = |file: &RuleFile| SourceFile { name: file.name.clone(), text: file.text.clone() };
    let mut loaded = load(&bundle.files.iter().map(file).collect::<Vec<_>>());
    loaded.rules.retain(|rule| !bundle.left_out.iter().any(|id| id == rule.key()));
    let (set, _) = RuleSet::compile(&loaded.rules, Options::default());
    Arc::new(set.feeding(&loaded.correlations, &loaded.rules))
}

/// A bundle as it goes to nodes; nothing where it is longer than they take.
pub(crate) fn parts(bundle: &RuleBundle) -> Vec<RulesPart> {
    let bytes = serde_json::to_vec(bundle).unwrap_or_default();
    let n = bytes.len().div_ceil(RulesPart::SIZE);
    if let Some(because) = withheld(bytes.len()) {
        tracing::error!(because, "nodes are not given the rules");
        return Vec::new();
    }
    let part = |(at, data): (usize, &[u8])| RulesPart {
        digest: bundle.version.digest.clone(),
        part: u32::try_from(at).unwrap_or(u32::MAX),
        parts: u32::try_from(n).unwrap_or(u32::MAX),
        data: data.to_vec(),
    };
    bytes.chunks(RulesPart::SIZE).enumerate().map(part).collect()
}

/// Why nodes are not given rules that are so long, if so.
fn withheld(bytes: usize) -> Option<String> {
    let most = RulesPart::SIZE * RulesPart::MAX_PARTS as usize;
    (bytes > most).then(|| {
        format!(
            "all rules together are {bytes} bytes, and nodes take at most {most}: none of these is given to nodes, and those before stay in \
             force there; leave rules out (spec.disabled), or RuleSets"
        )
    })
}

fn digest(set: &Given) -> String {
    let text = serde_json::to_vec(&(&set.files, &set.disabled)).unwrap_or_default();
    format!("sha256:{}", hex::encode(Sha256::digest(text)))
}

fn broken(diagnostic: &Diagnostic, files: &[SourceFile], homes: &[(usize, &str)]) -> Option<(usize, Broken)> {
    let span = diagnostic.labels.first()?.span;
    let (set, file) = homes.get(span.file.0 as usize)?;
    let (_, line, column) = diagnostic.place(files)?;
    let text = &files.get(span.file.0 as usize)?.text;
    let mut message = diagnostic.message.clone();
    if let Some(help) = diagnostic.help.first() {
        message = format!("{message} ({help})");
    }
    Some((
        *set,
        Broken {
            rule: bounded(&rule_at(text, span.start as usize), 256),
            file: bounded(file, 512),
            line: u32::try_from(line).unwrap_or(u32::MAX),
            column: u32::try_from(column).unwrap_or(u32::MAX),
            message: bounded(&message, 512),
        },
    ))
}

/// The id of the document around a place, or its title, as far as it can be read without parsing: that is what failed.
fn rule_at(text: &str, place: usize) -> String {
    let place = (0..=place.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    let from = text[..place].rfind("\n---").map_or(0, |at| at + 4);
    let until = text[place..].find("\n---").map_or(text.len(), |at| place + at);
    let document = &text[from..until];
    let value = |key: &str| {
        let line = document.lines().find_map(|line| line.strip_prefix(key))?;
        let value = line.trim().trim_matches(['"', '\'']);
        (!value.is_empty()).then(|| value.to_owned())
    };
    value("id:").or_else(|| value("title:")).unwrap_or_default()
}

/// What the object says, as far as its rules go.
pub(crate) fn rules_status(report: &Report, generation: i64) -> RuleSetStatus {
    let most = RuleSetStatus::MAX_FAILURES as usize;
    let first = report.failures.first().map(|one| format!("{}:{}: {}", one.file, one.line, one.message));
    RuleSetStatus {
        observed_generation: generation,
        rules: report.rules,
        failed: u32::try_from(report.failures.len()).unwrap_or(u32::MAX),
        failures: report.failures.iter().take(most).cloned().collect(),
        failures_omitted: u32::try_from(report.failures.len().saturating_sub(most)).unwrap_or(u32::MAX),
        digest: report.digest.clone(),
        summary: crds::rule_set::Summary {
            nodes: String::new(),
            first_failure: first.map(|text| crds::cut(&text, 64)).unwrap_or_default(),
        },
        ..RuleSetStatus::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "title: good\nid: 11111111-1111-4111-8111-111111111111\nlogsource: {product: linux, category: process_creation}\n\
        detection:\n  s:\n    Image|endswith: /xmrig\n  condition: s\nlevel: high\n";

    fn set(name: &str, files: &[(&str, &str)]) -> Given {
        let files = files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
        Given { name: name.into(), generation: 3, files, ..Given::default() }
    }

    #[test]
    fn a_broken_rule_is_named_with_its_place_in_its_own_set_and_the_others_are_loaded() {
        let broken = GOOD.replace("1111-4111", "1111-4222").replace("condition: s", "condition: nobody");
        let two = format!("{}---\n{broken}", GOOD.replace("8111", "8222"));
        let compiled = compile(&[set("a", &[("one.yml", GOOD)]), set("b", &[("two.yml", &two)])], &[]);
        assert_eq!(
            compiled.reports[0],
            Report { rules: 1, failures: vec![], digest: compiled.reports[0].digest.clone() }
        );
        assert_eq!(compiled.reports[1].rules, 1, "{:?}", compiled.reports[1]);
        let failure = &compiled.reports[1].failures[0];
        assert_eq!(failure.file, "two.yml");
        assert_eq!(failure.rule, "11111111-1111-4222-8111-111111111111");
        assert_eq!(failure.line, two.lines().position(|line| line.contains("nobody")).unwrap() as u32 + 1);
        assert!(failure.message.contains("nobody"), "{}", failure.message);
        assert_eq!(compiled.bundle.version.sets[1].generation, 3);
    }

    #[test]
    fn the_same_id_in_two_sets_is_refused_once_and_said() {
        let compiled = compile(&[set("a", &[("one.yml", GOOD)]), set("b", &[("one.yml", GOOD)])], &[]);
        let loaded: u32 = compiled.reports.iter().map(|report| report.rules).sum();
        let failed: usize = compiled.reports.iter().map(|report| report.failures.len()).sum();
        assert_eq!((loaded, failed), (1, 1), "{:?}", compiled.reports);
    }

    #[test]
    fn i11_what_is_too_much_for_nodes_is_said_with_its_size_and_not_given() {
        assert_eq!(withheld(RulesPart::SIZE * RulesPart::MAX_PARTS as usize), None);
        let said = withheld(RulesPart::SIZE * RulesPart::MAX_PARTS as usize + 1).unwrap();
        assert!(said.contains("67108865 bytes") && said.contains("at most 67108864"), "{said}");
        let text = "# and so on\n".repeat(6 << 20);
        let compiled = compile(&[set("a", &[("one.yml", GOOD), ("two.yml", &text)])], &[]);
        assert!(compiled.withheld.is_some() && parts(&compiled.bundle).is_empty());
    }

    #[test]
    fn a_bundle_comes_together_again_and_its_digest_tells_versions_apart() {
        let compiled = compile(&[set("a", &[("one.yml", GOOD)])], &[]);
        let whole: Vec<u8> = parts(&compiled.bundle).into_iter().flat_map(|part| part.data).collect();
        assert_eq!(serde_json::from_slice::<RuleBundle>(&whole).unwrap(), compiled.bundle);
        let other = compile(&[set("a", &[("one.yml", &GOOD.replace("xmrig", "other"))])], &[]);
        assert_ne!(other.bundle.version.digest, compiled.bundle.version.digest);
        let mut without = set("a", &[("one.yml", GOOD)]);
        without.disabled = vec!["11111111-1111-4111-8111-111111111111".into()];
        assert_eq!(compile(&[without], &[]).reports[0].rules, 0);
    }
}
