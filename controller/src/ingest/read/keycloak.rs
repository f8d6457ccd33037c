//! Keycloak's user and admin events, as its REST interface gives them, and as its own log tells them ([`log`]).

mod log;

use detect::schema::{Field, RecordBuilder};
use model::RecordKind;
use serde_json::Value;

use super::{
    Rejected, Told,
    json::{address, put, put_named, required, text},
    outcome_word, time, told,
};

/// Reads an event, or a line of the log.
pub(super) fn read(value: &Value) -> Result<Option<Told>, Rejected> {
    match log::is_line(value) {
        false => read_event(value),
        true => log::event(value)?.map_or(Ok(None), |event| read_event(&event)),
    }
}

fn read_event(value: &Value) -> Result<Option<Told>, Rejected> {
    use Field as F;
    let stamp = required(value, "time")?;
    let time = stamp.parse().ok().and_then(time::epoch).or_else(|| time::rfc3339(&stamp));
    let time = time.ok_or_else(|| Rejected::at("time", "neither milliseconds nor RFC 3339"))?;
    let realm = required(value, "realmId")?;
    let admin = text(value, "operationType");
    let kind = if admin.is_some() { required(value, "resourceType")? } else { required(value, "type")? };
    let mut builder = RecordBuilder::new(RecordKind::Keycloak);
    if let Some(id) = text(value, "id") {
        builder.id(&id);
    }
    let plain = [
        F::KeycloakType,
        F::KeycloakRealm,
        F::KeycloakClient,
        F::KeycloakUserId,
        F::KeycloakError,
        F::KeycloakUsername,
        F::KeycloakMethod,
        F::KeycloakProvider,
        F::KeycloakRedirect,
        F::KeycloakGrant,
        F::KeycloakOperation,
        F::KeycloakResourceType,
        F::KeycloakResourcePath,
        F::KeycloakAdminUser,
        F::KeycloakAdminClient,
        F::KeycloakAdminRealm,
    ];
    put_named(&mut builder, value, &plain);
    put(&mut builder, F::AuthSourceIp, value, &["ipAddress", "authDetails.ipAddress"]);
    put(&mut builder, F::AuthReason, value, &["error"]);
    put(&mut builder, F::AuthApplication, value, &["clientId", "authDetails.clientId"]);
    put(&mut builder, F::AuthMethod, value, &["details.auth_method"]);
    builder.origin(address(value, "ipAddress").or_else(|| address(value, "authDetails.ipAddress")));
    let who = ["details.username", "userId", "authDetails.userId"].iter().find_map(|path| text(value, path));
    if let Some(who) = who {
        builder.text(F::AuthUser, &who).principal(&realm, &who);
    }
    let failed = value.get("error").is_some_and(|error| !error.is_null()) || kind.ends_with("_ERROR");
    builder.text(F::AuthOutcome, outcome_word(!failed)).text(F::AuthService, "keycloak");
    let action = if admin.is_some() { admin_action(&kind) } else { user_action(&kind) };
    builder.text(F::AuthAction, action);
    match admin {
        Some(_) => {
            builder.object(&kind, Some(&realm), &text(value, "resourcePath").unwrap_or_default());
        }
        None => {
            builder.object("client", Some(&realm), &text(value, "clientId").unwrap_or_default());
        }
    }
    Ok(Some(told(builder, time)))
}

fn user_action(kind: &str) -> &'static str {
    match kind.trim_end_matches("_ERROR") {
        "LOGIN"
        | "CLIENT_LOGIN"
        | "CODE_TO_TOKEN"
        | "REFRESH_TOKEN"
        | "TOKEN_EXCHANGE"
        | "IMPERSONATE"
        | "IDENTITY_PROVIDER_LOGIN" => "login",
        "LOGOUT" => "logout",
        "UPDATE_TOTP" | "REMOVE_TOTP" => "mfa",
        "UPDATE_PASSWORD"
        | "RESET_PASSWORD"
        | "SEND_RESET_PASSWORD"
        | "UPDATE_CREDENTIAL"
        | "REMOVE_CREDENTIAL" => "credential",
        "REGISTER" | "UPDATE_PROFILE" | "UPDATE_EMAIL" | "DELETE_ACCOUNT" => "account",
        _ => "other",
    }
}

fn admin_action(kind: &str) -> &'static str {
    match kind {
        "USER"
        | "REALM_ROLE_MAPPING"
        | "CLIENT_ROLE_MAPPING"
        | "GROUP_MEMBERSHIP"
        | "GROUP"
        | "REALM_ROLE"
        | "CLIENT_ROLE" => "account",
        "CLIENT"
        | "REALM"
        | "AUTH_FLOW"
        | "AUTH_EXECUTION"
        | "IDENTITY_PROVIDER"
        | "IDENTITY_PROVIDER_MAPPER"
        | "COMPONENT"
        | "REQUIRED_ACTION"
        | "AUTHENTICATOR_CONFIG" => "policy",
        _ => "other",
    }
}
