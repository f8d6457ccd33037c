//! The controller's client of the API server.

use hyper::{Request, Response, StatusCode};
use hyper_timeout::TimeoutConnector;
use hyper_util::{
    client::legacy::{Client as HttpClient, connect::HttpConnector},
    rt::TokioExecutor,
};
use kube::{
    Client, Config,
    client::{Body, ConfigExt as _, retry::RetryPolicy},
};
use tower::{
    BoxError, ServiceBuilder,
    retry::{Policy, RetryLayer},
};

/// As kube builds it from `config`, but what is sent leaves at once.
///
/// kube's connector leaves Nagle's algorithm on (RFC 896). The body of a request, which leaves after its head, then waits until the head is
/// acknowledged, which the other end puts off by 40 ms; and before each effect stand two writes.
pub(super) fn client(config: Config) -> Result<Client, kube::Error> {
    if config.proxy_url.is_some() {
        return Client::try_from(config);
    }
    let mut tcp = HttpConnector::new();
    // the scheme is the TLS connector's to look at
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    let mut connector = TimeoutConnector::new(config.rustls_https_connector_with_connector(tcp)?);
    connector.set_connect_timeout(config.connect_timeout);
    connector.set_read_timeout(config.read_timeout);
    connector.set_write_timeout(config.write_timeout);
    connector.set_reset_reader_on_write(config.reset_reader_on_write);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.default_retry.then(|| RetryLayer::new(AskedAgain::default())))
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(HttpClient::builder(TokioExecutor::new()).build(connector));
    Ok(Client::new(service, config.default_namespace))
}

/// kube's own policy, but that an eviction which a disruption budget forbids is answered at once: the API server says no to it by the status for
/// being busy, and to ask again until our patience ends would tell people that nobody answers.
#[derive(Clone)]
struct AskedAgain(RetryPolicy);

impl Default for AskedAgain {
    fn default() -> Self {
        Self(RetryPolicy::server_retry())
    }
}

impl<R> Policy<Request<Body>, Response<R>, BoxError> for AskedAgain {
    type Future = tokio::time::Sleep;

    fn retry(
        &mut self,
        request: &mut Request<Body>,
        result: &mut Result<Response<R>, BoxError>,
    ) -> Option<Self::Future> {
        let is_busy = matches!(result, Ok(response) if response.status() == StatusCode::TOO_MANY_REQUESTS);
        if is_busy && request.uri().path().ends_with("/eviction") {
            return None;
        }
        self.0.retry(request, result)
    }

    fn clone_request(&mut self, request: &Request<Body>) -> Option<Request<Body>> {
        Policy::<_, Response<R>, _>::clone_request(&mut self.0, request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a request to `path` that is answered so is asked again.
    fn again(path: &str, status: u16) -> bool {
        let mut request = Request::builder().uri(path).body(Body::empty()).unwrap();
        let mut result: Result<Response<()>, BoxError> =
            Ok(Response::builder().status(status).body(()).unwrap());
        AskedAgain::default().retry(&mut request, &mut result).is_some()
    }

    #[tokio::test]
    async fn what_keeps_a_service_up_is_no_reason_to_ask_for_an_eviction_again() {
        let eviction = "/api/v1/namespaces/pay/pods/api-0/eviction";
        assert!(!again(eviction, 429));
        assert!(again(eviction, 503), "it is away, and not asked whether it may");
        assert!(again("/api/v1/namespaces/pay/pods/api-0", 429));
        assert!(!again("/api/v1/namespaces/pay/pods/api-0", 404));
    }
}
