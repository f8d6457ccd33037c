//! `kubectl hemostat`: triage, answers and undo through the API server, with the rights and under the name of whoever calls it. It needs no
//! socket and no node: only the custom resources. Installed as `kubectl-hemostat` (a link to this program), kubectl finds it by itself.

mod act;
mod in_force;
mod leader;
mod named;
mod narrative;
mod plan;
mod show;

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Subcommand;
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use kube::{
    Api, Client, Config,
    api::{ListParams, PostParams},
    config::KubeConfigOptions,
};

use super::incidents::Form;
use crate::{
    Shared,
    exit::{Ended, Exit},
    render::Window,
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
    #[arg(long, global = true)]
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
        /// The whole story as one document from which to decide: a page with pictures, Markdown for a ticket, or JSON. It is kept of
        /// incidents that need a person.
        #[arg(long, value_enum, value_name = "FORM")]
        narrative: Option<Form>,
    },
    /// What the playbooks of a file would do here: checked, tried on the API server without a change, and compared with its policies and
    /// with the actions that the controller may do.
    Plan {
        /// The file.
        file: PathBuf,
    },
    /// Say yes to what waits.
    Approve(Decision),
    /// Say no to what waits.
    Deny(Decision),
    /// Say what an incident was. A false positive undoes everything that can be undone; either word teaches the gate.
    Verdict {
        /// Its name, or an unambiguous beginning.
        incident: String,
        /// What it was.
        #[arg(value_enum)]
        is: Judgement,
        /// Why.
        #[arg(short = 'm', long, default_value = "")]
        because: String,
    },
    /// Undo one action, or everything of an incident that is in force.
    Revert {
        /// A ResponseAction or an incident.
        name: String,
        /// Why.
        #[arg(short = 'm', long, default_value = "")]
        because: String,
    },
    /// What is in force in the whole cluster; if anything is, the exit code is 6. Ask it before Hemostat is removed.
    InForce(in_force::Options),
    /// Ask the controller that leads what the API server does not tell: pause and resume, policy, trust, playbook, status, audit, each with the
    /// words of `hemostat`. It goes by `kubectl exec`; -n is Hemostat's own namespace (hemostat-system).
    Leader {
        /// The command and its words, for example `policy explain inc-7f3a9c21`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true, value_name = "WORD")]
        words: Vec<String>,
    },
    /// What happened when, of one incident.
    Timeline {
        /// Its name, or an unambiguous beginning.
        incident: String,
    },
}

/// What an incident was.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Judgement {
    /// An attack.
    TruePositive,
    /// None: everything is undone.
    FalsePositive,
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
        Verb::Show { incident, narrative: None } => show::incident(&cluster, &incident, window).await,
        Verb::Show { incident, narrative: Some(form) } => narrative::show(&cluster, &incident, form).await,
        Verb::Timeline { incident } => show::timeline(&cluster, &incident, window).await,
        Verb::Plan { file } => plan::plan(&cluster, &file, window).await,
        Verb::Approve(decision) => act::decide(&cluster, &decision, "Approve").await,
        Verb::Deny(decision) => act::decide(&cluster, &decision, "Deny").await,
        Verb::Verdict { incident, is, because } => act::judge(&cluster, &incident, is, &because).await,
        Verb::InForce(options) => in_force::in_force(&cluster, &options, window).await,
        Verb::Leader { words } => {
            let place = leader::Place {
                kubeconfig: options.kubeconfig.as_deref(),
                context: options.context.as_deref(),
            };
            leader::ask(&cluster, &place, &words).await
        }
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
                Config::from_custom_kubeconfig(kubeconfig, &choice).await.context("use the kubeconfig")?
            }
            // By its service account: the chart asks so before it is removed.
            None if is_in_a_pod() => Config::incluster().context("use the pod's service account")?,
            // `KUBECONFIG` may name several files.
            None => Config::from_kubeconfig(&choice).await.context("read the kubeconfig")?,
        };
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
        Ok(self.api::<K>().list(&ListParams::default()).await.map_err(|error| self.refused(error))?.items)
    }

    /// Who the API server knows the caller as: a word is only taken under that name.
    async fn me(&self) -> Result<String> {
        self.me_and_groups().await.map(|(name, _)| name)
    }

    /// The name and the groups by which the API server knows who asks.
    async fn me_and_groups(&self) -> Result<(String, Vec<String>)> {
        let api: Api<SelfSubjectReview> = Api::all(self.client.clone());
        let review = api.create(&PostParams::default(), &SelfSubjectReview::default()).await;
        let review = review.map_err(|error| self.refused(error))?;
        let user = review.status.and_then(|status| status.user_info);
        let user = user.context("the API server does not say who you are")?;
        let name = user.username.context("the API server does not say who you are")?;
        Ok((name, user.groups.unwrap_or_default()))
    }

    /// An answer of the API server with its exit code, and with what helps.
    fn refused(&self, error: kube::Error) -> anyhow::Error {
        match &error {
            kube::Error::Api(status) => {
                let (exit, help) = match status.code {
                    401 => (Exit::Forbidden, ": does the kubeconfig name a user whom this cluster knows?"),
                    403 if self.namespace.is_none() && status.message.contains("at the cluster scope") => {
                        (Exit::Forbidden, ": with -n NAMESPACE only that one is asked about")
                    }
                    403 => (Exit::Forbidden, ""),
                    // Names are checked before: what is missing is the kind.
                    404 => (Exit::Unknown, ": is Hemostat installed in this cluster?"),
                    409 => (Exit::Conflict, ""),
                    // What the schema says no to: because of what stands there already, or because of what was given.
                    422 if ["cannot be", "stays", "is over"]
                        .iter()
                        .any(|word| status.message.contains(word)) =>
                    {
                        (Exit::Conflict, "")
                    }
                    422 if status.message.contains("nobody decides") => (Exit::Forbidden, ""),
                    422 => (Exit::Usage, ""),
                    _ => (Exit::Bad, ""),
                };
                Ended::with(exit, format!("{}{help}", said(status)))
            }
            _ => {
                let message = format!("the API server cannot be reached: {error}");
                Ended::with(Exit::Unreachable, message)
            }
        }
    }
}

/// What the API server says; of a schema only the fields and what is wrong with them.
fn said(status: &kube::core::Status) -> String {
    let causes: Vec<String> = status
        .details
        .iter()
        .flat_map(|details| &details.causes)
        .filter(|_| status.code == 422)
        .map(|cause| {
            // `Invalid value: "…": what is wrong`: the value may be long, and whoever reads this gave it.
            let message =
                cause.message.rsplit_once("\": ").map_or(cause.message.as_str(), |(_, message)| message);
            let message = message.strip_prefix("Invalid value: ").unwrap_or(message);
            if cause.field.is_empty() { message.to_owned() } else { format!("{}: {message}", cause.field) }
        })
        .collect();
    match causes.as_slice() {
        [] => status.message.trim_end().to_owned(),
        causes => format!("refused: {}", causes.join("; ")),
    }
}

/// Where no kubeconfig is named and Kubernetes says where it is itself.
fn is_in_a_pod() -> bool {
    let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    is_set("KUBERNETES_SERVICE_HOST") && !is_set("KUBECONFIG")
}
