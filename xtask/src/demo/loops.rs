//! The four attacks, each from its first event to its undo.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use serde_json::Value;

use super::{Binaries, peer::Play, product::Product, stage::Stages};

/// Silence that counts as proof: fifteen beats of the attacks.
const SILENCE: Duration = Duration::from_millis(300);
const PATIENCE: Duration = Duration::from_secs(10);
/// Parent of all cgroups that the demo makes.
const CGROUPS: &str = "hemostat-demo";

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Scenario {
    Miner,
    ReverseShell,
    Fileless,
    WebShadow,
}

impl Scenario {
    pub(crate) const ALL: [Self; 4] = [Self::Miner, Self::ReverseShell, Self::Fileless, Self::WebShadow];

    fn name(self) -> &'static str {
        match self {
            Self::Miner => "miner",
            Self::ReverseShell => "reverse-shell",
            Self::Fileless => "fileless",
            Self::WebShadow => "web-shadow",
        }
    }

    fn technique(self) -> &'static str {
        match self {
            Self::Miner => "T1496.001",
            Self::ReverseShell => "T1059.004",
            Self::Fileless => "T1620",
            Self::WebShadow => "T1003.008",
        }
    }

    fn story(self) -> &'static str {
        match self {
            Self::Miner => "a process burns CPU and submits shares to a mining pool",
            Self::ReverseShell => "a shell's standard input and output are a socket to somebody outside",
            Self::Fileless => "a program runs from memory, without a file",
            Self::WebShadow => "a web server's child reads /etc/shadow",
        }
    }

    /// What the playbook does besides freezing and evidence.
    fn isolates(self) -> bool {
        matches!(self, Self::Miner | Self::ReverseShell)
    }
}

pub(crate) fn play(
    scenario: Scenario,
    binaries: &Binaries,
    product: &Product,
    scratch: &Path,
    stages: &mut Stages,
) -> Result<()> {
    let cgroup = format!("{CGROUPS}/{}-{}", scenario.name(), std::process::id());
    stages.title(&format!("{}: {}", scenario.technique(), scenario.story()));
    let mut play = Play::start(&binaries.standin, scenario.name(), &cgroup, &scratch.join(scenario.name()))?;
    stages.attack(
        "started",
        "the attack runs in its own cgroup and network namespace; its peer listens outside",
    );

    let incident = product.wait_for("an incident of the attack", PATIENCE, |incident| {
        has_technique(incident, scenario.technique())
            && is_about(incident, &cgroup)
            && !incident["contained"].is_null()
    })?;
    let id = incident["id"].as_str().context("an incident has an id")?.to_owned();
    tell_what_was_done(&incident, stages);

    prove_contained(scenario, &mut play, &cgroup, stages)?;

    let done = product.wait_for("the playbook to come to its question", PATIENCE, |now| {
        now["id"] == incident["id"]
            && is_action_done(now, "node.capture-evidence")
            && (!scenario.isolates() || is_action_done(now, "node.net-quarantine"))
    })?;
    tell_playbook(&done, stages);

    stages.defence("rollback", None, &format!("hemostat rollback {id}"));
    let before = play.bytes();
    product.tell(&["rollback", &id, "--reason", "demo: undo everything"])?;
    product.wait_for("everything to be rolled back", PATIENCE, |now| {
        now["id"] == incident["id"] && now["state"] == "RolledBack"
    })?;
    stages.proof(
        "returned",
        play.hears_more(before, PATIENCE),
        "rolled back: the peer hears it again, over the same connection",
    )?;
    let left = frozen_below(&cgroup)?;
    stages.proof("thawed", left.is_empty(), "nothing is frozen or jailed any more")?;
    Ok(())
}

fn prove_contained(scenario: Scenario, play: &mut Play, cgroup: &str, stages: &mut Stages) -> Result<()> {
    // What was under way on the loopback when the freeze came is heard a moment later.
    let _settled = play.is_silent_for(Duration::from_millis(50));
    stages.proof(
        "silent",
        play.is_silent_for(SILENCE),
        &format!("from outside: the peer hears nothing for {} ms", SILENCE.as_millis()),
    )?;
    if scenario == Scenario::Fileless {
        stages.proof(
            "held",
            play.bytes() == 0,
            "not one byte came from it: it was stopped before its first instruction",
        )?;
    }
    let frozen = frozen_below(cgroup)?;
    stages.proof(
        "frozen",
        !frozen.is_empty(),
        &format!("cgroup.events says frozen 1 for pid {}", frozen.join(", ")),
    )?;
    if scenario == Scenario::WebShadow {
        stages.proof(
            "serves",
            play.is_served(),
            "the web server itself goes on serving: only its child is held",
        )?;
    }
    Ok(())
}

/// Milliseconds after the incident's first event.
fn after(incident: &Value, at: &Value) -> Option<f64> {
    #[expect(
        clippy::cast_precision_loss,
        reason = "a difference of nanoseconds within one demo is far below 2^53"
    )]
    let ms = |nanos: i64| nanos as f64 / 1e6;
    Some(ms(at.as_i64()? - incident["first_event"].as_i64()?))
}

fn tell_what_was_done(incident: &Value, stages: &mut Stages) {
    let finding = &incident["findings"][0];
    let command = finding["event"]["process"]["command_line"].as_str().unwrap_or_default();
    stages.defence(
        "seen",
        Some(0.0),
        &format!(
            "seen in the kernel: {} (rule: {})",
            shown(command),
            finding["rule"]["title"].as_str().unwrap_or("?")
        ),
    );
    for action in
        incident["actions"].as_array().into_iter().flatten().filter(|action| action["step"].is_null())
    {
        let name = action["action"]["action"].as_str().unwrap_or("?");
        stages.defence(
            "reaction",
            after(incident, &action["applied"]),
            &format!("{name} by the node itself"),
        );
    }
    stages.defence("contained", after(incident, &incident["contained"]), "contained");
    stages.defence(
        "incident",
        after(incident, &incident["opened"]),
        &format!(
            "incident {} opened ({})",
            incident["id"].as_str().unwrap_or("?"),
            incident["severity"].as_str().unwrap_or("?")
        ),
    );
}

/// A command line without the folder of its program, at most 72 characters.
fn shown(command: &str) -> String {
    let (program, arguments) = command.split_once(' ').unwrap_or((command, ""));
    let program =
        if program.starts_with('/') { program.rsplit('/').next().unwrap_or(program) } else { program };
    let whole = format!("{program} {arguments}");
    if whole.chars().count() <= 72 { whole } else { whole.chars().take(71).chain(['…']).collect() }
}

fn tell_playbook(incident: &Value, stages: &mut Stages) {
    for action in
        incident["actions"].as_array().into_iter().flatten().filter(|action| !action["step"].is_null())
    {
        let name = action["action"]["action"].as_str().unwrap_or("?");
        if !action["applied"].is_null() {
            let text = format!("{name}: {}", action["state"].as_str().unwrap_or("?"));
            stages.defence("playbook", after(incident, &action["applied"]), &text);
        }
    }
    let waits = incident["runs"]
        .as_array()
        .into_iter()
        .flatten()
        .flat_map(|run| run["waiting"].as_array().into_iter().flatten());
    for request in waits {
        stages.defence(
            "asks",
            None,
            &format!("asks a person before step {}", request["step"].as_str().unwrap_or("?")),
        );
    }
}

fn has_technique(incident: &Value, technique: &str) -> bool {
    incident["techniques"].as_array().is_some_and(|all| all.iter().any(|one| one == technique))
}

fn is_about(incident: &Value, cgroup: &str) -> bool {
    incident["findings"].as_array().into_iter().flatten().any(|finding| {
        finding["event"]["process"]["workload"]["cgroup_path"]
            .as_str()
            .is_some_and(|path| path.contains(cgroup))
    })
}

fn is_action_done(incident: &Value, name: &str) -> bool {
    incident["actions"].as_array().into_iter().flatten().any(|action| {
        action["action"]["action"] == name
            && matches!(action["state"].as_str(), Some("Applied" | "Verified" | "Unverified"))
    })
}

/// Pids that stand in a frozen cgroup at or below `cgroup`, read from the kernel's own files.
fn frozen_below(cgroup: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    collect_frozen(&cgroup2_mount()?.join(cgroup), &mut found);
    Ok(found)
}

fn collect_frozen(folder: &Path, found: &mut Vec<String>) {
    let events = fs::read_to_string(folder.join("cgroup.events")).unwrap_or_default();
    if events.lines().any(|line| line == "frozen 1") {
        let members = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
        found.extend(members.lines().map(str::to_owned));
    }
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect_frozen(&entry.path(), found);
        }
    }
}

fn cgroup2_mount() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts").context("read /proc/mounts")?;
    mounts
        .lines()
        .find_map(|line| {
            let mut words = line.split(' ');
            let (_source, target, kind) = (words.next()?, words.next()?, words.next()?);
            (kind == "cgroup2").then(|| PathBuf::from(target))
        })
        .context("no cgroup2 is mounted here")
}

/// No cgroup, no pinned link, no process of the demo or of Hemostat remains.
/// The cgroup that all attacks are in, also those that a person plays by hand.
pub(crate) fn cgroup() -> Result<PathBuf> {
    Ok(cgroup2_mount()?.join(CGROUPS))
}

pub(crate) fn check_nothing_left(stages: &mut Stages) -> Result<()> {
    let ours = cgroup()?;
    // Each play removes its own cgroup; the parent is the demo's to remove, and goes only if it is empty.
    let gone = match fs::remove_dir(&ours) {
        Ok(()) => true,
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    };
    let pins = fs::read_dir("/sys/fs/bpf/hemostat").map_or(0, |entries| {
        entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with("net-")).count()
    });
    stages.proof("clean", gone && pins == 0, "nothing is left behind: no cgroup, no pinned program")
}
