//! An agent without a certificate gets one for its token, and nothing else.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::{sync::Arc, time::Duration};

use hemostat_wire::{
    enrol::{Application, Certified, Certifying, Refused, Registrar},
    identity::{Authority, Credentials, Subject},
    link::{ConnectConfig, LinkState, ListenConfig, Listener, connect, listen},
};
use model::{AgentEpoch, NodeId, Timestamp, Up};

const HOUR: Duration = Duration::from_secs(3600);

fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    Timestamp(i64::try_from(since.as_nanos()).unwrap())
}

struct Desk {
    authority: Authority,
    life: Duration,
}

impl Registrar for Desk {
    fn certify(&self, token: String, request: String) -> Certifying<'_> {
        Box::pin(async move {
            let Some(node) = token.strip_prefix("token-of-") else {
                return Err(Refused::NotYou("who are you".into()));
            };
            let subject = Subject::Node(NodeId::new(node));
            let certificate = self
                .authority
                .sign(&subject, &request, now(), self.life)
                .map_err(|error| Refused::NotYou(error.to_string()))?;
            Ok(Certified { certificate, authority: self.authority.certificate().to_owned() })
        })
    }
}

async fn listener(life: Duration) -> (Listener, String) {
    let authority = Authority::create("test", now(), HOUR).unwrap();
    let credentials = Credentials::Memory {
        own: authority.issue(&Subject::Controller, now(), HOUR).unwrap(),
        authority: authority.certificate().to_owned(),
    };
    let trusted = authority.certificate().to_owned();
    let config = ListenConfig {
        registrar: Some(Arc::new(Desk { authority, life })),
        ..ListenConfig::new("127.0.0.1:0".parse().unwrap(), credentials)
    };
    (listen(config).await.unwrap(), trusted)
}

fn application(listener: &Listener, authority: &str) -> Application {
    Application {
        address: listener.address.to_string(),
        authority: authority.to_owned(),
        step_limit: Duration::from_secs(10),
    }
}

#[tokio::test]
async fn a_token_gives_a_certificate_and_the_certificate_a_link() {
    let (mut listener, trusted) = listener(HOUR).await;
    let enrolled = application(&listener, &trusted).hand_in("token-of-n1".into()).await.unwrap();
    assert_eq!(enrolled.node, NodeId::new("n1"));
    let credentials = Credentials::Memory { own: enrolled.own, authority: enrolled.authority };
    let (link, connection) =
        connect(ConnectConfig::new(listener.address.to_string(), NodeId::new("n1"), credentials));
    link.up.send(Up::Hello { node: NodeId::new("n1"), epoch: AgentEpoch(1) }).await.unwrap();
    assert_eq!(listener.accept().await.unwrap().node, NodeId::new("n1"));
    connection.close().await;
    listener.close().await;
}

#[tokio::test]
async fn who_has_no_token_gets_nothing_and_another_authority_is_not_asked() {
    let (listener, trusted) = listener(HOUR).await;
    let refused = application(&listener, &trusted).hand_in("nonsense".into()).await.unwrap_err().to_string();
    assert!(refused.contains("who are you"), "{refused}");
    let long = "x".repeat(100_000);
    assert!(application(&listener, &trusted).hand_in(long).await.is_err());
    // The token is shown to nobody whose certificate is from elsewhere.
    let other = Authority::create("other", now(), HOUR).unwrap();
    let refused =
        application(&listener, other.certificate()).hand_in("token-of-n1".into()).await.unwrap_err();
    assert!(refused.to_string().contains("not issued by the authority"), "{refused}");
    listener.close().await;
}

#[tokio::test]
async fn a_certificate_that_ends_takes_its_connection_with_it() {
    let (mut listener, trusted) = listener(Duration::from_secs(2)).await;
    let enrolled = application(&listener, &trusted).hand_in("token-of-n1".into()).await.unwrap();
    let credentials = Credentials::Memory { own: enrolled.own, authority: enrolled.authority };
    let (link, connection) =
        connect(ConnectConfig::new(listener.address.to_string(), NodeId::new("n1"), credentials));
    link.up.send(Up::Hello { node: NodeId::new("n1"), epoch: AgentEpoch(1) }).await.unwrap();
    let mut accepted = listener.accept().await.unwrap();
    assert!(matches!(accepted.up.recv().await, Some(Up::Hello { .. })));
    assert_eq!(accepted.up.recv().await, None, "the link ends");
    let mut state = connection.state.clone();
    let down = state
        .wait_for(|state| matches!(state, LinkState::Down { tries, .. } if *tries > 0))
        .await
        .unwrap()
        .clone();
    assert!(format!("{down:?}").contains("expired"), "{down:?}");
    connection.close().await;
    listener.close().await;
}

/// One who connects and says nothing, or shakes hands and then says nothing.
mod silent {
    use tokio::{
        io::AsyncReadExt as _,
        net::TcpStream,
        time::{Duration, timeout},
    };

    use super::*;

    async fn listener_with(strangers: (usize, usize), stranger_limit: Duration) -> (Listener, String) {
        let authority = Authority::create("test", now(), HOUR).unwrap();
        let credentials = Credentials::Memory {
            own: authority.issue(&Subject::Controller, now(), HOUR).unwrap(),
            authority: authority.certificate().to_owned(),
        };
        let trusted = authority.certificate().to_owned();
        let config = ListenConfig {
            registrar: Some(Arc::new(Desk { authority, life: HOUR })),
            strangers,
            stranger_limit,
            ..ListenConfig::new("127.0.0.1:0".parse().unwrap(), credentials)
        };
        (listen(config).await.unwrap(), trusted)
    }

    /// A TLS connection without a certificate.
    async fn stranger(listener: &Listener, trusted: &str) -> tokio_rustls::client::TlsStream<TcpStream> {
        use rustls_pki_types::{CertificateDer, pem::PemObject as _};
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(trusted.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let name = rustls_pki_types::ServerName::try_from("controller.hemostat.internal").unwrap();
        let tcp = TcpStream::connect(listener.address).await.unwrap();
        tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, tcp).await.unwrap()
    }

    #[tokio::test]
    async fn i11_a_stranger_who_asks_for_nothing_is_let_go_and_a_node_comes_in() {
        let (mut listener, trusted) = listener_with((8, 2), Duration::from_millis(300)).await;
        let mut silent = stranger(&listener, &trusted).await;
        // What it is sent at first, and then the end: not a timed assertion, only a bound against hanging for ever.
        let ended = async {
            let mut bytes = [0; 1024];
            while matches!(silent.read(&mut bytes).await, Ok(n) if n > 0) {}
        };
        timeout(Duration::from_secs(120), ended).await.expect("the connection has no end");
        let enrolled = application(&listener, &trusted).hand_in("token-of-n1".into()).await.unwrap();
        let credentials = Credentials::Memory { own: enrolled.own, authority: enrolled.authority };
        let (link, connection) =
            connect(ConnectConfig::new(listener.address.to_string(), NodeId::new("n1"), credentials));
        link.up.send(Up::Hello { node: NodeId::new("n1"), epoch: AgentEpoch(1) }).await.unwrap();
        let taken = listener.accept().await.unwrap();
        // A node's connection has no such end.
        tokio::time::sleep(Duration::from_millis(600)).await;
        assert_eq!(*connection.state.borrow(), LinkState::Up);
        assert_eq!(taken.node.as_str(), "n1");
        connection.close().await;
        listener.close().await;
    }

    #[tokio::test]
    async fn i11_one_address_has_so_many_places_and_no_more() {
        let (mut listener, trusted) = listener_with((8, 2), Duration::from_secs(60)).await;
        let held = [stranger(&listener, &trusted).await, stranger(&listener, &trusted).await];
        let refused = application(&listener, &trusted).hand_in("token-of-n1".into()).await;
        assert!(refused.is_err(), "a third has no place");
        let why = listener.refused().await.unwrap().to_string();
        assert!(why.contains("2 connections from there have shown no certificate"), "{why}");
        drop(held);
        // Their places come back when the ends are noticed.
        let mut tries = 0;
        while application(&listener, &trusted).hand_in("token-of-n1".into()).await.is_err() {
            tries += 1;
            assert!(tries < 200, "the places do not come back");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        listener.close().await;
    }
}
