//! Known loss: seen = submitted + filtered + lost, by class and reason; budgets by cgroup.

use std::{
    fs,
    io::{BufRead, Write},
    path::{Path, PathBuf},
    process::Stdio,
    time::Instant,
};

use agent::{
    probe::{Budgets, ProbeConfig, Probes, Reader},
    record::{Body, Record},
};
use model::{CgroupId, ClassPlan, EventClass, FilterPlan, HookState, KernelTest, Pid};

use crate::{
    Check, Failure,
    file::Folder,
    flood::{CANNOT, FLOODS},
    scene::{PATIENCE, Scene, acts, command, same},
};

/// Of each class and each way in which it is seen.
pub(crate) const BY_CLASS: &[Check] = &[Check {
    name: "accounting: i2_of every class and way, generated = submitted + filtered + lost, exactly",
    run: every_class,
}];

pub(crate) const CHECKS: &[Check] = &[
    Check { name: "accounting: i2_a full critical ring loses what it counts, exactly", run: full_ring },
    Check { name: "budgets: a noisy cgroup is cut, exactly counted, and no other is", run: budgets },
    Check { name: "budgets: they still limit when more cgroups have come than are remembered", run: evicted },
];

fn full_ring(scene: &mut Scene) -> Result<(), Failure> {
    let config = ProbeConfig {
        critical_ring: 64 * 1024,
        budgets: crate::scene::NO_BUDGETS,
        pins: format!("/sys/fs/bpf/hemostat-node-tests-{}-f", std::process::id()).into(),
        ..ProbeConfig::default()
    };
    let _guard = Pins(config.pins.clone());
    let plan = FilterPlan { classes: [(EventClass::Memfd, ClassPlan::All)].into(), hold: vec![] };
    let mut probes = Probes::load(&config, &plan)?;
    let mut reader = probes.reader()?;
    let total = if scene.quick { 5_000 } else { 50_000 };
    crate::scene::run_actor(&["memfd-loop", &total.to_string()])?;
    let mut given = std::collections::BTreeMap::<EventClass, u64>::new();
    let mut own = 0;
    // What is seen while the ring is read out is counted, too: until nothing more comes, both must agree.
    for _ in 0..100 {
        reader.look(&mut |record| {
            let class = match &record.body {
                agent::record::Body::Exec(_) => EventClass::Exec,
                agent::record::Body::Fork { .. } => EventClass::Fork,
                agent::record::Body::Exit(_) => EventClass::Exit,
                agent::record::Body::Act(_) => EventClass::Memfd,
            };
            own += u64::from(class == EventClass::Memfd);
            *given.entry(class).or_default() += 1;
        })?;
        let counts = probes.counts()?;
        let memfd = counts.get(&EventClass::Memfd).copied().unwrap_or_default();
        let exact =
            counts.values().all(|count| count.seen == count.submitted + count.filtered + count.lost());
        let all_read =
            counts.iter().all(|(class, count)| given.get(class).copied().unwrap_or(0) == count.submitted);
        if exact && all_read {
            if memfd.lost_ring == 0 || memfd.seen < total {
                return Err(format!("the ring did not overflow: {memfd:?}").into());
            }
            // Another process on this machine may have made some, never fewer.
            return same("memfd records given out", &own, &memfd.submitted);
        }
    }
    Err(format!("counted {:?}, given out {given:?}", probes.counts()?).into())
}

/// Each way to cause events, in a cgroup of its own, with rings of one page that nobody reads meanwhile. What the budgets say of the cgroup
/// is of nobody else; what the counters say is of all the machine, and must agree with what the rings give out in the end.
fn every_class(scene: &mut Scene) -> Result<(), Failure> {
    const NO_LIMIT: u64 = u64::MAX;
    let no_limit = Budgets { critical: NO_LIMIT, life: NO_LIMIT, file: NO_LIMIT, net: NO_LIMIT };
    let rounds = if scene.quick { 60 } else { 200 };
    let config = ProbeConfig {
        critical_ring: 4096,
        bulk_ring: 4096,
        budgets: no_limit,
        pins: format!("/sys/fs/bpf/hemostat-node-tests-{}-e", std::process::id()).into(),
        forms: scene.forms(),
        ..ProbeConfig::default()
    };
    let _guard = Pins(config.pins.clone());
    let mut probes = Probes::load(&config, &FilterPlan::default())?;
    let mut reader = probes.reader()?;
    let (mut given, mut wrong) = (0, Vec::new());
    for flood in FLOODS {
        let plan = FilterPlan { classes: [(flood.class, ClassPlan::All)].into(), hold: vec![] };
        probes.apply_plan(&plan)?;
        let unseen = probes.hooks().into_iter().find(|hook| {
            hook.classes.contains(&flood.class)
                && matches!(hook.state, HookState::Failed { .. } | HookState::NothingToSee { .. })
        });
        if let Some(hook) = unseen {
            println!("  SKIPPED {}: {hook:?}", flood.name);
            continue;
        }
        let before = probes.counts()?.get(&flood.class).copied().unwrap_or_default();
        let cgroup = Cgroup::new(&format!("flood-{}", flood.name))?;
        let folder = Folder::new("flood")?;
        if !cgroup.flood(flood.name, folder.path(), rounds)? {
            println!("  SKIPPED {}: not on this kernel", flood.name);
            continue;
        }
        let generated = match flood.class {
            // Both are of one budget, and the actor itself ends, too.
            EventClass::Fork | EventClass::Exit => 2 * rounds + 1,
            _ => flood.each * rounds,
        };
        let told = told_of(&probes, cgroup.id, group(flood.class), generated);
        let after = probes.counts()?.get(&flood.class).copied().unwrap_or_default();
        if told != generated {
            wrong.push(format!("{}: {told} of {generated}: {before:?}, {after:?}", flood.name));
        }
        if after.lost_ring == before.lost_ring {
            wrong.push(format!("{}: the ring did not overflow: {after:?}", flood.name));
        }
        if !agree(&probes, &mut reader, &mut given)? {
            wrong.push(format!("{}: given out {given}, counted {:?}", flood.name, probes.counts()?));
        }
        if let Some(test) = nothing_of(flood.class) {
            let classes = [(flood.class, ClassPlan::AnyOf(vec![test]))].into();
            probes.apply_plan(&FilterPlan { classes, hold: vec![] })?;
            let before = probes.counts()?.get(&flood.class).copied().unwrap_or_default();
            let cgroup = Cgroup::new(&format!("drought-{}", flood.name))?;
            let folder = Folder::new("drought")?;
            cgroup.flood(flood.name, folder.path(), rounds)?;
            let begun = Instant::now();
            // The end of a connection can come a moment after its close.
            let filtered = loop {
                let after = probes.counts()?.get(&flood.class).copied().unwrap_or_default();
                let filtered = after.filtered - before.filtered;
                if filtered >= generated || begun.elapsed() > PATIENCE {
                    break filtered;
                }
                std::thread::yield_now();
            };
            let passed = told_of(&probes, cgroup.id, group(flood.class), 0);
            if filtered < generated || passed > 0 {
                wrong.push(format!("{}: {filtered} filtered and {passed} passed of {generated}", flood.name));
            }
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("; ").into()) }
}

/// What was let through to the ring, taken or refused there, of what a cgroup did; waits until it is as much as `expected`.
fn told_of(probes: &Probes, cgroup: CgroupId, group: u64, expected: u64) -> u64 {
    let begun = Instant::now();
    loop {
        let all = probes.budgets();
        let of_it = all.iter().find(|budget| budget.cgroup == cgroup && budget.group == group);
        let told = of_it.map_or(0, |budget| budget.passed + budget.cut);
        if told >= expected || begun.elapsed() > PATIENCE {
            return told;
        }
        std::thread::yield_now();
    }
}

/// Reads the rings out: whether every event that was seen has its fate, and as many came out as were taken.
fn agree(probes: &Probes, reader: &mut Reader, given: &mut u64) -> Result<bool, Failure> {
    // What is seen meanwhile is counted, too: until nothing more comes.
    for _ in 0..1000 {
        reader.look(&mut |_| *given += 1)?;
        let counts = probes.counts()?;
        let exact =
            counts.values().all(|count| count.seen == count.submitted + count.filtered + count.lost());
        if exact && counts.values().map(|count| count.submitted).sum::<u64>() == *given {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The number of the group whose budget a class uses up (agent-abi/src/class.rs).
fn group(class: EventClass) -> u64 {
    use EventClass::*;
    match class {
        Fork | Exit => 1,
        FileOpen | FileDelete | FileRename | FileLink | FileMode | FileOwner => 2,
        Connect | Accept | Bind | Listen | SocketClose | Dns => 3,
        _ => 0,
    }
}

/// A test that nothing of a flood passes, where its class has tests.
fn nothing_of(class: EventClass) -> Option<KernelTest> {
    match group(class) {
        2 => Some(KernelTest::PathPrefix("/no/such/folder/".into())),
        3 if class != EventClass::Dns => Some(KernelTest::Port(1)),
        _ => None,
    }
}

fn budgets(scene: &mut Scene) -> Result<(), Failure> {
    scene.all_of(&[EventClass::Memfd])?;
    scene.needs(EventClass::Memfd)?;
    let noisy = Cgroup::new("noisy")?;
    let quiet = Cgroup::new("quiet")?;
    let total = if scene.quick { 5_000_u64 } else { 50_000 };
    let ((first, second), records) = scene.during(|scene| {
        scene.probes.set_budgets(Budgets { critical: 100, ..crate::scene::NO_BUDGETS })?;
        let first = noisy.run(&["memfd-loop-after-stdin", &total.to_string()])?;
        let second = quiet.run(&["memfd-loop-after-stdin", "50"])?;
        scene.probes.set_budgets(crate::scene::NO_BUDGETS)?;
        Ok((first, second))
    })?;
    let (seen, quiet_seen) = (acts(&records, first).len() as u64, acts(&records, second).len() as u64);
    let all = scene.probes.budgets();
    let of =
        |cgroup: CgroupId| all.iter().find(|budget| budget.cgroup == cgroup && budget.group == 0).copied();
    let budget = of(noisy.id).ok_or("no budget entry for the noisy cgroup")?;
    let execs = execs_within(&records, first, noisy.id);
    same("passed of the noisy cgroup", &budget.passed, &(seen + execs))?;
    same("passed and cut of the noisy cgroup", &(budget.passed + budget.cut), &(total + execs))?;
    if budget.cut == 0 {
        return Err(format!("nothing was cut: {budget:?}").into());
    }
    same("the quiet cgroup", &quiet_seen, &50)?;
    same("cut of the quiet cgroup", &of(quiet.id).map(|budget| budget.cut), &Some(0))
}

/// Mistake 4 of peers.md: a map of limits that was full once limited nobody any more. Here more cgroups come than the map remembers; each is
/// let through, and who is noisy afterwards is cut as ever.
fn evicted(scene: &mut Scene) -> Result<(), Failure> {
    /// Entries of the map BUDGETS.
    const REMEMBERED: usize = 8192;
    scene.all_of(&[EventClass::Memfd])?;
    scene.needs(EventClass::Memfd)?;
    let many = Cgroup::new("many")?;
    let count = REMEMBERED + 800;
    for n in 0..count {
        fs::create_dir(many.path.join(n.to_string()))?;
    }
    let noisy = Cgroup::new("noisy-after-many")?;
    let total = 5_000_u64;
    let cut_before = cut(scene)?;
    let ((wanderer, last), records) = scene.during(|scene| {
        scene.probes.set_budgets(Budgets { critical: 100, ..crate::scene::NO_BUDGETS })?;
        let folder = many.path.to_string_lossy().into_owned();
        let wanderer = crate::scene::run_actor(&["memfd-through", &folder, &count.to_string()])?;
        let last = noisy.run(&["memfd-loop-after-stdin", &total.to_string()])?;
        scene.probes.set_budgets(crate::scene::NO_BUDGETS)?;
        Ok((wanderer, last))
    })?;
    same("what each of the many did", &acts(&records, wanderer).len(), &count)?;
    let all = scene.probes.budgets();
    if all.len() > REMEMBERED {
        return Err(format!("{} budgets are remembered", all.len()).into());
    }
    let of_many = all.iter().filter(|budget| budget.group == 0).count();
    if of_many < REMEMBERED / 2 {
        return Err(format!("only {of_many} budgets are remembered: the map was never full").into());
    }
    let budget = all
        .iter()
        .find(|budget| budget.cgroup == noisy.id && budget.group == 0)
        .ok_or("the map took no new cgroup after it was full")?;
    let execs = execs_within(&records, last, noisy.id);
    same("passed of the noisy cgroup", &budget.passed, &(acts(&records, last).len() as u64 + execs))?;
    same("passed and cut of the noisy cgroup", &(budget.passed + budget.cut), &(total + execs))?;
    if budget.cut == 0 {
        return Err(format!("after {count} cgroups nobody is limited any more: {budget:?}").into());
    }
    let lost = cut(scene)? - cut_before;
    if lost < budget.cut {
        return Err(format!("{} were cut and {lost} counted as lost", budget.cut).into());
    }
    Ok(())
}

/// The actor's own exec, which is of the same group, if the actor was moved before its hook ran: who started it goes on as soon as it has its
/// new memory, which is a little earlier.
fn execs_within(records: &[Record], pid: Pid, cgroup: CgroupId) -> u64 {
    let of_it = |record: &&Record| record.task.key.pid == pid && record.task.cgroup == cgroup;
    records.iter().filter(of_it).filter(|record| matches!(record.body, Body::Exec(_))).count() as u64
}

fn cut(scene: &Scene) -> Result<u64, Failure> {
    Ok(scene.probes.counts()?.get(&EventClass::Memfd).map_or(0, |count| count.lost_budget))
}

/// A cgroup of its own below the root, which goes with its guard.
pub(crate) struct Cgroup {
    top: PathBuf,
    path: PathBuf,
    pub(crate) id: CgroupId,
}

impl Cgroup {
    pub(crate) fn new(name: &str) -> Result<Self, Failure> {
        Self::below(name, "")
    }

    /// The same with folders of these names below it, of which the last is the one that is meant.
    pub(crate) fn below(name: &str, inner: &str) -> Result<Self, Failure> {
        let mounts = fs::read_to_string("/proc/mounts")?;
        let mount = mounts.lines().find_map(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            (words.get(2) == Some(&"cgroup2")).then(|| words[1].to_owned())
        });
        let top = PathBuf::from(mount.ok_or("no cgroup2 mount")?)
            .join(format!("hemostat-{name}-{}", std::process::id()));
        let path = top.join(inner);
        fs::create_dir_all(&path)?;
        let id = CgroupId(std::os::unix::fs::MetadataExt::ino(&fs::metadata(&path)?));
        Ok(Self { top, path, id })
    }

    /// Runs an actor in it to its end; the actor waits for the end of its standard input first.
    fn run(&self, words: &[&str]) -> Result<Pid, Failure> {
        self.run_with_input(words, &[])
    }

    /// Runs a flood in it to its end; `false` where this kernel cannot do that.
    fn flood(&self, name: &str, folder: &str, rounds: u64) -> Result<bool, Failure> {
        let mut child = command(&["flood", name, folder, &rounds.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        // Until it says that it is ready: what that takes is not of this cgroup.
        let mut ready = String::new();
        if let Some(stdout) = &mut child.stdout {
            std::io::BufReader::new(stdout).read_line(&mut ready)?;
        }
        if ready == "ready\n" {
            fs::write(self.path.join("cgroup.procs"), child.id().to_string())?;
        }
        drop(child.stdin.take());
        match child.wait()?.code() {
            Some(0) => Ok(true),
            Some(code) if code == i32::from(CANNOT) => Ok(false),
            code => Err(format!("the flood {name} ended with {code:?}").into()),
        }
    }

    /// The same, with something to read.
    pub(crate) fn run_with_input(&self, words: &[&str], input: &[u8]) -> Result<Pid, Failure> {
        let mut child = command(words).stdin(Stdio::piped()).spawn()?;
        fs::write(self.path.join("cgroup.procs"), child.id().to_string())?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input)?;
        }
        if !child.wait()?.success() {
            return Err("the actor failed".into());
        }
        Ok(Pid(child.id()))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = fs::write(self.top.join("cgroup.kill"), "1");
        // Who has ended leaves it a moment later.
        let begun = Instant::now();
        while remove(&self.top).is_err() && begun.elapsed() < PATIENCE {
            std::thread::yield_now();
        }
    }
}

/// Removes a cgroup and those below it. Its files cannot be removed, and need not be.
fn remove(cgroup: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(cgroup)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove(&entry.path())?;
        }
    }
    fs::remove_dir(cgroup)
}

struct Pins(PathBuf);

impl Drop for Pins {
    fn drop(&mut self) {
        let _ = fs::remove_file(self.0.join("held"));
        let _ = fs::remove_dir(&self.0);
    }
}
