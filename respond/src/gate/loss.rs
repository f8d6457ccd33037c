//! Events lost around the finding that is answered may be the ones that would have told another story (I2). But a loss of
//! something else is none of its business: if any loss mattered, everybody who can make the node lose an event could switch
//! automatic response off.

use std::collections::BTreeMap;

use model::{Activity, EventClass, GateOutcome};

use super::{Situation, Verdict};

/// More than so many events lost in the window of the finding matter, whatever their class: the node did not keep up.
const MANY: u64 = 100;

/// What says who a process is and where it comes from; every finding depends on it.
const PROCESS: [EventClass; 3] = [EventClass::Exec, EventClass::Fork, EventClass::Credentials];

/// How much was lost, in the window of the answered finding, of what the findings of the incident depend on.
pub(super) fn relevant(situation: &Situation<'_>) -> u64 {
    let needed = needed(situation);
    let lost = situation.finding.loss.lost.iter().filter(|(class, _)| needed.contains(class));
    lost.fold(0, |sum, (_, count)| sum.saturating_add(*count))
}

/// Classes that the findings of the incident depend on.
fn needed(situation: &Situation<'_>) -> Vec<EventClass> {
    let findings = situation.incident.findings.iter().chain([situation.finding]);
    findings.filter_map(|finding| class_of(&finding.event.activity)).chain(PROCESS).collect()
}

/// Looks at the window of the answered finding. Other findings have windows of their own, which are over, or are this one.
pub(super) fn look(verdict: &mut Verdict, situation: &Situation<'_>) {
    let lost = &situation.finding.loss.lost;
    let total = lost.values().fold(0_u64, |sum, count| sum.saturating_add(*count));
    if total == 0 {
        return verdict.note(GateOutcome::Automatic, "no events lost in the window".into());
    }
    let needed = needed(situation);
    let (relevant, others): (BTreeMap<_, _>, BTreeMap<_, _>) =
        lost.iter().filter(|(_, count)| **count > 0).partition(|(class, _)| needed.contains(class));
    let list = |lost: &BTreeMap<&EventClass, &u64>| {
        lost.iter().map(|(class, count)| format!("{count} {class:?}")).collect::<Vec<_>>().join(", ")
    };
    if !relevant.is_empty() {
        let what = format!("events lost in the window that its findings depend on: {}", list(&relevant));
        verdict.note(GateOutcome::Approval, what);
    }
    if others.is_empty() {
        return;
    }
    let other = list(&others);
    if total > MANY {
        let what = format!("more than {MANY} events lost in the window: {total}, among them {other}");
        verdict.note(GateOutcome::Approval, what);
    } else {
        let what = format!("events lost in the window that no finding of the incident depends on: {other}");
        verdict.note(GateOutcome::Automatic, what);
    }
}

fn class_of(activity: &Activity) -> Option<EventClass> {
    Some(match activity {
        Activity::Exec { .. } => EventClass::Exec,
        Activity::Fork { .. } => EventClass::Fork,
        Activity::Exit(_) => EventClass::Exit,
        Activity::CredentialChange { .. } => EventClass::Credentials,
        Activity::NamespaceChange { .. } => EventClass::Namespaces,
        Activity::FileOpen { .. } => EventClass::FileOpen,
        Activity::FileDelete { .. } => EventClass::FileDelete,
        Activity::FileRename { .. } => EventClass::FileRename,
        Activity::FileLink { .. } => EventClass::FileLink,
        Activity::FileMode { .. } => EventClass::FileMode,
        Activity::FileOwner { .. } => EventClass::FileOwner,
        Activity::Connect(_) => EventClass::Connect,
        Activity::Accept(_) => EventClass::Accept,
        Activity::Bind { .. } => EventClass::Bind,
        Activity::Listen { .. } => EventClass::Listen,
        Activity::SocketClose { .. } => EventClass::SocketClose,
        Activity::DnsQuery { .. } => EventClass::Dns,
        Activity::ModuleLoad { .. } => EventClass::Module,
        Activity::Bpf { .. } => EventClass::Bpf,
        Activity::Ptrace { .. } => EventClass::Ptrace,
        Activity::MemfdCreate { .. } => EventClass::Memfd,
        Activity::Mount { .. } => EventClass::Mount,
        Activity::ProcessVmWrite { .. } => EventClass::ProcessVmWrite,
        Activity::IoUringSetup { .. } => EventClass::IoUring,
        // Not the kernel's: its source counts its own losses.
        Activity::Record(_) => return None,
    })
}
