//! Rule files to rules: parse each, then join what refers to each other.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::{
    ast::{Correlation, Filter, FilterTargets, Logsource, Meta, Rule, RuleReference},
    correlation,
    diagnostic::{Code, Diagnostic, Severity},
    lint,
    parse::{Cursor, Document, join_filter, parse_document},
    schema::CategorySet,
    source::{FileId, SourceFile, Span},
    tables::{self, Table},
    taxonomy::{self, FieldNames},
    yaml,
};

/// What rule files may rely on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Values of placeholders (`expand`), without the percent signs; values may hold wildcards. Documents of the files add to them
    /// ([`tables`]).
    pub placeholders: BTreeMap<String, Vec<String>>,
    /// Categories that some source feeds.
    pub sources: CategorySet,
    /// Taxonomies beside Sigma's own that rules may name. Documents of the files add to them.
    pub taxonomies: Vec<FieldNames>,
}

impl Default for Options {
    /// No placeholders; every source that this product can read; ECS and OCSF.
    fn default() -> Self {
        Self { placeholders: BTreeMap::new(), sources: CategorySet::all(), taxonomies: taxonomy::built_in() }
    }
}

/// What was loaded and what is wrong with it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Loaded {
    /// In the order of the files; filters joined in.
    pub rules: Vec<Rule>,
    /// In the order of the files; each refers only to what is loaded.
    pub correlations: Vec<Correlation>,
    /// In the order of the files.
    pub filters: Vec<Filter>,
    /// What gave placeholders their values, and taxonomies their names, in the order of the files.
    pub tables: Vec<Table>,
    /// In the order of places.
    pub diagnostics: Vec<Diagnostic>,
}

impl Loaded {
    /// How many documents were refused at least in part.
    #[must_use]
    pub fn errors(&self) -> usize {
        self.diagnostics.iter().filter(|diagnostic| diagnostic.severity == Severity::Error).count()
    }
}

/// Loads rule files with the default [`Options`]. A wrong rule gives diagnostics; the others load.
#[must_use]
pub fn load(files: &[SourceFile]) -> Loaded {
    load_with(files, &Options::default())
}

/// Loads rule files.
#[must_use]
pub fn load_with(files: &[SourceFile], options: &Options) -> Loaded {
    let mut loaded = Loaded::default();
    let mut options = options.clone();
    loaded.tables = tables::read(files, &mut options, &mut loaded.diagnostics);
    for (index, file) in files.iter().enumerate() {
        let id = FileId(u32::try_from(index).unwrap_or(u32::MAX));
        read(file, id, &options, &mut loaded);
    }
    refuse_duplicates(&mut loaded);
    link_correlations(&mut loaded);
    apply_filters(&mut loaded);
    for rule in &mut loaded.rules {
        lint::check(rule, options.sources, &mut loaded.diagnostics);
    }
    lint::check_correlations(&loaded.correlations, &loaded.rules, &mut loaded.diagnostics);
    loaded.diagnostics.extend(correlation::warnings(&loaded.correlations, &loaded.rules));
    loaded.diagnostics.sort_by_key(|diagnostic| diagnostic.labels.first().map(|label| label.span));
    loaded
}

fn read(file: &SourceFile, id: FileId, options: &Options, loaded: &mut Loaded) {
    let documents = yaml::documents(id, &file.text, &mut loaded.diagnostics);
    let several = documents.len() > 1;
    for (position, node) in documents.iter().enumerate().filter(|(_, node)| !tables::is_table(node, file)) {
        let fallback = if several { format!("{}#{}", file.name, position + 1) } else { file.name.clone() };
        let mut cursor = Cursor::new(file, options, &mut loaded.diagnostics);
        match parse_document(node, &fallback, &mut cursor) {
            Some(Document::Rule(rule)) => loaded.rules.push(*rule),
            Some(Document::Correlation(correlation)) => loaded.correlations.push(*correlation),
            Some(Document::Filter(filter)) => loaded.filters.push(*filter),
            None => {}
        }
    }
}

/// The second of two documents with one id or name does not load.
fn refuse_duplicates(loaded: &mut Loaded) {
    let mut seen: HashMap<String, Span> = HashMap::new();
    let diagnostics = &mut loaded.diagnostics;
    let mut is_new = |meta: &Meta| {
        let names: Vec<(String, Span)> = [&meta.id, &meta.name]
            .into_iter()
            .flatten()
            .map(|text| (text.value.clone(), text.span))
            .chain([(meta.key.clone(), meta.span)])
            .collect();
        let taken = names.iter().find_map(|(text, span)| seen.get(text).map(|first| (text, *span, *first)));
        if let Some((text, span, first)) = taken {
            let message = format!("`{text}` is the id or name of another rule");
            diagnostics.push(
                Diagnostic::error(Code::Duplicate, message, span, "again here, so this is not loaded")
                    .label(first, "first here"),
            );
            return false;
        }
        for (text, span) in names {
            seen.entry(text).or_insert(span);
        }
        true
    };
    loaded.rules.retain(|rule| is_new(&rule.meta));
    loaded.correlations.retain(|correlation| is_new(&correlation.meta));
    loaded.filters.retain(|filter| is_new(&filter.meta));
}

/// Id or name → key, of everything that a reference can mean.
fn names_of(loaded: &Loaded) -> HashMap<String, String> {
    let rules = loaded.rules.iter().map(|rule| &rule.meta);
    let correlations = loaded.correlations.iter().map(|correlation| &correlation.meta);
    let mut names = HashMap::new();
    for meta in rules.chain(correlations) {
        for text in [&meta.id, &meta.name].into_iter().flatten() {
            names.insert(text.value.clone(), meta.key.clone());
        }
        names.insert(meta.key.clone(), meta.key.clone());
    }
    names
}

/// Resolves references. What refers to something that is not loaded is not loaded either, and so on.
fn link_correlations(loaded: &mut Loaded) {
    loop {
        let names = names_of(loaded);
        let before = loaded.correlations.len();
        let diagnostics = &mut loaded.diagnostics;
        loaded.correlations.retain_mut(|correlation| {
            let aliased =
                correlation.aliases.iter_mut().flat_map(|alias| &mut alias.fields).map(|(rule, _)| rule);
            let mut complete = true;
            for reference in aliased {
                complete &= resolve(reference, &names, None);
            }
            for reference in &mut correlation.rules {
                complete &= resolve(reference, &names, Some(diagnostics));
            }
            complete
        });
        if loaded.correlations.len() == before {
            break;
        }
    }
    refuse_cycles(loaded);
}

fn resolve(
    reference: &mut RuleReference,
    names: &HashMap<String, String>,
    diagnostics: Option<&mut Vec<Diagnostic>>,
) -> bool {
    if let Some(key) = names.get(&reference.text) {
        reference.key.clone_from(key);
        return true;
    }
    if let Some(diagnostics) = diagnostics {
        let message = format!("no rule has the id or name `{}`", reference.text);
        let label = "not among the loaded rules, or refused for its own errors";
        diagnostics.push(
            Diagnostic::error(Code::UnknownRule, message, reference.span, label)
                .did_you_mean(&reference.text, names.keys().map(String::as_str)),
        );
    }
    false
}

fn refuse_cycles(loaded: &mut Loaded) {
    let edges: HashMap<&str, Vec<&str>> = loaded
        .correlations
        .iter()
        .map(|one| (one.meta.key.as_str(), one.rules.iter().map(|rule| rule.key.as_str()).collect()))
        .collect();
    let circular: HashSet<String> =
        edges.keys().filter(|key| reaches(key, key, &edges)).map(|key| (*key).to_owned()).collect();
    if circular.is_empty() {
        return;
    }
    let diagnostics = &mut loaded.diagnostics;
    loaded.correlations.retain(|correlation| {
        let keep = !circular.contains(&correlation.meta.key);
        if !keep {
            let message = "this correlation refers, directly or through others, to itself";
            let span = correlation.rules.first().map_or(correlation.meta.span, |rule| rule.span);
            diagnostics.push(Diagnostic::error(Code::Cycle, message, span, "follow the rules from here"));
        }
        keep
    });
    link_correlations(loaded);
}

fn reaches(from: &str, to: &str, edges: &HashMap<&str, Vec<&str>>) -> bool {
    let mut seen = HashSet::new();
    let mut open: Vec<&str> = edges.get(from).into_iter().flatten().copied().collect();
    while let Some(next) = open.pop() {
        if next == to {
            return true;
        }
        if seen.insert(next) {
            open.extend(edges.get(next).into_iter().flatten());
        }
    }
    false
}

fn apply_filters(loaded: &mut Loaded) {
    for (number, filter) in loaded.filters.iter_mut().enumerate() {
        if let FilterTargets::Rules(references) = &mut filter.targets {
            for reference in references {
                let target = loaded.rules.iter().find(|rule| refers(&rule.meta, &reference.text));
                match target {
                    Some(rule) => {
                        reference.key.clone_from(&rule.meta.key);
                        if !covers(&filter.logsource, &rule.logsource) {
                            let message = format!("this filter does not reach the rule `{}`", reference.text);
                            let label = "its logsource is not the filter's, nor narrower";
                            loaded.diagnostics.push(
                                Diagnostic::warning(Code::Suspicious, message, reference.span, label)
                                    .label(filter.logsource.span, "the filter's")
                                    .label(rule.logsource.span, "the rule's"),
                            );
                        }
                    }
                    None => {
                        let message = format!("no rule has the id or name `{}`", reference.text);
                        let label = "this filter does not apply to it";
                        loaded.diagnostics.push(Diagnostic::warning(
                            Code::UnknownRule,
                            message,
                            reference.span,
                            label,
                        ));
                    }
                }
            }
        }
        for rule in &mut loaded.rules {
            let named = match &filter.targets {
                FilterTargets::Any => true,
                FilterTargets::Rules(references) => references.iter().any(|one| one.key == rule.meta.key),
            };
            if named && covers(&filter.logsource, &rule.logsource) {
                join_filter(&mut rule.detection, &filter.detection, number);
                rule.filters.push(filter.meta.key.clone());
            }
        }
    }
}

fn refers(meta: &Meta, text: &str) -> bool {
    meta.key == text || [&meta.id, &meta.name].into_iter().flatten().any(|name| name.value == text)
}

/// Whether the rule's logsource is the filter's, or narrower.
fn covers(filter: &Logsource, rule: &Logsource) -> bool {
    [(&filter.category, &rule.category), (&filter.product, &rule.product), (&filter.service, &rule.service)]
        .into_iter()
        .all(|(wanted, given)| match (wanted, given) {
            (None, _) => true,
            (Some(wanted), Some(given)) => wanted.value.eq_ignore_ascii_case(&given.value),
            (Some(_), None) => false,
        })
}
