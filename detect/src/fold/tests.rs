use std::sync::Arc;

use model::{
    Activity, AgentEpoch, BootNs, EventId, Exposure, Facts, NodeId, Pid, Principal, Process, Record,
    RecordKind, Seq,
};
use proptest::prelude::*;

use super::*;

fn rule(id: &str, level: Level) -> RuleRef {
    let (techniques, tactics) = (vec![], vec![]);
    RuleRef { id: id.into(), title: id.into(), level, techniques, tactics, reaction: Reaction::None }
}

fn process(exe: &str) -> Process {
    Process { exe: exe.into(), cgroup: CgroupId(1), ..other(&Process::nobody(None, None), 1) }
}

fn other(process: &Process, pid: u32) -> Process {
    let key = ProcessKey { pid: Pid(pid), start: BootNs(u64::from(pid) * 10_000_000_000 + 123) };
    Process { key, ..process.clone() }
}

fn done_by(process: &Process, at: i64) -> Event {
    Event {
        id: EventId { node: NodeId::new("n"), epoch: AgentEpoch(1), seq: Seq(1) },
        time: Timestamp(at),
        process: Arc::new(process.clone()),
        parent: None,
        ancestors: Arc::new([]),
        exposure: Exposure::None,
        activity: Activity::IoUringSetup { entries: 1 },
    }
}

fn told_of(name: &str, at: i64) -> Event {
    let principal = Some(Principal { realm: "h".into(), name: name.into() });
    let (origin, object, sight, writer, facts) = (None, None, None, None, Facts::default());
    let record =
        Record { kind: RecordKind::Sshd, id: "x".into(), principal, origin, object, sight, writer, facts };
    record.into_event(&NodeId::new("n"), Timestamp(at))
}

fn values(value: &str) -> BTreeMap<String, String> {
    BTreeMap::from([("CommandLine".to_owned(), value.to_owned())])
}

#[test]
fn the_same_cause_is_one_finding_with_a_count() {
    let mut fold = Fold::new(Limits::NODE);
    let (rule, process) = (rule("r", Level::High), process("/bin/x"));
    let first = FindingId::new("f1");
    let (folded, matched) = fold.take_in(&rule, &done_by(&process, 1), &first, Acted::No, || values("a"));
    assert!(matches!(folded, Folded::First(_)));
    assert_eq!(matched, values("a"));
    for n in 2..10 {
        let (folded, _) =
            fold.take_in(&rule, &done_by(&process, n), &FindingId::new("other"), Acted::No, || values("a"));
        assert_eq!(folded, Folded::Again { finding: first.clone(), count: n as u64 });
    }
    let moments: Moments =
        (2..10).map(|n| Moment::new(n, Timestamp(n as i64), "/bin/x (1)".into())).collect();
    let repeat = Repeat { finding: first, count: 9, last: Timestamp(9), level: Level::High, moments };
    assert_eq!(fold.due(), [repeat]);
    assert_eq!(fold.due(), []);
}

#[test]
fn another_rule_image_cgroup_or_value_is_another_cause() {
    let mut fold = Fold::new(Limits::NODE);
    let base = process("/bin/x");
    let mut elsewhere = base.clone();
    elsewhere.cgroup = CgroupId(77);
    let mut copied = base.clone();
    copied.exe_file.inode = 9;
    let id = FindingId::new("f");
    for (rule_id, process, value) in
        [("r", &base, "a"), ("q", &base, "a"), ("r", &elsewhere, "a"), ("r", &copied, "a"), ("r", &base, "b")]
    {
        let (folded, _) =
            fold.take_in(&rule(rule_id, Level::Low), &done_by(process, 1), &id, Acted::No, || values(value));
        assert!(matches!(folded, Folded::First(_)), "{rule_id} {value}");
    }
}

#[test]
fn i11_beyond_the_limit_the_causes_seen_longest_ago_are_forgotten() {
    let mut fold = Fold::new(Limits::NODE);
    let rule = rule("r", Level::Low);
    let id = FindingId::new("f");
    let mut take = |n: usize, at: i64| {
        let process = process(&format!("/bin/x{n}"));
        let folded = fold.take_in(&rule, &done_by(&process, at), &id, Acted::No, || values("a")).0;
        (folded, fold.len())
    };
    for n in 0..Limits::NODE.causes + 100 {
        let (folded, length) = take(n, n as i64);
        assert!(matches!(folded, Folded::First(_)) && length <= Limits::NODE.causes, "{n}: {length}");
    }
    let at = Limits::NODE.causes as i64 + 200;
    assert!(matches!(take(Limits::NODE.causes + 99, at).0, Folded::Again { .. }), "the newest is known");
    assert!(matches!(take(0, at).0, Folded::First(_)), "the oldest is not");
}

#[test]
fn a_loop_with_ever_other_values_becomes_one_cause() {
    let mut fold = Fold::new(Limits::NODE);
    let (rule, process) = (rule("r", Level::High), process("/bin/scan"));
    let firsts = (0..10_000)
        .filter(|n| {
            let id = FindingId::new(format!("f{n}"));
            let matched = || values(&n.to_string());
            matches!(fold.take_in(&rule, &done_by(&process, *n), &id, Acted::No, matched).0, Folded::First(_))
        })
        .count();
    assert_eq!(firsts, Limits::NODE.variants + 1);
}

#[test]
fn i11_what_correlations_look_at_is_told_apart_further_but_not_without_end() {
    let mut fold = Fold::new(Limits::NODE);
    fold.feed(["r".to_owned()]);
    let (rule, process) = (rule("r", Level::Low), process("/bin/scan"));
    let mut firsts: Vec<Cause> = Vec::new();
    for n in 0..10_000 {
        let (id, matched) = (FindingId::new(format!("f{n}")), || values(&n.to_string()));
        if let (Folded::First(cause), _) = fold.take_in(&rule, &done_by(&process, n), &id, Acted::No, matched)
        {
            firsts.push(cause);
        }
    }
    assert_eq!(firsts.len(), Limits::NODE.variants_fed + 1);
    let mixed: Vec<usize> = (0..firsts.len()).filter(|n| firsts[*n].is_mixed()).collect();
    assert_eq!(mixed, [Limits::NODE.variants_fed], "only the last stands for others");
}

#[test]
fn an_unreported_first_is_first_again() {
    let mut fold = Fold::new(Limits::NODE);
    let (rule, process) = (rule("r", Level::High), process("/bin/x"));
    let id = FindingId::new("f");
    let (Folded::First(cause), _) =
        fold.take_in(&rule, &done_by(&process, 1), &id, Acted::No, || values("a"))
    else {
        panic!("not the first")
    };
    fold.forget(&cause);
    assert!(fold.is_empty() && fold.variants.is_empty());
    let (folded, _) = fold.take_in(&rule, &done_by(&process, 1), &id, Acted::No, || values("a"));
    assert!(matches!(folded, Folded::First(_)));
}

fn reacting(id: &str) -> RuleRef {
    RuleRef { reaction: Reaction::Freeze, ..rule(id, Level::Medium) }
}

#[test]
fn another_process_is_another_cause_of_a_rule_that_is_high_or_reacts() {
    let mut fold = Fold::new(Limits::NODE);
    let (base, id) = (process("/bin/x"), FindingId::new("f"));
    for (rule, is_first) in
        [(reacting("a"), true), (rule("b", Level::High), true), (rule("c", Level::Medium), false)]
    {
        for pid in [1, 2] {
            let (folded, _) =
                fold.take_in(&rule, &done_by(&other(&base, pid), 1), &id, Acted::No, || values("a"));
            assert_eq!(matches!(folded, Folded::First(_)), pid == 1 || is_first, "{} {pid}", rule.id);
        }
        let (folded, _) = fold.take_in(&rule, &done_by(&other(&base, 2), 2), &id, Acted::No, || values("a"));
        assert!(matches!(folded, Folded::Again { .. }));
    }
}

#[test]
fn a_cause_ends_and_its_count_is_still_told() {
    let mut fold = Fold::new(Limits::NODE);
    let (rule, process) = (rule("r", Level::High), process("/bin/x"));
    let end = Fold::EXPIRES.as_nanos() as i64;
    let mut is_first = |id: &str, at| {
        let (folded, _) =
            fold.take_in(&rule, &done_by(&process, at), &FindingId::new(id), Acted::No, || values("a"));
        matches!(folded, Folded::First(_))
    };
    assert!(is_first("one", 0));
    assert!(!is_first("-", end - 1), "a loop does not keep its cause alive, but it is one until then");
    assert!(is_first("two", end));
    assert!(!is_first("-", end + 1));
    assert!(is_first("three", -1), "the clock was set back");
    let told: Vec<_> =
        fold.due().into_iter().map(|repeat| (repeat.finding.to_string(), repeat.count)).collect();
    assert_eq!(told, [("one".to_owned(), 2), ("two".to_owned(), 2)]);
}

#[test]
fn i11_ten_thousand_processes_are_bounded_and_end_like_others() {
    let mut fold = Fold::new(Limits::NODE);
    let (rule, base) = (reacting("r"), process("/bin/fork"));
    let end = Fold::EXPIRES.as_nanos() as i64;
    for round in 0..3 {
        let firsts = (0..10_000)
            .filter(|n| {
                let (id, at) = (FindingId::new(format!("f{n}")), Timestamp(round * end + n));
                let (folded, _) =
                    fold.take_in(&rule, &done_by(&other(&base, *n as u32), at.0), &id, Acted::No, || {
                        values(&n.to_string())
                    });
                matches!(folded, Folded::First(_))
            })
            .count();
        assert_eq!(firsts, Limits::NODE.variants + 1, "in round {round}");
        assert_eq!(fold.len(), Limits::NODE.variants + 1);
    }
}

#[test]
fn a_match_that_was_reacted_to_is_always_told_and_memory_stays_bounded() {
    let mut fold = Fold::new(Limits::NODE);
    let (rule, base) = (reacting("r"), process("/bin/fork"));
    for n in 0..10_000_u32 {
        let id = FindingId::new(format!("f{n}"));
        let (folded, _) =
            fold.take_in(&rule, &done_by(&other(&base, n % 5000), 1), &id, Acted::Yes, || values("a"));
        assert!(matches!(folded, Folded::First(_)), "{n}");
        assert!(fold.len() <= Limits::NODE.causes);
    }
    assert!(fold.variants.values().all(|variants| variants.all <= Limits::NODE.variants));
}

fn take_record(fold: &mut Fold, name: &str, id: &str, at: i64) -> (Folded, bool) {
    let rule = rule("r", Level::High);
    let (folded, matched) =
        fold.take_in(&rule, &told_of(name, at), &FindingId::new(id), Acted::No, BTreeMap::new);
    (folded, matched.contains_key(Finding::MIXED))
}

#[test]
fn records_of_one_account_are_counted_and_told_once() {
    let mut fold = Fold::new(Limits::RECORDS);
    let end = Fold::EXPIRES.as_nanos() as i64;
    assert!(matches!(take_record(&mut fold, "a", "1", 0).0, Folded::First(_)));
    assert!(matches!(take_record(&mut fold, "a", "2", 1).0, Folded::Again { count: 2, .. }));
    assert!(matches!(take_record(&mut fold, "b", "3", 1).0, Folded::First(_)));
    assert!(matches!(take_record(&mut fold, "a", "4", 2).0, Folded::Again { count: 3, .. }));
    let level = Level::High;
    let [due] = &fold.due()[..] else { panic!("one finding has come again") };
    assert_eq!(
        (&due.finding, due.count, due.last, due.level),
        (&FindingId::new("1"), 3, Timestamp(2), level)
    );
    assert_eq!(fold.due(), []);
    assert!(matches!(take_record(&mut fold, "a", "5", end).0, Folded::First(_)), "told anew");
}

#[test]
fn i11_ever_other_records_become_one_cause_and_what_was_known_is_still_told_apart() {
    let mut fold = Fold::new(Limits::RECORDS);
    let first = |folded: &Folded| matches!(folded, Folded::First(_));
    let told =
        (0..100_000).filter(|n| first(&take_record(&mut fold, &n.to_string(), &n.to_string(), 1).0)).count();
    assert_eq!(told, Limits::RECORDS.variants + 1);
    let many: u64 = fold.due().iter().map(|one| one.count).sum();
    assert_eq!(many, (100_000 - Limits::RECORDS.variants) as u64);
    let known = take_record(&mut fold, "7", "again", 2).0;
    assert_eq!(known, Folded::Again { finding: FindingId::new("7"), count: 2 });
}

#[test]
fn accounts_of_an_hour_ago_make_room_for_those_of_now() {
    let mut fold = Fold::new(Limits::RECORDS);
    let end = Fold::EXPIRES.as_nanos() as i64;
    for n in 0..Limits::RECORDS.variants {
        take_record(&mut fold, &format!("then-{n}"), &format!("x{n}"), 0);
    }
    for n in 0..Limits::RECORDS.variants {
        let (folded, is_mixed) = take_record(&mut fold, &format!("now-{n}"), &format!("y{n}"), end);
        assert!(matches!(folded, Folded::First(_)) && !is_mixed, "{n}");
    }
}

proptest! {
    #[test]
    fn every_match_is_counted_once_and_memory_is_bounded(
        matches in proptest::collection::vec((0_u8..4, 0_u8..3, 0_u16..200), 0..600),
    ) {
        let mut fold = Fold::new(Limits::NODE);
        let mut counts: BTreeMap<FindingId, u64> = BTreeMap::new();
        for (n, (rule_id, exe, value)) in matches.iter().enumerate() {
            let id = FindingId::new(format!("f{n}"));
            let at = Timestamp(n as i64);
            let (folded, _) = fold.take_in(&rule(&rule_id.to_string(), Level::Low), &done_by(&process(&exe.to_string()), at.0), &id, Acted::No, || values(&value.to_string()),);
            if matches!(folded, Folded::First(_)) {
                counts.insert(id, 1);
            }
            if n % 50 == 0 {
                for repeat in fold.due() {
                    counts.insert(repeat.finding, repeat.count);
                }
            }
            prop_assert!(fold.len() <= Limits::NODE.causes);
        }
        for repeat in fold.due() {
            counts.insert(repeat.finding, repeat.count);
        }
        prop_assert_eq!(counts.values().sum::<u64>(), matches.len() as u64);
    }
}

fn take_in(fold: &mut Fold, name: &str, at: i64) {
    let id = FindingId::new(format!("{name} {at}"));
    fold.take_in(&rule("r", Level::Low), &told_of(name, at), &id, Acted::No, BTreeMap::new);
}

fn numbers(repeat: &Repeat) -> Vec<u64> {
    repeat.moments.iter().map(|moment| moment.nth).collect()
}

#[test]
fn of_what_repeats_the_first_and_the_last_moments_are_told_one_by_one() {
    let mut fold = Fold::new(Limits::RECORDS);
    for at in 1..=13 {
        take_in(&mut fold, "dana", at);
    }
    let [due] = &fold.due()[..] else { panic!("one cause") };
    let told: Vec<(u64, i64)> = due.moments.iter().map(|one| (one.nth, one.at.0)).collect();
    assert_eq!(told, (2..=13).map(|n| (n, n as i64)).collect::<Vec<_>>());
    assert!(due.moments.iter().all(|one| one.what == "dana@h"), "{:?}", due.moments);
    // What goes on: none twice, and of many the last ones.
    for at in 14..=1000 {
        take_in(&mut fold, "dana", at);
    }
    let [due] = &fold.due()[..] else { panic!("one cause") };
    assert_eq!(numbers(due), (14..=16).chain(985..=1000).collect::<Vec<u64>>());
    assert_eq!(fold.due(), []);
}

#[test]
fn i11_moments_are_bounded_between_two_looks_and_counts_are_right_all_the_same() {
    let limits = Limits { moments: 40, ..Limits::RECORDS };
    let mut fold = Fold::new(limits);
    for at in 0..1000 {
        for name in ["a", "b", "c"] {
            take_in(&mut fold, name, at);
        }
    }
    let due = fold.due();
    assert_eq!(due.iter().map(|one| one.count).collect::<Vec<_>>(), [1000, 1000, 1000]);
    assert_eq!(due.iter().map(|one| one.moments.len()).sum::<usize>(), 40);
    take_in(&mut fold, "c", 1000);
    assert_eq!(numbers(&fold.due()[0]), [1001], "there is room again");
}

/// A record of the audit log: somebody of a namespace did something to `object`.
fn asked(namespace: &str, object: &str, at: i64) -> Event {
    let name = format!("system:serviceaccount:{namespace}:bot");
    let principal = Some(Principal { realm: "kubernetes".into(), name });
    let (origin, object, sight, writer, facts) =
        (Some([192, 0, 2, object.len() as u8].into()), None, None, None, Facts::default());
    let kind = RecordKind::KubernetesAudit;
    let record = Record { kind, id: "x".into(), principal, origin, object, sight, writer, facts };
    record.into_event(&NodeId::new("n"), Timestamp(at))
}

fn ask(fold: &mut Fold, rule_id: &str, namespace: &str, object: &str, at: i64) -> (Folded, bool) {
    let id = FindingId::new(format!("{rule_id} {namespace} {object} {at}"));
    let (folded, matched) =
        fold.take_in(&rule(rule_id, Level::Low), &asked(namespace, object, at), &id, Acted::No, || {
            values(object)
        });
    (folded, matched.contains_key(Finding::MIXED))
}

#[test]
fn i11_who_invents_a_hundred_thousand_things_costs_others_nothing() {
    let mut fold = Fold::new(Limits::RECORDS);
    let first = FindingId::new("r b known 1");
    assert!(matches!(ask(&mut fold, "r", "b", "known", 1), (Folded::First(_), false)));
    for n in 0..100_000 {
        ask(&mut fold, "r", "a", &format!("invented {n}"), 2);
    }
    // What was told is folded as before, and what is new is told as new, as often as is told apart for each.
    let again = ask(&mut fold, "r", "b", "known", 3).0;
    assert_eq!(again, Folded::Again { finding: first, count: 2 });
    for n in 1..RESERVED {
        let new = ask(&mut fold, "r", "b", &format!("new {n}"), 4);
        assert!(matches!(new, (Folded::First(_), false)), "{n}: {new:?}");
    }
    // Then it is one of its own, not counted with what others invent.
    assert!(matches!(ask(&mut fold, "r", "b", "another", 5), (Folded::First(_), true)));
    let more = ask(&mut fold, "r", "b", "and another", 6).0;
    assert_eq!(more, Folded::Again { finding: FindingId::new("r b another 5"), count: 2 });
    // All of it is bounded, however many there are who invent.
    for n in 0..10_000 {
        ask(&mut fold, "r", &format!("tenant {}", n % 500), &format!("invented {n}"), 7);
    }
    let most = Limits::RECORDS.variants + (TENANTS + 1) * (RESERVED + 1);
    assert!(fold.len() <= most, "{} of {most}", fold.len());
}

#[test]
fn i11_where_causes_must_be_forgotten_those_of_who_has_most_are() {
    let limits = Limits { causes: 1024, ..Limits::RECORDS };
    let mut fold = Fold::new(limits);
    assert!(matches!(ask(&mut fold, "r", "b", "known", 1), (Folded::First(_), false)));
    for n in 0..100_000 {
        ask(&mut fold, &format!("rule {}", n % 500), "a", &format!("invented {n}"), n + 2);
        assert!(fold.len() <= limits.causes);
    }
    let again = ask(&mut fold, "r", "b", "known", 100_003).0;
    assert_eq!(again, Folded::Again { finding: FindingId::new("r b known 1"), count: 2 });
}

#[test]
fn i3_a_record_that_is_told_twice_is_counted_once_and_memory_of_it_is_bounded() {
    let limits = Limits { causes: 64, ..Limits::RECORDS };
    let mut fold = Fold::new(limits);
    let take = |fold: &mut Fold, rule_id: &str, n: i64| {
        let id = FindingId::new(format!("{rule_id} {n}"));
        fold.take_in(&rule(rule_id, Level::Low), &told_of("dana", n), &id, Acted::No, BTreeMap::new).0
    };
    for n in 1..=12 {
        take(&mut fold, "exec", n);
        assert_eq!(take(&mut fold, "exec", n), Folded::Same, "begun and ended");
        assert_ne!(take(&mut fold, "other rule", n), Folded::Same);
    }
    assert_eq!(fold.due().iter().map(|one| one.count).collect::<Vec<_>>(), [12, 12]);
    for n in 13..10_000 {
        take(&mut fold, "exec", n);
        assert!(fold.lately.len() <= 128 && fold.in_order.len() <= 128);
    }
}

/// A login is found by its session: of one that is folded nobody would know which session it opened.
#[test]
fn logins_of_several_sessions_are_several_causes_and_repeated_refusals_one() {
    let told = |outcome: &str, pid: u32, at: i64| {
        let mut facts = Facts::default();
        for (field, word) in [("AuthAction", "login"), ("AuthOutcome", outcome), ("AuthTrust", "vouched")] {
            facts.set(field, model::Fact::Text(word.into()));
        }
        let event = told_of("dana", at);
        let mut record = event.record().unwrap().clone();
        let at_boot = BootNs(u64::try_from(at).unwrap());
        record.writer =
            Some(model::RecordWriter { host: NodeId::new("h"), pid: model::Pid(pid), at: at_boot });
        record.id = at.to_string();
        Record { facts, ..record }.into_event(&NodeId::new("n"), Timestamp(at))
    };
    let count = |outcome: &str| {
        let mut fold = Fold::new(Limits::RECORDS);
        let take = |n: i64| {
            let (id, event) = (FindingId::new(format!("f{n}")), told(outcome, 70 + n as u32, n));
            fold.take_in(&rule("r", Level::Low), &event, &id, Acted::No, BTreeMap::new).0
        };
        (1..=5).map(take).filter(|folded| matches!(folded, Folded::First(_))).count()
    };
    assert_eq!((count("success"), count("failure")), (5, 1));
}
