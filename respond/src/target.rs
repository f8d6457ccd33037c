//! From "the incident's process" to the one certain thing that an action touches (I9), never one that is protected or wider
//! than declared (I6).

mod object;

pub(crate) use object::protected_namespace;

use crds::{BlastRadius, Network, Parameters, Protected, Radius, TargetKind};
use ipnet::IpNet;
use model::{BootNs, CgroupId, ClusterAction, INIT_PID, NodeAction, Pid, ProcessKey, Target, system_names};
use serde_json::Value;

use crate::{
    action,
    expression::{EvaluationError, Expression, Variables},
    facts::{Facts, KernelThread, Subject},
    plan::Way,
    run::{Grants, Work},
};

/// Why an action cannot be done to what it was meant for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// There is not one certain thing (I9).
    #[error("no certain {kind}: {because}")]
    Unresolved {
        /// What was looked for.
        kind: &'static str,
        /// Why it is not certain.
        because: String,
    },
    /// Never touched (I6).
    #[error("{target} is protected: {because}")]
    Protected {
        /// Which.
        target: String,
        /// By what.
        because: String,
    },
    /// Wider than declared (I6).
    #[error("{what} is wider than allowed: {because}")]
    TooWide {
        /// Which.
        what: String,
        /// By what.
        because: String,
    },
    /// A parameter or selector has no value that fits.
    #[error(transparent)]
    Evaluation(#[from] EvaluationError),
}

/// cgroups that a node cannot do without, wherever their name stands in a path. The agent holds the same list and more.
const PROTECTED_UNITS: [&str; 14] = [
    "init.scope",
    "kubelet.service",
    "containerd.service",
    "crio.service",
    "docker.service",
    "ssh.service",
    "sshd.service",
    "dbus.service",
    "systemd-journald.service",
    "systemd-logind.service",
    "systemd-networkd.service",
    "systemd-resolved.service",
    "systemd-udevd.service",
    "hemostat.service",
];
/// Files below these belong to the whole machine, not to one workload.
const PROTECTED_PATHS: [&str; 10] =
    ["/bin", "/sbin", "/lib", "/lib64", "/usr", "/boot", "/etc", "/proc", "/sys", "/dev"];

/// The action and the one thing that it is done to.
///
/// # Errors
/// Why it must not or cannot be done.
pub(crate) fn resolve(
    way: &Way,
    facts: &Facts,
    variables: &Variables,
    limits: &BlastRadius,
    grants: &Grants,
) -> Result<Work, Unfit> {
    let target = target(way, facts, variables)?;
    let with = parameters(way, facts, variables)?;
    let mut action = action::build(way.kind, way.target, &with).ok_or_else(|| Unfit::Unresolved {
        kind: way.kind.needs(),
        because: "neither the step nor the finding names one".into(),
    })?;
    if let (NodeAction::Cluster(ClusterAction::RestoreObject(known)), Target::Object(object)) =
        (&mut action, &target)
    {
        *known = object::restoration(&facts.subject, object);
    }
    check_protected(&action, &target, facts, &grants.protected)?;
    let widest = limits.widest.min(grants.widest);
    let radius = action::radius(&action, &target);
    if radius > widest {
        let because = format!("it touches a {radius}, allowed is a {widest}");
        return Err(Unfit::TooWide { what: action::describe(&action, &target), because });
    }
    if let NodeAction::BlockDestination(block) = &action {
        check_width(block.destination, limits)?;
        check_network(block.destination, &grants.protected)?;
    }
    Ok(Work { action, target })
}

/// Whether a network may be blocked.
///
/// # Errors
/// When its prefix is shorter than allowed.
pub(crate) fn check_width(network: IpNet, limits: &BlastRadius) -> Result<(), Unfit> {
    let shortest = match network {
        IpNet::V4(_) => limits.shortest_prefix_v4,
        IpNet::V6(_) => limits.shortest_prefix_v6,
    };
    if network.prefix_len() < shortest {
        let because = format!("the shortest prefix allowed by blastRadius is /{shortest}");
        return Err(Unfit::TooWide { what: network.to_string(), because });
    }
    Ok(())
}

fn check_network(network: IpNet, protected: &Protected) -> Result<(), Unfit> {
    let refuse = |because: String| Err(Unfit::Protected { target: network.to_string(), because });
    if network.addr().is_unspecified() || network.addr().is_multicast() {
        return refuse("it is no address of one peer".into());
    }
    for Network(kept) in &protected.networks {
        if kept.contains(&network) || network.contains(kept) {
            return refuse(format!("a policy protects {kept}"));
        }
    }
    Ok(())
}

fn target(way: &Way, facts: &Facts, variables: &Variables) -> Result<Target, Unfit> {
    let subject = &facts.subject;
    let selected = way.select.as_ref().map(|select| Ok::<_, Unfit>((select, select.evaluate(variables)?)));
    let unresolved = |kind: &'static str, because: &str| Unfit::Unresolved { kind, because: because.into() };
    let selected = selected.transpose()?;
    let of_cluster = selected.as_ref().map(|(select, found)| (*select, found));
    if let Some(target) = object::target(way, subject, of_cluster) {
        return target;
    }
    match (way.target, selected) {
        (TargetKind::Process, None) => subject
            .process
            .map(|process| Target::Process { process })
            .ok_or_else(|| unresolved("process", "the finding does not name pid and start time")),
        (TargetKind::Cgroup, None) => subject
            .cgroup
            .clone()
            .map(|(id, path)| Target::Cgroup { id, path })
            .ok_or_else(|| unresolved("cgroup", "the process's cgroup could not be resolved")),
        (TargetKind::File, None) => subject
            .executable
            .clone()
            .map(|(path, inode, device)| Target::File { path, inode, device })
            .ok_or_else(|| unresolved("file", "the executable has no name in the host's own file system")),
        (TargetKind::Process, Some((select, found))) => {
            match (number(&found, "pid"), number(&found, "start")) {
                (Some(pid), Some(start)) if pid > 0 && start > 0 => {
                    let pid = u32::try_from(pid).map_err(|_| unresolved("process", "the pid is no pid"))?;
                    Ok(Target::Process { process: ProcessKey { pid: Pid(pid), start: BootNs(start) } })
                }
                _ => Err(select.kind("one process as {pid, start}", &found).into()),
            }
        }
        (TargetKind::Cgroup, Some((select, found))) => match (number(&found, "id"), text(&found, "path")) {
            (Some(id), Some(path)) if id > 0 => Ok(Target::Cgroup { id: CgroupId(id), path: path.into() }),
            _ => Err(select.kind("one cgroup as {id, path}", &found).into()),
        },
        (TargetKind::File, Some((select, found))) => {
            match (text(&found, "path"), number(&found, "inode"), number(&found, "device")) {
                (Some(path), Some(inode), Some(device)) if inode > 0 => {
                    Ok(Target::File { path: path.into(), inode, device })
                }
                _ => Err(select.kind("one file as {path, inode, device}", &found).into()),
            }
        }
        (other, _) => Err(unresolved("target", &format!("nothing on a node is a {other}"))),
    }
}

fn number(found: &Value, key: &str) -> Option<u64> {
    found.get(key)?.as_u64()
}

fn text<'a>(found: &'a Value, key: &str) -> Option<&'a str> {
    found.get(key)?.as_str()
}

fn parameters(way: &Way, facts: &Facts, variables: &Variables) -> Result<Parameters, Unfit> {
    let mut with = way.with.clone();
    if let Some(expression) = &way.destination_from {
        with.destination = Some(network(expression, &expression.evaluate(variables)?)?);
    }
    if with.destination.is_none() {
        with.destination = facts.subject.destination.map(|addr| Network(addr.into()));
    }
    if let Some(expression) = &way.port_from {
        let found = expression.evaluate(variables)?;
        let port = found.as_u64().and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0);
        with.port = Some(port.ok_or_else(|| expression.kind("a port from 1 to 65535", &found))?);
    }
    if let Some(expression) = &way.image_from {
        with.image = Some(short_text(expression, &expression.evaluate(variables)?, 512)?);
    }
    if with.image.is_none() {
        with.image.clone_from(&facts.subject.image);
    }
    if let Some(expression) = &way.message_from {
        with.message = Some(short_text(expression, &expression.evaluate(variables)?, 2048)?);
    }
    if let Some(expression) = &way.allow_from {
        let found = expression.evaluate(variables)?;
        let list = found.as_array().ok_or_else(|| expression.kind("a list of networks", &found))?;
        with.allow = Some(list.iter().map(|entry| network(expression, entry)).collect::<Result<_, _>>()?);
    }
    Ok(with)
}

fn short_text(expression: &Expression, found: &Value, most: usize) -> Result<String, EvaluationError> {
    let text = found.as_str().filter(|text| !text.is_empty() && text.len() <= most);
    text.map(str::to_owned).ok_or_else(|| expression.kind("a text that is not too long", found))
}

fn network(expression: &Expression, found: &Value) -> Result<Network, EvaluationError> {
    found
        .as_str()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| expression.kind("an address or network", found))
}

fn check_protected(
    action: &NodeAction,
    target: &Target,
    facts: &Facts,
    protected: &Protected,
) -> Result<(), Unfit> {
    let refuse = |because: String| Err(Unfit::Protected { target: target.to_string(), because });
    match target {
        Target::Process { process } => {
            if process.pid == INIT_PID {
                return refuse("it is pid 1".into());
            }
            let subject = &facts.subject;
            let known = subject.process == Some(*process);
            if process.pid.0 == 2 || (known && subject.kernel_thread == KernelThread::Yes) {
                return refuse("it is a kernel thread".into());
            }
            if known && let Some(because) = protected_pod(subject, protected) {
                return refuse(because);
            }
            if known && let Some((_, path)) = &subject.cgroup {
                if let Some(because) = protected_cgroup(path, protected, Contains::Nothing) {
                    return refuse(because);
                }
                if matches!(action, NodeAction::Freeze(model::FreezeScope::Cgroup))
                    && let Some(because) = protected_cgroup(path, protected, Contains::Everything)
                {
                    return refuse(because);
                }
            }
            Ok(())
        }
        Target::Cgroup { path, .. } => {
            let of_the_pod =
                facts.subject.cgroup.as_ref().is_some_and(|(_, of)| below(of, path) || below(path, of));
            let pod = of_the_pod.then(|| protected_pod(&facts.subject, protected)).flatten();
            match pod.or_else(|| protected_cgroup(path, protected, Contains::Everything)) {
                Some(because) => refuse(because),
                None => Ok(()),
            }
        }
        Target::File { path, .. } => {
            if !path.starts_with('/') || path.split('/').any(|part| part == "..") {
                return refuse("its path is not absolute and plain".into());
            }
            let kept = PROTECTED_PATHS.into_iter().chain(protected.paths.iter().map(String::as_str));
            match kept.into_iter().find(|kept| below(path, kept)) {
                Some(kept) => refuse(format!("everything below {kept} is")),
                None => Ok(()),
            }
        }
        Target::Object(object) => match object::protected_object(object, protected) {
            Some(because) => refuse(because),
            None => Ok(()),
        },
        Target::Account(account) => match object::protected_account(account, protected) {
            Some(because) => refuse(because),
            None => Ok(()),
        },
        Target::Channel { .. } => Ok(()),
    }
}

/// Whether an action covers all that is below its cgroup.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Contains {
    Nothing,
    Everything,
}

/// Why what runs in the pod must not be touched (I6): a node knows no namespaces, so it is asked here.
fn protected_pod(subject: &Subject, protected: &Protected) -> Option<String> {
    let namespace = subject.pod.as_ref()?.namespace.as_ref()?;
    object::protected_namespace(namespace, protected)
}

fn protected_cgroup(path: &str, protected: &Protected, contains: Contains) -> Option<String> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    if !path.starts_with('/') || parts.contains(&"..") {
        return Some("its path is not absolute and plain".into());
    }
    let units = PROTECTED_UNITS.into_iter().chain(protected.units.iter().map(String::as_str));
    if let Some(unit) = units.into_iter().find(|unit| system_names(path).any(|name| name == *unit)) {
        return Some(format!("{unit} is"));
    }
    if let Some(kept) = protected.cgroup_paths.iter().find(|kept| below(path, kept)) {
        return Some(format!("a policy protects {kept}"));
    }
    if contains == Contains::Nothing {
        return None;
    }
    // the root, and slices that hold many workloads
    let holds_many = match parts.as_slice() {
        [] => true,
        [only] => only.ends_with(".slice") || *only == "kubepods",
        [.., last] => {
            last.starts_with("kubepods-besteffort.slice")
                || last.starts_with("kubepods-burstable.slice")
                || (parts[0] == "kubepods" && parts.len() == 2 && !last.starts_with("pod"))
        }
    };
    if holds_many {
        return Some("it holds many workloads".into());
    }
    let inside = protected.cgroup_paths.iter().find(|kept| below(kept, path));
    inside.map(|kept| format!("it holds {kept}, which a policy protects"))
}

/// Whether `path` is `folder` or something below it.
pub(crate) fn below(path: &str, folder: &str) -> bool {
    let folder = folder.trim_end_matches('/');
    path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Reads [`Radius`] so that the widest of several limits is the narrowest of them.
#[must_use]
pub(crate) fn narrowest(limits: impl IntoIterator<Item = Option<Radius>>) -> Radius {
    limits.into_iter().flatten().min().unwrap_or(Radius::Workload)
}
