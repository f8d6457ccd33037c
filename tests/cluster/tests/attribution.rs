//! Attribution on a real cluster: what the kernel's cgroups say of containers, joined with what the API server and its audit log say of pods.

#![expect(clippy::unwrap_used, reason = "a test of its own; what cannot be done fails it")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use controller::{
    attribute::{Pods, WatchConfig, index::Limits, watch},
    ingest::{
        Format,
        read::{Place, Reader, Zone},
    },
    wall_clock,
};
use hemostat_cluster_tests::{Xtask, audited, cgroup, state, traces};
use model::{
    Activity, AgentEpoch, Attribution, BootNs, ContainerKind, Event, EventId, Exposure, Finding, FindingId,
    Level, LossWindow, NodeId, OwnerChain, Pid, PodFacts, PodNetwork, PodOrigin, Process, ProcessKey,
    Reaction, RuleRef, Runtime, Seq, Workload,
};
use tokio_util::sync::CancellationToken;

struct Down<'a>(&'a Xtask);

impl Drop for Down<'_> {
    fn drop(&mut self) {
        let _best_effort = self.0.cluster(&["down"]);
    }
}

const IMAGE: &str = "hemostat.dev/busybox:1";

/// Every container's cgroup that ever was, seen by a thread that looks all the time: what an agent's events tell it by id.
struct Census {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<BTreeSet<PathBuf>>>,
}

impl Census {
    fn start() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut seen = BTreeSet::new();
            while !told.load(Ordering::Relaxed) {
                look(&cgroup(), &mut seen);
                std::thread::sleep(Duration::from_millis(2));
            }
            seen
        });
        Self { stop, thread: Some(thread) }
    }

    /// Pod uid and container id of each, and its path.
    fn end(mut self) -> BTreeMap<(String, String), PathBuf> {
        self.stop.store(true, Ordering::Relaxed);
        let seen = self.thread.take().unwrap().join().unwrap();
        seen.into_iter()
            .filter_map(|path| match parse(path.to_str()?) {
                Workload::Container { pod_uid: Some(uid), container_id, .. } => {
                    Some(((uid, container_id), path))
                }
                _ => None,
            })
            .collect()
    }
}

/// The cgroupfs driver's names, which this cluster has: `…/kubepods/<class>/pod<uid>/<container id>`. The agent's own reader knows all others
/// and is tested beside itself.
fn parse(path: &str) -> Workload {
    let parts: Vec<&str> = path.split('/').collect();
    let pod = parts.iter().position(|part| part.starts_with("pod") && part.len() > 32);
    match pod.and_then(|at| Some((parts.get(at)?.strip_prefix("pod")?, parts.get(at + 1)?))) {
        Some((uid, id)) if id.len() == 64 => Workload::Container {
            runtime: Runtime::Unnamed,
            container_id: (*id).to_owned(),
            pod_uid: Some(uid.to_owned()),
            cgroup_path: path.to_owned(),
        },
        _ => Workload::Host { cgroup_path: path.to_owned() },
    }
}

fn look(folder: &Path, seen: &mut BTreeSet<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            look(&entry.path(), seen);
            seen.insert(entry.path());
        }
    }
}

#[test]
fn every_container_of_a_real_cluster_is_attributed_and_an_exec_session_to_its_user() {
    let Some(xtask) = Xtask::here() else { return };
    xtask.cluster(&["down"]).unwrap();
    let down = Down(&xtask);
    xtask.cluster(&["up"]).unwrap();
    let kubeconfig = xtask.cluster(&["kubeconfig"]).unwrap();
    let pods = Pods::new(Limits::default(), wall_clock());
    let stop = CancellationToken::new();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let watching = runtime.spawn(watching(pods.clone(), kubeconfig.trim().to_owned(), stop.clone()));
    until("the API server tells of all pods", || pods.sight("Pod") == controller::attribute::Sight::Clear);

    let census = Census::start();
    fs::create_dir_all(state().join("static-pods")).unwrap();
    fs::write(state().join("static-pods/fixed.yaml"), fixed()).unwrap();
    let manifest = state().join("attribution.json");
    fs::write(&manifest, workloads()).unwrap();
    xtask.kubectl(&["apply", "--filename", manifest.to_str().unwrap()]).unwrap();
    xtask.kubectl(&["rollout", "status", "deployment/api", "--timeout=90s"]).unwrap();
    xtask.kubectl(&["wait", "--for=condition=Ready", "pod/host", "--timeout=60s"]).unwrap();
    for short in ["short-0", "short-1", "short-2"] {
        let ended = "--for=jsonpath={.status.phase}=Succeeded";
        xtask.kubectl(&["wait", ended, &format!("pod/{short}"), "--timeout=60s"]).unwrap();
        xtask.kubectl(&["delete", "pod", short]).unwrap();
    }
    let name =
        xtask.kubectl(&["get", "pods", "-l", "app=api", "-o", "jsonpath={.items[0].metadata.name}"]).unwrap();
    let name = name.trim();
    xtask
        .kubectl(&[
            "debug",
            name,
            "--quiet",
            "--profile=general",
            "--container=look",
            "--image",
            IMAGE,
            "--image-pull-policy=Never",
            "--",
            "/bin/sleep",
            "7",
        ])
        .unwrap();
    let session = std::thread::spawn({
        let (xtask, name) = (xtask.clone(), name.to_owned());
        move || xtask.kubectl(&["exec", &name, "--container", "api", "--", "/bin/sleep", "5.25"]).unwrap()
    });
    let found = session_finding("/bin/sleep\x005.25\0");
    pods.learn(&found);
    session.join().unwrap();
    until("the audit log tells of the session", || {
        hear(&pods);
        !pods.sessions_of(&found).is_empty()
    });
    let sessions = pods.sessions_of(&found);
    assert_eq!(sessions.len(), 1, "{sessions:?}");
    assert_eq!(sessions[0].user.to_string(), "hemostat-dev@kubernetes");
    assert_eq!(
        (sessions[0].command.as_str(), &sessions[0].pod),
        ("/bin/sleep 5.25", &format!("default/{name}"))
    );

    let node = node_name(&xtask);
    let containers = census.end();
    let mut names = BTreeMap::<String, BTreeSet<String>>::new();
    let mut facts = BTreeMap::<String, PodFacts>::new();
    // Sandboxes have no name: each pod has one cgroup more than containers.
    let mut cgroups = BTreeMap::<String, usize>::new();
    until("the kubelet has told of every container", || {
        names.clear();
        cgroups.clear();
        for (uid, container) in containers.keys() {
            match pods.find(&node, uid, container) {
                Attribution::Resolved { pod, container, .. } => {
                    *cgroups.entry(pod.name.clone()).or_default() += 1;
                    let of_pod = names.entry(pod.name.clone()).or_default();
                    of_pod.extend(container.map(|one| format!("{:?} {} {}", one.kind, one.name, one.image)));
                    facts.insert(pod.name.clone(), *pod);
                }
                other => panic!("{uid}/{container}: {other:?}"),
            }
        }
        names.iter().all(|(pod, named)| named.len() + 1 == cgroups[pod])
    });
    let regular = |name: &str| format!("{:?} {name} {IMAGE}", ContainerKind::Regular);
    for short in ["short-0", "short-1", "short-2"] {
        assert_eq!(names[short], [regular("one")].into(), "{short}");
        assert!(facts[short].deleted.is_some(), "{short} is remembered as gone");
    }
    let api = &facts[name];
    let kinds: Vec<(&str, &str)> = api.owners.iter().map(|o| (o.kind.as_str(), o.name.as_str())).collect();
    assert_eq!((kinds[0].0, kinds[1], api.chain), ("ReplicaSet", ("Deployment", "api"), OwnerChain::Whole));
    assert_eq!(api.service_account.as_deref(), Some("default"));
    let expected = [
        regular("api"),
        format!("{:?} prepare {IMAGE}", ContainerKind::Init),
        format!("{:?} look {IMAGE}", ContainerKind::Ephemeral),
    ];
    assert_eq!(names[name], expected.into());
    assert_eq!((facts["host"].network, facts["host"].origin), (PodNetwork::Host, PodOrigin::Api));
    let fixed = facts.iter().find(|(name, _)| name.starts_with("fixed-")).expect("the static pod").1;
    assert_eq!((fixed.origin, fixed.owners[0].kind.as_str()), (PodOrigin::Static, "Node"));
    assert!(!containers.keys().any(|(uid, _)| *uid == fixed.uid), "its cgroup is called after a hash");
    assert_eq!(pods.pod_at(api.addresses[0], wall_clock()()).unwrap().uid, api.uid);
    println!("{} containers of {} pods attributed: {names:#?}", containers.len(), facts.len());

    stop.cancel();
    runtime.block_on(watching).unwrap();
    drop(down);
    assert_eq!(traces(), [].into());
}

async fn watching(pods: Pods, kubeconfig: String, stop: CancellationToken) {
    let read = kube::config::Kubeconfig::read_from(kubeconfig).unwrap();
    let config = kube::Config::from_custom_kubeconfig(read, &Default::default()).await.unwrap();
    watch(pods, kube::Client::try_from(config).unwrap(), WatchConfig::default(), stop).await;
}

/// Hands the whole audit log to the attribution; what it heard before it takes for the same.
fn hear(pods: &Pods) {
    let mut reader = Reader::new(Format::KubernetesAudit, Zone::UTC);
    let mut told = Vec::new();
    for entry in audited().unwrap() {
        let place = Place { offset: 0, now: wall_clock()() };
        reader.read(entry.to_string().as_bytes(), place, &mut told).unwrap();
    }
    told.iter().for_each(|one| pods.heard(&one.record, one.time));
}

/// A finding about the process of these words, read from /proc as soon as it is there.
fn session_finding(words: &str) -> Finding {
    let mut found = None;
    until("the session's process", || {
        found = fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
            let path = entry.path();
            (fs::read_to_string(path.join("cmdline")).ok()? == words).then_some(())?;
            let workload = workload(&path)?;
            Some((process(&path, words, workload)?, path))
        });
        found.is_some()
    });
    let (own, path) = found.unwrap();
    let stat = fs::read_to_string(path.join("stat")).unwrap();
    let parent = stat.rsplit_once(") ").unwrap().1.split(' ').nth(1).unwrap().to_owned();
    let above = PathBuf::from(format!("/proc/{parent}"));
    // The shim: outside of every container.
    let outside = Workload::Host { cgroup_path: "/".into() };
    let shim = process(&above, "containerd-shim", workload(&above).unwrap_or(outside)).unwrap();
    let event = Event {
        id: EventId { node: NodeId::new(NODE), epoch: AgentEpoch(1), seq: Seq(1) },
        time: wall_clock()(),
        process: Arc::new(own),
        parent: None,
        ancestors: Arc::new([]),
        exposure: Exposure::None,
        activity: Activity::Exec { requested: "/bin/sleep".into() },
    };
    let rule = RuleRef {
        id: "r".into(),
        title: "t".into(),
        level: Level::High,
        techniques: vec![],
        tactics: vec![],
        reaction: Reaction::None,
    };
    Finding {
        id: FindingId::new("fnd-1"),
        rule,
        first: event.time,
        last: event.time,
        event,
        matched: BTreeMap::new(),
        count: 1,
        ancestors: vec![Arc::new(shim)],
        context: vec![],
        reactions: vec![],
        moments: model::Moments::default(),
        loss: LossWindow::default(),
    }
}

fn workload(process: &Path) -> Option<Workload> {
    let text = fs::read_to_string(process.join("cgroup")).ok()?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    Some(parse(path)).filter(|found| matches!(found, Workload::Container { .. }))
}

fn process(path: &Path, words: &str, workload: Workload) -> Option<Process> {
    let stat = fs::read_to_string(path.join("stat")).ok()?;
    let start: u64 = stat.rsplit_once(") ")?.1.split(' ').nth(19)?.parse().ok()?;
    let mut process = Process::nobody(None, None);
    let pid = path.file_name()?.to_str()?.parse().ok()?;
    // Hundredths of a second since boot (proc_pid_stat(5), field 22; USER_HZ).
    process.key = ProcessKey { pid: Pid(pid), start: BootNs(start * 10_000_000) };
    process.args = words.trim_end_matches('\0').split('\0').map(str::to_owned).collect();
    process.command_line = process.args.join(" ");
    process.workload = Arc::new(workload);
    Some(process)
}

/// As the cluster calls it.
const NODE: &str = "node-1";

fn node_name(xtask: &Xtask) -> NodeId {
    let name = xtask.kubectl(&["get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"]).unwrap();
    NodeId::new(name.trim())
}

fn until(what: &str, mut so: impl FnMut() -> bool) {
    let patience = Instant::now() + Duration::from_secs(60);
    while !so() {
        assert!(Instant::now() < patience, "it did not come about: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn fixed() -> String {
    format!(
        r#"{{"apiVersion": "v1", "kind": "Pod", "metadata": {{"name": "fixed", "namespace": "default"}}, "spec": {{"containers": [
        {{"name": "one", "image": "{IMAGE}", "imagePullPolicy": "Never", "command": ["/bin/sleep", "3600"]}}]}}}}"#
    )
}

fn workloads() -> String {
    let container = |name: &str, words: &str| {
        format!(
            r#"{{"name": "{name}", "image": "{IMAGE}", "imagePullPolicy": "Never", "command": ["/bin/sleep", "{words}"]}}"#
        )
    };
    let short = |n: usize| {
        format!(
            r#"{{"apiVersion": "v1", "kind": "Pod", "metadata": {{"name": "short-{n}"}}, "spec": {{"restartPolicy": "Never",
            "containers": [{}]}}}}"#,
            container("one", "0.1")
        )
    };
    let host = format!(
        r#"{{"apiVersion": "v1", "kind": "Pod", "metadata": {{"name": "host"}}, "spec": {{"hostNetwork": true, "terminationGracePeriodSeconds": 0,
        "containers": [{}]}}}}"#,
        container("one", "3600")
    );
    let api = format!(
        r#"{{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {{"name": "api"}}, "spec": {{"replicas": 1,
        "selector": {{"matchLabels": {{"app": "api"}}}}, "template": {{"metadata": {{"labels": {{"app": "api"}}}}, "spec": {{
        "terminationGracePeriodSeconds": 0, "initContainers": [{}], "containers": [{}]}}}}}}}}"#,
        container("prepare", "0.3"),
        container("api", "3600")
    );
    format!(
        r#"{{"apiVersion": "v1", "kind": "List", "items": [{}, {}, {}, {host}, {api}]}}"#,
        short(0),
        short(1),
        short(2)
    )
}
