//! Who speaks: the server's own identity, and what a client shows of his.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    path::Path,
    sync::Arc,
    time::SystemTime,
};

use hmac::{Hmac, Mac as _};
use hyper::header::{AUTHORIZATION, HeaderMap};
use rustls::{RootCertStore, ServerConfig, crypto::ring, server::WebPkiClientVerifier};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use sha2::{Digest as _, Sha256};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use super::super::super::spec::HttpsDoor;

/// Bytes of a secret.
const MAX_SECRET: u64 = 4096;

/// What the files said when they were last read.
#[derive(Default)]
pub(super) struct Tls {
    read: Option<(Vec<(SystemTime, u64)>, TlsAcceptor)>,
}

impl Tls {
    /// With what stands in the files now; they are read again when they have changed.
    pub(super) fn acceptor(&mut self, door: &HttpsDoor) -> Result<TlsAcceptor, String> {
        let files = [Some(&door.cert), Some(&door.key), door.client_ca.as_ref()];
        let states = files.into_iter().flatten().map(|path| state(path)).collect::<Result<Vec<_>, _>>()?;
        if let Some((known, acceptor)) = &self.read
            && *known == states
        {
            return Ok(acceptor.clone());
        }
        let acceptor = read(door)?;
        self.read = Some((states, acceptor.clone()));
        Ok(acceptor)
    }
}

fn state(path: &Path) -> Result<(SystemTime, u64), String> {
    let metadata = fs::metadata(path).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok((metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH), metadata.len()))
}

fn read(door: &HttpsDoor) -> Result<TlsAcceptor, String> {
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = match &door.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for one in certificates(path)? {
                roots.add(one).map_err(|error| format!("{}: {error}", path.display()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder
                .with_client_cert_verifier(verifier.map_err(|error| format!("{}: {error}", path.display()))?)
        }
    };
    let key = PrivateKeyDer::from_pem_file(&door.key)
        .map_err(|error| format!("{}: {error}", door.key.display()))?;
    let mut config = builder
        .with_single_cert(certificates(&door.cert)?, key)
        .map_err(|error| format!("{} and {}: {error}", door.cert.display(), door.key.display()))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let wrong = |error: rustls_pki_types::pem::Error| format!("{}: {error}", path.display());
    let all: Vec<_> =
        CertificateDer::pem_file_iter(path).map_err(wrong)?.collect::<Result<_, _>>().map_err(wrong)?;
    if all.is_empty() { Err(format!("{} holds no certificate", path.display())) } else { Ok(all) }
}

/// What a client showed when it connected. That its certificate is of our authority is known by then.
#[derive(Debug)]
pub(super) struct Speaker {
    /// Names in its certificate.
    names: Vec<String>,
}

impl Speaker {
    pub(super) fn of(tls: &TlsStream<TcpStream>) -> Self {
        let certificate = tls.get_ref().1.peer_certificates().and_then(<[_]>::first);
        Self { names: certificate.map(|one| names(one)).unwrap_or_default() }
    }

    /// Whether it may, by its certificate and its token; or why not.
    pub(super) fn may_speak(&self, door: &HttpsDoor, headers: &HeaderMap) -> Result<(), String> {
        if !door.clients.is_empty() && !self.names.iter().any(|name| door.clients.contains(name)) {
            return Err(format!("its certificate is of {:?}, who is not let in", self.names));
        }
        let Some(path) = &door.token else { return Ok(()) };
        let token = secret(path)?;
        let shown = headers.get(AUTHORIZATION).map(hyper::header::HeaderValue::as_bytes).unwrap_or_default();
        let shown = match shown.split_at_checked(7) {
            Some((scheme, shown)) if scheme.eq_ignore_ascii_case(b"bearer ") => shown,
            _ => return Err("it shows no bearer token".into()),
        };
        // Digests of both: how long the comparison takes says nothing of the token.
        if Sha256::digest(shown) == Sha256::digest(&token) {
            Ok(())
        } else {
            Err("it shows another token".into())
        }
    }
}

/// Whether a body has the signature that its header says, where one is asked for; or why not.
pub(super) fn is_signed(door: &HttpsDoor, headers: &HeaderMap, body: &[u8]) -> Result<(), String> {
    let Some(path) = &door.hmac else { return Ok(()) };
    let key = secret(path)?;
    let shown = headers.get(door.hmac_header.as_str()).and_then(|value| value.to_str().ok());
    let shown = shown.ok_or_else(|| format!("there is no {}", door.hmac_header))?;
    let hex = shown.strip_prefix("sha256=").unwrap_or(shown);
    let signature = hex::decode(hex).map_err(|_| format!("{} is not hexadecimal", door.hmac_header))?;
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).map_err(|error| error.to_string())?;
    mac.update(body);
    mac.verify_slice(&signature).map_err(|_| "its signature is of another secret or of another body".into())
}

/// A secret's file without the white space around it; read each time, so that a new one holds at once.
fn secret(path: &Path) -> Result<Vec<u8>, String> {
    let read = || -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(path)?.take(MAX_SECRET + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > MAX_SECRET {
            return Err(io::Error::other(format!("longer than {MAX_SECRET} bytes")));
        }
        Ok(bytes)
    };
    let bytes = read().map_err(|error| format!("the secret {} cannot be read: {error}", path.display()))?;
    let secret = bytes.trim_ascii().to_vec();
    // An empty one would let everybody in.
    if secret.is_empty() { Err(format!("the secret {} is empty", path.display())) } else { Ok(secret) }
}

/// Common names and DNS names.
fn names(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok((_, read)) = X509Certificate::from_der(certificate) else { return Vec::new() };
    let common = read.subject().iter_common_name().filter_map(|name| name.as_str().ok()).map(str::to_owned);
    let mut all: Vec<String> = common.collect();
    if let Ok(Some(other)) = read.subject_alternative_name() {
        all.extend(other.value.general_names.iter().filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            _ => None,
        }));
    }
    all
}
