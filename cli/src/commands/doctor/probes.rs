//! The hooks, for real: every class is loaded and attached as on a watched machine, and one event of each is made.

use std::{
    collections::BTreeMap,
    io::{IsTerminal as _, Write as _},
    path::Path,
};

use agent::{
    bpffs::Bpffs,
    probe::{OwnEvents, ProbeConfig, Probes, release_held},
};
use model::{ClassPlan, EventClass, FilterPlan, HookState, HookStatus};

use super::{Look, Verdict};

/// What doctor pins is in folders named like this, with its pid.
const FOLDER: &str = "hemostat-doctor-";

/// Takes away what doctors left that were killed.
fn sweep(bpffs: &Path) {
    for entry in std::fs::read_dir(bpffs).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix(FOLDER)).map(str::parse::<u32>);
        let Some(Ok(pid)) = pid else { continue };
        if Path::new("/proc").join(pid.to_string()).exists() {
            continue;
        }
        if let Err(error) = release_held(&entry.path()) {
            tracing::debug!(%error, "what a killed doctor held");
        }
        match std::fs::remove_dir_all(entry.path()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(%error, folder = %entry.path().display(), "what a killed doctor left stays");
            }
            _ => {}
        }
    }
}

pub(super) fn look() -> Vec<Look> {
    let plan = FilterPlan {
        classes: EventClass::ALL.map(|class| (class, ClassPlan::All)).into(),
        ..FilterPlan::default()
    };
    sweep(Path::new("/sys/fs/bpf"));
    // Folders of its own: a running agent must not be disturbed.
    let config = ProbeConfig {
        own_events: OwnEvents::Seen,
        pins: format!("/sys/fs/bpf/{FOLDER}{}", std::process::id()).into(),
        ..ProbeConfig::default()
    };
    if std::io::stderr().is_terminal() {
        let told =
            "loading every hook to see what this kernel takes: some seconds (--no-hooks leaves it out)";
        // Whoever has closed standard error needs no word.
        let _untold = writeln!(std::io::stderr(), "{told}");
    }
    let looks = match Probes::load(&config, &plan) {
        Ok(probes) => of_hooks(&probes),
        Err(error) => vec![Look::new("hooks", Verdict::Bad, error.to_string()).next(what_to_do())],
    };
    let _nothing_pinned = std::fs::remove_dir_all(&config.pins);
    if let Err(error) = Bpffs::default().leave() {
        tracing::warn!(%error, "bpffs is not left as it was found");
    }
    looks
}

fn what_to_do() -> &'static str {
    if rustix::process::geteuid().is_root() {
        "look above for what this machine lacks; if it lacks nothing, please report it with this kernel's version"
    } else {
        "run as root: sudo hemostat doctor"
    }
}

fn of_hooks(probes: &Probes) -> Vec<Look> {
    let heard: BTreeMap<EventClass, bool> = match probes.canary() {
        Ok(reports) => reports.into_iter().map(|report| (report.class, report.arrived)).collect(),
        Err(error) => {
            let found = format!("no canary could be made: {error}");
            return vec![Look::new("hooks", Verdict::Bad, found).next(what_to_do())];
        }
    };
    probes.hooks().iter().map(|hook| of_hook(hook, &heard)).collect()
}

fn of_hook(hook: &HookStatus, heard: &BTreeMap<EventClass, bool>) -> Look {
    let what = format!("hook {}", hook.hook);
    let (verdict, to) = match &hook.state {
        HookState::Attached { to } => (Verdict::Good, to.clone()),
        HookState::Fallback { to, because } => (Verdict::Lesser, format!("{to}, since {because}")),
        HookState::NotNeeded => return Look::new(what, Verdict::Skipped, "another hook serves its classes"),
        HookState::NothingToSee { because } => return Look::new(what, Verdict::Skipped, because.clone()),
        HookState::Failed { because } => {
            return Look::new(what, Verdict::Bad, because.clone())
                .next("its events are not seen on this kernel");
        }
    };
    let silent: Vec<String> = hook
        .classes
        .iter()
        .filter(|class| heard.get(class) == Some(&false))
        .map(|class| format!("{class:?}"))
        .collect();
    if silent.is_empty() {
        if hook.classes.is_empty() {
            let look = Look::new(what, verdict, format!("{to}; the file and network hooks stand on it"));
            return match verdict {
                Verdict::Lesser => {
                    look.next("nothing: the hooks that stand on it say themselves what arrives")
                }
                _ => look,
            };
        }
        let classes: Vec<String> = hook.classes.iter().map(|class| format!("{class:?}")).collect();
        let look = Look::new(what, verdict, format!("{to}; a live event of {} arrived", classes.join(", ")));
        return match verdict {
            Verdict::Lesser => look.next("nothing: a stand-in sees these events here, as the live one shows"),
            _ => look,
        };
    }
    Look::new(what, Verdict::Bad, format!("{to}, but no event of {} arrived", silent.join(", ")))
        .next("the hook is attached and is not called: please report it with this kernel's version")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_doctor_left_is_taken_away_and_nothing_else() {
        let bpffs = tempfile::tempdir().unwrap();
        // above any pid that Linux gives
        let dead = format!("{FOLDER}4194305");
        let living = format!("{FOLDER}{}", std::process::id());
        for name in [&dead, &living, "hemostat-doctor-mine", "hemostat"] {
            std::fs::create_dir(bpffs.path().join(name)).unwrap();
            std::fs::write(bpffs.path().join(name).join("held"), "").unwrap();
        }
        sweep(bpffs.path());
        assert!(!bpffs.path().join(dead).exists());
        for name in [&living, "hemostat-doctor-mine", "hemostat"] {
            assert!(bpffs.path().join(name).join("held").exists(), "{name}");
        }
    }
}
