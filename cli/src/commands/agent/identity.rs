//! The agent's certificate: asked for with the token, renewed well before it ends, kept over restarts.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use model::{NodeId, Timestamp};
use tokio_util::sync::CancellationToken;
use wire::{
    enrol::{Application, Enrolled},
    identity::{Credentials, write_secret},
};

/// Shortest and longest pause between two tries.
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// Where the certificate comes from and where it lies.
pub(crate) struct Keys {
    controller: String,
    folder: PathBuf,
    authority: PathBuf,
    token: PathBuf,
    node: NodeId,
}

impl Keys {
    pub(crate) fn new(
        controller: &str,
        state: &Path,
        authority: &Path,
        token: &Path,
        node: &NodeId,
    ) -> Result<Self> {
        let folder = state.join("keys");
        super::make_private(&folder)?;
        Ok(Self {
            controller: controller.to_owned(),
            folder,
            authority: authority.to_owned(),
            token: token.to_owned(),
            node: node.clone(),
        })
    }

    /// Read again at every connection.
    pub(crate) fn credentials(&self) -> Credentials {
        Credentials::Files {
            certificate: self.folder.join("tls.crt"),
            key: self.folder.join("tls.key"),
            authority: self.folder.join("ca.crt"),
        }
    }

    /// Sees to it that there is a certificate, until `stop`.
    pub(crate) async fn keep(self, stop: CancellationToken) {
        let mut pause = PAUSE.0;
        loop {
            let wait = match self.due() {
                Some(wait) if !wait.is_zero() => {
                    pause = PAUSE.0;
                    wait
                }
                _ => match self.renew().await {
                    Ok(valid) => {
                        tracing::info!(until = %valid.1, "this agent has a new certificate");
                        pause = PAUSE.0;
                        continue;
                    }
                    Err(error) => {
                        tracing::warn!("no certificate from the controller: {error:#}");
                        pause = (pause * 2).min(PAUSE.1);
                        pause
                    }
                },
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(wait.min(Duration::from_secs(60))) => {}
            }
        }
    }

    /// How long until a new one is due: at two thirds of its time. `None` when there is no usable one.
    fn due(&self) -> Option<Duration> {
        let identity = self.credentials().load().ok()?;
        if identity.subject != wire::identity::Subject::Node(self.node.clone()) {
            return None;
        }
        let (from, until) = identity.valid;
        let at = Timestamp(from.0 + (until.0 - from.0) / 3 * 2);
        Some(at.since(crate::commands::now()))
    }

    async fn renew(&self) -> Result<(Timestamp, Timestamp)> {
        let authority = fs::read_to_string(&self.authority)
            .with_context(|| format!("read {}", self.authority.display()))?;
        let token =
            fs::read_to_string(&self.token).with_context(|| format!("read {}", self.token.display()))?;
        let application =
            Application { address: self.controller.clone(), authority, step_limit: Duration::from_secs(10) };
        let Enrolled { own, authority, node, valid } = application.hand_in(token.trim().to_owned()).await?;
        anyhow::ensure!(node == self.node, "the token speaks for node {node}, and this is {}", self.node);
        // The key last, and each in one step: whoever reads in between finds a pair that does not fit, and tries again.
        for (name, text) in [("ca.crt", &authority), ("tls.crt", &own.certificate), ("tls.key", &own.key)] {
            let (fresh, path) = (self.folder.join(format!("{name}.new")), self.folder.join(name));
            write_secret(&fresh, text)?;
            fs::rename(&fresh, &path).with_context(|| format!("put {} in its place", path.display()))?;
        }
        Ok(valid)
    }
}
