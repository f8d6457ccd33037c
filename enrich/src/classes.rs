//! The data classification policy: what an organisation says is at stake where, as one list of rules that is kept in Git. The first rule that
//! fits a pod gives its class. It is read once, and a mistake in it is told with its place, since a class that silently applies to nothing
//! would be worse than none.

use std::collections::{BTreeMap, BTreeSet};

use model::PodFacts;
use serde::{Deserialize, Deserializer, de::Error as _};

use crate::join::SENSITIVITY;

/// Bytes of a policy, at most (I11).
const MAX_TEXT: usize = 1 << 20;
/// Rules, at most (I11).
const MAX_RULES: usize = 256;
/// Values of one list and keys of one table, at most (I11).
const MAX_VALUES: usize = 64;
/// Bytes of a name or value, at most (I11).
const MAX_VALUE: usize = 256;

/// What is at stake where. The default says nothing of anything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Classes {
    rules: Vec<ClassRule>,
}

/// What fits, and what it is then. Everything that is said must hold; of a list one value.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct ClassRule {
    /// The class: a word of the organisation's own, for example `restricted`.
    class: Text,
    /// Why, in a person's words; told beside the class.
    #[serde(default)]
    because: Option<Text>,
    #[serde(default)]
    namespaces: Vec<Glob>,
    #[serde(default)]
    labels: BTreeMap<String, Glob>,
    #[serde(default)]
    namespace_labels: BTreeMap<String, Glob>,
    #[serde(default)]
    annotations: BTreeMap<String, Glob>,
    #[serde(default)]
    namespace_annotations: BTreeMap<String, Glob>,
    /// Names of Secrets that it has before it.
    #[serde(default)]
    secrets: Vec<Glob>,
    #[serde(default)]
    service_accounts: Vec<Glob>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Policy {
    classes: Vec<ClassRule>,
}

/// A class that a pod has, and by what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Class<'a> {
    /// The class.
    pub name: &'a str,
    /// Which rule, from 1.
    pub rule: usize,
    /// What the rule says why.
    pub because: Option<&'a str>,
}

/// Why a policy is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClassesError {
    /// It is too long.
    #[error("the policy has {0} bytes, at most {MAX_TEXT} are read")]
    TooLong(usize),
    /// It has another shape.
    #[error("{0}")]
    Form(String),
    /// Too much of something.
    #[error("{what}: {found}, at most {most} are taken")]
    TooMany {
        /// Of what.
        what: String,
        /// How many there are.
        found: usize,
        /// How many there may be.
        most: usize,
    },
    /// A rule stands after one that fits everything, so that it never applies.
    #[error("rule {rule} (class {class}) never applies: rule {before} has no condition and fits everything")]
    NeverApplies {
        /// The rule, from 1.
        rule: usize,
        /// Its class.
        class: String,
        /// The one before it.
        before: usize,
    },
}

impl Classes {
    /// Reads a policy (YAML). `origin` is only for the place of a mistake.
    ///
    /// # Errors
    /// [`ClassesError`].
    pub fn parse(origin: &str, text: &str) -> Result<Self, ClassesError> {
        if text.len() > MAX_TEXT {
            return Err(ClassesError::TooLong(text.len()));
        }
        let Policy { classes: rules } = serde_saphyr::from_str(text).map_err(|error| {
            let text = error.to_string();
            let placed = text.contains("<input>");
            ClassesError::Form(if placed {
                text.replace("<input>", origin)
            } else {
                format!("{origin}: {text}")
            })
        })?;
        let few = |what: String, found: usize, most: usize| {
            if found > most { Err(ClassesError::TooMany { what, found, most }) } else { Ok(()) }
        };
        few("classes".into(), rules.len(), MAX_RULES)?;
        let mut everything = None;
        for (rule, number) in rules.iter().zip(1..) {
            if let Some(before) = everything {
                let class = rule.class.0.clone();
                return Err(ClassesError::NeverApplies { rule: number, class, before });
            }
            for (name, found) in rule.sizes() {
                few(format!("rule {number}: {name}"), found, MAX_VALUES)?;
            }
            if rule.sizes().iter().all(|(_, found)| *found == 0) {
                everything = Some(number);
            }
        }
        Ok(Self { rules })
    }

    /// The class of a pod, where one is said.
    #[must_use]
    pub fn of(&self, pod: &PodFacts) -> Option<Class<'_>> {
        let (rule, number) = self.rules.iter().zip(1..).find(|(rule, _)| rule.fits(pod))?;
        let because = rule.because.as_ref().map(|text| text.0.as_str());
        Some(Class { name: &rule.class.0, rule: number, because })
    }

    /// Whether it says nothing of anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The annotations that are looked at, which are the only ones that need be kept.
    #[must_use]
    pub fn annotations(&self) -> BTreeSet<String> {
        let own = self.rules.iter().flat_map(|rule| [&rule.annotations, &rule.namespace_annotations]);
        own.flat_map(BTreeMap::keys).cloned().chain(SENSITIVITY.map(str::to_owned)).collect()
    }
}

impl ClassRule {
    fn sizes(&self) -> [(&'static str, usize); 7] {
        [
            ("namespaces", self.namespaces.len()),
            ("labels", self.labels.len()),
            ("namespaceLabels", self.namespace_labels.len()),
            ("annotations", self.annotations.len()),
            ("namespaceAnnotations", self.namespace_annotations.len()),
            ("secrets", self.secrets.len()),
            ("serviceAccounts", self.service_accounts.len()),
        ]
    }

    fn fits(&self, pod: &PodFacts) -> bool {
        any(&self.namespaces, std::iter::once(pod.namespace.as_str()))
            && all(&self.labels, &pod.labels)
            && all(&self.namespace_labels, &pod.namespace_labels)
            && all(&self.annotations, &pod.annotations)
            && all(&self.namespace_annotations, &pod.namespace_annotations)
            && any(&self.secrets, pod.secrets.iter().map(|one| one.name.as_str()))
            && any(&self.service_accounts, pod.service_account.iter().map(String::as_str))
    }
}

/// One value of a list, where one is wanted.
fn any<'a>(wanted: &[Glob], mut found: impl Iterator<Item = &'a str>) -> bool {
    wanted.is_empty() || found.any(|one| wanted.iter().any(|glob| glob.fits(one)))
}

/// Every key of a table.
fn all(wanted: &BTreeMap<String, Glob>, found: &BTreeMap<String, String>) -> bool {
    wanted.iter().all(|(key, glob)| found.get(key).is_some_and(|value| glob.fits(value)))
}

/// A text of some length.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Text(String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.trim().is_empty() || text.len() > MAX_VALUE || text.chars().any(char::is_control) {
            return Err(D::Error::custom(format!("expected a text of 1 to {MAX_VALUE} bytes on one line")));
        }
        Ok(Self(text))
    }
}

/// A name; `*` stands for any part of it, also for none.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Glob(String);

impl<'de> Deserialize<'de> for Glob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Text::deserialize(deserializer).map(|text| Self(text.0))
    }
}

impl Glob {
    /// The first part where it begins, the last where it ends, each between them at the first place that is left: linear for each part.
    fn fits(&self, text: &str) -> bool {
        let mut parts = self.0.split('*');
        let first = parts.next().unwrap_or_default();
        let Some(mut rest) = text.strip_prefix(first) else { return false };
        let Some(last) = parts.next_back() else { return rest.is_empty() };
        for part in parts {
            match rest.find(part) {
                Some(at) => rest = &rest[at + part.len()..],
                None => return false,
            }
        }
        rest.ends_with(last)
    }
}

#[cfg(test)]
mod tests {
    use model::MountedSecret;

    use super::*;

    const POLICY: &str = "
classes:
  - class: restricted
    because: cardholder data (PCI DSS)
    namespaces: [pay, pay-*]
    secrets: ['card-*', '*-vault']
  - class: restricted
    annotations: {data.example.com/class: 'r*'}
  - class: internal
    namespaceLabels: {team: '*'}
    serviceAccounts: [web]
  - class: public
";

    fn pod(namespace: &str) -> PodFacts {
        PodFacts { namespace: namespace.into(), ..crate::join::tests::pod() }
    }

    fn class(classes: &Classes, pod: &PodFacts) -> (String, usize) {
        let class = classes.of(pod).unwrap();
        (class.name.to_owned(), class.rule)
    }

    #[test]
    fn the_first_rule_of_which_everything_holds_gives_the_class() {
        let classes = Classes::parse("policy.yaml", POLICY).unwrap();
        let secret = |name: &str| vec![MountedSecret { name: name.into(), how: "volume".into() }];
        let mut shop = pod("pay-eu");
        assert_eq!(
            class(&classes, &shop),
            ("public".into(), 4),
            "a namespace alone is half of the first rule"
        );
        shop.secrets = secret("cards");
        assert_eq!(class(&classes, &shop), ("public".into(), 4));
        shop.secrets = secret("db-vault");
        assert_eq!(class(&classes, &shop), ("restricted".into(), 1));
        assert_eq!(classes.of(&shop).unwrap().because, Some("cardholder data (PCI DSS)"));
        shop.namespace = "payments".into();
        assert_eq!(class(&classes, &shop), ("public".into(), 4), "`pay` is no prefix without a star");
        shop.annotations.insert("data.example.com/class".into(), "red".into());
        assert_eq!(class(&classes, &shop), ("restricted".into(), 2));

        let mut web = pod("web");
        web.namespace_labels.insert("team".into(), String::new());
        assert_eq!(class(&classes, &web), ("public".into(), 4), "no account");
        web.service_account = Some("web".into());
        assert_eq!(class(&classes, &web), ("internal".into(), 3), "a label with no value is there");
        assert!(Classes::default().of(&web).is_none());
        assert!(classes.annotations().contains("data.example.com/class"));
        assert!(classes.annotations().contains(SENSITIVITY[0]));
    }

    #[test]
    fn stars_stand_for_any_part() {
        let fits = |glob: &str, text: &str| Glob(glob.into()).fits(text);
        assert!(fits("*", "") && fits("a*", "a") && fits("*a", "ba") && fits("a*b*c", "a-b-b-c"));
        assert!(fits("a**b", "ab") && fits("*b*", "abc") && fits("a", "a"));
        assert!(!fits("a", "ab") && !fits("a*a", "a") && !fits("a*b*b", "ab") && !fits("*ab", "abc"));
    }

    #[test]
    fn i11_a_hostile_star_is_no_long_search() {
        let glob = Glob("a*".repeat(MAX_VALUE / 2) + "b");
        assert!(!glob.fits(&"a".repeat(512)));
    }

    #[test]
    fn a_mistake_is_told_with_its_place_and_nothing_is_taken() {
        let wrong = |text: &str| Classes::parse("policy.yaml", text).unwrap_err().to_string();
        let text = wrong("classes:\n  - class: a\n    namespace: [x]\n");
        assert!(text.contains("namespace") && text.contains("3"), "{text}");
        let text = wrong("classes:\n  - namespaces: [x]\n");
        assert!(text.contains("class"), "{text}");
        let text = wrong("classes:\n  - class: ''\n");
        assert!(text.contains("policy.yaml") && text.contains("1 to 256 bytes"), "{text}");
        let text = wrong("classes:\n  - class: all\n  - class: never\n    namespaces: [x]\n");
        assert_eq!(text, "rule 2 (class never) never applies: rule 1 has no condition and fits everything");
        let many: String = (0..300).map(|n| format!("  - {{class: c, namespaces: [n{n}]}}\n")).collect();
        assert_eq!(wrong(&format!("classes:\n{many}")), "classes: 300, at most 256 are taken");
        let many: Vec<String> = (0..65).map(|n| format!("n{n}")).collect();
        let text = wrong(&format!("classes:\n  - {{class: c, secrets: [{}]}}\n", many.join(", ")));
        assert_eq!(text, "rule 1: secrets: 65, at most 64 are taken");
        assert!(wrong(&"#".repeat(MAX_TEXT + 1)).contains("bytes"));
    }
}
