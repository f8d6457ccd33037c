//! A namespace of its own on the real API server, and an executor that may do what one action needs and nothing else.

use std::{
    fs,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use hemostat_act::{ActConfig, Channel, Executor, Own, Scanner, permissions};
use hemostat_cluster_tests::{
    api_server::ApiServer,
    recorder::{Recorder, unbounded},
};
use hyper::{Method, Request};
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use model::{
    Account, ActionFailure, ActionId, ClusterAction, ClusterState, CommandKey, Edit, Effect, IncidentId,
    NodeAction, NodeCommand, NodeId, ObjectRef, OnDrift, Outputs, Phase, PhaseDone, RollbackState, Target,
    Timestamp,
};
use serde_json::{Value, json};

static NEXT: AtomicU64 = AtomicU64::new(0);

pub(crate) struct World {
    server: Arc<ApiServer>,
    admin: Client,
    executor: Executor,
    pub(crate) namespace: String,
    /// Hemostat's own.
    pub(crate) home: String,
    /// The door that the executor comes through.
    recorder: Recorder,
    /// Holds the folder until the end.
    _folder: tempfile::TempDir,
    action: &'static str,
    n: AtomicU64,
}

/// One action under way.
pub(crate) struct Act<'a> {
    world: &'a World,
    id: ActionId,
    action: ClusterAction,
    target: Target,
    pub(crate) captured: ClusterState,
}

impl World {
    /// For an action of that name; `None`, said aloud, where there is no API server to be had.
    pub(crate) async fn of(action: &'static str) -> Option<Self> {
        Self::with(action, &[], Vec::new(), None).await
    }

    pub(crate) async fn with_channels(action: &'static str, channels: Vec<Channel>) -> Option<Self> {
        Self::with(action, &[], channels, None).await
    }

    /// With rights besides those of the action, in the whole cluster.
    pub(crate) async fn with(
        action: &'static str,
        further: &[&'static str],
        channels: Vec<Channel>,
        scanner: Option<Scanner>,
    ) -> Option<Self> {
        let server = ApiServer::here()?;
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let namespace = format!("ns-{n}");
        let admin = client(&server, None).await;
        let recorder = {
            let _alone = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
            server.recorded("admin")
        };
        let user = format!("act-{n}");
        let folder = tempfile::tempdir().unwrap();
        let config = ActConfig {
            evidence: folder.path().join("evidence"),
            sent: folder.path().join("sent"),
            channels,
            own: own(n),
            scanner,
            leads: Arc::new(|| true),
            clock: Arc::new(now),
        };
        let home = config.own.namespace.clone();
        let executor = Executor::new(through(&recorder.kubeconfig, Some(&user)).await, config);
        let world = Self {
            server,
            admin,
            executor,
            namespace,
            home,
            recorder,
            _folder: folder,
            action,
            n: AtomicU64::new(0),
        };
        let name = world.namespace.clone();
        world.make("/api/v1/namespaces", json!({"metadata": {"name": name}})).await;
        world.make(&world.below("serviceaccounts"), json!({"metadata": {"name": "default"}})).await;
        let role = permissions::cluster_role(&user, [action].iter().chain(further));
        let rbac = "/apis/rbac.authorization.k8s.io/v1";
        world.make(&format!("{rbac}/clusterroles"), role).await;
        let binding = json!({
            "metadata": {"name": user},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": user},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
        });
        world.make(&format!("{rbac}/clusterrolebindings"), binding).await;
        let at_home = permissions::cluster_role(&user, [format!("{action}@own")]);
        if at_home["rules"].as_array().is_some_and(|rules| !rules.is_empty()) {
            let home = world.home.clone();
            world.make("/api/v1/namespaces", json!({"metadata": {"name": home}})).await;
            let (mut role, name) = (at_home, json!({"name": user}));
            (role["kind"], role["metadata"]) = ("Role".into(), name.clone());
            let below = format!("{rbac}/namespaces/{home}");
            world.make(&format!("{below}/roles"), role).await;
            let of = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": user});
            let subjects = json!([{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}]);
            let binding = json!({"metadata": name, "roleRef": of, "subjects": subjects});
            world.make(&format!("{below}/rolebindings"), binding).await;
        }
        Some(world)
    }

    /// The collection of a core resource in the namespace.
    pub(crate) fn below(&self, resource: &str) -> String {
        format!("/api/v1/namespaces/{}/{resource}", self.namespace)
    }

    /// The same of a group.
    pub(crate) fn of_group(&self, group: &str, resource: &str) -> String {
        format!("/apis/{group}/namespaces/{}/{resource}", self.namespace)
    }

    pub(crate) async fn make(&self, collection: &str, object: Value) -> Value {
        self.request(Method::POST, collection, Some(&object), "application/json").await.unwrap()
    }

    pub(crate) async fn change(&self, path: &str, patch: Value) -> Value {
        self.request(Method::PATCH, path, Some(&patch), "application/merge-patch+json").await.unwrap()
    }

    pub(crate) async fn delete(&self, path: &str) {
        self.request(Method::DELETE, path, None, "application/json").await.unwrap();
    }

    pub(crate) async fn get(&self, path: &str) -> Option<Value> {
        self.request(Method::GET, path, None, "application/json").await.ok()
    }

    pub(crate) async fn request(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        kind: &str,
    ) -> Result<Value, String> {
        let bytes = body.map(|body| body.to_string().into_bytes()).unwrap_or_default();
        let request =
            Request::builder().method(method).uri(path).header("content-type", kind).body(bytes).unwrap();
        self.admin.request::<Value>(request).await.map_err(|error| error.to_string())
    }

    /// As another user.
    pub(crate) async fn try_as(
        &self,
        user: &str,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, String> {
        let bytes = body.map(|body| body.to_string().into_bytes()).unwrap_or_default();
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", "application/json")
            .body(bytes);
        let client = client(&self.server, Some(user)).await;
        client.request::<Value>(request.unwrap()).await.map_err(|error| error.to_string())
    }

    /// Waits until something is so: admission and RBAC follow what is written.
    pub(crate) async fn until(&self, so: impl AsyncFn() -> bool) {
        for _ in 0..200 {
            if so().await {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        panic!("it did not come about");
    }

    /// Everything that stands there, but for what changes with every write.
    pub(crate) async fn picture(&self, paths: &[String]) -> Vec<Option<Value>> {
        let mut all = Vec::new();
        for path in paths {
            let mut object = self.get(path).await;
            if let Some(meta) = object.as_mut().and_then(|object| object["metadata"].as_object_mut()) {
                for part in ["resourceVersion", "managedFields", "generation"] {
                    meta.remove(part);
                }
                // A generation under another name.
                if let Some(kept) = meta.get_mut("annotations").and_then(Value::as_object_mut) {
                    kept.remove("deprecated.daemonset.template.generation");
                }
            }
            all.push(object);
        }
        all
    }

    pub(crate) fn pod(&self, labels: Value) -> Value {
        json!({
            "metadata": {"generateName": "p-", "labels": labels},
            "spec": {"automountServiceAccountToken": false, "containers": [{"name": "c", "image": "i"}]},
        })
    }

    /// The capture, with permissions that may have to be noticed first.
    pub(crate) async fn begin(
        &self,
        action: ClusterAction,
        target: Target,
    ) -> Result<Act<'_>, ActionFailure> {
        assert_eq!(action.name(), self.action);
        let n = self.n.fetch_add(1, Ordering::Relaxed);
        let id = ActionId::new(format!("act-{}-{n}", self.namespace));
        let mut act = Act { world: self, id, action, target, captured: ClusterState::default() };
        // RBAC holds once the API server has read it.
        for _ in 0..100 {
            match act.phase(Phase::Capture).await {
                Ok(PhaseDone::Captured { rollback: RollbackState::Cluster(captured) }) => {
                    // As the journal keeps it.
                    let text = serde_json::to_string(&captured).unwrap();
                    act.captured = serde_json::from_str(&text).unwrap();
                    return Ok(act);
                }
                Ok(other) => panic!("{other:?}"),
                Err(failure) if failure.to_string().contains("forbidden") => {
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                }
                Err(failure) => return Err(failure),
            }
        }
        act.phase(Phase::Capture).await.map(|_| act)
    }
}

impl Act<'_> {
    pub(crate) async fn apply(&self) -> Result<Outputs, ActionFailure> {
        match self.phase(Phase::Apply { rollback: self.rollback() }).await? {
            PhaseDone::Applied { outputs } => Ok(outputs),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn verify(&self) -> Result<Effect, ActionFailure> {
        match self.phase(Phase::Verify { rollback: self.rollback() }).await? {
            PhaseDone::Verified { effect } => Ok(effect),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn revert(&self) -> Result<PhaseDone, ActionFailure> {
        self.phase(Phase::Revert { rollback: self.rollback(), on_drift: OnDrift::Ask }).await
    }

    /// As a person wants it who knows that somebody else changed it.
    pub(crate) async fn overwrite(&self) -> Result<PhaseDone, ActionFailure> {
        self.phase(Phase::Revert { rollback: self.rollback(), on_drift: OnDrift::Overwrite }).await
    }

    /// The path of the first object that the action makes.
    pub(crate) fn made(&self) -> String {
        let made = self.captured.edits.iter().find_map(|edit| match edit {
            Edit::Make { object, .. } => Some(object),
            _ => None,
        });
        let object = made.unwrap();
        let root = if object.api_version.contains('/') { "apis" } else { "api" };
        let below = object.namespace.as_ref().map(|name| format!("/namespaces/{name}")).unwrap_or_default();
        let kind = object.kind.to_lowercase();
        let plural =
            if kind.ends_with('y') { format!("{}ies", &kind[..kind.len() - 1]) } else { format!("{kind}s") };
        format!("/{root}/{}{below}/{plural}/{}", object.api_version, object.name)
    }

    /// I5, I7: applied twice it is done once; killed after any of its edits it can be brought to its end, or back; undone twice it is as
    /// before.
    pub(crate) async fn prove(&self, watched: &[String]) -> Vec<Option<Value>> {
        let before = self.world.picture(watched).await;
        for done in 0..=self.captured.edits.len() {
            let begun = ClusterState { edits: self.captured.edits[..done].to_vec(), notes: Vec::new() };
            let begun = RollbackState::Cluster(Box::new(begun));
            self.phase(Phase::Apply { rollback: begun }).await.unwrap();
            if done % 2 == 0 {
                self.apply().await.unwrap();
            }
            for _ in 0..2 {
                let reverted = self.revert().await.unwrap();
                assert!(matches!(reverted, PhaseDone::Reverted { .. }), "{reverted:?}");
                assert_eq!(
                    self.world.picture(watched).await,
                    before,
                    "I5 after {done} edits: {:?}",
                    self.captured
                );
            }
        }
        self.apply().await.unwrap();
        let applied = self.world.picture(watched).await;
        let made = self.captured.edits.iter().any(|edit| matches!(edit, Edit::Make { .. }));
        assert!(made || applied != before, "it does something");
        self.apply().await.unwrap();
        assert_eq!(self.world.picture(watched).await, applied, "done once");
        before
    }

    /// Everything that holds for an action that can be undone, with somebody else's edit at `path` between its capture and its undo:
    /// nothing is overwritten, unless a person wants it: then it is as it was captured, and what was overwritten is told. It is in force
    /// afterwards.
    pub(crate) async fn prove_all(&self, watched: &[String], path: &str, edit: Value, told: &[&str]) {
        let before = self.prove(watched).await;
        self.prove_drift(path, edit, told).await;
        let done = self.overwrite().await.unwrap();
        let PhaseDone::Reverted { detail } = done else { panic!("{done:?}") };
        assert!(detail.contains("overwritten: "), "{detail}");
        assert_eq!(self.world.picture(watched).await, before, "as it was captured: {detail}");
        let again = self.overwrite().await.unwrap();
        assert!(matches!(again, PhaseDone::Reverted { .. }), "{again:?}");
        assert_eq!(self.world.picture(watched).await, before);
        self.apply().await.unwrap();
    }

    /// Its object at `path` is taken away: there is nothing to undo, and nothing of ours stays behind.
    pub(crate) async fn prove_gone(&self, path: &str) {
        self.world.delete(path).await;
        match self.revert().await {
            Err(ActionFailure::TargetGone { .. }) | Ok(PhaseDone::Reverted { .. }) => {}
            other => panic!("{other:?}"),
        }
        for edit in &self.captured.edits {
            if let Edit::Make { .. } = edit {
                assert!(self.world.get(&self.made()).await.is_none(), "{} stays behind", self.made());
            }
        }
        assert!(
            self.apply().await.is_err() || self.captured.edits.iter().all(|e| matches!(e, Edit::Make { .. }))
        );
    }

    /// Somebody else's edit in between: nothing is undone, and the three states are told.
    pub(crate) async fn prove_drift(&self, path: &str, edit: Value, told: &[&str]) {
        let spoiled = self.world.change(path, edit).await;
        let reverted = self.revert().await.unwrap();
        let PhaseDone::Drifted { difference } = reverted else { panic!("{reverted:?}") };
        for word in told {
            assert!(difference.contains(word), "{difference}");
        }
        let now = self.world.get(path).await.unwrap();
        assert_eq!(now["metadata"]["resourceVersion"], spoiled["metadata"]["resourceVersion"]);
    }

    async fn phase(&self, phase: Phase) -> Result<PhaseDone, ActionFailure> {
        let command = NodeCommand {
            key: CommandKey::new(format!("{}/{}", self.id, phase.name())),
            action_id: self.id.clone(),
            incident: IncidentId::new("inc-1"),
            node: NodeId::cluster(),
            deadline: now().plus(std::time::Duration::from_secs(60)),
            action: NodeAction::Cluster(self.action.clone()),
            target: self.target.clone(),
            phase,
        };
        self.world.executor.carry_out(&command).await.result
    }

    fn rollback(&self) -> RollbackState {
        RollbackState::Cluster(Box::new(self.captured.clone()))
    }
}

/// A target from an object as the API server gave it.
pub(crate) fn target(object: &Value, api_version: &str, kind: &str) -> Target {
    let part = |name: &str| object["metadata"][name].as_str().map(str::to_owned);
    Target::Object(ObjectRef {
        api_version: api_version.into(),
        kind: kind.into(),
        namespace: part("namespace"),
        name: part("name").unwrap(),
        uid: part("uid").unwrap(),
        as_of: None,
    })
}

/// As an audit record without uid names it.
pub(crate) fn by_name(target: Target, as_of: Option<Timestamp>) -> Target {
    match target {
        Target::Object(object) => Target::Object(ObjectRef { uid: String::new(), as_of, ..object }),
        other => other,
    }
}

pub(crate) fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    Timestamp(i64::try_from(since.as_nanos()).unwrap())
}

/// Times of the API server are in whole seconds: what follows is certainly later.
pub(crate) async fn next_second() {
    let begun = now().unix_seconds();
    while now().unix_seconds() == begun {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

pub(crate) fn own(n: u64) -> Own {
    Own {
        namespace: format!("home-{n}"),
        accounts: vec![Account::of_user(&format!("system:serviceaccount:ns-{n}:agent"))],
    }
}

/// A kubeconfig is written anew each time it is asked for; a test that failed meanwhile has left it whole.
static WRITING: Mutex<()> = Mutex::new(());

pub(crate) async fn client(server: &ApiServer, user: Option<&str>) -> Client {
    let file = {
        let _alone = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
        let path = server.kubeconfig("admin");
        fs::read_to_string(path).unwrap()
    };
    connect(&file, user).await
}

async fn through(kubeconfig: &Path, user: Option<&str>) -> Client {
    connect(&fs::read_to_string(kubeconfig).unwrap(), user).await
}

/// What is refused is asked once: the controller's own client asks again in its own way.
async fn connect(file: &str, user: Option<&str>) -> Client {
    let file = Kubeconfig::from_yaml(file).unwrap();
    let mut config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.unwrap();
    config.auth_info.impersonate = user.map(str::to_owned);
    config.default_retry = false;
    Client::try_from(config).unwrap()
}

/// Whatever the test did: no list of it was wider than docs/kubernetes.md says.
impl Drop for World {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let wide = unbounded(&self.recorder.asked(), &self.home);
            assert!(wide.is_empty(), "no row of docs/kubernetes.md allows {wide:#?}");
        }
    }
}
