//! The rules that a controller gives: put together from their parts, compiled, and kept for the next start.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use ::agent::edge::Authority;
use detect::{
    diagnostic::{Colour, render},
    load::load,
    matcher::{Options, RuleSet},
    source::SourceFile,
};
use model::{RuleBundle, RulesPart, RulesVersion};

use crate::commands::standalone::Reactions;

/// The rules in force, and those that are coming.
pub(crate) struct Rules {
    file: PathBuf,
    reactions: Reactions,
    pub(crate) set: Arc<RuleSet>,
    pub(crate) authority: Authority,
    pub(crate) version: RulesVersion,
    coming: Option<Coming>,
}

struct Coming {
    digest: String,
    parts: u32,
    next: u32,
    bytes: Vec<u8>,
}

/// What a part made of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Taken {
    /// More is to come.
    Part,
    /// All is there.
    Whole,
}

impl Rules {
    /// Those of the last controller, where they are kept; none before the first.
    pub(crate) fn load(state: &Path, reactions: Reactions) -> Self {
        let file = state.join("rules.json");
        let mut rules = Self {
            file,
            reactions,
            set: Arc::new(RuleSet::compile(&[], Options::default()).0),
            authority: Authority::Observe,
            version: RulesVersion::default(),
            coming: None,
        };
        match fs::read(&rules.file) {
            Ok(bytes) => match serde_json::from_slice::<RuleBundle>(&bytes) {
                Ok(bundle) => {
                    rules.set = compile(&bundle);
                    rules.authority = rules.authority_of(&bundle);
                    rules.version = bundle.version;
                }
                Err(error) => {
                    tracing::warn!(%error, "the kept rules cannot be read: the controller's are waited for")
                }
            },
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                tracing::warn!("there are no rules yet: the controller's are waited for");
            }
            Err(error) => {
                tracing::warn!(%error, "the kept rules cannot be read: the controller's are waited for")
            }
        }
        rules
    }

    /// Takes a part. They come in order; one that does not fit begins anew.
    pub(crate) fn take(&mut self, part: RulesPart) -> Taken {
        if part.part == 0 {
            self.coming =
                Some(Coming { digest: part.digest.clone(), parts: part.parts, next: 0, bytes: Vec::new() });
        }
        let Some(coming) = &mut self.coming else { return Taken::Part };
        let fits = coming.digest == part.digest && coming.next == part.part && coming.parts == part.parts;
        if !fits || part.data.len() > RulesPart::SIZE || part.parts > RulesPart::MAX_PARTS {
            tracing::warn!(digest = part.digest, part = part.part, "a part of rules that does not fit");
            self.coming = None;
            return Taken::Part;
        }
        coming.bytes.extend(part.data);
        coming.next += 1;
        if coming.next == coming.parts { Taken::Whole } else { Taken::Part }
    }

    /// What came, once all is there; nothing if it is what is in force.
    pub(crate) fn complete(&mut self) -> Option<RuleBundle> {
        let coming = self.coming.take()?;
        match serde_json::from_slice::<RuleBundle>(&coming.bytes) {
            Ok(bundle) if bundle.version == self.version => None,
            Ok(bundle) => Some(bundle),
            Err(error) => {
                tracing::error!(%error, "the controller's rules cannot be read: those before stay in force");
                None
            }
        }
    }

    pub(crate) fn authority_of(&self, bundle: &RuleBundle) -> Authority {
        match self.reactions {
            Reactions::Off => Authority::Observe,
            Reactions::Auto => Authority::Only(bundle.may_act.iter().cloned().collect::<BTreeSet<_>>()),
        }
    }

    /// They are in force: kept for the next start.
    pub(crate) fn store(&mut self, bundle: &RuleBundle) {
        self.version = bundle.version.clone();
        let fresh = self.file.with_extension("new");
        let kept = serde_json::to_vec(bundle)
            .map_err(std::io::Error::other)
            .and_then(|bytes| fs::write(&fresh, bytes))
            .and_then(|()| fs::rename(&fresh, &self.file));
        if let Err(error) = kept {
            tracing::warn!(%error, "the rules could not be kept: a restart waits for the controller");
        }
    }
}

/// A set that does not compile wholly is used as far as it does: the controller's status names the rest.
pub(crate) fn compile(bundle: &RuleBundle) -> Arc<RuleSet> {
    let file = |file: &model::RuleFile| SourceFile { name: file.name.clone(), text: file.text.clone() };
    let files: Vec<SourceFile> = bundle.files.iter().map(file).collect();
    let mut loaded = load(&files);
    loaded.rules.retain(|rule| !bundle.left_out.iter().any(|id| id == rule.key()));
    let (set, compiled) = RuleSet::compile(&loaded.rules, Options::default());
    for diagnostic in loaded.diagnostics.iter().chain(&compiled) {
        tracing::debug!("{}", render(std::slice::from_ref(diagnostic), &files, Colour::Plain).trim_end());
    }
    Arc::new(set.feeding(&loaded.correlations, &loaded.rules))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bundle(n: usize) -> RuleBundle {
        let version = RulesVersion { digest: format!("d{n}"), sets: vec![] };
        RuleBundle { version, may_act: vec!["x".repeat(n)], ..RuleBundle::default() }
    }

    fn parts(bundle: &RuleBundle, size: usize) -> Vec<RulesPart> {
        let bytes = serde_json::to_vec(bundle).unwrap();
        let all: Vec<&[u8]> = bytes.chunks(size).collect();
        let part = |(at, data): (usize, &&[u8])| RulesPart {
            digest: bundle.version.digest.clone(),
            part: at as u32,
            parts: all.len() as u32,
            data: data.to_vec(),
        };
        all.iter().enumerate().map(part).collect()
    }

    #[test]
    fn parts_come_together_and_a_new_bundle_in_between_begins_anew() {
        let folder = tempfile::tempdir().unwrap();
        let mut rules = Rules::load(folder.path(), Reactions::Auto);
        let (old, new) = (bundle(500), bundle(700));
        for part in parts(&old, 100).into_iter().take(3).chain(parts(&new, 100)) {
            let _ = rules.take(part);
        }
        assert_eq!(rules.complete().as_ref(), Some(&new));
        rules.store(&new);
        for part in parts(&new, 64) {
            let _ = rules.take(part);
        }
        assert_eq!(rules.complete(), None, "it is in force already");
        let again = Rules::load(folder.path(), Reactions::Auto);
        assert_eq!(again.version, new.version);
        assert_eq!(Rules::load(folder.path(), Reactions::Off).authority, Authority::Observe);
    }

    #[test]
    fn a_gap_gives_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mut rules = Rules::load(folder.path(), Reactions::Auto);
        for (n, part) in parts(&bundle(500), 100).into_iter().enumerate() {
            if n != 2 {
                assert_eq!(rules.take(part), Taken::Part);
            }
        }
        assert_eq!(rules.complete(), None);
    }
}
