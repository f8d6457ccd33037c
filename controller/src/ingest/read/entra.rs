//! Entra ID's sign-ins: Microsoft Graph's `signIn`, or the same under `properties` as diagnostic settings export it.

use detect::schema::{Field, RecordBuilder};
use model::RecordKind;
use serde_json::Value;

use super::{
    Rejected, Told,
    json::{address, put, required, rfc3339, text},
    outcome_word, told,
};

/// Reads a sign-in.
pub(super) fn read(value: &Value) -> Result<Option<Told>, Rejected> {
    use Field as F;
    if text(value, "category").is_some_and(|category| !category.contains("SignInLogs")) {
        // Audit and risk logs share the export.
        return Ok(None);
    }
    let of = value.get("properties").filter(|of| of.is_object()).unwrap_or(value);
    let time = rfc3339(of, "createdDateTime").or_else(|_| rfc3339(value, "time"))?;
    let mut builder = RecordBuilder::new(RecordKind::Entra);
    builder.id(&required(of, "id")?);
    let user = required(of, "userPrincipalName").or_else(|_| required(of, "servicePrincipalName"))?;
    builder.principal("entra", &user).text(F::AuthUser, &user);
    let paths: [(Field, &[&str]); 22] = [
        (F::EntraUser, &["userPrincipalName"]),
        (F::EntraUserType, &["userType"]),
        (F::EntraAppId, &["appId"]),
        (F::AuthApplication, &["appDisplayName"]),
        (F::EntraClientApp, &["clientAppUsed"]),
        (F::EntraResource, &["resourceDisplayName"]),
        (F::EntraAccess, &["conditionalAccessStatus"]),
        (F::EntraRequirement, &["authenticationRequirement"]),
        (F::EntraProtocol, &["authenticationProtocol"]),
        (F::EntraRiskState, &["riskState"]),
        (F::EntraRiskLevel, &["riskLevelDuringSignIn"]),
        (F::EntraRiskAggregated, &["riskLevelAggregated"]),
        (F::EntraRiskTypes, &["riskEventTypes_v2", "riskEventTypes"]),
        (F::EntraInteractive, &["isInteractive"]),
        (F::EntraTrustType, &["deviceDetail.trustType"]),
        (F::EntraDeviceOs, &["deviceDetail.operatingSystem"]),
        (F::EntraCompliant, &["deviceDetail.isCompliant"]),
        (F::EntraTokenIssuer, &["tokenIssuerType"]),
        (F::RequestUserAgent, &["userAgent"]),
        (F::AuthCountry, &["location.countryOrRegion"]),
        (F::AuthSourceIp, &["ipAddress"]),
        (F::EntraResult, &["status.failureReason"]),
    ];
    for (field, paths) in paths {
        put(&mut builder, field, of, paths);
    }
    put(&mut builder, F::EntraResult, value, &["resultDescription"]);
    let code = text(of, "status.errorCode").or_else(|| text(value, "resultType"));
    let code = code.ok_or_else(|| Rejected::at("status.errorCode", "missing"))?;
    let code: i64 = code.parse().map_err(|_| Rejected::at("status.errorCode", "not a number"))?;
    builder
        .number(F::EntraResultType, code)
        .text(F::EntraStatus, if code == 0 { "Success" } else { "Failure" });
    builder
        .text(F::AuthOutcome, outcome_word(code == 0))
        .text(F::AuthAction, "login")
        .text(F::AuthService, "entra");
    if code != 0 {
        builder.maybe(
            F::AuthReason,
            text(of, "status.failureReason").or_else(|| text(value, "resultDescription")).as_deref(),
        );
    }
    builder.origin(address(of, "ipAddress"));
    if let Some(app) = text(of, "appDisplayName") {
        builder.object("application", None, &app);
    }
    Ok(Some(told(builder, time)))
}
