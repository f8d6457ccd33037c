//! A cluster over a year, with a known truth about everything that its sensors tell.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use controller::attribute::fact::{ContainerSeen, Fact, Life, OwnerSeen, PodSeen, Version};
use controller::replay::Item;
use model::{
    AgentEpoch, BootNs, CgroupId, ContainerFacts, ContainerKind, Event, EventId, LossWindow, NodeId, Owner,
    Pid, PodNetwork, PodSource, Process, ProcessKey, Runtime, Seq, Timestamp, Workload,
};

use super::load::Chance;

/// What the year is made of. Everything that is not said here comes from the seed.
#[derive(Debug, Clone)]
pub(crate) struct Parameters {
    pub(crate) seed: u64,
    pub(crate) days: u64,
    pub(crate) namespaces: u64,
    pub(crate) workloads: u64,
    pub(crate) nodes: u64,
    /// Attacks in a year, each on one pod.
    pub(crate) attacks: u64,
    /// Scheduled jobs that do each night what a rule takes for an attack.
    pub(crate) jobs: u64,
    /// Pipelines' runs a day that do so.
    pub(crate) pipelines: u64,
    /// Sweeps of a scanner over all namespaces in a year.
    pub(crate) scans: u64,
    /// Moves of data over 14 namespaces by one operator's image in a year.
    pub(crate) migrations: u64,
    /// People who do by hand, in an ordinary pod, what a rule takes for an attack, in a year: nothing but their word tells it apart.
    pub(crate) people: u64,
}

impl Default for Parameters {
    fn default() -> Self {
        Self {
            seed: super::load::SEED,
            days: 365,
            namespaces: 40,
            workloads: 12,
            nodes: 50,
            attacks: 20_000,
            jobs: 6,
            pipelines: 10,
            scans: 52,
            migrations: 24,
            people: 50,
        }
    }
}

impl Parameters {
    /// A quiet place: three attacks a day, so that each mistake weighs long.
    pub(crate) fn few() -> Self {
        Self { attacks: 1_000, pipelines: 1, scans: 12, migrations: 4, people: 3, ..Self::default() }
    }
}

/// What something was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Truth {
    Attack,
    Job,
    Pipeline,
    Scan,
    Migration(u64),
    Person,
}

/// A year.
pub(crate) struct World {
    pub(crate) items: Vec<Item>,
    pub(crate) facts: Vec<(Timestamp, Fact)>,
    /// By event.
    pub(crate) truth: Arc<BTreeMap<String, Truth>>,
}

const BEGIN: i64 = 1_767_225_600;
const DAY: i64 = 86_400;

struct Pod {
    uid: String,
    container: String,
    node: NodeId,
}

struct Maker<'a> {
    chance: Chance,
    templates: &'a [Event],
    parameters: &'a Parameters,
    facts: Vec<(Timestamp, Fact)>,
    events: Vec<(Timestamp, Event)>,
    truth: BTreeMap<String, Truth>,
    pods: u64,
}

/// Makes a year. `templates` are events that a shipped rule takes for an attack, and that a shipped playbook answers.
pub(crate) fn make(parameters: &Parameters, templates: &[Event]) -> World {
    let mut maker = Maker {
        chance: Chance(parameters.seed),
        templates,
        parameters,
        facts: Vec::new(),
        events: Vec::new(),
        truth: BTreeMap::new(),
        pods: 0,
    };
    let mut services = Vec::new();
    for namespace in 0..parameters.namespaces {
        for workload in 0..parameters.workloads {
            let owner = maker.owner("Deployment", &format!("service-{workload}"), BEGIN);
            let image = format!("registry.example/team-{namespace}/service-{workload}:1");
            services.push(maker.pod(namespace, owner, &image, &[], BEGIN));
        }
    }
    let year = parameters.days * DAY as u64;
    for _ in 0..parameters.attacks {
        let at = maker.moment(year);
        let pod = services[maker.index(services.len())].clone_of();
        maker.tell(&pod, at, Truth::Attack);
    }
    for _ in 0..parameters.people {
        let at = maker.moment(year);
        let pod = services[maker.index(services.len())].clone_of();
        maker.tell(&pod, at, Truth::Person);
    }
    for job in 0..parameters.jobs {
        let owner = maker.owner("CronJob", &format!("nightly-{job}"), BEGIN);
        let namespace = maker.chance.below(parameters.namespaces);
        for day in 0..parameters.days {
            let at = BEGIN + day as i64 * DAY + 7200 + job as i64 * 600;
            let image = format!("registry.example/jobs/nightly-{job}:1");
            let pod = maker.pod(namespace, owner.clone(), &image, &[], at - 5);
            maker.tell(&pod, at, Truth::Job);
        }
    }
    for day in 0..parameters.days {
        for _ in 0..parameters.pipelines {
            let at = BEGIN + day as i64 * DAY + maker.chance.below(DAY as u64) as i64;
            let labels = [("tekton.dev/taskRun", "build")];
            let namespace = maker.chance.below(parameters.namespaces);
            let pod = maker.pod(namespace, None, "registry.example/build:1", &labels, at - 5);
            maker.tell(&pod, at, Truth::Pipeline);
        }
    }
    for _ in 0..parameters.scans {
        let at = maker.moment(year);
        let owner = maker.owner("DaemonSet", "scanner", at - 60);
        for namespace in 0..parameters.namespaces {
            let pod = maker.pod(namespace, owner.clone(), "registry.example/scanner:1", &[], at - 30);
            maker.tell(&pod, at + namespace as i64 * 20, Truth::Scan);
        }
    }
    for number in 0..parameters.migrations {
        let at = maker.moment(year);
        let first = maker.chance.below(parameters.namespaces);
        for step in 0..14 {
            let owner = maker.owner("Deployment", "mover", at - 60);
            let namespace = (first + step) % parameters.namespaces;
            let image = format!("registry.example/mover-{number}:1");
            let pod = maker.pod(namespace, owner, &image, &[], at - 30);
            maker.tell(&pod, at + step as i64 * 120, Truth::Migration(number));
        }
    }
    let Maker { mut facts, mut events, truth, .. } = maker;
    facts.sort_by_key(|(at, _)| *at);
    events.sort_by_key(|(at, _)| *at);
    let items = events
        .into_iter()
        .map(|(_, event)| Item::Event {
            event: Box::new(event),
            context: vec![],
            loss: LossWindow::default(),
        })
        .collect();
    World { items, facts, truth: Arc::new(truth) }
}

impl Pod {
    fn clone_of(&self) -> Self {
        Self { uid: self.uid.clone(), container: self.container.clone(), node: self.node.clone() }
    }
}

impl Maker<'_> {
    fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.chance.below(length as u64)).unwrap_or(0)
    }

    fn moment(&mut self, within: u64) -> i64 {
        BEGIN + 3600 + self.chance.below(within.saturating_sub(7200)) as i64
    }

    fn owner(&mut self, kind: &str, name: &str, at: i64) -> Option<Owner> {
        self.pods += 1;
        let owner = Owner {
            api_version: if kind == "CronJob" { "batch/v1" } else { "apps/v1" }.into(),
            kind: kind.into(),
            name: name.into(),
            uid: format!("00000000-0000-4000-9000-{:012x}", self.pods),
        };
        let seen = OwnerSeen { owner: owner.clone(), version: Version(self.pods), above: None };
        self.facts.push((seconds(at), Fact::Owner(seen)));
        Some(owner)
    }

    fn pod(
        &mut self,
        namespace: u64,
        owner: Option<Owner>,
        image: &str,
        labels: &[(&str, &str)],
        at: i64,
    ) -> Pod {
        self.pods += 1;
        let n = self.pods;
        let uid = format!("00000000-0000-4000-8000-{n:012x}");
        let container = format!("{n:064x}");
        let node = NodeId::new(format!("node-{}", n % self.parameters.nodes));
        let facts = ContainerFacts {
            name: "main".into(),
            image: image.into(),
            image_id: None,
            kind: ContainerKind::Regular,
        };
        let name = format!("{}-{n}", owner.as_ref().map_or("pod", |owner| owner.name.as_str()));
        let seen = PodSeen {
            uid: uid.clone(),
            version: Version(n),
            namespace: format!("team-{namespace}"),
            name,
            labels: labels.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect(),
            annotations: BTreeMap::new(),
            owner,
            service_account: None,
            node: Some(node.clone()),
            installs_network: None,
            network: PodNetwork::Pod,
            mirror: None,
            addresses: vec![IpAddr::from([10, 244, (n >> 8) as u8, n as u8])],
            life: Life::Lives,
            containers: vec![ContainerSeen { facts, ids: vec![container.clone()] }],
            created: seconds(at),
            secrets: Vec::new(),
            host_ports: Vec::new(),
        };
        self.facts.push((seconds(at), Fact::Pod(Box::new(seen), PodSource::Watch)));
        Pod { uid, container, node }
    }

    /// Something that a rule takes for an attack, in a pod.
    fn tell(&mut self, pod: &Pod, at: i64, truth: Truth) {
        let n = self.events.len() as u64 + 1;
        let template = &self.templates[self.chance.below(self.templates.len() as u64) as usize];
        let mut process: Process = (*template.process).clone();
        process.key = ProcessKey { pid: Pid(1000 + (n % 4_000_000) as u32), start: BootNs(n * 1_000_000) };
        process.parent = None;
        process.cgroup = CgroupId(n);
        process.workload = Arc::new(Workload::Container {
            runtime: Runtime::Containerd,
            container_id: pod.container.clone(),
            pod_uid: Some(pod.uid.clone()),
            cgroup_path: format!("/kubepods/burstable/pod{}/{}", pod.uid, pod.container),
        });
        let id = EventId { node: pod.node.clone(), epoch: AgentEpoch(1), seq: Seq(n) };
        self.truth.insert(id.to_string(), truth);
        let time = Timestamp(seconds(at).0 + (n % 1_000_000) as i64);
        let event = Event {
            id,
            time,
            process: Arc::new(process),
            parent: None,
            ancestors: Arc::new([]),
            ..template.clone()
        };
        self.events.push((time, event));
    }
}

fn seconds(at: i64) -> Timestamp {
    Timestamp(at * 1_000_000_000)
}
