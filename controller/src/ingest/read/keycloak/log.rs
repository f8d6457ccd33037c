//! Keycloak's own log in JSON, in which its listener `jboss-logging` tells of events: `type="LOGIN", realmId="…", …, username="dana"`.
//!
//! Whoever logs in chooses some of these values. The listener writes a quote in a value as `\"` and a backslash as itself, so that `x\` ends as a
//! quote in a value would be written. What helps is that nobody but the listener writes a quote without a backslash before it ([`end_of`]):
//! nobody makes up a field, nor writes what cannot be read.

use serde_json::{Map, Value, json};

use super::super::{Rejected, json::required};

/// The listener's own logger; all others tell of the server.
const LOGGER: &str = "org.keycloak.events";
/// Fields of one event (I11).
const MAX_FIELDS: usize = 256;
/// Bytes of a field's name.
const MAX_NAME: usize = 128;
/// Fields that stand at the top of an event, as the REST interface gives it; the others are details.
const OWN: [&str; 8] =
    ["type", "realmId", "realmName", "clientId", "userId", "sessionId", "ipAddress", "error"];
/// Of an event of the administration: what is of the one who administers, and what else stands at the top.
const OF_ADMIN: [&str; 5] = ["realmId", "realmName", "clientId", "userId", "ipAddress"];
const ADMIN: [&str; 4] = ["operationType", "resourceType", "resourcePath", "error"];

/// Whether it is a line of the log, and no event as the REST interface gives it.
pub(super) fn is_line(value: &Value) -> bool {
    value.get("loggerName").is_some_and(Value::is_string)
}

/// The event that a line tells of, as the REST interface would give it; nothing where it tells of none.
pub(super) fn event(line: &Value) -> Result<Option<Value>, Rejected> {
    if line.get("loggerName").and_then(Value::as_str) != Some(LOGGER) {
        return Ok(None);
    }
    let message = required(line, "message")?;
    let fields = fields(&message)?;
    let mut event = Map::new();
    event.insert("time".into(), required(line, "timestamp")?.into());
    let mut inner = Map::new();
    let is_admins = fields.first().is_some_and(|(name, _)| *name == "operationType");
    for (name, text) in fields {
        // How it writes that there is none.
        if text == "null" && name != "username" {
            continue;
        }
        let is_inner = if is_admins { OF_ADMIN.contains(&name) } else { !OWN.contains(&name) };
        let is_known = !is_admins || is_inner || ADMIN.contains(&name);
        let of = if is_inner { &mut inner } else { &mut event };
        // Of two the first: the listener's own fields stand in front of what a request brought.
        if is_known && !of.contains_key(name) {
            of.insert(name.to_owned(), text.into());
        }
    }
    if is_admins {
        // The realm that was changed is not told; the one of who did it is.
        event.insert("realmId".into(), inner.get("realmId").cloned().unwrap_or_default());
    }
    event.insert(if is_admins { "authDetails" } else { "details" }.into(), inner.into());
    Ok(Some(json!(event)))
}

/// Names and values, in their order.
fn fields(message: &str) -> Result<Vec<(&str, String)>, Rejected> {
    let wrong = |reason: &str| Rejected::at("message", reason);
    let not_quoted =
        || wrong("no event as the listener writes it with quotes (jboss-logging: quotes, sanitize)");
    let mut fields = Vec::new();
    let (mut name, mut text) = name_of(message).ok_or_else(not_quoted)?;
    loop {
        if fields.len() >= MAX_FIELDS {
            return Err(wrong("too many fields"));
        }
        let end = end_of(text).ok_or_else(not_quoted)?;
        let (value, after) = text.split_at(end);
        fields.push((name, value.replace("\\\"", "\"")));
        match after.get(1..).and_then(next) {
            Some(other) => (name, text) = other,
            None => return Ok(fields),
        }
    }
}

/// Where the quote stands that ends the value with which `text` begins.
fn end_of(text: &str) -> Option<usize> {
    for (at, _) in text.match_indices('"') {
        let after = text.get(at + 1..)?;
        let other = next(after);
        if !text.get(..at)?.ends_with('\\') {
            // Nobody else writes such a one.
            return (after.is_empty() || other.is_some()).then_some(at);
        }
        // A quote in a value, or the end of one that ends with a backslash. What looks like a field behind it is none if its value would
        // begin with the next field: then it is the end of this value, made to look so.
        let is_made_up = |(_, value): (&str, &str)| value.is_empty() || next(value).is_some();
        if after.is_empty() || other.is_some_and(|other| !is_made_up(other)) {
            return Some(at);
        }
    }
    None
}

/// The field that begins behind a value: its name, and the text from its value on.
fn next(text: &str) -> Option<(&str, &str)> {
    name_of(text.strip_prefix(", ")?)
}

fn name_of(text: &str) -> Option<(&str, &str)> {
    let (name, after) = text.split_at(text.bytes().take(MAX_NAME + 1).position(|byte| !is_names(byte))?);
    after.strip_prefix("=\"").filter(|_| !name.is_empty()).map(|after| (name, after))
}

fn is_names(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As the listener writes a value: white space as a blank, a quote behind a backslash, a backslash as it is.
    fn written(value: &str) -> String {
        let blank = |c: char| if c.is_whitespace() || c == '\u{a0}' { ' ' } else { c };
        value.chars().map(blank).collect::<String>().replace('"', "\\\"")
    }

    fn line(message: &str) -> Value {
        json!({"timestamp": "2026-11-22T14:30:00.123Z", "loggerName": LOGGER, "message": message})
    }

    #[test]
    fn other_loggers_tell_of_no_event_and_one_without_quotes_is_refused() {
        let mut other = line("type=\"LOGIN\"");
        other["loggerName"] = json!("io.quarkus");
        assert_eq!(event(&other).unwrap(), None);
        for broken in
            ["type=LOGIN, realmId=shop", "", "type=\"LOGIN", "type=\"LOGIN\", realmId=shop", "a b=\"c\""]
        {
            assert!(event(&line(broken)).is_err(), "{broken}");
        }
    }

    #[test]
    fn an_event_of_the_administration_is_of_whoever_did_it() {
        let message = r#"operationType="CREATE", realmId="r1", realmName="master", clientId="c", userId="u", ipAddress="192.0.2.1", resourceType="USER", resourcePath="users/7""#;
        let event = event(&line(message)).unwrap().unwrap();
        assert_eq!(event["authDetails"]["ipAddress"], "192.0.2.1");
        assert_eq!((&event["operationType"], &event["resourcePath"]), (&json!("CREATE"), &json!("users/7")));
        assert_eq!(event["realmId"], "r1");
    }

    proptest! {
        #[test]
        fn nobody_makes_up_a_field(
            client in r#"([a-z"\\=, ]|, ipAddress="8\.8\.8\.8|", error="x){0,20}"#,
            user in r#"([a-z"\\=, \n]|, ipAddress="8\.8\.8\.8|", error="x){0,20}"#,
        ) {
            let message = format!(
                "type=\"LOGIN_ERROR\", realmId=\"shop\", clientId=\"{}\", userId=\"null\", ipAddress=\"192.0.2.1\", error=\"e\", username=\"{}\"",
                written(&client), written(&user)
            );
            let event = event(&line(&message)).unwrap().unwrap();
            prop_assert_eq!(&event["ipAddress"], "192.0.2.1");
            prop_assert_eq!(&event["error"], "e");
            prop_assert_eq!(&event["type"], "LOGIN_ERROR");
            prop_assert_eq!(event.as_object().unwrap().keys().filter(|key| *key != "clientId").count(), 6);
            // But for a backslash before a quote, which is written as a quote is.
            if !client.contains("\\") && client != "null" {
                prop_assert_eq!(&event["clientId"], &json!(written(&client).replace("\\\"", "\"")));
            }
        }

        #[test]
        fn any_message_is_read_or_refused(message in ".{0,200}") {
            let _either = event(&line(&message));
        }
    }
}
