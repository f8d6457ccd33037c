//! A mixed load as five sensors would tell it, from a seed: what most of it is says nothing, and some of it is an attack of a known name.

use std::{fmt::Write as _, net::Ipv4Addr, sync::Arc};

use model::{
    Activity, AgentEpoch, BootNs, CgroupId, Created, Credentials, Endpoint, Event, EventId, ExeFile,
    Exposure, FilePath, Flow, Namespaces, NodeId, Pid, Process, ProcessKey, ProcessOrigin, Protocol, Seq,
    Stdio, Timestamp, Truncated, Workload,
};

/// The seed of every bench.
pub(crate) const SEED: u64 = 20_261_123;

/// Rules that tell of the attacks of the load, beside the shipped ones.
pub(crate) const RULES: &str = "title: Bench Attack By A Login
id: bench-auth
logsource: {product: linux, service: sshd}
detection: {s: {TargetUserName|startswith: attacker-, AuthOutcome: success}, condition: s}
level: high
---
title: Bench Attack By A Request
id: bench-audit
logsource: {product: kubernetes, service: audit}
detection: {s: {user.username|startswith: attacker-}, condition: s}
level: high
---
title: Bench Attack By A Flow Of A Cloud
id: bench-vpc
logsource: {product: aws, service: vpcflow}
detection: {s: {DestinationPort: 31337}, condition: s}
level: high
---
title: Bench Attack By A Flow Of A Pod
id: bench-hubble
logsource: {product: cilium, service: hubble}
detection: {s: {DestinationPort: 31337}, condition: s}
level: high
---
title: Bench Attack By A Program
id: bench-exec
logsource: {product: linux, category: process_creation}
detection: {s: {Image|endswith: /bench-attack}, condition: s}
level: high
";

/// The sensors, and of a thousand events how many each tells: kernels most, then networks, then the API server and logins.
pub(crate) const SHARES: [(Sensor, u64); 5] = [
    (Sensor::Kernel, 500),
    (Sensor::Vpc, 300),
    (Sensor::Hubble, 100),
    (Sensor::Audit, 70),
    (Sensor::Auth, 30),
];

/// Who tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Sensor {
    Kernel,
    Vpc,
    Hubble,
    Audit,
    Auth,
}

/// Steele, Lea, Flood: splitmix64 (OOPSLA 2014).
#[derive(Debug, Clone)]
pub(crate) struct Chance(pub(crate) u64);

impl Chance {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

/// Makes what is told.
pub(crate) struct Maker {
    chance: Chance,
    number: u64,
    processes: Vec<Arc<Process>>,
}

impl Maker {
    pub(crate) fn new(seed: u64) -> Self {
        let mut chance = Chance(seed);
        let processes = (0..400).map(|n| Arc::new(process(n, &mut chance))).collect();
        Self { chance, number: 0, processes }
    }

    /// A line at `at`; with a number, the attack of that number.
    pub(crate) fn line(&mut self, sensor: Sensor, at: Timestamp, attack: Option<u64>, out: &mut Vec<u8>) {
        self.number += 1;
        let (n, chance) = (self.number, &mut self.chance);
        let mut text = String::with_capacity(1024);
        let done = match sensor {
            Sensor::Kernel => Ok(()),
            Sensor::Vpc => vpc(&mut text, at, attack, chance),
            Sensor::Hubble => hubble(&mut text, at, n, attack, chance),
            Sensor::Audit => audit(&mut text, at, n, attack, chance),
            Sensor::Auth => auth(&mut text, at, attack, chance),
        };
        // Writing into a text cannot fail.
        if done.is_ok() {
            out.extend_from_slice(text.as_bytes());
            out.push(b'\n');
        }
    }

    /// What a node's kernel saw at `at`.
    pub(crate) fn event(&mut self, at: Timestamp, attack: Option<u64>) -> Event {
        self.number += 1;
        let (n, chance) = (self.number, &mut self.chance);
        let mut process = Arc::clone(&self.processes[index(chance, self.processes.len())]);
        let activity = match chance.below(10) {
            _ if attack.is_some() => {
                let own = attack.unwrap_or_default();
                let start = BootNs(n * 1000);
                let pid = Pid(u32::try_from(10_000_000 + own).unwrap_or(1));
                let mut attacker = (*process).clone();
                attacker.key = ProcessKey { pid, start };
                attacker.exe = "/tmp/bench-attack".into();
                attacker.cgroup = CgroupId(1_000_000 + own);
                attacker.workload = Arc::new(Workload::Host { cgroup_path: format!("/bench/{own}") });
                process = Arc::new(attacker);
                Activity::Exec { requested: "/tmp/bench-attack".into() }
            }
            0..4 => {
                let mut program = (*process).clone();
                program.key = ProcessKey { pid: Pid(20_000 + (n % 40_000) as u32), start: BootNs(n * 1000) };
                program.parent = Some(process.key);
                program.exe = format!("/usr/bin/{}", PROGRAMS[index(chance, PROGRAMS.len())]);
                let part = chance.below(100_000);
                program.args = vec![program.exe.clone(), format!("--part={part}"), "/srv/data".into()];
                program.command_line = program.args.join(" ");
                process = Arc::new(program);
                Activity::Exec { requested: process.exe.clone() }
            }
            4..7 => Activity::Connect(flow(chance, 443)),
            _ => Activity::FileOpen {
                file: FilePath {
                    path: format!("/srv/data/{}/part-{}", chance.below(64), chance.below(5000)),
                    truncated: Truncated::No,
                },
                flags: 0,
                created: Created::No,
            },
        };
        Event {
            id: EventId { node: NodeId::new("bench-node"), epoch: AgentEpoch(1), seq: Seq(n) },
            time: at,
            process,
            parent: None,
            ancestors: Arc::new([]),
            exposure: Exposure::None,
            activity,
        }
    }
}

const PROGRAMS: [&str; 12] =
    ["date", "stat", "sort", "grep", "sed", "cat", "tee", "head", "tail", "cut", "tr", "wc"];

fn index(chance: &mut Chance, length: usize) -> usize {
    usize::try_from(chance.below(length as u64)).unwrap_or(0)
}

fn process(n: u64, chance: &mut Chance) -> Process {
    let exe = format!("/usr/sbin/service-{}", n % 40);
    Process {
        key: ProcessKey { pid: Pid(1000 + n as u32), start: BootNs(n * 1_000_000 + 1) },
        parent: Some(ProcessKey { pid: Pid(1), start: BootNs(0) }),
        exe: exe.clone(),
        exe_file: ExeFile::default(),
        command_line: exe.clone(),
        args: vec![exe],
        args_truncated: Truncated::No,
        cwd: "/".into(),
        comm: "service".into(),
        credentials: Credentials::default(),
        namespaces: Namespaces::default(),
        tty: None,
        stdio: Stdio::default(),
        cgroup: CgroupId(100 + n % 40),
        workload: Arc::new(Workload::unit(
            format!("service-{}.service", n % 40),
            format!("/system.slice/service-{}.service", chance.below(40)),
        )),
        origin: ProcessOrigin::Exec,
        exit: None,
    }
}

fn flow(chance: &mut Chance, port: u16) -> Flow {
    let ends = |addr: Ipv4Addr, port| Endpoint { addr: addr.into(), port };
    Flow {
        protocol: Protocol::Tcp,
        local: ends(Ipv4Addr::new(10, 0, 0, 1), 40_000),
        remote: ends(Ipv4Addr::new(10, 1, chance.below(256) as u8, chance.below(256) as u8), port),
    }
}

/// Number of the first interface that is attacked.
pub(crate) const ATTACKED: u64 = 0xa000_0000;

/// Address of an attacker: each attack has its own.
fn attacker(n: u64) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 18, 0, 1)) + u32::try_from(n).unwrap_or(0))
}

fn vpc(out: &mut String, at: Timestamp, attack: Option<u64>, chance: &mut Chance) -> std::fmt::Result {
    let seconds = at.unix_seconds();
    let (source, port) = match attack {
        Some(n) => (attacker(n), 31_337),
        None => (Ipv4Addr::new(10, 2, chance.below(256) as u8, chance.below(256) as u8), 443),
    };
    let (packets, bytes) = (chance.below(90) + 1, chance.below(90_000) + 40);
    // Of an attack the interface says which one it is.
    let interface = attack.map_or_else(|| chance.below(4000), |n| ATTACKED + n);
    write!(
        out,
        "2 123456789010 eni-{interface:08x} {source} 10.3.{}.{} {} {port} 6 {packets} {bytes} {seconds} {seconds} ACCEPT OK",
        chance.below(256),
        chance.below(256),
        30_000 + chance.below(30_000)
    )
}

fn hubble(
    out: &mut String,
    at: Timestamp,
    n: u64,
    attack: Option<u64>,
    chance: &mut Chance,
) -> std::fmt::Result {
    let (source, port) = match attack {
        Some(n) => (attacker(n), 31_337),
        None => (Ipv4Addr::new(10, 244, chance.below(256) as u8, chance.below(256) as u8), 8080),
    };
    let (from, to) = (chance.below(3000), chance.below(3000));
    let pod = attack.map_or_else(|| format!("web-{from}"), |n| format!("attacker-{n}"));
    write!(
        out,
        r#"{{"flow":{{"time":"{at}","uuid":"b{n:031x}","verdict":"FORWARDED","ethernet":{{"source":"aa:bb:cc:00:00:01","destination":"aa:bb:cc:00:00:02"}},"IP":{{"source":"{source}","destination":"10.244.9.{}","ipVersion":"IPv4"}},"l4":{{"TCP":{{"source_port":{},"destination_port":{port},"flags":{{"SYN":true}}}}}},"source":{{"ID":{from},"identity":{from},"namespace":"team-{}","labels":["k8s:app=web","k8s:io.kubernetes.pod.namespace=team-{}"],"pod_name":"{pod}","workloads":[{{"name":"web","kind":"Deployment"}}]}},"destination":{{"ID":{to},"identity":{to},"namespace":"team-1","labels":["k8s:app=api"],"pod_name":"api-{to}"}},"Type":"L3_L4","node_name":"node-{}","is_reply":false,"traffic_direction":"EGRESS","trace_observation_point":"TO_ENDPOINT"}},"node_name":"node-1","time":"{at}"}}"#,
        chance.below(256),
        30_000 + chance.below(30_000),
        from % 40,
        from % 40,
        from % 100
    )
}

fn audit(
    out: &mut String,
    at: Timestamp,
    n: u64,
    attack: Option<u64>,
    chance: &mut Chance,
) -> std::fmt::Result {
    let name = chance.below(5000);
    let (user, from) = match attack {
        Some(n) => (format!("attacker-{n}@example.test"), attacker(n)),
        None => (
            format!("system:serviceaccount:team-{}:controller", name % 40),
            Ipv4Addr::new(10, 244, chance.below(256) as u8, chance.below(256) as u8),
        ),
    };
    let verb = ["get", "list", "watch", "update"][index(chance, 4)];
    write!(
        out,
        r#"{{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"Metadata","auditID":"{n:08x}-5d0e-4c39-9d8a-{n:012x}","stage":"ResponseComplete","requestURI":"/api/v1/namespaces/team-{}/configmaps/part-{name}","verb":"{verb}","user":{{"username":"{user}","groups":["system:authenticated"],"extra":{{"authentication.kubernetes.io/pod-name":["controller-{name}"]}}}},"sourceIPs":["{from}"],"userAgent":"controller/v1.36 (linux/amd64)","objectRef":{{"resource":"configmaps","namespace":"team-{}","name":"part-{name}","apiVersion":"v1"}},"responseStatus":{{"metadata":{{}},"code":200}},"requestReceivedTimestamp":"{at}","stageTimestamp":"{at}","annotations":{{"authorization.k8s.io/decision":"allow","authorization.k8s.io/reason":"RBAC: allowed by ClusterRoleBinding \"controllers\" of ClusterRole \"controller\" to ServiceAccount \"controller/team-{}\""}}}}"#,
        name % 40,
        name % 40,
        name % 40
    )
}

fn auth(out: &mut String, at: Timestamp, attack: Option<u64>, chance: &mut Chance) -> std::fmt::Result {
    let (user, from) = match attack {
        Some(n) => (format!("attacker-{n}"), attacker(n)),
        None => (
            format!("user-{}", chance.below(300)),
            Ipv4Addr::new(10, 9, chance.below(256) as u8, chance.below(256) as u8),
        ),
    };
    let text = at.to_string();
    write!(
        out,
        "{} host-{} sshd[{}]: Accepted publickey for {user} from {from} port {} ssh2: ED25519 SHA256:abc",
        text.trim_end_matches('Z').to_owned() + "+00:00",
        chance.below(200),
        1000 + chance.below(30_000),
        30_000 + chance.below(30_000)
    )
}
