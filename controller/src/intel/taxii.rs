//! Collections of TAXII 2.1 servers, fetched into a STIX bundle below the state folder, which is then followed as every feed's file is. What
//! was fetched stays in force while the server is away, and after a restart only what is new is asked for (`added_after`).

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use enrich::{
    Limits,
    taxii::{MAX_PAGE, MAX_PAGES, MEDIA_TYPE, Mirror, Next, PAGE, TaxiiError},
};
use http_body_util::{BodyExt as _, Empty, LengthLimitError, Limited};
use hyper::{
    Request, StatusCode, Uri,
    body::Bytes,
    header::{self, HeaderValue},
};
use tokio::time::timeout;

use crate::trusted::{self, Asking, Untrusted};

/// How long a connection may take to come about, the beginning of an answer, and the rest of one.
const CONNECT: Duration = Duration::from_secs(10);
const ANSWER: Duration = Duration::from_secs(60);
const BODY: Duration = Duration::from_secs(300);
/// Bytes of a file with a secret or with authorities (I11).
const MAX_SECRET: u64 = 1 << 20;
/// Where nothing else is said, new objects are asked for so often; and not more often than this.
pub(super) const EVERY: Duration = Duration::from_secs(3600);
pub(super) const SOONEST: Duration = Duration::from_secs(10);

/// A collection and how it is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collection {
    /// `https://HOST/ROOT/collections/ID/`.
    pub url: String,
    /// Name, for basic authentication with the password in [`Collection::password`].
    pub user: Option<String>,
    /// File with the password.
    pub password: Option<PathBuf>,
    /// File with a bearer token.
    pub token: Option<PathBuf>,
    /// Authorities to trust instead of the system's, PEM.
    pub ca: Option<PathBuf>,
    /// How often new objects are asked for.
    pub every: Duration,
}

/// Why a collection was not fetched. What was fetched before stays in force.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error("cannot read {}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Authorities(#[from] Untrusted),
    #[error("{0} is no https address")]
    Address(String),
    #[error("{0} cannot be reached: {1}")]
    Unreachable(String, String),
    #[error("{0} did not answer in time")]
    Late(String),
    #[error("{0} does not let us: {1}; look at user, password and token")]
    Refused(String, StatusCode),
    #[error("{0} answers {1}; redirects are not followed")]
    Odd(String, StatusCode),
    #[error("{0} gives {1:?} and not TAXII 2.1")]
    Other(String, String),
    #[error("{0} gives a page longer than {MAX_PAGE} bytes")]
    TooLong(String),
    #[error("{0} gives more than {MAX_PAGES} pages")]
    TooMany(String),
    #[error("{0}: {1}")]
    Said(String, TaxiiError),
}

/// Fetches what is new into the mirror at `path`; how many objects it holds then.
pub(super) async fn fetch(collection: &Collection, path: &Path) -> Result<usize, FetchError> {
    let mut mirror = known(path);
    let host = collection.url.clone();
    let authorities = collection.ca.as_deref().map(secret).transpose()?;
    let client = trusted::client(authorities.as_deref(), CONNECT)?;
    let proof = proof(collection)?;
    let after = mirror.added_after.clone();
    let mut next = None;
    let said = |error| FetchError::Said(host.clone(), error);
    for _ in 0..MAX_PAGES {
        let at = address(collection, after.as_deref(), next.as_deref())?;
        let (page, last) = page(&client, &at, proof.clone(), &host).await?;
        match mirror.take(&page, last.as_deref(), &Limits::default()).map_err(said)? {
            Next::Page(page) => next = Some(page),
            Next::Nothing => {
                write(path, &mirror.write())?;
                return Ok(mirror.len());
            }
        }
    }
    Err(FetchError::TooMany(host))
}

/// What was fetched before; a mirror that cannot be read is fetched anew.
fn known(path: &Path) -> Mirror {
    let read = fs::read(path).map_err(|error| error.to_string());
    match read.and_then(|bytes| Mirror::read(&bytes).map_err(|error| error.to_string())) {
        Ok(mirror) => mirror,
        Err(because) => {
            tracing::info!(path = %path.display(), because, "a collection is fetched from its beginning");
            Mirror::default()
        }
    }
}

/// What proves who we are; read anew for each fetch, so that it can be exchanged.
fn proof(collection: &Collection) -> Result<Option<HeaderValue>, FetchError> {
    let text = match (&collection.token, &collection.user) {
        (Some(token), _) => format!("Bearer {}", String::from_utf8_lossy(&secret(token)?).trim()),
        (None, Some(user)) => {
            let password = match &collection.password {
                Some(path) => String::from_utf8_lossy(&secret(path)?).trim().to_owned(),
                None => String::new(),
            };
            format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
        }
        (None, None) => return Ok(None),
    };
    let path = collection.token.clone().or_else(|| collection.password.clone()).unwrap_or_default();
    let mut value = HeaderValue::from_str(&text).map_err(|_| FetchError::File {
        path,
        source: io::Error::new(io::ErrorKind::InvalidData, "it is no value of a header"),
    })?;
    value.set_sensitive(true);
    Ok(Some(value))
}

fn secret(path: &Path) -> Result<Vec<u8>, FetchError> {
    use std::io::Read as _;
    let read = || {
        let mut bytes = Vec::new();
        fs::File::open(path)?.take(MAX_SECRET).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read().map_err(|source| FetchError::File { path: path.to_owned(), source })
}

fn address(collection: &Collection, after: Option<&str>, next: Option<&str>) -> Result<Uri, FetchError> {
    let mut text =
        format!("{}/objects/?limit={PAGE}&match[type]=indicator", collection.url.trim_end_matches('/'));
    for (name, value) in [("added_after", after), ("next", next)] {
        if let Some(value) = value {
            text.push_str(&format!("&{name}={}", escaped(value)));
        }
    }
    let text = text.replace('[', "%5B").replace(']', "%5D");
    text.parse::<Uri>()
        .ok()
        .filter(|uri| uri.scheme_str() == Some("https") && uri.authority().is_some())
        .ok_or_else(|| FetchError::Address(collection.url.clone()))
}

/// Only what RFC 3986 calls unreserved stays.
fn escaped(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
    text.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

async fn page(
    client: &Asking,
    at: &Uri,
    proof: Option<HeaderValue>,
    host: &str,
) -> Result<(Bytes, Option<String>), FetchError> {
    let unreachable = |because: String| FetchError::Unreachable(host.to_owned(), crds::cut(&because, 300));
    let mut request = Request::get(at.clone())
        .header(header::USER_AGENT, concat!("hemostat/", env!("CARGO_PKG_VERSION")))
        .header(header::ACCEPT, MEDIA_TYPE);
    if let Some(proof) = proof {
        request = request.header(header::AUTHORIZATION, proof);
    }
    let request = request.body(Empty::new()).map_err(|error| unreachable(error.to_string()))?;
    let response = match timeout(ANSWER, client.request(request)).await {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => return Err(unreachable(format!("{error:?}"))),
        Err(_) => return Err(FetchError::Late(host.to_owned())),
    };
    match response.status() {
        StatusCode::OK => {}
        refused @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
            return Err(FetchError::Refused(host.to_owned(), refused));
        }
        other => return Err(FetchError::Odd(host.to_owned(), other)),
    }
    let text =
        |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let kind = text("content-type").unwrap_or_default();
    if !kind.to_ascii_lowercase().starts_with("application/taxii+json") {
        return Err(FetchError::Other(host.to_owned(), crds::cut(&kind, 100)));
    }
    let last = text("x-taxii-date-added-last");
    match timeout(BODY, Limited::new(response.into_body(), MAX_PAGE).collect()).await {
        Ok(Ok(body)) => Ok((body.to_bytes(), last)),
        Ok(Err(error)) if error.downcast_ref::<LengthLimitError>().is_some() => {
            Err(FetchError::TooLong(host.to_owned()))
        }
        Ok(Err(error)) => Err(unreachable(format!("the answer broke off: {error}"))),
        Err(_) => Err(FetchError::Late(host.to_owned())),
    }
}

/// Exchanged in one step, so that it is never seen half written.
fn write(path: &Path, bytes: &[u8]) -> Result<(), FetchError> {
    use std::os::unix::fs::DirBuilderExt as _;
    let failed = |source| FetchError::File { path: path.to_owned(), source };
    if let Some(folder) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
    }
    let fresh = path.with_extension("new");
    fs::write(&fresh, bytes).map_err(failed)?;
    fs::rename(&fresh, path).map_err(failed)
}

#[cfg(test)]
mod tests;
