//! Who may speak for whom: a small certificate authority, and certificates that name a node or the controller.
//!
//! A node's certificate carries the URI `hemostat://node/<name>` and may only be used by a TLS client; the controller's
//! carries the DNS name [`CONTROLLER_NAME`] and may only be used by a TLS server. So a stolen node certificate speaks for that
//! node and nobody else, and never as the controller. The controller's address is not in its certificate: it may move.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use model::{NodeId, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// The DNS name in the controller's certificate.
pub const CONTROLLER_NAME: &str = "controller.hemostat.internal";

const NODE_URI: &str = "hemostat://node/";

/// Certificates begin this much before they are issued, so that a slow clock on the other side does not refuse them.
const CLOCK_SLACK: Duration = Duration::from_secs(300);

/// Who a certificate is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// One node's agent.
    Node(NodeId),
    /// The controller.
    Controller,
}

/// PEM texts of a certificate (with its chain) and its private key.
#[derive(Clone)]
pub struct IssuedPem {
    /// Certificate, leaf first.
    pub certificate: String,
    /// PKCS #8 private key: a secret.
    pub key: String,
}

impl fmt::Debug for IssuedPem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IssuedPem").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

/// Why a certificate, key or authority is not usable.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file could not be read or written.
    #[error("cannot {operation} {path}: {source}")]
    File {
        /// `read` or `write`.
        operation: &'static str,
        /// Which.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
    /// Not PEM, or not the kind of PEM that was expected.
    #[error("{what} is not usable PEM: {because}")]
    Pem {
        /// Which text.
        what: String,
        /// Why.
        because: String,
    },
    /// The certificate could not be made.
    #[error("cannot make a certificate for {subject}: {because}")]
    Make {
        /// For whom.
        subject: String,
        /// Why.
        because: String,
    },
    /// A certificate and a key that do not belong together, or a kind of key that is not supported.
    #[error("certificate and key cannot be used: {because}")]
    Unusable {
        /// Why.
        because: String,
    },
    /// A certificate that names neither a node nor the controller.
    #[error(
        "{certificate} names neither a node (URI {NODE_URI}<name>) nor the controller (DNS {CONTROLLER_NAME})"
    )]
    Nameless {
        /// Which.
        certificate: String,
    },
    /// A certificate that another end would not take.
    #[error("our {certificate} is of no use: {because}")]
    Unfit {
        /// Which.
        certificate: String,
        /// Why, and what to do.
        because: String,
    },
    /// A certificate outside its time.
    #[error("our {certificate} {problem}: issue a new one")]
    OutsideItsTime {
        /// Which.
        certificate: String,
        /// `has expired` or `is not valid yet`.
        problem: &'static str,
    },
}

/// Issues certificates.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

impl Authority {
    /// Makes a new one, valid from `now` for `valid_for`. Its PEM texts are [`Authority::certificate`] and
    /// [`Authority::key`].
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub fn create(name: &str, now: Timestamp, valid_for: Duration) -> Result<Self, IdentityError> {
        let failed =
            |source: rcgen::Error| IdentityError::Make { subject: name.into(), because: source.to_string() };
        let key = KeyPair::generate().map_err(failed)?;
        let mut params = params(name, now, valid_for);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).map_err(failed)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), certificate })
    }

    /// From the texts of an earlier [`Authority::create`].
    ///
    /// # Errors
    /// When a text is not PEM or the two are not of a kind that can sign.
    pub fn load(certificate: &str, key: &str) -> Result<Self, IdentityError> {
        let pem = |what: &str, source: rcgen::Error| IdentityError::Pem {
            what: what.into(),
            because: source.to_string(),
        };
        let key = KeyPair::from_pem(key).map_err(|source| pem("the authority's key", source))?;
        let issuer = Issuer::from_ca_cert_pem(certificate, key)
            .map_err(|source| pem("the authority's certificate", source))?;
        Ok(Self { issuer, certificate: certificate.to_owned() })
    }

    /// Its certificate as PEM: what both sides trust.
    #[must_use]
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Its private key as PEM: a secret.
    #[must_use]
    pub fn key(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// A certificate for `subject`, valid from `now` for `valid_for`.
    ///
    /// # Errors
    /// When the node's name cannot be one, or the system gives no randomness.
    pub fn issue(
        &self,
        subject: &Subject,
        now: Timestamp,
        valid_for: Duration,
    ) -> Result<IssuedPem, IdentityError> {
        let params = leaf(subject, now, valid_for)?;
        let failed =
            |e: rcgen::Error| IdentityError::Make { subject: name_of(subject), because: e.to_string() };
        let key = KeyPair::generate().map_err(failed)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(failed)?;
        Ok(IssuedPem { certificate: certificate.pem(), key: key.serialize_pem() })
    }

    /// A certificate for `subject` over the key that asks for it in `request` (PKCS #10 as PEM, whose signature is checked). Nothing
    /// else of the request counts: who it is for is the caller's word.
    ///
    /// # Errors
    /// When the request cannot be read, its signature is wrong, or the node's name cannot be one.
    pub fn sign(
        &self,
        subject: &Subject,
        request: &str,
        now: Timestamp,
        valid_for: Duration,
    ) -> Result<String, IdentityError> {
        let failed =
            |e: rcgen::Error| IdentityError::Make { subject: name_of(subject), because: e.to_string() };
        let mut asked = CertificateSigningRequestParams::from_pem(request).map_err(failed)?;
        asked.params = leaf(subject, now, valid_for)?;
        Ok(asked.signed_by(&self.issuer).map_err(failed)?.pem())
    }
}

/// What stands in a certificate for `subject`.
fn leaf(subject: &Subject, now: Timestamp, valid_for: Duration) -> Result<CertificateParams, IdentityError> {
    let name = name_of(subject);
    let failed = |because: String| IdentityError::Make { subject: name.clone(), because };
    let mut params = params(&name, now, valid_for);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    match subject {
        Subject::Node(node) => {
            if !is_node_name(node.as_str()) {
                return Err(failed("not a node name (1 to 253 of a-z, A-Z, 0-9, '-', '_' and '.')".into()));
            }
            let uri = format!("{NODE_URI}{node}");
            let uri = uri.try_into().map_err(|e: rcgen::Error| failed(e.to_string()))?;
            params.subject_alt_names = vec![SanType::URI(uri)];
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        }
        Subject::Controller => {
            let dns = CONTROLLER_NAME.try_into().map_err(|e: rcgen::Error| failed(e.to_string()))?;
            params.subject_alt_names = vec![SanType::DnsName(dns)];
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        }
    }
    Ok(params)
}

fn name_of(subject: &Subject) -> String {
    match subject {
        Subject::Node(node) => node.to_string(),
        Subject::Controller => "controller".into(),
    }
}

/// Where one end finds its certificate, its key and the authority that it trusts. Files are read again at every connection,
/// so that a rotated certificate is used without a restart.
#[derive(Debug, Clone)]
pub enum Credentials {
    /// PEM files.
    Files {
        /// Certificate, leaf first.
        certificate: PathBuf,
        /// Private key.
        key: PathBuf,
        /// Certificates of the authorities that are trusted.
        authority: PathBuf,
    },
    /// PEM texts.
    Memory {
        /// Certificate and key.
        own: IssuedPem,
        /// Certificates of the authorities that are trusted.
        authority: String,
    },
    /// PEM texts that are replaced while they are used.
    Live(LiveCredentials),
}

/// PEM texts that are replaced while they are used: what is put in holds from the next connection on.
#[derive(Debug, Clone)]
pub struct LiveCredentials(Arc<RwLock<(IssuedPem, String)>>);

impl LiveCredentials {
    /// Certificate and key, and the certificates of the authorities that are trusted.
    #[must_use]
    pub fn new(own: IssuedPem, authority: String) -> Self {
        Self(Arc::new(RwLock::new((own, authority))))
    }

    /// Others in their place.
    pub fn replace(&self, own: IssuedPem, authority: String) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = (own, authority);
    }
}

impl Credentials {
    /// Reads and parses them.
    ///
    /// # Errors
    /// Names the file or text that is not usable, and why.
    pub fn load(&self) -> Result<Identity, IdentityError> {
        match self {
            Self::Files { certificate, key, authority } => Identity::parse(
                (&certificate.display().to_string(), &read(certificate)?),
                (&key.display().to_string(), &read(key)?),
                (&authority.display().to_string(), &read(authority)?),
            ),
            Self::Memory { own, authority } => Identity::of(own, authority),
            Self::Live(live) => {
                let now = live.0.read().unwrap_or_else(PoisonError::into_inner);
                Identity::of(&now.0, &now.1)
            }
        }
    }
}

/// Parsed credentials.
pub struct Identity {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
    pub(crate) trusted: Vec<CertificateDer<'static>>,
    /// Who we are.
    pub subject: Subject,
    /// Not valid before and after.
    pub valid: (Timestamp, Timestamp),
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("subject", &self.subject)
            .field("valid", &self.valid)
            .finish_non_exhaustive()
    }
}

impl Identity {
    /// Our certificate in words: whose, until when, issued by whom.
    #[must_use]
    pub fn describe(&self) -> String {
        self.chain.first().map_or_else(|| "no certificate".into(), |leaf| describe(leaf))
    }

    /// Whether `now` lies within its time.
    ///
    /// # Errors
    /// Says which certificate and until when.
    pub fn check_time(&self, now: Timestamp) -> Result<(), IdentityError> {
        let problem = if now > self.valid.1 {
            "has expired"
        } else if now < self.valid.0 {
            "is not valid yet"
        } else {
            return Ok(());
        };
        Err(IdentityError::OutsideItsTime { certificate: self.describe(), problem })
    }

    /// Whether another end that trusts the same authority would take it: its time, its key, who issued it and for what.
    ///
    /// # Errors
    /// Says which certificate, what is wrong, and what to do.
    pub fn check(&self, now: Timestamp) -> Result<(), IdentityError> {
        self.check_time(now)?;
        crate::tls::check(self, now)
    }

    pub(crate) fn of(own: &IssuedPem, authority: &str) -> Result<Self, IdentityError> {
        Self::parse(
            ("the certificate", &own.certificate),
            ("the key", &own.key),
            ("the authority's certificate", authority),
        )
    }

    fn parse(
        certificate: (&str, &str),
        key: (&str, &str),
        authority: (&str, &str),
    ) -> Result<Self, IdentityError> {
        let chain = certificates(certificate)?;
        let trusted = certificates(authority)?;
        let key = PrivateKeyDer::from_pem_slice(key.1.as_bytes())
            .map_err(|source| IdentityError::Pem { what: key.0.into(), because: source.to_string() })?;
        let leaf = chain.first().ok_or_else(|| IdentityError::Pem {
            what: certificate.0.into(),
            because: "no certificate in it".into(),
        })?;
        let subject = subject(leaf).ok_or_else(|| IdentityError::Nameless { certificate: describe(leaf) })?;
        let valid = validity(leaf)
            .ok_or_else(|| IdentityError::Pem { what: certificate.0.into(), because: "not X.509".into() })?;
        Ok(Self { chain, key, trusted, subject, valid })
    }
}

/// Writes a secret text so that only its owner can read it.
///
/// # Errors
/// Names the file.
pub fn write_secret(path: &Path, text: &str) -> Result<(), IdentityError> {
    use std::{io::Write, os::unix::fs::OpenOptionsExt};
    let failed = |source| IdentityError::File { operation: "write", path: path.into(), source };
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .map_err(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)
}

/// Who a certificate says it is for. It says nothing about whether to believe it.
pub(crate) fn subject(certificate: &CertificateDer<'_>) -> Option<Subject> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let names = &parsed.subject_alternative_name().ok()??.value.general_names;
    // Exactly one name: a certificate for two nodes would be a key to both.
    match names.as_slice() {
        [GeneralName::URI(uri)] => {
            let name = uri.strip_prefix(NODE_URI)?;
            is_node_name(name).then(|| Subject::Node(NodeId::new(name)))
        }
        [GeneralName::DNSName(name)] if *name == CONTROLLER_NAME => Some(Subject::Controller),
        _ => None,
    }
}

/// A certificate in words, for errors: whose, until when, issued by whom.
pub(crate) fn describe(certificate: &CertificateDer<'_>) -> String {
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else {
        return "a certificate that is not X.509".into();
    };
    let whose = match subject(certificate) {
        Some(Subject::Node(node)) => format!("node {node}"),
        Some(Subject::Controller) => "the controller".into(),
        None => format!("{:?}", shorten(&parsed.subject().to_string())),
    };
    let (from, until) = validity(certificate).unwrap_or_default();
    format!(
        "certificate of {whose} (valid {from} to {until}, issued by {:?})",
        shorten(&parsed.issuer().to_string())
    )
}

pub(crate) fn validity(certificate: &CertificateDer<'_>) -> Option<(Timestamp, Timestamp)> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let at = |seconds: i64| Timestamp(seconds.saturating_mul(1_000_000_000));
    let validity = parsed.validity();
    Some((at(validity.not_before.timestamp()), at(validity.not_after.timestamp())))
}

/// What a node may be called: what Kubernetes and host names allow, and nothing that a URI would have to escape.
pub(crate) fn is_node_name(name: &str) -> bool {
    (1..=253).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

fn params(name: &str, now: Timestamp, valid_for: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    params.distinguished_name = subject;
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let from = now.since(Timestamp(0));
    params.not_before = epoch + from.saturating_sub(CLOCK_SLACK);
    params.not_after = epoch + from + valid_for;
    params
}

pub(crate) fn certificates(
    (what, text): (&str, &str),
) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let parsed = CertificateDer::pem_slice_iter(text.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|source| IdentityError::Pem { what: what.into(), because: source.to_string() })?;
    if parsed.is_empty() {
        return Err(IdentityError::Pem { what: what.into(), because: "no certificate in it".into() });
    }
    Ok(parsed)
}

fn read(path: &Path) -> Result<String, IdentityError> {
    fs::read_to_string(path).map_err(|source| IdentityError::File {
        operation: "read",
        path: path.into(),
        source,
    })
}

fn shorten(text: &str) -> String {
    text.chars().take(128).collect()
}
