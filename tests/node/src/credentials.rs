//! Credentials and namespaces.

use std::{
    fs,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    process::Command,
};

use model::{Activity, EventClass, NamespaceCall, Pid};

use crate::{
    Check, Failure,
    process::Scratch,
    scene::{Scene, acts, run_actor, same},
};

pub(crate) const CHECKS: &[Check] = &[
    Check { name: "credentials: setuid and its kin, before and after, once", run: set_ids },
    Check { name: "credentials: a call that changes nothing is no event", run: unchanged },
    Check { name: "credentials: a setuid binary", run: setuid_binary },
    Check { name: "credentials: a process that ran before the agent", run: earlier_process },
    Check { name: "namespaces: unshare and setns, before and after", run: namespaces },
];

fn set_ids(scene: &mut Scene) -> Result<(), Failure> {
    scene.all_of(&[EventClass::Credentials])?;
    scene.needs(EventClass::Credentials)?;
    let (pid, records) = scene.during(|_| run_actor(&["set-ids", "1234", "5678"]))?;
    let found: Vec<_> = acts(&records, pid)
        .into_iter()
        .filter_map(|act| match act {
            Activity::CredentialChange { before, after } => Some((
                (before.uid, before.gid, before.cap_effective != 0),
                (after.uid, after.gid, after.cap_effective != 0),
            )),
            _ => None,
        })
        .collect();
    let expected = vec![((0, 0, true), (0, 5678, true)), ((0, 5678, true), (1234, 5678, false))];
    same("changes", &found, &expected)
}

fn unchanged(scene: &mut Scene) -> Result<(), Failure> {
    scene.all_of(&[EventClass::Credentials])?;
    scene.needs(EventClass::Credentials)?;
    let (pid, records) = scene.during(|_| run_actor(&["set-ids", "0", "0"]))?;
    same("changes", &acts(&records, pid).len(), &0)
}

fn setuid_binary(scene: &mut Scene) -> Result<(), Failure> {
    scene.all_of(&[EventClass::Credentials])?;
    scene.needs(EventClass::Credentials)?;
    let base = Scratch::new("setuid")?;
    fs::set_permissions(&base.0, fs::Permissions::from_mode(0o755))?;
    let binary = base.0.join("su");
    fs::copy(std::env::current_exe()?, &binary)?;
    fs::set_permissions(&binary, fs::Permissions::from_mode(0o4755))?;
    let (pid, records) = scene.during(|_| {
        let mut child = Command::new(&binary).args(["actor", "nop"]).uid(1234).gid(1234).spawn()?;
        child.wait()?;
        Ok(Pid(child.id()))
    })?;
    let last = acts(&records, pid).into_iter().rfind(|act| matches!(act, Activity::CredentialChange { .. }));
    let Some(Activity::CredentialChange { before, after }) = last else {
        return Err("no change seen".into());
    };
    same("before", &(before.uid, before.euid, before.cap_effective), &(1234, 1234, 0))?;
    same("after", &(after.uid, after.euid, after.cap_effective != 0), &(1234, 0, true))
}

fn earlier_process(scene: &mut Scene) -> Result<(), Failure> {
    // Started before the probes of a scene of its own are.
    let mut child = actor_with_stdin(&["set-ids-after-stdin", "4321", "4321"])?;
    let config = agent::probe::ProbeConfig {
        pins: format!("/sys/fs/bpf/hemostat-node-tests-{}-b", std::process::id()).into(),
        forms: scene.forms(),
        ..agent::probe::ProbeConfig::default()
    };
    let mut own = Scene::with(&config, scene.quick)?;
    own.all_of(&[EventClass::Credentials])?;
    own.needs(EventClass::Credentials)?;
    let (pid, records) = own.during(|_| {
        drop(child.stdin.take());
        child.wait()?;
        Ok(Pid(child.id()))
    })?;
    same("changes", &acts(&records, pid).len(), &2)
}

fn namespaces(scene: &mut Scene) -> Result<(), Failure> {
    scene.all_of(&[EventClass::Namespaces, EventClass::Credentials])?;
    scene.needs(EventClass::Namespaces)?;
    let (pid, records) = scene.during(|_| run_actor(&["namespaces"]))?;
    let own = fs::metadata("/proc/self/ns/uts")?;
    let own = std::os::unix::fs::MetadataExt::ino(&own) as u32;
    let found: Vec<_> = acts(&records, pid)
        .into_iter()
        .filter_map(|act| match act {
            Activity::NamespaceChange { before, after, call } => Some((before.uts, after.uts, *call)),
            _ => None,
        })
        .collect();
    same("changes", &found.len(), &2)?;
    same("unshare", &(found[0].0, found[0].1 != own, found[0].2), &(own, true, NamespaceCall::Unshare))?;
    same("setns", &found[1], &(found[0].1, own, NamespaceCall::Setns))
}

fn actor_with_stdin(words: &[&str]) -> Result<std::process::Child, Failure> {
    Ok(crate::scene::command(words).stdin(std::process::Stdio::piped()).spawn()?)
}
