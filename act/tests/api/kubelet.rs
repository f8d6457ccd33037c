//! Plays a node's kubelet to the API server: logs and checkpoints are asked of it, over TLS. There is no container behind it.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::{IpAddr, Shutdown, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use rustls::{ServerConfig, ServerConnection, StreamOwned, pki_types::PrivateKeyDer};
use serde_json::json;

use crate::world::World;

/// How long the other side may take to end a connection.
const PATIENCE: Duration = Duration::from_secs(2);

/// What is answered to a request line's beginning: status and body.
type Answers = Arc<Mutex<BTreeMap<String, (u16, String)>>>;

pub(crate) struct Kubelet {
    pub(crate) node: String,
    answers: Answers,
    /// Request lines.
    pub(crate) heard: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
    at: (IpAddr, u16),
    serving: Option<JoinHandle<()>>,
}

impl Kubelet {
    /// With its node in the API server. The address is this machine's own, which is no other's way; the API server speaks to no kubelet
    /// on loopback where it is asked to go through the node. `None`, said aloud, where the machine has none.
    pub(crate) async fn on(world: &World, loopback: bool) -> Option<Self> {
        let address = if loopback { IpAddr::from([127, 0, 0, 1]) } else { own_address()? };
        let listener = TcpListener::bind((address, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let made = rcgen::generate_simple_self_signed(vec!["kubelet".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let (answers, heard, stop) = (Answers::default(), Arc::default(), Arc::new(AtomicBool::new(false)));
        let node = format!("node-{}", world.namespace);
        let kubelet = Self {
            node: node.clone(),
            answers: Arc::clone(&answers),
            heard: Arc::clone(&heard),
            stop: Arc::clone(&stop),
            at: (address, port),
            serving: Some(std::thread::spawn(move || {
                let config = Arc::new(config);
                for stream in listener.incoming() {
                    if stop.load(Ordering::SeqCst) {
                        return;
                    }
                    // One that goes away early is the API server's affair.
                    drop(stream.and_then(|stream| answer(stream, &config, &answers, &heard)));
                }
            })),
        };
        world.make("/api/v1/nodes", json!({"metadata": {"name": node}})).await;
        let status = json!({
            "addresses": [{"type": "InternalIP", "address": address.to_string()}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
        });
        world.change(&format!("/api/v1/nodes/{node}/status"), json!({"status": status})).await;
        Some(kubelet)
    }

    /// What it answers to requests that begin so, for example `GET /containerLogs/ns/`.
    pub(crate) fn says(&self, beginning: &str, status: u16, body: impl Into<String>) {
        self.answers.lock().unwrap().insert(beginning.into(), (status, body.into()));
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(self.at));
        if let Some(serving) = self.serving.take() {
            drop(serving.join());
        }
    }
}

fn answer(
    stream: TcpStream,
    config: &Arc<ServerConfig>,
    answers: &Answers,
    heard: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let connection = ServerConnection::new(Arc::clone(config)).map_err(std::io::Error::other)?;
    let mut stream = StreamOwned::new(connection, stream);
    let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
    while !bytes.windows(4).any(|four| four == b"\r\n\r\n") {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            n => bytes.extend_from_slice(&buffer[..n]),
        }
    }
    let line = String::from_utf8_lossy(&bytes).lines().next().unwrap_or_default().to_owned();
    let (status, body) = {
        let answers = answers.lock().unwrap();
        let known = answers.iter().rev().find(|(beginning, _)| line.starts_with(beginning.as_str()));
        known.map_or((404, "nothing of the kind".into()), |(_, answer)| answer.clone())
    };
    heard.lock().unwrap().push(line);
    let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())?;
    stream.conn.send_close_notify();
    stream.flush()?;
    // A body's end may still be on its way: what is left unread when a connection is closed resets it, and the answer is lost with it.
    stream.sock.shutdown(Shutdown::Write)?;
    stream.sock.set_read_timeout(Some(PATIENCE))?;
    while !matches!(stream.sock.read(&mut buffer), Ok(0) | Err(_)) {}
    Ok(())
}

/// This machine's address towards others; nothing is sent.
#[expect(clippy::print_stdout, reason = "the runner counts these lines")]
fn own_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    let found = socket.connect("192.0.2.1:9").and_then(|()| socket.local_addr()).map(|at| at.ip()).ok();
    if found.is_none() {
        println!(
            "SKIPPED: what is asked of a kubelet through its node: the machine has no address but loopback"
        );
    }
    found
}
