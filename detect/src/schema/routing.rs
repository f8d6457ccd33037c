//! Which events a rule's `logsource` means, and how it calls their fields.

use crate::{
    ast::Logsource,
    diagnostic::nearest,
    schema::{
        Category::{
            self, Authentication, Bpf, CloudTrail, CredentialChange, DnsQuery, DriverLoad, Entra, FileAccess,
            FileDelete, FileEvent, FileLink, FileMode, FileOwner, FileRename, Flow, HubbleFlow, IoUring,
            Keycloak, KubernetesAudit, Memfd, Mount, NamespaceChange, NetworkAccept, NetworkBind,
            NetworkClose, NetworkConnection, NetworkListen, Okta, Pam, ProcessCreation, ProcessFork,
            ProcessTermination, ProcessVmWrite, Ptrace, Sshd, Sudo, VpcFlow,
        },
        CategorySet, Field,
    },
};

/// How a rule calls fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Taxonomy {
    /// Sigma's own names.
    #[default]
    Sigma,
    /// auditd's record fields (`exe`, `a0`, `name`); Sigma's names are understood too.
    Auditd,
}

/// Which events a rule is for. A rule is evaluated on an event if `categories` contains the event's category.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Routing {
    /// Empty: none that this product knows.
    pub categories: CategorySet,
    /// How the rule calls fields.
    pub taxonomy: Taxonomy,
}

/// Whether a rule can fire.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Firing {
    /// Some event could match.
    Can,
    /// None can.
    Cannot {
        /// Why, for the rule's author.
        why: String,
    },
}

/// Which events a `logsource` means; `Err` says why none that this product knows.
pub fn route(logsource: &Logsource) -> Result<Routing, String> {
    let [category, product, service] = [&logsource.category, &logsource.product, &logsource.service]
        .map(|part| part.as_ref().map(|part| part.value.to_ascii_lowercase()));
    match (product.as_deref(), service.as_deref(), category.as_deref()) {
        (None, None, None) => Err("the logsource names neither category, product nor service".into()),
        (Some("kubernetes"), None | Some("audit"), _) => Ok(sigma(&[KubernetesAudit])),
        (Some("okta"), None | Some("okta"), _) => Ok(sigma(&[Okta])),
        (Some("keycloak"), None | Some("keycloak" | "events"), _) => Ok(sigma(&[Keycloak])),
        (Some("azure" | "entra" | "microsoft"), Some("signinlogs" | "signin"), _) => Ok(sigma(&[Entra])),
        (Some("aws"), Some("vpcflow" | "vpc_flow" | "vpcflowlogs"), _) => Ok(sigma(&[VpcFlow])),
        (Some("aws"), Some("cloudtrail"), _) => Ok(sigma(&[CloudTrail])),
        (Some("netflow" | "ipfix"), None | Some("netflow" | "ipfix"), _) => Ok(sigma(&[Flow])),
        (Some("gcp"), Some("vpcflow" | "vpc_flow" | "vpc_flows"), _) => Ok(sigma(&[Flow])),
        (Some("cilium" | "hubble"), None | Some("hubble" | "flow"), _) => Ok(sigma(&[HubbleFlow])),
        (Some("linux") | None, Some("auth" | "authpriv"), _) => Ok(sigma(&[Sshd, Sudo, Pam])),
        (Some("linux") | None, Some("sshd" | "ssh"), _) => Ok(sigma(&[Sshd])),
        (Some("linux") | None, Some("sudo"), _) => Ok(sigma(&[Sudo])),
        (Some("linux") | None, Some("pam" | "su"), _) => Ok(sigma(&[Pam])),
        (Some("linux"), None, Some("authentication")) => Ok(sigma(&[Sshd, Sudo, Pam])),
        (Some("linux") | None, Some("auditd"), _) => {
            Ok(Routing { categories: CategorySet::kernel(), taxonomy: Taxonomy::Auditd })
        }
        (Some("linux") | None, Some("sysmon") | None, Some(category)) => by_category(category),
        (Some("linux"), None, None) => {
            Ok(Routing { categories: CategorySet::kernel(), taxonomy: Taxonomy::Sigma })
        }
        (Some("linux") | None, Some(service), _) => Err(format!(
            "the log of service `{service}` is not among the sources; kernel events, `auditd`, `auth`, `sshd` and `sudo` are"
        )),
        (Some(product), _, _) => {
            let known = "`linux`, `kubernetes`, `okta`, `keycloak`, `azure` (signinlogs), `aws` (vpcflow, cloudtrail), `gcp` (vpcflow), `netflow` and `cilium` are";
            let products =
                ["linux", "kubernetes", "okta", "keycloak", "azure", "aws", "gcp", "netflow", "cilium"];
            let meant = nearest(product, products).map(|meant| format!("; did you mean `{meant}`?"));
            Err(format!(
                "that log of product `{product}` is not among the sources; {known}{}",
                meant.unwrap_or_default()
            ))
        }
    }
}

/// The categories of [`by_category`], for those who misspell one.
const CATEGORIES: [&str; 43] = [
    "process_creation",
    "process_fork",
    "process_termination",
    "process_access",
    "process_tampering",
    "credential_change",
    "namespace_change",
    "file_event",
    "file_change",
    "file_access",
    "file_delete",
    "file_rename",
    "file_link",
    "file_mode",
    "file_owner",
    "network_connection",
    "network_accept",
    "network_bind",
    "network_listen",
    "network_close",
    "firewall",
    "dns",
    "dns_query",
    "driver_load",
    "bpf",
    "ptrace",
    "process_vm_write",
    "memfd_create",
    "mount",
    "io_uring_setup",
    "kubernetes_audit",
    "sshd",
    "sudo",
    "pam",
    "okta",
    "keycloak",
    "entra",
    "authentication",
    "hubble_flow",
    "vpc_flow",
    "flow",
    "network_flow",
    "cloudtrail",
];

fn by_category(name: &str) -> Result<Routing, String> {
    Ok(sigma(match name {
        "process_creation" => &[ProcessCreation],
        "process_fork" => &[ProcessFork],
        "process_termination" => &[ProcessTermination],
        "process_access" => &[Ptrace, ProcessVmWrite],
        "process_tampering" => &[ProcessVmWrite, Ptrace],
        "credential_change" => &[CredentialChange],
        "namespace_change" => &[NamespaceChange],
        // A file comes to stand under a name by writing, by a rename and by a link: writing elsewhere and renaming
        // into place is how editors, package managers and attackers do it.
        "file_event" => &[FileEvent, FileRename, FileLink],
        "file_change" => &[FileEvent, FileMode, FileOwner],
        "file_access" => &[FileAccess, FileEvent],
        "file_delete" => &[FileDelete],
        "file_rename" => &[FileRename],
        "file_link" => &[FileLink],
        "file_mode" => &[FileMode],
        "file_owner" => &[FileOwner],
        "network_connection" => &[NetworkConnection, NetworkAccept],
        "network_accept" => &[NetworkAccept],
        "network_bind" => &[NetworkBind],
        "network_listen" => &[NetworkListen],
        "network_close" => &[NetworkClose],
        "firewall" => &[NetworkConnection, NetworkAccept, HubbleFlow, VpcFlow, Flow],
        "dns" | "dns_query" => &[DnsQuery],
        "driver_load" => &[DriverLoad],
        "bpf" => &[Bpf],
        "ptrace" => &[Ptrace],
        "process_vm_write" => &[ProcessVmWrite],
        "memfd_create" => &[Memfd],
        "mount" => &[Mount],
        "io_uring_setup" => &[IoUring],
        "kubernetes_audit" => &[KubernetesAudit],
        "sshd" => &[Sshd],
        "sudo" => &[Sudo],
        "pam" => &[Pam],
        "okta" => &[Okta],
        "keycloak" => &[Keycloak],
        "entra" => &[Entra],
        "authentication" => &[Sshd, Sudo, Pam, Okta, Keycloak, Entra, Authentication, CloudTrail],
        "hubble_flow" => &[HubbleFlow],
        "vpc_flow" => &[VpcFlow],
        "cloudtrail" => &[CloudTrail],
        "flow" | "network_flow" => &[HubbleFlow, VpcFlow, Flow],
        _ => {
            let meant = nearest(name, CATEGORIES).map(|meant| format!("; did you mean `{meant}`?"));
            return Err(format!("category `{name}` is not among the sources{}", meant.unwrap_or_default()));
        }
    }))
}

fn sigma(categories: &[Category]) -> Routing {
    Routing { categories: CategorySet::of(categories), taxonomy: Taxonomy::Sigma }
}

impl Taxonomy {
    /// The field of a name.
    #[must_use]
    pub fn resolve(self, name: &str) -> Option<Field> {
        let own = match self {
            Self::Sigma => None,
            Self::Auditd => Field::ALL.iter().find(|field| field.spec().auditd.contains(&name)),
        };
        let shared = |name: &str| {
            Field::ALL.iter().find(|field| field.spec().name == name || field.spec().aliases.contains(&name))
        };
        own.or_else(|| shared(name)).or_else(|| shared(&plain_path(name)?)).copied()
    }
}

/// A path into a record's object as the table has it: without marks of lists (`containers[]`, `containers{}`, `containers.0`), and that of a pod
/// template as that of a pod, whose fields hold both.
fn plain_path(name: &str) -> Option<String> {
    if name.len() > 256 || !name.starts_with("requestObject.") {
        return None;
    }
    let plain = name.replace("[]", "").replace("{}", "").replace("[*]", "");
    let parts: Vec<&str> = plain.split('.').filter(|part| part.parse::<u8>().is_err()).collect();
    let path = parts.join(".");
    let of_pod = path.replace("spec.jobTemplate.spec.", "spec.").replace("spec.template.spec.", "spec.");
    let of_pod =
        of_pod.replace(".initContainers.", ".containers.").replace(".ephemeralContainers.", ".containers.");
    (of_pod != name).then_some(of_pod)
}
