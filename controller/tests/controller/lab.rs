//! A controller with one node and one person.

use std::{
    fs,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use hemostat_controller::{
    Controller, ControllerConfig, ControllerHandle,
    api::{ApiErrorKind, IncidentSummary},
    client::{Client, ClientError},
};
use model::{Incident, IncidentState, Report};
use tempfile::TempDir;
use tokio::task::JoinHandle;

use crate::support::{Faint, FileNode, World, session};

/// Longest wait for anything; a test that waits so long has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) struct Lab {
    pub(crate) dir: TempDir,
    pub(crate) handle: ControllerHandle,
    pub(crate) client: Client,
    pub(crate) node: Arc<Mutex<FileNode>>,
    session: Option<JoinHandle<usize>>,
}

impl Lab {
    /// With one playbook in `mode`.
    pub(crate) async fn start(mode: &str) -> Self {
        Self::start_with(mode, |_| {}).await
    }

    pub(crate) async fn start_with(mode: &str, adjust: impl FnOnce(&mut ControllerConfig)) -> Self {
        Self::start_in(new_dir(mode), adjust).await
    }

    /// In a folder that was made for it.
    pub(crate) async fn start_in(dir: TempDir, adjust: impl FnOnce(&mut ControllerConfig)) -> Self {
        let mut config = config(dir.path());
        adjust(&mut config);
        let client = Client::new(&config.socket);
        let handle = Controller::start(config).await.unwrap();
        let node = Arc::new(Mutex::new(FileNode::open(&dir.path().join("node.json"))));
        Self { dir, handle, client, node, session: None }
    }

    /// Stops the controller and starts it again on what is stored.
    pub(crate) async fn restart(self) -> Self {
        self.restart_with(|_| {}).await
    }

    /// As [`Lab::restart`], not quite as before.
    pub(crate) async fn restart_with(self, adjust: impl FnOnce(&mut ControllerConfig)) -> Self {
        let Self { dir, handle, node, session, .. } = self;
        handle.shutdown().await;
        if let Some(session) = session {
            session.await.unwrap();
        }
        let mut config = config(dir.path());
        adjust(&mut config);
        let client = Client::new(&config.socket);
        let handle = Controller::start(config).await.unwrap();
        Self { dir, handle, client, node, session: None }
    }

    pub(crate) fn spool(&self, report: Report) {
        self.node.lock().unwrap().spool(report);
    }

    /// Connects the node, which delivers its spool and obeys.
    pub(crate) fn connect(&mut self, faint: Faint) {
        let (agent, link) = crate::support::link();
        self.handle.attach(link);
        self.session = Some(tokio::spawn(session(Arc::clone(&self.node), agent, 1, faint)));
    }

    /// Ends the node's connection.
    pub(crate) async fn disconnect(&mut self) {
        if let Some(session) = self.session.take() {
            session.abort();
            drop(session.await);
        }
    }

    /// Waits for the end of the node's connection.
    pub(crate) async fn disconnected(&mut self) -> usize {
        match self.session.take() {
            Some(session) => tokio::time::timeout(PATIENCE, session).await.unwrap().unwrap(),
            None => 0,
        }
    }

    /// Waits until some incident is as wanted.
    pub(crate) async fn until(&self, wanted: impl Fn(&IncidentSummary) -> bool) -> Incident {
        let mut since = 0;
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let all = match self.look(&mut since, &wanted).await {
                Ok(Ok(found)) => return found,
                Ok(Err(all)) => format!("{all:#?}"),
                // On a machine that does much else it says so, and to come again.
                Err(ClientError::Refused(busy)) if busy.kind == ApiErrorKind::Unavailable => busy.to_string(),
                Err(error) => panic!("{error}"),
            };
            assert!(tokio::time::Instant::now() < deadline, "never came: {all}");
        }
    }

    /// The incident that is wanted, or what there is, once something has changed since the last look.
    async fn look(
        &self,
        since: &mut u64,
        wanted: impl Fn(&IncidentSummary) -> bool,
    ) -> Result<Result<Incident, Vec<IncidentSummary>>, ClientError> {
        *since = self.client.watch(*since, Duration::from_secs(1)).await?.revision;
        let all = self.client.incidents(1000).await?.incidents;
        match all.iter().find(|line| wanted(line)) {
            Some(found) => Ok(Ok(self.client.incident(found.id.as_str()).await?.incident)),
            None => Ok(Err(all)),
        }
    }

    pub(crate) async fn until_state(&self, state: IncidentState) -> Incident {
        self.until(|line| line.state == state).await
    }

    /// Waits until the node's world is as wanted.
    pub(crate) async fn until_world(&self, wanted: impl Fn(&World) -> bool) -> World {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let world = self.node.lock().unwrap().world().clone();
            if wanted(&world) {
                return world;
            }
            assert!(tokio::time::Instant::now() < deadline, "never came: {world:#?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub(crate) async fn stop(self) -> TempDir {
        self.handle.shutdown().await;
        if let Some(session) = self.session {
            session.await.unwrap();
        }
        self.dir
    }
}

/// With one playbook in `mode`.
pub(crate) fn new_dir(mode: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("playbooks")).unwrap();
    fs::write(dir.path().join("playbooks/miner.yaml"), crate::support::playbook(mode)).unwrap();
    dir
}

pub(crate) fn config(dir: &Path) -> ControllerConfig {
    let mut config = ControllerConfig::in_folders(&dir.join("state"), dir);
    config.playbooks = vec![dir.join("playbooks")];
    if dir.join("rules").is_dir() {
        config.rules = vec![dir.join("rules")];
    }
    config.correlation.lateness = Duration::from_millis(50);
    config
}
