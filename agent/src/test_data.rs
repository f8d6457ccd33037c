//! Plain values for the tests of this crate.

use std::{collections::BTreeMap, sync::Arc};

use model::{
    Activity, AgentEpoch, BootNs, CgroupId, Credentials, Event, EventId, ExeFile, Exposure, Finding,
    FindingId, Level, LossWindow, Namespaces, NodeId, Pid, Process, ProcessKey, ProcessOrigin, Reaction,
    RuleRef, Seq, Stdio, Timestamp, Truncated, Workload,
};

pub(crate) fn process_key(pid: u32) -> ProcessKey {
    ProcessKey { pid: Pid(pid), start: BootNs(u64::from(pid) * 10_000_000_000 + 123) }
}

pub(crate) fn process(exe: &str) -> Process {
    Process {
        key: process_key(1),
        parent: None,
        exe: exe.into(),
        exe_file: ExeFile::default(),
        command_line: exe.into(),
        args: vec![exe.into()],
        args_truncated: Truncated::No,
        cwd: "/".into(),
        comm: "x".into(),
        credentials: Credentials::default(),
        namespaces: Namespaces::default(),
        tty: None,
        stdio: Stdio::default(),
        cgroup: CgroupId(1),
        workload: Arc::new(Workload::Host { cgroup_path: "/".into() }),
        origin: ProcessOrigin::Exec,
        exit: None,
    }
}

pub(crate) fn event(key: ProcessKey, seq: u64, activity: Activity) -> Event {
    Event {
        id: EventId { node: NodeId::new("n"), epoch: AgentEpoch(1), seq: Seq(seq) },
        time: Timestamp(0),
        process: Arc::new(Process { key, ..process("/bin/x") }),
        parent: None,
        ancestors: Arc::new([]),
        exposure: Exposure::None,
        activity,
    }
}

pub(crate) fn rule(id: &str, level: Level) -> RuleRef {
    RuleRef {
        id: id.into(),
        title: id.into(),
        level,
        techniques: vec![],
        tactics: vec![],
        reaction: Reaction::None,
    }
}

pub(crate) fn finding(rule_id: &str) -> Finding {
    let event = event(process_key(1), 1, Activity::IoUringSetup { entries: 1 });
    Finding {
        id: FindingId::derive(&event.id, rule_id),
        rule: rule(rule_id, Level::High),
        event,
        matched: BTreeMap::new(),
        count: 1,
        first: Timestamp(0),
        last: Timestamp(0),
        ancestors: vec![],
        context: vec![],
        reactions: vec![],
        moments: model::Moments::default(),
        loss: LossWindow::default(),
    }
}
