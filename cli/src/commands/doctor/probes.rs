//! The hooks, for real: every class is loaded and attached as on a watched machine, and one event of each is made.

use std::collections::BTreeMap;

use agent::{
    bpffs::Bpffs,
    probe::{OwnEvents, ProbeConfig, Probes},
};
use model::{ClassPlan, EventClass, FilterPlan, HookState, HookStatus};

use super::{Look, Verdict};

pub(super) fn look() -> Vec<Look> {
    let plan = FilterPlan {
        classes: EventClass::ALL.map(|class| (class, ClassPlan::All)).into(),
        ..FilterPlan::default()
    };
    // Folders of its own: a running agent must not be disturbed.
    let config = ProbeConfig {
        own_events: OwnEvents::Seen,
        pins: format!("/sys/fs/bpf/hemostat-doctor-{}", std::process::id()).into(),
        ..ProbeConfig::default()
    };
    let looks = match Probes::load(&config, &plan) {
        Ok(probes) => of_hooks(&probes),
        Err(error) => vec![Look::new("hooks", Verdict::Bad, error.to_string())],
    };
    let _nothing_pinned = std::fs::remove_dir_all(&config.pins);
    if let Err(error) = Bpffs::default().leave() {
        tracing::warn!(%error, "bpffs is not left as it was found");
    }
    looks
}

fn of_hooks(probes: &Probes) -> Vec<Look> {
    let heard: BTreeMap<EventClass, bool> = match probes.canary() {
        Ok(reports) => reports.into_iter().map(|report| (report.class, report.arrived)).collect(),
        Err(error) => {
            return vec![Look::new("hooks", Verdict::Bad, format!("no canary could be made: {error}"))];
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
            return Look::new(what, verdict, format!("{to}; the file and network hooks stand on it"));
        }
        let classes: Vec<String> = hook.classes.iter().map(|class| format!("{class:?}")).collect();
        return Look::new(what, verdict, format!("{to}; a live event of {} arrived", classes.join(", ")));
    }
    Look::new(what, Verdict::Bad, format!("{to}, but no event of {} arrived", silent.join(", ")))
        .next("the hook is attached and is not called: please report it with this kernel's version")
}
