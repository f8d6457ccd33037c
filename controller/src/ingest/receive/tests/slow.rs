//! Clients that are slow from many addresses: an API server's webhook gets in all the same.

use tokio::net::{TcpSocket, TcpStream};

use super::*;

/// All of 127.0.0.0/8 is this machine's: to a listener each of them is another address.
async fn connect(from: [u8; 4], port: u16) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from((from, 0))).unwrap();
    socket.connect(SocketAddr::from(([127, 0, 0, 1], port))).await.unwrap()
}

/// Says `text` over TLS and then nothing more.
async fn begin(folder: &Path, tcp: TcpStream, text: &str) -> tokio_rustls::client::TlsStream<TcpStream> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(folder.join("ca.pem")).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let mut tls = connector.connect(ServerName::try_from("localhost").unwrap(), tcp).await.unwrap();
    tls.write_all(text.as_bytes()).await.unwrap();
    tls.flush().await.unwrap();
    tls
}

/// Whether the other end has not closed it.
fn is_open(tcp: &TcpStream) -> bool {
    let mut byte = [0];
    matches!(tcp.try_read(&mut byte), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
}

fn audit_door(port: u16) -> String {
    format!(
        "kubernetes-audit=https://127.0.0.1:{port}/audit,cert={{at}}/server.pem,key={{at}}/server.key,token={{at}}/token"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn i11_slow_clients_of_many_addresses_keep_no_api_server_out() {
    let port = free_port();
    let bench = Bench::start(&audit_door(port));
    let headers = vec![("Authorization", "Bearer open sesame".to_owned())];
    let api_server = Client { folder: bench.folder.path(), port, certificate: None, headers };
    let body = |id: &str| list(&[audited(id, "ResponseComplete")]);
    assert_eq!(api_server.post("/audit", &body("first")).await, Some(200));
    let (mut silent, mut halves) = (Vec::new(), Vec::new());
    for n in 0..80_u8 {
        // Twenty each, more than one address may have.
        let tcp = connect([127, 0, 0, 2 + n % 4], port).await;
        if n % 8 == 0 {
            halves.push(begin(bench.folder.path(), tcp, "POST /audit HTTP/1.1\r\nHost: local").await);
        } else {
            silent.push(tcp);
        }
    }
    for n in 0..20 {
        assert_eq!(api_server.post("/audit", &body(&format!("a{n}"))).await, Some(200));
    }
    // From an address of the slow ones, too: what is in front of both may have made it one.
    for n in 0..20 {
        let tcp = connect([127, 0, 0, 2], port).await;
        assert_eq!(api_server.over(tcp, "/audit", &body(&format!("b{n}"))).await, Some(200));
    }
    assert_eq!(bench.bodies().len(), 41);
    let open = silent.iter().filter(|tcp| is_open(tcp)).count()
        + halves.iter().filter(|tls| is_open(tls.get_ref().0)).count();
    assert!((32..=64).contains(&open), "the slow ones are still there: {open}");
    assert!(bench.says("made room"), "{:?}", bench.post.desk.degraded(|_| true));
}

#[tokio::test(flavor = "multi_thread")]
async fn i11_bodies_that_never_come_take_nobodys_room() {
    let port = free_port();
    let bench = Bench::start(&format!(
        "security-events=https://127.0.0.1:{port},cert={{at}}/server.pem,key={{at}}/server.key,hmac={{at}}/secret"
    ));
    let body = br#"{"iss":"x"}"#;
    let mut mac = Hmac::<Sha256>::new_from_slice(b"a shared secret").unwrap();
    mac.update(body);
    let headers =
        vec![("X-Hub-Signature-256", format!("sha256={}", hex::encode(mac.finalize().into_bytes())))];
    let provider = Client { folder: bench.folder.path(), port, certificate: None, headers };
    assert_eq!(provider.post("/", body).await, Some(200));
    let mut slow = Vec::new();
    for last in 2..6 {
        let head = format!("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{{", 16 << 20);
        slow.push(begin(bench.folder.path(), connect([127, 0, 0, last], port).await, &head).await);
    }
    assert_eq!(provider.post("/", body).await, Some(200));
    // Nobody knows who they are: they end before what they announced has come.
    for mut tls in slow {
        let mut answer = Vec::new();
        let _closed = tls.read_to_end(&mut answer).await;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn i11_a_request_that_stops_in_the_middle_is_ended() {
    let port = free_port();
    let bench = Bench::start(&audit_door(port));
    let headers = vec![("Authorization", "Bearer open sesame".to_owned())];
    let api_server = Client { folder: bench.folder.path(), port, certificate: None, headers };
    assert_eq!(api_server.post("/audit", &list(&[audited("a", "Panic")])).await, Some(200));
    let head = "POST /audit HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer open sesame\r\nContent-Length: 1000\r\n\r\n{";
    let mut half = begin(bench.folder.path(), connect([127, 0, 0, 2], port).await, head).await;
    let mut silent = connect([127, 0, 0, 3], port).await;
    let mut answer = Vec::new();
    let _closed = half.read_to_end(&mut answer).await;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    let mut nothing = Vec::new();
    let _closed = silent.read_to_end(&mut nothing).await;
    assert_eq!(nothing, b"");
    bench.until(|bench| bench.says("no handshake in time"));
    assert_eq!(bench.bodies().len(), 1);
}
