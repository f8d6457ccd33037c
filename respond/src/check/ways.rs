//! A step's action and its alternatives: known, with parameters that fit, and no wider than allowed.

use std::collections::BTreeSet;

use crds::{ActionName, Radius, Scope, Step, TargetKind, nearest};

use super::Check;
use crate::{
    action::{ActionKind, ClusterKind, given, radius_of_kind},
    plan::{Way, Written, written},
    target,
};

/// The ways that could be compiled.
pub(super) fn ways(check: &mut Check<'_>, step: &Step, path: &str, ancestors: &BTreeSet<usize>) -> Vec<Way> {
    written(step, path).iter().filter_map(|way| one(check, way, ancestors)).collect()
}

fn one(check: &mut Check<'_>, way: &Written<'_>, ancestors: &BTreeSet<usize>) -> Option<Way> {
    let path = way.path.as_str();
    let mut cel = |cel: &Option<crds::Cel>, field: &str| {
        cel.as_ref().and_then(|cel| check.cel(cel, &format!("{path}.{field}"), ancestors))
    };
    let select = cel(&way.target.and_then(|target| target.select.clone()), "target.select");
    let allow_from = cel(&way.from.allow, "withFrom.allow");
    let destination_from = cel(&way.from.destination, "withFrom.destination");
    let port_from = cel(&way.from.port, "withFrom.port");
    let image_from = cel(&way.from.image, "withFrom.image");
    let message_from = cel(&way.from.message, "withFrom.message");
    let Some(kind) = ActionKind::named(way.action) else {
        let message = format!("unknown action `{}`; there are {}", way.action, ActionName::KNOWN.join(", "));
        let help = nearest(way.action, ActionName::KNOWN).map(|n| format!("did you mean `{n}`?"));
        check.error_with(&format!("{path}.action"), message, help);
        return None;
    };
    let target = way.target.map_or(kind.targets()[0], |target| target.kind);
    if !kind.targets().contains(&target) {
        let kinds: Vec<String> = kind.targets().iter().map(ToString::to_string).collect();
        let message = format!("{} is done to {}, not to a {target}", kind.name(), kinds.join(" or "));
        check.error(&format!("{path}.target.kind"), message);
    }
    parameters(check, kind, way);
    required(check, kind, way);
    radius(check, kind, target, way);
    Some(Way {
        kind,
        target,
        select,
        with: way.with.clone(),
        allow_from,
        destination_from,
        port_from,
        image_from,
        message_from,
    })
}

fn parameters(check: &mut Check<'_>, kind: ActionKind, way: &Written<'_>) {
    let path = way.path.as_str();
    let from = [
        ("allow", way.from.allow.is_some()),
        ("destination", way.from.destination.is_some()),
        ("port", way.from.port.is_some()),
        ("image", way.from.image.is_some()),
        ("message", way.from.message.is_some()),
    ];
    let computed: Vec<&str> = from.into_iter().filter_map(|(name, given)| given.then_some(name)).collect();
    let takes = match kind.parameters() {
        [] => "takes no parameters".into(),
        names => format!("takes {}", names.join(", ")),
    };
    let stated = given(way.with);
    for (names, field) in [(&stated, "with"), (&computed, "withFrom")] {
        for name in names.iter().filter(|name| !kind.parameters().contains(name)) {
            let message = format!("{} has no parameter `{name}`; it {takes}", kind.name());
            check.error(&format!("{path}.{field}.{name}"), message);
        }
    }
    for name in computed.iter().filter(|name| stated.contains(name)) {
        check.error(
            &format!("{path}.withFrom.{name}"),
            format!("`{name}` is given in `with` too: give it once"),
        );
    }
    if let Some(scope) = way.with.scope.filter(|scope| !kind.scopes().contains(scope))
        && !kind.scopes().is_empty()
    {
        let scopes: Vec<String> = kind.scopes().iter().map(ToString::to_string).collect();
        let message = format!("scope of {}: expected {}, found `{scope}`", kind.name(), scopes.join(" or "));
        check.error(&format!("{path}.with.scope"), message);
    }
    if let Some(destination) = way.with.destination
        && let Err(unfit) = target::check_width(destination.0, &check.spec.blast_radius)
    {
        check.error(&format!("{path}.with.destination"), unfit.to_string());
    }
}

/// What an action cannot do without and no incident tells.
fn required(check: &mut Check<'_>, kind: ActionKind, way: &Written<'_>) {
    let (name, given) = match kind {
        ActionKind::Cluster(ClusterKind::Label) => ("labels", way.with.labels.is_some()),
        ActionKind::Cluster(ClusterKind::Notify) => ("channel", way.with.channel.is_some()),
        _ => return,
    };
    if !given {
        check.error(&format!("{}.with", way.path), format!("{} needs `{name}`", kind.name()));
    }
}

fn radius(check: &mut Check<'_>, kind: ActionKind, target: TargetKind, way: &Written<'_>) {
    let whole_cgroup = kind == ActionKind::Freeze && way.with.scope == Some(Scope::Cgroup);
    let radius = if whole_cgroup { Radius::Workload } else { radius_of_kind(target) };
    if kind == ActionKind::Freeze && target == TargetKind::Cgroup && way.with.scope == Some(Scope::Subtree) {
        let message = "scope `Subtree` needs a process as its target, not a cgroup";
        check.error(&format!("{}.with.scope", way.path), message.into());
    }
    let widest = check.spec.blast_radius.widest;
    if radius > widest {
        let message = format!("{} touches a {radius}; blastRadius.widest is {widest}", kind.name());
        check.error(&format!("{}.action", way.path), message);
    }
}
