//! The plan's meaning, in plain code: what a kernel that follows it lets through. For tests and for `rules explain`.

use ipnet::IpNet;
use model::{Activity, Backing, ClassPlan, Created, Event, EventClass, ExecTest, FilterPlan, KernelTest};

use crate::schema::Category;

/// Whether the plan lets the event through.
#[must_use]
pub fn passes(plan: &FilterPlan, event: &Event) -> bool {
    let class = Category::of(event).class();
    match class.and_then(|class: EventClass| plan.classes.get(&class)) {
        None => false,
        Some(ClassPlan::All) => true,
        Some(ClassPlan::AnyOf(tests)) => tests.iter().any(|test| kernel_test(test, &event.activity)),
    }
}

/// Whether the plan holds the exec until user space has judged it.
#[must_use]
pub fn holds(plan: &FilterPlan, event: &Event) -> bool {
    let exe = &event.process.exe;
    matches!(event.activity, Activity::Exec { .. })
        && plan.hold.iter().any(|test| match test {
            ExecTest::ExeSuffix(text) => ends_with(exe, text),
            ExecTest::ExePrefix(text) => starts_with(exe, text),
            ExecTest::Unlinked => event.process.exe_file.backing != Backing::File,
        })
}

fn kernel_test(test: &KernelTest, activity: &Activity) -> bool {
    let path = match activity {
        Activity::FileOpen { file, .. }
        | Activity::FileDelete { file }
        | Activity::FileMode { file, .. }
        | Activity::FileOwner { file, .. } => Some(&file.path),
        Activity::FileRename { to, .. } => Some(&to.path),
        Activity::FileLink { link, .. } => Some(&link.path),
        _ => None,
    };
    let (end, remote) = match activity {
        Activity::Connect(flow) | Activity::Accept(flow) | Activity::SocketClose { flow, .. } => {
            (Some(flow.remote), Some(flow.remote))
        }
        Activity::Bind { local, .. } | Activity::Listen { local, .. } => (Some(*local), None),
        _ => (None, None),
    };
    match test {
        KernelTest::PathPrefix(text) => path.is_some_and(|path| starts_with(path, text)),
        KernelTest::PathSuffix(text) => path.is_some_and(|path| ends_with(path, text)),
        KernelTest::PathContains(text) => path.is_some_and(|path| {
            path.as_bytes().windows(text.len().max(1)).any(|part| part.eq_ignore_ascii_case(text.as_bytes()))
        }),
        KernelTest::BpfCommand(wanted) => {
            matches!(activity, Activity::Bpf { command, .. } if command == wanted)
        }
        KernelTest::AllOf(parts) => parts.iter().all(|part| kernel_test(part, activity)),
        KernelTest::PathIs(text) => path.is_some_and(|path| path.eq_ignore_ascii_case(text)),
        KernelTest::Write => matches!(activity, Activity::FileOpen { flags, created, .. }
            if *created == Created::Yes || flags & 0o3 != 0 || flags & 0o1000 != 0),
        KernelTest::Port(port) => end.is_some_and(|end| end.port == *port),
        KernelTest::Net(net) => remote.is_some_and(|remote| IpNet::contains(net, &remote.addr)),
    }
}

fn starts_with(path: &str, text: &str) -> bool {
    path.as_bytes().get(..text.len()).is_some_and(|start| start.eq_ignore_ascii_case(text.as_bytes()))
}

fn ends_with(path: &str, text: &str) -> bool {
    let start = path.len().checked_sub(text.len());
    start
        .and_then(|start| path.as_bytes().get(start..))
        .is_some_and(|end| end.eq_ignore_ascii_case(text.as_bytes()))
}
