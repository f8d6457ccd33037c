//! Random rules and events over one small vocabulary, so that they meet often.

use std::{net::IpAddr, sync::Arc};

use hemostat_detect::{ast::Rule, load::load, source::SourceFile};
use model::{
    Activity, AgentEpoch, Backing, BootNs, CgroupId, Created, Credentials, Endpoint, Event, EventId, ExeFile,
    Exposure, FilePath, Flow, LinkKind, Namespaces, NodeId, Pid, Process, ProcessKey, ProcessOrigin,
    Protocol, Runtime, Seq, Stdio, Timestamp, Truncated, Workload,
};
use proptest::prelude::*;

const PIECES: [&str; 22] = [
    "/usr/bin/",
    "/tmp/",
    "/etc/",
    "curl",
    "Bash",
    "bash",
    "sh",
    ".sh",
    " -c ",
    " -e",
    "a",
    "ab",
    "443",
    "-",
    "ä",
    "Ä",
    "K",
    "\u{212a}",
    "root",
    "x y",
    "passwd",
    "/",
];

/// A text of the vocabulary.
pub(crate) fn text() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(&PIECES[..]), 0..4).prop_map(|pieces| pieces.concat())
}

fn path() -> impl Strategy<Value = String> {
    text().prop_map(|text| format!("/{text}"))
}

fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        (0_u8..3, 0_u8..3).prop_map(|(a, b)| IpAddr::from([10, a, 0, b])),
        (0_u8..3).prop_map(|a| IpAddr::from([192, 168, 1, a])),
        (0_u16..3).prop_map(|a| IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, a])),
    ]
}

fn port() -> impl Strategy<Value = u16> {
    prop::sample::select(&[22_u16, 443, 4444, 0][..])
}

/// An item's line, `key: values` in YAML.
fn item() -> impl Strategy<Value = String> {
    let literal = prop::collection::vec(
        prop_oneof![9 => prop::sample::select(&PIECES[..]), 1 => Just("*"), 1 => Just("?")],
        1..4,
    )
    .prop_map(|pieces| pieces.concat().replace('\'', ""));
    let literals = prop::collection::vec(literal, 1..4);
    let text_field = prop::sample::select(
        &[
            "Image",
            "CommandLine",
            "ParentImage",
            "User",
            "CurrentDirectory",
            "Args",
            "AncestorImages",
            "Tty",
            "TargetFilename",
            "ExeBacking",
            "DestinationIp",
            "Protocol",
            "Nonsense",
            "GrandparentImage",
            "RequestedImage",
            "DestinationPort",
            "SourceFilename",
            "AuditName",
        ][..],
    );
    let text_modifiers = prop::sample::select(
        &[
            "",
            "|contains",
            "|startswith",
            "|endswith",
            "|contains|all",
            "|cased",
            "|contains|cased",
            "|endswith|cased",
            "|startswith|cased",
            "|neq",
            "|contains|windash",
            "|base64offset|contains",
        ][..],
    );
    let number_field =
        prop::sample::select(&["ProcessId", "DestinationPort", "SourcePort", "Uid", "CommandLine"][..]);
    prop_oneof![
        12 => (text_field.clone(), text_modifiers, literals).prop_map(|(field, modifiers, values)| {
            let values: Vec<_> = values.iter().map(|value| format!("'{value}'")).collect();
            format!("{field}{modifiers}: [{}]", values.join(", "))
        }),
        2 => (text_field.clone(), prop::sample::select(&["|re", "|re|i"][..]), prop::sample::select(
            &["cu.l", "^/tmp/.*sh$", "(ba)?sh -c", "[a-b]{2}", "x\\sy|pass\\w+", "\\d{3}", "Ba[sS]h"][..]))
            .prop_map(|(field, modifiers, value)| format!("{field}{modifiers}: '{value}'")),
        2 => (number_field, prop::sample::select(&["", "|gt", "|lte", "|neq"][..]), prop::sample::select(&["443", "22", "443.0", "0.5", "-1"][..]))
            .prop_map(|(field, modifiers, value)| format!("{field}{modifiers}: {value}")),
        1 => (prop::sample::select(&["DestinationIp", "SourceIp", "CommandLine"][..]), prop::sample::select(
            &["10.0.0.0/8", "10.1.0.0/16", "192.168.1.1/32", "2001:db8::/32", "0.0.0.0/0"][..]))
            .prop_map(|(field, net)| format!("{field}|cidr: '{net}'")),
        1 => prop::sample::select(&["DestinationIp: '10.0.0.1'", "DestinationIp: '10.*'", "DestinationIp|startswith: '192.168.'",
            "DestinationIp: '2001:DB8::1'", "DestinationIp|endswith: '.1'"][..]).prop_map(str::to_owned),
        2 => (text_field.clone(), prop::sample::select(&["|exists: true", "|exists: false", ": null", ": ''", ": '*'"][..]))
            .prop_map(|(field, rest)| format!("{field}{rest}")),
        1 => prop::sample::select(&["InContainer: true", "Initiated: 'true'", "Initiated: false", "Initiated|contains: 'AL'", "FileOperation: [read, Rename]", "FileOperation|startswith: ch", "FileOperation|cased: Delete", "FileOperation: null", "UtcTime|hour: 3", "UtcTime|minute|gte: 30"][..])
            .prop_map(str::to_owned),
        1 => (text_field, prop::sample::select(&["|fieldref", "|fieldref|contains", "|fieldref|startswith", "|fieldref|cased"][..]))
            .prop_map(|(field, modifiers)| format!("{field}{modifiers}: Image")),
    ]
}

fn search() -> impl Strategy<Value = String> {
    prop_oneof![
        5 => prop::collection::vec(item(), 1..4).prop_map(|items| {
            let mut keys = Vec::new();
            let lines: Vec<_> = items.into_iter().filter(|item| {
                let key = item.split(':').next().unwrap_or("").to_owned();
                let fresh = !keys.contains(&key);
                keys.push(key);
                fresh
            }).map(|item| format!("            {item}\n")).collect();
            lines.concat()
        }),
        1 => prop::collection::vec(item(), 1..4).prop_map(|items| {
            items.into_iter().map(|item| format!("            - {item}\n")).collect()
        }),
        1 => prop::collection::vec(prop::sample::select(&PIECES[..]), 1..3).prop_map(|words| {
            words.into_iter().map(|word| format!("            - '{word}'\n")).collect()
        }),
    ]
}

/// A rule's text, without an id.
pub(crate) fn rule_text() -> impl Strategy<Value = String> {
    let logsource = prop::sample::select(
        &[
            "category: process_creation",
            "category: file_event",
            "category: file_delete",
            "category: file_rename",
            "category: file_access",
            "category: network_connection",
            "category: network_listen",
            "category: network_close",
            "service: auditd",
            "category: file_link",
            "category: file_mode",
        ][..],
    );
    let condition = prop::sample::select(
        &[
            "s1",
            "s1 and s2",
            "s1 or s2",
            "s1 and not s2",
            "1 of them",
            "all of them",
            "2 of them",
            "not s1 and (s2 or s3)",
            "1 of s*",
            "s1 and 1 of s*",
            "not s1",
            "s1 or (s2 and not s3)",
        ][..],
    );
    let reaction = prop::sample::select(&["none", "none", "stop"][..]);
    (logsource, prop::collection::vec(search(), 3), condition, reaction).prop_map(|(logsource, searches, condition, reaction)| {
        let named: String = searches.iter().enumerate().map(|(number, search)| format!("        s{}:\n{search}", number + 1)).collect();
        format!(
            "title: Random\nlogsource:\n    product: linux\n    {logsource}\ndetection:\n{named}        condition: {condition}\nhemostat:\n    reaction: {reaction}\n"
        )
    })
}

/// A rule's text of few items, so that it often matches, about what the kernel can test.
pub(crate) fn narrow_rule_text(kind: Kind) -> impl Strategy<Value = String> {
    let logsource = match kind {
        Kind::Exec => "process_creation",
        Kind::Open => "file_event",
        Kind::Read => "file_access",
        Kind::Delete => "file_delete",
        Kind::Rename => "file_rename",
        Kind::Link => "file_link",
        Kind::Mode => "file_mode",
        Kind::Connect => "network_connection",
        Kind::Accept => "network_accept",
        Kind::Close => "network_close",
        Kind::Listen => "network_listen",
    };
    let piece = || prop::sample::select(&PIECES[..]);
    let item = prop_oneof![
        6 => (
            prop::sample::select(&["TargetFilename", "TargetFilename", "SourceFilename", "Image", "Image"][..]),
            prop::sample::select(&["", "|startswith", "|endswith", "|endswith", "|contains", "|startswith|cased", "|endswith|cased"][..]),
            prop::collection::vec(prop_oneof![
                piece().prop_map(str::to_owned),
                piece().prop_map(|piece| format!("/{piece}")),
                (piece(), piece()).prop_map(|(head, tail)| format!("/{head}*{tail}")),
            ], 1..4),
        ).prop_map(|(field, modifier, values)| {
            let values: Vec<_> = values.iter().map(|value| format!("'{value}'")).collect();
            format!("{field}{modifier}: [{}]", values.join(", "))
        }),
        2 => (prop::sample::select(&["DestinationPort", "SourcePort"][..]), prop::sample::select(&["22", "443", "4444", "0"][..]))
            .prop_map(|(field, port)| format!("{field}: {port}")),
        2 => (prop::sample::select(&["DestinationIp", "SourceIp"][..]), prop::sample::select(
            &["|cidr: '10.0.0.0/8'", "|cidr: '10.1.0.0/16'", "|cidr: '2001:db8::/32'", ": '192.168.1.1'", "|startswith: '10.'"][..]))
            .prop_map(|(field, rest)| format!("{field}{rest}")),
        1 => prop::sample::select(&["ExeBacking: memfd", "ExeBacking: deleted", "FileOperation: create"][..]).prop_map(str::to_owned),
    ];
    let condition =
        prop::sample::select(&["s1", "s1", "s1 or s2", "s1 and s2", "s1 and not s2", "1 of them"][..]);
    (prop::array::uniform2(item), condition).prop_map(move |([first, second], condition)| {
        let second = if condition == "s1" { String::new() } else { format!("    s2:\n        {second}\n") };
        format!(
            "title: Random\nlogsource:\n    product: linux\n    category: {logsource}\ndetection:\n    s1:\n        {first}\n{second}    condition: {condition}\nhemostat:\n    reaction: stop\n"
        )
    })
}

/// Those of the texts that load, as rules.
pub(crate) fn rules(texts: &[String]) -> Vec<Rule> {
    let files: Vec<_> = texts
        .iter()
        .enumerate()
        .map(|(number, text)| SourceFile { name: format!("{number}.yml"), text: text.clone() })
        .collect();
    load(&files).rules
}

fn process() -> impl Strategy<Value = Process> {
    let backing = prop::sample::select(&[Backing::File, Backing::File, Backing::Memfd, Backing::Deleted][..]);
    let workload = prop_oneof![
        Just(Workload::Unresolved { cgroup: CgroupId(1) }),
        Just(Workload::Host { cgroup_path: "/".into() }),
        Just(Workload::Container {
            runtime: Runtime::Docker,
            container_id: "ab".into(),
            pod_uid: None,
            cgroup_path: "/docker/ab".into()
        }),
    ];
    (
        path(),
        text(),
        prop::collection::vec(text(), 0..4),
        path(),
        prop::sample::select(&[0_u32, 443, 1000][..]),
        backing,
        workload,
    )
        .prop_map(|(exe, command_line, args, cwd, uid, backing, workload)| Process {
            key: ProcessKey { pid: Pid(uid), start: BootNs(1) },
            parent: None,
            exe,
            exe_file: ExeFile { backing, ..ExeFile::default() },
            command_line,
            args,
            args_truncated: Truncated::No,
            cwd,
            comm: "sh".into(),
            credentials: Credentials { uid, ..Credentials::default() },
            namespaces: Namespaces::default(),
            tty: None,
            stdio: Stdio::default(),
            cgroup: CgroupId(1),
            workload: Arc::new(workload),
            origin: ProcessOrigin::Exec,
            exit: None,
        })
}

/// A kind of activity.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    Exec,
    Open,
    Read,
    Delete,
    Rename,
    Link,
    Mode,
    Connect,
    Accept,
    Close,
    Listen,
}

/// The common ones more often.
pub(crate) fn kind() -> impl Strategy<Value = Kind> {
    prop::sample::select(
        &[
            Kind::Exec,
            Kind::Exec,
            Kind::Exec,
            Kind::Open,
            Kind::Open,
            Kind::Read,
            Kind::Delete,
            Kind::Rename,
            Kind::Link,
            Kind::Mode,
            Kind::Connect,
            Kind::Connect,
            Kind::Accept,
            Kind::Close,
            Kind::Listen,
        ][..],
    )
}

fn activity(kind: Kind) -> BoxedStrategy<Activity> {
    let file = || path().prop_map(|path| FilePath { path, truncated: Truncated::No });
    let end = || (address(), port()).prop_map(|(addr, port)| Endpoint { addr, port });
    let flow = || (end(), end()).prop_map(|(local, remote)| Flow { protocol: Protocol::Tcp, local, remote });
    match kind {
        Kind::Exec => path().prop_map(|requested| Activity::Exec { requested }).boxed(),
        Kind::Open => (file(), prop::sample::select(&[0_u32, 1, 0o101, 0o1000][..]), any::<bool>())
            .prop_map(|(file, flags, new)| Activity::FileOpen {
                file,
                flags,
                created: if new { Created::Yes } else { Created::No },
            })
            .boxed(),
        Kind::Read => {
            file().prop_map(|file| Activity::FileOpen { file, flags: 0, created: Created::No }).boxed()
        }
        Kind::Delete => file().prop_map(|file| Activity::FileDelete { file }).boxed(),
        Kind::Rename => (file(), file()).prop_map(|(from, to)| Activity::FileRename { from, to }).boxed(),
        Kind::Link => (file(), file())
            .prop_map(|(target, link)| Activity::FileLink { target, link, kind: LinkKind::Hard })
            .boxed(),
        Kind::Mode => {
            (file(), 0_u32..0o7777).prop_map(|(file, mode)| Activity::FileMode { file, mode }).boxed()
        }
        Kind::Connect => flow().prop_map(Activity::Connect).boxed(),
        Kind::Accept => flow().prop_map(Activity::Accept).boxed(),
        Kind::Close => (flow(), 0_u64..500)
            .prop_map(|(flow, bytes)| Activity::SocketClose { flow, sent_bytes: bytes, received_bytes: 443 })
            .boxed(),
        Kind::Listen => end().prop_map(|local| Activity::Listen { protocol: Protocol::Tcp, local }).boxed(),
    }
}

/// A random event.
pub(crate) fn event() -> impl Strategy<Value = Event> {
    kind().prop_flat_map(event_of)
}

/// A random event of a kind.
pub(crate) fn event_of(kind: Kind) -> impl Strategy<Value = Event> {
    (process(), prop::option::of(process()), activity(kind), 0_i64..86_400).prop_map(
        |(process, parent, activity, second)| {
            let parent = parent.map(Arc::new);
            Event {
                id: EventId { node: NodeId::new("node"), epoch: AgentEpoch(1), seq: Seq(1) },
                time: Timestamp(second * 1_000_000_000),
                process: Arc::new(process),
                ancestors: parent.iter().cloned().collect(),
                parent,
                exposure: Exposure::None,
                activity,
            }
        },
    )
}
