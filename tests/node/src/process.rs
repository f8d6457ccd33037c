//! exec, fork and exit.

use std::{
    fs,
    os::unix::{fs::MetadataExt, process::CommandExt},
    path::{Path, PathBuf},
};

use agent::record::{Body, Held};
use model::{Backing, FdKind, Pid, Truncated};

use crate::{
    Check, Failure,
    scene::{Scene, actor, command, execs, run_actor, same},
};

pub(crate) const CHECKS: &[Check] = &[
    Check { name: "exec: every field is the kernel's", run: exec_fields },
    Check { name: "exec: argv of 8 KiB whole, beyond it cut and marked", run: long_argv },
    Check { name: "exec: a path of 250 components is whole", run: deep_path },
    Check { name: "exec: a renamed binary keeps its inode and shows its new path", run: renamed },
    Check { name: "exec: a memfd and a deleted file are told apart from files", run: unlinked },
    Check { name: "exec: from a thread is the process's exec", run: from_thread },
    Check { name: "exec: paths across mounts", run: across_mounts },
    Check { name: "exit: code and signal, once, also with threads", run: exits },
    Check { name: "fork: child, parent and cgroup", run: forks },
    Check { name: "storm: of 5,000 execs every one is right", run: storm },
    Check { name: "snapshot: every process with the kernel's own start time", run: snapshot },
    Check { name: "canary: every attached hook is called", run: canary },
];

fn exec_fields(scene: &mut Scene) -> Result<(), Failure> {
    let own = std::env::current_exe()?;
    let ((pid, cgroup), records) = scene.during(|_| {
        let mut child = command(&["wait-stdin", "a  b", "", "ü"]);
        child.stdin(std::process::Stdio::piped()).current_dir(format!("/proc/{}", std::process::id()));
        let mut child = child.spawn()?;
        let pid = Pid(child.id());
        let cgroup = crate::actor::cgroup_id(child.id())?;
        drop(child.stdin.take());
        child.wait()?;
        Ok((pid, cgroup))
    })?;
    let all = execs(&records, pid);
    same("execs", &all.len(), &1)?;
    let (record, exec) = all[0];
    let meta = fs::metadata(&own)?;
    same("executable", &exec.exe.as_str(), &own.to_str().unwrap_or_default())?;
    same("requested", &exec.requested.as_str(), &"/proc/self/exe")?;
    let expected = ["/proc/self/exe", "actor", "wait-stdin", "a  b", "", "ü"].map(String::from);
    same("args", &exec.args, &expected.to_vec())?;
    same("truncated", &exec.args_truncated, &Truncated::No)?;
    same("inode", &exec.exe_file.inode, &meta.ino())?;
    let dev = u64::from(exec.exe_file.device);
    same("device", &libc::makedev((dev >> 20) as u32, (dev & 0xf_ffff) as u32), &meta.dev())?;
    same("backing", &exec.exe_file.backing, &Backing::File)?;
    same("held", &exec.held, &Held::No)?;
    same("cwd", &exec.cwd, &format!("/proc/{}", std::process::id()))?;
    same("parent", &record.task.parent.pid, &Pid(std::process::id()))?;
    same("cgroup", &record.task.cgroup.0, &cgroup)?;
    same("stdin", &exec.stdio.stdin, &FdKind::Pipe)?;
    same("stdout", &exec.stdio.stdout, &FdKind::Device)?;
    let credentials = record.task.credentials;
    same("uid", &(credentials.uid, credentials.euid), &(0, 0))?;
    let caps = crate::actor::status_field("self", "CapEff:")?;
    same("capabilities", &format!("{:016x}", credentials.cap_effective), &caps)?;
    let ids = exec.namespaces;
    for (name, found) in [
        ("mnt", ids.mount),
        ("pid", ids.pid),
        ("net", ids.net),
        ("user", ids.user),
        ("uts", ids.uts),
        ("ipc", ids.ipc),
        ("cgroup", ids.cgroup),
    ] {
        let expected = fs::metadata(format!("/proc/self/ns/{name}"))?.ino() as u32;
        same(&format!("namespace {name}"), &found, &expected)?;
    }
    let stat = crate::actor::start_ticks("self")?;
    same("parent's start", &(record.task.parent.start.0 / 10_000_000), &stat)
}

fn long_argv(scene: &mut Scene) -> Result<(), Failure> {
    // argv[0], "actor", "nop" with their NULs: 15 + 6 + 4.
    for (filler, expected) in
        [(8192 - 25 - 1, Truncated::No), (8192 - 25, Truncated::Yes), (100_000, Truncated::Yes)]
    {
        let word = "x".repeat(filler);
        let (pid, records) = scene.during(|_| run_actor(&["nop", &word]))?;
        let all = execs(&records, pid);
        same("execs", &all.len(), &1)?;
        let exec = all[0].1;
        same("truncated", &exec.args_truncated, &expected)?;
        let total: usize = exec.args.iter().map(|arg| arg.len() + 1).sum();
        same("captured bytes", &(total.min(8192)), &8192)?;
        let last = exec.args.last().map_or(0, String::len);
        same("last word", &last, &filler.min(8192 - 25))?;
    }
    Ok(())
}

fn deep_path(scene: &mut Scene) -> Result<(), Failure> {
    let base = Scratch::new("deep")?;
    let mut folder = base.0.clone();
    for n in 0..245 {
        folder.push(format!("d{n}"));
    }
    fs::create_dir_all(&folder)?;
    let binary = folder.join("program");
    fs::copy(std::env::current_exe()?, &binary)?;
    let (pid, records) = scene.during(|_| run_file(&binary, &["actor", "nop"]))?;
    let all = execs(&records, pid);
    same("execs", &all.len(), &1)?;
    same("executable", &all[0].1.exe.as_str(), &binary.to_str().unwrap_or_default())
}

fn renamed(scene: &mut Scene) -> Result<(), Failure> {
    let base = Scratch::new("renamed")?;
    let binary = base.0.join("apt");
    fs::copy(std::env::current_exe()?, &binary)?;
    let inode = fs::metadata(&binary)?.ino();
    let link = base.0.join("link");
    std::os::unix::fs::symlink(&binary, &link)?;
    let (pid, records) = scene.during(|_| run_file(&link, &["actor", "nop"]))?;
    let all = execs(&records, pid);
    same("execs", &all.len(), &1)?;
    let exec = all[0].1;
    same("executable", &exec.exe.as_str(), &binary.to_str().unwrap_or_default())?;
    same("requested", &exec.requested.as_str(), &link.to_str().unwrap_or_default())?;
    same("inode", &exec.exe_file.inode, &inode)
}

fn unlinked(scene: &mut Scene) -> Result<(), Failure> {
    let (pid, records) = scene.during(|_| run_actor(&["exec-memfd", "innocent"]))?;
    let all = execs(&records, pid);
    same("execs", &all.len(), &2)?;
    same("backing", &all[1].1.exe_file.backing, &Backing::Memfd)?;
    same("executable", &all[1].1.exe.as_str(), &"/memfd:innocent")?;

    // A real disk's file system where there is one: on tmpfs a deleted file lives in memory, too.
    let base = Scratch::at(Path::new("/var/tmp"), "deleted").or_else(|_| Scratch::new("deleted"))?;
    let binary = base.0.join("gone");
    fs::copy(std::env::current_exe()?, &binary)?;
    let in_memory = rustix::fs::statfs(&base.0)?.f_type == 0x0102_1994;
    let path = binary.to_str().unwrap_or_default().to_owned();
    let (pid, records) = scene.during(|_| run_actor(&["exec-deleted", &path]))?;
    let all = execs(&records, pid);
    same("execs", &all.len(), &2)?;
    same("backing", &all[1].1.exe_file.backing, &if in_memory { Backing::Memfd } else { Backing::Deleted })?;
    same("executable", &all[1].1.exe, &path)
}

fn from_thread(scene: &mut Scene) -> Result<(), Failure> {
    let (pid, records) = scene.during(|_| run_actor(&["exec-from-thread"]))?;
    let all = execs(&records, pid);
    same("execs", &all.len(), &2)?;
    same("process", &all[1].0.task.key, &all[0].0.task.key)?;
    same("args", &all[1].1.args.last().map(String::as_str), &Some("from-thread"))?;
    let exits =
        records.iter().filter(|record| record.task.key.pid == pid && matches!(record.body, Body::Exit(_)));
    same("exits", &exits.count(), &1)
}

fn across_mounts(scene: &mut Scene) -> Result<(), Failure> {
    let base = Scratch::new("mounts")?;
    let (pid, records) =
        scene.during(|_| run_actor(&["exec-in-mount", base.0.to_str().unwrap_or_default()]))?;
    let all = execs(&records, pid);
    same("execs", &all.len(), &2)?;
    let expected = base.0.join("outer/inner/program");
    same("executable", &all[1].1.exe.as_str(), &expected.to_str().unwrap_or_default())?;
    same("cwd", &all[1].1.cwd.as_str(), &base.0.join("outer/inner").to_str().unwrap_or_default())
}

fn exits(scene: &mut Scene) -> Result<(), Failure> {
    for (words, code, signal) in [
        (&["exit", "0"][..], 0, 0),
        (&["exit", "77"], 77, 0),
        (&["die", "9"], 0, 9),
        (&["die", "6"], 0, 6),
        (&["exit-threads", "5"], 5, 0),
        (&["leader-leaves-first"], 0, 0),
    ] {
        let (pid, records) = scene.during(|_| {
            let mut child = actor(words)?;
            child.wait()?;
            Ok(Pid(child.id()))
        })?;
        let all: Vec<_> = records
            .iter()
            .filter(|record| record.task.key.pid == pid)
            .filter_map(|record| match &record.body {
                Body::Exit(exit) => Some((exit.code, exit.signal)),
                _ => None,
            })
            .collect();
        same(&format!("exit of {words:?}"), &all, &vec![(code, signal)])?;
    }
    Ok(())
}

fn forks(scene: &mut Scene) -> Result<(), Failure> {
    let (pid, records) = scene.during(|_| run_actor(&["fork", "3"]))?;
    let exec = execs(&records, pid);
    same("execs", &exec.len(), &1)?;
    let children: Vec<_> = records
        .iter()
        .filter(|record| record.task.key == exec[0].0.task.key)
        .filter_map(|record| match &record.body {
            Body::Fork { child, child_cgroup } => Some((*child, *child_cgroup)),
            _ => None,
        })
        .collect();
    same("forks", &children.len(), &3)?;
    for (child, cgroup) in children {
        same("cgroup", &cgroup, &exec[0].0.task.cgroup)?;
        let exit =
            records.iter().find(|record| record.task.key == child && matches!(record.body, Body::Exit(_)));
        let exit = exit.ok_or("the child's exit has another key")?;
        same("parent at exit", &exit.task.parent, &exec[0].0.task.key)?;
    }
    Ok(())
}

/// The nearest peer gets 77–83 % of the command lines here (research/peers.md).
fn storm(scene: &mut Scene) -> Result<(), Failure> {
    const WORKERS: usize = 4;
    let (_pins, mut scene) = crate::file::Usual::open("execs", scene)?;
    let total = if scene.quick { 400 } else { 5_000 };
    let each = (total / WORKERS).to_string();
    let (workers, records) = scene.during(|_| {
        let mut workers: Vec<_> =
            (0..WORKERS).map(|n| actor(&["exec-storm", &n.to_string(), &each])).collect::<Result<_, _>>()?;
        let mut pids = Vec::new();
        for worker in &mut workers {
            pids.push(Pid(worker.id()));
            if !worker.wait()?.success() {
                return Err("a storm worker failed".into());
            }
        }
        Ok(pids)
    })?;
    let cwd = std::env::current_dir()?;
    let mut right = std::collections::HashSet::new();
    for record in &records {
        let Body::Exec(exec) = &record.body else { continue };
        if exec.args.get(2).map(String::as_str) != Some("storm-child") {
            continue;
        }
        let worker: usize =
            exec.args.get(3).and_then(|word| word.parse().ok()).ok_or("a damaged argument")?;
        same("parent", &record.task.parent.pid, &workers[worker])?;
        same("cwd", &Path::new(&exec.cwd), &cwd.as_path())?;
        same("argument count", &exec.args.len(), &6)?;
        let worker_exec = execs(&records, workers[worker]);
        same("cgroup", &record.task.cgroup, &worker_exec[0].0.task.cgroup)?;
        right.insert((worker, exec.args[4].clone()));
    }
    same("right execs", &right.len(), &(total / WORKERS * WORKERS))
}

fn snapshot(scene: &mut Scene) -> Result<(), Failure> {
    let (own, records) = scene.during(|_| run_actor(&["nop"]))?;
    let parent = execs(&records, own).first().ok_or("no exec")?.0.task.parent;
    let all = scene.probes.processes()?;
    let me =
        all.iter().find(|task| task.key == parent).ok_or("the tests' own process is not in the snapshot")?;
    same("cgroup", &me.cgroup.0, &crate::actor::cgroup_id(std::process::id())?)?;
    let processes = fs::read_dir("/proc")?
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().parse::<u32>().is_ok());
    let in_proc = processes.count();
    if all.len().abs_diff(in_proc) > 30 {
        return Err(format!("{} processes, /proc has {in_proc}", all.len()).into());
    }
    Ok(())
}

fn canary(scene: &mut Scene) -> Result<(), Failure> {
    let failed = |hook: &model::HookStatus| matches!(hook.state, model::HookState::Failed { .. });
    scene.all_of(&model::EventClass::ALL)?;
    let without: Vec<_> =
        scene.probes.hooks().into_iter().filter(failed).flat_map(|hook| hook.classes).collect();
    let all = scene.probes.canary()?;
    for class in model::EventClass::ALL {
        let told = all.iter().any(|report| report.class == class);
        // What no live hook feeds is not asked for; a module is not loaded for a test's sake.
        if !told && !without.contains(&class) && class != model::EventClass::Module {
            return Err(format!("no canary for {class:?}").into());
        }
    }
    let silent: Vec<_> = all.into_iter().filter(|report| !report.arrived).collect();
    same("silent hooks", &silent, &vec![])
}

/// Runs a file to its end.
fn run_file(path: &Path, words: &[&str]) -> Result<Pid, Failure> {
    let mut child = std::process::Command::new(path).args(words).arg0("renamed").spawn()?;
    let status = child.wait()?;
    if !status.success() {
        return Err(format!("{} ended with {status}", path.display()).into());
    }
    Ok(Pid(child.id()))
}

/// A folder that goes with its guard.
pub(crate) struct Scratch(pub(crate) PathBuf);

impl Scratch {
    /// Below /tmp.
    pub(crate) fn new(name: &str) -> Result<Self, Failure> {
        Self::at(Path::new("/tmp"), name)
    }

    fn at(below: &Path, name: &str) -> Result<Self, Failure> {
        let path = below.join(format!("hemostat-{name}-{}", std::process::id()));
        fs::create_dir(&path)?;
        Ok(Self(path.canonicalize()?))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
