//! AWS CloudTrail's events (docs.aws.amazon.com/awscloudtrail/latest/userguide/cloudtrail-event-reference-record-contents.html).
//!
//! Of what was asked for and answered only what the field table names is taken: no key, no user data, no environment variable.

use detect::schema::{Field, RecordBuilder};
use model::RecordKind;
use serde_json::Value;

use super::{
    Rejected, Told,
    json::{address, at, put, put_named, required, rfc3339, scalar, text},
    outcome_word, told,
};

/// Reads an event. Digest files, which hold none, give nothing.
pub(super) fn read(value: &Value) -> Result<Option<Told>, Rejected> {
    use Field as F;
    if value.get("digestS3Object").is_some() {
        return Ok(None);
    }
    let (event, source) = (required(value, "eventName")?, required(value, "eventSource")?);
    let time = rfc3339(value, "eventTime")?;
    let mut builder = RecordBuilder::new(RecordKind::CloudTrail);
    builder.id(&required(value, "eventID")?);
    let plain = [
        F::CloudEvent,
        F::CloudSource,
        F::CloudRegion,
        F::CloudError,
        F::CloudErrorMessage,
        F::CloudReadOnly,
        F::CloudAccount,
        F::OktaEventType,
        F::CloudUserType,
        F::CloudUserArn,
        F::CloudUserName,
        F::CloudUserAccount,
        F::CloudInvokedBy,
        F::CloudIssuer,
        F::CloudMfa,
        F::CloudLoginMfa,
        F::CloudLogin,
        F::CloudTargetUser,
        F::CloudTargetRole,
        F::CloudTargetGroup,
        F::CloudPolicyArn,
        F::CloudPolicyDocument,
        F::CloudName,
        F::CloudSecurityGroup,
        F::CloudBucket,
        F::RequestUserAgent,
    ];
    put_named(&mut builder, value, &plain);
    opened(&mut builder, value);
    put(&mut builder, F::AuthSourceIp, value, &["sourceIPAddress"]);
    builder.text(F::AuthService, "aws").text(F::AuthAction, action(&event));
    let login = text(value, "responseElements.ConsoleLogin");
    let failed = value.get("errorCode").is_some_and(|code| !code.is_null())
        || login.is_some_and(|login| login != "Success");
    builder.text(F::AuthOutcome, outcome_word(!failed));
    put(&mut builder, F::AuthReason, value, &["errorMessage", "errorCode"]);
    builder.origin(address(value, "sourceIPAddress"));
    let account = text(value, "userIdentity.accountId").or_else(|| text(value, "recipientAccountId"));
    let names =
        ["userIdentity.arn", "userIdentity.userName", "userIdentity.invokedBy", "userIdentity.principalId"];
    if let Some(name) = names.iter().find_map(|path| text(value, path)) {
        builder.principal(&format!("aws/{}", account.as_deref().unwrap_or("")), &name);
        builder.text(F::AuthUser, &name);
    }
    let what = [
        "requestParameters.userName",
        "requestParameters.roleName",
        "requestParameters.groupId",
        "requestParameters.bucketName",
        "requestParameters.name",
    ];
    if let Some(name) = what.iter().find_map(|path| text(value, path)) {
        let kind = source.split('.').next().unwrap_or_default();
        builder.object(kind, text(value, "recipientAccountId").as_deref(), &name);
    }
    Ok(Some(told(builder, time)))
}

/// Which networks a security group was opened to, and which ports.
fn opened(builder: &mut RecordBuilder, value: &Value) {
    let of = |paths: &[&str]| -> Vec<String> {
        let all = paths.iter().flat_map(|path| at(value, path));
        all.filter_map(scalar).map(std::borrow::Cow::into_owned).collect()
    };
    let networks = of(&[
        "requestParameters.ipPermissions.items.ipRanges.items.cidrIp",
        "requestParameters.ipPermissions.items.ipv6Ranges.items.cidrIpv6",
        "requestParameters.cidrIp",
    ]);
    let ports = of(&["requestParameters.ipPermissions.items.fromPort", "requestParameters.fromPort"]);
    builder.list(Field::CloudNetworks, networks.iter().map(String::as_str));
    builder.list(Field::CloudPorts, ports.iter().map(String::as_str));
}

fn action(event: &str) -> &'static str {
    match event {
        "ConsoleLogin" | "CredentialVerification" | "UserAuthentication" => "login",
        "SwitchRole"
        | "AssumeRole"
        | "AssumeRoleWithSAML"
        | "AssumeRoleWithWebIdentity"
        | "GetFederationToken" => "elevate",
        "CheckMfa" | "DeactivateMFADevice" | "EnableMFADevice" | "DeleteVirtualMFADevice" => "mfa",
        "CreateUser" | "DeleteUser" | "UpdateUser" | "AddUserToGroup" | "CreateRole" | "DeleteRole" => {
            "account"
        }
        "CreateAccessKey"
        | "UpdateAccessKey"
        | "CreateLoginProfile"
        | "UpdateLoginProfile"
        | "ChangePassword"
        | "PasswordUpdated"
        | "CreateServiceSpecificCredential" => "credential",
        event if event.ends_with("Policy") || event.ends_with("PolicyVersion") => "policy",
        _ => "other",
    }
}
