//! The senders: each says again what it was not thanked for, and some of what it was.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write as _,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use hemostat_controller::wall_clock;
use model::*;
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UdpSocket},
    sync::{Semaphore, watch},
    time::{sleep, timeout},
};
use wire::link::{AgentLink, ConnectConfig, connect};

use crate::{NODE, credentials};

/// What the senders keep account of.
pub(crate) struct Book {
    pub(crate) thanked: Mutex<BTreeSet<String>>,
    pub(crate) counts: watch::Sender<(usize, usize)>,
}

impl Book {
    fn thanked(&self, name: &str) {
        self.thanked.lock().unwrap().insert(name.to_owned());
        self.counts.send_modify(|counts| counts.0 += 1);
    }

    fn sent(&self) {
        self.counts.send_modify(|counts| counts.1 += 1);
    }

    /// Nobody is asked: it was put where it is read.
    fn wrote(&self, name: &str) {
        self.thanked.lock().unwrap().insert(name.to_owned());
    }

    /// Waits a little for the other senders, so that what nobody is asked for comes while they are heard.
    async fn meanwhile(&self) {
        let mut counts = self.counts.subscribe();
        drop(timeout(Duration::from_millis(200), counts.changed()).await);
    }
}

/// A sender's turns: so many in each life. Closed, it has said all.
#[derive(Clone)]
pub(crate) struct Turns(pub(crate) Arc<Semaphore>);

impl Turns {
    async fn next(&self) -> bool {
        self.0.acquire().await.is_ok_and(|turn| {
            turn.forget();
            true
        })
    }
}

/// Something that is posted to.
pub(crate) struct Door {
    pub(crate) dir: PathBuf,
    pub(crate) port: u16,
}

impl Door {
    /// Whether it was thanked for.
    async fn post(&self, body: &str, book: &Book) -> bool {
        let answer = timeout(Duration::from_secs(20), self.answer(body, book)).await;
        answer.is_ok_and(|answer| answer.is_some_and(|answer| answer.starts_with("HTTP/1.1 200")))
    }

    async fn answer(&self, body: &str, book: &Book) -> Option<String> {
        let tcp = TcpStream::connect(("127.0.0.1", self.port)).await.ok()?;
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.dir.join("server.pem")).unwrap()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let mut tls = connector.connect(ServerName::try_from("localhost").unwrap(), tcp).await.ok()?;
        let length = body.len();
        let request = format!(
            "POST /audit HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer open sesame\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        tls.write_all(request.as_bytes()).await.ok()?;
        tls.flush().await.ok()?;
        book.sent();
        let mut answer = Vec::new();
        let _closed = tls.read_to_end(&mut answer).await;
        Some(String::from_utf8_lossy(&answer).into_owned())
    }
}

/// Posts records until there are no more turns; each until it is thanked for, and of those every third once more: its answer was lost.
pub(crate) async fn poster(door: Door, book: Arc<Book>, turns: Turns, record: fn(usize) -> (String, String)) {
    let mut number = 0;
    while turns.next().await {
        let (name, body) = record(number);
        while !door.post(&body, &book).await {
            sleep(Duration::from_millis(10)).await;
        }
        book.thanked(&name);
        if number % 3 == 0 {
            door.post(&body, &book).await;
        }
        number += 1;
    }
}

pub(crate) fn audited(number: usize) -> (String, String) {
    let (name, now) = (format!("audit-{number}"), wall_clock()());
    let body = format!(
        r#"{{"kind":"EventList","items":[{{"kind":"Event","auditID":"a-{number}","stage":"ResponseComplete","verb":"create","requestURI":"/api/v1/namespaces/n{number}/pods/p/exec","user":{{"username":"{name}"}},"objectRef":{{"resource":"pods","namespace":"n{number}","name":"p","subresource":"exec"}},"requestReceivedTimestamp":"{now}"}}]}}"#
    );
    (name, body)
}

pub(crate) fn revoked(number: usize) -> (String, String) {
    let (name, now) = (format!("event-{number}"), wall_clock()().0 / 1_000_000_000);
    let body = format!(
        r#"{{"iss":"https://idp.example.com/","jti":"{number}","iat":{now},"sub_id":{{"format":"opaque","id":"{name}"}},"events":{{"https://schemas.openid.net/secevent/caep/event-type/session-revoked":{{"event_timestamp":{now}}}}}}}"#
    );
    (name, body)
}

/// Sends datagrams, each until it stands in the inbox, and every third once more.
pub(crate) async fn exporter(dir: PathBuf, port: u16, book: Arc<Book>, turns: Turns) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut number = 0;
    while turns.next().await {
        let to = Ipv4Addr::new(203, 0, (number / 250) as u8, (number % 250) as u8);
        let datagram = datagram(number as u32 + 1, to);
        let wanted = format!("\"destination\":\"{to}\"");
        loop {
            let _nobody_there = socket.send_to(&datagram, ("127.0.0.1", port)).await;
            sleep(Duration::from_millis(20)).await;
            if stored(&dir.join("state/sources")).contains(&wanted) {
                break;
            }
        }
        book.thanked(&to.to_string());
        if number % 3 == 0 {
            let _nobody_there = socket.send_to(&datagram, ("127.0.0.1", port)).await;
        }
        number += 1;
    }
}

/// A version 9 datagram with its template and one flow. Its head is that of the same datagram whenever it is sent.
fn datagram(sequence: u32, to: Ipv4Addr) -> Vec<u8> {
    static NOW: std::sync::OnceLock<u32> = std::sync::OnceLock::new();
    let now = *NOW.get_or_init(|| u32::try_from(wall_clock()().0 / 1_000_000_000).unwrap());
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
    bytes.extend(0x0100_000d_u32.to_be_bytes());
    let [_, _, third, fourth] = to.octets();
    bytes.extend([10, 0, third, fourth]);
    bytes.extend(to.octets());
    bytes.push(2);
    bytes
}

/// What stands in the inbox of flows, in whole lines.
fn stored(sources: &Path) -> String {
    let mut text = String::new();
    for folder in fs::read_dir(sources).into_iter().flatten().map(|entry| entry.unwrap().path()) {
        if folder.extension().is_some_and(|ending| ending == "inbox")
            && folder.file_name().is_some_and(|name| name.to_string_lossy().starts_with("netflow"))
        {
            text.push_str(&fs::read_to_string(folder.join("inbox.log")).unwrap_or_default());
        }
    }
    text.truncate(text.rfind('\n').map_or(0, |at| at + 1));
    text
}

/// Appends to a log, which is rotated now and then.
pub(crate) async fn logger(dir: PathBuf, book: Arc<Book>, turns: Turns) {
    let path = dir.join("auth.log");
    let mut number = 0;
    while turns.next().await {
        book.meanwhile().await;
        let (name, now) = (format!("ssh-{number}"), wall_clock()());
        let from = Ipv4Addr::new(198, 51, (number / 250) as u8, (number % 250) as u8);
        let line = format!("{now} h{number} sshd[7]: Failed password for {name} from {from} port 4 ssh2\n");
        if number % 13 == 12 {
            fs::rename(&path, dir.join(format!("auth.log.{:04}", number))).unwrap();
        }
        let mut file = fs::File::options().append(true).create(true).open(&path).unwrap();
        file.write_all(line.as_bytes()).unwrap();
        book.wrote(&name);
        number += 1;
    }
}

/// Puts files into a folder.
pub(crate) async fn copier(dir: PathBuf, book: Arc<Book>, turns: Turns) {
    let mut number = 0;
    while turns.next().await {
        book.meanwhile().await;
        let (name, now) = (format!("trail-{number}"), wall_clock()());
        let text = format!(
            r#"{{"Records":[{{"eventVersion":"1.08","userIdentity":{{"type":"IAMUser","arn":"arn:aws:iam::1:user/{name}","accountId":"1"}},"eventTime":"{now}","eventSource":"iam.amazonaws.com","eventName":"CreateAccessKey","awsRegion":"eu","eventID":"{name}"}}]}}"#
        );
        fs::write(dir.join("trail/.next"), text).unwrap();
        fs::rename(dir.join("trail/.next"), dir.join(format!("trail/{number:04}.json"))).unwrap();
        book.wrote(&name);
        number += 1;
    }
}

/// An agent with a spool of its own, which says two findings at a time.
pub(crate) async fn agent(dir: PathBuf, port: u16, book: Arc<Book>, turns: Turns) {
    let mut config =
        ConnectConfig::new(format!("127.0.0.1:{port}"), NodeId::new(NODE), credentials(&dir, NODE));
    (config.first_pause, config.longest_pause) = (Duration::from_millis(10), Duration::from_millis(50));
    let (AgentLink { up, mut down }, connection) = connect(config);
    up.send(Up::Hello { node: NodeId::new(NODE), epoch: AgentEpoch(1) }).await.unwrap();
    let mut number = 0;
    while turns.next().await {
        let names = [0, 1].map(|half| format!("pid-{}", 2 * number + half + 1));
        for name in &names {
            let found = Report::Finding(finding(name));
            let seq = seq_of(name);
            up.send(Up::Report { seq: Seq(seq), report: Box::new(found) }).await.unwrap();
            book.sent();
        }
        let last = seq_of(&names[1]);
        loop {
            match down.recv().await.unwrap() {
                Down::Ack { upto } if upto.0 >= last => break,
                _ => {}
            }
        }
        for name in &names {
            book.thanked(name);
        }
        number += 1;
    }
    connection.close().await;
}

fn seq_of(name: &str) -> u64 {
    name.strip_prefix("pid-").unwrap().parse().unwrap()
}

fn finding(name: &str) -> Finding {
    let seq = seq_of(name);
    let (pid, at) = (Pid(u32::try_from(seq).unwrap() + 100), wall_clock()());
    let id = EventId { node: NodeId::new(NODE), epoch: AgentEpoch(1), seq: Seq(seq) };
    let process = Process {
        key: ProcessKey { pid, start: BootNs(u64::from(pid.0) * 1000) },
        parent: None,
        exe: format!("/tmp/{name}"),
        exe_file: ExeFile { inode: seq, device: 8 << 20 | 1, backing: Backing::File },
        command_line: name.into(),
        args: vec![name.into()],
        args_truncated: Truncated::No,
        cwd: "/tmp".into(),
        comm: "x".into(),
        credentials: model::Credentials::default(),
        namespaces: Namespaces::default(),
        tty: None,
        stdio: model::Stdio::default(),
        cgroup: CgroupId(seq),
        workload: Arc::new(Workload::Host { cgroup_path: format!("/{name}") }),
        origin: ProcessOrigin::Exec,
        exit: None,
    };
    Finding {
        id: FindingId::derive(&id, "rule"),
        rule: RuleRef {
            id: "rule".into(),
            title: "A Process".into(),
            level: Level::High,
            techniques: vec![],
            tactics: vec![],
            reaction: Reaction::None,
        },
        event: Event {
            id,
            time: at,
            process: Arc::new(process),
            parent: None,
            ancestors: Arc::new([]),
            exposure: Exposure::None,
            activity: Activity::Exec { requested: name.into() },
        },
        matched: BTreeMap::new(),
        count: 1,
        first: at,
        last: at,
        ancestors: vec![],
        context: vec![],
        reactions: vec![],
        moments: model::Moments::default(),
        loss: LossWindow::default(),
    }
}
