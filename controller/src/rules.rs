//! The rules as the controller knows them: it runs their correlations.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
};

use detect::{
    ast::{Correlation, Rule},
    correlation::quiet,
    diagnostic::Severity,
    load::load,
    source::SourceFile,
};
use model::{Reaction, RuleRef};

use crate::{
    files,
    health::{HealthBoard, Part},
};

/// Problems kept (I11).
const MAX_PROBLEMS: usize = 256;

/// What is in use.
#[derive(Debug, Default)]
pub(crate) struct RuleBook {
    rules: Vec<Rule>,
    correlations: Vec<Correlation>,
    /// Those that report nothing by themselves.
    quiet: BTreeSet<String>,
    /// Correlations by key.
    by_key: BTreeMap<String, usize>,
    broken: Vec<String>,
}

impl RuleBook {
    /// Reads all rules in `folders`, which are files or folders, and `further`. Never fails as a whole: what is broken is named.
    pub(crate) fn load(folders: &[PathBuf], further: &[SourceFile]) -> Self {
        let found = files::yaml_below(folders);
        let mut broken = found.problems;
        let mut texts = Vec::new();
        for file in &found.files {
            let name = file.display().to_string();
            match fs::read(file) {
                // A file that is not UTF-8 is still looked at: the front end says where it is broken.
                Ok(bytes) => {
                    texts.push(SourceFile { name, text: String::from_utf8_lossy(&bytes).into_owned() });
                }
                Err(error) => broken.push(format!("{name}: cannot be read: {error}")),
            }
        }
        texts.extend(further.iter().cloned());
        let loaded = load(&texts);
        let errors = loaded.diagnostics.iter().filter(|told| told.severity == Severity::Error);
        broken.extend(errors.map(|told| match told.place(&texts) {
            Some((file, line, column)) => format!("{file}:{line}:{column}: {}", told.message),
            None => told.message.clone(),
        }));
        broken.truncate(MAX_PROBLEMS);
        let quiet = quiet(&loaded.correlations);
        let keys = loaded.correlations.iter().enumerate();
        let by_key = keys.map(|(place, one)| (one.meta.key.clone(), place)).collect();
        Self { rules: loaded.rules, correlations: loaded.correlations, quiet, by_key, broken }
    }

    /// Tells of what is broken.
    pub(crate) fn report(&self, health: &HealthBoard) {
        match self.broken.as_slice() {
            [] => health.restored(Part::Rules),
            [first, rest @ ..] => {
                let more =
                    if rest.is_empty() { String::new() } else { format!(" (and {} more)", rest.len()) };
                health.degraded(
                    Part::Rules,
                    format!("{first}{more}; the others are in use: `hemostat rules check` shows each"),
                );
            }
        }
    }

    pub(crate) fn rules(&self) -> &[Rule] {
        &self.rules
    }

    pub(crate) fn correlations(&self) -> &[Correlation] {
        &self.correlations
    }

    /// Whether this rule or correlation reports nothing by itself.
    pub(crate) fn is_quiet(&self, key: &str) -> bool {
        self.quiet.contains(key)
    }

    /// A correlation, with what findings say of it.
    pub(crate) fn correlation(&self, key: &str) -> Option<(&Correlation, RuleRef)> {
        let one = self.correlations.get(*self.by_key.get(key)?)?;
        let meta = &one.meta;
        let rule = RuleRef {
            id: meta.key.clone(),
            title: meta.title.value.clone(),
            level: meta.level_or_default(),
            techniques: meta.techniques(),
            tactics: meta.tactics(),
            // What happened has happened: there is no event left to react to.
            reaction: Reaction::None,
        };
        Some((one, rule))
    }
}
