//! Which incident a word means: a name, or the only one that begins so.

use anyhow::Result;
use crds::incident::Incident;
use kube::ResourceExt as _;

use super::Cluster;
use crate::exit::{Ended, Exit};

/// Names that are listed where a beginning fits several.
const LISTED: usize = 5;

/// So many characters after `inc-` are the least that may stand for a name.
const LEAST_BEGINNING: usize = 4;

/// The label of what belongs to an incident.
const INCIDENT_LABEL: &str = "hemostat.dev/incident";

impl Cluster {
    /// The incident of this name, or the only one whose name begins so, with or without `inc-`.
    pub(super) async fn incident(&self, name: &str) -> Result<Incident> {
        chosen(self.all().await?, name)
    }
}

fn chosen(all: Vec<Incident>, name: &str) -> Result<Incident> {
    let unknown = |message: String| Ended::with(Exit::Unknown, message);
    // A beginning of nothing would be everything.
    if name.trim_start_matches("inc-").trim().is_empty() {
        return Err(unknown("which incident? Its name or a beginning of it is needed".into()));
    }
    let exact = |one: &Incident| one.name_any() == name || one.name_any().strip_prefix("inc-") == Some(name);
    let rest = name.strip_prefix("inc-").unwrap_or(name);
    if rest.chars().count() < LEAST_BEGINNING && !all.iter().any(exact) {
        return Err(unknown(format!(
            "{name:?} is too short to mean an incident: its name or at least {LEAST_BEGINNING} characters after inc- are needed"
        )));
    }
    let begins = |one: &Incident| {
        let full = one.name_any();
        full.starts_with(name) || full.strip_prefix("inc-").is_some_and(|rest| rest.starts_with(name))
    };
    let mut found: Vec<Incident> = all.into_iter().filter(begins).collect();
    if found.iter().any(exact) {
        found.retain(exact);
    }
    let shown = |one: &Incident| format!("{}/{}", one.namespace().unwrap_or_default(), one.name_any());
    let names: Vec<String> = found.iter().take(LISTED).map(shown).collect();
    let more = if found.len() > LISTED { ", …" } else { "" };
    let several = found.len();
    match (found.pop(), several) {
        (Some(one), 1) => Ok(one),
        (None, _) => Err(unknown(format!("there is no incident {name}"))),
        _ => Err(unknown(format!("{name} fits {several} incidents: {}{more}", names.join(", ")))),
    }
}

/// Whether an object is of this incident: by its label, or by the id that stands in it.
pub(super) fn belongs(one: &impl kube::ResourceExt, incident: &Incident, id: &str) -> bool {
    let name = incident.name_any();
    id == name || one.labels().get(INCIDENT_LABEL) == Some(&name)
}

#[cfg(test)]
mod tests {
    use crds::incident::IncidentSpec;
    use model::Timestamp;

    use super::*;

    fn all(names: &[&str]) -> Vec<Incident> {
        let spec = || IncidentSpec {
            title: "x".into(),
            first_event: crds::Moment(Timestamp(0)),
            assignee: None,
            verdict: None,
            closed: None,
        };
        names.iter().map(|name| Incident::new(name, spec())).collect()
    }

    fn found(names: &[&str], word: &str) -> Result<String, String> {
        chosen(all(names), word).map(|one| one.name_any()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_beginning_that_fits_one_is_enough_and_nothing_fits_none() {
        let names = ["inc-007f3a", "inc-007f21", "inc-007f2", "inc-8"];
        assert_eq!(found(&names, "inc-007f3").unwrap(), "inc-007f3a");
        assert_eq!(found(&names, "8").unwrap(), "inc-8");
        // Exactly one's name, though another begins so.
        assert_eq!(found(&names, "007f2").unwrap(), "inc-007f2");
        assert_eq!(
            found(&names, "007f").unwrap_err(),
            "007f fits 3 incidents: /inc-007f3a, /inc-007f21, /inc-007f2"
        );
        assert_eq!(found(&names, "9999").unwrap_err(), "there is no incident 9999");
        for short in ["i", "inc", "inc-0", "007"] {
            assert!(found(&names[..1], short).unwrap_err().contains("at least 4 characters"), "{short}");
        }
        for nothing in ["", " ", "inc-"] {
            assert!(found(&["inc-8"], nothing).unwrap_err().starts_with("which incident?"));
        }
    }
}
