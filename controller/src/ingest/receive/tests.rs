//! Receivers with real sockets on loopback, real certificates and real files: what is in the inbox afterwards.

mod slow;

use std::{
    fs,
    io::Write as _,
    net::{SocketAddr, UdpSocket},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use hmac::{Hmac, Mac as _};
use model::Timestamp;
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _};
use sha2::Sha256;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{
    super::{Start, inbox::Envelope},
    *,
};

/// A receiver at work, its inbox, and files that it needs.
struct Bench {
    folder: tempfile::TempDir,
    post: Post,
    receiving: Option<Receiving>,
}

impl Bench {
    /// `{at}` in `spec` is the folder.
    fn start(spec: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        certificates(folder.path());
        let mut bench = Self { post: post(folder.path(), 64 << 20), folder, receiving: None };
        bench.go(spec);
        bench
    }

    fn go(&mut self, spec: &str) {
        let spec = spec.replace("{at}", &self.at("").display().to_string());
        let spec = spec.parse::<SourceSpec>().unwrap();
        self.receiving = Receiving::start(&spec, self.post.clone()).unwrap();
    }

    /// As after a restart.
    fn again(&mut self, spec: &str) {
        self.receiving = None;
        self.post = post(self.folder.path(), 64 << 20);
        self.go(spec);
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What is in the inbox: bodies, and reasons of what was refused.
    fn bodies(&self) -> Vec<String> {
        let mut files: Vec<PathBuf> = fs::read_dir(self.at("inbox"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.display().to_string().contains("inbox.log"))
            .collect();
        // The one without a number is the newest.
        files.sort_by_key(|path| (path.ends_with("inbox.log"), path.clone()));
        let text: Vec<u8> = files.iter().flat_map(|path| fs::read(path).unwrap()).collect();
        let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        lines
            .map(|line| match Envelope::open(line).unwrap().body {
                Ok(body) => String::from_utf8_lossy(body).into_owned(),
                Err((why, _)) => format!("refused: {why}"),
            })
            .collect()
    }

    /// Waits until what is there satisfies; the end of waiting is a failure, no measure.
    fn until(&self, fits: impl Fn(&Self) -> bool) {
        let until = Instant::now() + Duration::from_secs(60);
        while !fits(self) {
            assert!(
                Instant::now() < until,
                "{:?} {} {:?}",
                self.bodies(),
                self.post.desk.summary(),
                self.post.desk.degraded(|_| true)
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn says(&self, word: &str) -> bool {
        self.post.desk.degraded(|_| true).iter().any(|text| text.contains(word))
            || self.post.desk.summary().contains(word)
    }
}

fn post(folder: &Path, limit: u64) -> Post {
    Post {
        inbox: Arc::new(Inbox::with_limits(&folder.join("inbox"), limit, 8 << 20).unwrap()),
        desk: Arc::default(),
        clock: crate::config::wall_clock(),
        start: Start::Beginning,
        stop: CancellationToken::new(),
    }
}

/// An authority, a server's and two clients' certificates, and an authority of somebody else's with a client of its own.
fn certificates(folder: &Path) {
    let write = |name: &str, text: String| fs::write(folder.join(name), text).unwrap();
    let authority = |name: &str| {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        (certificate.pem(), Issuer::new(params, key))
    };
    let (pem, ours) = authority("ours");
    write("ca.pem", pem);
    let (_, theirs) = authority("theirs");
    for (name, issuer, usage) in [
        ("server", &ours, ExtendedKeyUsagePurpose::ServerAuth),
        ("apiserver", &ours, ExtendedKeyUsagePurpose::ClientAuth),
        ("eve", &ours, ExtendedKeyUsagePurpose::ClientAuth),
        ("stranger", &theirs, ExtendedKeyUsagePurpose::ClientAuth),
    ] {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        if name != "server" {
            params.subject_alt_names.clear();
        }
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, issuer).unwrap();
        write(&format!("{name}.pem"), certificate.pem());
        write(&format!("{name}.key"), key.serialize_pem());
    }
    write("token", "open sesame\n".into());
    write("secret", "a shared secret\n".into());
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// What a client is.
struct Client<'a> {
    folder: &'a Path,
    port: u16,
    certificate: Option<&'a str>,
    headers: Vec<(&'a str, String)>,
}

impl Client<'_> {
    /// The status of the answer; `None` where there is none.
    async fn post(&self, path: &str, body: &[u8]) -> Option<u16> {
        for _ in 0..600 {
            let Ok(tcp) = tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await else {
                // It does not listen yet.
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            };
            return self.over(tcp, path, body).await;
        }
        panic!("nobody listens on {}", self.port);
    }

    async fn over(&self, tcp: tokio::net::TcpStream, path: &str, body: &[u8]) -> Option<u16> {
        let pem = |name: &str, ending: &str| self.folder.join(format!("{name}.{ending}"));
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.folder.join("ca.pem")).unwrap()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let config = match self.certificate {
            None => builder.with_no_client_auth(),
            Some(name) => {
                let chain = vec![CertificateDer::from_pem_file(pem(name, "pem")).unwrap()];
                builder
                    .with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(pem(name, "key")).unwrap())
                    .unwrap()
            }
        };
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let mut tls = connector.connect(ServerName::try_from("localhost").unwrap(), tcp).await.ok()?;
        let mut head = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n",
            body.len()
        );
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        // Whoever is refused may find the connection closed while he writes.
        let _written = tls.write_all(head.as_bytes()).await;
        let _written = tls.write_all(body).await;
        let mut answer = Vec::new();
        let _closed = tls.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).split(' ').nth(1)?.parse().ok()
    }
}

fn audited(id: &str, stage: &str) -> String {
    format!(
        r#"{{"kind":"Event","auditID":"{id}","stage":"{stage}","verb":"create","requestURI":"/x","user":{{"username":"eve"}},"requestReceivedTimestamp":"2026-11-22T14:10:03.000000Z"}}"#
    )
}

fn list(events: &[String]) -> Vec<u8> {
    format!(r#"{{"kind":"EventList","apiVersion":"audit.k8s.io/v1","items":[{}]}}"#, events.join(","))
        .into_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_webhook_takes_what_an_api_server_posts_once_and_nobody_elses() {
    let port = free_port();
    let spec = format!(
        "kubernetes-audit=https://127.0.0.1:{port}/audit,cert={{at}}/server.pem,key={{at}}/server.key,client-ca={{at}}/ca.pem,clients=apiserver,token={{at}}/token"
    );
    let mut bench = Bench::start(&spec);
    let token = vec![("Authorization", "Bearer open sesame".to_owned())];
    let client = |certificate, headers| Client { folder: bench.folder.path(), port, certificate, headers };
    let body = list(&[
        audited("a", "ResponseStarted"),
        audited("a", "ResponseComplete"),
        audited("b", "ResponseComplete"),
    ]);
    let api_server = client(Some("apiserver"), token.clone());
    assert_eq!(api_server.post("/audit", &body).await, Some(200));
    // It is on disk by the time of the answer.
    assert_eq!(bench.bodies().len(), 3);
    // The answer was lost on its way: all comes again, and something new.
    let again = list(&[
        audited("a", "ResponseComplete"),
        audited("b", "ResponseComplete"),
        audited("c", "ResponseComplete"),
    ]);
    assert_eq!(api_server.post("/audit", &again).await, Some(200));
    assert_eq!(bench.bodies().len(), 4);
    for (who, shows, answer) in [
        (client(Some("eve"), token.clone()), "a certificate of another name", Some(401)),
        (
            client(Some("apiserver"), vec![("Authorization", "Bearer open sesam".into())]),
            "another token",
            Some(401),
        ),
        (client(Some("apiserver"), vec![]), "no token", Some(401)),
        (client(Some("stranger"), token.clone()), "a certificate of another authority", None),
        (client(None, token.clone()), "no certificate", None),
    ] {
        assert_eq!(
            who.post("/audit", &list(&[audited("forged", "ResponseComplete")])).await,
            answer,
            "{shows}"
        );
    }
    bench.until(|bench| bench.says("5 stranger"));
    assert_eq!(api_server.post("/elsewhere", &body).await, Some(404));
    // What is no list of events is a dead letter, however often it comes.
    for _ in 0..3 {
        assert_eq!(api_server.post("/audit", b"{\"items\": [").await, Some(400));
    }
    let bodies = bench.bodies();
    assert_eq!(bodies.len(), 5);
    assert!(bodies[4].starts_with("refused: line 1 column 11"), "{}", bodies[4]);
    assert!(!bodies.iter().any(|body| body.contains("forged")));
    // Started again, it still knows what has come.
    let folder = bench.folder.path().to_owned();
    let port = free_port();
    bench.again(&spec.replace(&format!(":{}/", api_server.port), &format!(":{port}/")));
    let client = Client { folder: &folder, port, certificate: Some("apiserver"), headers: token };
    assert_eq!(client.post("/audit", &again).await, Some(200));
    assert_eq!(bench.bodies().len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn i11_a_full_inbox_tells_senders_to_come_again_and_keeps_what_it_thanked_for() {
    let port = free_port();
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path());
    let mut bench = Bench { post: post(folder.path(), 4000), folder, receiving: None };
    bench.go(&format!("security-events=https://127.0.0.1:{port},cert={{at}}/server.pem,key={{at}}/server.key,hmac={{at}}/secret"));
    let folder = bench.folder.path().to_owned();
    let signed = |body: &[u8], secret: &[u8]| {
        let mut mac = Hmac::<Sha256>::new_from_slice(secret).unwrap();
        mac.update(body);
        vec![("X-Hub-Signature-256", format!("sha256={}", hex::encode(mac.finalize().into_bytes())))]
    };
    let mut thanked = Vec::new();
    let mut refused = 0;
    for number in 0..60 {
        let body = format!("{{\"number\":{number},\"fill\":\"{}\"}}", "x".repeat(200));
        let headers = signed(body.as_bytes(), b"a shared secret");
        let client = Client { folder: &folder, port, certificate: None, headers };
        match client.post("/", body.as_bytes()).await {
            Some(200) => thanked.push(body),
            Some(503) => refused += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(thanked.len() > 5 && refused > 20, "{} {refused}", thanked.len());
    assert_eq!(bench.bodies(), thanked);
    assert!(bench.says("full"), "{:?}", bench.post.desk.degraded(|_| true));
    // A signature of another secret, of another body, none.
    let body = b"{}".as_slice();
    for headers in [signed(body, b"guessed"), signed(b"[]", b"a shared secret"), vec![]] {
        let client = Client { folder: &folder, port, certificate: None, headers };
        assert_eq!(client.post("/", body).await, Some(401));
    }
    let headers = signed(body, b"a shared secret");
    let client = Client { folder: &folder, port, certificate: None, headers: headers.clone() };
    fs::write(folder.join("secret"), "\n").unwrap();
    assert_eq!(client.post("/", body).await, Some(401), "an empty secret lets nobody in");
}

#[tokio::test(flavor = "multi_thread")]
async fn signed_tokens_of_an_issuer_are_taken_once_and_others_are_strangers() {
    let samples: serde_json::Value = serde_json::from_str(include_str!("https/token/samples.json")).unwrap();
    let token = |name: &str| samples["tokens"][name].as_str().unwrap().as_bytes().to_vec();
    let port = free_port();
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path());
    fs::write(folder.path().join("jwks"), samples["jwks"].to_string()).unwrap();
    let mut bench = Bench { post: post(folder.path(), 64 << 20), folder, receiving: None };
    bench.go(&format!(
        "security-events=https://127.0.0.1:{port}/set,cert={{at}}/server.pem,key={{at}}/server.key,jwks={{at}}/jwks,\
         issuer=https://idp.example.com/,audience=https://hemostat.example.com/"
    ));
    let folder = bench.folder.path().to_owned();
    let headers = vec![("Content-Type", "application/secevent+jwt".to_owned())];
    let client = Client { folder: &folder, port, certificate: None, headers };
    assert_eq!(client.post("/set", &token("rs256")).await, Some(202));
    // The same event, signed anew since the answer was lost: its claims are what is compared.
    for name in ["rs256", "es256"] {
        assert_eq!(client.post("/set", &token(name)).await, Some(202), "{name}");
    }
    for name in ["stranger", "other_issuer", "other_audience", "id_token", "none", "hs256", "crit"] {
        assert_eq!(client.post("/set", &token(name)).await, Some(400), "{name}");
    }
    assert_eq!(client.post("/set", br#"{"iss": "https://idp.example.com/", "events": {}}"#).await, Some(400));
    // An issuer that signs by its next key before the file has that does not give up: the event is taken then.
    let keys = folder.join("jwks");
    fs::write(&keys, r#"{"keys": []}"#).unwrap();
    assert_eq!(client.post("/set", &token("es256")).await, Some(503));
    fs::write(&keys, samples["jwks"].to_string()).unwrap();
    assert_eq!(client.post("/set", &token("es256")).await, Some(202));
    let bodies = bench.bodies();
    assert_eq!(bodies.len(), 1, "{bodies:?}");
    assert!(bodies[0].contains("session-revoked") && bodies[0].contains("\"sub\":\"eve\""), "{bodies:?}");
    assert!(bench.says("9 stranger") && bench.says("3 repeated"), "{}", bench.post.desk.summary());
}

#[test]
fn i11_a_body_that_is_too_long_is_refused_unread() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let port = free_port();
    let bench = Bench::start(&format!(
        "ocsf=https://127.0.0.1:{port},cert={{at}}/server.pem,key={{at}}/server.key,token={{at}}/token"
    ));
    let headers = vec![("Authorization", "bearer open sesame".to_owned())];
    let client = Client { folder: bench.folder.path(), port, certificate: None, headers };
    let answer = runtime.block_on(client.post("/", &vec![b' '; 17 << 20]));
    // The refusal may come while the body is still being written, and the connection ends with it.
    assert!(matches!(answer, Some(413) | None), "{answer:?}");
    bench.until(|bench| bench.says("at most 16777216"));
    assert_eq!(bench.bodies(), Vec::<String>::new());
}

/// A version 9 datagram with its template and `count` flows.
fn datagram(sequence: u32, count: u8) -> Vec<u8> {
    let now = u32::try_from(crate::config::wall_clock()().0 / 1_000_000_000).unwrap();
    let mut bytes = Vec::new();
    for number in [
        0x0009_0000,
        65_000,
        now,
        sequence,
        5,
        0x0000_0014,
        0x0100_0003,
        0x0008_0004,
        0x000c_0004,
        0x0006_0001_u32,
    ] {
        bytes.extend(number.to_be_bytes());
    }
    bytes.extend((0x0100_0004_u32 + 9 * u32::from(count)).to_be_bytes());
    for last in 0..count {
        bytes.extend([10, 0, 0, 5, 203, 0, 113, last, 2]);
    }
    bytes
}

#[test]
fn flows_come_from_exporters_on_the_list_only_and_what_is_lost_is_counted() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let to = socket.local_addr().unwrap();
    drop(socket);
    let bench = Bench::start(&format!("netflow=udp://{to},from=127.0.0.1+10.0.0.0/8"));
    let exporter = UdpSocket::bind("127.0.0.1:0").unwrap();
    let stranger = UdpSocket::bind("127.0.0.2:0").unwrap();
    // Datagrams to a port where nobody listens yet are lost: the first is sent until it is there.
    bench.until(|bench| {
        let _unheard = exporter.send_to(&datagram(1, 2), to);
        bench.bodies().len() >= 2
    });
    stranger.send_to(&datagram(9, 2), to).unwrap();
    exporter.send_to(&datagram(5, 1), to).unwrap();
    exporter.send_to(&[0, 5, 1, 1], to).unwrap();
    bench.until(|bench| bench.bodies().len() >= 4 && bench.says("3 lost") && bench.says("1 stranger"));
    let bodies = bench.bodies();
    assert_eq!(bodies.len(), 4, "{bodies:?}");
    assert!(
        bodies[0].contains(r#""destination":"203.0.113.0""#) && bodies[0].contains(r#""tcp_flags":2"#),
        "{bodies:?}"
    );
    assert!(bodies[3].starts_with("refused: byte 0: version 5"), "{bodies:?}");
    assert!(bench.says("127.0.0.2, who is not among the exporters"));
}

#[test]
fn a_real_exporter_is_understood() {
    // Debian's softflowd, on this machine's loopback.
    let program = Some("/usr/sbin/softflowd").filter(|path| Path::new(path).exists());
    let Some(program) = program.filter(|_| rustix::process::geteuid().is_root()) else {
        return println!(
            "SKIPPED: on a real flow exporter: there is no softflowd (apt-get install softflowd), or this is not root"
        );
    };
    for version in ["9", "10"] {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let to = socket.local_addr().unwrap();
        drop(socket);
        let bench = Bench::start(&format!("netflow=udp://{to},from=127.0.0.1"));
        // Reads a capture and exports what is in it: no interface is listened on.
        let capture = bench.at("capture.pcap");
        let peers: Vec<SocketAddr> =
            (1..=20).map(|last| SocketAddr::from(([198, 51, 100, last], 22))).collect();
        fs::write(&capture, pcap(&peers)).unwrap();
        let export = || {
            // It does not end by itself where its control socket has an absolute path.
            let status = std::process::Command::new("timeout")
                .args(["20", program, "-d", "-r", "capture.pcap", "-n", &to.to_string(), "-v", version])
                .args(["-T", "full", "-p", "pid", "-c", "none"])
                .current_dir(bench.folder.path())
                .stdin(std::process::Stdio::null())
                .stdout(std::process::Stdio::null())
                .stderr(std::process::Stdio::null())
                .status()
                .unwrap();
            assert!(status.success());
        };
        bench.until(|bench| {
            if bench.bodies().is_empty() {
                export();
                std::thread::sleep(Duration::from_millis(200));
            }
            peers
                .iter()
                .all(|peer| bench.bodies().iter().any(|body| body.contains(&format!("\"{}\"", peer.ip()))))
        });
        let bodies = bench.bodies();
        println!("softflowd -v {version}: {} flows, {}", bodies.len(), bench.post.desk.summary());
        assert!(!bodies.iter().any(|body| body.starts_with("refused")), "{bodies:?}");
        let attempt = bodies.iter().find(|body| body.contains(r#""destination":"198.51.100.7""#)).unwrap();
        for word in [
            r#""source":"10.0.0.5""#,
            r#""destination_port":22"#,
            r#""protocol":6"#,
            r#""tcp_flags":2"#,
            r#""packets":1"#,
        ] {
            assert!(attempt.contains(word), "{word}: {attempt}");
        }
    }
}

/// A capture of one unanswered SYN to each (libpcap's format, Ethernet).
fn pcap(peers: &[SocketAddr]) -> Vec<u8> {
    let mut file = Vec::new();
    for number in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 65_535, 1] {
        file.extend(number.to_le_bytes());
    }
    let now = u32::try_from(crate::config::wall_clock()().0 / 1_000_000_000).unwrap();
    for (number, peer) in peers.iter().enumerate() {
        let SocketAddr::V4(peer) = peer else { panic!() };
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
        let mut packet = vec![0x45, 0, 0, 40, 0, 1, 0, 0, 64, 6, 0, 0, 10, 0, 0, 5];
        packet.extend(peer.ip().octets());
        let sum =
            packet.chunks(2).fold(0_u32, |sum, two| sum + u32::from(u16::from_be_bytes([two[0], two[1]])));
        let sum = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet.extend((40_000 + number as u16).to_be_bytes());
        packet.extend(peer.port().to_be_bytes());
        packet.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 4, 0, 0, 0, 0, 0]);
        frame.extend(packet);
        for number in [now, number as u32, frame.len() as u32, frame.len() as u32] {
            file.extend(number.to_le_bytes());
        }
        file.extend(frame);
    }
    file
}

fn packed(text: &str) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn files_of_a_folder_are_read_once_packed_or_not_also_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let below = folder.path().join("in/AWSLogs/1/CloudTrail/eu/2026");
    fs::create_dir_all(&below).unwrap();
    fs::write(below.join("a.json.gz"), packed(r#"{"Records":[{"eventID":"1"},{"eventID":"2"}]}"#)).unwrap();
    fs::write(below.join("b.json"), "\u{feff}{\"eventID\":\"3\"}\n{\"eventID\":\"2\"}\n").unwrap();
    fs::write(below.join("c.json"), "{\"eventID\":\"4\"}\n{\"eventID\":").unwrap();
    fs::write(below.join("d.json.gz"), [0x1f, 0x8b, 8, 0, 1, 2, 3]).unwrap();
    let mut bench = Bench { post: post(folder.path(), 64 << 20), folder, receiving: None };
    bench.go("cloudtrail={at}/in/");
    bench.until(|bench| bench.bodies().len() >= 6);
    let mut bodies = bench.bodies();
    bodies.sort();
    assert_eq!(
        bodies[2..6].join(" "),
        r#"{"eventID":"1"} {"eventID":"2"} {"eventID":"3"} {"eventID":"4"}"#,
        "{bodies:?}"
    );
    assert!(bodies[0].contains("refused: ") && bodies[1].contains("refused: "), "{bodies:?}");
    bench.again("cloudtrail={at}/in/");
    fs::write(below.join("e.json"), "{\"eventID\":\"5\"}").unwrap();
    bench.until(|bench| bench.bodies().iter().any(|body| body.contains("\"5\"")));
    assert_eq!(bench.bodies().len(), 7, "{:?}", bench.bodies());
    assert!(Timestamp(0) < (bench.post.clock)());
}
