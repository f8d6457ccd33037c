//! Questions to the API server, through the real kubectl.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{binaries::Binaries, identity};

/// kubectl as the administrator of one cluster.
#[derive(Debug, Clone)]
pub(crate) struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
}

impl Kubectl {
    pub(super) fn new(binaries: &Binaries, state: &Path) -> Self {
        Self { program: binaries.path("kubectl"), kubeconfig: identity::kubeconfig(&state.join("keys")) }
    }

    /// For a cluster that is not ours.
    pub(super) fn of(program: PathBuf, kubeconfig: PathBuf) -> Self {
        Self { program, kubeconfig }
    }

    /// The program and the kubeconfig, for shell lines.
    pub(crate) fn places(&self) -> (&Path, &Path) {
        (&self.program, &self.kubeconfig)
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--kubeconfig").arg(&self.kubeconfig).args(arguments).stdin(Stdio::null());
        command
    }

    /// Standard output, if it went well.
    pub(crate) fn ask(&self, arguments: &[&str]) -> Result<String> {
        let output = self.command(arguments).output().context("run kubectl")?;
        checked(arguments, &output)
    }

    pub(crate) fn ask_json(&self, arguments: &[&str]) -> Result<Value> {
        let answer = self.ask(&[arguments, &["-o", "json"]].concat())?;
        serde_json::from_str(&answer)
            .with_context(|| format!("read the answer of kubectl {}", arguments.join(" ")))
    }

    /// `kubectl apply` of a manifest.
    pub(crate) fn apply(&self, manifest: &Value) -> Result<()> {
        let arguments = ["apply", "--filename", "-"];
        let mut child = self
            .command(&arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("run kubectl")?;
        let mut stdin = child.stdin.take().context("kubectl has no standard input")?;
        stdin.write_all(manifest.to_string().as_bytes()).context("hand the manifest to kubectl")?;
        drop(stdin);
        let output = child.wait_with_output().context("wait for kubectl")?;
        checked(&arguments, &output).map(|_text| ())
    }
}

fn checked(arguments: &[&str], output: &Output) -> Result<String> {
    if !output.status.success() {
        bail!("kubectl {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
