//! The index: answers depend on the facts and not on their order, are certain or say why not, and memory is bounded.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use model::{
    Activity, AgentEpoch, Attribution, BootNs, ContainerFacts, ContainerKind, Event, EventId, Exposure,
    Finding, FindingId, Level, LossWindow, NodeId, Owner, OwnerChain, Pid, PodNetwork, PodOrigin, PodSource,
    Principal, Process, ProcessKey, Reaction, RuleRef, Runtime, Seq, Timestamp, Unresolved, Workload,
};
use proptest::prelude::*;
use respond::gate::Underway;

use super::{
    Pods, Sight,
    fact::{ContainerSeen, ExecSeen, Fact, Life, OwnerSeen, PodSeen, Version},
    index::{Index, Limits},
};

const SECOND: i64 = 1_000_000_000;

fn at(seconds: i64) -> Timestamp {
    Timestamp(seconds * SECOND)
}

fn owner(kind: &str, name: &str) -> Owner {
    Owner {
        api_version: "apps/v1".into(),
        kind: kind.into(),
        name: name.into(),
        uid: format!("uid-{kind}-{name}"),
    }
}

fn seen(name: &str, version: u64) -> PodSeen {
    PodSeen {
        uid: format!("uid-{name}"),
        version: Version(version),
        namespace: "pay".into(),
        name: name.into(),
        labels: BTreeMap::from([("version".into(), version.to_string())]),
        annotations: BTreeMap::new(),
        owner: Some(owner("ReplicaSet", "api-6c9f")),
        service_account: Some("api".into()),
        node: Some(NodeId::new("one")),
        network: PodNetwork::Pod,
        installs_network: None,
        mirror: None,
        addresses: vec!["10.244.0.7".parse().unwrap()],
        life: Life::Lives,
        containers: vec![ContainerSeen { facts: container("api"), ids: vec![format!("id-of-{name}-api")] }],
        created: at(10),
        secrets: Vec::new(),
        host_ports: Vec::new(),
    }
}

fn container(name: &str) -> ContainerFacts {
    ContainerFacts {
        name: name.into(),
        kind: ContainerKind::Regular,
        image: "registry.example/api:1".into(),
        image_id: Some("registry.example/api@sha256:00".into()),
    }
}

fn told(seen: PodSeen) -> Fact {
    Fact::Pod(Box::new(seen), PodSource::Watch)
}

fn above(kind: &str, name: &str, above: Option<Owner>, version: u64) -> Fact {
    Fact::Owner(OwnerSeen { owner: owner(kind, name), version: Version(version), above })
}

fn index_of(facts: impl IntoIterator<Item = Fact>, now: Timestamp) -> Index {
    let mut index = Index::new(Limits::default());
    facts.into_iter().for_each(|fact| index.take(fact, now));
    index
}

fn resolved(index: &Index, uid: &str, container: &str) -> model::PodFacts {
    match index.attribute(&NodeId::new("one"), uid, container) {
        Ok(Attribution::Resolved { pod, .. }) => *pod,
        other => panic!("{uid}: {other:?}"),
    }
}

#[test]
fn a_pod_is_known_with_container_image_account_and_the_chain_of_its_owners() {
    let index = index_of(
        [
            above("ReplicaSet", "api-6c9f", Some(owner("Deployment", "api")), 1),
            above("Deployment", "api", None, 1),
            Fact::Namespace {
                name: "pay".into(),
                version: Version(3),
                labels: BTreeMap::from([("team".into(), "pay".into())]),
                annotations: BTreeMap::new(),
            },
            told(seen("api-0", 5)),
        ],
        at(11),
    );
    let found = index.attribute(&NodeId::new("one"), "uid-api-0", "id-of-api-0-api").unwrap();
    let Attribution::Resolved { pod, container: Some(found), known, source } = found else { panic!() };
    assert_eq!((known, source), (at(11), PodSource::Watch));
    assert_eq!(found, container("api"));
    let kinds: Vec<&str> = pod.owners.iter().map(|owner| owner.kind.as_str()).collect();
    assert_eq!((kinds, pod.chain), (vec!["ReplicaSet", "Deployment"], OwnerChain::Whole));
    assert_eq!(pod.workload().unwrap().name, "api");
    assert_eq!((pod.path().as_str(), pod.service_account.as_deref()), ("pay/api-0", Some("api")));
    assert_eq!(pod.namespace_labels["team"], "pay");
    assert_eq!(
        (index.namespace_label("pay", "team"), index.namespace_label("shop", "team")),
        (Some("pay"), None)
    );
}

#[test]
fn a_rollout_goes_on_while_pods_of_two_templates_of_one_deployment_live() {
    let mut index = index_of(
        [
            above("ReplicaSet", "api-6c9f", Some(owner("Deployment", "api")), 1),
            above("ReplicaSet", "api-7777", Some(owner("Deployment", "api")), 2),
            above("ReplicaSet", "web-1", Some(owner("Deployment", "web")), 2),
            above("Deployment", "api", None, 1),
            above("Deployment", "web", None, 1),
            told(seen("api-0", 5)),
            told(seen("api-1", 5)),
            told(PodSeen { owner: Some(owner("ReplicaSet", "web-1")), ..seen("web-0", 5) }),
        ],
        at(11),
    );
    let asked = |index: &Index, name: &str| index.rollout(&NodeId::new("one"), &format!("uid-{name}"));
    assert_eq!(asked(&index, "api-0"), Underway::None, "two pods of one template, and another Deployment");
    let newer = PodSeen { owner: Some(owner("ReplicaSet", "api-7777")), ..seen("api-2", 6) };
    index.take(told(newer.clone()), at(12));
    for name in ["api-0", "api-2"] {
        assert!(
            matches!(asked(&index, name), Underway::Goes(what) if what.contains("Deployment api")),
            "{name}"
        );
    }
    assert_eq!(asked(&index, "web-0"), Underway::None);
    index.take(Fact::PodGone { uid: "uid-api-0".into() }, at(13));
    index.take(Fact::PodGone { uid: "uid-api-1".into() }, at(13));
    assert_eq!(asked(&index, "api-2"), Underway::None, "the old ones are gone");
    assert_eq!(asked(&index, "nobody"), Underway::None);
}

#[test]
fn an_owner_that_is_not_known_leaves_the_chain_open_and_a_circle_of_owners_ends() {
    let index = index_of([told(seen("api-0", 5))], at(11));
    assert_eq!(resolved(&index, "uid-api-0", "").chain, OwnerChain::Open);
    let index = index_of(
        [
            above("ReplicaSet", "api-6c9f", Some(owner("Deployment", "api")), 1),
            above("Deployment", "api", Some(owner("ReplicaSet", "api-6c9f")), 1),
            told(seen("api-0", 5)),
        ],
        at(11),
    );
    let pod = resolved(&index, "uid-api-0", "");
    assert_eq!((pod.owners.len(), pod.chain), (2, OwnerChain::Open));
}

#[test]
fn a_static_pod_is_found_by_the_hash_that_its_cgroup_is_called_after() {
    let picture = |uid: &str, node: &str| PodSeen {
        uid: uid.into(),
        node: Some(NodeId::new(node)),
        mirror: Some("d4f1b6a3c2e5f7a8b9c0d1e2f3a4b5c6".into()),
        owner: Some(owner("Node", node)),
        ..seen("etcd", 5)
    };
    let hash = "d4f1b6a3c2e5f7a8b9c0d1e2f3a4b5c6";
    let mut index = index_of([told(picture("m-1", "one"))], at(11));
    let pod = resolved(&index, hash, "");
    assert_eq!((pod.uid.as_str(), pod.origin, pod.chain), ("m-1", PodOrigin::Static, OwnerChain::Whole));
    // Deleted through the API it is painted again, and the pod has run all the time.
    index.take(Fact::PodGone { uid: "m-1".into() }, at(20));
    assert_eq!(resolved(&index, hash, "").uid, "m-1");
    index.take(told(picture("m-2", "one")), at(21));
    assert_eq!(resolved(&index, hash, "").uid, "m-2");
    // Another node reports it: not certain.
    let other = index.attribute(&NodeId::new("two"), hash, "");
    assert!(matches!(other, Err(Unresolved::OtherNode { .. })), "{other:?}");
    index.take(told(picture("m-3", "one")), at(22));
    let two = index.attribute(&NodeId::new("one"), hash, "");
    assert!(matches!(two, Err(Unresolved::Ambiguous { count: 2, .. })), "{two:?}");
}

#[test]
fn i9_a_pod_that_another_node_reports_is_not_resolved() {
    let index = index_of([told(seen("api-0", 5))], at(11));
    let error = index.attribute(&NodeId::new("two"), "uid-api-0", "").unwrap_err();
    assert_eq!(error.to_string(), "pod pay/api-0 is on node one and not on two");
    assert!(matches!(
        index.attribute(&NodeId::new("one"), "uid-nobody", ""),
        Err(Unresolved::Unknown { .. })
    ));
}

#[test]
fn a_pod_that_is_gone_is_remembered_for_a_day_and_no_longer() {
    let mut index = index_of([told(seen("api-0", 5))], at(11));
    index.take(Fact::PodGone { uid: "uid-api-0".into() }, at(12));
    let hours = |n: i64| at(12 + n * 3600);
    index.take(Fact::PodsListed { uids: Vec::new() }, hours(23));
    let pod = resolved(&index, "uid-api-0", "");
    assert_eq!(pod.deleted, Some(at(12)));
    index.take(Fact::PodsListed { uids: Vec::new() }, hours(25));
    assert!(index.pod("uid-api-0").is_none());
    assert_eq!((index.size().pods, index.size().gone), (0, 0));
}

#[test]
fn i9_what_is_followed_and_not_told_of_yet_is_not_taken_for_none() {
    let pods = Pods::new(Limits::default(), Arc::new(|| Timestamp(1)));
    assert_eq!(pods.unseen("Node"), None, "a recording tells what it tells");
    pods.see("Node", Sight::Starting);
    assert_eq!(pods.unseen("Node").unwrap(), "not every Node has been told of yet");
    pods.see("Node", Sight::Blind("nodes is forbidden".into()));
    assert_eq!(pods.unseen("Node").unwrap(), "nodes is forbidden");
    pods.see("Node", Sight::Clear);
    assert_eq!(pods.unseen("Node"), None);
}

#[test]
fn what_a_new_list_does_not_name_is_gone() {
    let mut index = index_of([told(seen("api-0", 5)), told(seen("api-1", 6))], at(11));
    index.take(Fact::PodsListed { uids: vec!["uid-api-1".into()] }, at(30));
    assert_eq!(resolved(&index, "uid-api-0", "").deleted, Some(at(30)));
    assert_eq!(resolved(&index, "uid-api-1", "").deleted, None);
}

/// A list that begins anew tells of no deletion: owners and namespaces that went meanwhile would stay for good.
#[test]
fn owners_and_namespaces_that_a_new_list_does_not_name_are_gone_and_those_of_other_kinds_stay() {
    let namespace = |name: &str| Fact::Namespace {
        name: name.into(),
        version: Version(1),
        labels: BTreeMap::from([("team".into(), name.into())]),
        annotations: BTreeMap::new(),
    };
    let sets = ["a", "b"].map(|name| above("ReplicaSet", name, Some(owner("Deployment", name)), 1));
    let deployments = ["a", "b"].map(|name| above("Deployment", name, None, 1));
    let facts = sets.into_iter().chain(deployments).chain([namespace("pay"), namespace("shop")]);
    let mut index = Index::new(Limits { owners: 4, ..Limits::default() });
    facts.for_each(|fact| index.take(fact, at(1)));
    let version = index.node_version(&NodeId::new("one"));
    index.take(Fact::OwnersListed { kind: "ReplicaSet", uids: vec!["uid-ReplicaSet-b".into()] }, at(2));
    index.take(Fact::NamespacesListed(vec!["shop".into()]), at(2));
    assert_eq!(index.namespace_label("pay", "team"), None);
    assert_eq!(index.namespace_label("shop", "team"), Some("shop"));
    assert_ne!(index.node_version(&NodeId::new("one")), version, "nodes are told");
    // There is room for one more, and it is that of the one which is gone.
    index.take(above("ReplicaSet", "c", None, 2), at(3));
    assert_eq!(index.size().overflow, 0);
    index.take(above("ReplicaSet", "d", None, 3), at(3));
    assert_eq!(index.size().overflow, 1, "the Deployments and the other ReplicaSet are there");
}

#[test]
fn an_address_is_a_pods_while_the_pod_has_it_and_a_nodes_is_nobodys() {
    let address = "10.244.0.7".parse().unwrap();
    let mut index = index_of([told(seen("api-0", 5))], at(11));
    index.take(Fact::PodGone { uid: "uid-api-0".into() }, at(20));
    let later = PodSeen { created: at(21), ..seen("web-0", 30) };
    index.take(told(later), at(22));
    assert_eq!(index.pod_at(address, at(15)), Some("uid-api-0"));
    assert_eq!(index.pod_at(address, at(23)), Some("uid-web-0"));
    assert_eq!(index.pod_at(address, at(5)), None);
    let node = "192.0.2.1".parse().unwrap();
    let host = PodSeen { network: PodNetwork::Host, addresses: vec![node], ..seen("proxy", 40) };
    index.take(told(host), at(24));
    assert_eq!(index.pod_at(node, at(25)), None);
    assert_eq!(resolved(&index, "uid-proxy", "").network, PodNetwork::Host);
}

/// A finding about a process of `words`, `start` seconds after boot (at second 1000), with an ancestor outside of the container.
fn finding(words: &str, start: u64, parent: &str) -> Finding {
    let process = |words: &str, pid: u32, container: &str| {
        let mut process = Process::nobody(None, None);
        process.key = ProcessKey { pid: Pid(pid), start: BootNs(start * SECOND as u64) };
        process.command_line = words.into();
        process.args = words.split(' ').map(str::to_owned).collect();
        process.workload = Arc::new(match container {
            "" => Workload::unit("containerd.service", "/system.slice/containerd.service"),
            id => Workload::Container {
                runtime: Runtime::Containerd,
                container_id: id.into(),
                pod_uid: Some("uid-api-0".into()),
                cgroup_path: format!("/kubepods/poduid-api-0/{id}"),
            },
        });
        Arc::new(process)
    };
    let event = Event {
        id: EventId { node: NodeId::new("one"), epoch: AgentEpoch(1), seq: Seq(start) },
        time: at(1000 + i64::try_from(start).unwrap()),
        process: process(words, 77, "id-of-api-0-api"),
        parent: None,
        ancestors: Arc::new([]),
        exposure: Exposure::None,
        activity: Activity::Exec { requested: words.into() },
    };
    Finding {
        id: FindingId::new("fnd-1"),
        rule: RuleRef {
            id: "r".into(),
            title: "t".into(),
            level: Level::High,
            techniques: vec![],
            tactics: vec![],
            reaction: Reaction::None,
        },
        event,
        matched: BTreeMap::new(),
        count: 1,
        first: at(0),
        last: at(0),
        ancestors: vec![process("containerd-shim", 50, parent)],
        context: vec![],
        reactions: vec![],
        moments: model::Moments::default(),
        loss: LossWindow::default(),
    }
}

fn exec(user: &str, command: &str, second: i64) -> Fact {
    Fact::Exec(ExecSeen {
        audit_id: format!("audit-{user}-{second}"),
        at: at(second),
        user: Principal { realm: "kubernetes".into(), name: user.into() },
        origin: None,
        namespace: "pay".into(),
        pod: "api-0".into(),
        command: command.into(),
    })
}

fn users(index: &Index, finding: &Finding) -> Vec<String> {
    index.sessions_of(finding).into_iter().map(|session| session.user.name).collect()
}

#[test]
fn a_session_is_joined_with_the_one_who_asked_for_it() {
    let mut index = index_of([told(seen("api-0", 5)), exec("dana", "/bin/sh -i", 1099)], at(11));
    let shell = finding("/bin/sh -i", 100, "");
    index.learn(&shell);
    assert_eq!(users(&index, &shell), ["dana"]);
    // Other words, a request long before, one for a process that ran already: none of them.
    assert!(users(&index, &finding("/bin/api --serve", 100, "")).is_empty());
    assert!(users(&index, &finding("/bin/sh -i", 300, "")).is_empty());
    assert!(users(&index, &finding("/bin/sh -i", 50, "")).is_empty());
    // Two at once with the same words: nobody is accused alone.
    index.take(exec("eve", "/bin/sh -i", 1099), at(12));
    let mut both = users(&index, &shell);
    both.sort();
    assert_eq!(both, ["dana", "eve"]);
}

#[test]
fn a_session_in_a_pod_that_was_called_so_before_is_not_joined() {
    let mut index = index_of([told(seen("api-0", 5)), exec("dana", "/bin/sh", 1099)], at(11));
    let before = PodSeen { uid: "uid-old".into(), created: at(1), ..seen("api-0", 2) };
    index.take(told(PodSeen { created: at(1100), ..seen("api-0", 7) }), at(1100));
    index.take(told(before), at(1));
    let shell = finding("/bin/sh", 100, "");
    index.learn(&shell);
    assert!(users(&index, &shell).is_empty());
}

#[test]
fn i11_memory_is_bounded_and_what_is_left_out_is_counted() {
    let limits = Limits { pods: 4, gone: 3, owners: 5, namespaces: 2, sessions: 2, ..Limits::default() };
    let mut index = Index::new(limits);
    for n in 0..50 {
        let name = format!("p-{n}");
        index.take(told(seen(&name, n)), at(1));
        index.take(above("ReplicaSet", &name, None, n), at(1));
        index.take(Fact::OwnerGone { uid: format!("uid-ReplicaSet-{name}") }, at(1));
        index.take(exec(&name, "sh", i64::try_from(n).unwrap()), at(1));
        let (labels, annotations) = (BTreeMap::new(), BTreeMap::new());
        index.take(Fact::Namespace { name, version: Version(1), labels, annotations }, at(1));
        index.take(Fact::PodGone { uid: format!("uid-p-{}", n / 2) }, at(i64::try_from(n).unwrap()));
        index.take(Fact::PodGone { uid: format!("never-seen-{n}") }, at(i64::try_from(n).unwrap()));
        let size = index.size();
        assert!(size.pods <= 4 && size.gone <= 3 && size.owners <= 5 && size.sessions <= 2, "{size:?}");
    }
    assert!(index.size().overflow > 0);
}

/// What is told of three pods, their owners and namespaces over some time.
fn history() -> impl Strategy<Value = Vec<Fact>> {
    let one = prop_oneof![
        6 => (0..3_u64, 1..6_u64, 0..3_u8).prop_map(|(pod, version, address)| {
            let name = format!("p-{pod}");
            // The version is the whole object's: the same number never tells two things.
            let version = version * 10 + u64::from(address);
            let mirror = (pod == 2).then(|| "hash".to_owned());
            let addresses = vec![format!("10.244.0.{address}").parse().unwrap()];
            told(PodSeen { mirror, addresses, ..seen(&name, version) })
        }),
        2 => (0..3_u64).prop_map(|pod| Fact::PodGone { uid: format!("uid-p-{pod}") }),
        2 => (1..4_u64).prop_map(|version| {
            let on = (version > 1).then(|| owner("Deployment", "api"));
            above("ReplicaSet", "api-6c9f", on, version)
        }),
        1 => (1..4_u64).prop_map(|version| above("Deployment", "api", None, version)),
        1 => Just(Fact::OwnerGone { uid: "uid-Deployment-api".into() }),
        1 => (1..4_u64).prop_map(|version| Fact::Namespace {
            name: "pay".into(),
            version: Version(version),
            labels: BTreeMap::from([("v".into(), version.to_string())]),
            annotations: BTreeMap::from([("a".into(), version.to_string())]),
        }),
        1 => (0..3_i64).prop_map(|second| exec("dana", "/bin/sh", 1099 + second)),
    ];
    prop::collection::vec(one, 0..40)
}

type Answers = (Vec<Result<Attribution, Unresolved>>, Vec<Option<String>>, Vec<String>);

fn answers(index: &mut Index) -> Answers {
    let node = NodeId::new("one");
    let pods = ["uid-p-0", "uid-p-1", "uid-p-2", "hash", "uid-none"];
    let pods = pods.iter().map(|uid| index.attribute(&node, uid, "id-of-p-0-api")).collect();
    let addresses = (0..3)
        .flat_map(|n| [12, 1000].map(|second| (n, second)))
        .map(|(n, second)| {
            let address = format!("10.244.0.{n}").parse().unwrap();
            index.pod_at(address, at(second)).map(str::to_owned)
        })
        .collect();
    let shell = finding("/bin/sh", 100, "");
    index.learn(&shell);
    (pods, addresses, users(index, &shell))
}

proptest! {
    #[test]
    fn answers_depend_on_the_facts_and_not_on_their_order(
        (facts, shuffled) in history().prop_flat_map(|facts| (Just(facts.clone()), Just(facts).prop_shuffle())),
        again in prop::collection::vec(any::<prop::sample::Index>(), 0..10),
    ) {
        let mut one = index_of(facts.clone(), at(900));
        let repeated = again.iter().filter(|_| !facts.is_empty()).map(|n| n.get(&facts).clone());
        let mut other = index_of(shuffled.into_iter().chain(repeated.collect::<Vec<_>>()), at(900));
        prop_assert_eq!(answers(&mut one), answers(&mut other));
    }

    #[test]
    fn i11_any_history_stays_within_the_limits(facts in history(), hours in prop::collection::vec(0..60_i64, 40)) {
        let limits = Limits { pods: 2, gone: 1, owners: 1, namespaces: 1, sessions: 1, remember: Duration::from_secs(3600) };
        let mut index = Index::new(limits);
        for (fact, hour) in facts.into_iter().zip(hours) {
            index.take(fact, at(hour * 3600));
            let size = index.size();
            prop_assert!(size.pods <= 2 && size.gone <= 1 && size.owners <= 1 && size.sessions <= 1, "{:?}", size);
        }
    }
}

/// A request from `address` that the API server's log tells of, at second 1002.
fn request(address: std::net::IpAddr) -> Finding {
    let record = model::Record {
        kind: model::RecordKind::KubernetesAudit,
        id: "audit-1".into(),
        principal: None,
        origin: Some(address),
        object: None,
        sight: None,
        writer: None,
        facts: model::Facts::default(),
    };
    let mut finding = finding("sh -c id", 2, "");
    finding.event = record.into_event(&NodeId::new("kubernetes:audit"), at(1002));
    finding
}

#[test]
fn what_is_called_otherwise_is_told_where_it_is_certain() {
    use detect::incident::{Alias, Key};
    let mut index = Index::new(Limits::default());
    let address = "10.244.0.9".parse().unwrap();
    let own = Key::Pod { uid: "uid-api-0".into() };
    let mut from = request(address);
    assert_eq!(index.aliases(&from), [], "nobody has told of it");
    // Another pod had it for a while, before and after.
    let holder = PodSeen { addresses: vec![address], created: at(1001), ..seen("db-0", 10) };
    index.take(told(holder), at(1001));
    let is = Key::Pod { uid: "uid-db-0".into() };
    let expected = Alias { of: Some(Key::Address { addr: address }), is };
    assert_eq!(index.aliases(&from), [expected]);
    from.event.time = at(1000);
    assert_eq!(index.aliases(&from), [], "it was not its own yet");
    // With whom a process speaks did nothing: anybody can be dialled.
    let mut with = finding("sh -c id", 2, "");
    with.event.activity = Activity::Connect(model::Flow {
        protocol: model::Protocol::Tcp,
        local: model::Endpoint { addr: "10.244.0.1".parse().unwrap(), port: 1 },
        remote: model::Endpoint { addr: address, port: 80 },
    });
    assert_eq!(index.aliases(&with), []);
    // Who opened the session; of two nobody is certain. From another pod it is that one's address, and not this one's.
    index.take(told(seen("api-0", 20)), at(1002));
    index.learn(&with);
    let exec_from = |user: &str, second, origin| match exec(user, "sh -c id", second) {
        Fact::Exec(seen) => Fact::Exec(ExecSeen { origin: Some(origin), ..seen }),
        other => other,
    };
    index.take(exec_from("dana", 1001, address), at(1003));
    let alias = |is: Key| Alias { of: None, is };
    let dana = Key::Principal { who: Principal { realm: "kubernetes".into(), name: "dana".into() } };
    assert_eq!(index.aliases(&with), [alias(dana.clone())]);
    let outside = "192.0.2.10".parse().unwrap();
    index.take(exec_from("dana", 1002, outside), at(1003));
    let bastion = Key::Address { addr: outside };
    assert_eq!(index.aliases(&with), [alias(bastion), alias(dana)]);
    index.take(exec("eve", "sh -c id", 1001), at(1003));
    assert_eq!(index.aliases(&with), []);
    assert!(detect::incident::keys_of(&with).contains(&own));
}

/// Of what may stand in annotations only what says what is at stake is kept, and an older version changes nothing of it.
#[test]
fn i11_annotations_that_are_looked_at_are_kept_and_no_others() {
    let objects = |value: &str, version: &str| {
        let marks = serde_json::json!({"data.example.com/class": value, "last-applied": "x".repeat(4096)});
        serde_json::json!({"items": [
            {"kind": "Namespace", "metadata": {"name": "pay", "resourceVersion": version, "annotations": marks}},
            {"kind": "Pod", "metadata": {
                "uid": "u", "namespace": "pay", "name": "p", "resourceVersion": version, "annotations": marks}},
        ]})
        .to_string()
    };
    let policy = "classes: [{class: red, annotations: {data.example.com/class: r}}]";
    let classes = enrich::Classes::parse("policy", policy).unwrap();
    let mut index = Index::new(Limits::default());
    for (value, version) in [("r", "7"), ("g", "6")] {
        let facts = super::listed::facts(objects(value, version).as_bytes(), &classes.annotations()).unwrap();
        facts.into_iter().for_each(|(_, fact)| index.take(fact, at(1)));
    }
    let pod = index.pod("u").unwrap();
    let kept = BTreeMap::from([("data.example.com/class".to_owned(), "r".to_owned())]);
    assert_eq!((&pod.annotations, &pod.namespace_annotations), (&kept, &kept));
    assert_eq!(classes.of(&pod).unwrap().name, "red");
}
