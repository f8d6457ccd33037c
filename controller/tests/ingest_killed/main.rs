//! I3 with real SIGKILLs: what a source was thanked for is there after the restart, once.
//!
//! This test starts itself again as a child that runs a controller with its sources and its listener for agents. The parent plays the senders
//! (an API server's webhook, an identity provider's, a flow exporter, an agent over gRPC, a program that writes a log, somebody who puts files
//! into a folder): each says again what it was not thanked for, and some of what it was. The child dies at one point after the other, in
//! the middle of what the senders say; the last one lives until all is read.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod senders;

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    io::Read as _,
    net::{IpAddr, SocketAddr},
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use detect::{
    load::load,
    matcher::{Options, RuleSet, Swap},
    source::SourceFile,
};
use hemostat_controller::{
    Controller, ControllerConfig,
    client::Client,
    crash::{CrashPoints, Moment},
    ingest::{self, IngestConfig, Start, Zone},
    wall_clock,
};
use model::{Fact, Finding, NodeId};
use rcgen::{CertificateParams, KeyPair};
use tokio::{
    sync::{Semaphore, watch},
    time::{sleep, timeout},
};
use wire::{
    identity::{Authority, Credentials, Subject},
    link::{ListenConfig, listen},
};

use crate::senders::{Book, Door, Turns, agent, audited, copier, exporter, logger, poster, revoked};

const DIR: &str = "HEMOSTAT_KILLED_DIR";
const PORTS: &str = "HEMOSTAT_KILLED_PORTS";
const MOMENT: &str = "HEMOSTAT_KILLED_MOMENT";
const COUNT: &str = "HEMOSTAT_KILLED_COUNT";
pub(crate) const NODE: &str = "node-1";

const RULES: &str = "title: A Shell in a Pod
id: exec
logsource: {product: kubernetes, service: audit}
detection: {s: {verb: create}, condition: s}
level: high
---
title: A Session Was Revoked
id: revoked
logsource: {category: authentication}
detection: {s: {SecurityEvent: session-revoked}, condition: s}
level: high
---
title: A Flow
id: flow
logsource: {product: netflow}
detection: {s: {DestinationIp|cidr: 203.0.0.0/16}, condition: s}
level: high
---
title: A Failed Login
id: failed
logsource: {product: linux, service: sshd}
detection: {s: {AuthOutcome: failure}, condition: s}
level: high
---
title: A New Access Key
id: key
logsource: {product: aws, service: cloudtrail}
detection: {s: {eventName: CreateAccessKey}, condition: s}
level: high
";

/// What each sender may say in one life of the child: few enough that in all lives together no rule's matches are counted together, and that
/// one list holds all incidents.
const PER_LIFE: usize = 5;

/// When the child dies.
#[derive(Debug, Clone, Copy)]
enum Kill {
    /// After the senders were thanked so often, together, in this life.
    Thanked(usize),
    /// After so many requests were sent whole whose answer nobody had yet.
    Sent(usize),
    /// At the n-th time of a moment of its journal.
    At(Moment, usize),
    /// After it has written down how far the log is read, and so often thanked after that.
    Kept(usize),
}

const KILLS: [Kill; 20] = [
    Kill::Sent(1),
    Kill::Thanked(1),
    Kill::At(Moment::BeforeWrite, 1),
    Kill::At(Moment::AfterWrite, 1),
    Kill::At(Moment::AfterAudit, 1),
    Kill::At(Moment::AfterEffect, 1),
    Kill::Thanked(2),
    Kill::Sent(3),
    Kill::At(Moment::BeforeWrite, 4),
    Kill::Kept(3),
    Kill::Thanked(9),
    Kill::At(Moment::AfterWrite, 5),
    Kill::Sent(10),
    Kill::At(Moment::AfterEffect, 6),
    Kill::Thanked(17),
    Kill::At(Moment::AfterAudit, 3),
    Kill::Sent(8),
    Kill::Thanked(20),
    Kill::Kept(7),
    Kill::At(Moment::AfterEffect, 2),
];

/// Kills the process at the n-th time of one moment.
struct KillAt {
    moment: Moment,
    left: AtomicUsize,
}

impl CrashPoints for KillAt {
    fn reached(&self, moment: Moment, _: &[String]) {
        if moment == self.moment && self.left.fetch_sub(1, Ordering::SeqCst) == 1 {
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL).unwrap();
            // The signal is on its way; nothing more may happen on this thread.
            loop {
                std::thread::park();
            }
        }
    }
}

/// Where the child listens.
#[derive(Debug, Clone, Copy)]
struct Ports {
    audit: u16,
    events: u16,
    flows: u16,
    agents: u16,
}

impl Ports {
    /// Such as were free a moment ago.
    fn free() -> Self {
        let all: Vec<_> = (0..4).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let port = |at: usize| all[at].local_addr().unwrap().port();
        Self { audit: port(0), events: port(1), flows: port(2), agents: port(3) }
    }

    fn text(self) -> String {
        format!("{} {} {} {}", self.audit, self.events, self.flows, self.agents)
    }

    fn parse(text: &str) -> Self {
        let all: Vec<u16> = text.split(' ').map(|port| port.parse().unwrap()).collect();
        Self { audit: all[0], events: all[1], flows: all[2], agents: all[3] }
    }
}

/// Not a test: the child. Does nothing unless it is started by one.
#[test]
fn child() {
    let Ok(dir) = env::var(DIR) else { return };
    // It ends with who started it, however that ends.
    std::thread::spawn(|| {
        let _ended = std::io::stdin().read(&mut [0]);
        std::process::exit(1);
    });
    let ports = Ports::parse(&env::var(PORTS).unwrap());
    let moment = Moment::ALL.into_iter().find(|m| format!("{m:?}") == env::var(MOMENT).unwrap_or_default());
    let count = env::var(COUNT).ok().and_then(|n| n.parse().ok()).unwrap_or(0);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(life(Path::new(&dir), ports, moment.map(|moment| (moment, count))));
}

/// Until it is killed.
async fn life(dir: &Path, ports: Ports, kill: Option<(Moment, usize)>) {
    let mut config = ControllerConfig::in_folders(&dir.join("state"), dir);
    // Several writes of the journal in each life.
    config.limits.batch = 4;
    if let Some((moment, n)) = kill {
        config.crash = Arc::new(KillAt { moment, left: AtomicUsize::new(n) });
    }
    let controller = Controller::start(config).await.unwrap();
    let loaded = load(&[SourceFile { name: "rules.yml".into(), text: RULES.into() }]);
    assert_eq!(loaded.errors(), 0, "{:?}", loaded.diagnostics);
    let (rules, _) = RuleSet::compile(&loaded.rules, Options::default());
    let at = dir.display();
    let tls = format!("cert={at}/server.pem,key={at}/server.key,token={at}/token");
    let sources = [
        format!("kubernetes-audit=https://127.0.0.1:{}/audit,{tls}", ports.audit),
        format!("security-events=https://127.0.0.1:{}/audit,{tls}", ports.events),
        format!("netflow=udp://127.0.0.1:{},from=127.0.0.1", ports.flows),
        format!("auth={at}/auth.log"),
        format!("cloudtrail={at}/trail/"),
    ];
    let ingest = IngestConfig {
        sources: sources.iter().map(|source| source.parse().unwrap()).collect(),
        state: dir.join("state/sources"),
        start: Start::Beginning,
        rules: Arc::new(Swap::new(Arc::new(rules))),
        clock: wall_clock(),
        poll: Duration::from_millis(10),
        zone: Zone::UTC,
    };
    let _sources = ingest::start(&ingest, &controller.attacher()).unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], ports.agents));
    let mut listener = listen(ListenConfig::new(address, credentials(dir, "controller"))).await.unwrap();
    while let Some(link) = listener.accept().await {
        controller.attach(link);
    }
}

pub(crate) fn credentials(dir: &Path, name: &str) -> Credentials {
    Credentials::Files {
        certificate: dir.join(format!("{name}.pem")),
        key: dir.join(format!("{name}.key")),
        authority: dir.join("authority.pem"),
    }
}

/// The files that both sides need.
fn prepare(dir: &Path) {
    let write = |name: &str, text: &str| fs::write(dir.join(name), text).unwrap();
    let key = KeyPair::generate().unwrap();
    let server = CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
    write("server.pem", &server.pem());
    write("server.key", &key.serialize_pem());
    write("token", "open sesame");
    let (now, long) = (wall_clock()(), Duration::from_secs(3600));
    let authority = Authority::create("test", now, long).unwrap();
    write("authority.pem", authority.certificate());
    for (name, subject) in [("controller", Subject::Controller), (NODE, Subject::Node(NodeId::new(NODE)))] {
        let issued = authority.issue(&subject, now, long).unwrap();
        write(&format!("{name}.pem"), &issued.certificate);
        write(&format!("{name}.key"), &issued.key);
    }
    fs::create_dir(dir.join("trail")).unwrap();
}

/// A child at work, which ends with the test.
struct Life(Child, #[expect(dead_code, reason = "open as long as the child may live")] Option<ChildStdin>);

impl Life {
    fn begin(dir: &Path, ports: Ports, kill: Option<(Moment, usize)>) -> Self {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["child", "--exact", "--nocapture", "--test-threads=1"]);
        command.env(DIR, dir).env(PORTS, ports.text()).stdin(Stdio::piped()).stdout(Stdio::null());
        command.stderr(fs::File::options().append(true).create(true).open(dir.join("stderr")).unwrap());
        if let Some((moment, n)) = kill {
            command.env(MOMENT, format!("{moment:?}")).env(COUNT, n.to_string());
        }
        let mut child = command.spawn().unwrap();
        // Waiting would close it.
        let stdin = child.stdin.take();
        Self(child, stdin)
    }

    /// Waits until it has ended.
    async fn ended(&mut self) {
        while self.0.try_wait().unwrap().is_none() {
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until it has died of SIGKILL.
    async fn died(mut self, dir: &Path) {
        let ended = tokio::task::spawn_blocking(move || self.0.wait().unwrap()).await.unwrap();
        assert_eq!(ended.signal(), Some(9), "it ended otherwise: {ended} {}", said(dir));
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        if self.0.try_wait().is_ok_and(|ended| ended.is_none()) {
            let _killed = self.0.kill();
            let _ended = self.0.wait();
        }
    }
}

/// What a finding is of.
fn name_of(finding: &Finding) -> String {
    let Some(record) = finding.event.record() else { return finding.event.process.command_line.to_string() };
    if let Some(Fact::Address(IpAddr::V4(to))) = record.facts.get("DestinationIp") {
        return to.to_string();
    }
    let name = &record.principal.as_ref().unwrap().name;
    name.rsplit('/').next().unwrap_or_default().to_owned()
}

/// How often each was found, by the incidents; what else was counted beside them.
async fn found(client: &Client) -> (BTreeMap<String, usize>, u64) {
    let (mut times, mut counted) = (BTreeMap::new(), 0);
    let Ok(list) = client.incidents(10_000).await else { return (times, counted) };
    for line in list.incidents {
        let incident = client.incident(line.id.as_str()).await.unwrap().incident;
        for finding in &incident.findings {
            *times.entry(name_of(finding)).or_default() += 1;
            counted += finding.count - 1;
        }
        counted += incident.findings_dropped;
    }
    (times, counted)
}

/// What the children complained of.
fn said(dir: &Path) -> String {
    fs::read_to_string(dir.join("stderr")).unwrap()
}

/// What is written down of how far the log is read.
fn kept(dir: &Path) -> Option<Vec<u8>> {
    let mut files =
        fs::read_dir(dir.join("state/sources")).into_iter().flatten().map(|entry| entry.unwrap().path());
    let is_position = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("auth-") && name.ends_with(".position")
    };
    fs::read(files.find(is_position)?).ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i3_what_was_thanked_for_is_there_after_every_kill_once() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().to_owned();
    prepare(&dir);
    let ports = Ports::free();
    let book = Arc::new(Book { thanked: Mutex::default(), counts: watch::Sender::new((0_usize, 0_usize)) });
    let turns: Vec<Turns> = (0..6).map(|_| Turns(Arc::new(Semaphore::new(0)))).collect();
    let turn = |at: usize| turns[at].clone();
    let door = |port| Door { dir: dir.clone(), port };
    let senders = [
        tokio::spawn(poster(door(ports.audit), book.clone(), turn(0), audited)),
        tokio::spawn(poster(door(ports.events), book.clone(), turn(1), revoked)),
        tokio::spawn(exporter(dir.clone(), ports.flows, book.clone(), turn(2))),
        tokio::spawn(logger(dir.clone(), book.clone(), turn(3))),
        tokio::spawn(copier(dir.clone(), book.clone(), turn(4))),
        tokio::spawn(agent(dir.clone(), ports.agents, book.clone(), turn(5))),
    ];
    let give = || turns.iter().for_each(|turns| turns.0.add_permits(PER_LIFE));
    for kill in KILLS {
        let at = if let Kill::At(moment, n) = kill { Some((moment, n)) } else { None };
        let mut life = Life::begin(&dir, ports, at);
        let (thanked, sent) = *book.counts.borrow();
        give();
        let mut counts = book.counts.subscribe();
        let reached = async {
            match kill {
                Kill::Thanked(n) => drop(counts.wait_for(|now| now.0 >= thanked + n).await.unwrap()),
                Kill::Sent(n) => drop(counts.wait_for(|now| now.1 >= sent + n).await.unwrap()),
                Kill::At(..) => {}
                Kill::Kept(n) => {
                    let before = kept(&dir);
                    while kept(&dir) == before {
                        sleep(Duration::from_millis(20)).await;
                    }
                    let thanked = book.counts.borrow().0;
                    give();
                    drop(counts.wait_for(|now| now.0 >= thanked + n).await.unwrap());
                }
            }
        };
        tokio::select! {
            () = reached => {}
            () = life.ended(), if at.is_none() => panic!("{kill:?}: {}", said(&dir)),
        }
        if at.is_none() {
            life.0.kill().unwrap();
        }
        let patient = timeout(Duration::from_secs(120), life.died(&dir)).await;
        assert!(patient.is_ok(), "{kill:?} never came: {}", said(&dir));
    }
    // The last life: everybody says what is left to say, and all is read.
    let life = Life::begin(&dir, ports, None);
    give();
    for turns in &turns {
        // What was given is still taken.
        while turns.0.available_permits() > 0 {
            sleep(Duration::from_millis(20)).await;
        }
        turns.0.close();
    }
    for sender in senders {
        sender.await.unwrap();
    }
    let thanked = book.thanked.lock().unwrap().clone();
    let client = Client::new(dir.join("controller.sock"));
    let mut all = (BTreeMap::new(), 0);
    for _ in 0..100 {
        all = found(&client).await;
        if thanked.iter().all(|name| all.0.contains_key(name)) {
            break;
        }
        sleep(Duration::from_millis(100)).await;
    }
    let missing: Vec<&String> = thanked.iter().filter(|name| !all.0.contains_key(*name)).collect();
    assert!(missing.is_empty(), "{} of {} are missing: {missing:?}", missing.len(), thanked.len());
    // The order of each source is kept, so that nothing comes after its last.
    let twice: Vec<_> = all.0.iter().filter(|(_, times)| **times != 1).collect();
    assert!(twice.is_empty(), "{twice:?}");
    assert_eq!(all.0.keys().cloned().collect::<BTreeSet<_>>(), thanked, "nothing that was not said");
    assert_eq!(all.1, 0, "nothing was counted in place of being told");
    println!("{} records over {} kills, each once", thanked.len(), KILLS.len());
    drop(life);
}

/// Files and folders below the state folder.
fn made(state: &Path) -> usize {
    let below = |path: PathBuf| 1 + if path.is_dir() { made(&path) } else { 0 };
    fs::read_dir(state).into_iter().flatten().filter_map(Result::ok).map(|entry| below(entry.path())).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i7_killed_while_it_starts_for_the_first_time_it_starts_the_second() {
    let ports = Ports::free();
    for files in 1..24 {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().to_owned();
        prepare(&dir);
        let mut life = Life::begin(&dir, ports, None);
        let state = dir.join("state");
        let (client, mut is_ready) = (Client::new(dir.join("controller.sock")), false);
        while made(&state) < files && !is_ready {
            // No pause: what is looked for is the moment after.
            is_ready = client.health().await.is_ok();
        }
        life.0.kill().unwrap();
        life.died(&dir).await;
        let mut life = Life::begin(&dir, ports, None);
        while client.health().await.is_err() {
            assert!(life.0.try_wait().unwrap().is_none(), "killed with {files} files: {}", said(&dir));
            sleep(Duration::from_millis(10)).await;
        }
        if is_ready {
            return;
        }
    }
}
