//! `kubectl hemostat`: triage, answers and undo through the API server, with the rights and under the name of whoever calls it. It needs no
//! socket and no node: only the custom resources. Installed as `kubectl-hemostat` (a link to this program), kubectl finds it by itself.

mod act;
mod show;

use std::{collections::BTreeSet, path::PathBuf};

use anyhow::{Context, Result};
use clap::Subcommand;
use crds::{
    Playbook,
    source::{Resource as Read, Severity, read},
};
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use kube::{
    Api, Client, Config,
    api::{ListParams, Patch, PatchParams, PostParams},
    config::KubeConfigOptions,
};
use respond::plan::Plan;

use crate::{
    Shared,
    exit::{Ended, Exit},
    render::{Column, Fit, Table, Window, write_out},
};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// The namespace of the incident; all of them when absent.
    #[arg(short, long, global = true)]
    namespace: Option<String>,
    /// Another context of the kubeconfig.
    #[arg(long, global = true)]
    context: Option<String>,
    /// Which kubeconfig.
    #[arg(long, global = true, env = "KUBECONFIG")]
    kubeconfig: Option<PathBuf>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Incidents, those that wait for a person first.
    Triage {
        /// Also those that are over.
        #[arg(short, long)]
        all: bool,
    },
    /// Everything about one incident: what happened, what was done, what is asked.
    Show {
        /// Its name, or an unambiguous beginning.
        incident: String,
    },
    /// What a playbook in a file would do here: checked, and tried on the API server without changing anything.
    Plan {
        /// The file.
        file: PathBuf,
    },
    /// Say yes to what waits.
    Approve(Decision),
    /// Say no to what waits.
    Deny(Decision),
    /// Undo one action, or everything of an incident that is in force.
    Revert {
        /// A ResponseAction or an incident.
        name: String,
        /// Why.
        #[arg(short = 'm', long, default_value = "")]
        because: String,
    },
    /// What happened when, of one incident.
    Timeline {
        /// Its name, or an unambiguous beginning.
        incident: String,
    },
}

#[derive(clap::Args)]
struct Decision {
    /// An Approval, or an incident: then everything of it that waits.
    name: String,
    /// Why.
    #[arg(short = 'm', long, default_value = "")]
    because: String,
}

/// The API server, as the caller.
struct Cluster {
    client: Client,
    namespace: Option<String>,
}

pub(crate) async fn run(_: &Shared, options: Options) -> Result<Exit> {
    let cluster = Cluster::reach(&options).await?;
    let window = Window::of_stdout();
    match options.verb {
        Verb::Triage { all } => show::triage(&cluster, all, window).await,
        Verb::Show { incident } => show::incident(&cluster, &incident, window).await,
        Verb::Timeline { incident } => show::timeline(&cluster, &incident, window).await,
        Verb::Plan { file } => plan(&cluster, &file, window).await,
        Verb::Approve(decision) => act::decide(&cluster, &decision, "Approve").await,
        Verb::Deny(decision) => act::decide(&cluster, &decision, "Deny").await,
        Verb::Revert { name, because } => act::revert(&cluster, &name, &because).await,
    }
}

impl Cluster {
    async fn reach(options: &Options) -> Result<Self> {
        let choice = KubeConfigOptions { context: options.context.clone(), ..KubeConfigOptions::default() };
        let config = match &options.kubeconfig {
            Some(path) => {
                let kubeconfig = kube::config::Kubeconfig::read_from(path)
                    .with_context(|| format!("read {}", path.display()))?;
                Config::from_custom_kubeconfig(kubeconfig, &choice).await
            }
            None => Config::from_kubeconfig(&choice).await,
        }
        .context("read the kubeconfig")?;
        let client = Client::try_from(config).context("make a client of the API server")?;
        Ok(Self { client, namespace: options.namespace.clone() })
    }

    /// Resources of a kind, in the chosen namespace or in all.
    fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        match &self.namespace {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        }
    }

    async fn all<K>(&self) -> Result<Vec<K>>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + serde::de::DeserializeOwned,
        K::DynamicType: Default,
    {
        Ok(self.api::<K>().list(&ListParams::default()).await.map_err(refused)?.items)
    }

    /// Who the API server knows the caller as: a word is only taken under that name.
    async fn me(&self) -> Result<String> {
        let api: Api<SelfSubjectReview> = Api::all(self.client.clone());
        let review =
            api.create(&PostParams::default(), &SelfSubjectReview::default()).await.map_err(refused)?;
        let user = review.status.and_then(|status| status.user_info);
        user.and_then(|user| user.username).context("the API server does not say who you are")
    }
}

/// An answer of the API server with its exit code.
fn refused(error: kube::Error) -> anyhow::Error {
    match &error {
        kube::Error::Api(status) => {
            let exit = match status.code {
                401 | 403 => Exit::Forbidden,
                404 => Exit::Unknown,
                409 | 422 => Exit::Conflict,
                _ => Exit::Bad,
            };
            Ended::with(exit, status.message.clone())
        }
        _ => Ended::with(Exit::Unreachable, format!("the API server cannot be reached: {error}")),
    }
}

async fn plan(cluster: &Cluster, file: &std::path::Path, window: Window) -> Result<Exit> {
    let text = std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    let reading = read(&file.display().to_string(), &text);
    let mut problems: Vec<String> = reading
        .problems
        .iter()
        .filter(|one| one.severity == Severity::Error)
        .map(ToString::to_string)
        .collect();
    let mut out = String::new();
    let api: Api<Playbook> = Api::all(cluster.client.clone());
    for resource in reading.resources {
        let Read::Playbook(playbook) = resource else { continue };
        let name = playbook.value.metadata.name.clone().unwrap_or_default();
        let checked = Plan::check(&playbook, &BTreeSet::new());
        problems.extend(
            checked.problems.iter().filter(|one| one.severity == Severity::Error).map(ToString::to_string),
        );
        let params = PatchParams::apply("kubectl-hemostat").force().dry_run();
        if let Err(error) = api.patch(&name, &params, &Patch::Apply(&playbook.value)).await {
            problems.push(format!("{name}: the API server: {error}"));
        }
        let Some(plan) = checked.plan else { continue };
        out.push_str(&format!("{name}: mode {:?}\n", plan.spec().mode));
        let mut table = Table::new(vec![
            Column { heading: "STEP", fit: Fit::Keep },
            Column { heading: "ACTION", fit: Fit::Keep },
            Column { heading: "NEEDS", fit: Fit::Shrink(8) },
            Column { heading: "ASKS", fit: Fit::Keep },
            Column { heading: "ON FAILURE", fit: Fit::Drop(1) },
        ]);
        for step in &plan.spec().steps {
            let kind = respond::action::ActionKind::named(&step.action.0);
            let purpose = kind.map(|kind| format!("{:?}", kind.purpose())).unwrap_or_default();
            let asks = if step.approval == crds::Approval::Required { "always".into() } else { purpose };
            table.row([
                step.name.clone(),
                step.action.0.clone(),
                step.needs.join(" "),
                asks,
                format!("{:?}", step.on_failure),
            ]);
        }
        out.push_str(&table.render(window));
    }
    write_out(&out)?;
    if problems.is_empty() {
        return Ok(Exit::Good);
    }
    Err(Ended::with(Exit::Bad, problems.join("\n")))
}
