use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use model::*;
use proptest::prelude::*;

use super::*;

/// What a test varies of a finding.
#[derive(Debug, Clone)]
struct Seed {
    pid: u32,
    ancestors: Vec<u32>,
    cgroup: u64,
    cgroup_path: String,
    session: Option<(u32, String)>,
    remote: Option<IpAddr>,
    second: i64,
    seq: u64,
    /// It is no process but a login, which that process wrote so long after boot.
    login: Option<(u32, u64)>,
}

impl Default for Seed {
    fn default() -> Self {
        Self {
            pid: 100,
            ancestors: Vec::new(),
            cgroup: 1,
            cgroup_path: "/".into(),
            session: None,
            remote: None,
            second: 0,
            seq: 1,
            login: None,
        }
    }
}

const SECOND: i64 = 1_000_000_000;

fn at(second: i64) -> Timestamp {
    Timestamp(second * SECOND)
}

fn boot(second: u64) -> BootNs {
    BootNs(second * 1_000_000_000)
}

/// Those that let people in.
const SSHD: std::ops::Range<u32> = 55..60;

fn key(pid: u32) -> ProcessKey {
    ProcessKey { pid: Pid(pid), start: boot(u64::from(pid)) }
}

impl Seed {
    fn process(&self, pid: u32, parent: u32) -> Arc<Process> {
        Arc::new(Process {
            key: key(pid),
            parent: Some(key(parent)),
            exe: if SSHD.contains(&pid) { "/usr/sbin/sshd" } else { "/bin/x" }.into(),
            exe_file: ExeFile::default(),
            command_line: "x".into(),
            args: vec!["x".into()],
            args_truncated: Truncated::No,
            cwd: "/".into(),
            comm: "x".into(),
            credentials: Credentials { auid: self.session.as_ref().map(|s| s.0), ..Credentials::default() },
            namespaces: Namespaces::default(),
            tty: self.session.as_ref().map(|s| s.1.clone()),
            stdio: Stdio::default(),
            cgroup: CgroupId(self.cgroup),
            workload: Arc::new(Workload::Host { cgroup_path: self.cgroup_path.clone() }),
            origin: ProcessOrigin::Exec,
            exit: None,
        })
    }

    fn finding(&self) -> Finding {
        let mut finding = self.of_process();
        if let Some((pid, second)) = self.login {
            let writer = RecordWriter { host: NodeId::new("n"), pid: Pid(pid), at: boot(second) };
            finding.event = login::record(writer).into_event(&NodeId::new("journal:x"), at(self.second));
            finding.ancestors.clear();
        }
        finding
    }

    fn of_process(&self) -> Finding {
        let id = EventId { node: NodeId::new("n"), epoch: AgentEpoch(1), seq: Seq(self.seq) };
        let parents: Vec<u32> = self.ancestors.iter().copied().chain([1]).collect();
        let remote = |addr| Endpoint { addr, port: 443 };
        Finding {
            id: FindingId::derive(&id, "r"),
            rule: RuleRef {
                id: "r".into(),
                title: "r".into(),
                level: Level::High,
                techniques: vec![],
                tactics: vec![],
                reaction: Reaction::None,
            },
            event: Event {
                id,
                time: at(self.second),
                process: self.process(self.pid, parents[0]),
                parent: None,
                ancestors: Arc::new([]),
                exposure: Exposure::None,
                activity: self.remote.map_or(Activity::Exec { requested: "x".into() }, |addr| {
                    Activity::Connect(Flow {
                        protocol: Protocol::Tcp,
                        local: remote(IpAddr::from([0, 0, 0, 0])),
                        remote: remote(addr),
                    })
                }),
            },
            matched: BTreeMap::new(),
            count: 1,
            first: at(self.second),
            last: at(self.second),
            ancestors: parents.windows(2).map(|w| self.process(w[0], w[1])).collect(),
            context: vec![],
            reactions: vec![],
            moments: model::Moments::default(),
            loss: LossWindow::default(),
        }
    }
}

fn config(window: u64) -> GroupingConfig {
    GroupingConfig { window: Duration::from_secs(window), ..GroupingConfig::default() }
}

fn place_all(correlator: &mut Correlator, seeds: &[Seed]) -> Vec<Placement> {
    seeds.iter().map(|s| correlator.place(&s.finding(), at(1_000_000))).collect()
}

/// Which findings ended up together, as sets of sequence numbers.
fn partition(seeds: &[Seed], window: u64) -> BTreeSet<BTreeSet<u64>> {
    let mut correlator = Correlator::new(config(window));
    let mut members: BTreeMap<IncidentId, BTreeSet<u64>> = BTreeMap::new();
    for seed in seeds {
        let placed = correlator.place(&seed.finding(), at(1_000_000));
        let mut all = BTreeSet::from([seed.seq]);
        for id in placed.absorbed.iter().chain([&placed.incident]) {
            all.extend(members.remove(id).unwrap_or_default());
        }
        members.insert(placed.incident, all);
    }
    members.into_values().collect()
}

/// The definition itself: connected components of "shares a key within the window".
fn partition_by_definition(seeds: &[Seed], window: u64) -> BTreeSet<BTreeSet<u64>> {
    let mut component: Vec<usize> = (0..seeds.len()).collect();
    for i in 0..seeds.len() {
        for j in 0..i {
            let near = seeds[i].second.abs_diff(seeds[j].second) <= window;
            let (a, b) = (keys_of(&seeds[i].finding()), keys_of(&seeds[j].finding()));
            if seeds[i].seq == seeds[j].seq
                || (near && a.iter().any(|k| b.iter().any(|other| k.meets(other))))
            {
                let (from, to) = (component[i], component[j]);
                component.iter_mut().filter(|c| **c == from).for_each(|c| *c = to);
            }
        }
    }
    let mut sets: BTreeMap<usize, BTreeSet<u64>> = BTreeMap::new();
    for (seed, c) in seeds.iter().zip(component) {
        sets.entry(c).or_default().insert(seed.seq);
    }
    sets.into_values().collect()
}

prop_compose! {
    fn any_seed()(pid in 100u32..130, ancestors in prop::collection::vec(50u32..60, 0..3), cgroup in 1u64..6,
                  session in prop::option::of((1000u32..1003, 0u32..2)), remote in prop::option::of(0u8..5),
                  second in 0i64..240, login in prop::option::weighted(0.3, (SSHD, 50u64..130))) -> Seed {
        Seed {
            pid, ancestors, cgroup,
            cgroup_path: if cgroup == 1 { "/".into() } else { format!("/app{cgroup}") },
            session: session.map(|(uid, tty)| (uid, format!("pts{tty}"))),
            remote: remote.map(|n| IpAddr::from([203, 0, 113, n])),
            second, seq: 0, login,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Any order, any duplicates: the same incidents, and exactly those that the definition gives.
    #[test]
    fn order_and_duplicates_do_not_matter(mut seeds in prop::collection::vec(any_seed(), 1..14), window in 30u64..90,
                                          order in prop::collection::vec(any::<prop::sample::Index>(), 1..40)) {
        for (n, seed) in seeds.iter_mut().enumerate() {
            seed.seq = n as u64 + 1;
        }
        let expected = partition_by_definition(&seeds, window);
        prop_assert_eq!(&partition(&seeds, window), &expected);
        let mut shuffled: Vec<Seed> = order.iter().map(|i| i.get(&seeds).clone()).collect();
        shuffled.extend(seeds.iter().rev().cloned());
        prop_assert_eq!(&partition(&shuffled, window), &expected);
    }

    /// Stored and restored between any two findings, the correlator goes on as if nothing had happened.
    #[test]
    fn a_restart_forgets_nothing(mut seeds in prop::collection::vec(any_seed(), 1..14), cut in any::<prop::sample::Index>()) {
        for (n, seed) in seeds.iter_mut().enumerate() {
            seed.seq = n as u64 + 1;
        }
        let mut whole = Correlator::new(config(60));
        let expected = place_all(&mut whole, &seeds);
        let cut = cut.index(seeds.len());
        let mut first = Correlator::new(config(60));
        let mut got = place_all(&mut first, &seeds[..cut]);
        let mut second = Correlator::restore(config(60), first.groups.into_values());
        got.extend(place_all(&mut second, &seeds[cut..]));
        prop_assert_eq!(got, expected);
    }
}

#[test]
fn a_repeated_delivery_opens_nothing() {
    let mut correlator = Correlator::new(config(60));
    let seed = Seed::default();
    let placed = place_all(&mut correlator, &[seed.clone(), seed]);
    assert_eq!(placed[0].incident, placed[1].incident);
    assert_eq!((placed[0].opening, placed[1].opening), (Opening::New, Opening::Joined));
}

#[test]
fn a_link_merges_and_the_older_incident_goes_on() {
    let mut correlator = Correlator::new(config(60));
    let a = Seed { pid: 100, cgroup: 2, cgroup_path: "/a".into(), seq: 1, ..Seed::default() };
    let b = Seed { pid: 200, cgroup: 3, cgroup_path: "/b".into(), seq: 2, ..Seed::default() };
    let link = Seed { pid: 200, cgroup: 2, cgroup_path: "/a".into(), seq: 3, ..Seed::default() };
    let placed = place_all(&mut correlator, &[a, b, link]);
    assert_ne!(placed[0].incident, placed[1].incident);
    assert_eq!(placed[2].incident, placed[0].incident);
    assert_eq!(placed[2].absorbed, [placed[1].incident.clone()]);
}

#[test]
fn the_machine_the_root_cgroup_and_daemons_do_not_link() {
    let mut correlator = Correlator::new(config(60));
    // Both come from the same daemon (pid 40, child of pid 1) in the root cgroup of the same node.
    let a = Seed { pid: 100, ancestors: vec![40], seq: 1, ..Seed::default() };
    let b = Seed { pid: 200, ancestors: vec![40], seq: 2, ..Seed::default() };
    let placed = place_all(&mut correlator, &[a, b]);
    assert_ne!(placed[0].incident, placed[1].incident);
}

#[test]
fn a_common_ancestor_links() {
    let mut correlator = Correlator::new(config(60));
    let a = Seed { pid: 100, ancestors: vec![60, 50, 40], seq: 1, ..Seed::default() };
    let b = Seed { pid: 200, ancestors: vec![50, 40], seq: 2, ..Seed::default() };
    let placed = place_all(&mut correlator, &[a, b]);
    assert_eq!(placed[0].incident, placed[1].incident);
    assert_eq!(placed[1].shared, [Key::Process { node: NodeId::new("n"), process: key(50) }]);
}

#[test]
fn a_busy_address_stops_linking() {
    let mut correlator = Correlator::new(config(60));
    let addr = Some(IpAddr::from([198, 51, 100, 7]));
    let seeds: Vec<Seed> = (0..20)
        .map(|n| Seed {
            pid: 100 + n,
            cgroup: 10 + u64::from(n),
            cgroup_path: format!("/app{n}"),
            remote: addr,
            seq: u64::from(n) + 1,
            ..Seed::default()
        })
        .collect();
    let placed = place_all(&mut correlator, &seeds);
    let limit = GroupingConfig::default().hub_limit;
    assert!(placed[..limit].iter().all(|p| p.incident == placed[0].incident));
    assert!(placed[limit..].iter().all(|p| p.opening == Opening::New), "a hub glues nothing any more");
}

#[test]
fn outside_the_window_a_new_incident_begins() {
    let mut correlator = Correlator::new(config(60));
    let a = Seed { second: 0, seq: 1, ..Seed::default() };
    let b = Seed { second: 60, seq: 2, ..Seed::default() };
    let c = Seed { second: 121, seq: 3, ..Seed::default() };
    let placed = place_all(&mut correlator, &[a, b, c]);
    assert_eq!(placed[0].incident, placed[1].incident, "the window slides");
    assert_ne!(placed[1].incident, placed[2].incident);
}

#[test]
fn a_closed_incident_takes_nothing_more() {
    let mut correlator = Correlator::new(config(60));
    let a = Seed { seq: 1, ..Seed::default() };
    let b = Seed { seq: 2, ..Seed::default() };
    let first = place_all(&mut correlator, &[a])[0].incident.clone();
    correlator.close(&first);
    assert_ne!(place_all(&mut correlator, &[b])[0].incident, first);
}

#[test]
fn i11_groups_and_keys_are_bounded() {
    let limits = GroupingConfig { max_groups: 10, max_spans: 8, ..config(60) };
    let mut correlator = Correlator::new(limits);
    for n in 0..100u32 {
        let seed = Seed { pid: 1000 + n, second: i64::from(n) / 10, seq: u64::from(n), ..Seed::default() };
        correlator.place(&seed.finding(), at(1_000_000));
        assert!(correlator.len() <= 10);
    }
    assert_eq!(correlator.forgotten_early(), 90);
    assert!(correlator.by_key.len() <= 80 && correlator.by_latest.len() <= 10);
    for n in 0..100u32 {
        let seed = Seed {
            pid: 3000 + n,
            cgroup: 7,
            cgroup_path: "/x".into(),
            second: 20,
            seq: 500,
            ..Seed::default()
        };
        let placed = correlator.place(&seed.finding(), at(1_000_000));
        assert!(correlator.group(&placed.incident).unwrap().keys().count() <= 8);
    }
}

#[test]
fn a_wrong_clock_does_not_push_others_out() {
    let mut correlator = Correlator::new(config(60));
    let a = Seed { second: 100, seq: 1, ..Seed::default() };
    let wrong = Seed { pid: 900, second: 4_000_000, seq: 2, ..Seed::default() };
    let b = Seed { second: 110, seq: 3, ..Seed::default() };
    let first = correlator.place(&a.finding(), at(100)).incident;
    correlator.place(&wrong.finding(), at(105));
    assert_eq!(correlator.place(&b.finding(), at(110)).incident, first);
}

#[test]
fn old_groups_are_forgotten() {
    let mut correlator = Correlator::new(config(60));
    let a = Seed { second: 0, seq: 1, ..Seed::default() };
    let b = Seed { pid: 900, second: 100_000, seq: 2, ..Seed::default() };
    let placed = place_all(&mut correlator, &[a, b]);
    assert_eq!(placed[1].forgotten, [placed[0].incident.clone()]);
    assert_eq!((correlator.len(), correlator.origins.len(), correlator.forgotten_early()), (1, 0, 0));
}

/// Keys that found no room are counted, also through a merge.
#[test]
fn i11_keys_that_found_no_room_stay_counted_when_incidents_merge() {
    let limits = GroupingConfig { max_spans: 8, ..config(60) };
    let mut correlator = Correlator::new(limits);
    let crowd = |first: u32, cgroup: u64, seq: u64| Seed {
        pid: first,
        ancestors: (first + 1..first + 12).collect(),
        cgroup,
        cgroup_path: format!("/own/{cgroup}"),
        seq,
        ..Seed::default()
    };
    let one = correlator.place(&crowd(1000, 6, 1).finding(), at(0)).incident;
    let other = correlator.place(&crowd(2000, 7, 2).finding(), at(0)).incident;
    let refused = |correlator: &Correlator, id| correlator.group(id).unwrap().refused;
    let (first, second) = (refused(&correlator, &one), refused(&correlator, &other));
    assert!(one != other && first > 0 && second > 0, "{first} {second}");
    // Something that both have among their keys.
    let kept = |id: &IncidentId| {
        let keys = correlator.group(id).unwrap().keys();
        keys.filter_map(|key| match key {
            Key::Process { process, .. } => Some(process.pid.0),
            _ => None,
        })
        .next()
        .unwrap()
    };
    let (a, b) = (kept(&one), kept(&other));
    let both = Seed { pid: a, ancestors: vec![b, 77], cgroup: 6, seq: 3, ..Seed::default() };
    let merged = correlator.place(&both.finding(), at(0));
    assert_eq!((&merged.incident, merged.absorbed.len()), (&one, 1));
    // The eight of the other find no room either.
    assert!(refused(&correlator, &one) >= first + second + 8);
}

/// Nobody's name is nobody: two records without one have nothing in common.
#[test]
fn a_record_without_a_name_links_to_nothing() {
    let keys = |name: &str| {
        let who = Principal { realm: "kubernetes".into(), name: name.into() };
        let record = Record {
            kind: RecordKind::KubernetesAudit,
            id: "r".into(),
            principal: Some(who),
            origin: None,
            object: None,
            sight: None,
            writer: None,
            facts: Facts::default(),
        };
        let event = record.into_event(&NodeId::new("audit"), at(0));
        keys_of(&Finding { event, ..Seed::default().finding() }).len()
    };
    assert_eq!([keys(""), keys("system:node:a"), keys("dana")], [0, 0, 1]);
    assert_eq!(keys("system:serviceaccount:pay:api"), 1);
}

/// A terminal alone is no session: many a service has one, and nobody has logged in there.
#[test]
fn a_terminal_without_a_login_links_nothing() {
    let mut finding = Seed { session: Some((1000, "pts0".into())), ..Seed::default() }.finding();
    let sessions = |finding: &Finding| {
        keys_of(finding).into_iter().filter(|key| matches!(key, Key::Session { .. })).count()
    };
    assert_eq!(sessions(&finding), 1);
    Arc::make_mut(&mut finding.event.process).credentials.auid = None;
    assert_eq!(sessions(&finding), 0);
}

#[test]
fn what_a_person_split_is_never_put_together_again_and_the_older_goes_on() {
    let address = Some("192.0.2.7".parse().unwrap());
    let seed = |seq: u64, pid: u32, second: i64| Seed {
        pid,
        cgroup: seq,
        remote: address,
        second,
        seq,
        ..Seed::default()
    };
    let (a, b) = (seed(1, 100, 0).finding(), seed(2, 200, 10).finding());
    let mut correlator = Correlator::new(GroupingConfig::default());
    let first = correlator.place(&a, at(0)).incident;
    assert_eq!(correlator.place(&b, at(10)).incident, first, "they share an address");
    let other = IncidentId::new("inc-other");
    correlator.split(&first, &[(keys_of(&a), a.first)], &other, &[(keys_of(&b), b.first)]);
    // Each goes on by what is its own; what fits both goes to the older, and nothing merges them.
    let of_b = Seed { remote: None, ..seed(3, 200, 20) }.finding();
    assert_eq!(correlator.place(&of_b, at(20)).incident, other);
    let of_both = seed(4, 300, 30).finding();
    let placed = correlator.place(&of_both, at(30));
    assert_eq!((placed.incident.clone(), placed.absorbed), (first.clone(), vec![]));
    let groups: Vec<Group> =
        [&first, &other].into_iter().filter_map(|id| correlator.group(id).cloned()).collect();
    let text = serde_json::to_string(&groups).unwrap();
    let mut again =
        Correlator::restore(GroupingConfig::default(), serde_json::from_str::<Vec<Group>>(&text).unwrap());
    let placed = again.place(&seed(5, 400, 40).finding(), at(40));
    assert_eq!((placed.incident, placed.absorbed), (first, vec![]), "also after a restart");
}

#[test]
fn i11_who_opens_ten_thousand_incidents_pushes_out_his_own() {
    let seed = |cgroup: u64, seq: u64, second: i64| Seed {
        pid: 1000 + u32::try_from(seq).unwrap(),
        cgroup,
        cgroup_path: format!("/app{cgroup}"),
        seq,
        second,
        ..Seed::default()
    };
    let mut correlator = Correlator::new(GroupingConfig { max_groups: 100, ..config(900) });
    let theirs = correlator.place(&seed(7, 1, 0).finding(), at(0)).incident;
    for n in 0..10_000 {
        correlator.place(&seed(1, 2 + n, 1).finding(), at(1));
        assert!(correlator.len() <= 100);
    }
    let same = Seed { second: 2, seq: 20_000, ..seed(7, 1, 0) };
    let placed = correlator.place(&same.finding(), at(2));
    assert_eq!((placed.incident, placed.opening), (theirs, Opening::Joined));
    // So it is after a restart, and where nobody has more than another the longest silent goes first.
    let kept: Vec<Group> = correlator.groups.values().cloned().collect();
    let mut restored = Correlator::restore(GroupingConfig { max_groups: 100, ..config(900) }, kept);
    for n in 0..99 {
        restored.place(&seed(100 + n, 30_000 + n, 3 + n as i64).finding(), at(200));
    }
    let known = |correlator: &Correlator, cgroup: u64| {
        correlator
            .groups
            .values()
            .any(|group| group.tenant == Tenant::of(&seed(cgroup, 0, 0).finding().event))
    };
    assert!(known(&restored, 7) && !restored.is_empty());
    restored.place(&seed(500, 40_000, 200).finding(), at(200));
    restored.place(&seed(501, 40_001, 200).finding(), at(200));
    assert!(!known(&restored, 7) && known(&restored, 101), "the longest silent");
}

mod aliases;
mod login;
mod named;
