//! What has several names: known when a finding comes, or only later.

use super::*;

fn pod(n: u32) -> Key {
    Key::Pod { uid: format!("pod-{n}") }
}

fn person(n: u32) -> Key {
    Key::Principal { who: Principal { realm: "kubernetes".into(), name: format!("dana{n}") } }
}

fn alias(is: Key) -> Alias {
    Alias { of: None, is }
}

/// What a finding is called, too.
#[derive(Debug, Clone)]
struct Called {
    seed: Seed,
    aliases: Vec<Alias>,
}

/// What comes: a finding, with as many of its aliases as are known by then, or the others of a finding that may not have come yet.
#[derive(Debug, Clone, Copy)]
enum Comes {
    Finding(usize, usize),
    Aliases(usize),
}

fn partition_as_it_comes(all: &[Called], order: &[Comes], window: u64) -> BTreeSet<BTreeSet<u64>> {
    let mut correlator = Correlator::new(config(window));
    let mut members: BTreeMap<IncidentId, BTreeSet<u64>> = BTreeMap::new();
    let mut merged = |placed: Placement, seq: u64| {
        let mut together = BTreeSet::from([seq]);
        for id in placed.absorbed.iter().chain([&placed.incident]) {
            together.extend(members.remove(id).unwrap_or_default());
        }
        members.insert(placed.incident.clone(), together);
        members.iter().map(|(id, seqs)| (id.clone(), seqs.clone())).collect::<Vec<_>>()
    };
    let mut known: Vec<(IncidentId, BTreeSet<u64>)> = Vec::new();
    for comes in order {
        match comes {
            Comes::Finding(n, told) => {
                let one = &all[*n];
                let (finding, told) = (one.seed.finding(), (*told).min(one.aliases.len()));
                let name = incident_of(&finding);
                let placed = correlator.place_as(&finding, &one.aliases[..told], name, at(1_000_000));
                known = merged(placed, one.seed.seq);
            }
            Comes::Aliases(n) => {
                let one = &all[*n];
                // Nobody asks for the aliases of what has not come.
                let Some((incident, _)) = known.iter().find(|(_, of)| of.contains(&one.seed.seq)) else {
                    continue;
                };
                let finding = one.seed.finding();
                if let Some(placed) = correlator.learn(incident, &finding, &one.aliases, at(1_000_000)) {
                    known = merged(placed, one.seed.seq);
                }
            }
        }
    }
    known.into_iter().map(|(_, seqs)| seqs).collect()
}

/// Connected by a key or another name of it within the window.
fn by_definition(all: &[Called], window: u64) -> BTreeSet<BTreeSet<u64>> {
    let keys = |one: &Called| {
        let also = one.aliases.iter().map(|alias| alias.is.clone());
        keys_of(&one.seed.finding()).into_iter().chain(also).collect::<Vec<_>>()
    };
    let mut component: Vec<usize> = (0..all.len()).collect();
    for i in 0..all.len() {
        for j in 0..i {
            let near = all[i].seed.second.abs_diff(all[j].seed.second) <= window;
            let (one, other) = (keys(&all[i]), keys(&all[j]));
            if near && one.iter().any(|key| other.iter().any(|other| key.meets(other))) {
                let (from, to) = (component[i], component[j]);
                component.iter_mut().filter(|c| **c == from).for_each(|c| *c = to);
            }
        }
    }
    let mut sets: BTreeMap<usize, BTreeSet<u64>> = BTreeMap::new();
    for (one, c) in all.iter().zip(component) {
        sets.entry(c).or_default().insert(one.seed.seq);
    }
    sets.into_values().collect()
}

prop_compose! {
    fn any_called()(seed in any_seed(), pods in prop::collection::vec(0u32..4, 0..2),
                    people in prop::collection::vec(0u32..3, 0..2)) -> Called {
        let aliases = pods.into_iter().map(pod).chain(people.into_iter().map(person)).map(alias).collect();
        Called { seed, aliases }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// In any order, late, twice, and whenever it becomes known what is called how: the same incidents.
    #[test]
    fn when_a_name_is_learnt_makes_no_difference(
        mut all in prop::collection::vec(any_called(), 1..12),
        window in 30u64..90,
        before in prop::collection::vec((any::<prop::sample::Index>(), 0usize..3, any::<bool>()), 0..40),
        last in any::<prop::sample::Index>(),
    ) {
        for (n, one) in all.iter_mut().enumerate() {
            one.seed.seq = n as u64 + 1;
        }
        let expected = by_definition(&all, window);
        let at_once: Vec<Comes> = (0..all.len()).map(|n| Comes::Finding(n, 9)).collect();
        prop_assert_eq!(&partition_as_it_comes(&all, &at_once, window), &expected);
        // Some comes somehow and some of it again, and then whatever was missing.
        let mut order: Vec<Comes> = before
            .iter()
            .map(|(n, told, finding)| match (n.index(all.len()), finding) {
                (n, true) => Comes::Finding(n, *told),
                (n, false) => Comes::Aliases(n),
            })
            .collect();
        let turned = last.index(all.len());
        let rest = || (0..all.len()).map(|n| (n + turned) % all.len());
        order.extend(rest().map(|n| Comes::Finding(n, 0)).chain(rest().map(Comes::Aliases)));
        prop_assert_eq!(&partition_as_it_comes(&all, &order, window), &expected);
    }
}

fn here(cgroup: u64, seq: u64) -> Seed {
    Seed {
        pid: 100 + u32::try_from(seq).unwrap(),
        cgroup,
        cgroup_path: format!("/app{cgroup}"),
        seq,
        ..Seed::default()
    }
}

#[test]
fn two_incidents_that_turn_out_to_share_a_name_are_merged_and_the_older_goes_on() {
    let mut correlator = Correlator::new(config(60));
    let (one, two) = (here(2, 1).finding(), here(3, 2).finding());
    let (first, second) = (correlator.place(&one, at(0)).incident, correlator.place(&two, at(0)).incident);
    assert_ne!(first, second);
    let alone = correlator.learn(&first, &one, &[alias(pod(1))], at(1)).unwrap();
    assert_eq!((&alone.incident, alone.absorbed.as_slice()), (&first, [].as_slice()));
    let placed = correlator.learn(&second, &two, &[alias(pod(1))], at(2)).unwrap();
    assert_eq!(
        (placed.incident, placed.absorbed, placed.shared),
        (first.clone(), vec![second.clone()], vec![pod(1)])
    );
    assert_eq!(correlator.learn(&second, &two, &[alias(pod(1))], at(3)), None, "it is no more");
    assert_eq!(correlator.learn(&first, &two, &[alias(pod(1))], at(3)), None, "it is known");
}

#[test]
fn a_name_of_a_hub_and_what_a_person_parted_merge_nothing() {
    let addr = IpAddr::from([203, 0, 113, 9]);
    let mut correlator = Correlator::new(GroupingConfig { hub_limit: 3, ..config(60) });
    let with = |cgroup: u64| Seed { remote: Some(addr), ..here(cgroup, cgroup) };
    for cgroup in 10..20 {
        correlator.place(&with(cgroup).finding(), at(0));
    }
    let (one, two) = (with(30).finding(), here(31, 31).finding());
    let first = correlator.place(&one, at(0)).incident;
    let second = correlator.place_as(&two, &[alias(pod(1))], incident_of(&two), at(0)).incident;
    let of_hub = Alias { of: Some(Key::Address { addr }), is: pod(1) };
    assert_eq!(correlator.learn(&first, &one, &[of_hub], at(0)), None, "half of the machine speaks with it");
    let keys = |finding: &Finding| (keys_of(finding), finding.first);
    let other = IncidentId::new("inc-parted");
    let third = here(31, 32).finding();
    correlator.split(&second, &[keys(&two)], &other, &[keys(&third)]);
    let names = [alias(pod(1))];
    correlator.learn(&second, &two, &names, at(0)).unwrap();
    let placed = correlator.learn(&other, &third, &names, at(0)).unwrap();
    assert_eq!((placed.incident, placed.absorbed), (other, vec![]), "a person has the last word");
}

/// A request that was made from an address.
fn request(from: IpAddr, seq: u64) -> Finding {
    let record = Record {
        kind: RecordKind::KubernetesAudit,
        id: format!("audit-{seq}"),
        principal: None,
        origin: Some(from),
        object: None,
        sight: None,
        writer: None,
        facts: Facts::default(),
    };
    let mut finding = here(0, seq).finding();
    let event = record.into_event(&NodeId::new("kubernetes:audit"), at(0));
    finding.id = FindingId::derive(&event.id, "r");
    (finding.event, finding.ancestors) = (event, vec![]);
    finding
}

/// A process in a pod speaks with somebody.
fn inside(uid: &str, with: Option<IpAddr>, seq: u64) -> Finding {
    let mut finding = Seed { remote: with, ..here(seq, seq) }.finding();
    let mut process = (*finding.event.process).clone();
    process.workload = Arc::new(Workload::Container {
        runtime: Runtime::Containerd,
        container_id: format!("c-{seq}"),
        pod_uid: Some(uid.into()),
        cgroup_path: format!("/c-{seq}"),
    });
    finding.event.process = Arc::new(process);
    finding
}

/// The same, but it was the other who began.
fn answering(mut finding: Finding) -> Finding {
    if let Activity::Connect(flow) = finding.event.activity {
        finding.event.activity = Activity::Accept(flow);
    }
    finding
}

#[test]
fn what_pods_dial_inside_the_cluster_joins_no_two_of_them_and_who_dialled_them_does() {
    let joined = |addr: &str, change: fn(Finding) -> Finding| {
        let to: IpAddr = addr.parse().unwrap();
        let [victim, decoy] = [("pod-1", 1), ("pod-2", 2)].map(|(uid, n)| change(inside(uid, Some(to), n)));
        let mut correlator = Correlator::new(config(60));
        let first = correlator.place(&victim, at(0)).incident;
        correlator.place(&decoy, at(0)).incident == first
    };
    let same: fn(Finding) -> Finding = |finding| finding;
    let inside = ["10.96.0.10", "172.20.0.1", "192.168.7.7", "100.64.0.9", "fd00::7", "::ffff:10.96.0.10"];
    for service in inside {
        assert!(!joined(service, same), "{service} is everybody's");
        let closed = |finding: Finding| {
            let Activity::Connect(flow) = finding.event.activity else { panic!() };
            let activity = Activity::SocketClose { flow, sent_bytes: 1, received_bytes: 1 };
            Finding { event: Event { activity, ..finding.event.clone() }, ..finding }
        };
        assert!(!joined(service, closed), "{service}");
        assert!(joined(service, answering), "{service} came to both");
        // On a plain machine nobody shares a cluster's services.
        let on_a_host = |mut finding: Finding| {
            let workload = Arc::new(Workload::Host { cgroup_path: "/".into() });
            Arc::make_mut(&mut finding.event.process).workload = workload;
            finding
        };
        assert!(joined(service, on_a_host), "{service}");
    }
    for outside in ["203.0.113.9", "100.128.0.1", "2001:db8::9"] {
        assert!(joined(outside, same), "{outside} is where an attacker waits for both");
    }
}

#[test]
fn whose_the_address_was_puts_no_two_pods_stories_together() {
    let (mine, yours) = (IpAddr::from([10, 244, 0, 9]), IpAddr::from([10, 244, 0, 7]));
    let whose = |addr: IpAddr, n: u32| Alias { of: Some(Key::Address { addr }), is: pod(n) };
    // Pod 1 dials pod 2, which answers; each makes a request.
    let of_one = [inside("pod-1", Some(yours), 11), inside("pod-1", None, 12), request(mine, 13)];
    let of_two = [answering(inside("pod-2", Some(mine), 21)), inside("pod-2", None, 22), request(yours, 23)];
    let all: Vec<&Finding> = of_one.iter().chain(&of_two).collect();
    let known = |finding: &Finding| match finding.event.record().and_then(|record| record.origin) {
        Some(addr) if addr == mine => vec![whose(mine, 1)],
        Some(_) => vec![whose(yours, 2)],
        None => vec![],
    };
    for (turned, step) in (0..6).flat_map(|turned| [1, 5].map(|step| (turned, step))) {
        let mut correlator = Correlator::new(config(60));
        let mut places: BTreeMap<FindingId, IncidentId> = BTreeMap::new();
        for n in 0..6 {
            let finding = all[(turned + n * step) % 6];
            let placed = correlator.place_as(finding, &known(finding), incident_of(finding), at(0));
            for place in places.values_mut().filter(|place| placed.absorbed.contains(place)) {
                *place = placed.incident.clone();
            }
            places.insert(finding.id.clone(), placed.incident);
        }
        let one: BTreeSet<_> = of_one.iter().map(|finding| &places[&finding.id]).collect();
        let two: BTreeSet<_> = of_two.iter().map(|finding| &places[&finding.id]).collect();
        assert!(one.len() == 1 && two.len() == 1 && one != two, "from {turned} by {step}: {places:#?}");
    }
    // Known late, it does not put together either what was put with those who spoke with it.
    let mut correlator = Correlator::new(config(60));
    let two = correlator.place(&of_two[0], at(0)).incident;
    let one = correlator.place(&of_one[1], at(0)).incident;
    let asked = correlator.place(&of_one[2], at(0)).incident;
    assert_eq!(asked, two, "as far as was known");
    assert_eq!(correlator.learn(&asked, &of_one[2], &[whose(mine, 1)], at(1)), None);
    assert_ne!(correlator.place(&of_one[1], at(1)).incident, two);
    // And what was by itself is the pod's from then on, and not its address's any more.
    let mut correlator = Correlator::new(config(60));
    let asked = correlator.place(&of_one[2], at(0)).incident;
    correlator.learn(&asked, &of_one[2], &[whose(mine, 1)], at(1)).unwrap();
    assert_eq!(correlator.learn(&asked, &of_one[2], &[whose(mine, 1)], at(1)), None, "it is known");
    assert_ne!(correlator.place(&of_two[0], at(1)).incident, asked);
    assert_eq!(correlator.place(&of_one[1], at(1)).incident, asked);
    assert_ne!(one, two);
    // A token that was taken to another pod says whose it is.
    let aliases = [whose(mine, 1)];
    let mut stolen = of_one[2].clone();
    if let Activity::Record(record) = &mut stolen.event.activity {
        Arc::make_mut(record)
            .facts
            .set(crate::schema::Field::RequestPodUid.name(), Fact::List(vec!["pod-2".into()]));
    }
    assert_eq!(names_of(&stolen, &aliases), [pod(2)]);
    assert_eq!(names_of(&of_one[2], &aliases), [pod(1)]);
}

#[test]
fn whoever_has_many_cgroups_makes_no_hub_of_what_others_have_in_common() {
    let control: IpAddr = [198, 51, 100, 7].into();
    let limit = GroupingConfig { hub_limit: 3, ..config(60) };
    for several in [false, true] {
        let mut correlator = Correlator::new(limit.clone());
        for n in 10..40 {
            let uid = if several { format!("pod-{n}") } else { "mallory".into() };
            correlator.place(&inside(&uid, Some(control), n), at(0));
        }
        // As it is stored.
        let groups: Vec<Group> = correlator.groups.into_values().collect();
        let stored = serde_json::to_string(&groups).unwrap();
        let groups: Vec<Group> = serde_json::from_str(&stored).unwrap();
        let mut correlator = Correlator::restore(limit.clone(), groups);
        let places = [("pod-a", 41), ("pod-b", 42)]
            .map(|(uid, n)| correlator.place(&inside(uid, Some(control), n), at(1)).incident);
        assert_eq!(places[0] == places[1], !several, "thirty cgroups of one pod are one, thirty pods a hub");
    }
}

#[test]
fn what_is_stored_of_hubs_from_before_tenants_is_read() {
    let old = r#"[{"node":"n","cgroup":7},"198.51.100.7",5]"#;
    let (origin, busy, _): (Origin, Busy, Timestamp) = serde_json::from_str(old).unwrap();
    assert_eq!(origin, Origin::Place { node: NodeId::new("n"), cgroup: CgroupId(7) });
    assert!(matches!(busy, Busy::Address(_)));
}

#[test]
fn a_bastion_and_a_busy_account_become_hubs_and_stay_them_after_a_restart() {
    let bastion = Key::Address { addr: IpAddr::from([192, 0, 2, 10]) };
    for (name, late) in [(bastion, false), (person(1), false), (person(1), true)] {
        let config = GroupingConfig { hub_limit: 3, ..config(60) };
        let mut correlator = Correlator::new(config.clone());
        let names = [alias(name.clone())];
        let mut incidents = BTreeSet::new();
        for cgroup in 10..20 {
            let finding = here(cgroup, cgroup).finding();
            let placed = match late {
                false => correlator.place_as(&finding, &names, incident_of(&finding), at(0)),
                true => {
                    let placed = correlator.place(&finding, at(0));
                    correlator.learn(&placed.incident, &finding, &names, at(0)).unwrap_or(placed)
                }
            };
            incidents.retain(|id| !placed.absorbed.contains(id));
            incidents.insert(placed.incident);
        }
        // Three are one, and each further one is by itself.
        assert_eq!(incidents.len(), 8, "{name} {late}");
        let groups = incidents.iter().filter_map(|id| correlator.group(id)).cloned();
        // As it is stored.
        let stored = serde_json::to_string(&groups.collect::<Vec<_>>()).unwrap();
        let groups: Vec<Group> = serde_json::from_str(&stored).unwrap();
        let mut again = Correlator::restore(config, groups);
        let one_more = here(30, 30).finding();
        let place = |correlator: &mut Correlator| {
            correlator.place_as(&one_more, &names, incident_of(&one_more), at(0))
        };
        let (before, after) = (place(&mut correlator), place(&mut again));
        assert_eq!(before.opening, Opening::New, "{name}");
        assert_eq!((before.incident, before.opening), (after.incident, after.opening), "{name}");
    }
}
