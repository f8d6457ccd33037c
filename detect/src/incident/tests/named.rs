//! Who did something, and who is merely named.

use super::*;
use crate::schema::Field;

fn dana() -> Principal {
    Principal { realm: "h".into(), name: "dana".into() }
}

/// A record whose account is dana, with these words.
fn told(kind: RecordKind, words: &[(Field, &str)]) -> Finding {
    let mut facts = Facts::default();
    for (field, word) in words {
        facts.set(field.name(), Fact::Text((*word).into()));
    }
    let id = words.iter().map(|(_, word)| *word).collect();
    let (principal, origin, object, sight, writer) = (Some(dana()), None, None, None, None);
    let record = Record { kind, id, principal, origin, object, sight, writer, facts };
    Finding { event: record.into_event(&NodeId::new("source"), at(0)), ..Seed::default().finding() }
}

fn links(finding: &Finding) -> bool {
    keys_of(finding).contains(&Key::Principal { who: dana() })
}

#[test]
fn a_name_that_was_tried_or_that_a_line_speaks_of_is_nobody_who_did_something() {
    use Field::{AuthAction as Action, AuthOutcome as Outcome, AuthTrust as Trust};
    use RecordKind::{Authentication, CloudTrail, Entra, Keycloak, KubernetesAudit, Okta, Pam, Sshd, Sudo};
    for kind in [Sshd, Pam, Okta, Keycloak, Entra, Authentication, CloudTrail] {
        assert!(links(&told(kind, &[(Action, "login"), (Outcome, "success")])), "{kind:?}");
        assert!(!links(&told(kind, &[(Action, "login"), (Outcome, "failure")])), "{kind:?}");
    }
    assert!(!links(&told(Okta, &[(Action, "mfa"), (Outcome, "failure")])));
    // Whose password was changed, and by whom it was at the provider.
    assert!(!links(&told(Pam, &[(Action, "credential"), (Outcome, "success")])));
    assert!(links(&told(Okta, &[(Action, "credential"), (Outcome, "success")])));
    // At a provider whoever fails, and whose account a security event is about.
    for (kind, action) in
        [(Keycloak, "account"), (Keycloak, "other"), (Okta, "policy"), (Okta, "account"), (Entra, "other")]
    {
        assert!(links(&told(kind, &[(Action, action), (Outcome, "success")])), "{kind:?} {action}");
        assert!(!links(&told(kind, &[(Action, action), (Outcome, "failure")])), "{kind:?} {action}");
    }
    for action in ["session", "credential", "account", "other", "logout", ""] {
        assert!(!links(&told(Authentication, &[(Action, action)])), "{action}");
    }
    let changed = |how| told(Keycloak, &[(Action, "credential"), (Field::KeycloakType, how)]);
    assert!(links(&changed("UPDATE_PASSWORD")));
    assert!(!links(&changed("SEND_RESET_PASSWORD")));
    // A refused sudo is the caller's own; a connection that ended before a login names whom it likes.
    assert!(links(&told(Sudo, &[(Action, "elevate"), (Outcome, "failure")])));
    assert!(!links(&told(Sshd, &[(Action, "other"), (Trust, "vouched")])));
    assert!(links(&told(Sshd, &[(Action, "other"), (Trust, "contradicted")])));
    // Whom somebody asked to be taken for, and whom he gave something.
    let mut asked = told(
        KubernetesAudit,
        &[(Field::Verb, "impersonate"), (Field::ImpersonatedUser, "dana"), (Field::RequestUser, "mallory")],
    );
    assert!(links(&asked));
    if let Activity::Record(record) = &mut asked.event.activity {
        Arc::make_mut(record).principal = Some(Principal { realm: "h".into(), name: "mallory".into() });
    }
    assert!(!links(&asked));
}

#[test]
fn whoever_tries_a_name_does_not_get_its_story_into_his_own() {
    use Field::{AuthAction as Action, AuthOutcome as Outcome};
    let tries = told(RecordKind::Sshd, &[(Action, "login"), (Outcome, "failure")]);
    let acts = told(RecordKind::Okta, &[(Action, "policy"), (Outcome, "success")]);
    let again = told(RecordKind::Sudo, &[(Action, "elevate"), (Outcome, "success")]);
    for order in [[&tries, &acts, &again], [&acts, &tries, &again], [&again, &acts, &tries]] {
        let mut correlator = Correlator::new(config(60));
        let mut places: BTreeMap<&str, IncidentId> = BTreeMap::new();
        for finding in order {
            let record = finding.event.record().unwrap();
            let name = IncidentId::new(format!("inc-{}", record.id));
            let placed = correlator.place_as(finding, &[], name, at(0));
            assert_eq!(placed.absorbed, []);
            places.insert(&record.id, placed.incident);
        }
        assert_eq!(places["policysuccess"], places["elevatesuccess"]);
        assert_ne!(places["loginfailure"], places["policysuccess"]);
    }
}
