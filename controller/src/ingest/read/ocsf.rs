//! OCSF 1.x JSON: class 3002 (authentication) and 4001 (network activity). Other classes give nothing.

use detect::schema::{Field, RecordBuilder};
use model::{RecordKind, Timestamp};
use serde_json::Value;

use super::{
    Rejected, Told,
    json::{address, put, required, text},
    outcome_word, time, told,
};

/// Reads an event.
pub(super) fn read(value: &Value) -> Result<Option<Told>, Rejected> {
    let class = required(value, "class_uid")?;
    let stamp = required(value, "time")?;
    let time = stamp.parse().ok().and_then(time::epoch).or_else(|| time::rfc3339(&stamp));
    let time = time.ok_or_else(|| Rejected::at("time", "neither a number nor RFC 3339"))?;
    match class.as_ref() {
        "3002" => authentication(value, time).map(Some),
        "4001" => flow(value, time).map(Some),
        _ => Ok(None),
    }
}

fn authentication(value: &Value, time: Timestamp) -> Result<Told, Rejected> {
    use Field as F;
    let mut builder = RecordBuilder::new(RecordKind::Authentication);
    if let Some(id) = text(value, "metadata.uid") {
        builder.id(&id);
    }
    let user = required(value, "user.name").or_else(|_| required(value, "user.uid"))?;
    let realm =
        text(value, "user.domain").or_else(|| text(value, "metadata.product.name")).unwrap_or_default();
    builder.text(F::AuthUser, &user).principal(&realm, &user);
    let paths: [(Field, &[&str]); 8] = [
        (F::AuthSourceIp, &["src_endpoint.ip"]),
        (F::AuthMethod, &["auth_protocol"]),
        (F::AuthReason, &["status_detail", "status_code"]),
        (F::AuthApplication, &["service.name"]),
        (F::AuthCountry, &["src_endpoint.location.country"]),
        (F::RequestUserAgent, &["http_request.user_agent"]),
        (F::AuthService, &["metadata.product.name"]),
        (F::Message, &["message"]),
    ];
    for (field, paths) in paths {
        put(&mut builder, field, value, paths);
    }
    let action = match text(value, "activity_id").as_deref() {
        Some("1" | "3" | "4" | "5") => "login",
        Some("2") => "logout",
        _ => "other",
    };
    builder.text(F::AuthAction, action);
    match text(value, "status_id").as_deref() {
        Some("1") => {
            builder.text(F::AuthOutcome, outcome_word(true));
        }
        Some("2") => {
            builder.text(F::AuthOutcome, outcome_word(false));
        }
        _ => {}
    }
    builder.origin(address(value, "src_endpoint.ip"));
    Ok(told(builder, time))
}

fn flow(value: &Value, time: Timestamp) -> Result<Told, Rejected> {
    use Field as F;
    let mut builder = RecordBuilder::new(RecordKind::Flow);
    if let Some(id) = text(value, "metadata.uid") {
        builder.id(&id);
    }
    let end = |path: &'static str| -> Result<_, Rejected> {
        address(value, path).ok_or_else(|| Rejected::at(path, "no address"))
    };
    builder.address(F::DestinationIp, end("dst_endpoint.ip")?);
    if let Some(addr) = address(value, "src_endpoint.ip") {
        builder.address(F::SourceIp, addr).origin(Some(addr));
    }
    let paths: [(Field, &[&str]); 6] = [
        (F::SourcePort, &["src_endpoint.port"]),
        (F::DestinationPort, &["dst_endpoint.port"]),
        (F::Protocol, &["connection_info.protocol_name", "connection_info.protocol_num"]),
        (F::SentBytes, &["traffic.bytes_out"]),
        (F::ReceivedBytes, &["traffic.bytes_in"]),
        (F::FlowPackets, &["traffic.packets"]),
    ];
    for (field, paths) in paths {
        put(&mut builder, field, value, paths);
    }
    match text(value, "connection_info.direction_id").as_deref() {
        Some("1") => {
            builder.text(F::FlowDirection, "ingress");
        }
        Some("2") => {
            builder.text(F::FlowDirection, "egress");
        }
        _ => {}
    }
    // Activity 5 is Refuse, disposition 2 Blocked.
    let refused = text(value, "activity_id").is_some_and(|id| id == "5")
        || text(value, "disposition_id").is_some_and(|id| id == "2");
    builder.text(F::FlowVerdict, if refused { "dropped" } else { "forwarded" });
    Ok(told(builder, time))
}
