//! Against a played server on loopback.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
};

use http_body_util::Full;
use hyper::{Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{ServerConfig, crypto::ring};
use rustls_pki_types::PrivateKeyDer;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;

/// What the server was asked, and what it answers.
#[derive(Default)]
struct Script {
    asked: Vec<(String, Option<String>)>,
    /// Status, content type, added last, body.
    answers: Vec<(u16, &'static str, Option<&'static str>, String)>,
}

struct Played {
    script: Arc<Mutex<Script>>,
    port: u16,
    folder: tempfile::TempDir,
    serving: tokio::task::JoinHandle<()>,
}

impl Drop for Played {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Played {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut authority = CertificateParams::new(Vec::new()).unwrap();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let (key, own) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let ca = authority.self_signed(&key).unwrap();
        fs::write(folder.path().join("ca.pem"), ca.pem()).unwrap();
        let issuer = Issuer::new(authority, key);
        let leaf =
            CertificateParams::new(vec!["localhost".into()]).unwrap().signed_by(&own, &issuer).unwrap();
        let secret = PrivateKeyDer::try_from(own.serialize_der()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], secret)
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let script = Arc::new(Mutex::new(Script::default()));
        let (acceptor, told) = (TlsAcceptor::from(Arc::new(config)), Arc::clone(&script));
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(stream) = acceptor.accept(stream).await else { continue };
                let told = Arc::clone(&told);
                let answer = move |request: Request<Incoming>| {
                    let told = Arc::clone(&told);
                    async move { Ok::<_, Infallible>(answer(&told, &request)) }
                };
                drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer)).await);
            }
        });
        Self { script, port, folder, serving }
    }

    fn collection(&self) -> Collection {
        Collection {
            url: format!("https://localhost:{}/api1/collections/91a7b528/", self.port),
            user: None,
            password: None,
            token: None,
            ca: Some(self.folder.path().join("ca.pem")),
            every: EVERY,
        }
    }

    fn answers(&self, answers: Vec<(u16, &'static str, Option<&'static str>, String)>) {
        self.script.lock().unwrap().answers = answers;
    }

    fn asked(&self) -> Vec<(String, Option<String>)> {
        std::mem::take(&mut self.script.lock().unwrap().asked)
    }

    fn mirror(&self) -> PathBuf {
        self.folder.path().join("feeds/mirror.json")
    }
}

fn answer(script: &Mutex<Script>, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let mut script = script.lock().unwrap();
    let proof = request.headers().get("authorization").map(|value| value.to_str().unwrap().to_owned());
    script.asked.push((request.uri().to_string(), proof));
    let (status, kind, last, body) = if script.answers.is_empty() {
        (404, "text/plain", None, String::new())
    } else {
        script.answers.remove(0)
    };
    let mut response = Response::builder().status(status).header("content-type", kind);
    if let Some(last) = last {
        response = response.header("x-taxii-date-added-last", last);
    }
    response.body(Full::new(Bytes::from(body))).unwrap()
}

fn page(ids: std::ops::Range<u32>, tail: &str) -> String {
    let one = |id: u32| {
        format!(
            "{{\"type\":\"indicator\",\"id\":\"indicator--{id}\",\"modified\":\"2026-11-01T00:00:00Z\",\"valid_from\":\"2026-11-01T00:00:00Z\",\"pattern_type\":\"stix\",\"pattern\":\"[ipv4-addr:value = '198.51.100.{id}']\"}}"
        )
    };
    format!("{{\"objects\":[{}]{tail}}}", ids.map(one).collect::<Vec<_>>().join(","))
}

#[tokio::test]
async fn a_collection_is_fetched_page_by_page_and_then_only_what_is_new() {
    let played = Played::new().await;
    let mut collection = played.collection();
    fs::write(played.folder.path().join("password"), "s3cret\n").unwrap();
    (collection.user, collection.password) =
        (Some("ada".into()), Some(played.folder.path().join("password")));
    played.answers(vec![
        (200, MEDIA_TYPE, Some("2026-11-02T00:00:00.000Z"), page(1..3, ",\"more\":true,\"next\":\"a b&c\"")),
        (200, MEDIA_TYPE, Some("2026-11-03T00:00:00.000Z"), page(3..5, ",\"more\":false")),
    ]);
    assert_eq!(fetch(&collection, &played.mirror()).await.unwrap(), 4);
    let asked = played.asked();
    let root = "/api1/collections/91a7b528/objects/?limit=5000&match%5Btype%5D=indicator";
    assert_eq!(asked[0], (root.to_owned(), Some("Basic YWRhOnMzY3JldA==".into())));
    assert_eq!(asked[1].0, format!("{root}&next=a%20b%26c"));
    // As every feed's file it can be read.
    let bytes = fs::read(played.mirror()).unwrap();
    let spec = enrich::FeedSpec::new("taxii", enrich::Format::Stix);
    let now = model::Timestamp(1_793_836_800_000_000_000);
    assert_eq!(enrich::read::read(&bytes, spec, &Limits::default(), now, now).unwrap().len(), 4);
    played.answers(vec![(200, MEDIA_TYPE, Some("2026-11-04T00:00:00.000Z"), page(5..6, ""))]);
    assert_eq!(fetch(&collection, &played.mirror()).await.unwrap(), 5);
    assert_eq!(played.asked()[0].0, format!("{root}&added_after=2026-11-03T00%3A00%3A00.000Z"));
}

#[tokio::test]
async fn what_goes_wrong_is_said_and_what_was_fetched_stays() {
    let played = Played::new().await;
    let collection = Collection { token: Some(played.folder.path().join("token")), ..played.collection() };
    let error = fetch(&collection, &played.mirror()).await.unwrap_err().to_string();
    assert!(error.contains("cannot read"), "{error}");
    fs::write(played.folder.path().join("token"), "t0ken").unwrap();
    played.answers(vec![(200, MEDIA_TYPE, None, page(1..4, ""))]);
    assert_eq!(fetch(&collection, &played.mirror()).await.unwrap(), 3);
    assert_eq!(played.asked()[0].1.as_deref(), Some("Bearer t0ken"));
    let before = fs::read(played.mirror()).unwrap();
    for (answer, said) in [
        ((401, "text/plain", None, String::new()), "does not let us"),
        ((302, "text/plain", None, String::new()), "redirects are not followed"),
        ((200, "text/html", None, "<html>".to_owned()), "and not TAXII 2.1"),
        ((200, MEDIA_TYPE, None, "{\"objects\":[".to_owned()), "no TAXII envelope"),
        ((200, MEDIA_TYPE, None, page(5..6, ",\"more\":true")), "does not say how"),
    ] {
        played.answers(vec![answer]);
        let error = fetch(&collection, &played.mirror()).await.unwrap_err().to_string();
        assert!(error.contains(said) && !error.contains("t0ken"), "{said}: {error}");
        assert_eq!(fs::read(played.mirror()).unwrap(), before, "{said}");
    }
    let stranger = Collection { ca: None, ..collection.clone() };
    assert!(matches!(
        fetch(&stranger, &played.mirror()).await,
        Err(FetchError::Unreachable(..) | FetchError::Authorities(_))
    ));
    let plain = Collection { url: "http://localhost/x".into(), ..collection };
    assert!(matches!(fetch(&plain, &played.mirror()).await, Err(FetchError::Address(_))));
}
