//! Okta's System Log (developer.okta.com/docs/api/openapi/okta-management/management/tag/SystemLog).

use detect::schema::{Field, RecordBuilder};
use model::RecordKind;
use serde_json::Value;

use super::{
    Rejected, Told,
    json::{address, put, put_named, required, rfc3339, text},
    outcome_word, told,
};

/// Reads an event.
pub(super) fn read(value: &Value) -> Result<Option<Told>, Rejected> {
    use Field as F;
    let event = required(value, "eventType")?;
    let time = rfc3339(value, "published")?;
    let mut builder = RecordBuilder::new(RecordKind::Okta);
    builder.id(&required(value, "uuid")?);
    let plain = [
        F::OktaEventType,
        F::OktaMessage,
        F::OktaSeverity,
        F::OktaResult,
        F::OktaReason,
        F::OktaActor,
        F::OktaActorType,
        F::OktaActorName,
        F::OktaTargets,
        F::OktaTargetNames,
        F::OktaTargetTypes,
        F::OktaZone,
        F::OktaDevice,
        F::OktaIsProxy,
        F::OktaAsOrg,
        F::OktaBehaviors,
        F::OktaRisk,
        F::OktaThreat,
        F::OktaRequestUri,
        F::OktaSession,
        F::OktaCredential,
    ];
    put_named(&mut builder, value, &plain);
    put(&mut builder, F::RequestUserAgent, value, &["client.userAgent.rawUserAgent"]);
    put(&mut builder, F::AuthSourceIp, value, &["client.ipAddress"]);
    put(&mut builder, F::AuthCountry, value, &["client.geographicalContext.country"]);
    put(&mut builder, F::AuthUser, value, &["actor.alternateId"]);
    put(&mut builder, F::AuthReason, value, &["outcome.reason"]);
    put(&mut builder, F::AuthMethod, value, &["authenticationContext.credentialType"]);
    builder.text(F::AuthService, "okta").text(F::AuthAction, action(&event));
    match text(value, "outcome.result").as_deref() {
        Some("SUCCESS" | "ALLOW") => {
            builder.text(F::AuthOutcome, outcome_word(true));
        }
        Some("FAILURE" | "DENY") => {
            builder.text(F::AuthOutcome, outcome_word(false));
        }
        _ => {}
    }
    if let Some(name) = text(value, "actor.alternateId") {
        builder.principal("okta", &name);
    }
    builder.origin(address(value, "client.ipAddress"));
    if let (Some(kind), Some(name)) = (text(value, "target.type"), text(value, "target.displayName")) {
        if kind == "AppInstance" {
            builder.text(F::AuthApplication, &name);
        }
        builder.object(&kind, None, &name);
    }
    Ok(Some(told(builder, time)))
}

fn action(event: &str) -> &'static str {
    let starts = |prefixes: &[&str]| prefixes.iter().any(|prefix| event.starts_with(prefix));
    if event == "user.session.end" {
        "logout"
    } else if starts(&["user.mfa.", "user.authentication.auth_via_mfa", "system.push.", "device.enrollment."])
    {
        "mfa"
    } else if starts(&["user.session.", "user.authentication.", "app.generic.unauth"]) {
        "login"
    } else if starts(&[
        "user.account.reset_password",
        "user.account.update_password",
        "user.credential.",
        "system.api_token.",
        "app.oauth2.client.lifecycle",
        "user.account.unlock",
    ]) {
        "credential"
    } else if starts(&["policy.", "zone.", "security.", "system.idp.", "system.feature."]) {
        "policy"
    } else if starts(&["user.lifecycle.", "user.account.", "group.", "iam.", "application.user_membership."])
    {
        "account"
    } else {
        "other"
    }
}
