//! Whom a request to the outside trusts: a client that speaks TLS only, to the system's authorities or to those that are named.

use std::{sync::Arc, time::Duration};

use http_body_util::Empty;
use hyper::body::Bytes;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};

/// Asks; sends nothing but a request's head.
pub(crate) type Asking = Client<HttpsConnector<HttpConnector>, Empty<Bytes>>;

/// Why authorities cannot be trusted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the authorities to trust cannot be used: {0}")]
pub(crate) struct Untrusted(String);

/// A client by HTTPS alone. `authorities` in PEM are trusted instead of the system's; a connection may take `connect` to come about.
///
/// # Errors
/// [`Untrusted`], when there is nobody to trust.
pub(crate) fn client(authorities: Option<&[u8]>, connect: Duration) -> Result<Asking, Untrusted> {
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    http.set_connect_timeout(Some(connect));
    let builder = match authorities {
        Some(pem) => HttpsConnectorBuilder::new().with_tls_config(trusting(pem)?),
        None => HttpsConnectorBuilder::new()
            .with_provider_and_native_roots(ring::default_provider())
            .map_err(|error| Untrusted(error.to_string()))?,
    };
    let connector = builder.https_only().enable_http1().wrap_connector(http);
    Ok(Client::builder(TokioExecutor::new()).pool_max_idle_per_host(1).build(connector))
}

fn trusting(pem: &[u8]) -> Result<ClientConfig, Untrusted> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| Untrusted(format!("it is no PEM: {error}")))?;
        roots.add(certificate).map_err(|error| Untrusted(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(Untrusted("there is no certificate in it".into()));
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| Untrusted(error.to_string()))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_no_authority_is_told() {
        for (pem, because) in [
            ("", "there is no certificate in it"),
            ("-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n", "it is no PEM"),
            ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", ""),
        ] {
            let refused = client(Some(pem.as_bytes()), Duration::from_secs(1)).unwrap_err();
            assert!(refused.to_string().contains(because), "{refused}");
        }
    }
}
