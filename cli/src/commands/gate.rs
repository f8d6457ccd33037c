//! What keeps automatic response from beginning, and which policy decides what: pause, resume, policy explain, trust.

use std::path::PathBuf;

use anyhow::Result;
use clap::Subcommand;
use controller::api::{Automatic, Explanation};
use model::{GateOutcome, SignalSays};

use super::{client, incident_id, refused};
use crate::{
    Shared,
    exit::Exit,
    render::{self, Column, Fit, Table, Window, wrapped},
};

#[derive(clap::Args)]
pub(crate) struct Switch {
    /// Why; goes into the audit log.
    #[arg(long, default_value = "")]
    reason: String,
}

#[derive(Subcommand)]
pub(crate) enum PolicyTask {
    /// Which policy decides what about an incident, and what the gate would say now.
    Explain {
        /// The incident, or an unambiguous beginning of its name.
        #[arg(value_parser = incident_id)]
        incident: String,
        /// The playbook; the one that answered the incident when absent.
        #[arg(long)]
        playbook: Option<String>,
    },
    /// How playbooks earn and lose their modes: what they would have done beside what the analysts did, agreement over time, what is proposed.
    Promotion {
        /// The playbook, to see its runs and its patch; all when absent.
        playbook: Option<String>,
        /// Write what is proposed as a change for Git into this file; `-` is standard output.
        #[arg(long, value_name = "FILE", requires = "playbook")]
        patch: Option<PathBuf>,
    },
}

#[derive(Subcommand)]
pub(crate) enum TrustTask {
    /// What was said of a rule or playbook no longer counts, since it was changed: whoever set mode Auto vouches anew.
    BeginAnew {
        /// The rule's id or the playbook's name.
        name: String,
        /// Why; goes into the audit log.
        #[arg(long)]
        reason: String,
    },
}

pub(crate) async fn pause(shared: &Shared, switch: Switch) -> Result<Exit> {
    let said = client(shared).pause(&switch.reason).await.map_err(refused)?;
    tell(shared, &said, "Nothing automatic begins until `hemostat resume`; what is in force stays in force.")
}

pub(crate) async fn resume(shared: &Shared, switch: Switch) -> Result<Exit> {
    let said = client(shared).resume(&switch.reason).await.map_err(refused)?;
    let more =
        if said.paused.is_some() { "" } else { "Runs that were held meanwhile still wait for a person." };
    tell(shared, &said, more)
}

pub(crate) async fn trust(shared: &Shared, task: TrustTask) -> Result<Exit> {
    let TrustTask::BeginAnew { name, reason } = task;
    let said = client(shared).begin_anew(&name, &reason).await.map_err(refused)?;
    tell(shared, &said, "")
}

pub(crate) async fn policy(shared: &Shared, task: PolicyTask) -> Result<Exit> {
    let (incident, playbook) = match task {
        PolicyTask::Explain { incident, playbook } => (incident, playbook),
        PolicyTask::Promotion { playbook, patch } => {
            return super::promotion::run(shared, playbook.as_deref(), patch.as_deref()).await;
        }
    };
    let told = client(shared).explain(&incident, playbook.as_deref()).await.map_err(refused)?;
    render::print(shared.output, &told, |window| page(&told, window))?;
    Ok(Exit::Good)
}

fn tell(shared: &Shared, said: &Automatic, more: &str) -> Result<Exit> {
    render::print(shared.output, said, |_| format!("{}\n{more}", said.what).trim_end().to_owned() + "\n")?;
    Ok(Exit::Good)
}

fn page(told: &Explanation, window: Window) -> String {
    let mut out = format!("playbook {}\n\nPOLICIES\n", told.playbook);
    if told.policies.is_empty() {
        out.push_str("none\n");
    }
    for one in &told.policies {
        out.push_str(&match &one.fails {
            None => format!("{} speaks of it\n", one.policy),
            Some(part) => format!("{} does not: its match.{part} does not fit\n", one.policy),
        });
    }
    out.push_str("\nSETTINGS (of several policies the strictest word holds; none widens the playbook)\n");
    let mut table = Table::new(vec![
        Column { heading: "SETTING", fit: Fit::Keep },
        Column { heading: "HOLDS", fit: Fit::Shrink(12) },
        Column { heading: "BY", fit: Fit::Shrink(12) },
        Column { heading: "OVERRULED", fit: Fit::Drop(1) },
    ]);
    for one in &told.settings {
        table.row([one.setting.clone(), one.value.clone(), one.by.clone(), one.overruled.join(", ")]);
    }
    out.push_str(&table.render(window));
    let says = match told.outcome {
        GateOutcome::Automatic => "would act by itself",
        GateOutcome::Approval => "would ask a person",
        GateOutcome::Shadow => "would only record",
    };
    out.push_str(&format!("\nTHE GATE now {says}\n"));
    for signal in &told.signals {
        let says = match signal.says {
            SignalSays::Act => "lets it act",
            SignalSays::Ask => "asks",
        };
        let numbers = match (signal.found, signal.needed) {
            (Some(found), Some(needed)) => format!(" {found} of {needed}"),
            _ => String::new(),
        };
        let line = format!("{}{numbers} {says}: {}", signal.kind, signal.evidence.join("; "));
        out.push_str(&format!("  {}\n", wrapped(&line, window.width.saturating_sub(2), 4)));
    }
    for reason in told.reasons.iter().filter(|reason| !is_signal(reason, told)) {
        out.push_str(&format!("  {}\n", wrapped(reason, window.width.saturating_sub(2), 4)));
    }
    out
}

/// The signals are told with their numbers already.
fn is_signal(reason: &str, told: &Explanation) -> bool {
    told.signals.iter().any(|signal| reason.starts_with(&signal.kind.to_string()))
}
