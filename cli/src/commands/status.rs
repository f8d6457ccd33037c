//! `hemostat status`.

use anyhow::Result;
use controller::api::{Condition, LinkView, Status};

use super::{client, now, refused};
use crate::{
    Shared,
    exit::Exit,
    render::{self, Window, age, status_page},
};

pub(crate) async fn run(shared: &Shared) -> Result<Exit> {
    let status = client(shared).status().await.map_err(refused)?;
    render::print(shared.output, &status, |window| page(&status, window))?;
    let degraded = status.health.condition == Condition::Degraded
        || status.nodes.iter().any(|node| node.status.as_ref().is_some_and(|said| !said.degraded.is_empty()));
    Ok(if degraded { Exit::Bad } else { Exit::Good })
}

fn page(status: &Status, window: Window) -> String {
    let now = now();
    let mut out = format!(
        "controller {} · up {} · {} open incidents · {} approvals waiting · {} actions in force · {} playbooks\n",
        status.version,
        age(status.started, now),
        status.open_incidents,
        status.approvals_waiting,
        status.actions_in_force,
        status.playbooks,
    );
    for problem in &status.health.problems {
        out.push_str(&format!("DEGRADED: {}: {}\n", problem.part, problem.what));
    }
    for node in status.nodes.iter().filter(|node| node.link == LinkView::Down) {
        out.push_str(&format!(
            "DEGRADED: node {}: its link is down, {} commands wait\n",
            node.node, node.commands_waiting
        ));
    }
    out.push('\n');
    let said: Vec<_> = status.nodes.iter().filter_map(|node| node.status.as_deref().cloned()).collect();
    out.push_str(&status_page(&said, now, window));
    out
}
