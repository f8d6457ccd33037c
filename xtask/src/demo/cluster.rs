//! `cargo xtask demo --cluster`: the cryptominer in a pod of a real Kubernetes. Only its pod is cut off, its sibling serves on, and a word
//! of an analyst gives everything back.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::stage::Stages;
use crate::{
    cluster::{self, Cluster, Cni, Kubectl, Place},
    image,
    progress::{cache, is_root, root, run_logged},
};

const NAMESPACE: &str = "hemostat-system";
const IMAGE: &str = "hemostat.dev/standin:1";
/// Where agents find the controller: this cluster has no kube-proxy, so Services do not answer.
const ADDRESS: &str = "agent.controllerAddress=$(HOST_IP):7443";
/// How long something in the cluster may take.
const PATIENCE: Duration = Duration::from_secs(90);
/// Rules of the story: the shipped ones for miners.
const RULES: [&str; 1] = ["rules/linux/impact/cryptominer_command_line.yml"];

pub(crate) fn run(stages: &mut Stages, profile: &str, program: Option<&Path>) -> Result<u64> {
    let stage = Stage::up(stages, profile, program)?;
    stages.title("A miner in one pod of two");
    stage.prove_both_answer(stages)?;
    let mut miner = stage.mine()?;
    stages.attack("miner", &format!("somebody runs a miner in pod {} with kubectl exec", stage.victim.name));
    let incident = stage.contained()?;
    let after = stage.millis(&incident).ok();
    let target = incident["status"]["target"].as_str().unwrap_or("?").to_owned();
    stages.defence("contained", after, &format!("{} is contained: {target}", name(&incident)));
    println!("{}", stage.kubectl.ask(&["get", "incidents", "--all-namespaces"])?);
    stages.proof("cut-off", !stage.answers(&stage.victim)?, "the miner's pod does not answer")?;
    stages.proof(
        "sibling",
        stage.answers(&stage.sibling)?,
        "its sibling of the same Deployment serves on",
    )?;
    let about = incident["status"]["target"].as_str().is_some_and(|text| text.contains(&stage.victim.name));
    stages.proof("attributed", about, "the incident names the pod")?;
    stages.title("A false positive: everything is given back");
    stage.false_positive(&incident)?;
    stages.proof("back", stage.comes_back()?, "the pod answers again")?;
    let _ended = miner.kill();
    let _reaped = miner.wait();
    stage.uninstall(stages)?;
    drop(stage);
    stages.title("The cluster is gone");
    Ok(stages.proofs())
}

/// A pod with its address.
pub(crate) struct Pod {
    pub(crate) name: String,
    address: String,
}

/// A cluster with Hemostat installed as a user would, and a Deployment of two.
pub(crate) struct Stage {
    cluster: Cluster,
    pub(crate) kubectl: Kubectl,
    pub(crate) victim: Pod,
    sibling: Pod,
    pool: Pod,
}

impl Stage {
    pub(crate) fn up(stages: &mut Stages, profile: &str, program: Option<&Path>) -> Result<Self> {
        if !is_root() {
            bail!(
                "a cluster makes namespaces and cgroups, which needs root; run: sudo -E cargo xtask demo --cluster"
            );
        }
        stages.title("A real Kubernetes, Hemostat from its chart");
        // Prepared before the cluster, so that it does not stand idle.
        let program = program.map_or_else(|| image::build(profile), |given| Ok(given.to_owned()))?;
        let archives = image::assemble(&program, "hemostat.dev", "demo", &root().join("target/images"))?;
        let standin = standin()?;
        let cluster = Cluster::up(Place::chosen()?, Cni::Bridge)?;
        for archive in [&archives.agent, &archives.controller] {
            cluster::load(None, None, Some(archive))?;
        }
        cluster::load(Some(IMAGE), Some(&standin), None)?;
        let kubectl = cluster.kubectl();
        install(&cluster)?;
        stages.defence("installed", None, "helm install: the agent on the node, the controller beside it");
        kubectl.apply(&rule_set()?)?;
        let playbook = root().join("playbooks/kubernetes/cryptominer-in-pod.yaml");
        kubectl.ask(&["apply", "--filename", &playbook.display().to_string()])?;
        kubectl.apply(&workload())?;
        for rollout in ["deployment/web", "deployment/pool"] {
            kubectl.ask(&["rollout", "status", rollout, "--timeout=90s"])?;
        }
        let pods = pods(&kubectl, "app=web")?;
        let [victim, sibling] =
            <[Pod; 2]>::try_from(pods).map_err(|_| anyhow::anyhow!("there are not two pods"))?;
        let pool = pods_one(&kubectl)?;
        let stage = Self { cluster, kubectl, victim, sibling, pool };
        stage.wait("rules are loaded on the node", || {
            let set = stage.kubectl.ask_json(&["get", "ruleset", "demo"])?;
            Ok(set["status"]["loaded"].as_array().is_some_and(|loaded| !loaded.is_empty()))
        })?;
        stages.defence(
            "ready",
            None,
            "rules from a RuleSet are loaded on the node, the playbook is accepted",
        );
        Ok(stage)
    }

    fn prove_both_answer(&self, stages: &mut Stages) -> Result<()> {
        let both = self.answers(&self.victim)? && self.answers(&self.sibling)?;
        stages.proof("before", both, "both pods answer; a NetworkPolicy allows them everything")
    }

    /// Starts the miner in the victim, as somebody with access would. By a script on standard input: the node is this machine, and kubectl's
    /// own command line would be seen there, too.
    pub(crate) fn mine(&self) -> Result<Child> {
        let mut command = self.kubectl.command(&["exec", "--stdin", &self.victim.name, "--", "sh", "-s"]);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().context("run kubectl exec")?;
        let mut stdin = child.stdin.take().context("kubectl has no standard input")?;
        let pool = &self.pool.address;
        writeln!(
            stdin,
            "exec /bin/standin run miner --peer {pool}:3333 --url stratum+tcp://pool.example:3333"
        )
        .context("hand the script to kubectl")?;
        Ok(child)
    }

    /// The incident about the victim that nobody has judged, once the node holds it: frozen and cut off.
    pub(crate) fn contained(&self) -> Result<Value> {
        let mut found = Value::Null;
        self.wait("the miner is frozen and cut off", || {
            let all = self.kubectl.ask_json(&["get", "incidents"])?;
            let items = all["items"].as_array().cloned().unwrap_or_default();
            let about = |one: &Value| {
                let target = one["status"]["target"].as_str().unwrap_or_default();
                target.contains(&self.victim.name) && one["spec"]["verdict"].is_null()
            };
            let Some(incident) = items.into_iter().find(about) else { return Ok(false) };
            let label = format!("hemostat.dev/incident={}", name(&incident));
            let actions = self.kubectl.ask_json(&["get", "responseactions", "--selector", &label])?;
            let actions = actions["items"].as_array().cloned().unwrap_or_default();
            let holds = |wanted: &str| {
                let is_it = |one: &&Value| {
                    one["spec"]["plan"]["action"] == wanted && !one["status"]["applied"].is_null()
                };
                actions.iter().any(|one| is_it(&one))
            };
            found = incident;
            Ok(holds("node.freeze") && holds("node.net-quarantine"))
        })?;
        Ok(found)
    }

    /// Milliseconds from the first event until the node held it, by the node's clock, as the controller tells it: times in the API server
    /// have seconds only.
    pub(crate) fn millis(&self, incident: &Value) -> Result<f64> {
        let words = [
            "exec",
            "--namespace",
            NAMESPACE,
            "deployment/hemostat-controller",
            "--",
            "/usr/bin/hemostat",
            "incidents",
            "show",
            name(incident),
            "--output=json",
        ];
        let answer = self.kubectl.ask(&words)?;
        let answer: Value = serde_json::from_str(&answer).context("read the controller's answer")?;
        let story = answer.get("incident").unwrap_or(&answer);
        let first = story["first_event"].as_i64().context("the controller does not tell the first event")?;
        let of_node = |one: &&Value| {
            matches!(one["action"]["action"].as_str(), Some("node.freeze" | "node.net-quarantine"))
        };
        let applied = story["actions"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(of_node)
            .filter_map(|one| one["applied"].as_i64());
        let last = applied.max().context("no action of the node is applied")?;
        #[expect(clippy::cast_precision_loss, reason = "some milliseconds in nanoseconds")]
        let nanoseconds = (last - first) as f64;
        Ok(nanoseconds / 1e6)
    }

    /// An analyst's word.
    pub(crate) fn false_positive(&self, incident: &Value) -> Result<()> {
        let me = self.kubectl.ask_json(&["auth", "whoami"])?;
        let by = me["status"]["userInfo"]["username"]
            .as_str()
            .context("the API server does not say who we are")?;
        let patch =
            json!({"spec": {"verdict": {"is": "FalsePositive", "by": by, "reason": "a drill"}}}).to_string();
        let namespace = incident["metadata"]["namespace"].as_str().unwrap_or("default");
        self.kubectl.ask(&[
            "patch",
            "incident",
            name(incident),
            "--namespace",
            namespace,
            "--type=merge",
            "--patch",
            &patch,
        ])?;
        self.wait("everything is rolled back", || {
            let now =
                self.kubectl.ask_json(&["get", "incident", name(incident), "--namespace", namespace])?;
            Ok(matches!(now["status"]["state"].as_str(), Some("RolledBack" | "Closed")))
        })
    }

    fn comes_back(&self) -> Result<bool> {
        self.wait("the pod answers again", || self.answers(&self.victim)).map(|()| true)
    }

    /// Whether a pod's web server answers another pod.
    fn answers(&self, pod: &Pod) -> Result<bool> {
        let url = format!("http://{}:8080/group", pod.address);
        let mut ask = self.kubectl.command(&[
            "exec",
            &self.pool.name,
            "--",
            "timeout",
            "2",
            "wget",
            "-q",
            "-O",
            "-",
            &url,
        ]);
        Ok(ask.output().context("ask a pod")?.status.success())
    }

    fn uninstall(&self, stages: &mut Stages) -> Result<()> {
        // Their finalizers are the controller's to lift: without it, and with definitions that go with the chart, they would hold it up.
        self.kubectl.ask(&["delete", "playbooks,incidents", "--all", "--all-namespaces", "--timeout=60s"])?;
        // In the foreground: an owner is gone when its pods are, so that the wait is for them, too.
        helm(
            &self.cluster,
            &[
                "uninstall",
                "hemostat",
                "--namespace",
                NAMESPACE,
                "--wait",
                "--cascade=foreground",
                "--timeout=90s",
            ],
        )?;
        let left = self.kubectl.ask(&[
            "get",
            "all,clusterroles,clusterrolebindings,crds,validatingadmissionpolicies",
            "--all-namespaces",
            "--selector=app.kubernetes.io/part-of=hemostat",
            "--output=name",
        ])?;
        stages.proof("uninstalled", left.trim().is_empty(), &format!("helm uninstall leaves nothing {left}"))
    }

    fn wait(&self, what: &str, mut so: impl FnMut() -> Result<bool>) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        let mut last = None;
        while Instant::now() < until {
            match so() {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(error) => last = Some(error),
            }
            thread::sleep(Duration::from_millis(20));
        }
        let logs = |of: &str| {
            self.kubectl.ask(&["logs", "--namespace", NAMESPACE, of, "--tail=15"]).unwrap_or_default()
        };
        let said =
            format!("{}\n{}", logs("daemonset/hemostat-agent"), logs("deployment/hemostat-controller"));
        bail!(
            "it did not come about: {what}; {}\n{said}",
            last.map(|error| error.to_string()).unwrap_or_default()
        )
    }
}

fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

fn install(cluster: &Cluster) -> Result<()> {
    let (state, run) = (cluster.state().join("agent"), cluster.state().join("agent-run"));
    fs::create_dir_all(&run).with_context(|| format!("make {}", run.display()))?;
    let chart = root().join("deploy/chart").display().to_string();
    let (state, run) =
        (format!("agent.statePath={}", state.display()), format!("agent.runPath={}", run.display()));
    let mut words = vec![
        "install",
        "hemostat",
        &chart,
        "--namespace",
        NAMESPACE,
        "--create-namespace",
        "--wait",
        "--timeout=120s",
    ];
    for value in [
        "image.pullPolicy=Never",
        "image.tag=demo",
        "controller.hostNetwork=true",
        "controller.replicas=1",
        "crds.keep=false",
        ADDRESS,
        &state,
        &run,
    ] {
        words.extend(["--set", value]);
    }
    helm(cluster, &words)?;
    // What helm takes for ready depends on how pods are replaced; this does not.
    let kubectl = cluster.kubectl();
    for part in ["deployment/hemostat-controller", "daemonset/hemostat-agent"] {
        kubectl.ask(&["rollout", "status", "--namespace", NAMESPACE, part, "--timeout=90s"])?;
    }
    let controller =
        kubectl.ask_json(&["get", "deployment", "hemostat-controller", "--namespace", NAMESPACE])?;
    if controller["status"]["readyReplicas"] != controller["spec"]["replicas"] {
        bail!("not every controller is ready: {}", controller["status"]);
    }
    Ok(())
}

fn helm(cluster: &Cluster, words: &[&str]) -> Result<()> {
    let output = cluster.helm().args(words).output().context("run helm")?;
    if !output.status.success() {
        bail!("helm {}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// The stand-in without a loader, so that its image holds nothing else; in the folder of the guest's builds, which are static, too.
fn standin() -> Result<PathBuf> {
    let target = cache()?.join("vm-target");
    let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let mut command = Command::new("cargo");
    command
        .current_dir(root())
        .env("RUSTFLAGS", "-Ctarget-feature=+crt-static")
        .env("CARGO_TARGET_DIR", &target)
        .args(["build", "--package", "hemostat-standins", "--profile", "checks", "--target", &triple]);
    run_logged("build the stand-in", "standin-static.log", &mut command)?;
    Ok(target.join(triple).join("checks/standin"))
}

fn rule_set() -> Result<Value> {
    let read = |path: &str| -> Result<Value> {
        let sigma = fs::read_to_string(root().join(path)).with_context(|| format!("read {path}"))?;
        Ok(json!({"name": path.rsplit('/').next(), "sigma": sigma}))
    };
    let inline = RULES.iter().map(|path| read(path)).collect::<Result<Vec<_>>>()?;
    Ok(
        json!({"apiVersion": "hemostat.dev/v1alpha1", "kind": "RuleSet", "metadata": {"name": "demo"}, "spec": {"inline": inline}}),
    )
}

/// Two web servers that may do everything, and a pool that swallows what it is sent.
fn workload() -> Value {
    let deployment = |name: &str, replicas: u32, command: Value| {
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": {"terminationGracePeriodSeconds": 0, "containers": [
                {"name": name, "image": IMAGE, "imagePullPolicy": "Never", "command": command}]}}}})
    };
    let allow = json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "allow-all"}, "spec": {
        "podSelector": {}, "policyTypes": ["Ingress", "Egress"], "ingress": [{}], "egress": [{}]}});
    // Every connection is served beside the others: an earlier miner that was let go may still hold its own.
    let pool = json!(["/bin/nc", "-ll", "-p", "3333", "-e", "/bin/sh", "-c", "exec cat > /dev/null"]);
    // A namespace that lets playbooks do what touches more than the one workload.
    let policy = json!({"apiVersion": "hemostat.dev/v1alpha1", "kind": "ResponsePolicy", "metadata": {"name": "demo"}, "spec": {"widest": "Namespace"}});
    json!({"apiVersion": "v1", "kind": "List", "items": [
        policy,
        deployment("web", 2, json!(["/bin/httpd", "-f", "-p", "8080", "-h", "/etc"])), deployment("pool", 1, pool), allow]})
}

fn pods(kubectl: &Kubectl, selector: &str) -> Result<Vec<Pod>> {
    let found = kubectl.ask_json(&["get", "pods", "--selector", selector])?;
    let items = found["items"].as_array().cloned().unwrap_or_default();
    let pod = |one: &Value| {
        let address = one["status"]["podIP"].as_str()?.to_owned();
        Some(Pod { name: name(one).to_owned(), address })
    };
    Ok(items.iter().filter_map(pod).collect())
}

fn pods_one(kubectl: &Kubectl) -> Result<Pod> {
    pods(kubectl, "app=pool")?.pop().context("there is no pool")
}
