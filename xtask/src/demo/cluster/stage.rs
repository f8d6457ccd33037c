//! A real Kubernetes with Hemostat installed as a user would, two web servers that ask and answer all the time, and a pool.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::{
    cluster::{self, Cluster, Cni, Kubectl, Place},
    demo::stage::Stages,
    image,
    progress::{cache, is_root, root, run_logged},
};

pub(crate) const NAMESPACE: &str = "hemostat-system";
pub(crate) const IMAGE: &str = "hemostat.dev/standin:1";
/// The playbook of the story.
const PLAYBOOK: &str = "playbooks/kubernetes/cryptominer-in-pod.yaml";
/// Where agents find the controller: this cluster has no kube-proxy, so Services do not answer.
const ADDRESS: &str = "agent.controllerAddress=$(HOST_IP):7443";
/// How long something in the cluster may take.
const PATIENCE: Duration = Duration::from_secs(90);
/// Where people are told: a stand-in on the node's own network, since this cluster has no kube-proxy.
const INBOX: u16 = 8089;
/// Takes what it is sent and says yes, as a webhook does.
const INBOX_SCRIPT: &str = "n=0; while IFS= read -r line; do line=${line%$(printf '\\r')}; case \"$line\" in \
    [Cc]ontent-[Ll]ength:*) n=${line#*: };; '') break;; esac; done; head -c \"$n\" >> /told; echo >> /told; \
    printf 'HTTP/1.1 200 OK\\r\\nContent-Length: 0\\r\\nConnection: close\\r\\n\\r\\n'";
/// Between two looks.
const LOOK: Duration = Duration::from_millis(50);
/// Rules of the story: the shipped ones for miners.
const RULES: [&str; 1] = ["rules/linux/impact/cryptominer_command_line.yml"];

/// A pod with its address.
#[derive(Debug, Clone)]
pub(crate) struct Pod {
    pub(crate) name: String,
    pub(crate) address: String,
}

/// How the stage is set.
#[derive(Clone, Copy)]
pub(crate) struct Setup<'a> {
    /// The build profile of the program, where none is given.
    pub(crate) profile: &'a str,
    /// A program that is built already.
    pub(crate) program: Option<&'a Path>,
    pub(crate) cni: Cni,
    /// Another program for the controller: one that stops where it is told to.
    pub(crate) controller: Option<&'a Path>,
}

impl Default for Setup<'_> {
    fn default() -> Self {
        Self { profile: "release", program: None, cni: Cni::Bridge, controller: None }
    }
}

/// Whether the removal asks first whether something is in force (deploy/chart/templates/uninstall.yaml).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asks {
    /// It does, in a pod of its own.
    First,
    /// Removed in whatever state it is.
    Nobody,
}

/// A cluster with Hemostat installed as a user would, and a Deployment of two.
pub(crate) struct Stage {
    pub(crate) cluster: Cluster,
    pub(crate) kubectl: Kubectl,
    pub(crate) victim: Pod,
    pub(crate) sibling: Pod,
    pub(crate) pool: Pod,
}

/// A miner that somebody started with kubectl exec.
pub(crate) struct Miner(Child);

impl Stage {
    pub(crate) fn up(stages: &mut Stages, setup: &Setup<'_>) -> Result<Self> {
        if !is_root() {
            bail!(
                "a cluster makes namespaces and cgroups, which needs root; run: sudo -E cargo xtask demo --cluster"
            );
        }
        stages.title("A real Kubernetes, Hemostat from its chart");
        // Prepared before the cluster, so that it does not stand idle.
        let program =
            setup.program.map_or_else(|| image::build(setup.profile), |given| Ok(given.to_owned()))?;
        let folder = root().join("target/images");
        let archives = image::assemble(&program, "hemostat.dev", "demo", &folder)?;
        let controller = match setup.controller {
            Some(program) => {
                image::assemble(program, "hemostat.dev", "demo", &folder.join("other"))?.controller
            }
            None => archives.controller,
        };
        let standin = standin()?;
        let cluster = Cluster::up(Place::chosen()?, setup.cni)?;
        for archive in [&archives.agent, &controller] {
            cluster::load(None, None, Some(archive))?;
        }
        cluster::load(Some(IMAGE), Some(&standin), None)?;
        let kubectl = cluster.kubectl();
        install(&cluster)?;
        stages.defence("installed", None, "helm install: the agent on the node, the controller beside it");
        kubectl.apply(&drills())?;
        kubectl.apply(&rule_set()?)?;
        kubectl.ask(&["apply", "--filename", &root().join(PLAYBOOK).display().to_string()])?;
        kubectl.apply(&served())?;
        for rollout in ["deployment/server", "deployment/pool", "deployment/inbox"] {
            kubectl.ask(&["rollout", "status", rollout, "--timeout=90s"])?;
        }
        let server = one(pods(&kubectl, "default", "app=server")?)?;
        let pool = one(pods(&kubectl, "default", "app=pool")?)?;
        kubectl.apply(&workload(&server.address))?;
        kubectl.ask(&["rollout", "status", "deployment/web", "--timeout=90s"])?;
        let [victim, sibling] = <[Pod; 2]>::try_from(pods(&kubectl, "default", "app=web")?)
            .map_err(|_| anyhow::anyhow!("there are not two pods"))?;
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

    /// Starts the miner in the victim, as somebody with access would.
    pub(crate) fn mine(&self) -> Result<Miner> {
        self.mine_in("default", &self.victim)
    }

    /// Starts a miner in a pod. By a script on standard input: the node is this machine, and kubectl's own command line would be seen
    /// there, too.
    pub(crate) fn mine_in(&self, namespace: &str, pod: &Pod) -> Result<Miner> {
        let words = ["exec", "--namespace", namespace, "--stdin", &pod.name, "--", "sh", "-s"];
        let mut command = self.kubectl.command(&words);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().context("run kubectl exec")?;
        let mut stdin = child.stdin.take().context("kubectl has no standard input")?;
        let pool = &self.pool.address;
        // Its number is kept, since it outlives kubectl.
        writeln!(
            stdin,
            "echo $$ > /miner; exec /bin/standin run miner --peer {pool}:3333 --url stratum+tcp://pool.example:3333"
        )
        .context("hand the script to kubectl")?;
        Ok(Miner(child))
    }

    /// The incident about the victim that nobody has judged, if there is one.
    pub(crate) fn incident(&self) -> Result<Option<Value>> {
        let all = self.kubectl.ask_json(&["get", "incidents"])?;
        let about = |one: &Value| {
            let target = one["status"]["target"].as_str().unwrap_or_default();
            target.contains(&self.victim.name) && one["spec"]["verdict"].is_null()
        };
        Ok(all["items"].as_array().cloned().unwrap_or_default().into_iter().find(about))
    }

    /// That incident, once the node holds it: frozen and cut off.
    pub(crate) fn contained(&self) -> Result<Value> {
        let mut found = Value::Null;
        self.wait("the miner is frozen and cut off", || {
            let Some(incident) = self.incident()? else { return Ok(false) };
            let actions = self.actions(&incident)?;
            let holds = |wanted: &str| {
                actions
                    .iter()
                    .any(|one| one["spec"]["plan"]["action"] == wanted && !one["status"]["applied"].is_null())
            };
            found = incident;
            Ok(holds("node.freeze") && holds("node.net-quarantine"))
        })?;
        Ok(found)
    }

    /// The incident, once all that goes by itself has come to an end and a person is asked for the rest.
    pub(crate) fn asked(&self, incident: &Value) -> Result<Value> {
        let mut last: Vec<(String, String)> = Vec::new();
        self.wait("all that goes by itself is done", || {
            let actions = self.actions(incident)?;
            let now = states(&actions);
            let still = actions.iter().all(rests) && now == last;
            let state = self.fresh(incident)?["status"]["state"].clone();
            let said = format!("the incident is {state}, its actions are {now:?}");
            last = now;
            ensure!(still && state == "NeedsApproval", said);
            Ok(true)
        })?;
        self.fresh(incident)
    }

    /// The ResponseActions of an incident.
    pub(crate) fn actions(&self, incident: &Value) -> Result<Vec<Value>> {
        let label = format!("hemostat.dev/incident={}", name(incident));
        let found =
            self.kubectl.ask_json(&["get", "responseactions", "--all-namespaces", "--selector", &label])?;
        Ok(found["items"].as_array().cloned().unwrap_or_default())
    }

    /// As it is now.
    pub(crate) fn fresh(&self, incident: &Value) -> Result<Value> {
        let namespace = incident["metadata"]["namespace"].as_str().unwrap_or("default");
        self.kubectl.ask_json(&["get", "incident", name(incident), "--namespace", namespace])
    }

    /// Whether nothing of it is in force or on its way, nothing is orphaned, and no object waits for anything.
    pub(crate) fn is_settled(&self, incident: &Value) -> Result<bool> {
        self.comes_to("everything is settled", || {
            let actions = self.actions(incident)?;
            let settled = |one: &Value| {
                let state = one["status"]["state"].as_str().unwrap_or_default();
                let nothing = one["spec"]["plan"]["undo"]["class"] == "Nothing";
                let over = matches!(state, "Reverted" | "Vacuous" | "Failed")
                    || (nothing && matches!(state, "Applied" | "Verified" | "Unverified"));
                let orphaned = one["status"]["conditions"].as_array().into_iter().flatten();
                over && one["metadata"]["finalizers"].as_array().is_none_or(Vec::is_empty)
                    && !orphaned
                        .into_iter()
                        .any(|about| about["type"] == "Orphaned" && about["status"] == "True")
            };
            Ok(!actions.is_empty() && actions.iter().all(settled))
        })
    }

    /// An analyst's word; waits until all is given back.
    pub(crate) fn false_positive(&self, incident: &Value) -> Result<()> {
        self.judge(incident)?;
        self.wait("everything is rolled back", || {
            Ok(matches!(self.fresh(incident)?["status"]["state"].as_str(), Some("RolledBack" | "Closed")))
        })
    }

    /// An analyst's word, written as soon as the API server takes it.
    pub(crate) fn judge(&self, incident: &Value) -> Result<()> {
        self.judge_as(incident, "FalsePositive")
    }

    /// That it was one, or was none.
    pub(crate) fn judge_as(&self, incident: &Value, is: &str) -> Result<()> {
        let namespace = incident["metadata"]["namespace"].as_str().unwrap_or("default").to_owned();
        self.wait("the verdict is taken", || {
            let me = self.kubectl.ask_json(&["auth", "whoami"])?;
            let by = me["status"]["userInfo"]["username"].as_str().unwrap_or_default();
            let verdict = json!({"is": is, "by": by, "reason": "a drill"});
            let patch = json!({"spec": {"verdict": verdict}}).to_string();
            let words =
                ["patch", "incident", name(incident), "--namespace", &namespace, "--type=merge", "--patch"];
            self.kubectl.ask(&[&words[..], &[&patch]].concat()).map(|_said| true)
        })
    }

    /// What `helm uninstall` says while something is in force: it fails, and the Job that it made in a pod of its own tells why.
    pub(crate) fn uninstall_refused(&self) -> Result<String> {
        let words = ["uninstall", "hemostat", "--namespace", NAMESPACE, "--timeout=120s"];
        if helm(&self.cluster, &words).is_ok() {
            bail!("helm removed the chart while something was in force");
        }
        self.kubectl.ask(&["logs", "--namespace", NAMESPACE, "job/hemostat-uninstall"])
    }

    pub(crate) fn uninstall(&self, stages: &mut Stages, asks: Asks) -> Result<()> {
        // Their finalizers are the controller's to lift: without it, and with definitions that go with the chart, they would hold it up.
        self.kubectl.ask(&["delete", "playbooks,incidents", "--all", "--all-namespaces", "--timeout=60s"])?;
        // In the foreground: an owner is gone when its pods are, so that the wait is for them, too.
        let words = [
            "uninstall",
            "hemostat",
            "--namespace",
            NAMESPACE,
            "--wait",
            "--cascade=foreground",
            "--timeout=120s",
        ];
        let hooks: &[&str] = if asks == Asks::Nobody { &["--no-hooks"] } else { &[] };
        helm(&self.cluster, &[&words[..], hooks].concat())?;
        let left = self.kubectl.ask(&[
            "get",
            "all,clusterroles,clusterrolebindings,crds,validatingadmissionpolicies",
            "--all-namespaces",
            "--selector=app.kubernetes.io/part-of=hemostat",
            "--output=name",
        ])?;
        stages.proof("uninstalled", left.trim().is_empty(), &format!("helm uninstall leaves nothing {left}"))
    }

    /// Whether something comes about in time.
    pub(crate) fn comes_to(&self, what: &str, so: impl FnMut() -> Result<bool>) -> Result<bool> {
        self.wait(what, so).map(|()| true)
    }

    pub(crate) fn wait(&self, what: &str, mut so: impl FnMut() -> Result<bool>) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        let mut last = None;
        while Instant::now() < until {
            match so() {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(error) => last = Some(error),
            }
            thread::sleep(LOOK);
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

impl Miner {
    /// Ends it, also after it was let go.
    pub(crate) fn end(self, stage: &Stage) -> Result<()> {
        self.end_in(stage, "default", &stage.victim)
    }

    pub(crate) fn end_in(mut self, stage: &Stage, namespace: &str, pod: &Pod) -> Result<()> {
        let script = "kill -9 $(cat /miner)";
        let words = ["exec", "--namespace", namespace, &pod.name, "--", "sh", "-c", script];
        // It may have ended by itself.
        let _gone = stage.kubectl.command(&words).output().context("end the miner")?;
        let _ended = self.0.kill();
        self.0.wait().context("wait for kubectl exec").map(drop)
    }
}

impl Drop for Miner {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// In place of the step of what a node did by itself.
pub(crate) const BY_ITSELF: &str = "(the node itself)";

/// Step and state of each action.
pub(crate) fn states(actions: &[Value]) -> Vec<(String, String)> {
    let of = |one: &Value| {
        let step = one["spec"]["plan"]["step"].as_str().unwrap_or(BY_ITSELF).to_owned();
        (step, one["status"]["state"].as_str().unwrap_or_default().to_owned())
    };
    actions.iter().map(of).collect()
}

/// Whether an action is on no way to anywhere. Nobody looks at what the node did by itself.
pub(crate) fn rests(action: &Value) -> bool {
    let own = action["spec"]["plan"]["step"].is_null();
    match action["status"]["state"].as_str() {
        None | Some("Planned" | "Prepared" | "Applying" | "Reverting") => false,
        Some(state) => own || state != "Applied",
    }
}

/// What an object is called.
pub(crate) fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

fn install(cluster: &Cluster) -> Result<()> {
    let (state, run) = (cluster.state().join("agent"), cluster.state().join("agent-run"));
    fs::create_dir_all(&run).with_context(|| format!("make {}", run.display()))?;
    let chart = root().join("deploy/chart").display().to_string();
    let (state, run) =
        (format!("agent.statePath={}", state.display()), format!("agent.runPath={}", run.display()));
    let url = format!("http://{}:{INBOX}/", cluster.node_address());
    let channel = |name: &str| json!({"name": name, "kind": "webhook", "url": url});
    let channels = format!("notifications.channels={}", json!([channel("soc"), channel("tickets")]));
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
    words.extend(["--set-json", &channels]);
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

/// A Deployment of the stand-ins' image.
pub(crate) fn deployment(namespace: &str, name: &str, replicas: u32, command: Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": namespace}, "spec": {
        "replicas": replicas, "selector": {"matchLabels": {"app": name}},
        "template": {"metadata": {"labels": {"app": name}}, "spec": {"terminationGracePeriodSeconds": 0, "containers": [
            {"name": name, "image": IMAGE, "imagePullPolicy": "Never", "command": command}]}}}})
}

/// What is judged here is staged: a verdict "a drill" must not make the gate doubt the rule (docs/gate.md).
fn drills() -> Value {
    json!({
        "apiVersion": "hemostat.dev/v1alpha1",
        "kind": "ResponsePolicy",
        "metadata": {"name": "drills", "namespace": NAMESPACE},
        "spec": {"gate": {"evidence": "Shown"}}
    })
}

/// Whom the web servers ask, a pool that swallows what it is sent, and where people are told.
fn served() -> Value {
    // Every connection is served beside the others: an earlier miner that was let go may still hold its own.
    let pool = json!(["/bin/nc", "-ll", "-p", "3333", "-e", "/bin/sh", "-c", "exec cat > /dev/null"]);
    let server = json!(["/bin/standin", "serve"]);
    let inbox = json!(["/bin/nc", "-ll", "-p", INBOX.to_string(), "-e", "/bin/sh", "-c", INBOX_SCRIPT]);
    let mut inbox = deployment("default", "inbox", 1, inbox);
    inbox["spec"]["template"]["spec"]["hostNetwork"] = true.into();
    json!({"apiVersion": "v1", "kind": "List", "items": [
        deployment("default", "server", 1, server), deployment("default", "pool", 1, pool), inbox]})
}

/// Two web servers that may do everything, and ask somebody all the time.
fn workload(server: &str) -> Value {
    let allow = json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "allow-all", "namespace": "default"}, "spec": {
        "podSelector": {}, "policyTypes": ["Ingress", "Egress"], "ingress": [{}], "egress": [{}]}});
    // A namespace that lets playbooks do what touches more than the one workload.
    let policy = json!({"apiVersion": "hemostat.dev/v1alpha1", "kind": "ResponsePolicy",
        "metadata": {"name": "demo", "namespace": "default"}, "spec": {"widest": "Namespace"}});
    let script = format!("/bin/standin probe --peer {server} & exec /bin/httpd -f -p 8080 -h /etc");
    let web = json!(["/bin/sh", "-c", script]);
    json!({"apiVersion": "v1", "kind": "List", "items": [policy, deployment("default", "web", 2, web), allow]})
}

pub(crate) fn pods(kubectl: &Kubectl, namespace: &str, selector: &str) -> Result<Vec<Pod>> {
    let found = kubectl.ask_json(&["get", "pods", "--namespace", namespace, "--selector", selector])?;
    let items = found["items"].as_array().cloned().unwrap_or_default();
    let pod = |one: &Value| {
        let address = one["status"]["podIP"].as_str()?.to_owned();
        Some(Pod { name: name(one).to_owned(), address })
    };
    Ok(items.iter().filter_map(pod).collect())
}

fn one(pods: Vec<Pod>) -> Result<Pod> {
    pods.into_iter().next().context("there is no such pod")
}
