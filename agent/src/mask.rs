//! Secrets in texts that leave the agent: found by rules in data form, replaced by [`MASK`].
//!
//! Rules are matched on what the process really said; masking comes after detection and before the spool, the log and the
//! evidence. A secret that is found in one text of a finding is masked in all its texts, since a shell's `-c` and the command it
//! started say the same thing twice.

use std::{borrow::Cow, collections::BTreeSet, sync::Arc};

use model::{Activity, Event, FilePath, Finding, Process};
use regex::{Regex, RegexBuilder, RegexSet, RegexSetBuilder};
use serde::Deserialize;

/// What stands in place of a secret.
pub const MASK: &str = "***";

const BUILTIN: &str = include_str!("mask/rules.yaml");

/// Rules that a table may have (I11).
const MAX_RULES: usize = 256;
/// Bytes of one pattern's compiled form (I11).
const MAX_COMPILED: usize = 4 << 20;
/// Bytes of the cache in which one pattern's automaton grows (I11); each thread that masks has its own. Small, since there are two for
/// each pattern and a text is short: what does not fit is matched more slowly, still in linear time.
const MAX_CACHE: usize = 64 << 10;
/// The same for all patterns together, which every text goes through.
const MAX_SET_CACHE: usize = 1 << 20;
/// Longer texts are cut before they are masked, since what is not looked at must not leave (I11).
const MAX_TEXT: usize = 64 << 10;
/// Secrets shorter than this are masked where they are found and not looked for elsewhere: `-p1` would mask every 1.
const MIN_REPEATED: usize = 5;
/// Secrets of one finding that are looked for in its other texts (I11).
const MAX_REPEATED: usize = 64;

/// Stands between two arguments while a vector is looked at as one text.
const BETWEEN: char = '\u{1f}';

/// Finds and replaces secrets. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Masker(Arc<Rules>);

#[derive(Debug)]
struct Rules {
    /// Which rules match at all: most texts match none.
    any: RegexSet,
    each: Vec<Rule>,
}

#[derive(Debug)]
struct Rule {
    pattern: Regex,
    secrets: Vec<usize>,
    scope: Scope,
}

/// What a rule looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Scope {
    /// A text, or a whole argument vector as one text.
    #[default]
    Text,
    /// One argument on its own.
    Argument,
}

/// Why a table of rules is not usable.
#[derive(Debug, thiserror::Error)]
pub enum MaskError {
    /// Not the form of a table.
    #[error("{because}")]
    Form {
        /// Where, with the file, and why.
        because: String,
    },
    /// A version that this build does not read.
    #[error("{origin}: version {found} of masking rules is not known, only 1")]
    Version {
        /// Which file.
        origin: String,
        /// Theirs.
        found: u32,
    },
    /// Too many rules.
    #[error("{origin}: {found} rules, more than {MAX_RULES}")]
    TooMany {
        /// Which file.
        origin: String,
        /// How many.
        found: usize,
    },
    /// A pattern that is not a regular expression of bounded size.
    #[error("{origin}: rule {rule}: {because}")]
    Pattern {
        /// Which file.
        origin: String,
        /// Which rule.
        rule: String,
        /// Why.
        because: String,
    },
}

impl Masker {
    /// The rules that come with Hemostat, and those of a user's table (`origin` names it in errors).
    ///
    /// # Errors
    /// Names the table, the rule and the reason. The rules that come with Hemostat are always usable; a test holds it.
    pub fn new(user: Option<(&str, &str)>) -> Result<Self, MaskError> {
        let mut rules = parse("built-in masking rules", BUILTIN)?;
        if let Some((origin, text)) = user {
            rules.extend(parse(origin, text)?);
        }
        if rules.len() > MAX_RULES {
            let origin = user.map_or("built-in masking rules", |(origin, _)| origin).to_owned();
            return Err(MaskError::TooMany { origin, found: rules.len() });
        }
        let any = RegexSetBuilder::new(rules.iter().map(|rule| rule.pattern.as_str()))
            .size_limit(MAX_COMPILED * 8)
            .dfa_size_limit(MAX_SET_CACHE)
            .build()
            .map_err(|source| MaskError::Pattern {
                origin: "all masking rules together".into(),
                rule: "-".into(),
                because: source.to_string(),
            })?;
        Ok(Self(Arc::new(Rules { any, each: rules })))
    }

    /// A text on its own: a path, a header, a message.
    #[must_use]
    pub fn text<'a>(&self, text: &'a str) -> Cow<'a, str> {
        self.masked(text, &mut BTreeSet::new())
    }

    /// An argument vector; the result has as many arguments.
    #[must_use]
    pub fn arguments(&self, arguments: &[String]) -> Vec<String> {
        self.masked_arguments(arguments, &mut BTreeSet::new())
    }

    /// The value of an environment variable.
    #[must_use]
    pub fn environment<'a>(&self, name: &str, value: &'a str) -> Cow<'a, str> {
        let line = format!("{name}={value}");
        let masked = self.arguments(std::slice::from_ref(&line)).concat();
        if masked == line {
            return Cow::Borrowed(value);
        }
        Cow::Owned(masked.split_once('=').map_or(MASK, |(_, value)| value).to_owned())
    }

    /// Everything of a finding that a person or another machine will read.
    pub fn finding(&self, finding: &mut Finding) {
        let mut found = BTreeSet::new();
        // The rule's fields repeat texts of the process, possibly cut: those are taken from the masked process instead.
        let whole = [Some(&finding.event.process), finding.event.parent.as_ref()]
            .map(|process| process.map(|process| process.command_line.clone()));
        self.event(&mut finding.event, &mut found);
        let masked = [Some(&finding.event.process), finding.event.parent.as_ref()]
            .map(|process| process.map(|process| process.command_line.clone()));
        for process in &mut finding.ancestors {
            self.process(process, &mut found);
        }
        for event in &mut finding.context {
            self.event(event, &mut found);
        }
        for value in finding.matched.values_mut() {
            let repeated = whole.iter().zip(&masked).find_map(|(whole, masked)| {
                let (whole, masked) = (whole.as_ref()?, masked.as_ref()?);
                let cut = value.trim_end_matches('…');
                (cut.len() >= MIN_REPEATED && whole.starts_with(cut)).then_some(masked)
            });
            match repeated {
                Some(masked) => value.clone_from(masked),
                None => replace(value, |text| self.masked(text, &mut found)),
            }
        }
        for reaction in &mut finding.reactions {
            replace(&mut reaction.detail, |text| self.masked(text, &mut found));
        }
        self.repeated(finding, &found);
    }

    /// Masks in every text of the finding what was found to be a secret in one of them.
    fn repeated(&self, finding: &mut Finding, found: &BTreeSet<String>) {
        // Longest first: a secret may hold another.
        let mut secrets: Vec<&str> = found.iter().map(String::as_str).collect();
        secrets.sort_unstable_by_key(|secret| std::cmp::Reverse(secret.len()));
        secrets.truncate(MAX_REPEATED);
        if secrets.is_empty() {
            return;
        }
        let mut each = |text: &mut String| {
            for secret in &secrets {
                if text.contains(secret) {
                    *text = text.replace(secret, MASK);
                }
            }
        };
        texts_of_event(&mut finding.event, &mut each);
        finding.ancestors.iter_mut().for_each(|process| texts_of_process(process, &mut each));
        finding.context.iter_mut().for_each(|event| texts_of_event(event, &mut each));
        finding.matched.values_mut().for_each(&mut each);
        finding.reactions.iter_mut().for_each(|reaction| each(&mut reaction.detail));
    }

    fn event(&self, event: &mut Event, found: &mut BTreeSet<String>) {
        self.process(&mut event.process, found);
        if let Some(parent) = &mut event.parent {
            self.process(parent, found);
        }
        // Not written out with the event, and unmasked: it must not travel with a finding in memory either.
        event.ancestors = Arc::new([]);
        texts_of_activity(&mut event.activity, &mut |text| replace(text, |text| self.masked(text, found)));
    }

    fn process(&self, process: &mut Arc<Process>, found: &mut BTreeSet<String>) {
        let args = self.masked_arguments(&process.args, found);
        let line = if args.is_empty() {
            self.masked(&process.command_line, found).into_owned()
        } else {
            args.join(" ")
        };
        let changed = args != process.args || line != process.command_line;
        let others =
            [&process.exe, &process.cwd, &process.comm].map(|text| self.masked(text, found).into_owned());
        if !changed && others[0] == process.exe && others[1] == process.cwd && others[2] == process.comm {
            return;
        }
        let process = Arc::make_mut(process);
        process.args = args;
        process.command_line = line;
        [process.exe, process.cwd, process.comm] = others;
    }

    fn masked_arguments(&self, arguments: &[String], found: &mut BTreeSet<String>) -> Vec<String> {
        if arguments.is_empty() {
            return Vec::new();
        }
        let mut joined = String::new();
        let mut spans = Vec::new();
        let mut before: Option<&String> = None;
        for argument in arguments {
            if before.is_some() {
                joined.push(BETWEEN);
            }
            let start = joined.len();
            joined.extend(argument.chars().map(|c| if c == BETWEEN { '\u{fffd}' } else { c }));
            if joined.len() > MAX_TEXT {
                break;
            }
            if !before.is_some_and(|flag| introduces_script(flag)) {
                self.spans(&joined[start..], start, Scope::Argument, &mut spans);
            }
            before = Some(argument);
        }
        self.spans(&joined, 0, Scope::Text, &mut spans);
        let masked = replaced(&joined, spans, found);
        let mut masked: Vec<String> = masked.split(BETWEEN).map(str::to_owned).collect();
        // A cut or a user's rule that masks across arguments may have swallowed some.
        masked.resize(arguments.len(), MASK.to_owned());
        masked
    }

    fn masked<'a>(&self, text: &'a str, found: &mut BTreeSet<String>) -> Cow<'a, str> {
        let text = &text[..crate::tree::floor_char_boundary(text, MAX_TEXT)];
        let mut spans = Vec::new();
        self.spans(text, 0, Scope::Text, &mut spans);
        replaced(text, spans, found)
    }

    /// Where secrets stand. All rules see the original: a mask of one must not hide what another needs to see.
    fn spans(&self, text: &str, offset: usize, scope: Scope, spans: &mut Vec<(usize, usize)>) {
        for index in self.0.any.matches(text) {
            let Some(rule) = self.0.each.get(index).filter(|rule| rule.scope == scope) else { continue };
            let mut at = 0;
            while at < text.len() {
                let Some(captures) = rule.pattern.captures_at(text, at) else { break };
                let mut end = captures.get(0).map_or(text.len(), |whole| whole.end());
                for group in rule.secrets.iter().filter_map(|group| captures.get(*group)) {
                    if !group.is_empty() {
                        spans.push((offset + group.start(), offset + group.end()));
                        // Go on behind the secret, not behind the match: what ended it may begin the next.
                        end = group.end();
                    }
                }
                at = next_boundary(text, end.max(at + 1));
            }
        }
    }
}

fn replaced<'a>(text: &'a str, mut spans: Vec<(usize, usize)>, found: &mut BTreeSet<String>) -> Cow<'a, str> {
    if spans.is_empty() {
        return Cow::Borrowed(text);
    }
    for (start, end) in &spans {
        let secret = text[*start..*end].trim();
        if secret.len() >= MIN_REPEATED && found.len() < MAX_REPEATED * 4 {
            found.insert(secret.to_owned());
        }
    }
    spans.sort_unstable();
    let mut out = String::with_capacity(text.len());
    let (mut at, mut masked_to) = (0, None);
    for (start, end) in spans {
        if masked_to.is_none_or(|to| start > to) {
            out.push_str(&text[at..start]);
            out.push_str(MASK);
        }
        at = at.max(end);
        masked_to = Some(at);
    }
    out.push_str(&text[at..]);
    Cow::Owned(out)
}

/// `-c`, `-lc`, `-ec`: the next argument is a script.
fn introduces_script(flag: &str) -> bool {
    flag.len() <= 5
        && flag
            .strip_prefix('-')
            .is_some_and(|letters| letters.ends_with('c') && letters.bytes().all(|b| b.is_ascii_alphabetic()))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    version: u32,
    rules: Vec<RuleText>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleText {
    name: String,
    #[serde(default)]
    #[expect(dead_code, reason = "for the reader of the table")]
    about: String,
    #[serde(default)]
    scope: Scope,
    pattern: String,
}

/// The reader of YAML names the text that it was given, and does not know whose it is.
fn form(origin: &str, source: &serde_saphyr::Error) -> String {
    let text = source.to_string();
    if text.contains("<input>") { text.replace("<input>", origin) } else { format!("{origin}: {text}") }
}

fn parse(origin: &str, text: &str) -> Result<Vec<Rule>, MaskError> {
    let table: Table =
        serde_saphyr::from_str(text).map_err(|source| MaskError::Form { because: form(origin, &source) })?;
    if table.version != 1 {
        return Err(MaskError::Version { origin: origin.into(), found: table.version });
    }
    if table.rules.len() > MAX_RULES {
        return Err(MaskError::TooMany { origin: origin.into(), found: table.rules.len() });
    }
    table
        .rules
        .into_iter()
        .map(|rule| {
            let wrong = |because: String| MaskError::Pattern {
                origin: origin.into(),
                rule: rule.name.clone(),
                because,
            };
            let pattern = RegexBuilder::new(&rule.pattern)
                .size_limit(MAX_COMPILED)
                .dfa_size_limit(MAX_CACHE)
                .build()
                .map_err(|source| wrong(source.to_string()))?;
            let secrets: Vec<usize> = pattern
                .capture_names()
                .enumerate()
                .filter(|(_, name)| name.is_some_and(|name| name.starts_with("secret")))
                .map(|(group, _)| group)
                .collect();
            if secrets.is_empty() {
                return Err(wrong("no group named (?<secret>…): nothing would be masked".into()));
            }
            Ok(Rule { pattern, secrets, scope: rule.scope })
        })
        .collect()
}

fn replace(text: &mut String, mask: impl FnOnce(&str) -> Cow<'_, str>) {
    if let Cow::Owned(masked) = mask(text) {
        *text = masked;
    }
}

fn texts_of_event(event: &mut Event, each: &mut impl FnMut(&mut String)) {
    texts_of_process(&mut event.process, each);
    if let Some(parent) = &mut event.parent {
        texts_of_process(parent, each);
    }
    texts_of_activity(&mut event.activity, each);
}

fn texts_of_process(process: &mut Arc<Process>, each: &mut impl FnMut(&mut String)) {
    let process = Arc::make_mut(process);
    for text in [&mut process.exe, &mut process.command_line, &mut process.cwd, &mut process.comm] {
        each(text);
    }
    process.args.iter_mut().for_each(each);
}

fn texts_of_activity(activity: &mut Activity, each: &mut impl FnMut(&mut String)) {
    let mut path = |file: &mut FilePath| each(&mut file.path);
    match activity {
        Activity::FileOpen { file, .. }
        | Activity::FileDelete { file }
        | Activity::FileMode { file, .. }
        | Activity::FileOwner { file, .. } => path(file),
        Activity::FileRename { from, to } => [from, to].into_iter().for_each(path),
        Activity::FileLink { target, link, .. } => [target, link].into_iter().for_each(path),
        Activity::Mount { source, target, .. } => {
            each(source);
            each(&mut target.path);
        }
        Activity::Exec { requested: text }
        | Activity::DnsQuery { name: text, .. }
        | Activity::ModuleLoad { name: text }
        | Activity::Bpf { name: text, .. }
        | Activity::MemfdCreate { name: text, .. } => each(text),
        Activity::Fork { .. }
        | Activity::Exit(_)
        | Activity::CredentialChange { .. }
        | Activity::NamespaceChange { .. }
        | Activity::Connect(_)
        | Activity::Accept(_)
        | Activity::Bind { .. }
        | Activity::Listen { .. }
        | Activity::SocketClose { .. }
        | Activity::Ptrace { .. }
        | Activity::ProcessVmWrite { .. }
        | Activity::IoUringSetup { .. }
        // No agent makes these: the controller reads those sources itself.
        | Activity::Record(_) => {}
    }
}

fn next_boundary(text: &str, mut at: usize) -> usize {
    while at < text.len() && !text.is_char_boundary(at) {
        at += 1;
    }
    at
}

#[cfg(test)]
mod tests;
