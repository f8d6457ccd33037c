//! Hold at exec: the kernel stops a program before its first instruction, and user space judges.
#![expect(
    unsafe_code,
    reason = "fork and exec by hand: Command::spawn would wait for an exec that stands still"
)]

use std::{ffi::CString, fs, os::unix::ffi::OsStrExt, path::Path};

use agent::{
    probe::{ProbeConfig, Probes},
    record::{Body, Held},
};
use model::{ExecTest, FilterPlan, Pid};

use crate::{
    Check, Failure,
    actor::{fork, wait},
    process::Scratch,
    scene::{Scene, execs, same},
};

pub(crate) const CHECKS: &[Check] = &[
    Check { name: "hold: 0 of 10,000 programs get an action done", run: none_acts },
    Check { name: "hold: by suffix, prefix and missing link, ASCII case aside, and nobody else", run: tests },
    Check { name: "hold: an agent that starts again finds who stands still", run: restart },
];

fn hold(tests: Vec<ExecTest>) -> FilterPlan {
    FilterPlan { classes: Default::default(), hold: tests }
}

fn none_acts(scene: &mut Scene) -> Result<(), Failure> {
    let base = Scratch::new("hold")?;
    let program = base.0.join("Miner");
    fs::copy(std::env::current_exe()?, &program)?;
    let suffix = "/miner".to_owned();
    scene.probes.apply_plan(&hold(vec![ExecTest::ExeSuffix(suffix)]))?;
    // An emulated machine starts as many in minutes, or in a quarter of an hour while its host is busy.
    let total = if scene.quick || crate::guest::is_init() { 500 } else { 10_000 };
    if total < 10_000 {
        println!("  {total} of them here");
    }
    let marker = base.0.join("acted");
    let mut acted = 0;
    for n in 0..total {
        let pid = start(&program, &["actor", "create", marker.to_str().unwrap_or_default()])?;
        let status = wait(pid)?;
        if !libc::WIFSTOPPED(status) || libc::WSTOPSIG(status) != libc::SIGSTOP {
            return Err(format!("program {n} was not stopped: status {status:#x}").into());
        }
        acted += u32::from(marker.exists());
        // Most are ended where they stand; a few go on, and then they do act.
        if n % 100 == 0 {
            // SAFETY: our own child.
            unsafe { libc::kill(pid, libc::SIGCONT) };
            wait(pid)?;
            same("the program goes on after SIGCONT", &marker.exists(), &true)?;
            fs::remove_file(&marker)?;
        } else {
            end(pid)?;
        }
    }
    same("programs that acted before they were judged", &acted, &0)?;
    scene.settle()?;
    let records = scene.take();
    let held =
        records.iter().filter(|record| matches!(&record.body, Body::Exec(exec) if exec.held == Held::Yes));
    same("records that say held", &held.count(), &total)?;
    same("still remembered", &scene.probes.held(), &vec![])
}

fn tests(scene: &mut Scene) -> Result<(), Failure> {
    let base = Scratch::new("holdtests")?;
    let program = base.0.join("XmRig");
    fs::copy(std::env::current_exe()?, &program)?;
    let folder = base.0.to_str().unwrap_or_default().to_uppercase();
    for (test, held) in [
        (ExecTest::ExeSuffix("/xmrig".into()), Held::Yes),
        (ExecTest::ExeSuffix("rig".into()), Held::Yes),
        (ExecTest::ExePrefix(folder), Held::Yes),
        (ExecTest::ExeSuffix("/xmrig2".into()), Held::No),
        (ExecTest::ExePrefix("/nowhere".into()), Held::No),
        (ExecTest::Unlinked, Held::No),
    ] {
        scene.probes.apply_plan(&hold(vec![test.clone()]))?;
        scene.take();
        let pid = start(&program, &["actor", "nop"])?;
        let status = wait(pid)?;
        let stopped = libc::WIFSTOPPED(status);
        same(&format!("stopped by {test:?}"), &stopped, &(held == Held::Yes))?;
        if stopped {
            let key = scene
                .wait_for(|record| {
                    record.task.key.pid == Pid(pid as u32) && matches!(record.body, Body::Exec(_))
                })?
                .task
                .key;
            same("remembered", &scene.probes.held().iter().any(|entry| entry.key == key), &true)?;
            scene.probes.judged(key)?;
            same(
                "remembered once judged",
                &scene.probes.held().iter().any(|entry| entry.key == key),
                &false,
            )?;
            scene.probes.judged(key)?;
            end(pid)?;
        }
        scene.settle()?;
        let records = scene.take();
        let all = execs(&records, Pid(pid as u32));
        same("execs", &all.len(), &1)?;
        same(&format!("record says held by {test:?}"), &all[0].1.held, &held)?;
    }
    // A memfd by the test for missing links.
    scene.probes.apply_plan(&hold(vec![ExecTest::Unlinked]))?;
    let own = std::env::current_exe()?;
    let pid = start(&own, &["actor", "exec-memfd", "quiet"])?;
    let status = wait(pid)?;
    same("memfd stopped", &libc::WIFSTOPPED(status), &true)?;
    end(pid)
}

fn restart(scene: &mut Scene) -> Result<(), Failure> {
    let _ = scene;
    let base = Scratch::new("restart")?;
    let program = base.0.join("miner");
    fs::copy(std::env::current_exe()?, &program)?;
    let config = ProbeConfig {
        pins: format!("/sys/fs/bpf/hemostat-node-tests-{}-r", std::process::id()).into(),
        ..ProbeConfig::default()
    };
    let _guard = Pins(config.pins.clone());
    let mut first = Probes::load(&config, &hold(vec![ExecTest::ExeSuffix("/miner".into())]))?;
    let pid = start(&program, &["actor", "nop"])?;
    same("stopped", &libc::WIFSTOPPED(wait(pid)?), &true)?;
    let held = first.held();
    same("held", &held.len(), &1)?;
    let _ = first.reader()?;
    drop(first);
    let mut second = Probes::load(&config, &FilterPlan::default())?;
    same("found again", &second.held(), &held)?;
    same("which", &held[0].key.pid, &Pid(pid as u32))?;
    second.judged(held[0].key)?;
    same("judged", &second.held(), &vec![])?;
    end(pid)
}

struct Pins(std::path::PathBuf);

impl Drop for Pins {
    fn drop(&mut self) {
        let _ = fs::remove_file(self.0.join("held"));
        let _ = fs::remove_dir(&self.0);
    }
}

/// fork and exec, without waiting for the exec.
fn start(program: &Path, words: &[&str]) -> Result<i32, Failure> {
    let path = CString::new(program.as_os_str().as_bytes())?;
    let words: Vec<CString> = std::iter::once(Ok(path.clone()))
        .chain(words.iter().map(|word| CString::new(*word)))
        .collect::<Result<_, _>>()?;
    let mut argv: Vec<*const libc::c_char> = words.iter().map(|word| word.as_ptr()).collect();
    argv.push(std::ptr::null());
    let env = [std::ptr::null()];
    // SAFETY: all strings live in the child as in us; execve only returns if it fails.
    Ok(fork(|| unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), env.as_ptr()) })?)
}

fn end(pid: i32) -> Result<(), Failure> {
    // SAFETY: our own child, not yet waited for.
    unsafe { libc::kill(pid, libc::SIGKILL) };
    let status = wait(pid)?;
    same("killed", &libc::WIFSIGNALED(status), &true)
}
