//! Signed tokens as they are posted: security events (RFC 8417, pushed by RFC 8935), each a JSON Web Signature in its compact form.
//!
//! Whose keys may sign stands in a file (RFC 7517), and nothing that a token says of itself widens that: no key that it brings or points to
//! is looked at, no algorithm is known that needs a secret or none at all, and a token of another kind (an ID token that somebody was given to
//! log in) is no event.

use std::{
    fs::File,
    io::{self, Read as _},
    path::Path,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, EcdsaVerificationAlgorithm,
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512,
    RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, RsaParameters,
    RsaPublicKeyComponents, UnparsedPublicKey,
};
use serde::Deserialize;

use super::super::super::spec::SignedBy;

/// Bytes of one token (I11).
const MAX_TOKEN: usize = 1 << 20;
/// Bytes of a file of keys, and keys in it.
const MAX_KEYS_FILE: u64 = 256 << 10;
const MAX_KEYS: usize = 64;

/// Why a token is not taken: what RFC 8935 calls it, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{because}")]
pub(super) struct NotTaken {
    /// One of the registry's words (RFC 8935, section 2.4).
    pub(super) code: &'static str,
    pub(super) because: String,
}

/// Not the token's fault: no word of the registry's.
const OURS: &str = "our_keys";
/// Signed by a key of a name that the file does not have: an issuer may sign by a new one before it stands there. No word of the registry's.
const NEW_KEY: &str = "new_key";
/// Bytes of a reason, in which words of the token's own may stand (I11).
const MAX_REASON: usize = 300;

impl NotTaken {
    fn new(code: &'static str, because: impl Into<String>) -> Self {
        let mut because = because.into();
        because.truncate(because.floor_char_boundary(MAX_REASON));
        Self { code, because }
    }

    /// Whether it is ours that the token cannot be judged: whoever sends it does right to come again.
    pub(super) fn is_ours(&self) -> bool {
        self.code == OURS
    }

    /// Whether the token may be good once the file has its key.
    pub(super) fn may_be_later(&self) -> bool {
        self.code == NEW_KEY
    }

    fn malformed(because: impl Into<String>) -> Self {
        Self::new("invalid_request", because)
    }

    /// What the sender is answered.
    pub(super) fn answer(&self) -> String {
        serde_json::json!({"err": self.code, "description": self.because}).to_string()
    }
}

/// A token's head. What else stands in it (`jwk`, `jku`, `x5c`) are keys of its own choice.
#[derive(Deserialize)]
struct Head {
    alg: String,
    kid: Option<String>,
    typ: Option<String>,
    crit: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct KeySet {
    keys: Vec<serde_json::Value>,
}

/// A key; of others than these kinds nothing is read.
#[derive(Deserialize)]
struct Key {
    kty: String,
    kid: Option<String>,
    #[serde(rename = "use")]
    meant_for: Option<String>,
    alg: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

/// What decides whether a token is one for us.
#[derive(Deserialize)]
struct Claims {
    iss: Option<String>,
    #[serde(default)]
    aud: Audience,
}

#[derive(Deserialize, Default)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
    #[default]
    Nobody,
}

impl Audience {
    fn names(&self, who: &str) -> bool {
        match self {
            Self::One(one) => one == who,
            Self::Several(all) => all.iter().any(|one| one == who),
            Self::Nobody => false,
        }
    }
}

/// What a token says, if it is signed by one of the issuer's keys and meant for us: its claims, as they stand in it.
pub(super) fn open(signed_by: &SignedBy, body: &[u8]) -> Result<Vec<u8>, NotTaken> {
    let body = body.trim_ascii();
    if body.len() > MAX_TOKEN {
        return Err(NotTaken::malformed(format!("a token of {} bytes, at most {MAX_TOKEN}", body.len())));
    }
    let text = str::from_utf8(body).map_err(|_| NotTaken::malformed("it is no text"))?;
    let mut parts = text.split('.');
    let (Some(head), Some(claims), Some(signature), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(NotTaken::malformed("it is no signed token: HEAD.CLAIMS.SIGNATURE is wanted"));
    };
    let message = &text[..head.len() + 1 + claims.len()];
    let decoded = |part: &str, what: &str| {
        URL_SAFE_NO_PAD.decode(part).map_err(|_| NotTaken::malformed(format!("its {what} is not base64url")))
    };
    let signature = decoded(signature, "signature")?;
    let head: Head = serde_json::from_slice(&decoded(head, "head")?)
        .map_err(|error| NotTaken::malformed(format!("its head: {error}")))?;
    let claims = decoded(claims, "claims")?;
    let kind = head.typ.as_deref().unwrap_or_default().to_ascii_lowercase();
    if kind.strip_prefix("application/").unwrap_or(&kind) != "secevent+jwt" {
        return Err(NotTaken::malformed(format!("it is of the type {kind:?}, no secevent+jwt")));
    }
    if head.crit.is_some() {
        return Err(NotTaken::malformed("it asks for extensions (crit) that are not known here"));
    }
    let keys = keys(&signed_by.jwks)
        .map_err(|error| NotTaken::new(OURS, format!("{}: {error}", signed_by.jwks.display())))?;
    let mut fitting = keys.iter().filter(|key| key.may_be(&head)).peekable();
    if fitting.peek().is_none() {
        let is_other = |key: &Key| key.kid.is_some() && key.kid != head.kid;
        let new = head.kid.is_some() && is_known(&head.alg) && keys.iter().all(is_other);
        if new {
            // For another issuer's no key of ours is waited for.
            is_meant_for_us(signed_by, &claims)?;
        }
        let kid = head.kid.as_deref().unwrap_or("(none)");
        return Err(NotTaken::new(
            if new { NEW_KEY } else { "invalid_key" },
            format!("no key {kid:?} for {:?} is among those known", head.alg),
        ));
    }
    if !fitting.any(|key| key.signed(&head.alg, message.as_bytes(), &signature)) {
        return Err(NotTaken::new(
            "authentication_failed",
            "its signature is of another key or of other claims",
        ));
    }
    is_meant_for_us(signed_by, &claims)?;
    Ok(claims)
}

fn is_meant_for_us(signed_by: &SignedBy, claims: &[u8]) -> Result<(), NotTaken> {
    let said: Claims = serde_json::from_slice(claims)
        .map_err(|error| NotTaken::malformed(format!("its claims: {error}")))?;
    if said.iss.as_deref() != Some(signed_by.issuer.as_str()) {
        let because = format!("it is of the issuer {:?}", said.iss.unwrap_or_default());
        return Err(NotTaken::new("invalid_issuer", because));
    }
    if signed_by.audience.as_ref().is_some_and(|us| !said.aud.names(us)) {
        return Err(NotTaken::new("invalid_audience", "it is meant for somebody else"));
    }
    Ok(())
}

/// Read each time, so that a new key holds at once.
fn keys(path: &Path) -> io::Result<Vec<Key>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_KEYS_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_KEYS_FILE {
        return Err(io::Error::other(format!("longer than {MAX_KEYS_FILE} bytes")));
    }
    let set: KeySet = serde_json::from_slice(&bytes)?;
    // A key of a kind that is not known keeps no other from being used.
    Ok(set.keys.into_iter().take(MAX_KEYS).filter_map(|key| serde_json::from_value(key).ok()).collect())
}

impl Key {
    fn may_be(&self, head: &Head) -> bool {
        let is = |own: &Option<String>, other: &str| own.as_deref().is_none_or(|own| own == other);
        let by_name = head.kid.as_ref().is_none_or(|kid| self.kid.as_ref() == Some(kid));
        by_name && is(&self.alg, &head.alg) && is(&self.meant_for, "sig") && self.fits(&head.alg)
    }

    fn fits(&self, algorithm: &str) -> bool {
        match algorithm {
            "ES256" => self.is_of("EC", "P-256"),
            "ES384" => self.is_of("EC", "P-384"),
            "EdDSA" => self.is_of("OKP", "Ed25519"),
            other => self.kty == "RSA" && rsa(other).is_some(),
        }
    }

    fn is_of(&self, kind: &str, curve: &str) -> bool {
        self.kty == kind && self.crv.as_deref() == Some(curve)
    }

    fn signed(&self, algorithm: &str, message: &[u8], signature: &[u8]) -> bool {
        let part = |text: &Option<String>| URL_SAFE_NO_PAD.decode(text.as_deref().unwrap_or_default()).ok();
        let on_curve = |how: &'static EcdsaVerificationAlgorithm| {
            let point = [vec![4], part(&self.x)?, part(&self.y)?].concat();
            UnparsedPublicKey::new(how, point).verify(message, signature).ok()
        };
        let verified = match algorithm {
            "ES256" => on_curve(&ECDSA_P256_SHA256_FIXED),
            "ES384" => on_curve(&ECDSA_P384_SHA384_FIXED),
            "EdDSA" => part(&self.x)
                .and_then(|point| UnparsedPublicKey::new(&ED25519, point).verify(message, signature).ok()),
            other => rsa(other).zip(part(&self.n)).zip(part(&self.e)).and_then(|((how, n), e)| {
                RsaPublicKeyComponents { n, e }.verify(how, message, signature).ok()
            }),
        };
        verified.is_some()
    }
}

fn is_known(algorithm: &str) -> bool {
    matches!(algorithm, "ES256" | "ES384" | "EdDSA") || rsa(algorithm).is_some()
}

fn rsa(algorithm: &str) -> Option<&'static RsaParameters> {
    Some(match algorithm {
        "RS256" => &RSA_PKCS1_2048_8192_SHA256,
        "RS384" => &RSA_PKCS1_2048_8192_SHA384,
        "RS512" => &RSA_PKCS1_2048_8192_SHA512,
        "PS256" => &RSA_PSS_2048_8192_SHA256,
        "PS384" => &RSA_PSS_2048_8192_SHA384,
        "PS512" => &RSA_PSS_2048_8192_SHA512,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    /// Keys and tokens that another implementation made (PyJWT 2.15), so that our own mistakes do not agree with each other.
    fn samples() -> Value {
        serde_json::from_str(include_str!("token/samples.json")).unwrap()
    }

    struct Door {
        folder: tempfile::TempDir,
        signed_by: SignedBy,
    }

    fn door(jwks: &Value, audience: Option<&str>) -> Door {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("jwks.json");
        std::fs::write(&path, jwks.to_string()).unwrap();
        let issuer = "https://idp.example.com/".to_owned();
        Door { folder, signed_by: SignedBy { jwks: path, issuer, audience: audience.map(str::to_owned) } }
    }

    fn told(door: &Door, token: &str) -> Result<Value, &'static str> {
        let opened = open(&door.signed_by, token.as_bytes());
        opened.map(|claims| serde_json::from_slice(&claims).unwrap()).map_err(|why| why.code)
    }

    #[test]
    fn tokens_of_every_algorithm_that_another_implementation_signed_are_taken() {
        let samples = samples();
        let us = "https://hemostat.example.com/";
        let door = door(&samples["jwks"], Some(us));
        for name in ["rs256", "rs512", "ps256", "es256", "es384", "eddsa", "nokid"] {
            let claims = told(&door, samples["tokens"][name].as_str().unwrap()).unwrap();
            assert_eq!(claims["jti"], "756E69717565206964656E746966696572", "{name}");
        }
        let padded = format!("\r\n{}\n", samples["tokens"]["es256"].as_str().unwrap());
        assert!(told(&door, &padded).is_ok());
    }

    #[test]
    fn what_was_not_signed_by_the_issuer_for_us_is_not_taken_and_told_in_the_standards_words() {
        let samples = samples();
        let token = |name: &str| samples["tokens"][name].as_str().unwrap().to_owned();
        let door = door(&samples["jwks"], Some("https://hemostat.example.com/"));
        for (name, code) in [
            ("stranger", "authentication_failed"),
            ("other_issuer", "invalid_issuer"),
            ("other_audience", "invalid_audience"),
            ("id_token", "invalid_request"),
            ("none", "invalid_key"),
            ("hs256", "invalid_key"),
            ("crit", "invalid_request"),
        ] {
            assert_eq!(told(&door, &token(name)), Err(code), "{name}");
        }
        // Other claims under a true signature, and a true token of which a part is missing or too much.
        let parts: Vec<String> = token("es256").split('.').map(str::to_owned).collect();
        let forged =
            URL_SAFE_NO_PAD.encode(json!({"iss": "https://idp.example.com/", "jti": "x"}).to_string());
        let forged = format!("{}.{forged}.{}", parts[0], parts[2]);
        assert_eq!(told(&door, &forged), Err("authentication_failed"));
        for broken in [format!("{}.{}.", parts[0], parts[1]), format!("{}.x", token("es256")), String::new()]
        {
            assert!(told(&door, &broken).is_err(), "{broken}");
        }
        // A key that the token brings with it.
        let own =
            json!({"alg": "ES256", "kid": "mine", "typ": "secevent+jwt", "jwk": samples["jwks"]["keys"][1]});
        let own = format!("{}.{}.{}", URL_SAFE_NO_PAD.encode(own.to_string()), parts[1], parts[2]);
        assert_eq!(told(&door, &own), Err(NEW_KEY));
    }

    #[test]
    fn a_key_that_is_not_in_the_file_signs_nothing_and_may_still_come_to_stand_there() {
        let samples = samples();
        let token = samples["tokens"]["es256"].as_str().unwrap();
        let door = door(&samples["jwks"], None);
        assert!(told(&door, token).is_ok());
        let path = door.folder.path().join("jwks.json");
        let keep: Vec<&Value> =
            samples["jwks"]["keys"].as_array().unwrap().iter().filter(|key| key["kid"] != "p256").collect();
        std::fs::write(&path, json!({"keys": keep}).to_string()).unwrap();
        assert_eq!(told(&door, token), Err(NEW_KEY));
        std::fs::write(&path, samples["jwks"].to_string()).unwrap();
        assert!(told(&door, token).is_ok());
        // For another issuer's no key is waited for, and one of ours without a name is no other.
        let nobody = json!({"keys": []}).to_string();
        std::fs::write(&path, &nobody).unwrap();
        assert_eq!(told(&door, samples["tokens"]["other_issuer"].as_str().unwrap()), Err("invalid_issuer"));
        let mut nameless = samples["jwks"].clone();
        nameless["keys"]
            .as_array_mut()
            .unwrap()
            .iter_mut()
            .for_each(|key| drop(key.as_object_mut().unwrap().remove("kid")));
        std::fs::write(&path, nameless.to_string()).unwrap();
        assert_eq!(told(&door, token), Err("invalid_key"));
        // One that is for encrypting, and a file that is none.
        let mut other = samples["jwks"].clone();
        other["keys"][1]["use"] = json!("enc");
        std::fs::write(&path, other.to_string()).unwrap();
        assert_eq!(told(&door, token), Err("invalid_key"));
        // A file that is being written at this moment, or is away: that is not the token's fault, and it may come again.
        std::fs::write(&path, "{").unwrap();
        assert_eq!(told(&door, token), Err(OURS));
        std::fs::remove_file(&path).unwrap();
        assert_eq!(told(&door, token), Err(OURS));
    }

    #[test]
    fn i11_a_reason_is_short_whatever_the_token_brings() {
        assert!(NotTaken::malformed("é".repeat(1 << 20)).because.len() <= MAX_REASON);
        assert!(!NotTaken::malformed("x").is_ours());
    }

    proptest! {
        #[test]
        fn any_body_is_refused(body in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(open(&door(&samples()["jwks"], None).signed_by, &body).is_err());
        }

        #[test]
        fn a_token_with_any_byte_changed_is_refused(at in 0_usize..582, to in 0_u8..128) {
            let samples = samples();
            let mut token = samples["tokens"]["es256"].as_str().unwrap().as_bytes().to_vec();
            prop_assume!(token[at] != to && !(to.is_ascii_whitespace() && (at == 0 || at == 581)));
            token[at] = to;
            prop_assert!(open(&door(&samples["jwks"], None).signed_by, &token).is_err());
        }
    }
}
