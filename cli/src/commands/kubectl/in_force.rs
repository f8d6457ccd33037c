//! `kubectl hemostat in-force`: what would stay behind if Hemostat were removed now. The chart asks it before it is uninstalled.

use std::time::{Duration, Instant};

use anyhow::Result;
use crds::response_action::{Ending, FINALIZER, ResponseAction};
use kube::{
    Api, ResourceExt as _,
    api::{Patch, PatchParams},
};
use model::ActionState;
use serde_json::json;

use super::Cluster;
use crate::{
    exit::{Ended, Exit},
    render::{Column, Fit, Table, Window, write_out},
};

/// How often is looked whether what was asked for is undone.
const LOOK: Duration = Duration::from_secs(1);

#[derive(clap::Args)]
pub(super) struct Options {
    /// Undo all of it, and wait until it is undone.
    #[arg(long)]
    revert: bool,
    /// How long that is waited for, in seconds.
    #[arg(long, default_value_t = 300, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    wait: u64,
    /// Why, with --revert.
    #[arg(short = 'm', long, default_value = "Hemostat is removed")]
    because: String,
}

/// Says what is in force; that is a no (exit code 6).
pub(super) async fn in_force(cluster: &Cluster, options: &Options, window: Window) -> Result<Exit> {
    let mut left = found(cluster).await?;
    if left.is_empty() {
        write_out("nothing is in force\n")?;
        return Ok(Exit::Good);
    }
    write_out(&page(&left, window))?;
    let advice =
        "undo it (kubectl hemostat in-force --revert, or revert NAME) or accept it (spec.end.how: Accept)";
    if !options.revert {
        return Err(Ended::with(Exit::Conflict, format!("{} actions are in force: {advice}", left.len())));
    }
    let me = cluster.me().await?;
    for action in left.iter().filter(|one| one.spec.end.as_ref().is_none_or(|end| end.how != Ending::Revert))
    {
        let api: Api<ResponseAction> =
            Api::namespaced(cluster.client.clone(), &action.namespace().unwrap_or_default());
        let patch = json!({"spec": {"end": {"how": "Revert", "by": me, "reason": options.because}}});
        match api.patch(&action.name_any(), &PatchParams::default(), &Patch::Merge(&patch)).await {
            // It is undone and gone meanwhile.
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            other => drop(other.map_err(|error| cluster.refused(error))?),
        }
    }
    let until = Instant::now() + Duration::from_secs(options.wait);
    loop {
        left = found(cluster).await?;
        if left.is_empty() {
            write_out("all of it is undone\n")?;
            return Ok(Exit::Good);
        }
        if Instant::now() >= until {
            write_out(&page(&left, window))?;
            let message = format!(
                "{} actions are still in force after {} s: is the controller at work, and does something block an undo?",
                left.len(),
                options.wait
            );
            return Err(Ended::with(Exit::Conflict, message));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Actions whose finalizer stands for something in force. None where the resources are not there at all.
async fn found(cluster: &Cluster) -> Result<Vec<ResponseAction>> {
    let all: Vec<ResponseAction> = match cluster.all().await {
        Ok(all) => all,
        Err(error) if error.downcast_ref::<Ended>().is_some_and(|ended| ended.exit == Exit::Unknown) => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(error),
    };
    let settled = |one: &ResponseAction| {
        let state = one.status.as_ref().map(|status| status.state);
        matches!(state, Some(ActionState::Reverted | ActionState::Vacuous | ActionState::Failed))
    };
    let accepted = |one: &ResponseAction| one.spec.end.as_ref().is_some_and(|end| end.how == Ending::Accept);
    let held = |one: &ResponseAction| one.finalizers().iter().any(|name| name == FINALIZER);
    Ok(all.into_iter().filter(|one| held(one) && !settled(one) && !accepted(one)).collect())
}

fn page(actions: &[ResponseAction], window: Window) -> String {
    let mut table = Table::new(vec![
        Column { heading: "NAMESPACE", fit: Fit::Keep },
        Column { heading: "NAME", fit: Fit::Shrink(16) },
        Column { heading: "ACTION", fit: Fit::Keep },
        Column { heading: "STATE", fit: Fit::Keep },
        Column { heading: "TARGET", fit: Fit::Drop(1) },
    ]);
    for one in actions {
        let status = one.status.as_ref();
        table.row([
            one.namespace().unwrap_or_default(),
            one.name_any(),
            one.spec.plan.action.0.clone(),
            status.map(|status| format!("{:?}", status.state)).unwrap_or_default(),
            status.map(|status| status.target.clone()).unwrap_or_default(),
        ]);
    }
    table.render(window)
}
