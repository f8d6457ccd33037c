//! `cargo xtask cluster`: a real Kubernetes of one node on this machine: etcd, kube-apiserver, controller-manager, scheduler, kubelet,
//! containerd and runc, in a network and a view of the mounts of their own.
//!
//! All processes, the pods' included, are in one cgroup, and the namespaces are held by no file: when the last process is gone, network,
//! links and mounts are gone, whoever killed it. What remains are empty cgroups and folders, which the record names.

pub(crate) mod binaries;
mod cilium;
mod identity;
mod images;
mod kubectl;
mod parts;
mod place;
mod remover;
pub(crate) mod tar;

use std::{
    fs,
    io::{BufRead as _, BufReader, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::json;

use crate::{
    enclosure::{self, Apart, Enclosure, pids_below},
    progress::{cache, is_root, output, say},
};
use binaries::{Binaries, lock};
use images::Image;
pub(crate) use kubectl::Kubectl;
use parts::{Starter, names};
pub(crate) use place::{Cni, Place};
use place::{NODE, POD_RANGE, Record, SERVICE_ADDRESS, make_state, remove_unrecorded};
use remover::Remover;

#[derive(clap::Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    task: Task,
}

#[derive(clap::Subcommand)]
enum Task {
    /// Build what is missing (once), start everything, and wait until a Deployment of two pods runs.
    Up {
        /// How pods are connected.
        #[arg(long, value_enum, default_value = "bridge")]
        cni: Cni,
    },
    /// End it and remove everything that was made.
    Down {
        /// Only the one that this process made; what another has made since stays.
        #[arg(long, hide = true)]
        made_by: Option<u32>,
    },
    /// What runs. Exit code 1 when it is not whole.
    Status,
    /// The log of a part, or the API server's audit log.
    Logs {
        /// etcd, kube-apiserver, kube-controller-manager, kube-scheduler, containerd, kubelet or audit; the ends of all without it.
        part: Option<String>,
        /// Go on with what is written from now on.
        #[arg(long, short)]
        follow: bool,
    },
    /// Make an image of a static program, or take an archive (docker save), and load it into the node.
    Load {
        /// The image's name, for example hemostat.dev/miner:1. Not for an archive, which has its own.
        #[arg(long, required_unless_present = "archive")]
        name: Option<String>,
        /// The static program.
        #[arg(long, required_unless_present = "archive", conflicts_with = "archive")]
        program: Option<PathBuf>,
        /// An archive.
        #[arg(long)]
        archive: Option<PathBuf>,
    },
    /// Build what is missing and stop there.
    Build,
    /// Print the kubeconfig's path: export KUBECONFIG=$(cargo xtask cluster kubeconfig).
    Kubeconfig,
    /// Run kubectl as the cluster's administrator.
    Kubectl {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

pub(crate) fn run(options: &Options) -> Result<()> {
    match &options.task {
        Task::Up { cni } => up_and_stay(*cni),
        Task::Down { made_by } => down(*made_by),
        Task::Status => status(),
        Task::Logs { part, follow } => logs(part.as_deref(), *follow),
        Task::Load { name, program, archive } => {
            load(name.as_deref(), program.as_deref(), archive.as_deref())
        }
        Task::Build => Binaries::build().map(|_binaries| ()),
        Task::Kubeconfig => {
            println!("{}", given_or_own()?.1.display());
            Ok(())
        }
        Task::Kubectl { arguments } => {
            let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
            let (kubectl, _) = given_or_own()?;
            let status = kubectl
                .command(&words)
                .stdin(std::process::Stdio::inherit())
                .status()
                .context("run kubectl")?;
            if !status.success() {
                bail!("kubectl ended with {status}");
            }
            Ok(())
        }
    }
}

/// A cluster that ends with this value, or with this process, however it ends.
pub(crate) struct Cluster {
    enclosure: Option<Enclosure>,
    binaries: Binaries,
    place: Place,
    state: PathBuf,
    remover: Option<Remover>,
}

impl Cluster {
    /// Starts everything and waits until it serves. What an earlier start left is removed first.
    pub(crate) fn up(place: Place, cni: Cni) -> Result<Self> {
        if !is_root() {
            bail!(
                "a cluster makes namespaces and cgroups, which needs root; run: sudo -E cargo xtask cluster up"
            );
        }
        let binaries = Binaries::build()?;
        if cni == Cni::Cilium {
            cilium::build(&binaries)?;
        }
        let state = place.state();
        let _lock = lock_of(place)?;
        if let Some(record) = Record::load(&state)? {
            if record.ready && existing(place, &record).is_ok() {
                bail!("a cluster is up already; `cargo xtask cluster down` ends it");
            }
            say("remove what an earlier start left");
            take_down(place, &state, &record)?;
        }
        check_addresses(place)?;
        let begun = Instant::now();
        // Its parts inherit it: under a narrower one (077) containers get mount points that only root may pass, and a controller that is
        // nobody does not reach its own folder.
        let _before = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
        make_state(&state)?;
        let mut record = {
            let _alone = place::alone()?;
            let record = Record::plan(place, cni)?;
            record.save(&state)?;
            record
        };
        let remover = Some(Remover::start(place)?);
        let mut this = Self { enclosure: None, binaries, place, state, remover };
        // From here on a failure drops `this`, which takes down what the record names.
        let mut covers = record.make(&this.state)?;
        if cni == Cni::Cilium {
            covers.extend(cilium::covers(&this.state)?);
        }
        let enclosure = Enclosure::make(&place.cgroup(), &Apart::NetworkAndMounts(covers))?;
        record.keeper = Some(enclosure.keeper());
        record.save(&this.state)?;
        own_bpffs(&enclosure)?;
        connect(place, &enclosure)?;
        this.enclosure = Some(enclosure);
        identity::make(&this.state.join("keys"), place)?;
        this.start_parts(cni, begun)?;
        record.ready = true;
        record.save(&this.state)?;
        say(format!("the cluster is up after {:.1} s", begun.elapsed().as_secs_f64()));
        Ok(this)
    }

    pub(crate) fn kubectl(&self) -> Kubectl {
        Kubectl::new(&self.binaries, &self.state)
    }

    /// helm as the administrator.
    pub(crate) fn helm(&self) -> Command {
        let mut command = Command::new(self.binaries.path("helm"));
        command
            .env("KUBECONFIG", identity::kubeconfig(&self.state.join("keys")))
            .stdin(std::process::Stdio::null());
        command
    }

    /// Kills one of its parts (SIGKILL), as a crash would.
    pub(crate) fn kill(&self, part: &str) -> Result<()> {
        self.starter()?.kill(part)
    }

    /// Starts a part that was killed as it was started before.
    pub(crate) fn start_again(&self, part: &str) -> Result<()> {
        self.starter()?.start_again(part)
    }

    fn starter(&self) -> Result<Starter<'_>> {
        let enclosure = self.enclosure.as_ref().context("the cluster has no cgroup")?;
        Ok(Starter { binaries: &self.binaries, state: &self.state, enclosure, place: self.place })
    }

    /// Where it is reached from this machine.
    pub(crate) fn node_address(&self) -> String {
        self.place.node_address()
    }

    /// Processes in it whose command line begins so.
    pub(crate) fn processes(&self, command: &str) -> Vec<u32> {
        let Some(enclosure) = &self.enclosure else { return Vec::new() };
        let said = |pid: &u32| {
            let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.replace('\0', " ").starts_with(command)
        };
        pids_below(enclosure.cgroup()).iter().filter_map(|pid| pid.parse().ok()).filter(said).collect()
    }

    /// Everything of it on disk; gone when it is down.
    pub(crate) fn state(&self) -> &Path {
        &self.state
    }

    fn start_parts(&self, cni: Cni, begun: Instant) -> Result<()> {
        let told =
            |what: &str| eprintln!("    {what}: {:.1} s after the start", begun.elapsed().as_secs_f64());
        let starter = self.starter()?;
        say("start etcd and the API server");
        starter.control_plane()?;
        told("API server ready");
        starter.controllers()?;
        starter.containerd()?;
        images::load(&starter, &[Image::pause(&self.binaries), Image::busybox(&self.binaries)])?;
        told("containerd ready, images loaded");
        starter.kubelet()?;
        let kubectl = self.kubectl();
        let range = wait_for_range(&starter, &kubectl)?;
        match cni {
            Cni::Bridge => starter.bridge(&range)?,
            Cni::Cilium => {
                cilium::start(&starter, &kubectl)?;
                told("Cilium ready");
            }
        }
        starter.wait_for("kubelet", Duration::from_secs(90), || {
            Ok(kubectl.ask_json(&["get", "node", NODE]).is_ok_and(|node| is_ready(&node)))
        })?;
        told("node ready");
        prove(&starter, &kubectl)?;
        told("two pods of a Deployment ran");
        Ok(())
    }

    fn detach(mut self) -> Result<()> {
        drop(self.remover.take());
        match self.enclosure.take() {
            Some(enclosure) => enclosure.detach(),
            None => Ok(()),
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Detached: the enclosure was taken out and the record says ready.
        let record = match Record::load(&self.state) {
            Ok(Some(record)) if self.enclosure.is_some() || !record.ready => record,
            _ => return,
        };
        if let Err(error) = take_down(self.place, &self.state, &record) {
            eprintln!(
                "warning: not everything was removed; `cargo xtask cluster down` tries again: {error:#}"
            );
        }
    }
}

fn up_and_stay(cni: Cni) -> Result<()> {
    if let Some(given) = given_kubeconfig()? {
        say(format!("KUBECONFIG is set: {} is used and nothing is started", given.display()));
        let (kubectl, _) = given_or_own()?;
        let nodes = kubectl.ask_json(&["get", "nodes"])?;
        let ready = nodes["items"].as_array().is_some_and(|nodes| nodes.iter().any(is_ready));
        if !ready {
            bail!("no node of that cluster is ready; unset KUBECONFIG to have one here");
        }
        return Ok(());
    }
    let cluster = Cluster::up(Place::chosen()?, cni)?;
    let kubeconfig = identity::kubeconfig(&cluster.state.join("keys"));
    cluster.detach()?;
    println!("export KUBECONFIG={}", kubeconfig.display());
    Ok(())
}

fn down(made_by: Option<u32>) -> Result<()> {
    let place = Place::chosen()?;
    let state = place.state();
    let _lock = lock_of(place)?;
    match Record::load(&state)? {
        Some(record) if made_by.is_some_and(|maker| record.maker != Some(maker)) => {
            say("another cluster is there now");
        }
        Some(record) => {
            let begun = Instant::now();
            take_down(place, &state, &record)?;
            say(format!("the cluster is gone, {:.1} s", begun.elapsed().as_secs_f64()));
        }
        None if state.exists() && !remove_unrecorded(&state)? => {
            bail!("{} holds something that is no record of a cluster", state.display());
        }
        None => say("there is no cluster"),
    }
    Ok(())
}

/// Mounts one for the cluster alone: what is pinned in it is gone with it, however it ends. What the machine has mounted there is uncovered first, since
/// Cilium wants exactly one.
fn own_bpffs(enclosure: &Enclosure) -> Result<()> {
    let script = "while mountpoint -q /sys/fs/bpf; do umount /sys/fs/bpf || exit 1; done; mount -t bpf bpf /sys/fs/bpf";
    let mount = enclosure.command("sh").args(["-c", script]).output().context("run mount")?;
    if !mount.status.success() {
        bail!("mount bpffs in the cluster: {}", String::from_utf8_lossy(&mount.stderr).trim());
    }
    Ok(())
}

/// Ends every process and removes what the record names; can be repeated.
fn take_down(place: Place, state: &Path, record: &Record) -> Result<()> {
    let unified = record.cgroups.first().context("the record names no cgroup")?;
    enclosure::end(unified)?;
    for cgroup in &record.cgroups {
        enclosure::remove_tree(cgroup)?;
    }
    // The kernel takes a network apart in the background.
    let link = Path::new("/sys/class/net").join(place.link());
    let patience = Instant::now() + Duration::from_secs(20);
    while link.exists() {
        if Instant::now() > patience {
            let _last_resort = output("ip", &["link", "delete", &place.link()]);
            bail!("the link {} did not go away with its network", place.link());
        }
        thread::sleep(Duration::from_millis(50));
    }
    let mounts = fs::read_to_string("/proc/self/mounts").context("read the mounts")?;
    let below = format!("{}/", state.display());
    if let Some(line) =
        mounts.lines().find(|line| line.split(' ').nth(1).is_some_and(|at| at.starts_with(&below)))
    {
        bail!("something is still mounted in the cluster's folder: {line}");
    }
    let _alone = place::alone()?;
    record.remove_made(place);
    fs::remove_dir_all(state).with_context(|| format!("remove {}", state.display()))
}

fn status() -> Result<()> {
    let place = Place::chosen()?;
    let state = place.state();
    let Some(record) = Record::load(&state)? else {
        bail!("there is no cluster; `cargo xtask cluster up` makes one")
    };
    let unified = record.cgroups.first().context("the record names no cgroup")?;
    println!("folder      {}", state.display());
    println!("network     {NODE} has {}, pods {POD_RANGE} ({:?})", place.node_address(), record.cni);
    println!("processes   {}", pids_below(unified).len());
    let dead: Vec<&str> =
        names(record.cni).iter().copied().filter(|part| !parts::is_running(place, &state, part)).collect();
    for part in names(record.cni) {
        println!("{part:<24} {}", if dead.contains(part) { "GONE" } else { "runs" });
    }
    let Some(binaries) = Binaries::cached()? else { bail!("the programs are no longer in the cache") };
    let kubectl = Kubectl::new(&binaries, &state);
    print!("{}", kubectl.ask(&["get", "nodes,pods", "--all-namespaces", "-o", "wide"])?);
    println!("export KUBECONFIG={}", identity::kubeconfig(&state.join("keys")).display());
    println!("enter its network: nsenter --net=/proc/{}/ns/net", record.keeper.unwrap_or_default());
    if !dead.is_empty() || !record.ready {
        bail!(
            "the cluster is not whole: {}",
            if dead.is_empty() { "its start was broken off".into() } else { dead.join(", ") }
        );
    }
    Ok(())
}

fn logs(part: Option<&str>, follow: bool) -> Result<()> {
    let state = Place::chosen()?.state();
    let all = names(Record::load(&state)?.map_or(Cni::Bridge, |record| record.cni));
    let Some(part) = part else {
        for part in all {
            println!("{part}:\n{}", parts::tail(&state, part, 5));
        }
        return Ok(());
    };
    let path = match part {
        "audit" => parts::audit_log(&state),
        part if all.contains(&part) => parts::log_of(&state, part),
        other => bail!("there is no part {other}; there are {} and audit", all.join(", ")),
    };
    let mut file = BufReader::new(fs::File::open(&path).with_context(|| format!("open {}", path.display()))?);
    loop {
        std::io::copy(&mut file, &mut std::io::stdout()).context("show a log")?;
        if !follow {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(200));
        let at = file.stream_position().context("where the log was read to")?;
        // Rotated: what is there now is new.
        if fs::metadata(&path).is_ok_and(|about| about.len() < at) {
            file = BufReader::new(fs::File::open(&path).with_context(|| format!("open {}", path.display()))?);
        } else {
            file.seek(SeekFrom::Start(at)).context("go on reading a log")?;
        }
        let _nothing_new = file.fill_buf();
    }
}

pub(crate) fn load(name: Option<&str>, program: Option<&Path>, archive: Option<&Path>) -> Result<()> {
    if let Some(given) = given_kubeconfig()? {
        bail!(
            "images are loaded into a node of ours, and KUBECONFIG names another cluster: {}",
            given.display()
        );
    }
    let place = Place::chosen()?;
    let state = place.state();
    let record = Record::load(&state)?.context("there is no cluster; `cargo xtask cluster up` makes one")?;
    let binaries = Binaries::cached()?.context("the programs are no longer in the cache")?;
    let enclosure = existing(place, &record)?;
    let starter = Starter { binaries: &binaries, state: &state, enclosure: &enclosure, place };
    match (archive, name, program) {
        (Some(archive), ..) => images::import(&starter, archive),
        (None, Some(name), Some(program)) => {
            images::check_program(program)?;
            images::load(&starter, &[Image::of_program(&binaries, name, program)?])
        }
        _ => bail!("say --archive, or --name and --program"),
    }
}

fn existing(place: Place, record: &Record) -> Result<Enclosure> {
    let keeper = record.keeper.context("the cluster's start was broken off")?;
    Enclosure::existing(&place.cgroup(), keeper, true)
}

/// The cluster that the user names; our own kubeconfig does not count as another's.
fn given_kubeconfig() -> Result<Option<PathBuf>> {
    let Some(given) = std::env::var_os("KUBECONFIG").filter(|value| !value.is_empty()).map(PathBuf::from)
    else {
        return Ok(None);
    };
    let own = identity::kubeconfig(&Place::chosen()?.state().join("keys"));
    Ok((given != own).then_some(given))
}

fn lock_of(place: Place) -> Result<fs::File> {
    lock(&cache()?.join("cluster").join(format!("{}.lock", place.cgroup())))
}

/// kubectl for the cluster that KUBECONFIG names, or for our own.
fn given_or_own() -> Result<(Kubectl, PathBuf)> {
    if let Some(given) = given_kubeconfig()? {
        let program = output("sh", &["-c", "command -v kubectl"]).map(PathBuf::from);
        let program = match (program, Binaries::cached()?) {
            (Some(program), _) => program,
            (None, Some(binaries)) => binaries.path("kubectl"),
            (None, None) => bail!("there is no kubectl; `cargo xtask cluster build` makes one"),
        };
        return Ok((Kubectl::of(program, given.clone()), given));
    }
    let state = Place::chosen()?.state();
    Record::load(&state)?.context("there is no cluster; `cargo xtask cluster up` makes one")?;
    let binaries = Binaries::cached()?.context("the programs are no longer in the cache")?;
    Ok((Kubectl::new(&binaries, &state), identity::kubeconfig(&state.join("keys"))))
}

/// Nothing on this machine may use our addresses for something else.
fn check_addresses(place: Place) -> Result<()> {
    let address = place.node_address();
    let routes =
        output("ip", &["-4", "route", "show", "to", "match", &address]).context("ask for the routes (ip)")?;
    if let Some(route) = routes.lines().find(|line| !line.starts_with("default")) {
        bail!("the cluster's address {address} is in use here: {route}");
    }
    Ok(())
}

/// A pair of links between the machine and the cluster's network; it goes away with that network.
fn connect(place: Place, enclosure: &Enclosure) -> Result<()> {
    let keeper = enclosure.keeper().to_string();
    let (link, machine, node) = (place.link(), place.machine_address(), place.node_address());
    run_ip(
        Command::new("ip")
            .args(["link", "add", &link, "type", "veth", "peer", "name", "eth0", "netns", &keeper]),
    )?;
    run_ip(Command::new("ip").args(["address", "add", &format!("{machine}/30"), "dev", &link]))?;
    run_ip(Command::new("ip").args(["link", "set", &link, "up"]))?;
    for words in [
        vec!["address", "add", &format!("{node}/30"), "dev", "eth0"],
        vec!["address", "add", &format!("{SERVICE_ADDRESS}/32"), "dev", "lo"],
        vec!["link", "set", "eth0", "up"],
        vec!["route", "add", "default", "via", &machine],
    ] {
        run_ip(enclosure.command("ip").args(words))?;
    }
    run_ip(enclosure.command("sh").args(["-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"]))
}

fn run_ip(command: &mut Command) -> Result<()> {
    let output = command.output().context("run ip")?;
    if !output.status.success() {
        bail!("set up the cluster's network: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

fn is_ready(node: &serde_json::Value) -> bool {
    node["status"]["conditions"]
        .as_array()
        .is_some_and(|all| all.iter().any(|one| one["type"] == "Ready" && one["status"] == "True"))
}

/// The pods' range that the node was given.
fn wait_for_range(starter: &Starter<'_>, kubectl: &Kubectl) -> Result<String> {
    let range = || {
        let node = kubectl.ask_json(&["get", "node", NODE]).ok()?;
        node["spec"]["podCIDR"].as_str().map(str::to_owned)
    };
    starter.wait_for("kubelet", Duration::from_secs(90), || Ok(range().is_some()))?;
    range().context("the node has a range for its pods")
}

/// A Deployment of two pods in a namespace of its own, which is removed again.
fn prove(starter: &Starter<'_>, kubectl: &Kubectl) -> Result<()> {
    const NAMESPACE: &str = "hemostat-ready";
    kubectl.apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}))?;
    kubectl.apply(&json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "ready", "namespace": NAMESPACE},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": {"app": "ready"}},
            "template": {
                "metadata": {"labels": {"app": "ready"}},
                "spec": {
                    "terminationGracePeriodSeconds": 0,
                    "containers": [{
                        "name": "ready",
                        "image": images::BUSYBOX,
                        "imagePullPolicy": "Never",
                        "command": ["sleep", "3600"],
                    }],
                },
            },
        },
    }))?;
    let ready = || {
        let deployment = kubectl.ask_json(&["get", "deployment", "ready", "--namespace", NAMESPACE]).ok()?;
        deployment["status"]["readyReplicas"].as_u64()
    };
    let came = starter.wait_for("kubelet", Duration::from_secs(60), || Ok(ready() == Some(2)));
    if came.is_err() {
        let why = kubectl.ask(&["get", "events", "--namespace", NAMESPACE]).unwrap_or_default();
        return came.with_context(|| format!("the two pods of a Deployment did not run:\n{why}"));
    }
    kubectl.ask(&["delete", "namespace", NAMESPACE, "--wait=false"]).map(|_text| ())
}
