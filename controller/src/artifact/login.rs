//! What a Secret of type kubernetes.io/dockerconfigjson says of a registry.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Deserialize;

use super::reference::Reference;

/// The key of the Secret that holds it.
pub(crate) const KEY: &str = ".dockerconfigjson";

/// Name and password. They are never logged: there is no `Debug` that shows them.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Login {
    pub(super) name: String,
    pub(super) password: String,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Login(…)")
    }
}

#[derive(Deserialize)]
struct Written {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
struct Entry {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    auth: String,
    #[serde(default)]
    identitytoken: String,
}

impl Login {
    /// Of the entry that fits the reference best, as the kubelet chooses: a key may be a host, or a host with the beginning of a path, with
    /// or without `https://` and `/v1/` or `/v2/`.
    pub(super) fn of(config: &[u8], reference: &Reference) -> Result<Self, String> {
        let config: Written =
            serde_json::from_slice(config).map_err(|_| format!("its {KEY} cannot be understood"))?;
        let wanted = format!("{}/{}", reference.registry, reference.repository);
        let fits = |key: &str| {
            let key = key.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/');
            let key = key.trim_end_matches("/v1").trim_end_matches("/v2");
            let key = key.strip_prefix("index.").filter(|key| *key == "docker.io").unwrap_or(key);
            let rest = wanted.strip_prefix(key)?;
            (!key.is_empty() && (rest.is_empty() || rest.starts_with('/'))).then_some(key.len())
        };
        let entry = config.auths.iter().filter_map(|(key, entry)| Some((fits(key)?, entry)));
        let Some((_, entry)) = entry.max_by_key(|(length, _)| *length) else {
            return Err(format!("it says nothing of {}", reference.registry));
        };
        if !entry.identitytoken.is_empty() {
            return Err(
                "it holds an identity token, which is not understood: give a name and a password".into()
            );
        }
        let (name, password) = if entry.auth.is_empty() {
            (entry.username.clone(), entry.password.clone())
        } else {
            let decoded =
                STANDARD.decode(entry.auth.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
            let pair = decoded.as_deref().and_then(|text| text.split_once(':'));
            let (name, password) = pair.ok_or("its `auth` is no name and password")?;
            (name.to_owned(), password.to_owned())
        };
        if name.is_empty() {
            return Err(format!("it has no name for {}", reference.registry));
        }
        Ok(Self { name, password })
    }

    /// The value of an Authorization header.
    pub(super) fn basic(&self) -> String {
        format!("Basic {}", STANDARD.encode(format!("{}:{}", self.name, self.password)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(config: &str, registry: &str) -> Result<Login, String> {
        let text = format!("{registry}/team/rules@sha256:{}", "0".repeat(64));
        Login::of(config.as_bytes(), &Reference::parse(&text).unwrap())
    }

    #[test]
    fn the_entry_that_fits_best_is_taken() {
        let config = r#"{"auths": {
            "r.example.com": {"username": "wide", "password": "1"},
            "https://r.example.com/team": {"auth": "bmFycm93OjI6Mw=="},
            "r.example.com/te": {"username": "other", "password": "4"},
            "https://index.docker.io/v1/": {"username": "hub", "password": "5"}}}"#;
        let narrow = of(config, "r.example.com").unwrap();
        assert_eq!((narrow.name.as_str(), narrow.password.as_str()), ("narrow", "2:3"));
        assert_eq!(of(config, "docker.io").unwrap().name, "hub");
        assert!(of(config, "r.example.com.evil.org").unwrap_err().contains("says nothing of"));
        assert!(of(config, "other.example.com").unwrap_err().contains("says nothing of"));
        assert!(of("{", "r.example.com").unwrap_err().contains("cannot be understood"));
        let token = r#"{"auths": {"r.example.com": {"identitytoken": "x"}}}"#;
        assert!(of(token, "r.example.com").unwrap_err().contains("identity token"));
        assert!(!format!("{narrow:?}").contains("2:3"), "never logged");
    }
}
