//! TLS 1.3 with a certificate on both sides, and errors that say whose certificate was refused and why.
//!
//! The handshake is done here and not by tonic, because only here is the refused certificate at hand.

use std::{
    future::Future as _,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use model::{NodeId, Timestamp};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName,
    RootCertStore, ServerConfig, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::ring,
    server::{
        WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::CertifiedKey,
    version::TLS13,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep, sleep_until},
};
use tonic::transport::server::Connected;

use crate::{
    identity::{CONTROLLER_NAME, Identity, IdentityError, Subject, describe, subject, validity},
    link::LinkError,
    strangers::Place,
};

/// Whether somebody without a certificate is let in, to ask for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Strangers {
    Refused,
    MayAsk,
}

/// Accepts one connection: its certificate must be from our authority, in its time, and name a node.
pub(crate) async fn accept(
    tcp: TcpStream,
    from: SocketAddr,
    identity: &Identity,
    strangers: Strangers,
) -> Result<Stream<tokio_rustls::server::TlsStream<TcpStream>>, LinkError> {
    let provider = Arc::new(ring::default_provider());
    let trusted = Arc::new(roots(&identity.trusted)?);
    let builder = WebPkiClientVerifier::builder_with_provider(trusted, provider.clone());
    let verifier = match strangers {
        Strangers::Refused => builder,
        Strangers::MayAsk => builder.allow_unauthenticated(),
    }
    .build()
    .map_err(|source| IdentityError::Unusable { because: source.to_string() })?;
    let witness = Arc::new(Witness { inner: verifier, refused: Mutex::default() });
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .map_err(unusable)?
        .with_client_cert_verifier(witness.clone())
        .with_single_cert(identity.chain.clone(), identity.key.clone_key())
        .map_err(unusable)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    let tls = tokio_rustls::TlsAcceptor::from(Arc::new(config)).accept(tcp).await.map_err(|source| {
        failure(&source, &from.to_string(), &identity.describe(), take(&witness.refused))
    })?;
    let certificate = tls.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let peer = match certificate.map(|certificate| (subject(certificate), certificate)) {
        Some((Some(Subject::Node(node)), certificate)) => {
            let until = validity(certificate).map_or(Timestamp(0), |(_, until)| until);
            Some(Peer { node, address: from, until })
        }
        Some((_, certificate)) => {
            return Err(LinkError::RefusedPeer {
                peer: format!("{} from {from}", describe(certificate)),
                because: "it does not name exactly one node (one URI hemostat://node/NAME)".into(),
            });
        }
        None if strangers == Strangers::MayAsk => None,
        None => {
            return Err(LinkError::RefusedPeer {
                peer: from.to_string(),
                because: "it showed no certificate; an agent shows the one that its authority gave it".into(),
            });
        }
    };
    Ok(Stream { inner: tls, peer, broke: Broke::default(), stranger: None })
}

/// Connects: the other end's certificate must be from our authority, in its time, and name the controller.
pub(crate) async fn connect(
    tcp: TcpStream,
    address: &str,
    identity: &Identity,
) -> Result<Stream<tokio_rustls::client::TlsStream<TcpStream>>, LinkError> {
    shake_hands(tcp, address, &identity.trusted, Some(identity)).await
}

/// As [`connect`], without a certificate of our own.
pub(crate) async fn connect_as_stranger(
    tcp: TcpStream,
    address: &str,
    trusted: &[CertificateDer<'static>],
) -> Result<Stream<tokio_rustls::client::TlsStream<TcpStream>>, LinkError> {
    shake_hands(tcp, address, trusted, None).await
}

async fn shake_hands(
    tcp: TcpStream,
    address: &str,
    trusted: &[CertificateDer<'static>],
    own: Option<&Identity>,
) -> Result<Stream<tokio_rustls::client::TlsStream<TcpStream>>, LinkError> {
    let provider = Arc::new(ring::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots(trusted)?), provider.clone())
        .build()
        .map_err(|source| IdentityError::Unusable { because: source.to_string() })?;
    let witness = Arc::new(Witness { inner: verifier, refused: Mutex::default() });
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .map_err(unusable)?
        .dangerous()
        .with_custom_certificate_verifier(witness.clone());
    let mut config = match own {
        Some(own) => {
            builder.with_client_auth_cert(own.chain.clone(), own.key.clone_key()).map_err(unusable)?
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    let name = ServerName::try_from(CONTROLLER_NAME)
        .map_err(|source| IdentityError::Unusable { because: source.to_string() })?;
    let ours = own.map_or_else(|| "none yet".into(), Identity::describe);
    let tls = tokio_rustls::TlsConnector::from(Arc::new(config))
        .connect(name, tcp)
        .await
        .map_err(|source| failure(&source, address, &ours, take(&witness.refused)))?;
    Ok(Stream { inner: tls, peer: None, broke: Broke::default(), stranger: None })
}

/// What a broken stream says, in our words. With TLS 1.3 the other end's refusal comes after our handshake has ended, so
/// that it is found here.
pub(crate) fn explain(broke: &Broke, address: &str, identity: &Identity) -> Option<LinkError> {
    let source = take(&broke.0)?;
    match failure(&source, address, &identity.describe(), None) {
        refused @ LinkError::RefusedUs { .. } => Some(refused),
        _ => None,
    }
}

/// The node at the other end, as its certificate says.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    pub(crate) node: NodeId,
    pub(crate) address: SocketAddr,
    /// Its certificate ends then, and with it the connection.
    pub(crate) until: Timestamp,
}

/// The error that broke a stream.
#[derive(Debug, Clone, Default)]
pub(crate) struct Broke(Arc<Mutex<Option<io::Error>>>);

/// A TLS stream that knows its peer and remembers what broke it.
#[derive(Debug)]
pub(crate) struct Stream<S> {
    inner: S,
    peer: Option<Peer>,
    pub(crate) broke: Broke,
    /// Of somebody who has shown no certificate: its place, and when its time is over.
    stranger: Option<(Place, Pin<Box<Sleep>>)>,
}

impl<S> Stream<S> {
    /// Who has shown no certificate keeps its place while it is here, and has until then.
    pub(crate) fn bounded(mut self, place: Place, until: Instant) -> Self {
        if self.peer.is_none() {
            self.stranger = Some((place, Box::pin(sleep_until(until))));
        }
        self
    }

    /// Ends a stranger's connection whose time is over, also while nothing comes and nothing goes.
    fn in_time(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let Some((_, end)) = &mut self.stranger else { return Ok(()) };
        match end.as_mut().poll(cx) {
            Poll::Pending => Ok(()),
            Poll::Ready(()) => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "whoever has no certificate must have asked for one by now",
            )),
        }
    }

    fn remember<T>(&self, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if let Poll::Ready(Err(error)) = &result
            && let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>())
        {
            *lock(&self.broke.0) = Some(io::Error::new(error.kind(), tls.clone()));
        }
        result
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Stream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.in_time(cx)?;
        let result = Pin::new(&mut self.inner).poll_read(cx, buf);
        self.remember(result)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Stream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.in_time(cx)?;
        let result = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.remember(result)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.inner).poll_flush(cx);
        self.remember(result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

impl<S> Connected for Stream<S> {
    type ConnectInfo = Option<Peer>;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.peer.clone()
    }
}

/// Delegates to a verifier and remembers which certificate it refused, for what reason.
#[derive(Debug)]
struct Witness<V: ?Sized> {
    refused: Mutex<Option<(String, String)>>,
    inner: Arc<V>,
}

impl<V: ?Sized> Witness<V> {
    fn note<T>(
        &self,
        certificate: &CertificateDer<'_>,
        result: Result<T, rustls::Error>,
    ) -> Result<T, rustls::Error> {
        if let Err(error) = &result {
            *lock(&self.refused) = Some((describe(certificate), reason(error)));
        }
        result
    }
}

/// What a witness does not look at: both traits ask for the same three things.
macro_rules! left_to_inner {
    () => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            self.inner.verify_tls12_signature(message, cert, dss)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            self.inner.verify_tls13_signature(message, cert, dss)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.inner.supported_verify_schemes()
        }
    };
}

impl ClientCertVerifier for Witness<dyn ClientCertVerifier> {
    // Without these two the trait's own answer stands, by which nobody comes in without a certificate.
    fn offer_client_auth(&self) -> bool {
        self.inner.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.inner.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.note(end_entity, self.inner.verify_client_cert(end_entity, intermediates, now))
    }

    left_to_inner!();
}

impl ServerCertVerifier for Witness<WebPkiServerVerifier> {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verdict =
            self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        self.note(end_entity, verdict)
    }

    left_to_inner!();
}

/// What the other end will look at, before there is one: the key fits the certificate, and the certificate is from the authority that is
/// trusted here, in its time, and for this side of a connection.
pub(crate) fn check(identity: &Identity, now: Timestamp) -> Result<(), IdentityError> {
    let unfit = |because: String| IdentityError::Unfit { certificate: identity.describe(), because };
    let provider = Arc::new(ring::default_provider());
    CertifiedKey::from_der(identity.chain.clone(), identity.key.clone_key(), &provider).map_err(
        |source| {
            unfit(match source {
                rustls::Error::InconsistentKeys(_) => {
                    "the key is another certificate's: give the one made with it".into()
                }
                other => other.to_string(),
            })
        },
    )?;
    let Some((leaf, above)) = identity.chain.split_first() else {
        return Err(unfit("there is none".into()));
    };
    let unusable = |source: String| IdentityError::Unusable { because: source };
    let roots = Arc::new(roots(&identity.trusted)?);
    let at = UnixTime::since_unix_epoch(Duration::from_nanos(u64::try_from(now.0).unwrap_or(0)));
    let verdict = match identity.subject {
        Subject::Node(_) => WebPkiClientVerifier::builder_with_provider(roots, provider)
            .build()
            .map_err(|source| unusable(source.to_string()))?
            .verify_client_cert(leaf, above, at)
            .map(drop),
        Subject::Controller => {
            let name =
                ServerName::try_from(CONTROLLER_NAME).map_err(|source| unusable(source.to_string()))?;
            WebPkiServerVerifier::builder_with_provider(roots, provider)
                .build()
                .map_err(|source| unusable(source.to_string()))?
                .verify_server_cert(leaf, above, &name, &[], at)
                .map(drop)
        }
    };
    verdict.map_err(|source| unfit(reason(&source)))
}

fn roots(trusted: &[CertificateDer<'static>]) -> Result<RootCertStore, IdentityError> {
    let mut roots = RootCertStore::empty();
    for certificate in trusted {
        roots
            .add(certificate.clone())
            .map_err(|source| IdentityError::Unusable { because: source.to_string() })?;
    }
    Ok(roots)
}

fn failure(source: &io::Error, address: &str, ours: &str, refused: Option<(String, String)>) -> LinkError {
    if let Some((certificate, because)) = refused {
        return LinkError::RefusedPeer { peer: format!("{certificate} from {address}"), because };
    }
    let tls = source.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match tls {
        Some(rustls::Error::AlertReceived(alert)) if is_refusal(*alert) => LinkError::RefusedUs {
            ours: ours.to_owned(),
            because: match alert {
                AlertDescription::CertificateExpired => "it is outside its time".into(),
                AlertDescription::UnknownCA => "its issuer is not trusted there".into(),
                AlertDescription::CertificateRequired => "none was shown".into(),
                other => format!("{other:?}"),
            },
        },
        Some(error) => LinkError::Tls { address: address.into(), because: error.to_string() },
        None => LinkError::Tls { address: address.into(), because: source.to_string() },
    }
}

fn is_refusal(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
            | AlertDescription::DecryptError
            | AlertDescription::CertificateRequired
    )
}

fn reason(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        ) => "it has expired: give that machine a new one; if it is new, compare the clocks of the two".into(),
        rustls::Error::InvalidCertificate(
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. },
        ) => "it is not valid yet; compare the clocks of the two machines".into(),
        rustls::Error::InvalidCertificate(
            CertificateError::UnknownIssuer | CertificateError::BadSignature,
        ) => "it was not issued by the authority that is trusted here: give both ends certificates of one authority".into(),
        rustls::Error::InvalidCertificate(
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. },
        ) => "it is not for this side of a connection: a node's is of no use to a controller, nor the other way round".into(),
        rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => format!("it does not name the controller ({CONTROLLER_NAME}): is this its address, and the certificate its own?"),
        other => other.to_string(),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "a map_err target")]
fn unusable(source: rustls::Error) -> LinkError {
    IdentityError::Unusable { because: source.to_string() }.into()
}

fn take<T>(slot: &Mutex<Option<T>>) -> Option<T> {
    lock(slot).take()
}

fn lock<T>(slot: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}
