//! The pull half of a registry's interface (distribution-spec 1.1, "Pull"), by TLS only and with a bound on everything that it answers.
//!
//! A registry may ask for a token (distribution's token authentication) or for name and password, and may send us elsewhere for a layer. The
//! name and the password go to the registry and to the place that it names for tokens; elsewhere, nothing that proves who we are.

use std::time::Duration;

use http_body_util::{BodyExt as _, Empty, LengthLimitError, Limited};
use hyper::{
    Request, Response, StatusCode, Uri,
    body::{Bytes, Incoming},
    header::{self, HeaderValue},
};
use serde::Deserialize;
use tokio::time::timeout;

use super::{
    login::Login,
    manifest::{Layer, MANIFEST, MAX_MANIFEST},
    reference::{Digest, Reference},
};
use crate::trusted::{self, Asking, Untrusted};

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(5);
/// How long the beginning of an answer is waited for.
const ANSWER: Duration = Duration::from_secs(15);
/// How long the rest of one may take.
const BODY: Duration = Duration::from_secs(120);
/// How often a registry may send us elsewhere for one thing.
const REDIRECTS: usize = 4;
/// Bytes of a token's answer and of what is said about an error (I11).
const MAX_SAID: usize = 64 << 10;

/// Why something was not fetched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum PullError {
    /// What the registry is trusted by cannot be used.
    #[error(transparent)]
    Authorities(#[from] Untrusted),
    /// Nobody answers there, or not as TLS wants it.
    #[error("{host} cannot be reached: {because}")]
    Unreachable {
        /// Whom.
        host: String,
        /// Why not.
        because: String,
    },
    /// The answer did not come in time.
    #[error("{host} did not answer in time")]
    Late {
        /// Who.
        host: String,
    },
    /// It has no such thing.
    #[error("{what}: the registry does not have it")]
    Missing {
        /// Which.
        what: String,
    },
    /// It wants to know who we are, or does not let us.
    #[error("{what}: the registry refuses it ({code}): {because}")]
    Refused {
        /// Which.
        what: String,
        /// HTTP status.
        code: u16,
        /// What is lacking.
        because: String,
    },
    /// It answers otherwise than it should.
    #[error("{what}: the registry answers {code}")]
    Odd {
        /// Which.
        what: String,
        /// HTTP status.
        code: u16,
    },
    /// It sends us where we do not go.
    #[error("{what}: the registry sends us elsewhere: {because}")]
    Elsewhere {
        /// Which.
        what: String,
        /// Why not.
        because: String,
    },
    /// It is longer than is taken.
    #[error("{what}: it is longer than {limit} bytes")]
    TooLong {
        /// Which.
        what: String,
        /// How long it may be.
        limit: usize,
    },
    /// What came is something else.
    #[error("{what}: what the registry gives is something else: {found}")]
    Tampered {
        /// Which.
        what: String,
        /// Its digest or length.
        found: String,
    },
}

/// A registry, for one artifact.
pub(super) struct Registry {
    client: Asking,
    reference: Reference,
    login: Option<Login>,
    /// What the registry wants to see, once it has said so.
    proof: Option<HeaderValue>,
}

impl Registry {
    /// `authorities` in PEM are trusted instead of the system's.
    pub(super) fn new(
        reference: Reference,
        login: Option<Login>,
        authorities: Option<&str>,
    ) -> Result<Self, PullError> {
        let client = trusted::client(authorities.map(str::as_bytes), CONNECT)?;
        Ok(Self { client, reference, login, proof: None })
    }

    /// The manifest's bytes: those that the reference's digest means.
    pub(super) async fn manifest(&mut self) -> Result<Bytes, PullError> {
        let digest = self.reference.digest.clone();
        let path = format!("manifests/{digest}");
        let bytes = self.get(&path, MANIFEST, MAX_MANIFEST).await?;
        compare(&path, &digest, &bytes)?;
        Ok(bytes)
    }

    /// A layer's bytes.
    pub(super) async fn layer(&mut self, layer: &Layer) -> Result<Bytes, PullError> {
        let path = format!("blobs/{}", layer.digest);
        let limit = usize::try_from(layer.size).unwrap_or(usize::MAX);
        let bytes = self.get(&path, "application/octet-stream", limit).await?;
        compare(&path, &layer.digest, &bytes)?;
        if bytes.len() != limit {
            let found = format!("{} bytes, and the manifest says {}", bytes.len(), layer.size);
            return Err(PullError::Tampered { what: path, found });
        }
        Ok(bytes)
    }

    async fn get(&mut self, path: &str, accept: &'static str, limit: usize) -> Result<Bytes, PullError> {
        let first = format!("https://{}/v2/{}/{path}", self.reference.host(), self.reference.repository);
        let home: Uri = first
            .parse()
            .map_err(|_| PullError::Elsewhere { what: path.into(), because: "its address is none".into() })?;
        let mut at = home.clone();
        let mut asked = false;
        for _ in 0..=REDIRECTS + 1 {
            let proof = self.proof.clone().filter(|_| at.authority() == home.authority());
            let response = self.send(&at, accept, proof).await?;
            let status = response.status();
            match status {
                StatusCode::OK => return self.body(path, &at, response, limit).await,
                StatusCode::UNAUTHORIZED if !asked && at.authority() == home.authority() => {
                    asked = true;
                    self.proof = Some(self.prove(path, &response).await?);
                }
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                    let because = match (&self.login, self.proof.is_some()) {
                        (None, _) => "it wants to know who we are: spec.artifact.pullSecret names nobody",
                        (Some(_), true) => {
                            "whom the pull secret names may not read it, or the password is wrong"
                        }
                        (Some(_), false) => "it does not say how it wants to know who we are",
                    };
                    return Err(PullError::Refused {
                        what: path.into(),
                        code: status.as_u16(),
                        because: because.into(),
                    });
                }
                StatusCode::NOT_FOUND => return Err(PullError::Missing { what: path.into() }),
                StatusCode::MOVED_PERMANENTLY
                | StatusCode::FOUND
                | StatusCode::SEE_OTHER
                | StatusCode::TEMPORARY_REDIRECT
                | StatusCode::PERMANENT_REDIRECT => at = elsewhere(path, &at, &response)?,
                other => return Err(PullError::Odd { what: path.into(), code: other.as_u16() }),
            }
        }
        Err(PullError::Elsewhere { what: path.into(), because: format!("more than {REDIRECTS} times") })
    }

    async fn send(
        &self,
        at: &Uri,
        accept: &'static str,
        proof: Option<HeaderValue>,
    ) -> Result<Response<Incoming>, PullError> {
        let host = at.authority().map(ToString::to_string).unwrap_or_default();
        let unreachable = |because: String| PullError::Unreachable {
            host: host.clone(),
            because: crds::cut(&because, 300),
        };
        let mut request = Request::get(at.clone())
            .header(header::USER_AGENT, concat!("hemostat/", env!("CARGO_PKG_VERSION")))
            .header(header::ACCEPT, accept);
        if let Some(proof) = proof {
            request = request.header(header::AUTHORIZATION, proof);
        }
        let request = request.body(Empty::new()).map_err(|error| unreachable(error.to_string()))?;
        match timeout(ANSWER, self.client.request(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(unreachable(whole(&error))),
            Err(_) => Err(PullError::Late { host }),
        }
    }

    async fn body(
        &self,
        what: &str,
        at: &Uri,
        response: Response<Incoming>,
        limit: usize,
    ) -> Result<Bytes, PullError> {
        let host = || at.authority().map(ToString::to_string).unwrap_or_default();
        match timeout(BODY, Limited::new(response.into_body(), limit).collect()).await {
            Ok(Ok(body)) => Ok(body.to_bytes()),
            Ok(Err(error)) if error.downcast_ref::<LengthLimitError>().is_some() => {
                Err(PullError::TooLong { what: what.into(), limit })
            }
            Ok(Err(error)) => Err(PullError::Unreachable {
                host: host(),
                because: format!("the answer broke off: {error}"),
            }),
            Err(_) => Err(PullError::Late { host: host() }),
        }
    }

    /// What the registry wants to see, by its challenge.
    async fn prove(&self, what: &str, response: &Response<Incoming>) -> Result<HeaderValue, PullError> {
        let refused =
            |because: &str| PullError::Refused { what: what.into(), code: 401, because: because.into() };
        let challenges = response.headers().get_all(header::WWW_AUTHENTICATE);
        let challenges: Vec<&str> = challenges.iter().filter_map(|value| value.to_str().ok()).collect();
        let scheme = |name: &str| {
            challenges.iter().find_map(|text| {
                let (scheme, rest) = text.split_once(' ').unwrap_or((text, ""));
                scheme.eq_ignore_ascii_case(name).then_some(rest)
            })
        };
        let proof = if let Some(words) = scheme("bearer") {
            format!("Bearer {}", self.token(what, words).await?)
        } else if scheme("basic").is_some() {
            let login = self.login.as_ref();
            login
                .ok_or_else(|| refused("it wants to know who we are: spec.artifact.pullSecret names nobody"))?
                .basic()
        } else {
            return Err(refused("it asks for neither a token nor name and password"));
        };
        sensitive(&proof).ok_or_else(|| refused("what it wants to see is no header's value"))
    }

    /// A token of the place that the challenge names, for reading this repository and nothing else.
    async fn token(&self, what: &str, challenge: &str) -> Result<String, PullError> {
        let refused = |code: u16, because: &str| PullError::Refused {
            what: what.into(),
            code,
            because: because.into(),
        };
        let realm = word(challenge, "realm").filter(|realm| realm.len() <= 2048);
        let realm = realm.ok_or_else(|| refused(401, "it does not say where tokens are had"))?;
        if !realm.starts_with("https://") {
            return Err(refused(401, "it sends us for a token to a place without TLS"));
        }
        let mut query = format!(
            "scope={}",
            act::percent_encoded(&format!("repository:{}:pull", self.reference.repository))
        );
        if let Some(service) = word(challenge, "service") {
            query = format!("service={}&{query}", act::percent_encoded(&service));
        }
        let joint = if realm.contains('?') { '&' } else { '?' };
        let at: Uri = format!("{realm}{joint}{query}")
            .parse()
            .map_err(|_| refused(401, "the place where tokens are had is no address"))?;
        let proof = self.login.as_ref().and_then(|login| sensitive(&login.basic()));
        let response = self.send(&at, "application/json", proof).await?;
        if response.status() != StatusCode::OK {
            let because = if self.login.is_some() {
                "the place that gives tokens does not know the pull secret's name and password"
            } else {
                "the place that gives tokens gives none to strangers: spec.artifact.pullSecret names nobody"
            };
            return Err(refused(response.status().as_u16(), because));
        }
        let body = self.body("token", &at, response, MAX_SAID).await?;
        #[derive(Deserialize)]
        struct Given {
            #[serde(default)]
            token: String,
            #[serde(default)]
            access_token: String,
        }
        let given: Given =
            serde_json::from_slice(&body).map_err(|_| refused(401, "what should be a token is none"))?;
        let token = if given.token.is_empty() { given.access_token } else { given.token };
        if token.is_empty() { Err(refused(401, "the token is empty")) } else { Ok(token) }
    }
}

fn compare(what: &str, wanted: &Digest, bytes: &[u8]) -> Result<(), PullError> {
    let found = Digest::of(bytes);
    if found == *wanted {
        return Ok(());
    }
    Err(PullError::Tampered { what: what.into(), found: found.to_string() })
}

/// Where a redirect leads: by TLS only.
fn elsewhere(what: &str, at: &Uri, response: &Response<Incoming>) -> Result<Uri, PullError> {
    let no = |because: &str| PullError::Elsewhere { what: what.into(), because: because.into() };
    let location = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
    let location = location.ok_or_else(|| no("it does not say where to"))?;
    let host = at.authority().map(ToString::to_string).unwrap_or_default();
    let text = if location.starts_with('/') && !location.starts_with("//") {
        format!("https://{host}{location}")
    } else {
        location.to_owned()
    };
    if !text.starts_with("https://") {
        return Err(no("to a place without TLS"));
    }
    text.parse().map_err(|_| no("to what is no address"))
}

/// A parameter of a challenge (RFC 9110 §11.2), `name="value"`.
fn word(challenge: &str, name: &str) -> Option<String> {
    let mut rest = challenge;
    while let Some((key, after)) = rest.split_once('=') {
        let key = key.trim_matches([' ', ',']);
        let value;
        if let Some(quoted) = after.strip_prefix('"') {
            let (inner, more) = quoted.split_once('"')?;
            (value, rest) = (inner, more);
        } else {
            (value, rest) = after.split_once(',').unwrap_or((after, ""));
        }
        if key.eq_ignore_ascii_case(name) {
            return Some(value.trim().to_owned());
        }
    }
    None
}

fn sensitive(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// An error with those behind it: which of them says what matters differs.
fn whole(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        next = error.source();
    }
    text
}

#[cfg(test)]
mod word_tests {
    use super::word;

    #[test]
    fn a_challenge_is_read_whatever_is_in_it() {
        let text = r#"realm="https://auth.example.com/token",service="r.example.com",scope="repository:a/b:pull,push""#;
        assert_eq!(word(text, "realm").unwrap(), "https://auth.example.com/token");
        assert_eq!(word(text, "Service").unwrap(), "r.example.com");
        assert_eq!(word(text, "scope").unwrap(), "repository:a/b:pull,push");
        assert_eq!(word(text, "error"), None);
        assert_eq!(word("realm=https://a , service=b", "service").unwrap(), "b");
        for odd in ["", "=", "realm", "realm=\"", "realm=\"x", ",,,=\"", "a=b=c"] {
            let _no_panic = word(odd, "realm");
        }
    }
}
