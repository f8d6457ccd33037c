//! Security events (RFC 8417) as JSON: OpenID's shared signals (CAEP, RISC) and SCIM's provisioning events
//! (openid.net/specs/openid-caep-1_0-final.html, openid.net/specs/openid-risc-1_0-final.html, draft-ietf-scim-events).
//!
//! What is read are claims: a signed token is opened where it comes in ([`super::super::receive`]).

use std::borrow::Cow;

use detect::schema::{Field, RecordBuilder};
use model::{RecordKind, Timestamp};
use serde_json::Value;

use super::{
    Rejected, Told,
    json::{address, required, text},
    outcome_word, time, told,
};

/// Kinds of events in one token.
const MAX_EVENTS: usize = 16;

/// Reads a token's claims.
pub(super) fn read(value: &Value) -> Result<Option<Told>, Rejected> {
    use Field as F;
    let issuer = required(value, "iss")?;
    let id = required(value, "jti")?;
    let events = value.get("events").and_then(Value::as_object);
    let events = events.ok_or_else(|| Rejected::at("events", "missing"))?;
    if events.is_empty() || events.len() > MAX_EVENTS {
        return Err(Rejected::at(
            "events",
            format!("{} kinds, at least 1 and at most {MAX_EVENTS}", events.len()),
        ));
    }
    let payloads = || events.values();
    let time = payloads()
        .find_map(|payload| moment(payload, "event_timestamp"))
        .or_else(|| moment(value, "toe"))
        .or_else(|| moment(value, "iat"))
        .ok_or_else(|| Rejected::at("iat", "missing"))?;
    let mut builder = RecordBuilder::new(RecordKind::Authentication);
    builder.id(&format!("{issuer}/{id}"));
    let kinds: Vec<&str> = events.keys().map(|uri| kind(uri)).collect();
    builder.list(F::SecurityEvents, kinds.iter().copied());
    builder.text(F::AuthService, &issuer);
    let action = kinds.iter().map(|kind| action(kind)).find(|action| *action != "other").unwrap_or("other");
    builder.text(F::AuthAction, action);
    if action == "login" {
        builder.text(F::AuthOutcome, outcome_word(true));
    }
    let subject = value.get("sub_id").or_else(|| payloads().find_map(|payload| payload.get("subject")));
    // SCIM names what was changed, CAEP the user of a session.
    let subject = subject.map(|subject| subject.get("user").unwrap_or(subject));
    if let Some(name) = subject.and_then(name).or_else(|| text(value, "sub")) {
        builder.text(F::AuthUser, &name).principal(&issuer, &name);
        if name.starts_with('/') {
            builder.object("scim", None, &name);
        }
    }
    let reason = payloads().find_map(|payload| {
        ["reason_admin.en", "reason_admin", "reason", "credential_type", "current_status", "current_level"]
            .iter()
            .find_map(|path| text(payload, path))
    });
    builder.maybe(F::AuthReason, reason.as_deref());
    let origin = payloads()
        .find_map(|payload| ["ips", "ip", "client_ip"].iter().find_map(|path| address(payload, path)));
    if let Some(origin) = origin {
        builder.address(F::AuthSourceIp, origin).origin(Some(origin));
    }
    Ok(Some(told(builder, time)))
}

fn moment(value: &Value, path: &str) -> Option<Timestamp> {
    text(value, path)?.parse().ok().and_then(time::epoch)
}

/// The last word of a kind's URI: `session-revoked`, `prov:create:full`.
fn kind(uri: &str) -> &str {
    let urn = uri.to_ascii_lowercase().find("scim:event:").map(|at| at + "scim:event:".len());
    urn.and_then(|at| uri.get(at..)).or_else(|| uri.rsplit('/').next()).unwrap_or(uri)
}

/// RFC 9493: a subject has a format and the words of that.
fn name(subject: &Value) -> Option<Cow<'_, str>> {
    ["email", "sub", "id", "phone_number", "uri", "url"].iter().find_map(|path| text(subject, path))
}

fn action(kind: &str) -> &'static str {
    match kind {
        "session-established" | "session-presented" => "login",
        "session-revoked" | "sessions-revoked" => "logout",
        "assurance-level-change" => "mfa",
        kind if kind.contains("credential") => "credential",
        kind if kind.starts_with("account-")
            || kind.starts_with("identifier-")
            || kind.starts_with("prov:") =>
        {
            "account"
        }
        "device-compliance-change" | "token-claims-change" => "policy",
        _ => "other",
    }
}
