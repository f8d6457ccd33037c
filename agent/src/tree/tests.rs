use model::{Credentials, Endpoint, ExeFile, Namespaces, Protocol, Stdio, Truncated, Workload};

use super::{procfs::ProcFacts, *};
use crate::record::Held;

/// A /proc that holds what the test says.
#[derive(Default)]
struct FakeProc(Vec<ProcFacts>);

impl ProcSource for FakeProc {
    fn all(&mut self) -> Vec<ProcFacts> {
        self.0.clone()
    }
    fn read(&mut self, key: ProcessKey) -> Option<ProcFacts> {
        self.0.iter().find(|f| f.pid == key.pid && f.start_ticks == key.start.0 / NS_PER_TICK).cloned()
    }
    fn is_alive(&mut self, key: ProcessKey) -> bool {
        self.read(key).is_some()
    }
}

struct ByNumber;

impl WorkloadSource for ByNumber {
    fn resolve(&mut self, cgroup: CgroupId, _: Pid) -> Arc<Workload> {
        Arc::new(Workload::Host { cgroup_path: format!("/{cgroup}") })
    }
}

fn tree(procs: Vec<ProcFacts>) -> ProcessTree {
    ProcessTree::new(Limits::default(), Box::new(FakeProc(procs)), Box::new(ByNumber))
}

/// Not a multiple of a tick, as the kernel's are.
fn key(pid: u32) -> ProcessKey {
    ProcessKey { pid: Pid(pid), start: BootNs(u64::from(pid) * 1000 * NS_PER_TICK + 123) }
}

fn task(pid: u32, parent: u32) -> Task {
    Task {
        key: key(pid),
        tid: pid,
        parent: key(parent),
        cgroup: CgroupId(1),
        credentials: Credentials::default(),
        comm: format!("c{pid}"),
    }
}

fn exec_facts(exe: &str, args: &[&str]) -> ExecFacts {
    ExecFacts {
        requested: exe.into(),
        exe: exe.into(),
        exe_file: ExeFile::default(),
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        args_truncated: Truncated::No,
        cwd: "/".into(),
        namespaces: Namespaces::default(),
        tty: None,
        stdio: Stdio::default(),
        held: Held::No,
    }
}

fn at(pid: u32, parent: u32, time: u64, body: Body) -> Record {
    Record { at: BootNs(time), task: task(pid, parent), body }
}

fn exec(pid: u32, parent: u32, time: u64, exe: &str) -> Record {
    at(pid, parent, time, Body::Exec(Box::new(exec_facts(exe, &[exe]))))
}

fn fork(parent: u32, child: u32, time: u64) -> Record {
    at(parent, 1, time, Body::Fork { child: key(child), child_cgroup: CgroupId(1) })
}

fn exit(pid: u32, time: u64) -> Record {
    at(pid, 1, time, Body::Exit(Exit { code: 0, signal: 0, at: BootNs(time) }))
}

fn act(pid: u32, parent: u32, time: u64) -> Record {
    at(pid, parent, time, Body::Act(Activity::IoUringSetup { entries: 1 }))
}

fn exes(view: &View) -> Vec<&str> {
    view.ancestors.iter().map(|process| process.exe.as_str()).collect()
}

#[test]
fn ancestry_survives_exits_and_the_parent_stays_as_at_fork() {
    let mut tree = tree(vec![]);
    tree.take_in(&exec(10, 1, 1, "/usr/sbin/nginx"));
    tree.take_in(&fork(10, 11, 2));
    tree.take_in(&exec(11, 10, 3, "/bin/sh"));
    tree.take_in(&fork(11, 12, 4));
    tree.take_in(&exit(11, 5));
    tree.take_in(&exit(10, 6));
    // By now the kernel's real_parent of 12 is pid 1.
    let view = tree.take_in(&exec(12, 1, 7, "/usr/bin/curl"));
    assert_eq!(view.process.parent, Some(key(11)));
    assert_eq!(exes(&view)[..2], ["/bin/sh", "/usr/sbin/nginx"]);
    assert_eq!(view.ancestors[0].exit.map(|exit| exit.at), Some(BootNs(5)));
}

#[test]
fn a_fork_carries_its_parents_image_and_says_so() {
    let mut tree = tree(vec![]);
    tree.take_in(&exec(10, 1, 1, "/bin/bash"));
    tree.take_in(&fork(10, 11, 2));
    let view = tree.take_in(&act(11, 10, 3));
    assert_eq!((view.process.exe.as_str(), view.process.origin), ("/bin/bash", ProcessOrigin::Fork));
    assert_eq!(view.process.key, key(11));
    assert_eq!(view.process.parent, Some(key(10)));
}

#[test]
fn a_bulk_record_from_before_an_exec_is_given_the_image_of_its_time() {
    let mut tree = tree(vec![]);
    tree.take_in(&exec(10, 1, 1, "/bin/sh"));
    tree.take_in(&exec(10, 1, 100, "/usr/bin/nc"));
    assert_eq!(tree.take_in(&act(10, 1, 50)).process.exe, "/bin/sh");
    assert_eq!(tree.take_in(&act(10, 1, 150)).process.exe, "/usr/bin/nc");
}

#[test]
fn an_exec_before_its_fork_gets_the_right_parent_afterwards() {
    let mut tree = tree(vec![]);
    tree.take_in(&exec(10, 1, 1, "/bin/sh"));
    tree.take_in(&exec(12, 1, 5, "/usr/bin/id")); // its parent 11 has ended: the kernel says pid 1
    tree.take_in(&fork(10, 12, 4));
    let view = tree.take_in(&act(12, 1, 6));
    assert_eq!(view.process.parent, Some(key(10)));
    assert_eq!(exes(&view)[0], "/bin/sh");
}

fn in_proc(pid: u32, parent: u32, exe: &str) -> ProcFacts {
    let parent = (parent > 0)
        .then(|| ProcessKey { pid: Pid(parent), start: BootNs(u64::from(parent) * 1000 * NS_PER_TICK) });
    ProcFacts {
        pid: Pid(pid),
        start_ticks: u64::from(pid) * 1000,
        parent,
        exe: exe.into(),
        ..ProcFacts::default()
    }
}

#[test]
fn what_already_ran_is_known_and_gets_its_exact_start_with_its_first_record() {
    let mut tree = tree(vec![
        in_proc(1, 0, "/sbin/init"),
        in_proc(10, 1, "/usr/sbin/sshd"),
        in_proc(11, 10, "/bin/bash"),
    ]);
    assert_eq!(tree.bootstrap(&[]), 3);
    let view = tree.take_in(&act(11, 10, 1 << 50));
    assert_eq!(view.process.origin, ProcessOrigin::Bootstrap);
    assert_eq!(view.process.key, key(11));
    assert_eq!(exes(&view), ["/usr/sbin/sshd", "/sbin/init"]);
    // The parent gets its exact key later; the child follows.
    tree.take_in(&act(10, 1, 1 << 50));
    let view = tree.take_in(&act(11, 10, 1 << 50));
    assert_eq!(view.process.parent, Some(key(10)));
    assert_eq!(tree.sizes().living, 3);
    assert_eq!(tree.bootstrap(&[]), 3);
    assert_eq!(tree.sizes().living, 3, "a second look at /proc finds nobody new");
}

#[test]
fn the_kernels_own_start_times_are_used_where_it_lists_its_tasks() {
    let mut tree = tree(vec![in_proc(1, 0, "/sbin/init"), in_proc(10, 1, "/usr/sbin/sshd")]);
    tree.bootstrap(&[key(1), key(10)]);
    assert_eq!(tree.look(key(10)).unwrap().process.parent, Some(key(1)));
    assert_eq!(tree.descendants(key(1)), [key(10)]);
}

#[test]
fn descendants_are_found_through_parents_that_have_ended() {
    let mut tree = tree(vec![]);
    tree.take_in(&exec(10, 1, 1, "/bin/sh"));
    for (parent, child) in [(10, 11), (11, 12), (12, 13), (10, 14)] {
        tree.take_in(&fork(parent, child, 2));
    }
    tree.take_in(&exit(11, 3));
    tree.take_in(&exit(14, 3));
    let mut found = tree.descendants(key(10));
    found.sort_unstable();
    assert_eq!(found, [key(12), key(13)]);
    assert_eq!(tree.descendants(key(13)), []);
}

#[test]
fn a_lost_exec_is_recovered_from_proc_and_never_blank() {
    let mut tree = tree(vec![in_proc(20, 1, "/usr/bin/python3")]);
    let view = tree.take_in(&act(20, 1, 1 << 50));
    assert_eq!(
        (view.process.exe.as_str(), view.process.origin),
        ("/usr/bin/python3", ProcessOrigin::Recovered)
    );
    // Gone from /proc too.
    let view = tree.take_in(&act(21, 20, 1 << 50));
    assert_eq!(
        (view.process.exe.as_str(), view.process.origin),
        ("/usr/bin/python3", ProcessOrigin::Recovered)
    );
    let view = tree.take_in(&act(30, 29, 1 << 50));
    assert_eq!((view.process.exe.as_str(), view.process.origin), ("[c30]", ProcessOrigin::Recovered));
}

#[test]
fn a_reused_pid_is_another_process() {
    let mut tree = tree(vec![]);
    tree.take_in(&exec(10, 1, 1, "/bin/old"));
    let mut later = exec(10, 1, 900, "/bin/new");
    later.task.key.start = BootNs(key(10).start.0 + 5 * NS_PER_TICK);
    tree.take_in(&later);
    assert_eq!(tree.living(Pid(10)), Some(later.task.key));
    assert_eq!(tree.process(key(10)).unwrap().exe, "/bin/old");
    assert_eq!(tree.sizes(), Sizes { living: 1, dead: 1, bytes: tree.sizes().bytes });
}

#[test]
fn a_services_child_is_behind_a_listener_within_its_workload_only() {
    let listen = |addr: &str| {
        let local = Endpoint { addr: addr.parse().unwrap(), port: 80 };
        at(10, 1, 2, Body::Act(Activity::Listen { protocol: Protocol::Tcp, local }))
    };
    let mut tree = tree(vec![]);
    tree.take_in(&exec(10, 1, 1, "/srv/www"));
    tree.take_in(&fork(10, 11, 3));
    assert_eq!(tree.take_in(&listen("127.0.0.1")).exposure, Exposure::ListensLocally);
    assert_eq!(tree.take_in(&act(11, 10, 4)).exposure, Exposure::BehindLocalListener);
    assert_eq!(tree.take_in(&listen("0.0.0.0")).exposure, Exposure::Listens);
    assert_eq!(tree.take_in(&act(11, 10, 5)).exposure, Exposure::BehindListener);
    let mut elsewhere = act(11, 10, 6);
    elsewhere.task.cgroup = CgroupId(2);
    assert_eq!(tree.take_in(&elsewhere).exposure, Exposure::None);
}

#[test]
fn who_waits_for_peers_is_forgotten_last_and_known_again_from_proc() {
    let listen = |pid: u32, addr: &str| {
        let local = Endpoint { addr: addr.parse().unwrap(), port: 80 };
        at(pid, 1, 2, Body::Act(Activity::Listen { protocol: Protocol::Tcp, local }))
    };
    let mut forgotten = in_proc(21, 1, "/srv/forgotten");
    forgotten.listens = Listens::ToTheNetwork;
    let mut tree = tree(vec![forgotten]);
    tree.limits.living = 100;
    tree.take_in(&exec(20, 1, 1, "/srv/www"));
    tree.take_in(&listen(20, "192.0.2.1"));
    // Everybody else started later.
    for pid in 100..1000 {
        tree.take_in(&exec(pid, 1, 3, "/bin/idle"));
    }
    assert!(tree.sizes().living <= 100);
    assert!(tree.entries[&key(20)].listens == Listens::ToTheNetwork);
    // One that the tree has never met, or has forgotten.
    assert_eq!(tree.take_in(&act(21, 1, 5)).exposure, Exposure::Listens);
    // A listener whose record was lost, or of which none tells.
    tree.take_in(&exec(22, 1, 6, "/srv/unix"));
    tree.have_listeners(&[(key(22), Listens::Locally), (key(99), Listens::Locally)]);
    assert_eq!(tree.take_in(&act(22, 1, 7)).exposure, Exposure::ListensLocally);
    tree.take_in(&listen(22, "::ffff:127.0.0.1"));
    assert_eq!(tree.take_in(&act(22, 1, 7)).exposure, Exposure::ListensLocally);
    tree.take_in(&listen(22, "::"));
    tree.have_listeners(&[(key(22), Listens::Locally)]);
    assert_eq!(tree.take_in(&act(22, 1, 7)).exposure, Exposure::Listens);
}

#[test]
fn credentials_and_cgroup_follow_the_task() {
    let mut tree = tree(vec![]);
    let before = tree.take_in(&exec(10, 1, 1, "/bin/su"));
    let mut record = act(10, 1, 2);
    record.task.credentials.euid = 7;
    record.task.cgroup = CgroupId(9);
    let after = tree.take_in(&record);
    assert_eq!((after.process.credentials.euid, after.process.cgroup), (7, CgroupId(9)));
    assert_eq!(after.process.workload.cgroup_path(), Some("/9"));
    assert_eq!(before.process.credentials.euid, 0, "an earlier event keeps what was true then");
}

#[test]
fn i11_fifty_thousand_short_processes_leave_it_flat() {
    let mut tree = tree(vec![]);
    tree.take_in(&exec(10, 1, 1, "/bin/sh"));
    let churn = |tree: &mut ProcessTree, from: u32| {
        for pid in from..from + 25_000 {
            let time = u64::from(pid);
            tree.take_in(&fork(10, pid, time));
            tree.take_in(&exec(pid, 10, time, "/usr/bin/true"));
            tree.take_in(&exit(pid, time));
        }
        tree.sizes()
    };
    let first = churn(&mut tree, 100_000);
    let second = churn(&mut tree, 200_000);
    assert_eq!(first.living, 1);
    assert_eq!(first, second);
    assert_eq!(tree.entries.len(), tree.limits.dead_leaves + 1);
    assert_eq!(tree.by_pid.len(), 1);
    assert!(tree.dead_leaves.len() <= tree.limits.dead_leaves);
    assert!(second.bytes < 2 << 20, "{} bytes", second.bytes);
}

#[test]
fn i11_a_chain_of_dying_parents_cannot_grow_without_end() {
    let mut tree = tree(vec![]);
    tree.take_in(&exec(10, 1, 1, "/bin/sh"));
    for pid in 10..50_000 {
        tree.take_in(&fork(pid, pid + 1, u64::from(pid)));
        tree.take_in(&exit(pid, u64::from(pid)));
    }
    let sizes = tree.sizes();
    assert_eq!(sizes.living, 1);
    assert!(sizes.dead <= tree.limits.dead, "{sizes:?}");
    let view = tree.take_in(&act(50_000, 1, 60_000));
    assert_eq!(view.ancestors.len(), model::Event::MAX_ANCESTORS);
}

#[test]
fn i11_living_processes_and_their_bytes_are_bounded() {
    let mut tree = tree(vec![]);
    tree.limits = Limits { living: 1000, dead_leaves: 10, dead: 100, bytes: 1 << 20 };
    let long = "x".repeat(8000);
    for pid in 10..5000 {
        let record = at(pid, 1, 1, Body::Exec(Box::new(exec_facts("/bin/a", &["a", &long]))));
        let view = tree.take_in(&record);
        assert_eq!(view.process.args[1].len(), 8000, "the event itself is whole");
    }
    let sizes = tree.sizes();
    assert!(sizes.living <= 1000, "{sizes:?}");
    assert!(sizes.bytes < (1 << 20) + 1000 * 2048, "{sizes:?}");
}

#[test]
fn a_lost_exit_is_made_good() {
    let mut tree = tree(vec![in_proc(11, 1, "/bin/stays")]);
    tree.take_in(&exec(10, 1, 1, "/bin/gone"));
    tree.take_in(&exec(11, 1, 1, "/bin/stays"));
    let gone: Vec<ProcessKey> = tree.living_keys().into_iter().filter(|key| *key == self::key(10)).collect();
    tree.have_ended(&gone, BootNs(9));
    assert_eq!(tree.living(Pid(10)), None);
    assert_eq!(tree.living(Pid(11)), Some(key(11)));
}

/// What the tree must never get wrong, whatever comes in whatever order.
fn check(tree: &ProcessTree) {
    let dead = tree.entries.values().filter(|entry| entry.exit.is_some()).count();
    assert_eq!(dead, tree.dead);
    assert!(tree.children.values().map(HashSet::len).sum::<usize>() <= tree.entries.len());
    let bytes: usize = tree.entries.values().map(|entry| entry.weight).sum();
    assert_eq!(bytes, tree.bytes);
    for (key, entry) in &tree.entries {
        let children = tree.entries.values().filter(|child| child.parent == Some(*key)).count();
        assert_eq!(tree.children.get(key).map_or(0, HashSet::len), children, "children of {key:?}");
        // A dead process that nobody needs must be in the queue that forgets it.
        assert!(
            entry.exit.is_none() || children > 0 || entry.queued == Queued::Yes,
            "{key:?} is kept for ever"
        );
    }
    for (pid, key) in &tree.by_pid {
        assert!(*pid == key.pid && tree.entries.get(key).is_some_and(|entry| entry.exit.is_none()));
    }
    assert!(tree.dead_leaves.len() <= tree.limits.dead_leaves, "{} leaves", tree.dead_leaves.len());
    assert!(tree.dead <= tree.limits.dead, "{} dead", tree.dead);
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(200))]
    #[test]
    fn any_records_in_any_order_keep_the_books_right(
        steps in proptest::collection::vec((0_u8..5, 1_u32..20, 1_u32..20, 0_u64..50), 0..120),
    ) {
        let mut tree = tree((1..10).map(|pid| in_proc(pid, pid / 2, "/bin/p")).collect());
        tree.limits = Limits { living: 12, dead_leaves: 3, dead: 6, bytes: 1 << 20 };
        tree.bootstrap(&[]);
        for (kind, a, b, time) in steps {
            let view = match kind {
                0 => tree.take_in(&exec(a, b, time, "/bin/e")),
                1 => tree.take_in(&fork(a, b, time)),
                2 => tree.take_in(&exit(a, time)),
                3 => tree.take_in(&act(a, b, time)),
                _ => { tree.have_ended(&[key(a), key(b)], BootNs(time)); continue; }
            };
            proptest::prop_assert_eq!(view.process.key, key(a));
            proptest::prop_assert!(!view.process.exe.is_empty());
            check(&tree);
        }
    }
}
