//! `kubectl hemostat leader`: what the API server does not tell is asked of the controller that leads, at its own socket, by `kubectl exec`.

use std::{io::Write as _, path::Path, process::Command};

use anyhow::{Context, Result};
use k8s_openapi::api::{coordination::v1::Lease, core::v1::Namespace};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use respond::gate::SWITCH;
use serde_json::json;

use super::Cluster;
use crate::exit::{Ended, Exit};

/// Hemostat's own namespace where nothing else is said: that of the chart's examples.
const HOME: &str = "hemostat-system";
/// The Lease by which controllers find out who leads.
const LEASE: &str = "hemostat-controller";
/// Where the image has the program.
const PROGRAM: &str = "/usr/bin/hemostat";

/// What may be asked so.
const ASKED: [&str; 7] = ["audit", "pause", "playbook", "policy", "resume", "status", "trust"];
/// What is everybody's own word and is given in his own name: the socket would know only the controller's user.
const OWN_WORDS: [(&str, &str); 5] = [
    ("approve", "approve"),
    ("deny", "deny"),
    ("verdict", "verdict"),
    ("rollback", "revert"),
    ("incidents", "triage"),
];

/// How kubectl is told which cluster.
pub(super) struct Place<'a> {
    pub(super) kubeconfig: Option<&'a Path>,
    pub(super) context: Option<&'a str>,
}

pub(super) async fn ask(cluster: &Cluster, place: &Place<'_>, words: &[String]) -> Result<Exit> {
    may_be_asked(words)?;
    let home = cluster.namespace.as_deref().unwrap_or(HOME);
    let leases: Api<Lease> = Api::namespaced(cluster.client.clone(), home);
    let lease = leases.get_opt(LEASE).await.map_err(|error| cluster.refused(error))?;
    let holder = lease.and_then(|lease| lease.spec?.holder_identity).filter(|holder| !holder.is_empty());
    let Some(leader) = holder else {
        let what =
            format!("no controller leads in the namespace {home}: is it Hemostat's own (-n NAMESPACE)?");
        return Err(Ended::with(Exit::Unreachable, what));
    };
    match words.first().map(String::as_str) {
        Some("pause") if !asks_for_help(words) => switch(cluster, home, Some("off")).await?,
        Some("resume") if !asks_for_help(words) => switch(cluster, home, None).await?,
        _ => {}
    }
    let mut kubectl = Command::new("kubectl");
    kubectl.args(command(place, home, &leader, words));
    let ended = kubectl.status().context("run kubectl, which reaches the controller that leads")?;
    // 1 is the command's own no, or kubectl's that it did not get there, which it has said.
    Ok(match ended.code() {
        Some(0) => Exit::Good,
        Some(2) => Exit::Usage,
        Some(3) => Exit::Unreachable,
        Some(4) => Exit::Forbidden,
        Some(5) => Exit::Unknown,
        Some(6) => Exit::Conflict,
        _ => Exit::Bad,
    })
}

fn asks_for_help(words: &[String]) -> bool {
    words.iter().any(|word| matches!(word.as_str(), "--help" | "-h"))
}

/// A pause stands in the leader's own journal, which the next leader may not have: the label on Hemostat's namespace holds whoever leads, and
/// the API server writes down whose word it was.
async fn switch(cluster: &Cluster, home: &str, value: Option<&str>) -> Result<()> {
    let namespaces: Api<Namespace> = Api::all(cluster.client.clone());
    let patch = Patch::Merge(json!({"metadata": {"labels": {SWITCH: value}}}));
    let params = PatchParams { field_manager: Some("kubectl-hemostat".into()), ..PatchParams::default() };
    namespaces.patch(home, &params, &patch).await.map_err(|error| cluster.refused(error))?;
    let what = value.map_or_else(|| "removed".to_owned(), |value| format!("set to {value:?}"));
    // Beside what is asked for, which the leader answers.
    writeln!(std::io::stderr(), "label {SWITCH} of namespace {home}: {what}")
        .context("say what was done to the label")
}

fn may_be_asked(words: &[String]) -> Result<()> {
    let first = words.first().map(String::as_str).unwrap_or_default();
    if ASKED.contains(&first) {
        return Ok(());
    }
    let what = match OWN_WORDS.iter().find(|(word, _)| *word == first) {
        Some((_, own)) => {
            format!("`{first}` is not asked of the leader: `kubectl hemostat {own}` does it in your own name")
        }
        None => format!("`{first}` is not asked of the leader, but one of {}", ASKED.join(", ")),
    };
    Err(Ended::with(Exit::Usage, what))
}

/// kubectl's words. None goes through a shell, here or there.
fn command(place: &Place<'_>, home: &str, leader: &str, words: &[String]) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    if let Some(path) = place.kubeconfig {
        all.extend(["--kubeconfig".into(), path.display().to_string()]);
    }
    if let Some(context) = place.context {
        all.extend(["--context".into(), context.into()]);
    }
    all.extend(
        ["exec", "--namespace", home, "--container=controller", leader, "--", PROGRAM].map(str::to_owned),
    );
    all.extend(words.iter().cloned());
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn kubectl_is_told_which_cluster_and_the_words_come_as_they_are() {
        let place = Place { kubeconfig: Some(Path::new("/k")), context: Some("blue") };
        let asked: Vec<String> = ["pause", "--reason", "a drill; rm -rf /"].map(str::to_owned).into();
        let told = command(&place, "sec", "pod-1", &asked);
        let (before, after) = told.split_at(told.len() - asked.len());
        assert_eq!(after, asked);
        assert_eq!(
            before.join(" "),
            "--kubeconfig /k --context blue exec --namespace sec --container=controller pod-1 -- /usr/bin/hemostat"
        );
    }

    #[test]
    fn ones_own_word_is_not_given_through_the_leader_and_nothing_else_is_run_there() {
        for text in [
            "pause --reason x",
            "policy explain inc-1",
            "policy promotion",
            "trust begin-anew x",
            "status",
            "audit verify",
        ] {
            assert!(may_be_asked(&words(text)).is_ok(), "{text}");
        }
        for (text, says) in [
            ("approve inc-1", "`kubectl hemostat approve` does it in your own name"),
            ("rollback inc-1", "`kubectl hemostat revert`"),
            ("release", "but one of audit, pause"),
            ("standalone", "but one of"),
            ("--socket /x status", "but one of"),
        ] {
            let error = may_be_asked(&words(text)).unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
