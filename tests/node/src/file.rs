//! Files: open, delete, rename, link, mode, owner.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    process::ExitCode,
};

use agent::record::{Body, Record};
use model::{
    Activity, ClassPlan, Created, EventClass, FilePath, FilterPlan, KernelTest, LinkKind, Pid, Truncated,
};

use crate::{
    Check, Failure,
    scene::{NO_BUDGETS, Scene, actor, acts, run_actor, same},
};

pub(crate) const CHECKS: &[Check] = &[
    Check { name: "file: each call once with the right values, failures not at all", run: calls },
    Check {
        name: "file: relative names, links, bind mounts, overlay and /proc/self/root give the real path",
        run: paths,
    },
    Check {
        name: "file: a path of 300 components is whole, one beyond 4 KiB is cut at its front",
        run: deep,
    },
    Check { name: "file: opens by 32-bit calls are seen", run: other_ways },
    Check { name: "file: i1_the filter passes what a test wants, and no more", run: filter },
    Check { name: "file: of 50,000 creates every one is right", run: storm },
    Check { name: "file: i2_beyond the ring's limit every event is counted", run: accounting },
];

const ALL: [EventClass; 6] = [
    EventClass::FileOpen,
    EventClass::FileDelete,
    EventClass::FileRename,
    EventClass::FileLink,
    EventClass::FileMode,
    EventClass::FileOwner,
];

/// A folder of one's own that goes with the value.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn new(name: &str) -> Result<Self, Failure> {
        let path = std::env::temp_dir().join(format!("hemostat-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path)?;
        // What the kernel shows is the real path.
        Ok(Self(fs::canonicalize(path)?))
    }

    pub(crate) fn path(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Probes as an agent loads them: its rings, its budgets.
pub(crate) struct Usual {
    pins: PathBuf,
}

impl Usual {
    pub(crate) fn open(name: &str, like: &Scene) -> Result<(Self, Scene), Failure> {
        let pins = PathBuf::from(format!("/sys/fs/bpf/hemostat-node-tests-{}-{name}", std::process::id()));
        let mut config = agent::probe::ProbeConfig {
            pins: pins.clone(),
            forms: like.forms(),
            ..agent::probe::ProbeConfig::default()
        };
        // As the first program of an emulated machine, whose reader is many times slower than its makers.
        if std::process::id() == 1 {
            (config.bulk_ring, config.budgets) = (32 << 20, NO_BUDGETS);
        }
        let usual = Self { pins };
        Ok((usual, Scene::with(&config, like.quick)?))
    }
}

impl Drop for Usual {
    fn drop(&mut self) {
        let _ = fs::remove_file(self.pins.join("held"));
        let _ = fs::remove_dir(&self.pins);
    }
}

fn whole(path: impl Into<String>) -> FilePath {
    FilePath { path: path.into(), truncated: Truncated::No }
}

fn calls(scene: &mut Scene) -> Result<(), Failure> {
    let dir = Folder::new("calls")?;
    let d = dir.path().to_owned();
    scene.all_of(&ALL)?;
    scene.needs(EventClass::FileOpen)?;
    let (pid, records) = scene.during(|_| run_actor(&["file", "calls", dir.path()]))?;
    let at = |name: &str| whole(format!("{d}/{name}"));
    let open =
        |name: &str, flags: i32, created| Activity::FileOpen { file: at(name), flags: flags as u32, created };
    let expected = vec![
        open("a", libc::O_CREAT | libc::O_RDWR | libc::O_EXCL, Created::Yes),
        open("a", libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC, Created::No),
        open("b", libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC, Created::Yes),
        open("a", libc::O_RDONLY, Created::No),
        open("a", libc::O_RDWR | libc::O_APPEND, Created::No),
        open("sub", libc::O_RDONLY | libc::O_DIRECTORY, Created::No),
        open("sub/c", libc::O_CREAT | libc::O_WRONLY, Created::Yes),
        Activity::FileMode { file: at("a"), mode: 0o640 },
        Activity::FileMode { file: at("a"), mode: 0o4755 },
        Activity::FileMode { file: at("sub/c"), mode: 0o600 },
        Activity::FileOwner { file: at("a"), uid: 1, gid: u32::MAX },
        Activity::FileOwner { file: at("a"), uid: 2, gid: 3 },
        Activity::FileOwner { file: at("sub/c"), uid: 4, gid: 5 },
        Activity::FileLink { target: whole("../x/y"), link: at("soft"), kind: LinkKind::Symbolic },
        Activity::FileLink { target: whole("a"), link: at("sub/soft"), kind: LinkKind::Symbolic },
        Activity::FileLink { target: at("a"), link: at("sub/hard"), kind: LinkKind::Hard },
        Activity::FileLink { target: at("b"), link: at("hard"), kind: LinkKind::Hard },
        Activity::FileRename { from: at("a"), to: at("sub/d") },
        Activity::FileRename { from: at("sub/d"), to: at("e") },
        Activity::FileDelete { file: at("e") },
        Activity::FileDelete { file: at("sub/hard") },
        Activity::FileDelete { file: at("sub/soft") },
        Activity::FileDelete { file: at("sub/c") },
        Activity::FileDelete { file: at("sub") },
    ];
    let found: Vec<Activity> =
        acts(&records, pid).into_iter().filter(|activity| ours(activity, &d)).cloned().collect();
    for (n, (found, expected)) in found.iter().zip(&expected).enumerate() {
        same(&format!("call {n}"), found, expected)?;
    }
    same("calls", &found.len(), &expected.len())
}

/// Whether one of the activity's paths lies in the folder.
fn ours(activity: &Activity, dir: &str) -> bool {
    match activity {
        Activity::FileOpen { file, .. }
        | Activity::FileDelete { file }
        | Activity::FileMode { file, .. }
        | Activity::FileOwner { file, .. } => file.path.starts_with(dir),
        Activity::FileRename { from, to } => from.path.starts_with(dir) || to.path.starts_with(dir),
        Activity::FileLink { link, .. } => link.path.starts_with(dir),
        _ => false,
    }
}

fn opens(records: &[Record], pid: Pid) -> Vec<&FilePath> {
    fn file(activity: &Activity) -> Option<&FilePath> {
        match activity {
            Activity::FileOpen { file, .. } => Some(file),
            _ => None,
        }
    }
    acts(records, pid).into_iter().filter_map(file).collect()
}

fn paths(scene: &mut Scene) -> Result<(), Failure> {
    let dir = Folder::new("paths")?;
    scene.all_of(&[EventClass::FileOpen, EventClass::FileDelete])?;
    scene.needs(EventClass::FileOpen)?;
    let (pid, records) = scene.during(|_| run_actor(&["file", "paths", dir.path()]))?;
    let found: Vec<&str> = opens(&records, pid)
        .into_iter()
        .map(|file| file.path.as_str())
        .filter(|path| path.contains("secret"))
        .collect();
    let d = dir.path();
    // Written, by `..`, by a link to it, by a link to its folder, by /proc/self/root; in a bind mount, an overlay, a new root.
    let mut expected = vec![format!("{d}/real/secret"); 5];
    expected.push(format!("{d}/bound/secret"));
    if found.len() > expected.len() + 1 {
        expected.push(format!("{d}/merged/secret"));
    } else {
        println!("  SKIPPED overlay: it cannot be mounted here");
    }
    expected.push(format!("{d}/real/secret"));
    same("opens", &found, &expected.iter().map(String::as_str).collect())?;
    let deleted: Vec<&Activity> = acts(&records, pid)
        .into_iter()
        .filter(|activity| matches!(activity, Activity::FileDelete { .. }))
        .collect();
    same("deletes", &deleted, &vec![&Activity::FileDelete { file: whole(format!("{d}/bound/gone")) }])
}

fn deep(scene: &mut Scene) -> Result<(), Failure> {
    let dir = Folder::new("deep")?;
    scene.all_of(&[EventClass::FileOpen])?;
    scene.needs(EventClass::FileOpen)?;
    let (pid, records) = scene.during(|_| run_actor(&["file", "deep", dir.path()]))?;
    let found = opens(&records, pid);
    let leaf =
        |name: &str| found.iter().find(|file| file.path.ends_with(name)).copied().ok_or("no such open");
    let expected: String = (0..300).map(|n| format!("/d{n:03}")).collect();
    same("300 components", leaf("/leaf")?, &whole(format!("{}{expected}/leaf", dir.path())))?;
    let cut = leaf("/leaf2")?;
    same("cut", &cut.truncated, &Truncated::Yes)?;
    if cut.path.len() < 4096 - 256 || !cut.path.starts_with('/') {
        return Err(format!("{} bytes are left, from {:?}", cut.path.len(), &cut.path[..20]).into());
    }
    Ok(())
}

fn other_ways(scene: &mut Scene) -> Result<(), Failure> {
    let dir = Folder::new("ways")?;
    scene.all_of(&[EventClass::FileOpen])?;
    scene.needs(EventClass::FileOpen)?;
    let (pid, records) = scene.during(|_| {
        let mut child = actor(&["file", "compat", dir.path()])?;
        Ok(child.wait()?.success().then(|| Pid(child.id())))
    })?;
    let Some(pid) = pid else {
        return Err(Box::new(crate::scene::Skip("this kernel takes no 32-bit calls".into())));
    };
    let expected = whole(format!("{}/compat", dir.path()));
    let found: Vec<_> = opens(&records, pid).into_iter().filter(|file| **file == expected).collect();
    same("32-bit calls", &found.len(), &1)
}

fn filter(scene: &mut Scene) -> Result<(), Failure> {
    let dir = Folder::new("filter")?;
    let d = dir.path().to_owned();
    let opened = |scene: &mut Scene, tests: Vec<KernelTest>| -> Result<BTreeSet<String>, Failure> {
        let plan =
            FilterPlan { classes: [(EventClass::FileOpen, ClassPlan::AnyOf(tests))].into(), hold: vec![] };
        scene.probes.apply_plan(&plan)?;
        scene.needs(EventClass::FileOpen)?;
        let (pid, records) = scene.during(|_| run_actor(&["file", "filter", &d]))?;
        let below = |file: &FilePath| file.path.strip_prefix(&format!("{d}/")).map(String::from);
        Ok(opens(&records, pid).into_iter().filter_map(below).collect())
    };
    let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
    let test = KernelTest::PathSuffix("/SECRET.PEM".into());
    same("suffix", &opened(scene, vec![test])?, &set(&["sub/Secret.pem", "written/secret.PEM"]))?;
    let test = KernelTest::PathIs(format!("{d}/SUB/secret.pem"));
    same("whole path", &opened(scene, vec![test])?, &set(&["sub/Secret.pem"]))?;
    let test = KernelTest::PathPrefix(format!("{d}/sub/"));
    same("prefix", &opened(scene, vec![test])?, &set(&["sub/Secret.pem", "sub/other"]))?;
    same("write", &opened(scene, vec![KernelTest::Write])?, &set(&["written/secret.PEM", "written/x"]))?;
    let both = vec![KernelTest::Write, KernelTest::PathSuffix("other".into())];
    same("either", &opened(scene, both)?, &set(&["written/secret.PEM", "written/x", "sub/other"]))?;
    same("none", &opened(scene, vec![KernelTest::PathIs("/nowhere".into())])?, &set(&[]))?;
    // `..` in the caller's text must not lead past a test.
    let tests = vec![KernelTest::PathIs(format!("{d}/sub/gone"))];
    let plan =
        FilterPlan { classes: [(EventClass::FileDelete, ClassPlan::AnyOf(tests))].into(), hold: vec![] };
    scene.probes.apply_plan(&plan)?;
    let (pid, records) = scene.during(|_| run_actor(&["file", "dotted", &d]))?;
    let gone = Activity::FileDelete { file: whole(format!("{d}/sub/gone")) };
    same("deletes", &acts(&records, pid), &vec![&gone; 4])
}

const WORKERS: u32 = 5;

fn storm(scene: &mut Scene) -> Result<(), Failure> {
    let dir = Folder::new("storm")?;
    let each = if scene.quick { 500 } else { 10_000 };
    let (_pins, mut scene) = Usual::open("files", scene)?;
    scene.all_of(&[EventClass::FileOpen, EventClass::FileDelete])?;
    scene.needs(EventClass::FileOpen)?;
    let cgroup = crate::actor::cgroup_id(std::process::id())?;
    let (pids, records) = scene.during(|_| run_workers(dir.path(), each))?;
    for (worker, pid) in pids.iter().enumerate() {
        let of_worker: Vec<&Record> = records
            .iter()
            .filter(|record| record.task.key.pid == *pid && matches!(record.body, Body::Act(_)))
            .collect();
        let strange = of_worker.iter().find(|record| {
            record.task.parent.pid != Pid(std::process::id())
                || record.task.cgroup.0 != cgroup
                || record.task.key.start != of_worker[0].task.key.start
        });
        if let Some(record) = strange {
            return Err(format!("wrong task: {:?}", record.task).into());
        }
        let names = |wanted: fn(&Activity) -> Option<&FilePath>| -> Vec<&str> {
            let of_worker = of_worker.iter().filter_map(|record| match &record.body {
                Body::Act(activity) => wanted(activity),
                _ => None,
            });
            of_worker.map(|file| file.path.as_str()).filter(|path| path.starts_with(dir.path())).collect()
        };
        let expected: Vec<String> = (0..each).map(|n| format!("{}/w{worker}-{n}", dir.path())).collect();
        let created = names(|activity| match activity {
            Activity::FileOpen { file, created: Created::Yes, .. } => Some(file),
            _ => None,
        });
        let deleted = names(|activity| match activity {
            Activity::FileDelete { file } => Some(file),
            _ => None,
        });
        if created != expected || deleted != expected {
            return Err(format!(
                "worker {worker}: {} creates, {} deletes of {each}; {:?}",
                created.len(),
                deleted.len(),
                scene.probes.counts()?
            )
            .into());
        }
    }
    Ok(())
}

fn run_workers(dir: &str, each: u32) -> Result<Vec<Pid>, Failure> {
    let start = |worker: u32| actor(&["file", "storm", dir, &worker.to_string(), &each.to_string()]);
    let mut workers = (0..WORKERS).map(start).collect::<Result<Vec<_>, _>>()?;
    for worker in &mut workers {
        if !worker.wait()?.success() {
            return Err("a worker failed".into());
        }
    }
    Ok(workers.iter().map(|worker| Pid(worker.id())).collect())
}

fn accounting(scene: &mut Scene) -> Result<(), Failure> {
    let dir = Folder::new("account")?;
    let each = if scene.quick { 500 } else { 4_000 };
    // Probes of their own, whose rings nobody reads: 64 KiB hold about 400 records.
    let config = agent::probe::ProbeConfig {
        bulk_ring: 64 << 10,
        budgets: NO_BUDGETS,
        pins: format!("/sys/fs/bpf/hemostat-node-tests-{}-deaf", std::process::id()).into(),
        ..agent::probe::ProbeConfig::default()
    };
    let tests = vec![KernelTest::PathPrefix(dir.path().into())];
    let plan = FilterPlan { classes: [(EventClass::FileOpen, ClassPlan::AnyOf(tests))].into(), hold: vec![] };
    let probes = agent::probe::Probes::load(&config, &plan)?;
    let made = run_workers(dir.path(), each).map(|pids| pids.len() as u64 * u64::from(each));
    let counts = probes.counts();
    drop(probes);
    fs::remove_file(config.pins.join("held"))?;
    fs::remove_dir(&config.pins)?;
    let (made, counts) = (made?, counts?);
    let count = counts.get(&EventClass::FileOpen).copied().unwrap_or_default();
    if count.submitted == 0 || count.lost_ring == 0 {
        return Err(format!("the ring was not brought to its limit: {count:?}").into());
    }
    same("submitted + lost", &(count.submitted + count.lost_ring), &made)?;
    same("seen", &count.seen, &(count.submitted + count.filtered + count.lost()))
}

/// What the checks above have done by another process.
pub(crate) fn help(words: &[&str]) -> Result<ExitCode, Failure> {
    match words {
        ["storm", dir, worker, count] => {
            for n in 0..count.parse::<u32>()? {
                let path = Path::new(dir).join(format!("w{worker}-{n}"));
                drop(fs::OpenOptions::new().write(true).create_new(true).open(&path)?);
                fs::remove_file(&path)?;
            }
            Ok(ExitCode::SUCCESS)
        }
        ["filter", dir] => {
            let dir = Path::new(dir);
            for sub in ["sub", "written"] {
                fs::create_dir_all(dir.join(sub))?;
            }
            fs::write(dir.join("written/secret.PEM"), "")?;
            fs::write(dir.join("written/x"), "")?;
            for name in ["sub/Secret.pem", "sub/other", "plain"] {
                // Made by a call that the probes do not tell, so that each is only read.
                make_node(&dir.join(name))?;
                fs::File::open(dir.join(name))?;
            }
            Ok(ExitCode::SUCCESS)
        }
        ["dotted", dir] => {
            std::env::set_current_dir(Path::new(dir).join("sub"))?;
            for name in ["gone", "../sub/gone", "./gone", "..//sub/../sub/gone"] {
                make_node(Path::new("gone"))?;
                fs::remove_file(name)?;
            }
            Ok(ExitCode::SUCCESS)
        }
        other => crate::file_calls::help(other),
    }
}

fn make_node(path: &Path) -> io::Result<()> {
    match rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::RegularFile, 0o600.into(), 0) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
        Err(err) => Err(err.into()),
    }
}
