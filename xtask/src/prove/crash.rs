//! I7 on a real cluster: controller, agent, API server and containerd are killed at every journalled transition of a playbook; the end is
//! the same, or everything is undone, and nothing is orphaned.
//!
//! The controller under test stops whenever transitions have become durable and waits for a word (tests/cluster/src/bin). The points are
//! those of a run that nobody disturbs, enumerated by its journal's numbers.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Write as _},
    net::TcpStream,
    path::PathBuf,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::{
    demo::{
        cluster::stage::{Asks, BY_ITSELF, Miner, NAMESPACE, Setup, Stage, rests, states},
        stage::Stages,
    },
    progress::{root, run_logged, say},
};

/// Where the controller under test asks whether to go on.
const PORT: u16 = 7999;
/// The playbook that is played.
const PLAYBOOK: &str = "cryptominer-in-pod";
/// How long the controller may take to come to a point.
const PATIENCE: Duration = Duration::from_secs(60);

/// Who is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Victim {
    Controller,
    Agent,
    ApiServer,
    Containerd,
}

impl Victim {
    const ALL: [Self; 4] = [Self::Controller, Self::Agent, Self::ApiServer, Self::Containerd];
}

/// Which points are played.
pub(super) struct Draw<'a> {
    /// So many; all with 0.
    pub(super) points: usize,
    pub(super) seed: u64,
    /// So many at the beginning are left out: a long list is played in pieces.
    pub(super) skip: usize,
    /// Only these; all when empty.
    pub(super) victims: &'a [Victim],
}

/// Where in a run it happens: when the run's journal first reaches this number.
#[derive(Debug, Clone)]
struct Point {
    seq: u64,
    what: String,
}

/// The last transition of a run.
const END: &str = "ended";

pub(super) fn prove(
    stages: &mut Stages,
    setup: &Setup<'_>,
    draw: &Draw<'_>,
    count: &mut dyn FnMut(String, Result<()>, Instant),
) -> Result<()> {
    let controller = build(setup.profile)?;
    let stage = Stage::up(stages, &Setup { controller: Some(&controller), ..*setup })?;
    // One that selects all pods leaves a cluster whose network has no rules that deny no way to isolate one (docs/actions.md): with it the
    // step would have no transitions to die at.
    stage.kubectl.ask(&["delete", "networkpolicy", "allow-all"])?;
    unhurried(&stage)?;
    let (points, wanted) = undisturbed(&stage)?;
    say(format!("{} points, and this is how it ends undisturbed: {wanted:?}", points.len()));
    let victims = if draw.victims.is_empty() { &Victim::ALL[..] } else { draw.victims };
    let mut all: Vec<(Point, Victim)> =
        victims.iter().flat_map(|victim| points.iter().map(move |point| (point.clone(), *victim))).collect();
    let of = points.len() * Victim::ALL.len();
    if draw.points > 0 {
        shuffle(&mut all, draw.seed);
    }
    all.drain(..draw.skip.min(all.len()));
    if draw.points > 0 {
        all.truncate(draw.points);
    }
    let (mut played, mut held, mut longest) = (0, 0, Duration::ZERO);
    for (point, victim) in all {
        vouch(&stage)?;
        let begun = Instant::now();
        let result = one(&stage, &point, victim, &wanted);
        let name = format!("i7 {victim:?} killed at {} ({})", point.seq, point.what);
        let broken = result.is_err();
        (played, held) = (played + 1, held + usize::from(!broken));
        longest = longest.max(begun.elapsed());
        count(name, result, begun);
        if broken {
            // The next one begins from sound ground.
            mend(&stage)?;
        }
    }
    println!(
        "crash points: {played} of {of} played ({} groups of transitions, {} victims), {held} held, the longest took {:.1} s",
        points.len(),
        Victim::ALL.len(),
        longest.as_secs_f64()
    );
    stage.uninstall(stages, Asks::Nobody)
}

/// Gives every step a minute: how long a part that was killed may take to be back is not what is proved here, and on a busy machine the five
/// seconds that the node's steps are given are over before it is.
fn unhurried(stage: &Stage) -> Result<()> {
    let mut steps = stage.kubectl.ask_json(&["get", "playbook", PLAYBOOK])?["spec"]["steps"].take();
    for step in steps.as_array_mut().into_iter().flatten() {
        step["timeout"] = "1m".into();
    }
    let patch = serde_json::json!({"spec": {"steps": steps}}).to_string();
    stage.kubectl.ask(&["patch", "playbook", PLAYBOOK, "--type=merge", "--patch", &patch])?;
    vouch(stage)
}

/// A playbook whose runs were false positives is taken back, and then neither it nor the node acts by itself. Somebody who writes its mode
/// anew vouches for it again, as in Git.
pub(super) fn vouch(stage: &Stage) -> Result<()> {
    let playbook = ["get", "playbook", PLAYBOOK];
    if stage.kubectl.ask_json(&playbook)?["status"]["mode"] != "Auto" {
        for mode in ["Approve", "Auto"] {
            let patch = serde_json::json!({"spec": {"mode": mode}}).to_string();
            stage.kubectl.ask(&["patch", "playbook", PLAYBOOK, "--type=merge", "--patch", &patch])?;
            stage.wait(&format!("the playbook's mode is {mode}"), || {
                let known = stage.kubectl.ask_json(&playbook)?;
                Ok(known["status"]["mode"] == mode
                    && known["status"]["observedGeneration"] == known["metadata"]["generation"])
            })?;
        }
    }
    // What is loaded of the rules is the same whatever the mode is: that they may act comes to the node with them.
    stage.wait("the node may act by it", || {
        let known = stage.kubectl.ask_json(&playbook)?;
        let conditions = known["status"]["conditions"].as_array().cloned().unwrap_or_default();
        Ok(conditions.iter().any(|one| {
            one["type"] == "OnNodes"
                && one["status"] == "True"
                && one["observedGeneration"] == known["metadata"]["generation"]
        }))
    })
}

/// The controller that stops at every transition.
fn build(profile: &str) -> Result<PathBuf> {
    let name = "stopping-controller";
    let mut command = Command::new(env!("CARGO"));
    command.current_dir(root()).args([
        "build",
        "--package",
        "hemostat-cluster-tests",
        "--bin",
        name,
        "--profile",
        profile,
    ]);
    run_logged("build the controller that stops where it is told to", "stopping.log", &mut command)?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    Ok(target.join(if profile == "dev" { "debug" } else { profile }).join(name))
}

/// The conversation with the controller.
struct Talk(BufReader<TcpStream>);

impl Talk {
    fn begin(stage: &Stage) -> Result<Self> {
        let address = (stage.cluster.node_address(), PORT);
        let until = Instant::now() + PATIENCE;
        loop {
            match TcpStream::connect((address.0.as_str(), address.1)) {
                Ok(stream) => {
                    stream.set_nodelay(true).context("set up the conversation")?;
                    stream.set_read_timeout(Some(PATIENCE)).context("set up the conversation")?;
                    return Ok(Self(BufReader::new(stream)));
                }
                Err(error) if Instant::now() > until => {
                    return Err(error).context("speak to the controller");
                }
                Err(_) => thread::sleep(Duration::from_millis(50)),
            }
        }
    }

    /// The next group of transitions: the last number in each run's journal, and the names.
    fn next(&mut self) -> Result<Group> {
        let mut line = String::new();
        ensure!(self.0.read_line(&mut line).context("hear of transitions")? > 0, "the controller is gone");
        let transitions: Vec<String> = serde_json::from_str(&line).context("understand transitions")?;
        let mut group = Group { seq: 0, names: Vec::new() };
        for transition in &transitions {
            let mut parts = transition.rsplitn(3, '/');
            let name = parts.next().unwrap_or_default();
            let seq = parts.next().and_then(|seq| seq.parse().ok()).unwrap_or(0);
            group.seq = group.seq.max(seq);
            group.names.push(name.to_owned());
        }
        Ok(group)
    }

    fn go_on(&mut self) -> Result<()> {
        self.0.get_mut().write_all(b"go\n").context("let the controller go on")
    }
}

struct Group {
    seq: u64,
    names: Vec<String>,
}

/// How each step ends, by the ResponseActions.
type Ends = BTreeMap<String, String>;

/// Plays it through and notes each point, until everything is rolled back.
fn undisturbed(stage: &Stage) -> Result<(Vec<Point>, Ends)> {
    let mut talk = Talk::begin(stage)?;
    talk.0.get_ref().set_read_timeout(Some(Duration::from_secs(8))).context("set up the conversation")?;
    let miner = stage.mine()?;
    let mut points = Vec::new();
    let mut listen = |talk: &mut Talk| -> Result<()> {
        // Silence for so long is the end of what goes by itself.
        while let Ok(group) = talk.next() {
            points.push(Point { seq: group.seq, what: group.names.join(" ") });
            talk.go_on()?;
        }
        Ok(())
    };
    listen(&mut talk)?;
    let incident = stage.contained()?;
    let incident = stage.asked(&incident)?;
    let ends = ends(stage, &incident)?;
    ensure!(
        ends.get(BY_ITSELF).is_some_and(|state| state == "Applied"),
        "the node did nothing by itself: {ends:?}"
    );
    own_stands(stage, &incident)?;
    for action in stage.actions(&incident)?.iter().filter(|one| one["status"]["state"] == "Failed") {
        say(format!("{} is not done: {}", action["spec"]["plan"]["step"], action["status"]["detail"]));
    }
    stage.judge(&incident)?;
    listen(&mut talk)?;
    drop(talk);
    given_back(stage, &incident, miner).context("undisturbed")?;
    points.dedup_by_key(|point| point.seq);
    ensure!(points.len() > 10, "only {} points were seen", points.len());
    Ok((points, ends))
}

fn ends(stage: &Stage, incident: &Value) -> Result<Ends> {
    let all = states(&stage.actions(incident)?);
    let ends: Ends = all.iter().cloned().collect();
    ensure!(ends.len() == all.len(), "something was done twice: {all:?}");
    Ok(ends)
}

/// What the node did by its rule's reaction, with nobody's word: it stands in the incident, with what was captured, whoever was killed.
fn own_stands(stage: &Stage, incident: &Value) -> Result<()> {
    let actions = stage.actions(incident)?;
    let of = |one: &Value| {
        let (plan, status) = (&one["spec"]["plan"], &one["status"]);
        ensure!(plan["action"] == "node.freeze", "by itself the node did {}", plan["action"]);
        let as_they = |other: &Value| other["spec"]["plan"]["incident"] == plan["incident"];
        ensure!(
            plan["incident"].is_string() && actions.iter().all(as_they),
            "it names the incident {}",
            plan["incident"]
        );
        ensure!(!status["applied"].is_null() && !status["capture"].is_null(), "it says {status}");
        Ok(())
    };
    let mut own = actions.iter().filter(|one| one["spec"]["plan"]["step"].is_null());
    match (own.next(), own.next()) {
        (Some(one), None) => of(one).context("what the node did by itself"),
        _ => bail!("the node did not act by itself once: {:?}", states(&actions)),
    }
}

/// After the word: everything is given back, what the node did by itself as what the playbook did, and the miner is as it was.
fn given_back(stage: &Stage, incident: &Value, miner: Miner) -> Result<()> {
    stage.false_positive(incident)?;
    ensure!(stage.is_settled(incident)?, "it is not settled");
    own_stands(stage, incident)?;
    let now = ends(stage, incident)?;
    ensure!(
        now.get(BY_ITSELF).is_some_and(|state| state == "Reverted"),
        "what the node did by itself is not undone: {now:?}"
    );
    // Seen from its own container: it is where the container's first process is, and goes on.
    let script = "m=$(cat /miner); grep -h ^0:: /proc/1/cgroup /proc/$m/cgroup; grep State: /proc/$m/status";
    let seen = stage.kubectl.ask(&["exec", &stage.victim.name, "--", "sh", "-c", script])?;
    let lines: Vec<&str> = seen.lines().collect();
    let back = matches!(lines[..], [first, its, state] if first == its && !state.contains("stopped"));
    ensure!(back, "the miner is not as it was: {seen}");
    ensure!(stage.comes_back()?, "traffic does not come back");
    miner.end(stage)
}

fn one(stage: &Stage, point: &Point, victim: Victim, wanted: &Ends) -> Result<()> {
    let mut talk = Talk::begin(stage)?;
    let miner = stage.mine()?;
    let mut judged = None;
    let until = Instant::now() + PATIENCE * 2;
    let quiet = Duration::from_secs(4);
    talk.0.get_ref().set_read_timeout(Some(quiet)).context("set up the conversation")?;
    loop {
        match talk.next() {
            Ok(group) if group.seq >= point.seq => break,
            // A run may look once less often at an effect, and so end at a lesser number: no later moment is left.
            Ok(group) if group.names.iter().any(|name| name == END) => break,
            Ok(_) => talk.go_on()?,
            // All that goes by itself is done: the point lies in the undoing.
            Err(_) if judged.is_none() => {
                // On a busy machine silence may only be slowness.
                let Some(incident) = resting(stage)? else {
                    ensure!(Instant::now() < until, "it did not come to that point, nor to rest");
                    continue;
                };
                own_stands(stage, &incident)?;
                stage.judge(&incident)?;
                judged = Some(incident);
                // The word may come late where the API server was killed before: its watches begin anew at growing intervals.
                talk.0.get_ref().set_read_timeout(Some(PATIENCE)).context("set up the conversation")?;
            }
            Err(error) => return Err(error).context("it did not come to that point"),
        }
    }
    strike(stage, victim, &mut talk)?;
    // From here on nobody is asked.
    drop(talk);
    let incident = match judged {
        Some(incident) => incident,
        None => {
            let mut found = Value::Null;
            stage.wait("the incident is there", || {
                found = stage.incident()?.unwrap_or(Value::Null);
                Ok(!found.is_null())
            })?;
            let incident = rest(stage, &found)?;
            let now = ends(stage, &incident)?;
            let undone =
                now.values().all(|state| matches!(state.as_str(), "Reverted" | "Vacuous" | "Failed"));
            // A step may end otherwise than undisturbed only by not being done, which the run says; what contains is in force.
            // A step that failed holds nothing, and a controller that comes after gives it no object any more.
            let same = wanted
                .iter()
                .filter(|(_, state)| *state != "Failed")
                .all(|(step, state)| now.get(step) == Some(state));
            if !same && !undone {
                let why: Vec<String> = stage
                    .actions(&incident)?
                    .iter()
                    .filter(|one| one["status"]["state"] == "Failed")
                    .map(|one| format!("{}: {}", one["spec"]["plan"]["step"], one["status"]["detail"]))
                    .collect();
                bail!("it ended otherwise: {now:?} and not {wanted:?}; {}", why.join("; "));
            }
            own_stands(stage, &incident)?;
            stage.judge(&incident)?;
            incident
        }
    };
    given_back(stage, &incident, miner)
}

/// The incident, if all that goes by itself has come to its end by now.
fn resting(stage: &Stage) -> Result<Option<Value>> {
    let Some(incident) = stage.incident()? else { return Ok(None) };
    let actions = stage.actions(&incident)?;
    let asked = incident["status"]["state"] == "NeedsApproval";
    Ok((asked && !actions.is_empty() && actions.iter().all(rests)).then_some(incident))
}

/// Waits until what goes by itself has come to its end.
fn rest(stage: &Stage, incident: &Value) -> Result<Value> {
    let mut last = Vec::new();
    let mut now = Value::Null;
    stage.wait("it has come to rest", || {
        let actions = stage.actions(incident)?;
        let still = !actions.is_empty() && actions.iter().all(rests) && states(&actions) == last;
        last = states(&actions);
        now = stage.fresh(incident)?;
        let state = now["status"]["state"].as_str().unwrap_or_default();
        let over = matches!(state, "NeedsApproval" | "Failed" | "RolledBack" | "Remediated");
        ensure!(still && over, "the incident is {state}, its actions are {last:?}");
        Ok(true)
    })?;
    Ok(now)
}

/// Kills, lets the controller go on if it is not the victim, and brings back what nobody else brings back.
fn strike(stage: &Stage, victim: Victim, talk: &mut Talk) -> Result<()> {
    match victim {
        Victim::Controller => kill(stage, "/usr/bin/hemostat controller"),
        Victim::Agent => {
            kill(stage, "/usr/bin/hemostat agent")?;
            talk.go_on()
        }
        Victim::ApiServer | Victim::Containerd => {
            let part = if victim == Victim::ApiServer { "kube-apiserver" } else { "containerd" };
            stage.cluster.kill(part)?;
            talk.go_on()?;
            // Long enough for the controller to run into it.
            thread::sleep(Duration::from_millis(500));
            stage.cluster.start_again(part)
        }
    }
}

/// SIGKILL to the processes of a pod; the kubelet starts its container again.
fn kill(stage: &Stage, command: &str) -> Result<()> {
    let found = stage.cluster.processes(command);
    if found.is_empty() {
        bail!("nothing runs as {command}");
    }
    for pid in found {
        let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw).context("a process")?;
        rustix::process::kill_process(pid, rustix::process::Signal::KILL)
            .with_context(|| format!("kill {command}"))?;
    }
    Ok(())
}

/// After a failure: whatever is in force is given back, and all parts run.
fn mend(stage: &Stage) -> Result<()> {
    for part in ["kube-apiserver", "containerd"] {
        // Refused where it runs.
        if stage.cluster.kill(part).is_ok() {
            stage.cluster.start_again(part)?;
        }
    }
    for rollout in ["deployment/hemostat-controller", "daemonset/hemostat-agent"] {
        stage.wait("our own parts are ready", || {
            let words = ["rollout", "status", "--namespace", NAMESPACE, rollout, "--timeout=30s"];
            Ok(stage.kubectl.ask(&words).is_ok())
        })?;
    }
    if let Some(incident) = stage.incident()? {
        stage.false_positive(&incident)?;
    }
    Ok(())
}

/// The same order for the same seed.
fn shuffle(all: &mut [(Point, Victim)], seed: u64) {
    let mut state = seed | 1;
    for at in (1..all.len()).rev() {
        // xorshift64 (Marsaglia, 2003).
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let other = usize::try_from(state % (at as u64 + 1)).unwrap_or(0);
        all.swap(at, other);
    }
}
