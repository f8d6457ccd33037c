//! How an agent without a certificate gets one: it shows a token and a signing request, and the controller's [`Registrar`] decides
//! whose certificate that is. The private key never leaves the agent.

use std::{fmt, future::Future, pin::Pin, sync::Arc, time::Duration};

use hyper_util::rt::TokioIo;
use model::{NodeId, Timestamp};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use tokio::{net::TcpStream, sync::Semaphore, time::timeout};
use tonic::{Request, Response, Status, transport::Endpoint};

use crate::{
    client::{chain, now, status_text},
    identity::{Identity, IdentityError, IssuedPem, Subject, certificates},
    link::{FrameError, LinkError, PROTOCOL},
    proto::{self, enrol_client::EnrolClient, enrol_server::Enrol},
    tls,
};

/// Applications that are looked at at once; more are sent away (I11).
const MAX_AT_ONCE: usize = 16;

/// Decides who gets which certificate.
pub trait Registrar: Send + Sync {
    /// The certificate for the bearer of `token` over the key in `request` (PKCS #10 as PEM).
    fn certify(&self, token: String, request: String) -> Certifying<'_>;
}

/// An answer to come.
pub type Certifying<'a> = Pin<Box<dyn Future<Output = Result<Certified, Refused>> + Send + 'a>>;

/// What an agent gets, as PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certified {
    /// Leaf first.
    pub certificate: String,
    /// Whom it shall trust.
    pub authority: String,
}

/// Why an agent gets no certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It is not who may have one.
    #[error("{0}")]
    NotYou(String),
    /// It cannot be decided at present: ask again.
    #[error("{0}")]
    NotNow(String),
}

/// The service behind which a registrar sits.
pub(crate) struct Desk {
    registrar: Arc<dyn Registrar>,
    places: Semaphore,
}

impl Desk {
    /// Bytes of one application, at most: it comes from somebody who has shown nothing yet.
    pub(crate) const LARGEST: usize = 32 * 1024;

    pub(crate) fn new(registrar: Arc<dyn Registrar>) -> Self {
        Self { registrar, places: Semaphore::new(MAX_AT_ONCE) }
    }
}

impl fmt::Debug for Desk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Desk").finish_non_exhaustive()
    }
}

#[tonic::async_trait]
impl Enrol for Desk {
    async fn certify(
        &self,
        request: Request<proto::CertifyRequest>,
    ) -> Result<Response<proto::Certified>, Status> {
        let proto::CertifyRequest { protocol, token, request } = request.into_inner();
        if protocol != PROTOCOL {
            return Err(Status::failed_precondition(FrameError::Protocol { found: protocol }.to_string()));
        }
        let _place = self.places.try_acquire().map_err(|_| Status::unavailable("too many ask at once"))?;
        match self.registrar.certify(token, request).await {
            Ok(Certified { certificate, authority }) => {
                Ok(Response::new(proto::Certified { certificate, authority }))
            }
            Err(refused) => {
                tracing::warn!(%refused, "an agent got no certificate");
                Err(match refused {
                    Refused::NotYou(why) => Status::permission_denied(why),
                    Refused::NotNow(why) => Status::unavailable(why),
                })
            }
        }
    }
}

/// Asks a controller for a certificate.
#[derive(Clone)]
pub struct Application {
    /// `host:port` of the controller.
    pub address: String,
    /// Certificates of the authorities that the controller's must be from, as PEM.
    pub authority: String,
    /// Longest time for each step.
    pub step_limit: Duration,
}

/// What came of an application.
#[derive(Debug, Clone)]
pub struct Enrolled {
    /// Certificate and key.
    pub own: IssuedPem,
    /// Whom to trust from now on.
    pub authority: String,
    /// For which node it speaks.
    pub node: NodeId,
    /// Not valid before and after.
    pub valid: (Timestamp, Timestamp),
}

impl Application {
    /// Shows `token`, and makes a key of its own for the certificate.
    ///
    /// # Errors
    /// When the controller cannot be reached, is not who it should be, refuses, or gives what is no node's certificate.
    pub async fn hand_in(&self, token: String) -> Result<Enrolled, LinkError> {
        let address = &self.address;
        let limited = |step| LinkError::TimedOut { step, address: address.clone(), limit: self.step_limit };
        let made =
            |e: rcgen::Error| IdentityError::Make { subject: "this agent".into(), because: e.to_string() };
        let trusted = certificates(("the authority's certificate", &self.authority))?;
        let key = KeyPair::generate().map_err(made)?;
        let mut params = CertificateParams::default();
        // Who it is for is the controller's to say.
        params.distinguished_name = DistinguishedName::new();
        let request = params.serialize_request(&key).and_then(|request| request.pem()).map_err(made)?;
        let tcp = timeout(self.step_limit, TcpStream::connect(address))
            .await
            .map_err(|_| limited("connecting"))?
            .map_err(|source| LinkError::Unreachable { address: address.clone(), source })?;
        let stream = timeout(self.step_limit, tls::connect_as_stranger(tcp, address, &trusted))
            .await
            .map_err(|_| limited("the TLS handshake"))??;
        let mut ready = Some(stream);
        let connector = tower::service_fn(move |_: tonic::transport::Uri| {
            let stream =
                ready.take().map(TokioIo::new).ok_or_else(|| std::io::Error::other("the connection ended"));
            std::future::ready(stream)
        });
        let ended = |because| LinkError::Ended { address: address.clone(), because };
        let asking = async {
            let channel = Endpoint::from_static("http://controller.hemostat.internal")
                .connect_with_connector(connector)
                .await
                .map_err(|error| ended(chain(&error)))?;
            EnrolClient::new(channel)
                .certify(proto::CertifyRequest { protocol: PROTOCOL, token, request })
                .await
                .map_err(|status| ended(status_text(&status)))
        };
        let answer =
            timeout(self.step_limit, asking).await.map_err(|_| limited("asking for a certificate"))??;
        let proto::Certified { certificate, authority } = answer.into_inner();
        let own = IssuedPem { certificate, key: key.serialize_pem() };
        let identity = Identity::of(&own, &authority)?;
        identity.check_time(now())?;
        match &identity.subject {
            Subject::Node(node) => Ok(Enrolled { node: node.clone(), valid: identity.valid, own, authority }),
            Subject::Controller => Err(IdentityError::Nameless { certificate: identity.describe() }.into()),
        }
    }
}
